"""Writes the order books of a batch as JSON by looking digits up, four at a time, in tables.

Two thirds of a full tick are its ten levels. An object per level and a formatted number per value
cost more than everything that is computed; here all books are written side by side into rows of
fixed width with NUL bytes where a number is shorter, and one pass takes these out.
"""

from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

from services.greeks.domain.packets import Depth

Words = npt.NDArray[np.uint32]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_GROUP: Final = 10_000
"""Four digits fill a word."""
_LIMIT: Final = _GROUP * _GROUP
"""Rupees and quantities have two words; a price on the wire is always less."""
_PAISE_PER_RUPEE: Final = 100


def _words(texts: list[bytes]) -> Words:
    return np.array([text.ljust(4, b"\0") for text in texts], "S4").view("<u4").astype(np.uint32)


_PLAIN: Final = [b"%d" % number for number in range(_GROUP)]
_FIRST: Final = _words([b"", *_PLAIN[1:]])
"""The upper digits of a number: nothing for 0."""
_LAST: Final = _words([*_PLAIN, *(b"%04d" % number for number in range(_GROUP))])
"""The lower digits, from `_GROUP` on with the zeros that follow upper ones."""
_PAISE: Final = _words(
    [b".0,", *((b".%02d" % number).rstrip(b"0") + b"," for number in range(1, 100))]
)
"""The shortest decimals, as every JSON encoder writes them, and the comma behind."""

_LEVEL: Final = np.dtype(
    [
        ("start", "S10"),
        ("rupees", "<u4", 2),
        ("paise", "<u4"),
        ("quantity_is", "S11"),
        ("quantity", "<u4", 2),
        ("orders_is", "S10"),
        ("orders", "<u4"),
        ("end", "S1"),
    ]
)
_BOOK: Final = np.dtype(
    [("start", "S8"), ("buy", _LEVEL, 5), ("between", "S10"), ("sell", _LEVEL, 5), ("end", "S4")]
)
_NEXT: Final = b',{"price":'
_ALONE: Final = b'{"price":'


def _blank_book() -> npt.NDArray[np.void]:
    """A book with everything but its numbers."""
    book = np.zeros(1, _BOOK)
    book["start"], book["between"], book["end"] = b'{"buy":[', b'],"sell":[', b"]}\n"
    for side in ("buy", "sell"):
        levels = book[side]
        levels["start"] = _NEXT
        levels["start"][:, 0] = _ALONE
        levels["quantity_is"], levels["orders_is"], levels["end"] = (
            b'"quantity":',
            b',"orders":',
            b"}",
        )
    return book


_BLANK: Final = _blank_book()
_PIECE: Final = 192
"""Books made into bytes at once: their buffers stay in the CPU's cache and are not given back to
the operating system in between."""


class BookTexts:
    """Writes order books as JSON, byte for byte that of `messages.Depth`; reuses its room."""

    __slots__ = ("_room",)

    def __init__(self) -> None:
        self._room = _BLANK.repeat(0)

    def of(self, books: Depth) -> list[msgspec.Raw | None]:
        """The JSON of n order books; a level without quantity is left out.

        Prices go from the wire's whole paise into digits, never by way of a float.

        Args:
            books: At least one.

        Returns:
            A text per book; None for one with a number that has no place here: prices that are not
            sent in paise (currencies), a quantity from 100 million on, orders from 10 000 on.
        """
        quantities, paise, orders = books.words
        fits = books.divisors == _PAISE_PER_RUPEE
        is_common = bool(fits.all() and quantities.max() < _LIMIT and orders.max() < _GROUP)
        if not is_common:
            fits &= (quantities.max(axis=1) < _LIMIT) & (orders.max(axis=1) < _GROUP)
            quantities, orders = quantities * fits[:, None], orders * fits[:, None]
        n = len(quantities)
        if n > self._room.size:
            self._room = _BLANK.repeat(n)
        text = self._room[:n]
        rupees = paise // _PAISE_PER_RUPEE
        paise = paise - rupees * _PAISE_PER_RUPEE
        filled = quantities > 0
        is_whole = bool(filled.all())
        for side, columns in (("buy", slice(0, 5)), ("sell", slice(5, 10))):
            levels = text[side]
            _write(levels["rupees"], rupees[:, columns])
            levels["paise"] = _PAISE[paise[:, columns]]
            _write(levels["quantity"], quantities[:, columns])
            levels["orders"] = _LAST[orders[:, columns]]
            if not is_whole:
                _leave_out(levels, filled[:, columns])
        texts: list[msgspec.Raw | None] = []
        for first in range(0, n, _PIECE):
            written = text[first : first + _PIECE].tobytes()
            texts += map(msgspec.Raw, written.translate(None, b"\0").split(b"\n")[:-1])
        if not is_whole:
            text[~filled.all(axis=1)] = _BLANK
        if not is_common:
            for row in np.flatnonzero(~fits).tolist():
                texts[row] = None
        return texts


def _write(words: Words, numbers: Words) -> None:
    """Write numbers below `_LIMIT` into two words each."""
    upper = numbers // _GROUP
    lower = numbers - upper * _GROUP
    lower += (upper > 0) * np.uint32(_GROUP)
    words[..., 0] = _FIRST[upper]
    words[..., 1] = _LAST[lower]


def _leave_out(levels: npt.NDArray[np.void], filled: Bools) -> None:
    """Blank the levels that are not filled, and the comma of those that became first."""
    levels["start"][filled & (filled.cumsum(axis=1) == 1)] = _ALONE
    levels[~filled] = np.zeros((), _LEVEL)
