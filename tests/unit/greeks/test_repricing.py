"""Options are priced anew when their forward moves or time passes, and only then."""

from collections.abc import Sequence
from datetime import date, datetime

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.contracts import codec
from libs.common.contracts.messages import Convention, PricingModel, Tick
from libs.common.domain.clock import IST, ns_of
from libs.common.domain.market_calendar import CALENDAR
from libs.common.kite.frames import frame_of
from services.greeks.domain import pricing
from services.greeks.domain.budget import Allowance, Courtesy, SharedBudget
from services.greeks.domain.last_values import LastValues
from services.greeks.domain.policy import Policy
from services.greeks.domain.shard import Frame, Shard, Tally
from tests.fakes.kite_frames import FakeMarket

NEAR, FAR = date(2026, 11, 24), date(2026, 12, 1)
SECOND = 1_000_000_000
NOT_COMPARED = {"seq": 0, "repriced": False, "exchange_ts": None, "ingest_ts": 0, "greeks_ts": 0}
"""A packet that comes again has times and a number of its own."""


class Rig:
    """A shard, and a worker's clock that a test moves."""

    def __init__(self, *markets: FakeMarket, **policy) -> None:
        self.now_ns = 1_795_500_000 * SECOND
        self.shard = Shard(
            epoch=7,
            calendar=CALENDAR,
            policy=Policy(**policy),
            engine=pricing.compute_quotes,
            now_ns=lambda: self.now_ns,
        )
        for market in markets:
            self.shard.use_instruments(market.instrument_set())
        self.tally = Tally()
        self.lines: list[bytes] = []

    def work(self, *payloads: bytes, source: str = "sim", received_ns: int = 1) -> list[Tick]:
        """Frames come."""
        frames = [Frame(payload, received_ns + i, source) for i, payload in enumerate(payloads)]
        messages = self.shard.work(frames, conflate=False, tally=self.tally)
        return self._decoded([line for m in messages for line in m.payload.splitlines()])

    def reprice(self, seconds: float = 1.0) -> list[Tick]:
        """Time passes, and everything that is due is priced anew."""
        self.now_ns += int(seconds * SECOND)
        lines = []
        for message in self.shard.reprice(self.shard.due(), self.tally):
            found = message.payload.splitlines()
            assert len(found) == message.slots.size
            names = {codec.from_json(Tick, line).underlying for line in found}
            assert message.subject == f"md.tick.v1.{names.pop()}"
            assert not names
            lines += found
        return self._decoded(lines)

    def _decoded(self, lines: Sequence[bytes]) -> list[Tick]:
        ticks = [codec.from_json(Tick, line) for line in lines]
        for line, tick in zip(lines, ticks, strict=True):
            assert codec.to_json(tick) == line
        self.lines += lines
        return ticks


def by_token(ticks: Sequence[Tick]) -> dict[int, Tick]:
    return {tick.instrument_token: tick for tick in ticks}


def bare(tick: Tick) -> Tick:
    return msgspec.structs.replace(tick, **NOT_COMPARED)


def options_of(market: FakeMarket, day: date = NEAR) -> set[int]:
    return {item.instrument_token for item in market.options if item.expiry == day}


def future_packet(market: FakeMarket, spot: float) -> bytes:
    """The future at another price; nothing else is said."""
    moved = FakeMarket(market.underlying, spot, now_s=market.now_s)
    moved.instruments = market.instruments
    return frame_of(moved.full(moved.instruments[1:2]))


def test_a_quiet_strike_follows_its_forward():
    market = FakeMarket(strikes_each_side=3)
    rig = Rig(market)
    before = by_token(rig.work(market.frame()))
    assert rig.reprice() == []
    rig.work(future_packet(market, 24_510.0))
    ticks = by_token(rig.reprice())
    # The other expiry has its forward from parity, and that did not move.
    assert ticks.keys() == options_of(market)
    for token, tick in ticks.items():
        old = before[token]
        assert (tick.repriced, old.repriced) == (True, False)
        assert (tick.seq, tick.epoch) == (old.seq + 1, old.epoch)
        assert (tick.exchange_ts, tick.ingest_ts) == (old.exchange_ts, old.ingest_ts)
        assert tick.greeks_ts == rig.now_ns
        for name in ("last_price", "bid", "ask", "volume", "oi", "change", "ohlc", "depth"):
            assert getattr(tick, name) == getattr(old, name)
        assert tick.depth is not None
        assert tick.forward is not None
        assert old.forward is not None
        assert tick.forward - old.forward == pytest.approx(10.0, abs=0.06)
        if tick.option_type == "CE" and tick.iv is not None and old.iv is not None:
            assert tick.iv < old.iv
    assert rig.reprice() == []
    assert sum(rig.tally.repriced.values()) == len(ticks)


