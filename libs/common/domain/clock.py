"""What time it is, as a value that pure code and tests can be handed."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final, Protocol
from zoneinfo import ZoneInfo

__all__ = [
    "IST",
    "NS_PER_SECOND",
    "Clock",
    "OffsetClock",
    "SystemClock",
    "VirtualClock",
    "ist_datetime",
    "ns_of",
]

IST: Final = ZoneInfo("Asia/Kolkata")
"""The zone of every Indian exchange: UTC+05:30 all year."""

NS_PER_SECOND: Final = 1_000_000_000

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


class Clock(Protocol):
    """A source of wall-clock time."""

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z."""
        ...


class SystemClock:
    """The clock of this machine; it may step when the machine's time is corrected."""

    __slots__ = ()

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z, as the operating system tells it."""
        return time.time_ns()


class OffsetClock:
    """Another clock, shifted by a constant: "the same market, but at ten this morning".

    Args:
        offset_ns: Nanoseconds added to what ``base`` says; negative shifts into the past.
        base: The clock that is shifted.
    """

    __slots__ = ("_base", "offset_ns")

    def __init__(self, offset_ns: int, base: Clock | None = None) -> None:
        self.offset_ns = offset_ns
        self._base: Clock = base or SystemClock()

    def now_ns(self) -> int:
        """Nanoseconds since 1970-01-01T00:00:00Z, shifted."""
        return self._base.now_ns() + self.offset_ns


class VirtualClock:
    """A clock that starts where it is told and runs at its own pace, never backwards.

    Args:
        start_ns: Its first reading, in nanoseconds since 1970-01-01T00:00:00Z.
        rate: Virtual seconds per real second; 0 freezes it (tests move it with ``advance_ns``).
        monotonic_ns: Where elapsed real time comes from, in nanoseconds.

    Raises:
        ValueError: ``rate`` is negative.
    """

    __slots__ = ("_anchor_ns", "_monotonic_ns", "_now_ns", "_rate")

    def __init__(
        self,
        start_ns: int,
        rate: float = 1.0,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._check_rate(rate)
        self._rate = rate
        self._monotonic_ns = monotonic_ns
        self._now_ns = start_ns
        self._anchor_ns = monotonic_ns()

    @property
    def rate(self) -> float:
        """Virtual seconds per real second."""
        return self._rate

    def now_ns(self) -> int:
        """Virtual nanoseconds since 1970-01-01T00:00:00Z."""
        elapsed_ns = self._monotonic_ns() - self._anchor_ns
        # At rate 1 the float product would lose nanoseconds after 104 days.
        return self._now_ns + (elapsed_ns if self._rate == 1.0 else int(elapsed_ns * self._rate))

    def set_rate(self, rate: float) -> None:
        """Change the pace from now on; the reading itself does not jump.

        Args:
            rate: Virtual seconds per real second; 0 freezes the clock.

        Raises:
            ValueError: ``rate`` is negative.
        """
        self._check_rate(rate)
        self._rebase()
        self._rate = rate

    def advance_ns(self, step_ns: int) -> None:
        """Jump forward.

        Args:
            step_ns: Virtual nanoseconds to skip.

        Raises:
            ValueError: ``step_ns`` is negative; a market clock that runs backwards breaks
                every order of events behind it.
        """
        if step_ns < 0:
            raise ValueError(f"step_ns must not be negative, got {step_ns}")
        self._rebase()
        self._now_ns += step_ns

    def _rebase(self) -> None:
        now_ns = self.now_ns()
        self._anchor_ns = self._monotonic_ns()
        self._now_ns = now_ns

    @staticmethod
    def _check_rate(rate: float) -> None:
        if not 0 <= rate < float("inf"):
            raise ValueError(f"rate must be a finite number >= 0, got {rate}")


def ist_datetime(epoch_ns: int) -> datetime:
    """The moment as an aware datetime in Indian time.

    Args:
        epoch_ns: Nanoseconds since 1970-01-01T00:00:00Z.

    Returns:
        An aware datetime in ``IST``; nanoseconds below one microsecond are cut off.
    """
    # Integer arithmetic: `fromtimestamp(float)` is off by up to a microsecond today.
    return (_EPOCH + timedelta(microseconds=epoch_ns // 1000)).astimezone(IST)


def ns_of(moment: datetime) -> int:
    """Nanoseconds since 1970-01-01T00:00:00Z of an aware datetime.

    Args:
        moment: An aware datetime of any zone.

    Raises:
        ValueError: ``moment`` is naive. Kite's REST strings are Indian time, its SDK's
            datetimes are local time: a naive one cannot be trusted.
    """
    if moment.tzinfo is None:
        raise ValueError(f"moment must carry a time zone, got naive {moment.isoformat()}")
    return (moment - _EPOCH) // _MICROSECOND * 1000
