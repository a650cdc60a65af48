"""Seconds of one underlying: what a second holds, when it is over, and what comes late."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.greeks.domain.bar_series import (
    NOWHERE,
    BarSeries,
    BarTally,
    Made,
    Moment,
    PriceTick,
)

NOON = 1_795_500_000
EARLY = Moment(NOON - 100, NOON - 100)
"""Reading began long before the first tick: every second is whole."""


def series(*, late_seconds: int = 5, begun: Moment = EARLY) -> BarSeries:
    return BarSeries(late_seconds=late_seconds, begun=begun, tally=BarTally())


def tick(second: int, price: float = 100.0, volume: int | None = None, **changes) -> PriceTick:
    fields = {
        "second": NOON + second,
        "is_stamped": True,
        "price": price,
        "volume": volume,
        "token": 1,
        "received_ns": (NOON + second) * 1_000_000_000,
    }
    return PriceTick(**{**fields, **changes})


def made_of(bars: BarSeries, ticks: Iterable[PriceTick]) -> list[Made]:
    """All that the ticks bring, and the newest second in the end."""
    return [*(made for item in ticks for made in bars.take(item)), *bars.close()]


def newest(made: Iterable[Made]) -> dict[int, Made]:
    """The last version of every second, by its distance from noon."""
    return {item.start_s - NOON: item for item in made}


def prices(item: Made) -> tuple[float, float, float, float]:
    return item.open, item.high, item.low, item.close


def test_a_second_is_given_out_when_a_tick_of_a_later_one_comes():
    bars = series()
    for price in (100.0, 103.0, 98.0, 101.0):
        assert bars.take(tick(0, price)) == []
    (made,) = bars.take(tick(1))
    assert prices(made) == (100.0, 103.0, 98.0, 101.0)
    assert (made.start_s, made.ticks, made.revision, made.gap_seconds) == (NOON, 4, 0, 0)


def test_seconds_without_a_tick_have_no_bar_and_the_next_one_tells_how_many():
    made = made_of(series(), [tick(0), tick(1), tick(5)])
    assert [(m.start_s - NOON, m.gap_seconds) for m in made] == [(0, 0), (1, 0), (5, 3)]


def test_volume_is_what_the_day_grew_by_since_the_second_before():
    made = made_of(
        series(),
        [tick(0, volume=1000), tick(1, volume=1010), tick(1, volume=1025), tick(3, volume=1030)],
    )
    # Before the first tick nobody knows what had been traded.
    assert [m.volume for m in made] == [None, 25, 5]


def test_an_index_has_no_volume():
    assert [m.volume for m in made_of(series(), [tick(0), tick(1), tick(2)])] == [None, None, None]


def test_volume_traded_while_packets_did_not_tell_it_is_counted_when_they_do():
    made = made_of(series(), [tick(0, volume=10), tick(1), tick(2, volume=30)])
    assert [m.volume for m in made] == [None, None, 20]


def test_a_volume_that_falls_starts_over_and_is_never_negative():
    made = made_of(
        series(), [tick(0, volume=900), tick(1, volume=5), tick(1, volume=8), tick(2, volume=10)]
    )
    assert [m.volume for m in made] == [None, 3, 2]


def test_another_instrument_continues_the_seconds_but_not_the_volume():
    made = made_of(
        series(),
        [
            tick(0, volume=10),
            tick(1, volume=15),
            tick(2, volume=9000, token=2),
            tick(3, volume=9002, token=2),
        ],
    )
    assert [(m.token, m.volume) for m in made] == [(1, None), (1, 5), (2, None), (2, 2)]


def test_a_late_tick_makes_its_bar_again_with_a_higher_revision():
    bars = series()
    bars.take(tick(0, 100.0))
    bars.take(tick(1, 101.0))
    (again,) = bars.take(tick(0, 95.0))
    assert prices(again) == (100.0, 100.0, 95.0, 95.0)
    assert (again.start_s, again.revision, again.ticks) == (NOON, 1, 2)
    (third,) = bars.take(tick(0, 96.0))
    assert third.revision == 2


def test_a_tick_of_a_second_that_was_closed_by_the_clock_makes_it_again():
    bars = series()
    bars.take(tick(0, 100.0))
    (first,) = bars.close()
    (again,) = bars.take(tick(0, 101.0))
    assert [(m.close, m.revision) for m in (first, again)] == [(100.0, 0), (101.0, 1)]
    assert not bars.is_open
    assert bars.close() == []


def test_a_late_tick_of_a_second_without_a_bar_makes_one_and_corrects_the_gap_behind_it():
    bars = series()
    made = [
        *bars.take(tick(0)),
        *bars.take(tick(3)),
        *bars.take(tick(4)),
        *bars.take(tick(2, 99.0)),
    ]
    told = [(m.start_s - NOON, m.gap_seconds, m.revision) for m in made]
    assert told == [(0, 0, 0), (3, 2, 0), (2, 1, 0), (3, 0, 1)]


def test_a_late_volume_moves_from_the_next_bar_to_its_own():
    bars = series()
    ticks = [tick(0, volume=100), tick(1, volume=110), tick(2, volume=130), tick(3, volume=131)]
    for item in ticks:
        bars.take(item)
    again = bars.take(tick(1, volume=120))
    assert [(m.start_s - NOON, m.volume, m.revision) for m in again] == [(1, 20, 1), (2, 10, 1)]


def test_a_late_volume_beyond_the_next_second_is_held_within_its_own():
    bars = series()
    for item in (
        tick(0, volume=100),
        tick(1, volume=110),
        tick(2, volume=130),
        tick(3, volume=131),
    ):
        bars.take(item)
    again = newest(bars.take(tick(1, volume=5000)))
    assert (again[1].volume, again[2].volume) == (30, 0)


def test_a_tick_that_is_too_late_is_counted_and_ignored():
    bars = series(late_seconds=2)
    for second in range(4):
        bars.take(tick(second))
    assert len(bars.take(tick(1))) == 1
    assert bars.take(tick(0)) == []
    assert (bars._tally.late, bars._tally.too_late) == (1, 1)


def test_with_no_lateness_allowed_only_the_newest_second_can_be_made_again():
    bars = series(late_seconds=0)
    bars.take(tick(0))
    bars.take(tick(1))
    bars.close()
    assert [m.revision for m in bars.take(tick(1))] == [1]
    assert bars.take(tick(0)) == []


def test_the_second_in_which_reading_began_has_no_bar_but_the_next_is_complete():
    bars = series(begun=Moment(NOON, NOON))
    # One second more, since another connection may be ahead.
    made = made_of(
        bars, [tick(0, volume=7), tick(1, volume=8), tick(2, volume=11), tick(4, volume=12)]
    )
    assert [(m.start_s - NOON, m.volume, m.gap_seconds) for m in made] == [(2, 3, 0), (4, 1, 1)]
    assert bars._tally.cut == 2


def test_a_late_tick_does_not_bring_a_cut_second_out():
    bars = series(begun=Moment(NOON, NOON))
    for second in range(4):
        bars.take(tick(second))
    assert bars.take(tick(1)) == []
    assert len(bars.take(tick(2))) == 1


def test_without_knowing_where_reading_began_the_first_second_is_left_out():
    made = made_of(series(begun=NOWHERE), [tick(0), tick(1)])
    assert [m.start_s - NOON for m in made] == [1]


def test_seconds_of_packets_without_stamp_are_whole_by_the_time_of_receipt():
    begun = Moment(None, NOON)
    made = made_of(series(begun=begun), [tick(s, is_stamped=False) for s in range(4)])
    assert [m.start_s - NOON for m in made] == [2, 3]


def test_a_clock_that_went_back_for_good_starts_over_and_links_nothing():
    bars = series()
    made = made_of(
        bars,
        [
            tick(0, volume=100),
            tick(1, volume=120),
            *(
                tick(second, volume=50 + second, received_ns=(NOON + 7200 + second) * 10**9)
                for second in range(-3600, -3590)
            ),
        ],
    )
    earlier = [m for m in made if m.start_s < NOON - 60]
    assert [m.start_s - NOON for m in made[:2]] == [0, 1]
    assert earlier
    assert earlier[0].gap_seconds == 0
    assert [m.volume for m in earlier] == [1] * len(earlier)
    assert [m.start_s - NOON for m in earlier] == [*range(-3596, -3590)]


rises = st.lists(
    st.tuples(st.integers(0, 3), st.integers(9_000, 11_000), st.integers(0, 50)),
    min_size=1,
    max_size=60,
)
"""Seconds since the tick before, price in paise, units traded since the tick before."""


def market(steps: Sequence[tuple[int, int, int]], *, has_volume: bool = True) -> list[PriceTick]:
    seconds = accumulate(step[0] for step in steps)
    volumes = accumulate(step[2] for step in steps)
    return [
        tick(second, paise / 100, volume if has_volume else None)
        for second, volume, (_, paise, _) in zip(seconds, volumes, steps, strict=True)
    ]


@st.composite
def disorderly(draw) -> list[PriceTick]:
    """Ticks of a market, some held up, so that they come after ticks of later seconds."""
    ticks = market(draw(rises))
    delays = draw(st.lists(st.integers(0, 6), min_size=len(ticks), max_size=len(ticks)))
    arrival = sorted(range(len(ticks)), key=lambda i: (ticks[i].second + delays[i], i))
    return [ticks[i] for i in arrival]


@given(ticks=disorderly(), data=st.data())
def test_any_split_into_batches_gives_the_bars_of_the_whole_sequence(ticks, data):
    whole = made_of(series(), ticks)
    bars, made, rest = series(), [], list(ticks)
    while rest:
        count = data.draw(st.integers(1, len(rest)))
        for item in rest[:count]:
            made += bars.take(item)
        rest = rest[count:]
    assert [*made, *bars.close()] == whole


@given(ticks=disorderly(), data=st.data())
def test_when_the_clock_closes_a_second_changes_its_revision_and_nothing_else(ticks, data):
    whole = newest(made_of(series(), ticks))
    bars, made = series(), []
    for item in ticks:
        made += bars.take(item)
        if data.draw(st.booleans()):
            made += bars.close()
    made += bars.close()
    assert {second: m._replace(revision=0) for second, m in newest(made).items()} == {
        second: m._replace(revision=0) for second, m in whole.items()
    }
    assert all(m.revision >= whole[second].revision for second, m in newest(made).items())


@given(disorderly())
def test_versions_of_a_second_are_numbered_without_a_hole(ticks):
    revisions = defaultdict(list)
    for made in made_of(series(), ticks):
        revisions[made.start_s].append(made.revision)
    assert all(found == [*range(len(found))] for found in revisions.values())


@given(steps=rises, has_volume=st.booleans())
def test_bars_hold_exactly_the_ticks_of_their_seconds(steps, has_volume):
    ticks = market(steps, has_volume=has_volume)
    made = made_of(series(), ticks)
    grouped = defaultdict(list)
    for item in ticks:
        grouped[item.second].append(item)
    assert [m.start_s for m in made] == sorted(grouped)
    for bar in made:
        found = [t.price for t in grouped[bar.start_s]]
        assert prices(bar) == (found[0], max(found), min(found), found[-1])
        assert bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high
        assert bar.ticks == len(found)
        assert bar.revision == 0
    for before, after in pairwise(made):
        assert after.gap_seconds == after.start_s - before.start_s - 1
    volumes = [m.volume for m in made]
    if has_volume:
        assert volumes[0] is None
        first, last = grouped[made[0].start_s][-1].volume, ticks[-1].volume
        assert first is not None
        assert last is not None
        assert sum(volume or 0 for volume in volumes) == last - first
        assert None not in volumes[1:]
    else:
        assert set(volumes) == {None}


@given(disorderly())
def test_what_comes_late_is_in_its_bar_and_no_volume_is_lost_or_doubled(ticks):
    bars = series()
    made = newest(made_of(bars, ticks))
    reached, taken = ticks[0].second, defaultdict(list)
    for item in ticks:
        reached = max(reached, item.second)
        if reached - item.second <= 5:
            taken[item.second - NOON].append(item)
    assert bars._tally.too_late == len(ticks) - sum(map(len, taken.values()))
    assert made.keys() == taken.keys()
    for second, found in taken.items():
        assert prices(made[second]) == (
            found[0].price,
            max(t.price for t in found),
            min(t.price for t in found),
            found[-1].price,
        )
        assert made[second].ticks == len(found)
    seconds = sorted(taken)
    for before, after in pairwise(seconds):
        assert made[after].gap_seconds == after - before - 1
    told = [max(t.volume or 0 for t in taken[second]) for second in seconds]
    for (before, after), second in zip(pairwise(told), seconds[1:], strict=True):
        assert made[second].volume == after - before


@given(
    st.lists(st.tuples(st.integers(-8, 8), st.one_of(st.none(), st.integers(0, 500))), max_size=60)
)
def test_whatever_the_order_of_seconds_and_volumes_no_volume_is_negative(steps):
    second, ticks = 0, []
    for step, volume in steps:
        second += step
        ticks.append(tick(second, volume=volume))
    for made in made_of(series(), ticks):
        assert made.volume is None or made.volume >= 0
        assert made.gap_seconds >= 0
        assert made.ticks >= 1
