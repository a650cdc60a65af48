"""The pure part of the worker as a whole: frames in, tick messages out."""

import json
import math
from collections.abc import Sequence
from datetime import date

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.contracts import codec
from libs.common.contracts.messages import Convention, Forward, PricingModel, Tick
from libs.common.domain.instruments import OptionType
from libs.common.domain.market_calendar import CALENDAR
from libs.common.kite.frames import frame_of
from services.greeks.domain import pricing
from services.greeks.domain.policy import Policy
from services.greeks.domain.shard import MAX_MESSAGE_BYTES, Frame, Shard, Tally
from tests.fakes.kite_frames import FakeMarket

BSM = Convention(model=PricingModel.BSM, rate=0.05)
NEAR, FAR = date(2026, 11, 24), date(2026, 12, 1)


def shard_of(*markets: FakeMarket, **policy) -> Shard:
    shard = Shard(
        epoch=7,
        calendar=CALENDAR,
        policy=Policy(**policy),
        engine=pricing.compute_quotes,
        now_ns=lambda: 1_795_500_000_000_000_000,
    )
    for market in markets:
        shard.use_instruments(market.instrument_set())
    return shard


def work(
    shard: Shard,
    *payloads: bytes,
    conflate: bool = False,
    source: str = "sim",
    tally: Tally | None = None,
    received_ns: int = 1,
) -> list[Tick]:
    frames = [Frame(payload, received_ns + i, source) for i, payload in enumerate(payloads)]
    lines = []
    for message in shard.work(frames, conflate=conflate, tally=tally or Tally()):
        found = message.payload.splitlines()
        assert len(found) == message.slots.size
        lines += found
    ticks = [codec.from_json(Tick, line) for line in lines]
    for line, tick in zip(lines, ticks, strict=True):
        assert line.startswith(b'{"instrument_token":')
        assert codec.to_json(tick) == line
    return ticks


def by_token(ticks: Sequence[Tick]) -> dict[int, Tick]:
    return {tick.instrument_token: tick for tick in ticks}


def option(market: FakeMarket, strike: float, kind: str, expiry: date = NEAR):
    return next(
        item
        for item in market.options
        if item.strike == strike and item.option_type == kind and item.expiry == expiry
    )


def test_every_packet_of_a_frame_becomes_one_tick_with_its_instrument_told():
    market = FakeMarket(strikes_each_side=3)
    ticks = by_token(work(shard_of(market), market.frame()))
    assert ticks.keys() == {item.instrument_token for item in market.instruments}
    for item in market.instruments:
        tick = ticks[item.instrument_token]
        told = (tick.tradingsymbol, tick.kind, tick.expiry, tick.strike, tick.option_type)
        assert told == (item.tradingsymbol, item.kind, item.expiry, item.strike, item.option_type)
        assert (tick.seq, tick.epoch, tick.source) == (1, 7, "sim")
        assert tick.exchange_ts == market.now_s * 1_000_000_000
    index = ticks[market.index.instrument_token]
    assert (index.volume, index.oi, index.depth, index.iv_status, index.bid) == (None,) * 5


def test_fields_are_exactly_those_of_the_message_in_its_order():
    market = FakeMarket(strikes_each_side=1)
    message = next(
        iter(
            shard_of(market).work([Frame(market.frame(), 1, "sim")], conflate=False, tally=Tally())
        )
    )
    for line in message.payload.splitlines():
        assert tuple(json.loads(line)) == Tick.__struct_fields__


def test_volatility_of_the_model_is_found_again():
    market = FakeMarket(strikes_each_side=10)
    ticks = by_token(work(shard_of(market), market.frame()))
    for day, source in ((NEAR, "future"), (FAR, "synthetic")):
        for kind in ("CE", "PE"):
            tick = ticks[option(market, 24_500.0, kind, day).instrument_token]
            assert tick.iv == pytest.approx(0.15, abs=2e-3)
            assert tick.iv is not None
            assert tick.bid_iv is not None
            assert tick.ask_iv is not None
            assert tick.bid_iv < tick.iv < tick.ask_iv
            assert (tick.iv_status, tick.forward_source) == ("ok", source)
            assert tick.forward == pytest.approx(market.forward(day), abs=0.1)
            assert tick.tte == pytest.approx(market.tte(day))


