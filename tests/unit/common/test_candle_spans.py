"""Candle spans: every second once, no piece too long, boundaries where no candle is."""

from datetime import datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from libs.common.contracts.messages import CandleInterval
from libs.common.domain.candle_spans import DAYS_AT_ONCE, LAST_SECOND, Span, pieces, split
from libs.common.domain.clock import IST

DAY = 86_400
intervals = st.sampled_from(sorted(DAYS_AT_ONCE))
starts = st.integers(0, 2_000_000_000)


def epoch(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=IST).timestamp())


def by_brute_force(start: int, end: int, interval: str) -> list[Span]:
    """Walk day by day, in Indian dates, and close a piece when it holds the days allowed."""
    found: list[Span] = []
    day = datetime.fromtimestamp(start, IST).replace(hour=0, minute=0, second=0)
    first, days = start, 0
    while True:
        days += 1
        day += timedelta(days=1)
        midnight = int(day.timestamp())
        if midnight > end:
            return [*found, Span(first, end)]
        if days == DAYS_AT_ONCE[interval]:
            found.append(Span(first, midnight - 1))
            first, days = midnight, 0


@given(starts, st.integers(0, 1_500 * DAY), intervals)
@example(0, 0, "minute")
def test_pieces_are_those_of_brute_force(start, length, interval):
    found = list(split(start, start + length, interval))
    assert found == by_brute_force(start, start + length, interval)
    assert pieces(start, start + length, interval) == len(found)


@given(starts, st.integers(0, 20_000 * DAY), intervals)
def test_pieces_cover_every_second_once_and_keep_to_kites_limit(start, length, interval):
    found = list(split(start, start + length, interval))
    assert found[0].start == start
    assert found[-1].end == start + length
    for piece in found:
        # Kite counts from `from` to `to`; a piece of exactly the limit would be one second less.
        assert 0 <= piece.end - piece.start < DAYS_AT_ONCE[interval] * DAY
    for before, after in pairwise(found):
        assert after.start == before.end + 1
        assert datetime.fromtimestamp(after.start, IST).strftime("%H:%M:%S") == "00:00:00"


def test_sixty_days_of_minutes_are_one_piece_and_a_second_more_are_two():
    start = epoch("2026-01-01 00:00:00")
    whole = start + 60 * DAY - 1
    assert list(split(start, whole, "minute")) == [Span(start, whole)]
    assert list(split(start, whole + 1, "minute")) == [
        Span(start, whole),
        Span(whole + 1, whole + 1),
    ]


def test_piece_that_starts_within_a_day_still_ends_at_midnight():
    start = epoch("2026-01-01 10:30:00")
    first, second = split(start, start + 60 * DAY, "minute")
    assert first == Span(start, epoch("2026-03-01 23:59:59"))
    assert second.start == epoch("2026-03-02 00:00:00")


def test_every_interval_of_the_contract_has_a_limit():
    assert set(DAYS_AT_ONCE) == {interval.value for interval in CandleInterval}


@pytest.mark.parametrize("call", [pieces, lambda *args: list(split(*args))])
@pytest.mark.parametrize(
    ("start", "end", "interval", "complaint"),
    [
        (0, 1, "2minute", "interval must be one of minute"),
        (2, 1, "minute", "end must not be before start"),
        (-1, 1, "minute", "epoch seconds"),
        (0, LAST_SECOND + 1, "day", "epoch seconds"),
    ],
)
def test_senseless_span_is_refused(call, start, end, interval, complaint):
    with pytest.raises(ValueError, match=complaint):
        call(start, end, interval)


def test_last_second_is_the_end_of_a_year():
    assert datetime.fromtimestamp(LAST_SECOND, IST).isoformat() == "2999-12-31T23:59:59+05:30"
    assert list(split(LAST_SECOND - DAY, LAST_SECOND, "day")) == [
        Span(LAST_SECOND - DAY, LAST_SECOND)
    ]
