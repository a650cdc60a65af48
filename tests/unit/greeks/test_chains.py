"""Chains and curves of whole expiries, held against a loop over single options."""

import json
import math
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vollib.black.greeks.analytical import delta as black_delta
from vollib.black.implied_volatility import implied_volatility

from libs.common.contracts import codec, subjects
from libs.common.contracts.messages import (
    Chain,
    Convention,
    Forward,
    GreeksFrom,
    InstrumentSet,
    IvStatus,
    PricingModel,
    VolCurve,
    YearClock,
)
from libs.common.domain.instruments import OptionType
from libs.common.domain.market_calendar import CALENDAR
from libs.common.kite.frames import frame_of
from services.greeks.domain import pricing
from services.greeks.domain.chains import CHAIN_PHASES, TURN_ROWS
from services.greeks.domain.policy import Policy
from services.greeks.domain.shard import Frame, Shard, Tally
from tests.fakes.kite_frames import FakeMarket

NEAR, FAR = date(2026, 11, 24), date(2026, 12, 1)
NOW_NS = 1_795_500_000_000_000_000
COLUMNS = ("iv", "bid_iv", "ask_iv", "delta", "gamma", "theta", "vega", "rho")


class Clock:
    """A wall clock that a test moves."""

    now_ns = NOW_NS

    def __call__(self) -> int:
        """Epoch nanoseconds."""
        return self.now_ns


def shard_of(*markets: FakeMarket, clock: Clock | None = None, **policy) -> Shard:
    shard = Shard(
        epoch=7,
        calendar=CALENDAR,
        policy=Policy(**policy),
        engine=pricing.compute_quotes,
        now_ns=clock or Clock(),
    )
    for market in markets:
        shard.use_instruments(market.instrument_set())
    return shard


def feed(shard: Shard, *payloads: bytes, source: str = "sim", received_ns: int = 1) -> None:
    frames = [Frame(payload, received_ns, source) for payload in payloads]
    for _ in shard.work(frames, conflate=False, tally=Tally()):
        pass


def ids_of(shard: Shard) -> np.ndarray:
    return np.arange(len(shard.table.expiries))


def take(shard: Shard, ids=None) -> tuple[dict[str, Chain], dict[str, VolCurve]]:
    """Chains and curves by `<underlying> <expiry>`; each is what the contract says, to the byte."""
    chains: dict[str, Chain] = {}
    curves: dict[str, VolCurve] = {}
    for message in shard.take_chains(ids_of(shard) if ids is None else ids):
        assert b"NaN" not in message.payload
        assert b"Infinity" not in message.payload
        if message.kind == "chain":
            chain = codec.from_json(Chain, message.payload)
            assert codec.to_json(chain) == message.payload
            assert message.subject == subjects.chain(chain.underlying, chain.expiry)
            chains[f"{chain.underlying} {chain.expiry}"] = chain
        else:
            curve = codec.from_json(VolCurve, message.payload)
            assert codec.to_json(curve) == message.payload
            assert message.subject == subjects.vol_curve(curve.underlying, curve.expiry)
            curves[f"{curve.underlying} {curve.expiry}"] = curve
    assert chains.keys() == curves.keys()
    return chains, curves


def test_a_chain_shows_so_many_strikes_on_each_side_of_the_money():
    market = FakeMarket(strikes_each_side=10)
    shard = shard_of(market, chain_strikes=4)
    feed(shard, market.frame())
    chains, curves = take(shard)
    near = chains[f"NIFTY {NEAR}"]
    assert near.atm_strike == 24_500.0
    assert near.offsets == tuple(range(-4, 5))
    assert near.strikes == tuple(24_500.0 + 50.0 * offset for offset in near.offsets)
    assert near.calls.instrument_token == tuple(
        item.instrument_token
        for item in market.options
        if item.expiry == NEAR and item.option_type == "CE" and item.strike in near.strikes
    )
    # The curve holds all of them.
    assert len(curves[f"NIFTY {NEAR}"].strikes) == 21
    assert (near.spot, near.forward_source, near.epoch) == (24_500.0, "future", 7)
    assert (near.exchange_ts, near.greeks_ts) == (market.now_s * 1_000_000_000, NOW_NS)
    assert near.convention == Convention()
    assert chains[f"NIFTY {FAR}"].forward_source == "synthetic"


