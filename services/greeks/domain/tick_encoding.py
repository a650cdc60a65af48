"""Turns columns of ticks into newline-delimited JSON, byte for byte that of `messages.Tick`."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat, starmap
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from libs.common.contracts.messages import Depth, DepthLevel, Tick
from services.greeks.domain.book_texts import BookTexts
from services.greeks.domain.fragments import HEAD, STAMP, VALUATION, VERDICT
from services.greeks.domain.packets import Depth as Books

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Objects = npt.NDArray[np.object_]

TICK_BYTES: Final = 1000
"""About the length of a tick without depth: so many rows are encoded before the size is checked."""
DEPTH_BYTES: Final = 500
"""About what five levels a side add."""
MANY_BOOKS: Final = 48
"""From here on writing all books side by side beats an object per level."""

# A tick as the encoder wants it: values by position, with shared pieces of JSON in place of the
# first field of each piece. Structs made by position from zipped columns are the cheapest rows in
# Python, and msgspec writes NaN as null, so a column needs no row-wise care.
_INSIDE_PIECES: Final = frozenset((*HEAD[1:], *VERDICT[1:], *VALUATION[1:], *STAMP[1:]))
_Row: Final[Any] = msgspec.defstruct(
    "_Row",
    [(name, Any) for name in Tick.__struct_fields__ if name not in _INSIDE_PIECES],
    gc=False,
)
_Level: Final[Any] = msgspec.defstruct(
    "_Level", [(name, Any) for name in DepthLevel.__struct_fields__], gc=False
)
_Depth: Final[Any] = msgspec.defstruct(
    "_Depth", [(name, Any) for name in Depth.__struct_fields__], gc=False
)
_ENCODER: Final = msgspec.json.Encoder()


class TickColumns(msgspec.Struct, kw_only=True, gc=False):
    """n ticks, column by column; NaN, -1 (quantities) and 0 (times) stand for null.

    Attributes:
        head: JSON up to the option type [n].
        last_price: Rupees [n].
        bid: Rupees [n].
        ask: Rupees [n].
        bid_qty: Units [n].
        ask_qty: Units [n].
        volume: Units [n].
        oi: Units [n].
        change: Percent [n].
        ohlc: JSON (msgspec.Raw), or None [n].
        depth_rows: Which ticks carry an order book, ascending [d].
        depth: Their books [d, 10], None if d is 0.
        iv: Per year [n], as the next three.
        bid_iv: [n].
        ask_iv: [n].
        smile_iv: [n].
        greeks: delta, gamma, theta, vega, rho [5, n].
        verdict: JSON of status and origin of the Greeks [n].
        valuation: JSON from the forward to what comes before `seq` [n].
        seq: [n].
        stamp: JSON from the epoch on [n].
    """

    head: Objects
    last_price: Floats
    bid: Floats
    ask: Floats
    bid_qty: Ints
    ask_qty: Ints
    volume: Ints
    oi: Ints
    change: Floats
    ohlc: Objects
    depth_rows: Ints
    depth: Books | None
    iv: Floats
    bid_iv: Floats
    ask_iv: Floats
    smile_iv: Floats
    greeks: Floats
    verdict: Objects
    valuation: Sequence[msgspec.Raw]
    seq: Ints
    stamp: Sequence[msgspec.Raw]


def rows_of(ticks: TickColumns, texts: BookTexts) -> Iterator[Any]:
    """Make one encodable row per tick, each when it is asked for.

    Args:
        ticks: The columns.
        texts: Writes the order books.
    """
    return starmap(
        _Row,
        zip(
            ticks.head.tolist(),
            ticks.last_price.tolist(),
            ticks.bid.tolist(),
            ticks.ask.tolist(),
            _nullable(ticks.bid_qty, ticks.bid_qty > 0),
            _nullable(ticks.ask_qty, ticks.ask_qty > 0),
            _nullable(ticks.volume, ticks.volume >= 0),
            _nullable(ticks.oi, ticks.oi >= 0),
            ticks.change.tolist(),
            ticks.ohlc.tolist(),
            _depth(ticks, texts),
            ticks.iv.tolist(),
            ticks.bid_iv.tolist(),
            ticks.ask_iv.tolist(),
            ticks.smile_iv.tolist(),
            *(greek.tolist() for greek in ticks.greeks),
            ticks.verdict.tolist(),
            ticks.valuation,
            ticks.seq.tolist(),
            ticks.stamp,
            strict=False,
        ),
    )


def encode(rows: Sequence[Any], *, max_bytes: int, row_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Encode rows into as few messages as their limit allows, in order.

    Args:
        rows: Of one underlying, from `rows_of`.
        max_bytes: No message is longer, unless a single tick is.
        row_bytes: About the length of a row; only decides how often the guess is wrong.

    Yields:
        How many rows, and their newline-delimited JSON with a newline at the end.
    """
    step = max(1, max_bytes // row_bytes)
    start = 0
    while start < len(rows):
        count = min(step, len(rows) - start)
        payload = _ENCODER.encode_lines(rows[start : start + count])
        while len(payload) > max_bytes and count > 1:
            count = step = (count + 1) // 2
            payload = _ENCODER.encode_lines(rows[start : start + count])
        yield count, payload
        start += count


def _nullable(values: Ints, known: Bools) -> Iterable[int | None]:
    """Whole numbers as Python objects, None where one is not known."""
    count = int(np.count_nonzero(known))
    if count == values.size:
        whole: list[int | None] = values.tolist()
        return whole
    if not count:
        return repeat(None)
    listed: list[int | None] = values.tolist()
    for row in np.flatnonzero(~known).tolist():
        listed[row] = None
    return listed


def _depth(ticks: TickColumns, texts: BookTexts) -> Iterable[Any]:
    """Order books, as JSON where there are many; a level without quantity is left out."""
    books = ticks.depth
    if books is None:
        return repeat(None)
    found = spelled(books, texts)
    if len(found) == ticks.head.size:
        return found
    rows: list[Any] = [None] * ticks.head.size
    for row, book in zip(ticks.depth_rows.tolist(), found, strict=True):
        rows[row] = book
    return rows


def spelled(books: Books, texts: BookTexts) -> list[Any]:
    """Encodable order books: JSON where there are many, an object for each that has no place there.

    Args:
        books: At least one.
        texts: Writes them.
    """
    if len(books.divisors) < MANY_BOOKS:
        return _books(books)
    found: list[Any] = [*texts.of(books)]
    odd = [row for row, text in enumerate(found) if text is None]
    if odd:
        for row, book in zip(odd, _books(books.take(np.array(odd))), strict=True):
            found[row] = book
    return found


def _books(books: Books) -> list[Any]:
    """Order books as objects to be encoded."""
    levels = list(
        starmap(
            _Level,
            zip(
                books.prices.ravel().tolist(),
                books.quantities.ravel().tolist(),
                books.orders.ravel().tolist(),
                strict=True,
            ),
        )
    )
    whole: list[bool] = np.logical_and.reduce(books.quantities > 0, axis=1).tolist()
    found: list[Any] = []
    for book, is_whole in enumerate(whole):
        first = 10 * book
        buy, sell = levels[first : first + 5], levels[first + 5 : first + 10]
        if not is_whole:
            buy = [level for level in buy if level.quantity > 0]
            sell = [level for level in sell if level.quantity > 0]
        found.append(_Depth(buy, sell))
    return found
