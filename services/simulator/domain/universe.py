"""The instruments of one trading day: which contracts exist, their tokens and their columns."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from libs.common.domain.expiries import expiries, lot_size, strike_step
from libs.common.domain.instruments import Instrument, Kind, OptionType
from services.simulator.domain import underlyings
from services.simulator.domain.underlyings import Underlying

_SEGMENTS: Final = {"NSE": 1, "NFO": 2, "BSE": 4, "BFO": 5}
_INDEX_SEGMENT: Final = 9
# A derivative's exchange token, 24 bits: underlying 7, expiry 6, strike 9, kind 2. The same
# contract has the same token every day, in every process and in every size of the universe.
_EXPIRY_SLOTS: Final = 64
_STRIKE_SLOTS: Final = 512
_KIND_SLOTS: Final = {"FUT": 0, "CE": 1, "PE": 2}
MAX_STRIKES_PER_SIDE: Final = 200
_OPTION_TICK_PAISE: Final = 5
_INDEX_FUTURE_TICK_PAISE: Final = 10
_MONTHS: Final = [
    "JAN",
    "FEB",
    "MAR",
    "APR",
    "MAY",
    "JUN",
    "JUL",
    "AUG",
    "SEP",
    "OCT",
    "NOV",
    "DEC",
]
_WEEKLY_MONTHS: Final = "123456789OND"


class UniverseSize(StrEnum):
    """How much of the market exists."""

    DEMO = "demo"
    FULL = "full"


@dataclass(frozen=True, slots=True)
class Expiry:
    """One expiry of one underlying.

    Attributes:
        underlying: Row in `Universe.underlyings`.
        day: Last trading day.
        monthly: Whether it is the last of its month (and has a future).
        rank: 0 for the nearest of the underlying.
    """

    underlying: int
    day: date
    monthly: bool
    rank: int


@dataclass(frozen=True, slots=True, eq=False)
class Universe:
    """All instruments of a trading day; row i of every array is the same instrument.

    Attributes:
        day: The trading day.
        underlyings: The underlyings that exist.
        expiries: All (underlying, expiry) pairs.
        instruments: The rows as the dump lists them.
        tokens: int64[n], in no particular order.
        underlying: int64[n], row in `underlyings`.
        expiry: int64[n], row in `expiries`, -1 for an index or a share.
        flag: int8[n], +1 call, -1 put, 0 otherwise.
        strike: float64[n] rupees, 0 unless an option.
        lot: int64[n] units, at least 1.
        tick_paise: int64[n] price step.
        is_index: bool[n].
        is_derivative: bool[n].
        row_of_token: Token -> row.
        row_of_symbol: ("NFO", "NIFTY26NOVFUT") -> row.
    """

    day: date
    underlyings: tuple[Underlying, ...]
    expiries: tuple[Expiry, ...]
    instruments: tuple[Instrument, ...]
    tokens: NDArray[np.int64]
    underlying: NDArray[np.int64]
    expiry: NDArray[np.int64]
    flag: NDArray[np.int8]
    strike: NDArray[np.float64]
    lot: NDArray[np.int64]
    tick_paise: NDArray[np.int64]
    is_index: NDArray[np.bool_]
    is_derivative: NDArray[np.bool_]
    row_of_token: dict[int, int] = field(repr=False)
    row_of_symbol: dict[tuple[str, str], int] = field(repr=False)

    def __len__(self) -> int:
        return len(self.instruments)


def build_universe(
    day: date,
    levels: Sequence[float],
    *,
    size: UniverseSize = UniverseSize.DEMO,
    strikes_per_side: int | None = None,
    max_contracts: int = 100_000,
) -> Universe:
    """List the instruments of a trading day.

    Args:
        day: The trading day; contracts that expired before it do not exist.
        levels: Price in rupees of each of `members(size)`: the middle of its strikes.
        size: The demo's 24 stocks, or all of them.
        strikes_per_side: Strikes on each side of the money of an index; stocks have at most 10
            in the demo. None means 25 in the demo, and in the full universe as many (up to 200)
            as fit into `max_contracts`.
        max_contracts: Bound on futures and options when `strikes_per_side` is None.
    """
    listed = members(size)
    calendar = _expiries_of(listed, day)
    index_side = strikes_per_side or 25
    stock_side = min(index_side, 10) if size is UniverseSize.DEMO else index_side
    if size is UniverseSize.FULL and strikes_per_side is None:
        index_side = stock_side = _largest_side(listed, levels, calendar, max_contracts)
    listing = _Listing(day)
    for number, underlying in enumerate(listed):
        listing.add_underlying(number, underlying)
    for row, expiry in enumerate(calendar):
        underlying = listed[expiry.underlying]
        side = index_side if underlying.is_index else stock_side
        strikes = strikes_of(underlying, levels[expiry.underlying], side)
        listing.add_expiry(row, expiry, underlying, strikes)
    return listing.universe(listed, calendar)


def members(size: UniverseSize) -> tuple[Underlying, ...]:
    """Give the underlyings of a universe."""
    return underlyings.DEMO if size is UniverseSize.DEMO else underlyings.ALL


def strikes_of(underlying: Underlying, level_rupees: float, per_side: int) -> list[float]:
    """Give the strikes around a level, ascending.

    Args:
        underlying: Whose.
        level_rupees: What the strikes surround.
        per_side: Strikes below and above the middle one, at most 200.
    """
    step = strike_step(underlying.name, level_rupees=underlying.reference_rupees)
    middle = round(level_rupees / step)
    side = min(per_side, MAX_STRIKES_PER_SIDE)
    # Both bounds keep a strike inside the 9 bits it has in a token.
    centre = round(underlying.reference_rupees / step)
    lowest = max(middle - side, centre - _STRIKE_SLOTS // 2 + 1, 1)
    highest = min(middle + side, centre + _STRIKE_SLOTS // 2 - 1)
    return [index * step for index in range(lowest, highest + 1)]


def _expiries_of(listed: Sequence[Underlying], day: date) -> tuple[Expiry, ...]:
    rows: list[Expiry] = []
    for number, underlying in enumerate(listed):
        if underlying.derivatives is None:
            continue
        days = expiries(underlying.name, day)
        last_of_month = {(expiry.year, expiry.month): expiry for expiry in days}
        rows.extend(
            Expiry(number, expiry, last_of_month[expiry.year, expiry.month] == expiry, rank)
            for rank, expiry in enumerate(days)
        )
    return tuple(rows)


def _largest_side(
    listed: Sequence[Underlying],
    levels: Sequence[float],
    calendar: Sequence[Expiry],
    max_contracts: int,
) -> int:
    for side in range(MAX_STRIKES_PER_SIDE, 1, -1):
        strikes = [
            len(strikes_of(underlying, level, side)) if underlying.derivatives else 0
            for underlying, level in zip(listed, levels, strict=True)
        ]
        if sum(2 * strikes[e.underlying] + e.monthly for e in calendar) <= max_contracts:
            return side
    return 1


def _symbol_stem(name: str, expiry: Expiry) -> str:
    year, month, day = expiry.day.year % 100, expiry.day.month, expiry.day.day
    if expiry.monthly:
        return f"{name}{year:02d}{_MONTHS[month - 1]}"
    return f"{name}{year:02d}{_WEEKLY_MONTHS[month - 1]}{day:02d}"


class _Listing:
    """Collects the rows of a universe."""

    def __init__(self, day: date) -> None:
        self._day = day
        self._instruments: list[Instrument] = []
        self._columns: list[tuple[int, int, int, float, int, int, bool]] = []
        self._slots: dict[tuple[int, int], date] = {}

    def add_underlying(self, number: int, underlying: Underlying) -> None:
        segment = _INDEX_SEGMENT if underlying.is_index else _SEGMENTS[underlying.exchange]
        tick = (
            1 if underlying.is_index else underlyings.equity_tick_paise(underlying.reference_rupees)
        )
        self._add(
            Instrument(
                instrument_token=underlying.exchange_token * 256 + segment,
                exchange_token=underlying.exchange_token,
                tradingsymbol=underlying.tradingsymbol,
                name=underlying.tradingsymbol,
                exchange=underlying.exchange,
                segment="INDICES" if underlying.is_index else underlying.exchange,
                underlying=underlying.name,
                kind=Kind.INDEX if underlying.is_index else Kind.EQUITY,
                lot_size=0 if underlying.is_index else 1,
                tick_size=0.0 if underlying.is_index else tick / 100,
            ),
            (number, -1, 0, 0.0, 1, tick, underlying.is_index),
        )

    def add_expiry(
        self, row: int, expiry: Expiry, underlying: Underlying, strikes: Sequence[float]
    ) -> None:
        lot = lot_size(underlying.name, expiry.day, level_rupees=underlying.reference_rupees)
        stem = _symbol_stem(underlying.name, expiry)
        step = strike_step(underlying.name, level_rupees=underlying.reference_rupees)
        base = self._token_base(underlying, expiry)
        if expiry.monthly:
            tick = (
                _INDEX_FUTURE_TICK_PAISE
                if underlying.is_index
                else underlyings.equity_tick_paise(underlying.reference_rupees)
            )
            self._add(
                self._derivative(underlying, expiry, base, f"{stem}FUT", lot=lot, tick=tick),
                (expiry.underlying, row, 0, 0.0, lot, tick, False),
            )
        middle = round(underlying.reference_rupees / step)
        for strike in strikes:
            # 0 stands for the future, so strikes count from 1.
            slot = round(strike / step) - middle + _STRIKE_SLOTS // 2
            for option_type, flag in ((OptionType.CALL, 1), (OptionType.PUT, -1)):
                self._add(
                    self._derivative(
                        underlying,
                        expiry,
                        base + (slot << 2) + _KIND_SLOTS[option_type],
                        f"{stem}{strike:g}{option_type}",
                        lot=lot,
                        tick=_OPTION_TICK_PAISE,
                        strike=strike,
                        option_type=option_type,
                    ),
                    (expiry.underlying, row, flag, strike, lot, _OPTION_TICK_PAISE, False),
                )

    def universe(self, listed: Sequence[Underlying], calendar: Sequence[Expiry]) -> Universe:
        columns = list(zip(*self._columns, strict=True))
        expiry = np.array(columns[1], np.int64)
        instruments = tuple(self._instruments)
        return Universe(
            day=self._day,
            underlyings=tuple(listed),
            expiries=tuple(calendar),
            instruments=instruments,
            tokens=np.array([item.instrument_token for item in instruments], np.int64),
            underlying=np.array(columns[0], np.int64),
            expiry=expiry,
            flag=np.array(columns[2], np.int8),
            strike=np.array(columns[3], np.float64),
            lot=np.array(columns[4], np.int64),
            tick_paise=np.array(columns[5], np.int64),
            is_index=np.array(columns[6], np.bool_),
            is_derivative=expiry >= 0,
            row_of_token={item.instrument_token: row for row, item in enumerate(instruments)},
            row_of_symbol={
                (item.exchange, item.tradingsymbol): row for row, item in enumerate(instruments)
            },
        )

    def _add(
        self, instrument: Instrument, columns: tuple[int, int, int, float, int, int, bool]
    ) -> None:
        self._instruments.append(instrument)
        self._columns.append(columns)

    def _token_base(self, underlying: Underlying, expiry: Expiry) -> int:
        slot = expiry.day.toordinal() // 7 % _EXPIRY_SLOTS
        # A holiday can pull an expiry into the week of the one before it.
        while self._slots.setdefault((underlying.code, slot), expiry.day) != expiry.day:
            slot = (slot + 1) % _EXPIRY_SLOTS
        return (underlying.code << 17) + (slot << 11)

    @staticmethod
    def _derivative(
        underlying: Underlying,
        expiry: Expiry,
        exchange_token: int,
        symbol: str,
        *,
        lot: int,
        tick: int,
        strike: float | None = None,
        option_type: OptionType | None = None,
    ) -> Instrument:
        exchange = underlying.derivatives or ""
        return Instrument(
            instrument_token=exchange_token * 256 + _SEGMENTS[exchange],
            exchange_token=exchange_token,
            tradingsymbol=symbol,
            name=underlying.name,
            exchange=exchange,
            segment=f"{exchange}-{'OPT' if option_type else 'FUT'}",
            underlying=underlying.name,
            kind=Kind.OPTION if option_type else Kind.FUTURE,
            strike=strike,
            expiry=expiry.day,
            option_type=option_type,
            lot_size=lot,
            tick_size=tick / 100,
        )