def test_values_equal_an_independent_recomputation_with_vollib():
    market = FakeMarket(strikes_each_side=3)
    shard = shard_of(market)
    feed(shard, market.frame())
    chain = take(shard)[0][f"NIFTY {FAR}"]
    for letter, side in (("c", chain.calls), ("p", chain.puts)):
        for row, strike in enumerate(chain.strikes):
            prices = side.last_price[row], side.bid[row], side.ask[row]
            vols = [
                implied_volatility(price, chain.forward, strike, 0.0, chain.tte, letter)
                for price in prices
            ]
            assert (side.iv[row], side.bid_iv[row], side.ask_iv[row]) == pytest.approx(vols)
            expected = black_delta(letter, chain.forward, strike, chain.tte, 0.0, vols[0])
            assert side.delta[row] == pytest.approx(expected)
            assert (side.iv_status[row], side.greeks_from[row]) == (IvStatus.OK, GreeksFrom.IV)
            if strike != chain.atm_strike and (letter == "c") == (strike > chain.forward):
                assert chain.smile_iv[row] == side.iv[row]


def test_all_strikes_are_priced_with_the_forward_of_now_and_not_of_their_tick():
    market = FakeMarket(strikes_each_side=3)
    shard = shard_of(market)
    feed(shard, market.frame())
    before = take(shard)[0][f"NIFTY {NEAR}"]
    future = market.instruments[1]
    moved = frame_of(market.full([future], last=market.paise([future]) + 1500))
    feed(shard, moved)
    chain = take(shard)[0][f"NIFTY {NEAR}"]
    assert chain.forward == pytest.approx(before.forward + 15.0)
    for row, strike in enumerate(chain.strikes):
        vol = implied_volatility(
            chain.puts.last_price[row], chain.forward, strike, 0.0, chain.tte, "p"
        )
        assert chain.puts.iv[row] == pytest.approx(vol)
        assert chain.puts.iv[row] != pytest.approx(before.puts.iv[row])


@pytest.mark.parametrize(
    "convention",
    [
        Convention(model=PricingModel.BSM, rate=0.065, dividend_yield=0.012),
        Convention(rate=0.065, clock=YearClock.TRADING252),
    ],
)
def test_a_chain_follows_the_convention_of_its_underlying_as_ticks_do(convention):
    market = FakeMarket(strikes_each_side=4)
    shard = shard_of(market, convention=convention)
    frame = [Frame(market.frame(), 1, "sim")]
    lines = [m.payload for m in shard.work(frame, conflate=False, tally=Tally())]
    ticks = {
        tick["instrument_token"]: tick
        for payload in lines
        for tick in map(json.loads, payload.splitlines())
    }
    chains, _ = take(shard)
    assert {chain.convention for chain in chains.values()} == {convention}
    for chain in chains.values():
        for side in (chain.calls, chain.puts):
            for row, token in enumerate(side.instrument_token):
                assert token is not None
                tick = ticks[token]
                if tick["forward"] != chain.forward:
                    continue  # It was priced before the frame's own quotes moved the forward.
                for name in COLUMNS:
                    assert getattr(side, name)[row] == pytest.approx(tick[name], rel=1e-9), name
                assert side.iv_status[row] == tick["iv_status"]
                assert side.greeks_from[row] == tick["greeks_from"]


def test_forward_chain_and_curve_agree_on_the_money():
    market = FakeMarket(strikes_each_side=10)
    shard = shard_of(market)
    feed(shard, market.frame())
    chains, curves = take(shard)
    forwards = [
        codec.from_json(Forward, payload) for _, payload in shard.take_forwards(ids_of(shard))
    ]
    assert len(forwards) == 2
    for forward in forwards:
        key = f"NIFTY {forward.expiry}"
        chain, curve = chains[key], curves[key]
        assert forward.forward == chain.forward == curve.forward
        assert forward.atm_strike == chain.atm_strike == curve.atm_strike
        assert forward.straddle == curve.straddle
        assert forward.tte == chain.tte == curve.tte
        assert forward.atm_iv == pytest.approx(curve.atm_iv, abs=2e-4)
        assert forward.skew_25d == curve.risk_reversal_25d
        at = chain.strikes.index(chain.atm_strike)
        book = [chain.calls.bid[at], chain.calls.ask[at], chain.puts.bid[at], chain.puts.ask[at]]
        assert curve.straddle == pytest.approx(sum(price or 0.0 for price in book) / 2)