def test_quote_and_ltp_packets_are_priced_at_the_market_time_without_book():
    market = FakeMarket(strikes_each_side=3)
    shard = shard_of(market)
    work(shard, market.frame())
    call = option(market, 24_500.0, "CE")
    for packet in (market.quote([call]), market.ltp([call])):
        (tick,) = work(shard, frame_of(packet))
        assert tick.iv == pytest.approx(0.15, abs=2e-3)
        assert (tick.bid, tick.ask, tick.bid_iv, tick.depth) == (None,) * 4
        assert tick.exchange_ts is None
        assert tick.tte == pytest.approx(market.tte(NEAR))


def test_before_any_timestamp_a_simulated_market_has_no_time_and_prices_nothing():
    market = FakeMarket(strikes_each_side=3)
    shard = shard_of(market)
    for tick in work(shard, frame_of(market.quote(market.instruments[1:]))):
        assert tick.iv_status in {None, "no_forward"}
        assert (tick.tte, tick.forward, tick.iv, tick.delta) == (None, None, None, None)
    ticks = by_token(work(shard, market.frame()))
    assert ticks[option(market, 24_500.0, "CE", FAR).instrument_token].iv_status == "ok"


def test_before_any_timestamp_a_live_market_has_the_time_of_receipt():
    market = FakeMarket(strikes_each_side=3)
    received_ns = market.now_s * 1_000_000_000
    shard = shard_of(market)
    packets = frame_of(market.quote(market.instruments[1:]))
    work(shard, packets, source="live", received_ns=received_ns)
    ticks = by_token(work(shard, packets, source="live", received_ns=received_ns))
    tick = ticks[option(market, 24_500.0, "CE", NEAR).instrument_token]
    assert tick.iv_status == "ok"
    assert tick.tte == pytest.approx(market.tte(NEAR))
    assert tick.exchange_ts is None


def test_depth_leaves_empty_levels_out():
    market = FakeMarket(strikes_each_side=1)
    call = market.options[0]
    quantity = np.array([[75, 150, 0, 0, 0, 25, 0, 0, 0, 0]])
    (tick,) = work(shard_of(market), frame_of(market.full([call], depth_quantity=quantity)))
    assert tick.depth is not None
    assert [level.quantity for level in tick.depth.buy] == [75, 150]
    assert [level.quantity for level in tick.depth.sell] == [25]
    assert tick.depth.buy[0].price == tick.bid


@pytest.mark.parametrize("divisor", [1, 3])
def test_many_books_are_written_as_few_are(divisor):
    market = FakeMarket(strikes_each_side=20)
    count = len(market.options)
    quantity = np.arange(10 * count).reshape(count, 10) // divisor % 7
    frame = frame_of(market.full(market.options, depth_quantity=quantity))
    ticks = by_token(work(shard_of(market), frame))
    for item, levels in zip(market.options, quantity.tolist(), strict=True):
        alone = frame_of(market.full([item], depth_quantity=np.array([levels])))
        (tick,) = work(shard_of(market), alone)
        assert tick.depth == ticks[item.instrument_token].depth