@settings(max_examples=25, deadline=None)
@given(
    moves=st.lists(st.integers(-300, 300), min_size=1, max_size=4),
    mode=st.sampled_from(["full", "quote", "ltp"]),
    convention=st.sampled_from(
        [Convention(), Convention(model=PricingModel.BSM, rate=0.065, dividend_yield=0.01)]
    ),
)
def test_a_tick_priced_anew_is_what_the_same_packet_would_give_now(moves, mode, convention):
    market = FakeMarket(strikes_each_side=4, expiries=(NEAR,))
    rig = Rig(market, convention=convention)
    rig.work(market.frame())
    packets = {
        "full": lambda: market.full(market.options),
        "quote": lambda: market.quote(market.options),
        "ltp": lambda: market.ltp(market.options),
    }[mode]()
    rig.work(frame_of(packets))
    before, spot = rig.shard.forwards.forward[0], market.spot
    for move in moves:
        spot += move / 20
        rig.work(future_packet(market, spot))
        rig.work(frame_of(market.index_packet(last_price=round(spot * 20) * 5)))
    found = by_token(rig.reprice())
    again = by_token(rig.work(frame_of(packets)))
    changed = {token for token in again if token in found}
    assert changed == found.keys()
    for token in changed:
        assert bare(found[token]) == bare(again[token])
    # Where nothing was due, nothing had changed.
    assert found or rig.shard.forwards.forward[0] == before


def test_an_option_is_priced_at_most_once_in_an_interval():
    market = FakeMarket(strikes_each_side=2, expiries=(NEAR,))
    rig = Rig(market, reprice_interval_seconds=0.5)
    rig.work(market.frame())
    rig.work(future_packet(market, 24_510.0))
    assert rig.reprice(0.4) == []
    assert {t.instrument_token for t in rig.reprice(0.1)} == options_of(market)
    rig.work(future_packet(market, 24_520.0))
    assert rig.reprice(0.4) == []
    # An ordinary tick has the newest forward, and starts the interval anew.
    quiet = options_of(market) - {market.options[0].instrument_token}
    rig.work(market.frame(market.options[:1]))
    assert {t.instrument_token for t in rig.reprice(0.2)} == quiet
    assert rig.reprice(0.4) == []


def test_without_an_interval_nothing_is_priced_anew():
    market = FakeMarket(strikes_each_side=2)
    rig = Rig(market, reprice_interval_seconds=0.0)
    rig.work(market.frame())
    rig.work(future_packet(market, 24_600.0))
    assert rig.reprice(100.0) == []


def test_who_waits_longest_is_first():
    market = FakeMarket(strikes_each_side=2, expiries=(NEAR,))
    rig = Rig(market)
    order = [market.options[i] for i in (3, 1, 4, 0, 2)]
    rig.work(market.frame(market.instruments[:2]))
    for item in order:
        rig.now_ns += SECOND // 100
        rig.work(market.frame([item]))
    rig.work(future_packet(market, 24_510.0))
    rig.now_ns += SECOND
    slots = [rig.shard.table.slot_of(item.instrument_token) for item in order]
    assert rig.shard.due().tolist() == slots
    # Those that do not fit stay due, ahead of those that had their turn.
    rig.shard.reprice(rig.shard.due()[:2], rig.tally)
    rig.work(future_packet(market, 24_520.0))
    rig.now_ns += SECOND
    assert rig.shard.due().tolist() == slots[2:] + sorted(slots[:2])