def test_a_forward_shows_a_skew_only_while_its_curve_is_new():
    market, clock = FakeMarket(strikes_each_side=10), Clock()
    shard = shard_of(market, clock=clock)

    def skews() -> list[float | None]:
        found = shard.take_forwards(ids_of(shard))
        return [codec.from_json(Forward, payload).skew_25d for _, payload in found]

    feed(shard, market.frame())
    assert skews() == [None, None]
    take(shard)
    clock.now_ns += 4_000_000_000
    assert None not in skews()
    clock.now_ns += 2_000_000_000
    assert skews() == [None, None]


def test_only_streamed_strikes_count():
    market = FakeMarket(strikes_each_side=10)
    shard = shard_of(market)
    odd = [
        item
        for item in market.options
        if item.expiry == NEAR and item.strike is not None and item.strike % 100 == 50
    ]
    # Of one of them the put alone ticks; its call is listed and has no price.
    silent = next(i for i in odd if i.strike == 24_550.0 and i.option_type is OptionType.CALL)
    feed(shard, market.frame([*market.instruments[:2], *(i for i in odd if i is not silent)]))
    chains, curves = take(shard)
    assert chains.keys() == {f"NIFTY {NEAR}"}
    chain = chains[f"NIFTY {NEAR}"]
    assert chain.strikes == tuple(sorted({item.strike or 0.0 for item in odd}))
    # 24 450 and 24 550 are next to the forward, which lies above the middle.
    assert (chain.atm_strike, chain.forward > 24_500.0) == (24_550.0, True)
    assert chain.offsets == tuple(range(-5, 5))
    at = chain.strikes.index(24_550.0)
    assert chain.calls.instrument_token[at] == silent.instrument_token
    assert chain.calls.iv_status[at] is IvStatus.NO_PRICE
    assert (chain.calls.last_price[at], chain.calls.oi[at], chain.calls.delta[at]) == (None,) * 3
    assert chain.smile_iv[at] is None
    assert 24_550.0 not in curves[f"NIFTY {NEAR}"].strikes


def test_a_contract_that_is_not_listed_has_null_in_every_column():
    market = FakeMarket(strikes_each_side=3, expiries=(NEAR,))
    market.instruments = [i for i in market.instruments if i.option_type is not OptionType.PUT]
    shard = shard_of(market)
    feed(shard, market.frame())
    chains, curves = take(shard)
    chain, curve = chains[f"NIFTY {NEAR}"], curves[f"NIFTY {NEAR}"]
    for name in type(chain.puts).__struct_fields__:
        assert set(getattr(chain.puts, name)) == {None}, name
    assert (curve.straddle, curve.put_oi, curve.put_call_oi_ratio) == (None, None, None)
    assert curve.call_oi is not None
    # Holders of calls alone are paid least at the lowest strike.
    assert curve.max_pain == chain.strikes[0]
    # The smile is made of options out of the money; here only calls above the forward are.
    assert curve.strikes == tuple(strike for strike in chain.strikes if strike > chain.forward)
    assert (curve.put_iv_25d, curve.risk_reversal_25d, curve.butterfly_25d) == (None,) * 3


def test_a_chain_of_two_strikes_is_a_chain():
    market = FakeMarket(strikes_each_side=1, expiries=(NEAR,))
    market.instruments = [i for i in market.instruments if i.strike != 24_450.0]
    shard = shard_of(market)
    feed(shard, market.frame())
    chains, curves = take(shard)
    assert chains[f"NIFTY {NEAR}"].offsets == (0, 1)
    assert curves[f"NIFTY {NEAR}"].atm_iv == pytest.approx(0.15, abs=1e-3)


def test_an_old_volatility_is_not_in_the_curve():
    market = FakeMarket(strikes_each_side=5, expiries=(NEAR,))
    shard = shard_of(market)
    feed(shard, market.frame())
    market.now_s += 61
    kept = [i for i in market.options if i.strike in {24_450.0, 24_500.0, 24_550.0}]
    feed(shard, market.frame([*market.instruments[:2], *kept]))
    chains, curves = take(shard)
    assert curves[f"NIFTY {NEAR}"].strikes == (24_450.0, 24_500.0, 24_550.0)
    assert len(chains[f"NIFTY {NEAR}"].strikes) == 11
    assert chains[f"NIFTY {NEAR}"].smile_iv[0] is None


