"""Days of candles: what is fetched, what is kept, and that stitched they are what was there."""

from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.contracts.messages import Candle
from libs.common.domain.candle_spans import DAYS_AT_ONCE, Span, split
from services.greeks.domain.candle_columns import (
    DAY_SECONDS,
    Columns,
    StoredDayError,
    columns_of,
    day_number,
    day_of,
    join,
    midnight_of,
    pack,
    unpack,
)
from services.greeks.domain.candle_days import (
    closed_days,
    days_of,
    fetch_for,
    kept_days,
    merged,
)

FIRST = day_number(date(2026, 11, 2))
"""The days of these tests count from here."""

numbers = st.integers(0, 2**40)
floats = st.floats(0, 1e9)


def lists(columns: Columns) -> list[list[float]]:
    return [column.tolist() for column in columns]


@st.composite
def markets(draw) -> Columns:
    """Some candles of twelve days; days and hours without any are common."""
    starts = draw(
        st.lists(st.tuples(st.integers(0, 11), st.integers(0, 23)), unique=True, max_size=40)
    )
    return columns_of(
        [
            Candle(midnight_of(FIRST + day) + 3_600 * hour, 1.0, 2.0, 0.5, 1.5, day, hour)
            for day, hour in sorted(starts)
        ]
    )


@given(
    st.lists(
        st.builds(Candle, numbers, floats, floats, floats, floats, numbers, st.none() | numbers),
        max_size=30,
    )
)
def test_stored_candles_are_read_back_to_the_last_bit(candles):
    columns = columns_of(candles)
    assert lists(unpack(pack(columns))) == lists(columns)


@pytest.mark.parametrize(
    "packed", [b"", b"\x02abc", b"\x01", b"\x01abc", pack(columns_of(()))[:-1]]
)
def test_bytes_that_are_no_stored_day_are_refused(packed):
    with pytest.raises(StoredDayError):
        unpack(packed)


@given(markets(), st.integers(0, 12 * 24), st.integers(0, 12 * 24))
def test_between_keeps_what_begins_in_a_closed_span(market, one, other):
    first, last = (midnight_of(FIRST) + 3_600 * hour for hour in sorted((one, other)))
    inside = market.between(first, last).start.tolist()
    assert inside == [s for s in market.start.tolist() if first <= s <= last]


@given(st.dates(date(1971, 1, 1), date(2999, 12, 31)))
def test_day_numbers_are_those_of_indian_days(day):
    number = day_number(day)
    assert day_of(number) == day
    assert list(days_of(Span(midnight_of(number), midnight_of(number + 1) - 1))) == [number]


@settings(max_examples=300)
@given(
    markets(),
    st.integers(0, 12 * 24 - 1),
    st.integers(0, 12 * 24 - 1),
    st.sets(st.integers(0, 11)),
    st.integers(0, 13),
    st.sets(st.integers(0, 11)) | st.none(),
)
def test_kept_and_fetched_days_together_are_the_whole_market(
    market, one, other, stored, closed, only
):
    """Whatever is stored, one call brings the rest, and the result is what Kite has."""
    low, high = (midnight_of(FIRST) + 3_600 * hour for hour in sorted((one, other)))
    span, closed_before = Span(low, high), FIRST + closed
    whole = dict(kept_days(market, range(FIRST, FIRST + 12)))
    needed = set(days_of(span))
    if only is not None:
        needed &= {FIRST + day for day in only}
    kept = {FIRST + day for day in stored}
    known = {day: whole[day] for day in closed_days(needed, closed_before) if day in kept}

    fetch = fetch_for(span, needed, known, closed_before)

    fetched = columns_of(()) if fetch is None else market.between(*fetch.span)
    result = merged(known, fetched).between(*span)
    expected = market.between(*span)
    if only is not None:
        result, expected = (_of_days(columns, needed) for columns in (result, expected))
    assert lists(result) == lists(expected)
    if fetch is None:
        assert needed <= set(known)
        return
    keep = dict(kept_days(fetched, fetch.keep))
    assert all(day < closed_before for day in keep)
    assert needed - set(known) - set(keep) == {day for day in needed if day >= closed_before}
    # What is kept of a day is the day, even where the request begins or ends inside it.
    for day, columns in keep.items():
        assert lists(columns) == lists(whole[day])
    assert (fetch.span.end - fetch.span.start) // DAY_SECONDS < len(days_of(span))


@given(st.sampled_from(sorted(DAYS_AT_ONCE)), st.integers(0, 5_000), st.integers(0, 86_399))
def test_whole_days_of_a_piece_stay_within_what_kite_gives_at_once(interval, length, second):
    start = midnight_of(FIRST) + second
    for piece in split(start, start + length * DAY_SECONDS, interval):
        fetch = fetch_for(piece, days_of(piece), (), FIRST + 10_000)
        assert fetch is not None
        assert len(list(split(*fetch.span, interval))) == 1


def test_second_request_needs_nothing():
    span = Span(midnight_of(FIRST) + 100, midnight_of(FIRST + 3))
    first = fetch_for(span, days_of(span), (), FIRST + 10)
    assert first is not None
    assert first.keep == tuple(days_of(span))
    assert fetch_for(span, days_of(span), first.keep, FIRST + 10) is None


def test_present_day_is_fetched_up_to_where_it_was_asked_for_and_not_kept():
    noon = midnight_of(FIRST + 1) + 43_200
    fetch = fetch_for(Span(midnight_of(FIRST) + 60, noon), [FIRST, FIRST + 1], (), FIRST + 1)
    assert fetch == (Span(midnight_of(FIRST), noon), (FIRST,))


def test_nothing_joined_is_nothing():
    assert lists(join([])) == [[]] * 7
    assert list(columns_of(()).by_day()) == []


def _of_days(columns: Columns, days: set[int]) -> Columns:
    inside = [int(day) in days for day in (columns.start - midnight_of(0)) // DAY_SECONDS]
    return columns.rows(np.array(inside, np.bool_))
