"""What can be traded: the instrument of the fleet and Kite's daily dump, both ways."""

import csv
import io
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import date
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeVar

import msgspec

from libs.common.errors import RejectedError

__all__ = [
    "DUMP_COLUMNS",
    "INDEX_UNDERLYINGS",
    "Dump",
    "DumpEmptyError",
    "DumpError",
    "DuplicateToken",
    "Instrument",
    "Kind",
    "OptionType",
    "SkippedRow",
    "parse_dump",
    "to_dump_csv",
    "underlying_of_symbol",
]

DUMP_COLUMNS: Final = (
    "instrument_token",
    "exchange_token",
    "tradingsymbol",
    "name",
    "last_price",
    "expiry",
    "strike",
    "tick_size",
    "lot_size",
    "instrument_type",
    "segment",
    "exchange",
)
"""The columns of `GET /instruments`, in Kite's order."""

INDEX_UNDERLYINGS: Final[Mapping[tuple[str, str], str]] = MappingProxyType(
    {
        ("NSE", "NIFTY 50"): "NIFTY",
        ("NSE", "NIFTY BANK"): "BANKNIFTY",
        ("NSE", "NIFTY FIN SERVICE"): "FINNIFTY",
        ("NSE", "NIFTY MID SELECT"): "MIDCPNIFTY",
        ("NSE", "NIFTY NEXT 50"): "NIFTYNXT50",
        ("BSE", "SENSEX"): "SENSEX",
        ("BSE", "BANKEX"): "BANKEX",
    }
)
"""(exchange, tradingsymbol) of an index → the name its derivatives carry.

An index that is not listed is its own underlying ("INDIA VIX").
"""

MAX_TOKEN: Final = 0xFFFF_FFFF
"""Tokens travel as unsigned 32-bit integers."""


class Kind(StrEnum):
    """What an instrument is."""

    OPTION = "option"
    FUTURE = "future"
    INDEX = "index"
    EQUITY = "equity"


class OptionType(StrEnum):
    """The right an option gives, spelled as Kite does."""

    CALL = "CE"
    PUT = "PE"