def test_packets_without_open_interest_leave_it_null():
    market = FakeMarket(strikes_each_side=2, expiries=(NEAR,))
    shard = shard_of(market)
    feed(shard, market.frame(), frame_of(market.ltp(market.options)))
    curve = take(shard)[1][f"NIFTY {NEAR}"]
    assert (curve.call_oi, curve.put_oi, curve.put_call_oi_ratio, curve.max_pain) == (None,) * 4
    # Without books the straddle is made of last prices.
    assert curve.straddle is not None
    feed(shard, frame_of(market.full(market.options, oi=0)))
    curve = take(shard)[1][f"NIFTY {NEAR}"]
    assert (curve.call_oi, curve.put_oi, curve.put_call_oi_ratio, curve.max_pain) == (
        0,
        0,
        None,
        None,
    )


def test_an_expiry_is_due_once_per_news_in_its_turn():
    market = FakeMarket(strikes_each_side=2)
    shard = shard_of(market)
    assert all(not shard.chain_turns(phase) for phase in range(CHAIN_PHASES))
    feed(shard, market.frame())
    found = [
        expiry
        for phase in range(CHAIN_PHASES)
        for turn in shard.chain_turns(phase)
        for expiry in turn.tolist()
    ]
    assert sorted(found) == [0, 1]
    assert [shard.chain_turns(CHAIN_PHASES + expiry)[0].tolist() for expiry in (0, 1)] == [[0], [1]]
    take(shard)
    assert all(not shard.chain_turns(phase) for phase in range(CHAIN_PHASES))
    # A tick of one expiry is no news of another; one of the spot is news of both.
    feed(shard, market.frame([i for i in market.options if i.expiry == FAR][:1]))
    assert [len(shard.chain_turns(phase)) for phase in (0, 1)] == [0, 1]
    feed(shard, market.frame([market.index]))
    assert [len(shard.chain_turns(phase)) for phase in (0, 1)] == [1, 1]


def test_an_expiry_whose_options_nobody_streams_is_never_due():
    market = FakeMarket(strikes_each_side=2)
    shard = shard_of(market)
    feed(shard, market.frame([i for i in market.instruments if i.expiry != FAR]))
    assert shard.chains.touched.tolist() == [True, True]
    assert [len(shard.chain_turns(phase)) for phase in (0, 1)] == [1, 0]
    assert shard.chains.touched.tolist() == [True, False]
    feed(shard, market.frame([i for i in market.options if i.expiry == FAR][:1]))
    assert [len(shard.chain_turns(phase)) for phase in (0, 1)] == [1, 1]


def test_turns_hold_whole_expiries_and_no_more_options_than_the_bound():
    days = tuple(date(2026, 12, 1 + day) for day in range(8))
    markets = [
        FakeMarket(
            underlying=f"U{n}", first_token=40_000 + 2000 * n, strikes_each_side=40, expiries=days
        )
        for n in range(5)
    ]
    shard = shard_of(*markets)
    for market in markets:
        feed(shard, market.frame())
    seen: list[int] = []
    for phase in range(CHAIN_PHASES):
        for turn in shard.chain_turns(phase):
            assert sum(2 * shard.table.expiries[e].strikes.size for e in turn) <= TURN_ROWS
            assert (turn % CHAIN_PHASES == phase).all()
            seen += turn.tolist()
    # Of each underlying one expiry has a future and no option.
    assert sorted(seen) == [i for i in ids_of(shard) if shard.table.expiries[i].strikes.size]
    assert len(seen) == 5 * 8


def test_another_market_or_day_leaves_nothing_of_the_old_one_to_show():
    market = FakeMarket(strikes_each_side=2)
    shard = shard_of(market)
    feed(shard, market.frame())
    take(shard)
    feed(shard, market.frame())
    # The other source speaks of one expiry alone.
    some = [market.index, *(i for i in market.options if i.expiry == FAR)]
    feed(shard, market.frame(some), source="live")
    chains, _ = take(shard)
    assert chains.keys() == {f"NIFTY {FAR}"}
    assert chains[f"NIFTY {FAR}"].source == "live"
    skews = [
        codec.from_json(Forward, payload).skew_25d
        for _, payload in shard.take_forwards(np.array([0]))
    ]
    assert skews == [None]


