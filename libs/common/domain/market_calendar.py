"""When the Indian markets trade: the one place that every service asks.

Built from the generated holiday table (``holidays``) and the dated hours (``trading_hours``).
Nothing here knows what time it is: days and moments come in, sessions and phases go out.
"""

from collections.abc import Iterable, Mapping
from datetime import date, datetime, time, timedelta
from enum import StrEnum
from typing import Final
from zoneinfo import ZoneInfo

import msgspec

from libs.common.domain import holidays, trading_hours
from libs.common.domain.clock import IST
from libs.common.domain.trading_hours import Hours, SpecialSession
from libs.common.errors import RejectedError

__all__ = ["CALENDAR", "CalendarError", "MarketCalendar", "Phase", "Session"]

_NEW_YORK: Final = ZoneInfo("America/New_York")
_ONE_DAY: Final = timedelta(days=1)
_SEARCH_DAYS: Final = 366
_SATURDAY: Final = 5
_SETTLES_ON: Final = {"NFO": "NSE", "BFO": "BSE"}
_LAST_HALF_HOUR: Final = timedelta(minutes=30)


class Phase(StrEnum):
    """What an exchange segment is doing."""

    PRE_OPEN = "pre_open"
    OPEN = "open"
    CLOSING_AUCTION = "closing_auction"
    POST_CLOSE = "post_close"
    CLOSED = "closed"