def test_an_expiry_that_gets_a_forward_at_last_is_priced():
    market = FakeMarket(strikes_each_side=2, expiries=(NEAR,))
    rig = Rig(market)
    call = market.options[0]
    (tick,) = rig.work(frame_of(market.full([call])))
    assert tick.iv_status == "no_forward"
    assert rig.reprice() == []
    rig.work(future_packet(market, market.spot))
    (tick,) = rig.reprice()
    assert (tick.iv_status, tick.forward_source, tick.repriced) == ("ok", "future", True)


def test_a_forward_that_time_alone_made_old_is_told_to_quiet_strikes():
    market = FakeMarket(strikes_each_side=2, expiries=(NEAR,))
    other = FakeMarket("BANKNIFTY", 52_000.0, 100.0, 2, expiries=(NEAR,), first_token=60_000)
    rig = Rig(market, other)
    rig.work(market.frame())
    # Nothing of the first underlying comes any more; the other one moves the market's time.
    other.now_s += 20
    rig.work(frame_of(other.index_packet()))
    ticks = rig.reprice()
    assert {t.instrument_token for t in ticks} == options_of(market)
    assert {t.iv_status for t in ticks} == {"stale_forward"}
    assert all(t.iv is not None for t in ticks)
    # And when it is fresh again, at the price at which it was.
    market.now_s = other.now_s
    rig.work(frame_of(market.full(market.instruments[1:2])))
    assert {t.iv_status for t in rig.reprice()} == {"ok"}


def test_a_forward_whose_age_did_not_matter_is_not_published_again():
    market = FakeMarket(strikes_each_side=2)
    rig = Rig(market)
    rig.work(market.frame())
    list(rig.shard.take_forwards(np.flatnonzero(rig.shard.forwards.touched)))
    market.now_s += 2
    other = FakeMarket("BANKNIFTY", first_token=60_000, now_s=market.now_s)
    rig.shard.use_instruments(other.instrument_set())
    rig.work(frame_of(other.index_packet()))
    rig.reprice()
    which = rig.shard.forwards.touched.nonzero()[0]
    assert {rig.shard.table.expiries[i].underlying for i in which} <= {"BANKNIFTY"}


def test_theta_of_a_quiet_strike_is_never_older_than_a_minute_of_the_market():
    market = FakeMarket(strikes_each_side=2, expiries=(FAR,), futures=(FAR,), carry=0.0)
    rig = Rig(market)
    before = by_token(rig.work(market.frame()))
    seen: list[int] = []
    for _ in range(13):
        market.now_s += 5
        # The future trades on at the same price.
        rig.work(frame_of(market.full(market.instruments[1:2])))
        ticks = rig.reprice()
        seen.append(len(ticks))
    assert seen == [0] * 11 + [len(before) - 2, 0]
    (tte,) = {t.tte for t in before.values() if t.tte}
    # The twelfth of these packets was a minute after the first frame.
    (later,) = {codec.from_json(Tick, line).tte for line in rig.lines if b'"repriced":true' in line}
    assert tte is not None
    assert later is not None
    assert (tte - later) * 365 * 86_400 == pytest.approx(60.0)


def at(hour: int, minute: int, second: int = 0, day: date = NEAR) -> int:
    moment = datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=IST)
    return ns_of(moment) // SECOND


def test_a_quiet_option_becomes_expiring_and_expired_though_nothing_moves():
    market = FakeMarket(strikes_each_side=2, carry=0.0, now_s=at(15, 38, 50))
    rig = Rig(market)
    rig.work(market.frame())
    statuses = []
    for now_s in (at(15, 38, 59), at(15, 39), at(15, 39, 1), at(15, 40), at(15, 40, 5)):
        market.now_s = now_s
        rig.work(frame_of(market.full(market.instruments[1:2])))
        ticks = [t for t in rig.reprice() if t.expiry == NEAR]
        assert len(ticks) in {0, 10}
        statuses.append({t.iv_status for t in ticks})
        assert all(t.iv is None and t.delta is None for t in ticks)
    # With 60 s left it is still an option; dead ones are left alone, wherever the forward goes.
    assert statuses == [set(), set(), {"expiring"}, {"expired"}, set()]
    rig.work(future_packet(market, 24_600.0))
    assert not any(t.expiry == NEAR for t in rig.reprice(100.0))


