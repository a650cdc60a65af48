"""Bars of a shard: which packets make them, when they are over, and what a new owner gives out."""

from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.contracts.messages import Bar, InstrumentSet, Source
from libs.common.domain.clock import ns_of
from libs.common.domain.instruments import Kind
from libs.common.domain.market_calendar import CALENDAR
from libs.common.kite.frames import frame_of, ltp_records
from services.greeks.domain import pricing
from services.greeks.domain.policy import Policy
from services.greeks.domain.shard import Frame, Shard, Tally
from tests.fakes.kite_frames import NOON, FakeMarket

SECOND_NS = 1_000_000_000
FIRST, SECOND = date(2026, 11, 24), date(2026, 12, 29)


class Clock:
    """The worker's clock, in a hand."""

    def __init__(self) -> None:
        self.now_ns = NOON * SECOND_NS

    def __call__(self) -> int:
        """Epoch nanoseconds."""
        return self.now_ns


class Rig:
    """A shard that has been reading for a while, so that every second is whole."""

    def __init__(self, *markets: FakeMarket, has_begun: bool = True, **policy) -> None:
        self.clock = Clock()
        self.market = markets[0]
        self.shard = Shard(
            epoch=7,
            calendar=CALENDAR,
            policy=Policy(**policy),
            engine=pricing.compute_quotes,
            now_ns=self.clock,
        )
        for market in markets:
            self.shard.use_instruments(market.instrument_set())
        if has_begun:
            option = self.market.options[0]
            self.work(frame_of(self.market.full([option], exchange_ts_s=NOON - 10)), at_s=-10)

    def work(
        self, *payloads: bytes, at_s: float = 0, source: str = "sim", conflate: bool = False
    ) -> list[Bar]:
        """Work frames that were received so long after noon; gives the bars."""
        received_ns = int((NOON + at_s) * SECOND_NS)
        frames = [Frame(payload, received_ns, source) for payload in payloads]
        list(self.shard.work(frames, conflate=conflate, tally=Tally()))
        return self.ready()

    def index(self, second: int, price: float = 24_500.0) -> bytes:
        """A frame with one packet of the index."""
        packet = self.market.index_packet(
            last_price=round(price * 100), exchange_ts_s=NOON + second
        )
        return frame_of(packet)

    def wait(self, seconds: float) -> list[Bar]:
        """Let the worker's clock go on and ask what is overdue."""
        self.clock.now_ns += int(seconds * SECOND_NS)
        self.shard.bars.end_overdue(self.clock.now_ns)
        return self.ready()

    def ready(self) -> list[Bar]:
        """Take what is ready."""
        messages = list(self.shard.bars.ready)
        self.shard.bars.ready.clear()
        for subject, bar in messages:
            assert subject == f"md.bar.v1.{bar.underlying}.1s"
        return [bar for _, bar in messages]


