"""Which expiries, lots and strikes Indian derivatives have, as dated rules; for simulated markets.

With a real feed all of this comes from the instrument dump, which always wins.
"""

import math
from datetime import date, timedelta
from typing import Final

from libs.common.domain.market_calendar import CALENDAR

__all__ = ["expiries", "freeze_quantity", "lot_size", "strike_step"]

_TUESDAY: Final = 1
_THURSDAY: Final = 3
_BSE: Final = frozenset({"SENSEX", "BANKEX", "SENSEX50"})
_WEEKLY: Final = frozenset({"NIFTY", "SENSEX"})
_WEEKLIES_LISTED: Final = 4
_MONTHLIES_LISTED: Final = 3

# Lots of the January 2026 series (NSE circular FAOP70616) and BSE's of the same time; freeze
# quantities of August 2026. name: (lot, freeze, strike step)
_INDICES: Final = {
    "NIFTY": (65, 1800, 50.0),
    "BANKNIFTY": (30, 600, 100.0),
    "FINNIFTY": (60, 1800, 50.0),
    "MIDCPNIFTY": (120, 2800, 25.0),
    "NIFTYNXT50": (25, 600, 100.0),
    "SENSEX": (20, 1000, 100.0),
    "BANKEX": (30, 900, 100.0),
}
# Stock contracts are sized to about this much money (SEBI: 5 to 10 lakh rupees at introduction).
_STOCK_CONTRACT_RUPEES: Final = 750_000.0
# Upper price bound and strike step of stock options, near the exchanges' scheme.
_STOCK_STEPS: Final = (
    (100.0, 1.0),
    (250.0, 2.5),
    (500.0, 5.0),
    (1_000.0, 10.0),
    (2_500.0, 20.0),
    (5_000.0, 50.0),
    (math.inf, 100.0),
)


def _exchange(underlying: str) -> str:
    return "BFO" if underlying in _BSE else "NFO"


def _adjusted(exchange: str, day: date) -> date:
    """An expiry on a closed day moves to the trading day before it."""
    return (
        day
        if CALENDAR.is_trading_day(exchange, day)
        else CALENDAR.previous_trading_day(exchange, day)
    )


def _last_weekday(year: int, month: int, weekday: int) -> date:
    first_of_next = date(year + month // 12, month % 12 + 1, 1)
    last = first_of_next - timedelta(days=1)
    return last - timedelta(days=(last.weekday() - weekday) % 7)


def expiries(underlying: str, as_of: date) -> list[date]:
    """The expiries listed on a day, ascending, that day's own included.

    Since 2025-09-01 NSE contracts end on Tuesdays and BSE contracts on Thursdays; NIFTY and SENSEX
    have four weeks and three months ahead, everything else three months.

    Args:
        underlying: Name as derivatives carry it.
        as_of: The trading day.
    """
    exchange = _exchange(underlying)
    weekday = _THURSDAY if exchange == "BFO" else _TUESDAY
    found: set[date] = set()
    year, month = as_of.year, as_of.month
    monthlies: list[date] = []
    while len(monthlies) < _MONTHLIES_LISTED:
        day = _adjusted(exchange, _last_weekday(year, month, weekday))
        if day >= as_of:
            monthlies.append(day)
        year, month = year + month // 12, month % 12 + 1
    found.update(monthlies)
    if underlying in _WEEKLY:
        day = as_of - timedelta(days=(as_of.weekday() - weekday) % 7)
        weeklies: list[date] = []
        while len(weeklies) < _WEEKLIES_LISTED:
            adjusted = _adjusted(exchange, day)
            if adjusted >= as_of:
                weeklies.append(adjusted)
            day += timedelta(days=7)
        found.update(weeklies)
    return sorted(found)


def lot_size(underlying: str, expiry: date, *, level_rupees: float = 1_000.0) -> int:
    """Units per contract.

    Args:
        underlying: Name as derivatives carry it.
        expiry: The series; the rules here are those of the January 2026 series and later.
        level_rupees: Price of a stock, which decides its lot; of no effect for an index.
    """
    del expiry  # One set of rules so far; a change becomes a dated row.
    if underlying in _INDICES:
        return _INDICES[underlying][0]
    return max(25, round(_STOCK_CONTRACT_RUPEES / level_rupees / 25) * 25)


def freeze_quantity(underlying: str, expiry: date, *, level_rupees: float = 1_000.0) -> int:
    """The largest order that is not refused, in units, rounded down to whole lots."""
    lot = lot_size(underlying, expiry, level_rupees=level_rupees)
    limit = _INDICES[underlying][1] if underlying in _INDICES else lot * 40
    return limit // lot * lot


def strike_step(underlying: str, *, level_rupees: float = 1_000.0) -> float:
    """Distance between strikes near the money, in rupees; a stock's depends on its price."""
    if underlying in _INDICES:
        return _INDICES[underlying][2]
    return next(step for bound, step in _STOCK_STEPS if level_rupees <= bound)
