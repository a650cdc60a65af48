"""Turns the time between two moments into years, by seconds or by trading days."""

from collections.abc import Callable
from datetime import date, datetime, timedelta
from typing import Final

import numpy as np
import numpy.typing as npt

from libs.common.contracts.messages import YearClock
from libs.common.domain.clock import IST
from libs.common.domain.market_calendar import MarketCalendar, Session

Floats = npt.NDArray[np.float64]

SECONDS_PER_YEAR: Final = 365 * 86_400
"""ACT/365, by seconds."""
TRADING_DAYS_PER_YEAR: Final = 252
DAYS_PER_YEAR: Final = {YearClock.ACT365: 365, YearClock.TRADING252: TRADING_DAYS_PER_YEAR}
"""Days by which each clock divides: theta is per one of them."""
LAST_MINUTE_SECONDS: Final = 60.0
"""Within it every clock counts seconds, so that `expiring` means the same by all of them."""

_ONE_DAY: Final = timedelta(days=1)
_MARGIN: Final = timedelta(days=30)


class YearClocks:
    """Years between moments, by the clock of a convention.

    By `trading252` an ordinary trading day of the exchange is 1/252 of a year, spread evenly over
    its session; nights, weekends and holidays take no time. From the close on Friday to that of
    Monday it is 1/252; by `act365` 3/365.

    Args:
        calendar: Knows the sessions.
    """

    def __init__(self, calendar: MarketCalendar) -> None:
        self._calendar = calendar
        self._days: dict[str, _TradingDays] = {}

    def years(
        self, clock: YearClock, exchange: str, at_s: Floats | float, instant_s: Floats | float
    ) -> Floats:
        """Years from each moment to the end of a contract; negative after it.

        Args:
            clock: Which one.
            exchange: Whose sessions count, as Kite spells it: NFO, BFO …
            at_s: Epoch seconds, [n] or one.
            instant_s: Epoch seconds at which the contracts die, [n] or one.

        Returns:
            float64, shape of the arguments; NaN where one is not finite.

        Raises:
            CalendarError: The calendar does not know the exchange.
        """
        left_s = np.asarray(instant_s, np.float64) - at_s
        by_seconds: Floats = left_s / SECONDS_PER_YEAR
        if clock is YearClock.ACT365:
            return by_seconds
        days = self.trading_days(exchange, at_s, instant_s)
        return np.where(left_s < LAST_MINUTE_SECONDS, by_seconds, days / TRADING_DAYS_PER_YEAR)

    def trading_days(
        self, exchange: str, at_s: Floats | float, instant_s: Floats | float
    ) -> Floats:
        """Trading days between moments, fractions of a session included.

        Raises:
            CalendarError: The calendar does not know the exchange.
        """
        days = self._days.get(exchange)
        if days is None:
            days = self._days[exchange] = _TradingDays(
                lambda day: self._calendar.is_business_day(exchange, day),
                lambda day: self._calendar.session(exchange, day),
            )
        return days.between(np.asarray(at_s, np.float64), np.asarray(instant_s, np.float64))


class _TradingDays:
    """How many trading days of one exchange have passed at any moment, from a day of its own."""

    def __init__(
        self, is_business_day: Callable[[date], bool], session: Callable[[date], Session | None]
    ) -> None:
        self._is_business_day = is_business_day
        self._session = session
        self._first: date | None = None
        self._last = date.min
        self._seconds: Floats = np.empty(0)
        self._count: Floats = np.empty(0)

    def between(self, start_s: Floats, end_s: Floats) -> Floats:
        """Days from each start to its end; NaN where one is not finite."""
        known = np.isfinite(start_s) & np.isfinite(end_s)
        if not known.any():
            return np.full(known.shape, np.nan)
        ends = [moments[np.isfinite(moments)] for moments in (start_s, end_s)]
        # Before either is counted: the origin of the count moves when more days become known.
        self._reach(
            _day_of(min(float(part.min()) for part in ends)),
            _day_of(max(float(part.max()) for part in ends)),
        )
        passed = np.interp(end_s, self._seconds, self._count)
        passed = passed - np.interp(start_s, self._seconds, self._count)
        return np.where(known, passed, np.nan)

    def _reach(self, first: date, last: date) -> None:
        """Know all sessions from one day to another; the days known only grow."""
        if self._first is not None and self._first <= first and last <= self._last:
            return
        self._first = min(first, self._first or first) - _MARGIN
        self._last = max(last, self._last) + _MARGIN
        seconds: list[float] = []
        day = self._first
        while day <= self._last:
            session = self._session(day) if self._is_business_day(day) else None
            if session is not None:
                seconds += [session.open.timestamp(), session.close.timestamp()]
            day += _ONE_DAY
        self._seconds = np.array(seconds)
        sessions = np.arange(len(seconds) // 2, dtype=np.float64)
        self._count = np.column_stack((sessions, sessions + 1.0)).ravel()


def _day_of(moment_s: float) -> date:
    return datetime.fromtimestamp(moment_s, IST).date()