def test_frames_worked_together_give_the_ticks_of_frames_worked_one_by_one():
    market = FakeMarket(strikes_each_side=20)
    rng = np.random.default_rng(2)
    frames = []
    for number in range(12):
        market.spot = round(market.spot * (1 + rng.normal(0, 1e-4)), 2)
        turn = [market.options[(number * 30 + i) % len(market.options)] for i in range(90)]
        opened = market.full(turn, open=100 + 5 * (number // 3))
        frames.append(frame_of(market.index_packet(), market.full(market.instruments[1:2]), opened))
    together = shard_of(market)
    alone = shard_of(market)
    # All at one moment of the market, so that batches make no difference in its time.
    expected = [tick for frame in frames for tick in work(alone, frame)]
    found = work(together, *frames)

    def told(ticks: Sequence[Tick]) -> dict[int, list[Tick]]:
        grouped: dict[int, list[Tick]] = {}
        for tick in ticks:
            grouped.setdefault(tick.instrument_token, []).append(
                msgspec.structs.replace(tick, ingest_ts=0)
            )
        return grouped

    assert told(found) == told(expected)
    assert max(tick.seq for tick in found) == 12
    forwards = {tick.forward for tick in found if tick.expiry == NEAR}
    assert len(forwards) > 6
    np.testing.assert_array_equal(together.book.iv, alone.book.iv)


def test_an_option_without_price_has_nulls_and_says_so():
    market = FakeMarket(strikes_each_side=3)
    shard = shard_of(market)
    work(shard, market.frame())
    put = option(market, 24_350.0, "PE")
    nothing = np.zeros((1, 10), np.int64)
    packet = market.full(
        [put],
        last=np.array([0]),
        open=0,
        high=0,
        low=0,
        depth_price=nothing,
        depth_quantity=nothing,
    )
    (tick,) = work(shard, frame_of(packet))
    assert tick.iv_status == "no_price"
    values = (tick.last_price, tick.bid, tick.ask, tick.bid_qty, tick.ohlc, tick.change, tick.iv)
    assert values == (None,) * 7
    assert (tick.delta, tick.smile_iv, tick.bid_iv) == (None,) * 3


def test_an_in_the_money_leg_below_intrinsic_takes_the_greeks_of_the_smile():
    market = FakeMarket(strikes_each_side=10)
    shard = shard_of(market)
    work(shard, market.frame())
    call = option(market, 24_200.0, "CE")
    below = np.array([int((market.forward(NEAR) - 24_200.0) * 100) - 200])
    (tick,) = work(shard, frame_of(market.full([call], last=below)))
    assert (tick.iv, tick.iv_status) == (None, "below_intrinsic")
    assert tick.smile_iv == pytest.approx(0.15, abs=3e-3)
    assert tick.delta is not None
    assert 0.5 < tick.delta < 1.0
    assert tick.vega is not None
    assert tick.vega > 0.0


def test_an_option_of_an_expiry_without_any_price_has_no_forward():
    market = FakeMarket(strikes_each_side=3)
    call = option(market, 24_500.0, "CE", FAR)
    (tick,) = work(shard_of(market), frame_of(market.full([call])))
    assert (tick.iv_status, tick.forward, tick.forward_source, tick.iv) == (
        "no_forward",
        None,
        None,
        None,
    )


def test_spot_is_the_last_resort():
    market = FakeMarket(strikes_each_side=1, futures=())
    call = option(market, 24_500.0, "CE")
    ticks = work(shard_of(market), frame_of(market.index_packet(), market.full([call])))
    assert ticks[1].forward_source == "spot"
    assert ticks[1].forward == 24_500.0


def test_a_forward_that_nothing_fresh_supports_is_called_stale_and_kept():
    market = FakeMarket(strikes_each_side=3)
    shard = shard_of(market)
    work(shard, market.frame())
    market.now_s += 300
    (tick,) = work(shard, frame_of(market.full([option(market, 24_500.0, "CE")])))
    assert tick.iv_status == "stale_forward"
    assert tick.iv is not None
    assert tick.forward_source == "future"


def test_a_crossed_book_is_marked():
    market = FakeMarket(strikes_each_side=3)
    shard = shard_of(market)
    work(shard, market.frame())
    call = option(market, 24_500.0, "CE")
    paise = int(market.paise([call])[0])
    crossed = np.full((1, 10), paise + 10)
    crossed[0, 5:] = paise - 10
    (tick,) = work(shard, frame_of(market.full([call], depth_price=crossed)))
    assert tick.iv_status == "crossed"
    assert tick.iv == pytest.approx(0.15, abs=2e-3)


def test_contracts_past_their_expiry_have_no_greeks():
    market = FakeMarket(strikes_each_side=3)
    shard = shard_of(market)
    work(shard, market.frame())
    market.now_s += 2 * 86_400
    ticks = work(shard, market.frame())
    near = [t for t in ticks if t.kind == "option" and t.expiry == NEAR]
    assert {t.iv_status for t in near} == {"expired"}
    assert all(t.iv is None and t.delta is None for t in near)


def test_an_old_snapshot_is_priced_at_the_market_time():
    market = FakeMarket(strikes_each_side=3)
    shard = shard_of(market)
    work(shard, market.frame())
    call = option(market, 24_500.0, "CE")
    (tick,) = work(shard, frame_of(market.full([call], exchange_ts_s=market.now_s - 7200)))
    assert tick.exchange_ts == (market.now_s - 7200) * 1_000_000_000
    assert tick.tte == pytest.approx(market.tte(NEAR))


def test_sequence_counts_up_by_one_per_instrument_over_batches_and_rounds():
    market = FakeMarket(strikes_each_side=2)
    shard = shard_of(market)
    call, put = market.options[:2]
    frames = [frame_of(market.full([call, put])), frame_of(market.full([call]))] * 3
    tally = Tally()
    ticks = [*work(shard, *frames, tally=tally), *work(shard, frames[0], tally=tally)]
    assert [t.seq for t in ticks if t.instrument_token == call.instrument_token] == [*range(1, 8)]
    assert [t.seq for t in ticks if t.instrument_token == put.instrument_token] == [*range(1, 5)]
    assert (tally.ticks, tally.conflated) == (11, 0)


def test_when_behind_only_the_newest_packet_per_instrument_is_priced_and_the_rest_counted():
    market = FakeMarket(strikes_each_side=2)
    shard = shard_of(market)
    frames = [frame_of(market.full(market.options, volume=number)) for number in range(5)]
    tally = Tally()
    ticks = work(shard, *frames, conflate=True, tally=tally)
    assert {t.volume for t in ticks} == {4}
    assert len(ticks) == len(market.options) == tally.ticks
    assert tally.conflated == 4 * len(market.options)


def test_unknown_instruments_and_bad_frames_are_counted_and_cost_nobody_a_tick():
    market = FakeMarket(strikes_each_side=1)
    stranger = FakeMarket(underlying="OTHER", first_token=90_000, strikes_each_side=1)
    tally = Tally()
    ticks = work(
        shard_of(market),
        stranger.frame(),
        b"\x00",
        market.frame()[:-1],
        market.frame(),
        tally=tally,
    )
    assert len(ticks) == len(market.instruments)
    assert tally.unknown == len(stranger.instruments)
    assert tally.bad_frames == {"too_short": 1, "truncated": 1}


def test_messages_hold_one_underlying_each_and_keep_the_size_limit():
    first = FakeMarket(strikes_each_side=100)
    second = FakeMarket(underlying="BANKNIFTY", spot=52_000.0, step=100.0, first_token=60_000)
    shard = shard_of(first, second)
    mixed = frame_of(first.full(first.options), second.full(second.options), first.index_packet())
    messages = list(shard.work([Frame(mixed, 1, "sim")], conflate=False, tally=Tally()))
    assert all(len(m.payload) <= MAX_MESSAGE_BYTES for m in messages)
    assert len(messages) > 2
    for message in messages:
        names = {json.loads(line)["underlying"] for line in message.payload.splitlines()}
        assert message.subject == f"md.tick.v1.{names.pop()}"
        assert not names


def test_a_new_set_keeps_prices_and_sequence_of_what_stays():
    market = FakeMarket(strikes_each_side=3)
    shard = shard_of(market)
    work(shard, market.frame())
    wider = FakeMarket(strikes_each_side=3, expiries=(NEAR, FAR, date(2026, 12, 8)))
    shard.use_instruments(wider.instrument_set(revision=2))
    call = option(market, 24_500.0, "CE")
    (tick,) = work(shard, frame_of(market.full([call])))
    assert tick.seq == 2
    assert tick.forward_source == "future"
    added = option(wider, 24_500.0, "CE", date(2026, 12, 8))
    (tick,) = work(shard, frame_of(wider.full([added])))
    assert tick.seq == 1


def test_instruments_that_left_are_unknown_and_count_on_when_they_return():
    market = FakeMarket(strikes_each_side=2)
    shard = shard_of(market)
    work(shard, market.frame())
    fewer = FakeMarket(strikes_each_side=2)
    fewer.instruments = market.instruments[:5]
    shard.use_instruments(fewer.instrument_set(revision=2))
    tally = Tally()
    assert len(work(shard, market.frame(), tally=tally)) == 5
    assert tally.unknown == len(market.instruments) - 5
    shard.use_instruments(market.instrument_set(revision=3))
    ticks = work(shard, market.frame())
    assert {t.seq for t in ticks} == {2, 3}


def test_a_reused_token_forgets_the_price_of_the_contract_before_it():
    market = FakeMarket(strikes_each_side=2)
    shard = shard_of(market)
    work(shard, market.frame())
    slot = shard.table.slot_of(market.options[0].instrument_token)
    assert math.isfinite(shard.book.last_price[slot])
    changed = FakeMarket(strikes_each_side=2)
    changed.instruments = list(market.instruments)
    position = changed.instruments.index(market.options[0])
    old = market.options[0]
    changed.instruments[position] = type(old)(
        **{
            **{name: getattr(old, name) for name in old.__struct_fields__},
            "tradingsymbol": "ANOTHER",
            "strike": 99_000.0,
        }
    )
    shard.use_instruments(changed.instrument_set(revision=2))
    assert math.isnan(shard.book.last_price[slot])


def test_a_reused_token_carries_nothing_of_the_old_contract_but_its_sequence():
    market = FakeMarket(strikes_each_side=2, expiries=(NEAR,))
    shard = shard_of(market)
    item = option(market, 24_500.0, "CE")
    slot = shard.table.slot_of(item.instrument_token)
    [before] = work(shard, market.frame([item]))
    assert before.ohlc is not None
    changed = FakeMarket(strikes_each_side=2, expiries=(NEAR,))
    at = changed.instruments.index(item)
    changed.instruments[at] = changed._instrument(
        item.instrument_token, "NIFTY26D0126000PE", item.kind, FAR, 26_000.0, OptionType.PUT
    )
    shard.use_instruments(changed.instrument_set(revision=2))
    assert shard.table.slot_of(item.instrument_token) == slot
    assert list(shard.last_values.take_all()) == [], "the old contract's tick"
    assert math.isnan(shard.book.last_price[slot])
    assert math.isnan(shard.book.iv[slot])
    assert (shard.book.oi[slot], shard.book.seen_s[slot]) == (-1, -math.inf)
    [after] = work(shard, frame_of(market.ltp([item])))
    assert (after.tradingsymbol, after.expiry, after.strike) == ("NIFTY26D0126000PE", FAR, 26_000.0)
    assert (after.ohlc, after.oi, after.bid, after.volume) == (None, None, None, None)
    assert after.seq == before.seq + 1
    near, far = (e for e in shard.table.expiries if e.day in {NEAR, FAR})
    assert slot not in near.calls
    assert far.puts.tolist() == [slot]


@pytest.mark.parametrize("new_owner_first", [True, False])
def test_a_token_that_moves_to_another_underlying_is_known_in_either_order(new_owner_first):
    here = FakeMarket(strikes_each_side=2, expiries=(NEAR,))
    there = FakeMarket("BANKNIFTY", 58_000.0, 100.0, 2, expiries=(NEAR,), first_token=50_000)
    shard = shard_of(here, there)
    moved = option(here, 24_500.0, "CE")
    slot = shard.table.slot_of(moved.instrument_token)
    work(shard, here.frame([moved]))
    here.instruments.remove(moved)
    there.instruments.append(
        there._instrument(
            moved.instrument_token, "BANKNIFTY58000X", moved.kind, NEAR, 58_050.0, OptionType.CALL
        )
    )
    order = [there, here] if new_owner_first else [here, there]
    for market in order:
        shard.use_instruments(market.instrument_set(revision=2))
    assert shard.table.slot_of(moved.instrument_token) == slot
    assert len(shard.table) == len(here.instruments) + len(there.instruments)
    assert list(shard.last_values.take_all()) == []
    ladders = {e.underlying: e for e in shard.table.expiries}
    assert slot not in ladders["NIFTY"].calls
    assert slot in ladders["BANKNIFTY"].calls
    [tick] = work(shard, frame_of(there.ltp([moved])))
    assert (tick.underlying, tick.tradingsymbol) == ("BANKNIFTY", "BANKNIFTY58000X")
    # The underlying that lost it may vanish altogether, and takes nothing along.
    shard.table.forget("NIFTY")
    assert shard.table.slot_of(moved.instrument_token) == slot


def test_a_change_between_live_and_simulated_data_forgets_all_prices():
    market = FakeMarket(strikes_each_side=2)
    shard = shard_of(market)
    work(shard, market.frame(), source="sim")
    tally = Tally()
    call = option(market, 24_500.0, "CE")
    (tick,) = work(shard, frame_of(market.full([call])), source="live", tally=tally)
    assert (tick.source, tick.iv_status) == ("live", "no_forward")
    assert tally.resets == 1


def test_a_market_that_starts_over_earlier_is_followed_after_a_while():
    market = FakeMarket(strikes_each_side=2)
    shard = shard_of(market)
    work(shard, market.frame(), received_ns=1)
    market.now_s -= 4 * 3600
    tally = Tally()
    for second in range(6):
        work(shard, market.frame(), received_ns=second * 1_000_000_000 + 10, tally=tally)
    assert tally.resets == 1
    (tick,) = work(shard, frame_of(market.quote([option(market, 24_500.0, "CE")])))
    assert tick.tte == pytest.approx(market.tte(NEAR))


def test_forwards_are_told_once_until_they_are_touched_again():
    market = FakeMarket(strikes_each_side=5)
    shard = shard_of(market)
    work(shard, market.frame())
    touched = np.flatnonzero(shard.forwards.touched)
    messages = [
        (subject, codec.from_json(Forward, payload))
        for subject, payload in shard.take_forwards(touched)
    ]
    assert [subject for subject, _ in messages] == [
        "md.forward.v1.NIFTY.2026-11-24",
        "md.forward.v1.NIFTY.2026-12-01",
    ]
    near, far = (message for _, message in messages)
    assert (near.source, near.dispersion) == ("future", None)
    assert near.basis == pytest.approx(near.forward - 24_500.0)
    assert far.source == "synthetic"
    assert far.dispersion is not None
    assert near.atm_strike == 24_500.0
    assert near.atm_iv == pytest.approx(0.15, abs=2e-3)
    assert not shard.forwards.touched.any()


def test_bsm_prices_on_the_spot():
    market = FakeMarket(strikes_each_side=3)
    ticks = by_token(work(shard_of(market, convention=BSM), market.frame()))
    tick = ticks[option(market, 24_500.0, "CE", FAR).instrument_token]
    assert tick.iv_status == "ok"
    assert tick.rho is not None
    assert tick.rho > 0.0  # Black-76 has a negative one.


paise = st.one_of(st.just(0), st.integers(1, 400_000), st.integers(0, 0xFFFF_FFFF))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_values_on_the_wire_give_lines_that_decode_without_nan(data):
    market = FakeMarket(strikes_each_side=2)
    shard = shard_of(market)
    for _ in range(2):
        count = len(market.options) + 1
        prices = st.lists(paise, min_size=count, max_size=count)
        levels = np.array(
            data.draw(st.lists(paise, min_size=10 * count, max_size=10 * count)), np.int64
        ).reshape(count, 10)
        packet = market.full(
            market.instruments[1:],
            last=np.array(data.draw(prices), np.int64),
            close=np.array(data.draw(prices), np.int64),
            exchange_ts_s=np.array(
                data.draw(
                    st.lists(
                        st.one_of(
                            st.just(0),
                            st.integers(market.now_s - 10**5, market.now_s + 2 * 10**5),
                            st.integers(0, 0xFFFF_FFFF),
                        ),
                        min_size=count,
                        max_size=count,
                    )
                ),
                np.int64,
            ),
            depth_price=levels,
            depth_quantity=levels % 7,
        )
        ticks = work(shard, frame_of(market.index_packet(), packet))
        assert len(ticks) == len(market.instruments)
        for tick in ticks:
            if tick.kind == "option":
                assert (tick.iv is not None) == (
                    tick.iv_status in {"ok", "low_vega", "stale_forward", "crossed"}
                )
                assert tick.forward is not None or tick.iv_status == "no_forward"