class CalendarError(RejectedError):
    """The calendar cannot answer this question.

    Attributes:
        field: The argument at fault.
        reason: What is wrong with it, in words.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason

    def __str__(self) -> str:
        """The argument and what is wrong with it."""
        return f"{self.field} {self.reason}"


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """The hours of one exchange segment on one day; every moment is aware, in Indian time.

    Attributes:
        segment: The exchange as Kite spells it: "NSE", "NFO" …
        date: The trading day.
        open: Start of continuous trading.
        close: The last moment at which orders can match, a closing auction included.
        pre_open: Start of the opening auction; None where there is none.
        pre_open_entry_until: End of the opening auction's order entry.
        closing_auction: Start of the closing auction for the shares that have one (those with
            derivatives, since 2026-08-03); the others trade on continuously to 15:30.
        post_close_until: End of trading at the closing price.
        occasion: None on an ordinary day; "budget", "muhurat", "evening" (commodities on a
            holiday) or "new_year" (commodities, morning only).
    """

    segment: str
    date: date
    open: datetime
    close: datetime
    pre_open: datetime | None = None
    pre_open_entry_until: datetime | None = None
    closing_auction: datetime | None = None
    post_close_until: datetime | None = None
    occasion: str | None = None

    def phase(self, at: datetime) -> Phase:
        """What the segment does at an aware moment, if this is the session of its day."""
        if at < self.open:
            opening = self.pre_open is not None and at >= self.pre_open
            return Phase.PRE_OPEN if opening else Phase.CLOSED
        if at < self.close:
            in_auction = self.closing_auction is not None and at >= self.closing_auction
            return Phase.CLOSING_AUCTION if in_auction else Phase.OPEN
        after = self.post_close_until is not None and at < self.post_close_until
        return Phase.POST_CLOSE if after else Phase.CLOSED


class MarketCalendar:
    """Sessions, holidays and expiry moments of the Indian exchanges.

    "exchange" is always Kite's spelling of a segment: NSE, BSE, NFO, BFO, CDS, BCD, MCX or NCO.

    Args:
        weekday_closures: Weekdays on which shares do not trade.
        hours: Dated hours by exchange, rows ascending by day.
        special_sessions: Sessions on closed days.
        known_until: Last day for which ``weekday_closures`` is complete.
    """

    def __init__(
        self,
        *,
        weekday_closures: Iterable[date],
        hours: Mapping[str, tuple[Hours, ...]],
        special_sessions: Iterable[SpecialSession],
        known_until: date,
    ) -> None:
        self._closures = frozenset(weekday_closures)
        self._hours = dict(hours)
        self._special = {
            (exchange, special.day): special
            for special in special_sessions
            for exchange in special.exchanges
        }
        self._known_until = known_until

    @property
    def known_until(self) -> date:
        """Last day whose holidays are known; later, only weekends count as closed."""
        return self._known_until

    def is_business_day(self, exchange: str, day: date) -> bool:
        """Tell whether ``day`` is an ordinary trading day: no weekend, no holiday.

        Contracts expire only on such days, and only they count for the trading-day clock: an hour
        of Muhurat trading or a budget Sunday is a session, but no business day.

        Raises:
            CalendarError: Unknown exchange.
        """
        self._rows(exchange)
        return day.weekday() < _SATURDAY and day not in self._closures

    def is_trading_day(self, exchange: str, day: date) -> bool:
        """Tell whether ``exchange`` has any session on ``day``, a special one included.

        Raises:
            CalendarError: Unknown exchange.
        """
        return self.session(exchange, day) is not None

    def session(self, exchange: str, day: date) -> Session | None:
        """The session of ``exchange`` on ``day``.

        Returns:
            The session, or None if there is none on that day.

        Raises:
            CalendarError: Unknown exchange.
        """
        hours = self._hours_on(exchange, day)
        special = self._special.get((exchange, day))
        if special is not None:
            return _special_session(exchange, day, hours, special)
        if day.weekday() >= _SATURDAY:
            return None
        commodity = exchange in trading_hours.COMMODITY_EXCHANGES
        if day in self._closures:
            all_day = (day.month, day.day) in trading_hours.COMMODITY_HOLIDAYS
            if not commodity or all_day or day in trading_hours.GOOD_FRIDAYS:
                return None
            return Session(
                segment=exchange,
                date=day,
                open=_moment(day, trading_hours.EVENING_OPEN),
                close=_moment(day, _close(hours, day)),
                occasion="evening",
            )
        if commodity and (day.month, day.day) == (1, 1):
            return Session(
                segment=exchange,
                date=day,
                open=_moment(day, hours.open),
                close=_moment(day, trading_hours.NEW_YEAR_CLOSE),
                occasion="new_year",
            )
        return _usual_session(exchange, day, hours)

    def phase(self, exchange: str, at: datetime) -> Phase:
        """What ``exchange`` is doing at a moment.

        For NSE and BSE the closing auction is that of shares with derivatives. ``POST_CLOSE`` lasts
        from the close to the end of closing-price trading, the pause between them included.

        Args:
            exchange: The segment.
            at: An aware moment of any zone.

        Raises:
            CalendarError: Unknown exchange, or ``at`` is naive.
        """
        if at.tzinfo is None:
            raise CalendarError("at", f"must carry a time zone, got naive {at.isoformat()}")
        local = at.astimezone(IST)
        session = self.session(exchange, local.date())
        return session.phase(local) if session else Phase.CLOSED

    def next_trading_day(self, exchange: str, day: date) -> date:
        """The first day after ``day`` with a session.

        Raises:
            CalendarError: Unknown exchange, or none within a year.
        """
        return self._seek(exchange, day, _ONE_DAY)

    def previous_trading_day(self, exchange: str, day: date) -> date:
        """The last day before ``day`` with a session.

        Raises:
            CalendarError: Unknown exchange, or none within a year.
        """
        return self._seek(exchange, day, -_ONE_DAY)

    def business_day_on_or_before(self, exchange: str, day: date) -> date:
        """``day`` itself, or the last ordinary trading day before it: where an expiry moves to.

        Raises:
            CalendarError: Unknown exchange, or none within a year.
        """
        candidate = day
        for _ in range(_SEARCH_DAYS):
            if self.is_business_day(exchange, candidate):
                return candidate
            candidate -= _ONE_DAY
        raise CalendarError("day", f"{day} has no business day of {exchange} before it")

    def expiry_instant(self, exchange: str, expiry: date) -> datetime:
        """The moment at which a contract dies; nothing else in the fleet may know this.

        The close of derivatives trading on the day of expiry: 15:40 for NFO and BFO since
        2026-08-03, 15:30 before. The dump's date is believed even where this calendar sees a
        holiday, since the dump is newer than any calendar.

        Args:
            exchange: NFO, BFO, CDS, BCD, MCX or NCO.
            expiry: The ``expiry`` column of the dump.

        Returns:
            An aware moment in Indian time.

        Raises:
            CalendarError: Unknown exchange, or one whose instruments do not expire.
        """
        if exchange in {"NSE", "BSE"}:
            raise CalendarError(
                "exchange", f"{exchange} is a cash segment; its shares never expire"
            )
        hours = self._hours_on(exchange, expiry)
        early = trading_hours.CONTRACT_CLOSE.get(exchange)
        if early is not None:
            return _moment(expiry, early)
        session = self.session(exchange, expiry)
        return session.close if session else _moment(expiry, _close(hours, expiry))

    def settlement_start(self, exchange: str, expiry: date) -> datetime | None:
        """When the price at which a contract settles begins to be made, on its last day.

        Equity derivatives settle on the closing price of the cash segment: that of the closing
        auction since 2026-08-03 (15:15), the average of the last half-hour before. From then on
        the index may stand still, and an option is worth less and less of its own movement.

        Returns:
            An aware moment, or None for derivatives of currencies and commodities.

        Raises:
            CalendarError: Unknown exchange.
        """
        self._rows(exchange)
        cash = _SETTLES_ON.get(exchange)
        session = None if cash is None else self.session(cash, expiry)
        if session is None:
            return None
        return session.closing_auction or session.close - _LAST_HALF_HOUR

    def _seek(self, exchange: str, day: date, step: timedelta) -> date:
        candidate = day
        for _ in range(_SEARCH_DAYS):
            candidate += step
            if self.is_trading_day(exchange, candidate):
                return candidate
        raise CalendarError("day", f"{day} has no session of {exchange} within a year of it")

    def _rows(self, exchange: str) -> tuple[Hours, ...]:
        rows = self._hours.get(exchange)
        if rows is None:
            known = ", ".join(sorted(self._hours))
            raise CalendarError("exchange", f"{exchange!r} is unknown; known are {known}")
        return rows

    def _hours_on(self, exchange: str, day: date) -> Hours:
        for hours in reversed(self._rows(exchange)):
            if hours.effective_from <= day:
                return hours
        raise CalendarError("day", f"{day} is before the first hours known of {exchange}")


def _moment(day: date, at: time) -> datetime:
    return datetime.combine(day, at, IST)


def _moment_or_none(day: date, at: time | None) -> datetime | None:
    return None if at is None else _moment(day, at)


def _close(hours: Hours, day: date) -> time:
    if hours.winter_close is None:
        return hours.close
    # Noon is past the hour at which clocks change, on either side of the ocean.
    summer = datetime.combine(day, time(12), _NEW_YORK).dst()
    return hours.close if summer else hours.winter_close


def _usual_session(exchange: str, day: date, hours: Hours, occasion: str | None = None) -> Session:
    return Session(
        segment=exchange,
        date=day,
        open=_moment(day, hours.open),
        close=_moment(day, _close(hours, day)),
        pre_open=_moment_or_none(day, hours.pre_open),
        pre_open_entry_until=_moment_or_none(day, hours.pre_open_entry_until),
        closing_auction=_moment_or_none(day, hours.closing_auction),
        post_close_until=_moment_or_none(day, hours.post_close_until),
        occasion=occasion,
    )


def _special_session(exchange: str, day: date, hours: Hours, special: SpecialSession) -> Session:
    if special.open is None or special.close is None:
        return _usual_session(exchange, day, hours, special.occasion)
    return Session(
        segment=exchange,
        date=day,
        open=_moment(day, special.open),
        close=_moment(day, special.close),
        occasion=special.occasion,
    )


CALENDAR: Final = MarketCalendar(
    weekday_closures=(holidays.WEEKDAY_CLOSURES | trading_hours.ADDED_CLOSURES)
    - trading_hours.REMOVED_CLOSURES,
    hours=trading_hours.HOURS,
    special_sessions=trading_hours.SPECIAL_SESSIONS,
    known_until=holidays.LAST_DAY,
)
"""The calendar of the fleet."""
