"""When the Indian exchanges trade, as dated data; the rules that read it are the calendar's.

A change of hours is a new row with the day it takes effect, never an edit: prices of last month
must keep last month's close. Sources stand beside the rows; "not attested" marks what no circular
or official page was seen for. All times are Indian time.
"""

from collections.abc import Mapping
from datetime import date, time
from types import MappingProxyType
from typing import Final

import msgspec

__all__ = [
    "ADDED_CLOSURES",
    "COMMODITY_EXCHANGES",
    "COMMODITY_HOLIDAYS",
    "CONTRACT_CLOSE",
    "EVENING_OPEN",
    "EXCHANGES",
    "GOOD_FRIDAYS",
    "HOURS",
    "NEW_YEAR_CLOSE",
    "REMOVED_CLOSURES",
    "SPECIAL_SESSIONS",
    "Hours",
    "SpecialSession",
]


class Hours(msgspec.Struct, frozen=True, kw_only=True):
    """The hours of an exchange segment from a day on.

    Attributes:
        effective_from: First day of these hours.
        open: Start of continuous trading.
        close: The last moment at which orders can match, a closing auction included.
        winter_close: Replaces ``close`` while New York is on standard time.
        pre_open: Start of the opening auction's order entry.
        pre_open_entry_until: End of the opening auction's order entry.
        closing_auction: Where continuous trading gives way to the closing auction, for the
            shares that have one.
        post_close_until: End of trading at the closing price.
    """

    effective_from: date
    open: time
    close: time
    winter_close: time | None = None
    pre_open: time | None = None
    pre_open_entry_until: time | None = None
    closing_auction: time | None = None
    post_close_until: time | None = None


class SpecialSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session on a day that is otherwise closed.

    Attributes:
        day: Its day.
        occasion: "budget" or "muhurat".
        exchanges: Segments that trade.
        open: Start of trading; None means the usual hours of that day.
        close: End of trading; None means the usual hours of that day.
    """

    day: date
    occasion: str
    exchanges: frozenset[str]
    open: time | None = None
    close: time | None = None


_ALWAYS: Final = date.min
_CLOSING_AUCTION_START: Final = date(2026, 8, 3)

# NSE circular CMTR74466 and BSE notice of 2026-08-01: shares with derivatives trade continuously to
# 15:15, then a closing auction (entry 15:20-15:30, match to 15:35). Other shares trade to 15:30.
# CMTR74969: from 2026-09-07 pre-open orders are accepted to 09:10 instead of 09:08.
_CASH: Final = (
    Hours(
        effective_from=_ALWAYS,
        pre_open=time(9, 0),
        pre_open_entry_until=time(9, 8),
        open=time(9, 15),
        close=time(15, 30),
        post_close_until=time(16, 0),
    ),
    Hours(
        effective_from=_CLOSING_AUCTION_START,
        pre_open=time(9, 0),
        pre_open_entry_until=time(9, 8),
        open=time(9, 15),
        closing_auction=time(15, 15),
        close=time(15, 35),
        post_close_until=time(16, 0),
    ),
    Hours(
        effective_from=date(2026, 9, 7),
        pre_open=time(9, 0),
        pre_open_entry_until=time(9, 10),
        open=time(9, 15),
        closing_auction=time(15, 15),
        close=time(15, 35),
        post_close_until=time(16, 0),
    ),
)

# Pre-open for futures since 2025-12-08; NSE circular FAOP74467 and its BSE twin: close at 15:40
# since the closing auction exists, so that derivatives trade until the cash close is known.
_DERIVATIVES: Final = (
    Hours(effective_from=_ALWAYS, open=time(9, 15), close=time(15, 30)),
    Hours(
        effective_from=date(2025, 12, 8),
        pre_open=time(9, 0),
        pre_open_entry_until=time(9, 8),
        open=time(9, 15),
        close=time(15, 30),
    ),
    Hours(
        effective_from=_CLOSING_AUCTION_START,
        pre_open=time(9, 0),
        pre_open_entry_until=time(9, 8),
        open=time(9, 15),
        close=time(15, 40),
    ),
)

# Not attested for this year.
_CURRENCY: Final = (Hours(effective_from=_ALWAYS, open=time(9, 0), close=time(17, 0)),)

# Non-agricultural contracts follow the metals and energy markets of New York: 23:30 in US summer
# time, 23:55 in winter (2026: 23:30 from 9 March, 23:55 from 2 November). Agricultural contracts
# end at 17:00 or 21:00 and are not told apart here: a contract is, a segment is not, agricultural.
_COMMODITY: Final = (
    Hours(
        effective_from=_ALWAYS,
        open=time(9, 0),
        close=time(23, 30),
        winter_close=time(23, 55),
    ),
)

HOURS: Final[Mapping[str, tuple[Hours, ...]]] = MappingProxyType(
    {
        "NSE": _CASH,
        "BSE": _CASH,
        "NFO": _DERIVATIVES,
        "BFO": _DERIVATIVES,
        "CDS": _CURRENCY,
        "BCD": _CURRENCY,
        "MCX": _COMMODITY,
        "NCO": _COMMODITY,
    }
)
"""Hours by exchange, as Kite spells exchanges; rows ascend by day."""

EXCHANGES: Final = frozenset(HOURS)

COMMODITY_EXCHANGES: Final = frozenset({"MCX", "NCO"})
"""Exchanges with an evening session, and holidays of their own."""

CONTRACT_CLOSE: Final[Mapping[str, time]] = MappingProxyType({"CDS": time(12, 30)})
"""Where an expiring contract stops before the session does (USD-INR contract specification)."""

_EQUITY_SEGMENTS: Final = frozenset({"NSE", "BSE", "NFO", "BFO"})

SPECIAL_SESSIONS: Final = (
    # Diwali, one hour; the pre-open before it is not modelled. MCX holds it at the same time.
    SpecialSession(
        day=date(2024, 11, 1),
        occasion="muhurat",
        exchanges=_EQUITY_SEGMENTS | {"MCX"},
        open=time(18, 0),
        close=time(19, 0),
    ),
    # Union budget on a Saturday: all day.
    SpecialSession(day=date(2025, 2, 1), occasion="budget", exchanges=_EQUITY_SEGMENTS),
    SpecialSession(
        day=date(2025, 10, 21),
        occasion="muhurat",
        exchanges=_EQUITY_SEGMENTS | {"MCX"},
        open=time(13, 45),
        close=time(14, 45),
    ),
    # Union budget on a Sunday: all day.
    SpecialSession(day=date(2026, 2, 1), occasion="budget", exchanges=_EQUITY_SEGMENTS),
    # The day is attested, the hour is not: 18:00 was the usual one before 2025.
    SpecialSession(
        day=date(2026, 11, 8),
        occasion="muhurat",
        exchanges=_EQUITY_SEGMENTS | {"MCX"},
        open=time(18, 0),
        close=time(19, 0),
    ),
)
"""Sessions on closed days. The two-part Saturday drills of 2024 are not modelled."""

ADDED_CLOSURES: Final[frozenset[date]] = frozenset()
"""Weekday closures announced after the generated table was made; the override of an operator."""

REMOVED_CLOSURES: Final[frozenset[date]] = frozenset()
"""Closures of the generated table that were withdrawn."""

EVENING_OPEN: Final = time(17, 0)
"""Commodities stay closed only for the morning on most holidays of the share markets."""

COMMODITY_HOLIDAYS: Final = frozenset({(1, 26), (8, 15), (10, 2), (12, 25)})
"""(month, day) on which commodities do not even trade in the evening.

MCX list for 2026: both sessions closed on 26 January, Good Friday, 2 October and 25 December;
evening only on every other holiday; on 1 January the evening session is closed instead.
"""

GOOD_FRIDAYS: Final = frozenset({date(2024, 3, 29), date(2025, 4, 18), date(2026, 4, 3)})
"""Closed for commodities all day, too."""

NEW_YEAR_CLOSE: Final = time(17, 0)
"""End of commodity trading on 1 January."""