class Instrument(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One row of the daily dump.

    Attributes:
        instrument_token: Kite's number for streaming, below 2**32; unique within one dump,
            reused after expiry.
        exchange_token: The exchange's own number.
        tradingsymbol: Kite's symbol; unique with ``exchange``.
        name: The ``name`` column as it stands, possibly empty.
        exchange: "NSE", "BSE", "NFO", "BFO", "CDS", "MCX" …
        segment: "NFO-OPT", "NFO-FUT", "INDICES", "NSE" …
        underlying: What a derivative is written on ("NIFTY"); an index carries the name its
            derivatives use, an equity its own symbol.
        kind: Option, future, index or equity.
        strike: Rupees; None unless an option.
        expiry: Last trading day; None unless a derivative.
        option_type: Call or put; None unless an option.
        lot_size: Units per lot; 0 for an index.
        tick_size: Rupees per price step; 0.0 for an index.
    """

    instrument_token: int
    exchange_token: int
    tradingsymbol: str
    name: str
    exchange: str
    segment: str
    underlying: str
    kind: Kind
    strike: float | None = None
    expiry: date | None = None
    option_type: OptionType | None = None
    lot_size: int
    tick_size: float

    @property
    def key(self) -> str:
        """What names the contract for good, as quotes do: `NFO:NIFTY26NOV26000CE`."""
        return f"{self.exchange}:{self.tradingsymbol}"


class SkippedRow(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the dump that could not be used.

    Attributes:
        line: Its line in the file; the header is line 1.
        field: The column at fault, or "row".
        reason: What is wrong with it, in words.
    """

    line: int
    field: str
    reason: str


class DuplicateToken(msgspec.Struct, frozen=True, kw_only=True):
    """Two rows of one dump claim the same token; one of them was kept.

    Attributes:
        instrument_token: The token.
        kept_line: Line of the row that counts; the header is line 1.
        kept: Its `EXCHANGE:tradingsymbol`.
        dropped_line: Line of the row that does not.
        dropped: Its `EXCHANGE:tradingsymbol`.
    """

    instrument_token: int
    kept_line: int
    kept: str
    dropped_line: int
    dropped: str


class Dump(msgspec.Struct, frozen=True, kw_only=True):
    """A parsed dump: what is usable, and why the rest is not.

    Attributes:
        instruments: Every usable row in file order, each token once.
        skipped: Every row that could not be read, in file order.
        duplicates: Every row that lost its token to another one.
        is_truncated: The file ends in the middle of a row, so rows behind it are missing too.
    """

    instruments: list[Instrument]
    skipped: list[SkippedRow]
    duplicates: list[DuplicateToken] = []
    is_truncated: bool = False


class DumpError(RejectedError):
    """The dump is unusable as a whole: keep yesterday's and fetch again.

    Attributes:
        reason: What is wrong with it, in words.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason

    def __str__(self) -> str:
        """The reason, with its subject."""
        return f"instrument dump is unusable: {self.reason}"


class DumpEmptyError(DumpError):
    """There is nothing in it at all, not even a header."""


class _RowError(Exception):
    """Internal: one row is unusable."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason


_T = TypeVar("_T")

_GZIP_MAGIC: Final = b"\x1f\x8b"
_MONTH_NAMES: Final = (
    *("JAN", "FEB", "MAR", "APR", "MAY", "JUN"),
    *("JUL", "AUG", "SEP", "OCT", "NOV", "DEC"),
)
_WEEKLY_MONTHS: Final = "123456789OND"

# `NIFTY23JUL20600CE`, `SENSEX26OCTFUT`; and weekly `NIFTY2580724400CE` = year, month, day, strike.
_MONTHLY_SYMBOL: Final = re.compile(
    rf"(?P<underlying>.+?)\d{{2}}(?:{'|'.join(_MONTH_NAMES)})(?:FUT|\d+(?:\.\d+)?(?:CE|PE))"
)
_WEEKLY_SYMBOL: Final = re.compile(
    r"(?P<underlying>.+?)\d{2}[1-9OND](?:0[1-9]|[12]\d|3[01])\d+(?:\.\d+)?(?:CE|PE)"
)


def underlying_of_symbol(
    tradingsymbol: str, *, expiry: date | None = None, strike: float | None = None
) -> str | None:
    """Read the underlying out of a derivative's symbol, for dumps with a blank name.

    Args:
        tradingsymbol: "NIFTY2580724400CE", "BANKEX26APR63000PE", "SENSEX26OCTFUT".
        expiry: The expiry column. With it a name that holds digits ("360ONE") or a digit
            before the date cannot be misread.
        strike: The strike column in rupees; None for a future.

    Returns:
        The underlying, or None if the symbol follows no known grammar.
    """
    if expiry is not None:
        year = f"{expiry.year % 100:02d}"
        monthly = f"{year}{_MONTH_NAMES[expiry.month - 1]}"
        weekly = f"{year}{_WEEKLY_MONTHS[expiry.month - 1]}{expiry.day:02d}"
        tail = "FUT" if strike is None else _number(strike)
        stem = tradingsymbol if strike is None else tradingsymbol[:-2]
        for suffix in (monthly + tail, weekly + tail):
            if stem.endswith(suffix) and len(stem) > len(suffix):
                return stem[: -len(suffix)]
    match = _MONTHLY_SYMBOL.fullmatch(tradingsymbol) or _WEEKLY_SYMBOL.fullmatch(tradingsymbol)
    return match["underlying"] if match else None


def parse_dump(csv_bytes: bytes) -> Dump:
    """Parse Kite's instrument dump.

    A quarter of a second per 100 000 rows: run it off the event loop.

    Args:
        csv_bytes: The decompressed body of `GET /instruments`: UTF-8 CSV with a header that
            names at least ``DUMP_COLUMNS``, in any order.

    Returns:
        Every usable row in file order, and every other row with the reason. Of two rows with one
        token the contract that lives longer counts, else the first: a token is given away again
        after expiry, and then the dead contract is the one that is wrong.

    Raises:
        DumpError: Nothing in it can be used: empty, compressed, not a CSV with the columns.
    """
    if not csv_bytes.strip():
        raise DumpEmptyError("it is empty")
    if csv_bytes.startswith(_GZIP_MAGIC):
        raise DumpError("it is still gzip-compressed; decompress the body first")
    # A broken character costs its row a strange name, not the day its dump.
    lines = csv_bytes.decode("utf-8-sig", errors="replace").split("\n")
    reader = _RowReader(lines[0])
    rows = _Rows()
    skipped: list[SkippedRow] = []
    # What follows the last newline; nothing in a dump that came whole.
    tail = lines.pop().removesuffix("\r") if len(lines) > 1 else ""
    for number, line in enumerate(lines[1:], start=2):
        if not line or line == "\r":
            continue
        try:
            rows.add(reader.read(line.removesuffix("\r")), number)
        except _RowError as error:
            skipped.append(SkippedRow(line=number, field=error.field, reason=error.reason))
    is_truncated = False
    if tail:
        number = len(lines) + 1
        try:
            last = reader.read(tail)
        except _RowError as error:
            is_truncated = True
            skipped.append(SkippedRow(line=number, field=error.field, reason=error.reason))
        else:
            # A writer may leave the last newline out, but a cut may also fall into the last cell,
            # where it leaves a row that looks whole and lies nowhere: exchange "NF".
            is_truncated = bool(rows.instruments) and not rows.knows_exchange(last.exchange)
            if is_truncated:
                reason = f"{last.exchange!r} is of no other row: the file is cut off here"
                skipped.append(SkippedRow(line=number, field="exchange", reason=reason))
            else:
                rows.add(last, number)
    return Dump(
        instruments=rows.instruments,
        skipped=skipped,
        duplicates=rows.duplicates,
        is_truncated=is_truncated,
    )


def to_dump_csv(
    instruments: Iterable[Instrument], last_prices: Mapping[int, float] | None = None
) -> bytes:
    """Write instruments as Kite's dump.

    Args:
        instruments: Any instruments.
        last_prices: Rupees by instrument token for the ``last_price`` column; 0 elsewhere.

    Returns:
        UTF-8 CSV with a header; ``parse_dump`` reads the same instruments back.
    """
    prices = last_prices or {}
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(DUMP_COLUMNS)
    writer.writerows(
        (
            item.instrument_token,
            item.exchange_token,
            item.tradingsymbol,
            item.name,
            _number(prices.get(item.instrument_token, 0.0)),
            item.expiry.isoformat() if item.expiry else "",
            _number(item.strike or 0.0),
            _number(item.tick_size),
            item.lot_size,
            _dump_type(item),
            item.segment,
            item.exchange,
        )
        for item in instruments
    )
    return buffer.getvalue().encode()


class _Memo(dict[str, _T]):
    """Reads each distinct cell once: a dump has few dates, strikes, lots and names, often."""

    def __init__(self, read: Callable[[str], _T]) -> None:
        super().__init__()
        self._read = read

    def __missing__(self, text: str) -> _T:
        value = self[text] = self._read(text)
        return value


class _Rows:
    """Collects the rows of one dump, each token once; an unreadable row claims no token."""

    def __init__(self) -> None:
        self.instruments: list[Instrument] = []
        self.duplicates: list[DuplicateToken] = []
        self._lines: list[int] = []
        self._position_of: dict[int, int] = {}

    def knows_exchange(self, exchange: str) -> bool:
        """Whether a row of this exchange was collected."""
        return any(item.exchange == exchange for item in reversed(self.instruments))

    def add(self, item: Instrument, line: int) -> None:
        """Take one row."""
        position = self._position_of.setdefault(item.instrument_token, len(self.instruments))
        if position == len(self.instruments):
            self.instruments.append(item)
            self._lines.append(line)
            return
        first, first_line = self.instruments[position], self._lines[position]
        if first.expiry is not None and item.expiry is not None and item.expiry > first.expiry:
            self.instruments[position], self._lines[position] = item, line
            item, line, first, first_line = first, first_line, item, line
        self.duplicates.append(
            DuplicateToken(
                instrument_token=first.instrument_token,
                kept_line=first_line,
                kept=first.key,
                dropped_line=line,
                dropped=item.key,
            )
        )


class _RowReader:
    """Reads row after row of one dump; equal cells share one value."""

    def __init__(self, header_line: str) -> None:
        header = [cell.strip().strip('"') for cell in header_line.strip("\r").split(",")]
        positions = {name: position for position, name in enumerate(header)}
        missing = [name for name in DUMP_COLUMNS if name not in positions]
        if missing:
            start = header_line[:60]
            raise DumpError(f"the header lacks {', '.join(missing)}; it starts with {start!r}")
        self._width = len(header)
        self._pick = operator.itemgetter(*(positions[name] for name in DUMP_COLUMNS))
        self._texts = _Memo(str.strip)
        self._days = _Memo(_day)
        self._strikes = _Memo(_strike)
        self._lots = _Memo(lambda text: _whole(text, "lot_size"))
        self._ticks = _Memo(lambda text: _amount(text, "tick_size"))

    def read(self, line: str) -> Instrument:
        """Read one row, or raise ``_RowError``."""
        cells = self._pick(self._cells(line))
        token_text, exchange_token, symbol, name, _, expiry, strike = cells[:7]
        tick_size, lot_size, instrument_type, segment, exchange = cells[7:]
        token = _whole(token_text, "instrument_token")
        if not 0 < token <= MAX_TOKEN:
            raise _RowError("instrument_token", f"{token} is outside 1..{MAX_TOKEN}")
        symbol = symbol.strip()
        if not symbol:
            raise _RowError("tradingsymbol", "is empty")
        exchange = self._texts[exchange]
        if not exchange:
            raise _RowError("exchange", "is empty")
        segment = self._texts[segment]
        name = self._texts[name]
        kind, option_type = _kind(instrument_type, segment)
        strike_rupees = self._strikes[strike] if option_type else None
        last_day: date | None = None
        if kind is Kind.OPTION or kind is Kind.FUTURE:
            last_day = self._days[expiry]
            underlying = name or underlying_of_symbol(symbol, expiry=last_day, strike=strike_rupees)
            if not underlying:
                raise _RowError("name", f"is empty, and {symbol!r} does not tell the underlying")
        else:
            underlying = INDEX_UNDERLYINGS.get((exchange, symbol), symbol)
        return Instrument(
            instrument_token=token,
            exchange_token=_whole(exchange_token, "exchange_token"),
            tradingsymbol=symbol,
            name=name,
            exchange=exchange,
            segment=segment,
            underlying=self._texts[underlying],
            kind=kind,
            strike=strike_rupees,
            expiry=last_day,
            option_type=option_type,
            lot_size=self._lots[lot_size],
            tick_size=self._ticks[tick_size],
        )

    def _cells(self, line: str) -> list[str]:
        # No cell of a dump spans lines, so a stray quote must not swallow the rows below it:
        # lines are split first, and only a line with quotes pays for the csv module.
        if '"' not in line:
            cells = line.split(",")
        else:
            try:
                cells = next(csv.reader((line,)))
            except csv.Error as error:
                raise _RowError("row", f"is not CSV: {error}") from error
        if len(cells) != self._width:
            raise _RowError("row", f"has {len(cells)} cells, the header has {self._width}")
        return cells


def _kind(instrument_type: str, segment: str) -> tuple[Kind, OptionType | None]:
    match instrument_type:
        case "CE":
            return Kind.OPTION, OptionType.CALL
        case "PE":
            return Kind.OPTION, OptionType.PUT
        case "FUT":
            return Kind.FUTURE, None
        case "EQ":
            return (Kind.INDEX if segment == "INDICES" else Kind.EQUITY), None
    raise _RowError("instrument_type", f"{instrument_type!r} is none of EQ, FUT, CE, PE")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text.strip())
    except ValueError:
        raise _RowError("expiry", f"{text!r} is not a date like 2026-11-24") from None


def _strike(text: str) -> float:
    strike = _amount(text, "strike")
    if not strike:
        raise _RowError("strike", "is 0 for an option")
    return strike


def _whole(text: str, field: str) -> int:
    try:
        value = int(text)
    except ValueError:
        raise _RowError(field, f"{text!r} is not a whole number") from None
    if value < 0:
        raise _RowError(field, f"{value} is negative")
    return value


def _amount(text: str, field: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise _RowError(field, f"{text!r} is not a number") from None
    if not (math.isfinite(value) and value >= 0):
        raise _RowError(field, f"{text!r} is not a finite number >= 0")
    return value


def _number(value: float) -> str:
    """The shortest text that reads back as the same number; whole numbers without a point."""
    return str(int(value)) if value.is_integer() else repr(value)


def _dump_type(item: Instrument) -> str:
    if item.option_type is not None:
        return item.option_type.value
    return "FUT" if item.kind is Kind.FUTURE else "EQ"