def test_the_making_of_the_settlement_price_is_told_to_quiet_strikes():
    days = (FAR, date(2026, 12, 8))
    market = FakeMarket(strikes_each_side=2, expiries=days, futures=days[:1], carry=0.0)
    market.now_s = at(15, 14, 58, FAR)
    rig = Rig(market)
    assert {t.settlement for t in rig.work(market.frame())} == {False}
    market.now_s = at(15, 15, 0, FAR)
    rig.work(frame_of(market.full(market.instruments[1:2])))
    ticks = rig.reprice()
    # The next expiry has another week.
    assert {t.instrument_token for t in ticks} == options_of(market, FAR)
    assert {t.settlement for t in ticks} == {True}
    assert rig.reprice() == []


def test_what_only_an_earlier_owner_published_is_due():
    market = FakeMarket(strikes_each_side=2)
    rig = Rig(market)
    rig.work(market.frame())
    rig.shard.owe()
    ticks = by_token(rig.reprice())
    assert ticks.keys() == {item.instrument_token for item in market.options}
    assert rig.reprice() == []
    slots = np.array([rig.shard.table.slot_of(market.options[0].instrument_token), 200])
    rig.shard.owe(slots)
    assert by_token(rig.reprice()).keys() == {market.options[0].instrument_token}


def moved_and_due(rig: Rig, market: FakeMarket) -> list[int]:
    """Move the forward and give the tokens that are due."""
    rig.work(future_packet(market, 24_550.0))
    rig.now_ns += SECOND
    return [int(rig.shard.table.token[slot]) for slot in rig.shard.due()]


def test_a_reused_token_is_not_priced_with_the_packet_of_the_contract_before():
    market = FakeMarket(strikes_each_side=2, expiries=(NEAR,))
    rig = Rig(market)
    rig.work(market.frame())
    due = rig.shard.due
    rig.work(future_packet(market, 24_510.0))
    rig.now_ns += SECOND
    slots = due()
    changed = FakeMarket(strikes_each_side=2, expiries=(NEAR,))
    old = market.options[0]
    changed.instruments = [
        msgspec.structs.replace(item, tradingsymbol="ANOTHER", strike=26_000.0)
        if item is old
        else item
        for item in market.instruments
    ]
    rig.shard.use_instruments(changed.instrument_set(revision=2))
    # It was due a moment ago: the caller still holds its slot.
    tokens = [
        codec.from_json(Tick, line).instrument_token
        for message in rig.shard.reprice(slots, rig.tally)
        for line in message.payload.splitlines()
    ]
    assert set(tokens) == options_of(market) - {old.instrument_token}
    assert old.instrument_token not in moved_and_due(rig, market)


@pytest.mark.parametrize("is_whole", [True, False])
def test_instruments_that_left_are_not_priced_anew(is_whole):
    market = FakeMarket(strikes_each_side=2, expiries=(NEAR,))
    rig = Rig(market)
    rig.work(market.frame())
    if is_whole:
        rig.shard.forget_instruments(market.underlying)
    else:
        fewer = FakeMarket(strikes_each_side=2, expiries=(NEAR,))
        fewer.instruments = market.instruments[:6]
        rig.shard.use_instruments(fewer.instrument_set(revision=2))
    left = set() if is_whole else {i.instrument_token for i in market.instruments[2:6]}
    assert set(moved_and_due(rig, market)) == left
    # Nor when they return, before they have a packet.
    rig.shard.use_instruments(market.instrument_set(revision=3))
    assert set(moved_and_due(rig, market)) == left


def test_prices_of_another_source_are_not_priced_anew():
    market = FakeMarket(strikes_each_side=2, expiries=(NEAR,))
    rig = Rig(market)
    rig.work(market.frame())
    rig.work(market.frame(market.instruments[:3]), source="live")
    rig.work(
        frame_of(market.full(market.instruments[1:2], last=np.array([2_455_000]))), source="live"
    )
    (tick,) = rig.reprice()
    assert (tick.instrument_token, tick.source) == (
        market.instruments[2].instrument_token,
        "live",
    )


def test_prices_of_before_the_market_started_over_are_not_priced_anew():
    market = FakeMarket(strikes_each_side=2, expiries=(NEAR,))
    rig = Rig(market)
    rig.work(market.frame())
    market.now_s -= 4 * 3600
    for second in range(6):
        rig.work(market.frame(market.instruments[:3]), received_ns=second * SECOND + 10)
    assert rig.tally.resets == 1
    assert set(moved_and_due(rig, market)) == {market.instruments[2].instrument_token}


