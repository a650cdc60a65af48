"""Which expiries, lots and strikes Indian derivatives have, as dated rules; for simulated markets.

With a real feed all of this comes from the instrument dump, which always wins.
"""

import math
from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from itertools import islice
from types import MappingProxyType
from typing import Final

import msgspec

from libs.common.domain.market_calendar import CALENDAR, MarketCalendar

__all__ = [
    "EXPIRY_WEEKDAYS",
    "INDEX_RULES",
    "IndexRules",
    "derivatives_exchange",
    "expiries",
    "freeze_quantity",
    "lot_size",
    "strike_step",
]

_TUESDAY: Final = 1
_THURSDAY: Final = 3
_ONE_DAY: Final = timedelta(days=1)
_ONE_WEEK: Final = timedelta(days=7)
_WEEKLIES_LISTED: Final = 4
_MONTHLIES_LISTED: Final = 3

EXPIRY_WEEKDAYS: Final[Mapping[str, tuple[tuple[date, int], ...]]] = MappingProxyType(
    {
        # SEBI allows Tuesday or Thursday; both exchanges changed sides on Monday 2025-09-01.
        "NFO": ((date.min, _THURSDAY), (date(2025, 9, 1), _TUESDAY)),
        # Before 2025 BSE contracts ended on Fridays, which no market simulated here needs.
        "BFO": ((date.min, _TUESDAY), (date(2025, 9, 1), _THURSDAY)),
    }
)
"""Weekday of expiry (Monday is 0) by exchange, from the day on that stands beside it."""


class IndexRules(msgspec.Struct, frozen=True, kw_only=True):
    """How the derivatives of an index are cut.

    Attributes:
        exchange: "NFO" or "BFO".
        index_token: Instrument token of the index itself: the exchange's number * 256 + 9.
        weekly: Whether it has an expiry every week; others have one a month.
        lots: Units per lot, ascending; each for contracts that expire from its day on.
        freeze_quantity: Most units of one order; the effective limit is a multiple of the lot.
        strike_step: Rupees between strikes near the money.
    """

    exchange: str
    index_token: int
    weekly: bool = False
    lots: tuple[tuple[date, int], ...]
    freeze_quantity: int
    strike_step: float


_JANUARY_2026: Final = date(2026, 1, 1)

# Lots: NSE circular FAOP70616 for the January 2026 series, and what it replaced. Freeze quantities:
# August 2026. Tokens of NIFTY, BANKNIFTY, FINNIFTY and SENSEX are attested in public dumps, the
# others follow from the exchange's number. Strike steps of FINNIFTY, MIDCPNIFTY, NIFTYNXT50 and
# BANKEX are not attested.
INDEX_RULES: Final[Mapping[str, IndexRules]] = MappingProxyType(
    {
        "NIFTY": IndexRules(
            exchange="NFO",
            index_token=256265,
            weekly=True,
            lots=((date.min, 75), (_JANUARY_2026, 65)),
            freeze_quantity=1800,
            strike_step=50.0,
        ),
        "BANKNIFTY": IndexRules(
            exchange="NFO",
            index_token=260105,
            lots=((date.min, 35), (_JANUARY_2026, 30)),
            freeze_quantity=600,
            strike_step=100.0,
        ),
        "FINNIFTY": IndexRules(
            exchange="NFO",
            index_token=257801,
            lots=((date.min, 65), (_JANUARY_2026, 60)),
            freeze_quantity=1800,
            strike_step=50.0,
        ),
        "MIDCPNIFTY": IndexRules(
            exchange="NFO",
            index_token=288009,
            lots=((date.min, 140), (_JANUARY_2026, 120)),
            freeze_quantity=2800,
            strike_step=25.0,
        ),
        "NIFTYNXT50": IndexRules(
            exchange="NFO",
            index_token=270857,
            lots=((date.min, 25),),
            freeze_quantity=600,
            strike_step=100.0,
        ),
        "SENSEX": IndexRules(
            exchange="BFO",
            index_token=265,
            weekly=True,
            lots=((date.min, 20),),
            freeze_quantity=1000,
            strike_step=100.0,
        ),
        "BANKEX": IndexRules(
            exchange="BFO",
            index_token=274441,
            lots=((date.min, 30),),
            freeze_quantity=900,
            strike_step=100.0,
        ),
    }
)
"""The indices with derivatives, by the name these carry. Weeklies: one index per exchange."""

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


