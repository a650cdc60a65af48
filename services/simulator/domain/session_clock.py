"""The virtual clock of the market: real pace or another, and no dead hours unless wanted."""

import time
from collections.abc import Callable
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from typing import Final

from libs.common.domain.clock import IST, VirtualClock, ist_datetime, ns_of
from libs.common.domain.market_calendar import MarketCalendar, Session

MARKET: Final = "NFO"
_DEMO_HOUR: Final = time_of_day(10, 0)


def resolve_start(start: str, *, real_now_ns: int, calendar: MarketCalendar) -> int:
    """Give the first reading of the virtual clock.

    Args:
        start: `auto`, or an ISO date and time; without a zone it is Indian time. `auto` means
            real time while F&O trades, else 10:00 of the nearest trading day that has begun.
        real_now_ns: Real epoch nanoseconds.
        calendar: Knows the sessions.

    Returns:
        Epoch nanoseconds.

    Raises:
        ValueError: `start` is neither.
    """
    if start.strip().lower() != "auto":
        try:
            moment = datetime.fromisoformat(start)
        except ValueError:
            raise ValueError(
                f"{start!r} is neither 'auto' nor a date and time like 2026-11-23T10:00:00"
            ) from None
        return ns_of(moment if moment.tzinfo else moment.replace(tzinfo=IST))
    now = ist_datetime(real_now_ns)
    session = calendar.session(MARKET, now.date())
    if session is not None and session.open <= now < session.close:
        return real_now_ns
    day = now.date()
    if not calendar.is_trading_day(MARKET, day):
        day = calendar.previous_trading_day(MARKET, day)
    return ns_of(datetime.combine(day, _DEMO_HOUR, tzinfo=IST))


class SessionClock:
    """Virtual time that can step over the hours in which nothing trades.

    Args:
        start_ns: First reading, epoch nanoseconds.
        rate: Virtual seconds per real second.
        skip_closed: When the F&O session has closed, go on at the next trading day's open.
        calendar: Knows the sessions.
        monotonic_ns: Elapsed real time.
    """

    def __init__(
        self,
        start_ns: int,
        *,
        rate: float,
        skip_closed: bool,
        calendar: MarketCalendar,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._clock = VirtualClock(start_ns, rate, monotonic_ns)
        self._skip_closed = skip_closed
        self._calendar = calendar
        # Inside this span no calendar needs to be asked.
        self._open_from_ns = self._open_until_ns = 0

    @property
    def rate(self) -> float:
        """Virtual seconds per real second."""
        return self._clock.rate

    @property
    def skip_closed(self) -> bool:
        """Whether closed hours are stepped over."""
        return self._skip_closed

    def set_pace(self, *, rate: float | None = None, skip_closed: bool | None = None) -> None:
        """Change the pace, or whether closed hours are stepped over, from now on."""
        if rate is not None:
            self._clock.set_rate(rate)
        if skip_closed is not None:
            self._skip_closed = skip_closed

    def jump_to(self, at_ns: int) -> None:
        """Go on at a later moment.

        Args:
            at_ns: Virtual epoch nanoseconds.

        Raises:
            ValueError: The moment has passed: volumes and tokens cannot be taken back.
        """
        now_ns = self._clock.now_ns()
        if at_ns < now_ns:
            raise ValueError(f"the clock is at {ist_datetime(now_ns).isoformat()} already")
        self._clock.advance_ns(at_ns - now_ns)

    def now_ns(self) -> int:
        """Give virtual epoch nanoseconds, after stepping over closed hours if wanted."""
        now_ns = self._clock.now_ns()
        if not self._skip_closed or self._open_from_ns <= now_ns < self._open_until_ns:
            return now_ns
        session = self._session_at_or_after(ist_datetime(now_ns))
        self._open_from_ns, self._open_until_ns = ns_of(session.open), ns_of(session.close)
        if now_ns < self._open_from_ns:
            self._clock.advance_ns(self._open_from_ns - now_ns)
        return self._clock.now_ns()

    def is_open(self, now_ns: int) -> bool:
        """Say whether F&O trades at a moment."""
        if self._open_from_ns <= now_ns < self._open_until_ns:
            return True
        moment = ist_datetime(now_ns)
        session = self._calendar.session(MARKET, moment.date())
        return session is not None and session.open <= moment < session.close

    def _session_at_or_after(self, moment: datetime) -> Session:
        session = self._calendar.session(MARKET, moment.date())
        if session is None or moment >= session.close:
            day = self._calendar.next_trading_day(MARKET, moment.date())
            session = self._calendar.session(MARKET, day)
        if session is None:
            raise LookupError(f"the market calendar knows no session after {moment:%Y-%m-%d}")
        return session


def trading_day(now_ns: int, calendar: MarketCalendar) -> date:
    """Give the day whose prices are shown at a moment: today from 06:00, else the last one.

    Args:
        now_ns: Epoch nanoseconds.
        calendar: Knows the sessions.
    """
    # Before 06:00 the dump and the prices of the previous session are still served.
    day = (ist_datetime(now_ns) - timedelta(hours=6)).date()
    return (
        day if calendar.is_trading_day(MARKET, day) else calendar.previous_trading_day(MARKET, day)
    )
