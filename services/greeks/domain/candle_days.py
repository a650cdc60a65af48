"""Which days of a span must be fetched, and which of those may be kept for good."""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from libs.common.domain.candle_spans import Span
from services.greeks.domain.candle_columns import (
    DAY_SECONDS,
    Columns,
    columns_of,
    join,
    midnight_of,
)


class Fetch(NamedTuple):
    """What one call has to bring.

    Attributes:
        span: What to ask for; begins and ends at midnight where the day there is over.
        keep: Days that are over and not known yet, ascending: once fetched they never change.
    """

    span: Span
    keep: tuple[int, ...]


def days_of(span: Span) -> range:
    """The Indian days that a span touches, by number."""
    return range(
        (span.start - midnight_of(0)) // DAY_SECONDS, (span.end - midnight_of(0)) // DAY_SECONDS + 1
    )


def closed_days(days: Collection[int], closed_before: int) -> list[int]:
    """Those that were over when the market's current day began, ascending."""
    return sorted(day for day in days if day < closed_before)


def fetch_for(
    span: Span, needed: Collection[int], known: Collection[int], closed_before: int
) -> Fetch | None:
    """The one call that brings what is not known of some days.

    One call and not one per gap: Kite counts calls, not days, and a piece is never longer than
    what it gives at once. Days that are over are fetched whole, whatever the span cuts off, so
    that they can be kept.

    Args:
        span: A piece of the request.
        needed: Days of it that somebody wants, by number.
        known: Days that need not be fetched.
        closed_before: Days before this one are over.

    Returns:
        None if everything needed is known.
    """
    missing = sorted(set(needed) - set(known))
    if not missing:
        return None
    first, last = missing[0], missing[-1]
    start = midnight_of(first) if first < closed_before else max(span.start, midnight_of(first))
    end = midnight_of(last + 1) - 1
    if last >= closed_before:
        end = min(span.end, end)
    keep = tuple(day for day in range(first, last + 1) if day < closed_before and day not in known)
    return Fetch(Span(start, end), keep)


def kept_days(fetched: Columns, keep: Collection[int]) -> Iterator[tuple[int, Columns]]:
    """The candles of each day to be kept; a day without any is one without candles."""
    found = dict(fetched.by_day())
    nothing = columns_of(())
    for day in sorted(keep):
        yield day, found.get(day, nothing)


def merged(known: Mapping[int, Columns], fetched: Columns) -> Columns:
    """Kept days and fetched ones in order; a day that is both is taken from what was fetched."""
    days = {**known, **dict(fetched.by_day())}
    return join(days[day] for day in sorted(days))