def derivatives_exchange(underlying: str) -> str:
    """Where contracts on ``underlying`` trade: "NFO" or "BFO"; those on shares on NFO."""
    rules = INDEX_RULES.get(underlying)
    return rules.exchange if rules else "NFO"


def expiries(
    underlying: str,
    as_of: date,
    *,
    weeklies: int = _WEEKLIES_LISTED,
    monthlies: int = _MONTHLIES_LISTED,
    calendar: MarketCalendar = CALENDAR,
) -> list[date]:
    """The expiries listed on a day, ascending, that day's own included.

    One on a holiday moves to the business day before it. The quarterly and half-yearly contracts
    of NIFTY are left out.

    Args:
        underlying: Name as derivatives carry it; one that is no known index counts as a share.
        as_of: The trading day.
        weeklies: How many weeks are listed, if the underlying has weekly contracts.
        monthlies: How many months are listed.
        calendar: Whose holidays move expiries.

    Returns:
        Distinct days from ``as_of`` on; a monthly expiry is also the last one of its month.
    """
    exchange = derivatives_exchange(underlying)

    def listed(nominal: Iterator[date], count: int) -> Iterator[date]:
        moved = (calendar.business_day_on_or_before(exchange, day) for day in nominal)
        return islice((day for day in moved if day >= as_of), count)

    found = set(listed(_monthly(exchange, as_of), monthlies))
    rules = INDEX_RULES.get(underlying)
    if rules is not None and rules.weekly:
        found.update(listed(_weekly(exchange, as_of), weeklies))
    return sorted(found)


def _weekly(exchange: str, as_of: date) -> Iterator[date]:
    """Nominal expiry of the week of ``as_of`` and of every later one."""
    monday = as_of - timedelta(days=as_of.weekday())
    while True:
        yield monday + timedelta(days=_weekday(exchange, monday))
        monday += _ONE_WEEK


def _monthly(exchange: str, as_of: date) -> Iterator[date]:
    """Nominal expiry of the month of ``as_of`` and of every later one: the last such weekday."""
    first = as_of.replace(day=1)
    while True:
        next_first = (first + timedelta(days=31)).replace(day=1)
        last = next_first - _ONE_DAY
        yield last - timedelta(days=(last.weekday() - _weekday(exchange, last)) % 7)
        first = next_first


def _weekday(exchange: str, day: date) -> int:
    return next(weekday for since, weekday in reversed(EXPIRY_WEEKDAYS[exchange]) if since <= day)


def lot_size(underlying: str, expiry: date, *, level_rupees: float = 1_000.0) -> int:
    """Units per contract.

    Args:
        underlying: Name as derivatives carry it.
        expiry: Last day of the contract; a new lot applies from a series on.
        level_rupees: Price of a share, which decides its lot; of no effect for an index.
    """
    rules = INDEX_RULES.get(underlying)
    if rules is not None:
        return next(lot for since, lot in reversed(rules.lots) if since <= expiry)
    return max(25, round(_STOCK_CONTRACT_RUPEES / level_rupees / 25) * 25)


def freeze_quantity(underlying: str, expiry: date, *, level_rupees: float = 1_000.0) -> int:
    """The largest order that is not refused, in units, rounded down to whole lots.

    Args:
        underlying: Name as derivatives carry it.
        expiry: Last day of the contract.
        level_rupees: Price of a share; its limit here is 40 lots, not an exchange's figure.
    """
    lot = lot_size(underlying, expiry, level_rupees=level_rupees)
    rules = INDEX_RULES.get(underlying)
    limit = rules.freeze_quantity if rules is not None else lot * 40
    return limit // lot * lot


def strike_step(underlying: str, *, level_rupees: float = 1_000.0) -> float:
    """Distance between strikes near the money, in rupees.

    Args:
        underlying: Name as derivatives carry it.
        level_rupees: Price of a share, which decides its step; of no effect for an index.
    """
    rules = INDEX_RULES.get(underlying)
    if rules is not None:
        return rules.strike_step
    return next(step for bound, step in _STOCK_STEPS if level_rupees <= bound)
