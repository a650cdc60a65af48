"""Candles column by column: how they are cut, joined, told apart by day, and stored."""

import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import date
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from libs.common.contracts.messages import Candle

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DAY_SECONDS: Final = 86_400
_INDIA_SECONDS: Final = 19_800
"""India is five and a half hours ahead, all year, since 1945."""
_EPOCH_ORDINAL: Final = date(1970, 1, 1).toordinal()

_VERSION: Final = 1
"""First byte of a stored day: who changes the layout counts it up, and old rows are misses."""
_KINDS: Final = "iffffii"
"""What the columns hold, in order: whole numbers or floats of eight bytes."""
_VALUE_BYTES: Final = 8
_NO_OI: Final = -1


class StoredDayError(ValueError):
    """A stored day cannot be read: of another version, cut off or damaged."""


class Columns(NamedTuple):
    """n candles, ascending by start, each once.

    Attributes:
        start: First instant, epoch seconds [n].
        open: Rupees [n]; high, low and close likewise.
        high: [n].
        low: [n].
        close: [n].
        volume: Contracts or shares [n].
        oi: Open interest [n]; -1 where there is none.
    """

    start: Ints
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Ints
    oi: Ints

    @property
    def size(self) -> int:
        """How many candles."""
        return self.start.size

    def rows(self, which: slice | Ints | npt.NDArray[np.bool_]) -> "Columns":
        """Some of them."""
        return _made([column[which] for column in self])

    def between(self, first: int, last: int) -> "Columns":
        """Those that begin from `first` to `last`, epoch seconds, both inclusive."""
        low = int(np.searchsorted(self.start, first, side="left"))
        high = int(np.searchsorted(self.start, last, side="right"))
        return self.rows(slice(low, high))

    def by_day(self) -> Iterator[tuple[int, "Columns"]]:
        """The candles of every Indian day that has some, oldest first, by day number."""
        days = day_numbers(self.start)
        firsts = np.flatnonzero(np.diff(days, prepend=-1))
        for first, end in pairwise([*firsts.tolist(), days.size]):
            yield int(days[first]), self.rows(slice(first, end))


def columns_of(candles: Sequence[Candle]) -> Columns:
    """Turn candles as they travel into columns."""
    return Columns(
        start=np.array([candle.start for candle in candles], np.int64),
        open=np.array([candle.open for candle in candles], np.float64),
        high=np.array([candle.high for candle in candles], np.float64),
        low=np.array([candle.low for candle in candles], np.float64),
        close=np.array([candle.close for candle in candles], np.float64),
        volume=np.array([candle.volume for candle in candles], np.int64),
        oi=np.array([_NO_OI if candle.oi is None else candle.oi for candle in candles], np.int64),
    )


def join(pieces: Iterable[Columns]) -> Columns:
    """Candles one behind the other; no piece may begin before the one before it has ended."""
    parts = [columns_of(()), *pieces]
    return _made([np.concatenate(column) for column in zip(*parts, strict=True)])


def day_numbers(start: Ints) -> Ints:
    """The Indian day of each moment, counted from 1970-01-01 [n]."""
    return (start + _INDIA_SECONDS) // DAY_SECONDS


def day_number(day: date) -> int:
    """A day, counted from 1970-01-01."""
    return day.toordinal() - _EPOCH_ORDINAL


def day_of(number: int) -> date:
    """The day of a number."""
    return date.fromordinal(number + _EPOCH_ORDINAL)


def midnight_of(number: int) -> int:
    """The first second of an Indian day, epoch."""
    return number * DAY_SECONDS - _INDIA_SECONDS


def pack(columns: Columns) -> bytes:
    """Spell candles as few bytes: a version, then the columns one by one, deflated.

    Every number is kept exactly. An ordinary day of minutes takes some 6 KB.
    """
    raw = b"".join(
        np.ascontiguousarray(column).astype(f"<{kind}8").tobytes()
        for column, kind in zip(columns, _KINDS, strict=True)
    )
    return bytes((_VERSION,)) + zlib.compress(raw, level=6)


def unpack(packed: bytes) -> Columns:
    """Read what `pack` wrote.

    Raises:
        StoredDayError: These bytes are not that.
    """
    if packed[:1] != bytes((_VERSION,)):
        raise StoredDayError(f"layout {packed[:1]!r} is not layout {_VERSION}")
    try:
        raw = zlib.decompress(packed[1:])
    except zlib.error as error:
        raise StoredDayError(str(error)) from error
    count, rest = divmod(len(raw), len(_KINDS) * _VALUE_BYTES)
    if rest:
        raise StoredDayError(f"{len(raw)} bytes are no whole number of candles")
    columns = [
        np.frombuffer(raw, f"<{kind}8", count, place * count * _VALUE_BYTES)
        for place, kind in enumerate(_KINDS)
    ]
    return _made(columns)


def _made(columns: Sequence[npt.NDArray[Any]]) -> Columns:
    start, opening, high, low, close, volume, oi = columns
    return Columns(start, opening, high, low, close, volume, oi)