def told(bars: list[Bar]) -> list[tuple[int, int]]:
    """Seconds after noon and revision of each."""
    return [(bar.start // SECOND_NS - NOON, bar.revision) for bar in bars]


def test_a_bar_tells_who_made_it_when_and_from_what():
    rig = Rig(FakeMarket())
    rig.work(rig.index(0, 24_500.0), rig.index(0, 24_510.0))
    (bar,) = rig.work(rig.index(1))
    assert bar == Bar(
        underlying="NIFTY",
        instrument_token=rig.market.index.instrument_token,
        start=NOON * SECOND_NS,
        open=24_500.0,
        high=24_510.0,
        low=24_500.0,
        close=24_510.0,
        ticks=2,
        epoch=7,
        source=Source.SIM,
    )


@pytest.mark.parametrize("conflate", [False, True])
def test_every_packet_counts_even_where_ticks_are_conflated(conflate):
    rig = Rig(FakeMarket())
    packets = [
        rig.market.index_packet(last_price=paise, exchange_ts_s=NOON)
        for paise in (2_450_000, 2_460_000, 2_440_000, 2_455_000)
    ]
    (bar,) = rig.work(frame_of(*packets), rig.index(0, 24_700.0), rig.index(1), conflate=conflate)
    assert (bar.open, bar.high, bar.low, bar.close) == (24_500.0, 24_700.0, 24_400.0, 24_700.0)
    assert bar.ticks == 5


def test_only_the_index_makes_bars_where_there_is_one():
    rig = Rig(FakeMarket())
    future = [item for item in rig.market.instruments if item.kind is Kind.FUTURE]
    rig.work(frame_of(rig.market.full(future)))
    assert rig.wait(10) == []


def without_spot() -> FakeMarket:
    market = FakeMarket(underlying="GOLD", expiries=(FIRST,), futures=(FIRST, SECOND))
    market.instruments = market.instruments[1:]
    return market


def test_without_spot_the_nearest_future_makes_the_bars_with_its_volume():
    market = without_spot()
    rig = Rig(market)
    near, far = (item for item in market.instruments if item.kind is Kind.FUTURE)
    bars = []
    for second, volume in enumerate((100, 130, 135)):
        market.now_s = NOON + second
        bars += rig.work(frame_of(market.full([near, far], volume=volume)))
    bars += rig.wait(10)
    assert [bar.instrument_token for bar in bars] == [near.instrument_token] * 3
    assert [bar.volume for bar in bars] == [None, 30, 5]


def test_the_next_future_follows_at_the_instant_the_nearest_dies():
    market = without_spot()
    rig = Rig(market)
    near, far = (item for item in market.instruments if item.kind is Kind.FUTURE)
    instant_s = ns_of(CALENDAR.expiry_instant("NFO", FIRST)) // SECOND_NS
    bars = []
    for second in range(-2, 3):
        market.now_s = instant_s + second
        bars += rig.work(frame_of(market.full([near, far], volume=1000 + second)))
    bars += rig.wait(10)
    assert [(b.start // SECOND_NS - instant_s, b.instrument_token, b.volume) for b in bars] == [
        (-2, near.instrument_token, None),
        (-1, near.instrument_token, 1),
        (0, far.instrument_token, None),
        (1, far.instrument_token, 1),
        (2, far.instrument_token, 1),
    ]


def test_a_share_listed_twice_follows_its_price_at_nse():
    market = FakeMarket(underlying="RELIANCE")
    spot = market.index
    at_bse = type(spot)(
        **{
            **{name: getattr(spot, name) for name in spot.__struct_fields__},
            "exchange": "BSE",
            "instrument_token": 128_083_204,
        }
    )
    market.instruments.append(at_bse)
    rig = Rig(market)
    (source,) = rig.shard.table.bar_sources("RELIANCE")
    assert source.token == spot.instrument_token


def test_a_packet_without_timestamp_belongs_to_the_second_of_its_receipt():
    rig = Rig(FakeMarket())
    packet = ltp_records(token=np.array([rig.market.index.instrument_token]), last_price=2_450_000)
    bars = [*rig.work(frame_of(packet), at_s=5.9), *rig.work(frame_of(packet), at_s=6.1)]
    assert told(bars) == [(5, 0)]
    rig.clock.now_ns = int((NOON + 7.9) * SECOND_NS)
    assert rig.wait(0) == []
    assert told(rig.wait(0.1)) == [(6, 0)]


def test_a_packet_without_a_price_makes_no_bar():
    rig = Rig(FakeMarket())
    rig.work(rig.index(0, 0.0), rig.index(0, 24_500.0), rig.index(0, 0.0))
    (bar,) = rig.wait(5)
    assert (bar.ticks, bar.low) == (1, 24_500.0)


def test_a_second_waits_for_the_grace_by_the_worker_clock_and_no_longer():
    rig = Rig(FakeMarket(), bar_grace_seconds=1.0)
    rig.work(rig.index(0))
    assert rig.wait(1.9) == []
    assert told(rig.wait(0.1)) == [(0, 0)]
    assert rig.wait(10) == []


def test_market_time_of_any_instrument_ends_the_second_of_a_quiet_one():
    rig = Rig(FakeMarket(), bar_grace_seconds=1.0)
    rig.work(rig.index(0))
    option = rig.market.options[0]
    assert rig.work(frame_of(rig.market.full([option], exchange_ts_s=NOON + 1))) == []
    assert told(rig.work(frame_of(rig.market.full([option], exchange_ts_s=NOON + 2)))) == [(0, 0)]


def test_a_tick_after_the_grace_makes_the_bar_again_and_one_later_still_is_counted():
    rig = Rig(FakeMarket(), bar_late_seconds=2)
    rig.work(rig.index(0, 24_500.0))
    assert told(rig.wait(3)) == [(0, 0)]
    (again,) = rig.work(rig.index(0, 24_600.0))
    assert (again.revision, again.high, again.ticks) == (1, 24_600.0, 2)
    rig.work(rig.index(1), rig.index(2), rig.index(3))
    rig.shard.bars.take_tally()
    assert rig.work(rig.index(0)) == []
    assert rig.shard.bars.take_tally().too_late == 1
    assert rig.shard.bars.take_tally().too_late == 0


def test_the_second_in_which_reading_began_is_left_out_and_counted():
    rig = Rig(FakeMarket(), has_begun=False)
    bars = [bar for second in range(4) for bar in rig.work(rig.index(second))]
    assert told([*bars, *rig.wait(9)]) == [(2, 0), (3, 0)]
    assert rig.shard.bars.take_tally().cut == 2


def test_an_owner_who_replays_the_frames_before_gives_out_the_open_second_as_a_whole():
    frames = [(second, price) for second in range(6) for price in (1000, 1010, 990, 1001)]
    before = Rig(FakeMarket())
    stop = 4 * 3 + 2
    given = [bar for s, p in frames[:stop] for bar in before.work(before.index(s, p))]
    assert told(given) == [(0, 0), (1, 0), (2, 0)]

    heir = Rig(FakeMarket(), has_begun=False)
    heir.work(*(heir.index(s, p) for s, p in frames[:stop]), conflate=True)
    heir.shard.bars.discard()
    after = [bar for s, p in frames[stop:] for bar in heir.work(heir.index(s, p))]
    after += heir.wait(9)
    assert told(after) == [(3, 0), (4, 0), (5, 0)]
    assert {(b.open, b.high, b.low, b.close, b.ticks) for b in [*given, *after]} == {
        (1000, 1010, 990, 1001, 4)
    }
    assert {b.gap_seconds for b in [*given, *after]} == {0}


def test_an_owner_who_begins_within_a_second_does_not_call_its_rest_a_bar():
    frames = [(second, price) for second in range(6) for price in (1000, 1010, 990, 1001)]
    heir = Rig(FakeMarket(), has_begun=False)
    after = [bar for s, p in frames[2:] for bar in heir.work(heir.index(s, p))]
    assert all(bar.ticks == 4 for bar in after)
    assert told(after)[0] == (2, 0)


def test_an_underlying_that_was_quiet_when_reading_began_loses_no_bar():
    first, second = FakeMarket(), FakeMarket(underlying="BANKNIFTY", first_token=60_000)
    rig = Rig(first, second)
    packet = second.index_packet(exchange_ts_s=NOON + 3)
    rig.work(rig.index(3), frame_of(packet))
    bars = rig.wait(9)
    assert {bar.underlying for bar in bars} == {"NIFTY", "BANKNIFTY"}


def test_an_underlying_that_is_learnt_while_reading_leaves_out_the_second_it_is_learnt_in():
    first, second = FakeMarket(), FakeMarket(underlying="BANKNIFTY", first_token=60_000)
    rig = Rig(first)
    rig.work(rig.index(0))
    rig.shard.use_instruments(second.instrument_set())
    bars = []
    for at in (0, 1, 2, 3):
        bars += rig.work(frame_of(second.index_packet(exchange_ts_s=NOON + at)))
    mine = [bar for bar in [*bars, *rig.wait(9)] if bar.underlying == "BANKNIFTY"]
    assert told(mine) == [(2, 0), (3, 0)]


def test_a_new_set_with_the_same_spot_disturbs_no_second():
    rig = Rig(FakeMarket(strikes_each_side=2))
    rig.work(rig.index(0, 24_500.0))
    rig.shard.use_instruments(FakeMarket(strikes_each_side=5).instrument_set(revision=2))
    rig.work(rig.index(0, 24_600.0))
    (bar,) = rig.work(rig.index(1))
    assert (bar.open, bar.close, bar.ticks) == (24_500.0, 24_600.0, 2)


def test_when_another_instrument_takes_over_nothing_of_the_one_before_is_mixed_in():
    market = without_spot()
    rig = Rig(market)
    near = next(item for item in market.instruments if item.kind is Kind.FUTURE)
    rig.work(frame_of(market.full([near], volume=10)))
    with_index = FakeMarket(underlying="GOLD", first_token=90_000, expiries=(), futures=())
    rig.shard.use_instruments(
        InstrumentSet(
            underlying="GOLD",
            revision=2,
            market_date=date(2026, 11, 23),
            instruments=(*market.instruments, with_index.index),
        )
    )
    bars = rig.ready()
    assert [bar.instrument_token for bar in bars] == [near.instrument_token]
    for second in range(4):
        bars += rig.work(
            frame_of(with_index.index_packet(exchange_ts_s=NOON + second)),
            frame_of(market.full([near], exchange_ts_s=NOON + second)),
        )
    bars += rig.wait(9)
    assert [(b.instrument_token, b.volume) for b in bars[1:]] == [
        (with_index.index.instrument_token, None)
    ] * 2
    assert told(bars) == [(0, 0), (2, 0), (3, 0)]


def test_a_token_that_means_another_contract_starts_over():
    market = without_spot()
    rig = Rig(market)
    near = next(item for item in market.instruments if item.kind is Kind.FUTURE)
    rig.work(frame_of(market.full([near], volume=10)))
    reborn = type(near)(
        **{
            **{name: getattr(near, name) for name in near.__struct_fields__},
            "tradingsymbol": "ANOTHER",
        }
    )
    market.instruments[market.instruments.index(near)] = reborn
    rig.shard.use_instruments(market.instrument_set(revision=2))
    bars = rig.ready()
    for second in range(4):
        bars += rig.work(frame_of(market.full([reborn], volume=500, exchange_ts_s=NOON + second)))
    assert told(bars) == [(0, 0), (2, 0)]
    assert [bar.volume for bar in bars] == [None, 0]


def test_a_change_between_live_and_simulated_data_ends_the_second_under_its_own_name():
    rig = Rig(FakeMarket())
    rig.work(rig.index(0, 24_500.0), source="sim")
    bars = rig.work(rig.index(0, 99.0), source="live")
    assert [(bar.source, bar.low) for bar in bars] == [("sim", 24_500.0)]
    bars = [bar for s in (1, 2, 3) for bar in rig.work(rig.index(s), source="live")]
    # The live second in which the change fell is not known in full.
    assert [(bar.source, start) for bar, (start, _) in zip(bars, told(bars), strict=True)] == [
        ("live", 2)
    ]


def test_a_market_that_starts_over_earlier_has_bars_again():
    rig = Rig(FakeMarket())
    rig.work(rig.index(0))
    bars = []
    for second in range(12):
        bars += rig.work(rig.index(second - 3600), at_s=second)
    assert told(bars)[0] == (0, 0)
    # Patience took three seconds; the one in which it ended, and its neighbour, are not whole.
    assert told(bars)[1:] == [(second - 3600, 0) for second in range(5, 11)]


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_the_bars_of_any_cut_of_the_frames_are_those_of_all_at_once(data):
    markets = [
        FakeMarket(strikes_each_side=1),
        FakeMarket(underlying="GOLD", first_token=60_000, strikes_each_side=1, futures=(FIRST,)),
    ]
    markets[1].instruments = markets[1].instruments[1:]
    future = next(i for i in markets[1].instruments if i.kind is Kind.FUTURE)
    steps = data.draw(
        st.lists(
            st.tuples(st.integers(-2, 2), st.integers(1, 900), st.integers(0, 9)),
            min_size=1,
            max_size=30,
        )
    )
    frames, second, volume = [], 20, 100
    for step, price, traded in steps:
        second, volume = second + step, volume + traded
        frames.append(
            frame_of(
                markets[0].index_packet(last_price=price, exchange_ts_s=NOON + second),
                markets[1].full(
                    [future], last=np.array([price]), volume=volume, exchange_ts_s=NOON + second
                ),
            )
        )

    def final(cuts: list[int]) -> dict[tuple[str, int], Bar]:
        rig = Rig(*markets)
        bars, first = [], 0
        for cut in [*cuts, len(frames)]:
            if cut > first:
                bars += rig.work(*frames[first:cut], conflate=cut % 2 == 0)
                first = cut
        bars += rig.wait(9)
        return {(bar.underlying, bar.start): bar for bar in bars}

    def content(bar: Bar) -> dict[str, object]:
        names = (name for name in bar.__struct_fields__ if name != "revision")
        return {name: getattr(bar, name) for name in names}

    whole = final([])
    cut = final(sorted(data.draw(st.lists(st.integers(0, len(frames)), max_size=8))))
    assert {key: content(bar) for key, bar in cut.items()} == {
        key: content(bar) for key, bar in whole.items()
    }
