"""When each instrument dump is to be downloaded: by the market's clock, failures with backoff."""

from collections.abc import Callable, Iterable
from datetime import datetime, time, timedelta
from typing import Final

import msgspec

from libs.common.domain.clock import IST
from libs.common.resilience.backoff import Backoff

DAILY_AT: Final = time(8, 30)
"""Indian time at which Kite has made the day's dump: what was fetched at midnight is yesterday's
under today's date."""

RETRY_FIRST_SECONDS: Final = 1.0
RETRY_CEILING_SECONDS: Final = 900.0


def is_due(fetched_at: datetime, now: datetime, *, refresh_hours: float) -> bool:
    """Whether a dump is too old.

    It is when the Indian date is another one, when `DAILY_AT` lies between then and now, and when
    it is older than the interval. A market clock that went back within a day makes nothing due.

    Args:
        fetched_at: The market's time when it was downloaded.
        now: The market's time.
        refresh_hours: How old a dump may become.
    """
    then, here = fetched_at.astimezone(IST), now.astimezone(IST)
    if _is_another_day(then, here):
        return True
    daily = datetime.combine(here.date(), DAILY_AT, tzinfo=IST)
    return then < daily <= here or here - then >= timedelta(hours=refresh_hours)


class _Entry(msgspec.Struct):
    """What is known of one dump.

    Attributes:
        fetched_at: The market's time of the last good download; None before the first.
        failed_on: The market's time of the last failure since then; None without one.
        retry_at_seconds: Real time of the next attempt after a failure.
    """

    backoff: Backoff
    fetched_at: datetime | None = None
    failed_on: datetime | None = None
    retry_at_seconds: float = 0.0


class DumpSchedule:
    """Remembers when each dump was fetched and when a failed one may be tried again.

    Age counts on the market's clock, which a simulator may run faster; pauses between attempts
    count on real time, since they are there for the server's sake. A new day tries at once.

    Args:
        names: The dumps: exchanges, or the one name of the file with all of them.
        refresh_hours: How old a dump may become.
        new_backoff: Makes the pauses of one dump.
    """

    def __init__(
        self,
        names: Iterable[str],
        *,
        refresh_hours: float,
        new_backoff: Callable[[], Backoff] = lambda: Backoff(
            first_seconds=RETRY_FIRST_SECONDS, ceiling_seconds=RETRY_CEILING_SECONDS
        ),
    ) -> None:
        self._refresh_hours = refresh_hours
        self._entries = {name: _Entry(backoff=new_backoff()) for name in names}

    def due(self, now: datetime, monotonic_seconds: float) -> list[str]:
        """The dumps to download now, in the order of their names' first mention.

        Args:
            now: The market's time.
            monotonic_seconds: Real time.
        """
        return [
            name
            for name, entry in self._entries.items()
            if self._is_wanted(entry, now) and self._may_try(entry, now, monotonic_seconds)
        ]

    def _is_wanted(self, entry: _Entry, now: datetime) -> bool:
        return (
            entry.fetched_at is None
            or entry.failed_on is not None
            or is_due(entry.fetched_at, now, refresh_hours=self._refresh_hours)
        )

    def _may_try(self, entry: _Entry, now: datetime, monotonic_seconds: float) -> bool:
        if entry.failed_on is None or monotonic_seconds >= entry.retry_at_seconds:
            return True
        return _is_another_day(entry.failed_on, now)

    def adopt(self, name: str, fetched_at: datetime) -> None:
        """Take over what an earlier leader fetched; other names are none of ours."""
        if name in self._entries:
            self._entries[name].fetched_at = fetched_at

    def succeeded(self, name: str, now: datetime) -> None:
        """A dump was fetched and is in force."""
        entry = self._entries[name]
        entry.fetched_at, entry.failed_on = now, None
        entry.backoff.reset()

    def failed(self, name: str, now: datetime, monotonic_seconds: float) -> float:
        """A dump could not be had or used; gives the pause before the next attempt, in seconds."""
        entry = self._entries[name]
        if entry.failed_on is not None and _is_another_day(entry.failed_on, now):
            entry.backoff.reset()
        pause_seconds = entry.backoff.next_seconds()
        entry.failed_on = now
        entry.retry_at_seconds = monotonic_seconds + pause_seconds
        return pause_seconds


def _is_another_day(one: datetime, other: datetime) -> bool:
    return one.astimezone(IST).date() != other.astimezone(IST).date()