def test_a_repriced_tick_becomes_the_last_value_and_no_bar():
    market = FakeMarket(strikes_each_side=2, expiries=(NEAR,))
    rig = Rig(market)
    rig.work(market.frame())
    assert len(list(rig.shard.last_values.take_all())) == len(market.instruments)
    rig.work(future_packet(market, 24_510.0))
    rig.shard.bars.discard()
    counted = rig.tally.ticks
    lines = [codec.to_json(tick) for tick in rig.reprice()]
    written = dict(rig.shard.last_values.take_all())
    assert {line for line in written.values() if b'"repriced":true' in line} == set(lines)
    assert len(lines) == len(market.options)
    assert rig.tally.ticks == counted
    assert not rig.shard.bars.ready


def test_a_smile_is_as_old_as_the_packet_it_comes_from():
    market = FakeMarket(strikes_each_side=10, expiries=(FAR,), futures=(FAR,))
    rig = Rig(market)
    rig.work(market.frame())
    market.now_s += 61
    rig.work(future_packet(market, 24_510.0))
    ticks = rig.reprice()
    assert all(t.smile_iv is None for t in ticks)
    assert all(t.iv is not None for t in ticks if t.iv_status == "ok")


def test_nothing_is_looked_at_twice_while_nothing_moves():
    market = FakeMarket(strikes_each_side=2)
    rig = Rig(market)
    rig.work(market.frame())
    assert rig.reprice(2.0) == []
    assert rig.reprice(2.0) == []
    settled = rig.shard._settled
    assert settled is not None
    rig.work(future_packet(market, 24_510.0))
    assert len(rig.reprice(2.0)) == 10


def test_the_newest_line_of_a_slot_is_known_after_it_was_written():
    values = LastValues(3)
    assert values.newest(1) is None
    values.note(np.array([1, 2]), b"one\ntwo\n")
    assert values.newest(1) == b"one"
    assert dict(values.take_all()) == {1: b"one", 2: b"two"}
    assert (values.newest(1), values.newest(2)) == (b"one", b"two")
    values.note(np.array([1]), b"new\n")
    assert values.newest(1) == b"new"
    values.forget(np.array([1, 2]))
    values.grow(10)
    assert [values.newest(slot) for slot in range(4)] == [None] * 4


def test_a_budget_goes_where_options_wait():
    budget = SharedBudget(1000)
    assert budget.rate(1, 300) == 1000
    assert budget.rate(2, 100) == 250
    assert budget.rate(1, 300) == 750
    assert (budget.waiting, budget.rate(3, 0)) == (400, 0.0)
    budget.leave(1)
    assert budget.rate(2, 100) == 1000


@settings(max_examples=50, deadline=None)
@given(
    steps=st.lists(st.tuples(st.floats(0.0, 3.0), st.integers(0, 5000)), max_size=60),
    rate=st.integers(1, 20_000),
)
def test_an_allowance_never_exceeds_its_rate_by_more_than_a_tenth_of_a_second(steps, rate):
    allowance = Allowance()
    spent, passed = 0, 0.0
    for seconds, wanted in steps:
        passed += seconds
        most = allowance.earn(seconds, float(rate))
        priced = min(most, wanted)
        allowance.spend(priced)
        spent += priced
        assert spent <= passed * rate + max(1.0, rate * 0.1) + 1e-6


def test_a_small_allowance_is_saved_until_it_is_enough_for_one():
    allowance = Allowance()
    granted = []
    for _ in range(10):
        most = allowance.earn(0.05, 5.0)
        allowance.spend(most)
        granted.append(most)
    assert sum(granted) == 2


def test_whoever_gives_way_has_a_turn_after_so_many():
    courtesy = Courtesy(3)
    said = [courtesy.gives_way(is_pressed=True) for _ in range(8)]
    assert said == [True, True, True, False, True, True, True, False]
    assert courtesy.gives_way(is_pressed=True)
    assert not courtesy.gives_way(is_pressed=False)
    assert [courtesy.gives_way(is_pressed=True) for _ in range(4)] == [True, True, True, False]