def test_a_day_that_starts_over_leaves_nothing_of_the_one_before_to_show():
    market = FakeMarket(strikes_each_side=2)
    shard = shard_of(market)
    feed(shard, market.frame())
    market.now_s -= 3600
    some = market.frame([market.index, *(i for i in market.options if i.expiry == FAR)])
    for second in range(5):
        feed(shard, some, received_ns=1 + second * 1_000_000_000)
    assert shard.clock.now_s == market.now_s
    chains, _ = take(shard)
    assert chains.keys() == {f"NIFTY {FAR}"}
    assert chains[f"NIFTY {FAR}"].exchange_ts == market.now_s * 1_000_000_000


# -- any state of the book --------------------------------------------------------------------


Price = st.none() | st.floats(0.05, 3000.0)


@st.composite
def shards(draw) -> Shard:
    """A shard of some expiries whose books hold anything at all."""
    markets = [
        FakeMarket(
            underlying=name,
            first_token=40_000 + 1000 * number,
            strikes_each_side=draw(st.integers(0, 4)),
            expiries=(NEAR, FAR),
        )
        for number, name in enumerate(["NIFTY", "M&M"])
    ]
    shard = shard_of(
        chain_strikes=draw(st.integers(1, 3)),
        convention=Convention(rate=draw(st.sampled_from([0.0, 0.065]))),
        conventions={"M&M": Convention(model=PricingModel.BSM, rate=0.05)},
    )
    for market in markets:
        unlisted = draw(st.sets(st.integers(0, len(market.options))))
        options = [i for n, i in enumerate(market.options) if n not in unlisted]
        found = market.instrument_set()
        shard.use_instruments(
            InstrumentSet(
                underlying=market.underlying,
                revision=found.revision,
                market_date=found.market_date,
                instruments=(*market.instruments[:2], *options),
            )
        )
    shard.clock.now_s = markets[0].now_s
    book = shard.book
    for slot in np.flatnonzero(shard.table.token >= 0).tolist():
        if not draw(st.booleans()):
            continue
        for column in (book.last_price, book.bid, book.ask):
            price = draw(Price)
            column[slot] = math.nan if price is None else price
        book.oi[slot] = draw(st.integers(-1, 3))
        book.volume[slot] = draw(st.integers(-1, 2**32 - 1))
        age = draw(st.sampled_from([0.0, 20.0, 61.0]))
        book.seen_s[slot] = book.iv_seen_s[slot] = shard.clock.now_s - age
    forwards = shard.forwards
    for expiry in range(len(shard.table.expiries)):
        source = draw(st.integers(0, 3))
        forwards.source[expiry] = source
        forwards.forward[expiry] = draw(st.floats(24_200, 24_800)) if source else math.nan
        forwards.is_stale[expiry] = draw(st.booleans())
    return shard


def alone(shard: Shard, slot: int, price: float, forward: float, convention: Convention):
    """Volatility and Greeks of one option by itself."""
    tte = float(shard.terms.years(shard.table.expiry_id[[slot]], float(shard.clock.now_s))[0])
    values, status = pricing.compute(
        shard.table.flag[[slot]],
        np.array([price]),
        forward,
        float(shard.table.strike[slot]),
        tte,
        math.exp(-convention.rate * tte),
        model="bsm" if convention.model is PricingModel.BSM else "black76",
        spot=forward * math.exp(-convention.rate * tte)
        if convention.model is PricingModel.BSM
        else None,
    )
    return values[:, 0].tolist(), pricing.Status(int(status[0]))


def known(value: float) -> float | None:
    return None if math.isnan(value) else value


def assert_close(found, expected) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one == (other if other is None else pytest.approx(other, rel=1e-7, abs=1e-12))


