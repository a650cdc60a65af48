"""How many days of candles Kite gives at once, and how a longer span is cut for it."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Final, NamedTuple

from libs.common.domain.clock import IST

DAYS_AT_ONCE: Final = {
    "minute": 60,
    "3minute": 100,
    "5minute": 100,
    "10minute": 100,
    "15minute": 200,
    "30minute": 200,
    "60minute": 400,
    "day": 2_000,
}
"""Longest request by interval, in days; beyond it Kite says "interval exceeds max limit"."""

LAST_SECOND: Final = 32_503_660_199
"""The end of the year 2999 in India, epoch seconds: what is later is milliseconds by mistake."""


class Span(NamedTuple):
    """A closed span of time: both ends belong to it.

    Attributes:
        start: First second, epoch.
        end: Last second, epoch; not before `start`.
    """

    start: int
    end: int


def split(start: int, end: int, interval: str) -> Iterator[Span]:
    """Cut a span into pieces that Kite serves, oldest first.

    Pieces neither overlap nor leave gaps. Since Kite's `to` is inclusive, a piece ends on the
    second before the next one begins. They meet at midnight in India, when no market is open: a
    boundary inside a candle could bring it twice, whole and in part.

    Args:
        start: First second, epoch; inclusive.
        end: Last second, epoch; inclusive.
        interval: One of `DAYS_AT_ONCE`.

    Raises:
        ValueError: Unknown interval, `end` before `start`, or outside the years 1970 to 2999.
    """
    days = _days_of(interval)
    _check(start, end)
    while start <= end:
        following = _midnight_after(start, days)
        yield Span(start, min(end, following - 1))
        start = following


def pieces(start: int, end: int, interval: str) -> int:
    """How many pieces `split` makes.

    Raises:
        ValueError: As `split`.
    """
    days = _days_of(interval)
    _check(start, end)
    # India has had no clock change since 1945, so that days are equally long.
    first = _midnight_after(start, days)
    return 1 if end < first else 2 + (end - first) // (days * 86_400)


def _days_of(interval: str) -> int:
    days = DAYS_AT_ONCE.get(interval)
    if days is None:
        raise ValueError(f"interval must be one of {', '.join(DAYS_AT_ONCE)}, not {interval!r}")
    return days


def _check(start: int, end: int) -> None:
    if not 0 <= start <= LAST_SECOND or not 0 <= end <= LAST_SECOND:
        raise ValueError(f"start and end must be epoch seconds from 0 to {LAST_SECOND}")
    if end < start:
        raise ValueError("end must not be before start")


def _midnight_after(second: int, days: int) -> int:
    """The midnight that begins the day so many days after that of `second`."""
    day = datetime.fromtimestamp(second, IST).date() + timedelta(days=days)
    return int(datetime(day.year, day.month, day.day, tzinfo=IST).timestamp())