@settings(max_examples=60)
@given(shards())
def test_any_book_gives_what_a_loop_over_single_options_gives(shard):
    chains, curves = take(shard)
    table, book, market_s = shard.table, shard.book, float(shard.clock.now_s)
    for expiry_id, expiry in enumerate(table.expiries):
        key = f"{expiry.underlying} {expiry.day}"
        forward = float(shard.forwards.forward[expiry_id])
        rungs = [
            (float(strike), int(call), int(put))
            for strike, call, put in zip(expiry.strikes, expiry.calls, expiry.puts, strict=True)
            if book.seen_s[call] > 0 or book.seen_s[put] > 0
        ]
        if math.isnan(forward) or not rungs:
            assert key not in chains
            continue
        chain, curve = chains[key], curves[key]
        convention = shard.terms.conventions[expiry_id]
        at = min(range(len(rungs)), key=lambda place: abs(rungs[place][0] - forward))
        each = shard._policy.chain_strikes
        shown = rungs[max(0, at - each) : at + each + 1]
        assert chain.atm_strike == curve.atm_strike == rungs[at][0]
        assert chain.strikes == tuple(strike for strike, _, _ in shown)
        assert chain.offsets == tuple(
            place - at for place in range(len(rungs)) if abs(place - at) <= each
        )
        smile = {}
        for strike, call, put in rungs:
            leg = put if strike < forward else call
            if leg and book.iv_seen_s[leg] >= market_s - convention.smile_max_age_seconds:
                values, _ = alone(shard, leg, book.last_price[leg], forward, convention)
                smile[strike] = known(values[0])
        assert_close(chain.smile_iv, [smile.get(strike) for strike in chain.strikes])
        solved = {strike: vol for strike, vol in smile.items() if vol is not None}
        assert curve.strikes == tuple(solved)
        assert_close(curve.smile_iv, list(solved.values()))
        for row, (_, call, put) in enumerate(shown):
            assert_row(shard, chain.calls, row, call, chain, convention)
            assert_row(shard, chain.puts, row, put, chain, convention)
        for number, total in ((1, curve.call_oi), (2, curve.put_oi)):
            held = [int(book.oi[rung[number]]) for rung in rungs if book.oi[rung[number]] >= 0]
            assert total == (sum(held) if held else None)


def assert_row(shard: Shard, side, row: int, slot: int, chain: Chain, convention) -> None:
    """One contract of a chain, recomputed by itself."""
    cells = {name: getattr(side, name)[row] for name in type(side).__struct_fields__}
    if not slot:
        assert set(cells.values()) == {None}
        return
    table, book = shard.table, shard.book
    last, bid, ask = (float(c[slot]) for c in (book.last_price, book.bid, book.ask))
    assert cells["instrument_token"] == table.token[slot]
    assert [cells["last_price"], cells["bid"], cells["ask"]] == [
        known(last),
        known(bid),
        known(ask),
    ]
    for name, column in (("volume", book.volume), ("oi", book.oi)):
        assert cells[name] == (int(column[slot]) if column[slot] >= 0 else None)
    values, status = alone(shard, slot, last, chain.forward, convention)
    vols = [values[0]]
    vols += [alone(shard, slot, price, chain.forward, convention)[0][0] for price in (bid, ask)]
    assert_close([cells["iv"], cells["bid_iv"], cells["ask_iv"]], [known(vol) for vol in vols])
    smile = chain.smile_iv[row]
    greeks = [cells[name] for name in pricing.GREEKS]
    if cells["greeks_from"] == GreeksFrom.SMILE_IV:
        assert cells["iv"] is None
        assert smile is not None
        assert None not in greeks
    else:
        assert_close(greeks, [known(value) for value in values[1:]])
        assert cells["greeks_from"] == (None if cells["iv"] is None else GreeksFrom.IV)
    expected = IvStatus(status.wire_name)
    if status in {pricing.Status.OK, pricing.Status.LOW_VEGA}:
        if bid > ask:
            expected = IvStatus.CROSSED
        if shard.forwards.is_stale[table.expiry_id[slot]]:
            expected = IvStatus.STALE_FORWARD
    assert cells["iv_status"] == expected


@settings(max_examples=30)
@given(shards())
def test_an_expiry_is_the_same_whichever_others_share_the_call(shard):
    together, curves = take(shard)
    for expiry_id in ids_of(shard)[::-1]:
        chains, its_curves = take(shard, np.array([expiry_id]))
        for key, chain in chains.items():
            assert_same(chain, together[key])
            assert_same(its_curves[key], curves[key])


def assert_same(found, expected) -> None:
    """Two messages with the same fields, but for the last digits."""
    left, right = (flat(json.loads(codec.to_json(message))) for message in (found, expected))
    assert left.keys() == right.keys()
    for path, value in left.items():
        other = right[path]
        is_number = isinstance(value, float) and isinstance(other, float)
        assert value == (pytest.approx(other, rel=1e-7, abs=1e-12) if is_number else other), path


def flat(value, path: str = "") -> dict[str, object]:
    """Every leaf of a JSON value by its path."""
    if not isinstance(value, dict | list):
        return {path: value}
    items = value.items() if isinstance(value, dict) else enumerate(value)
    return {k: v for name, item in items for k, v in flat(item, f"{path}/{name}").items()}
