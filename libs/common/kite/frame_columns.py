"""Many packets at once: a frame into columns, and a frame into sub-frames, with numpy."""

from collections.abc import Callable
from itertools import compress, pairwise
from typing import Final, NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from libs.common.kite.frame_packets import (
    FULL_LENGTH,
    INDEX_FULL_LENGTH,
    INDEX_QUOTE_LENGTH,
    LTP_LENGTH,
    QUOTE_LENGTH,
    TOKEN_LENGTH,
    WIRE_UNITS_PER_RUPEE,
    FrameError,
    ModeCode,
    uniform_length,
    walk,
)

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]
Codes: TypeAlias = npt.NDArray[np.uint8]
Words: TypeAlias = npt.NDArray[np.uint32]
BigEndianWords: TypeAlias = npt.NDArray[np.uint32]

ABSENT: Final = -1
"""Stands in an integer column where the packet's mode has no such field."""

DIVISORS: Final = np.array(WIRE_UNITS_PER_RUPEE)
"""float64[256]: wire units per rupee, indexed by segment (``token & 0xFF``); read-only."""
DIVISORS.flags.writeable = False

# Rows of the integer block behind `Columns`: words 0-15 of a full packet as they stand on the
# wire, then quantity and price of the best bid (words 16, 17) and of the best ask (31, 32).
_TOKEN: Final = 0
_LAST: Final = 1
_LAST_QUANTITY: Final = 2
_AVERAGE: Final = 3
_VOLUME: Final = 4
_BUY_QUANTITY: Final = 5
_SELL_QUANTITY: Final = 6
_OPEN: Final = 7
_HIGH: Final = 8
_LOW: Final = 9
_CLOSE: Final = 10
_LAST_TRADE: Final = 11
_OI: Final = 12
_OI_HIGH: Final = 13
_OI_LOW: Final = 14
_TIMESTAMP: Final = 15
_BID_QUANTITY: Final = 16
_BID: Final = 17
_ASK_QUANTITY: Final = 18
_ASK: Final = 19
_ROWS: Final = 20

# The rows that are prices, in the order of the float block.
_PRICE_ROWS: Final = np.array([_LAST, _AVERAGE, _OPEN, _HIGH, _LOW, _CLOSE, _BID, _ASK])

# What stands in an integer row whose packet has no such field.
_ABSENT_WORDS: Final = np.full((_ROWS, 1), ABSENT)
_ABSENT_WORDS[[_LAST_TRADE, _TIMESTAMP]] = 0

# Kinds of packets: numbered so that the first three are their own mode.
_UNKNOWN_KIND: Final = 255
_KIND_LENGTHS: Final = (
    LTP_LENGTH,
    QUOTE_LENGTH,
    FULL_LENGTH,
    INDEX_QUOTE_LENGTH,
    INDEX_FULL_LENGTH,
)
_MODE_OF_KIND: Final = np.array([0, 1, 2, 1, 2], np.uint8)
_FIRST_INDEX_KIND: Final = 3
_KIND_OF_LENGTH: Final = np.full(FULL_LENGTH + 2, _UNKNOWN_KIND, np.uint8)
_KIND_OF_LENGTH[list(_KIND_LENGTHS)] = range(5)

# Which rows a kind fills, bool[5, _ROWS, 1].
_FILLS: Final = np.zeros((5, _ROWS, 1), np.bool_)
_FILLS[:, [_TOKEN, _LAST]] = True
_FILLS[1, : _CLOSE + 1] = True
_FILLS[2] = True
_FILLS[3:, [_OPEN, _HIGH, _LOW, _CLOSE]] = True
_FILLS[4, _TIMESTAMP] = True

# Where an index packet keeps what a full packet has at rows 7-10 and 15: high, low, open, close.
_INDEX_ROWS: Final = np.array([_OPEN, _HIGH, _LOW, _CLOSE, _TIMESTAMP])
_INDEX_WORDS: Final = np.array([4, 2, 3, 5, 7])


class Depth(msgspec.Struct, frozen=True, eq=False):
    """Order books of the packets of a frame, one row per packet: five bids, then five asks.

    Attributes:
        prices: float64[n, 10], rupees; NaN where the packet has no depth, 0.0 at an empty level.
        quantities: int64[n, 10]; ``ABSENT`` where the packet has no depth.
        orders: int64[n, 10]; ``ABSENT`` where the packet has no depth.
    """

    prices: Floats
    quantities: Ints
    orders: Ints


class Columns:
    """The packets of a frame as structure of arrays: n known packets in frame order.

    Every property is an array of length n. A float is NaN, an integer ``ABSENT`` (-1) and a time 0
    where the packet's mode has no such field; an empty order book has a bid of 0.0. Treat the
    arrays as read-only: some share memory.
    """

    __slots__ = ("_body", "_depth", "_prices", "_words", "mode")

    mode: Codes
    """``ModeCode`` of each packet."""

    def __init__(self, words: Ints, prices: Floats, mode: Codes, body: BigEndianWords) -> None:
        self.mode = mode
        self._words = words
        self._prices = prices
        self._body = body
        self._depth: Depth | None = None

    def __len__(self) -> int:
        """Number of packets."""
        return len(self.mode)

    @property
    def token(self) -> Ints:
        """Instrument tokens."""
        return self._whole(_TOKEN)

    @property
    def last_price(self) -> Floats:
        """Rupees."""
        return self._rupees(0)

    @property
    def average_price(self) -> Floats:
        """Average traded price of the day, rupees."""
        return self._rupees(1)

    @property
    def open(self) -> Floats:
        """Rupees."""
        return self._rupees(2)

    @property
    def high(self) -> Floats:
        """Rupees."""
        return self._rupees(3)

    @property
    def low(self) -> Floats:
        """Rupees."""
        return self._rupees(4)

    @property
    def close(self) -> Floats:
        """Last price of the previous session, rupees."""
        return self._rupees(5)

    @property
    def bid(self) -> Floats:
        """Best bid, rupees; 0.0 if nobody bids."""
        return self._rupees(6)

    @property
    def ask(self) -> Floats:
        """Best ask, rupees; 0.0 if nobody offers."""
        return self._rupees(7)

    @property
    def bid_qty(self) -> Ints:
        """Units at the best bid."""
        return self._whole(_BID_QUANTITY)

    @property
    def ask_qty(self) -> Ints:
        """Units at the best ask."""
        return self._whole(_ASK_QUANTITY)

    @property
    def last_quantity(self) -> Ints:
        """Units of the last trade."""
        return self._whole(_LAST_QUANTITY)

    @property
    def volume(self) -> Ints:
        """Units traded on the day."""
        return self._whole(_VOLUME)

    @property
    def buy_quantity(self) -> Ints:
        """Units waiting to be bought."""
        return self._whole(_BUY_QUANTITY)

    @property
    def sell_quantity(self) -> Ints:
        """Units waiting to be sold."""
        return self._whole(_SELL_QUANTITY)

    @property
    def oi(self) -> Ints:
        """Open interest in units."""
        return self._whole(_OI)

    @property
    def oi_high(self) -> Ints:
        """Highest open interest of the day."""
        return self._whole(_OI_HIGH)

    @property
    def oi_low(self) -> Ints:
        """Lowest open interest of the day."""
        return self._whole(_OI_LOW)

    @property
    def exchange_ts_s(self) -> Ints:
        """Exchange timestamps, epoch seconds; 0 where there is none."""
        return self._whole(_TIMESTAMP)

    @property
    def last_trade_ts_s(self) -> Ints:
        """Last trades, epoch seconds; 0 where there is none."""
        return self._whole(_LAST_TRADE)

    @property
    def depth(self) -> Depth:
        """The order books; decoded when first asked for, which few readers do."""
        if self._depth is None:
            self._depth = self._read_depth()
        return self._depth

    def book_words(self, rows: Ints) -> Words:
        """Order books as they stand on the wire, for readers that write prices as text again.

        Args:
            rows: Positions of packets that have one, [m]: those whose ``bid_qty`` is not absent.

        Returns:
            uint32[3, m, 10]: quantities, prices in wire units, orders; five bids, then five asks.
        """
        words = np.empty((3, rows.size, 10), np.uint32)
        if rows.size:
            words[:] = self._body[rows, 16:].reshape(rows.size, 10, 3).transpose(2, 0, 1)
            words[2] >>= 16
        return words

    def _whole(self, row: int) -> Ints:
        values: Ints = self._words[row]
        return values

    def _rupees(self, row: int) -> Floats:
        values: Floats = self._prices[row]
        return values

    def _read_depth(self) -> Depth:
        shape = (len(self), 10)
        depth = Depth(np.full(shape, np.nan), np.full(shape, ABSENT), np.full(shape, ABSENT))
        # Not the mode: an index in full mode has no depth.
        rows = np.flatnonzero(self.bid_qty != ABSENT)
        if rows.size:
            levels = self._body[rows, 16:].reshape(rows.size, 10, 3)
            depth.quantities[rows] = levels[:, :, 0]
            depth.prices[rows] = levels[:, :, 1] / DIVISORS[self.token[rows] & 0xFF, None]
            depth.orders[rows] = levels[:, :, 2] >> 16
        return depth


def decode_columns(frame: bytes) -> Columns:
    """Read every packet of a frame into columns, equal in every value to ``decode``.

    About 15 µs for a frame of equal packets whatever their number; a mixed one costs its walk.

    Args:
        frame: A binary WebSocket message that is no heartbeat.

    Returns:
        One row per packet of known length, in frame order.

    Raises:
        FrameError: As ``slices``.
    """
    length = uniform_length(frame)
    if length:
        kind = int(_KIND_OF_LENGTH[min(length, FULL_LENGTH + 1)])
        if kind == _UNKNOWN_KIND:
            return _NO_COLUMNS
        count = len(frame) // (length + 2)
        body: BigEndianWords = np.ndarray(
            (count, length // 4), ">u4", frame, offset=4, strides=(length + 2, 4)
        )
        words = np.empty((_ROWS, count), np.int64)
        mode = np.full(count, _MODE_OF_KIND[kind])
        if kind == ModeCode.FULL:
            words[:_BID_QUANTITY] = body.T[:16]
            words[_BID_QUANTITY:_ASK_QUANTITY] = body.T[16:18]
            words[_ASK_QUANTITY:] = body.T[31:33]
            return Columns(words, _prices(words), mode, body)
        words[:] = _ABSENT_WORDS
        if kind >= _FIRST_INDEX_KIND:
            words[:2] = body.T[:2]
            filled = _INDEX_ROWS if kind > _FIRST_INDEX_KIND else _INDEX_ROWS[:4]
            words[filled] = body.T[_INDEX_WORDS[: filled.size]]
        else:
            words[: length // 4] = body.T
        prices = _prices(words)
        prices[~_FILLS[kind, _PRICE_ROWS, 0]] = np.nan
        return Columns(words, prices, mode, body)
    return _mixed_columns(frame)


def _mixed_columns(frame: bytes) -> Columns:
    marks, sizes = _locate(frame)
    starts = marks[:-1] + 2
    kinds = _KIND_OF_LENGTH[np.minimum(sizes - 2, FULL_LENGTH + 1)]
    known = kinds != _UNKNOWN_KIND
    if not known.all():
        starts, kinds = starts[known], kinds[known]
    count = kinds.size
    if not count:
        return _NO_COLUMNS
    # Every layout is read as if it were full, 184 bytes from where its body starts: ltp and quote
    # are beginnings of full. What lies beyond a shorter packet is masked, what an index packet
    # keeps elsewhere is moved. One gather beats a join per length, and keeps the frame's order.
    padded = frame + bytes(FULL_LENGTH)
    windows = np.ndarray((len(frame) + 1,), f"V{FULL_LENGTH}", padded, strides=(1,))
    body: BigEndianWords = windows[starts].view(">u4").reshape(count, FULL_LENGTH // 4)
    words = np.empty((_ROWS, count), np.int64)
    words[:_BID_QUANTITY] = body.T[:16]
    words[_BID_QUANTITY:_ASK_QUANTITY] = body.T[16:18]
    words[_ASK_QUANTITY:] = body.T[31:33]
    indices = np.flatnonzero(kinds >= _FIRST_INDEX_KIND)
    if indices.size:
        words[np.ix_(_INDEX_ROWS, indices)] = words[np.ix_(_INDEX_WORDS, indices)]
    absent = ~_FILLS[kinds, :, 0].T
    prices = _prices(words)
    np.copyto(words, _ABSENT_WORDS, where=absent)
    prices[absent[_PRICE_ROWS]] = np.nan
    return Columns(words, prices, _MODE_OF_KIND[kinds], body)


def _prices(words: Ints) -> Floats:
    # One division per value, as kiteconnect does: a product with 0.01 would differ in the last bit.
    prices: Floats = words[_PRICE_ROWS] / DIVISORS[words[_TOKEN] & 0xFF]
    return prices


def _locate(frame: bytes) -> tuple[Ints, Ints]:
    """Where length fields stand, and the end; and how many bytes each packet has with its own."""
    lows = _stride(frame)
    if lows is None:
        marks = np.array(walk(frame))
    else:
        marks = np.fromiter(lows, np.int64, len(lows))
        marks -= 1
        if np.frombuffer(frame, np.uint8)[marks[:-1]].any():
            marks = np.array(walk(frame))
    sizes = marks[1:] - marks[:-1]
    if sizes.size and sizes.min() < TOKEN_LENGTH + 2:
        raise FrameError("packet_length", int(marks[(sizes < TOKEN_LENGTH + 2).argmax()]))
    return marks, sizes


def _stride(frame: bytes) -> list[int] | None:
    """Where the low byte of each length stands if their high bytes are 0, and the end plus 1.

    `walk` in half the time, on trust: the caller proves that the high bytes are 0. None for a
    frame that does not end where it should: `walk` tells whether that is a fault, and which.
    """
    size = len(frame)
    if size < 2:
        return None
    low = 3
    lows = [low]
    note = lows.append
    try:
        for _ in range(frame[0] << 8 | frame[1]):
            low += frame[low] + 2
            note(low)
    except IndexError:
        return None
    return lows if low == size + 1 else None


# Up to here a loop over the packets is faster than sorting them: of one length, of several.
_LOOP_UNIFORM: Final = 32
_LOOP_MIXED: Final = 100

# Room for the longest packet of a known kind with its length field.
_WINDOW: Final = FULL_LENGTH + 2

_NO_COLUMNS: Final = Columns(
    np.empty((_ROWS, 0), np.int64),
    np.empty((_PRICE_ROWS.size, 0)),
    np.empty(0, np.uint8),
    np.empty((0, 0), ">u4"),
)
_NO_PLACES: Final = np.empty(0, np.int64)


class Split(NamedTuple):
    """A frame taken apart by key.

    Attributes:
        parts: A valid frame per key, its packets (of any length) in the order of the whole.
        places: int64[m], where in the table the tokens of the known packets stand, in the order
            of the frame.
        unknown: Number of packets left out because their token is not in the table.
    """

    parts: dict[int, bytes]
    places: Ints
    unknown: int


def split_by_key(frame: bytes, tokens_sorted: Ints, keys: npt.NDArray[np.int16]) -> Split:
    """Split a frame into one sub-frame per key, reading nothing but lengths and tokens.

    Args:
        frame: A binary WebSocket message that is no heartbeat.
        tokens_sorted: int64[k], the known instrument tokens, ascending, without duplicates.
        keys: int16[k], the key (a shard) of each of them.

    Raises:
        FrameError: As ``slices``.
    """
    length = uniform_length(frame)
    if length:
        stride = length + 2
        count = len(frame) // stride
        tokens = np.ndarray((count,), ">u4", frame, offset=4, strides=(stride,))
    else:
        marks, sizes = _locate(frame)
        count = sizes.size
        if not count:
            return Split({}, _NO_PLACES, 0)
        # Every place at which a token may stand behind a length field.
        tokens = np.ndarray((len(frame) - 5,), ">u4", frame, offset=2, strides=(1,))[marks[:-1]]
    places, known = _look_up(tokens.astype(np.int64), tokens_sorted)
    unknown = count - int(np.count_nonzero(known))
    if unknown == count:
        return Split({}, _NO_PLACES, count)
    key_of = keys[places]
    # The first and the last tell most frames of several keys at once.
    if not unknown and key_of[0] == key_of[-1] and (key_of == key_of[0]).all():
        return Split({int(key_of[0]): frame}, places, 0)
    chosen = None if not unknown else known.nonzero()[0]
    if chosen is not None:
        places, key_of = places[chosen], key_of[chosen]
    if length and count > _LOOP_UNIFORM:
        parts = _gather(frame, stride, key_of, chosen)
    elif not length and count > _LOOP_MIXED and sizes.max() <= _WINDOW:
        parts = _scatter(frame, marks, sizes, key_of, chosen)
    else:
        positions = range(2, len(frame) + 1, stride) if length else marks.tolist()
        key_list: list[int] = key_of.tolist()
        bodies: dict[int, list[bytes]] = {key: [] for key in dict.fromkeys(key_list)}
        spans = compress(pairwise(positions), known.tolist())
        for (begin, end), key in zip(spans, key_list, strict=True):
            bodies[key].append(frame[begin:end])
        parts = {
            key: len(packets).to_bytes(2, "big") + b"".join(packets)
            for key, packets in bodies.items()
        }
    return Split(parts, places, unknown)


def _gather(
    frame: bytes, stride: int, key_of: npt.NDArray[np.int16], chosen: Ints | None
) -> dict[int, bytes]:
    """Split packets of equal length by sorting them whole.

    Args:
        frame: All packets.
        stride: Length of each with its length field.
        key_of: The key of every packet that goes on.
        chosen: Which packets of the frame those are; None for all.
    """
    # Stable, so that the packets of a key stay in the order in which they came.
    order = np.argsort(key_of, kind="stable")
    packets = np.ndarray((len(frame) // stride,), f"V{stride}", frame, offset=2)
    joined = packets[order if chosen is None else chosen[order]].tobytes()
    return _cut(joined, len(joined), key_of[order], lambda rows: rows * stride)


def _scatter(
    frame: bytes,
    marks: Ints,
    sizes: Ints,
    key_of: npt.NDArray[np.int16],
    chosen: Ints | None,
) -> dict[int, bytes]:
    """Split packets of several lengths by laying them one behind the other, sorted by key.

    Every packet is copied as if it were the longest kind. What lies behind a shorter one is
    overwritten by its successor, because the assignment runs upwards through the destinations.

    Args:
        frame: All packets, none longer than a full one.
        marks: Where each packet's length field stands.
        sizes: How many bytes it has with that.
        key_of: The key of every packet that goes on.
        chosen: Which packets of the frame those are; None for all.
    """
    order = np.argsort(key_of, kind="stable")
    rows = order if chosen is None else chosen[order]
    sizes = sizes[rows]
    ends = sizes.cumsum()
    padded = frame + bytes(_WINDOW)
    windows = np.ndarray((len(frame) + 1,), f"V{_WINDOW}", padded, strides=(1,))
    size = int(ends[-1])
    joined = bytearray(size + _WINDOW)
    places = np.ndarray((size + 1,), f"V{_WINDOW}", joined, strides=(1,))
    places[ends - sizes] = windows[marks[rows]]
    return _cut(joined, size, key_of[order], lambda rows: ends[rows - 1])


def _cut(
    joined: bytes | bytearray,
    size: int,
    sorted_keys: npt.NDArray[np.int16],
    offset_of: Callable[[Ints], Ints],
) -> dict[int, bytes]:
    """One frame per key out of packets that lie sorted by key.

    Args:
        joined: The packets.
        size: How many bytes they are; what lies behind is ignored.
        sorted_keys: The key of each.
        offset_of: Where packets begin, given their numbers (not 0).
    """
    breaks = (sorted_keys[1:] != sorted_keys[:-1]).nonzero()[0] + 1
    count = sorted_keys.size
    rows = [0, *breaks.tolist(), count]
    offsets = [0, *offset_of(breaks).tolist(), size]
    view = memoryview(joined)
    return {
        key: (rows[i + 1] - rows[i]).to_bytes(2, "big") + view[offsets[i] : offsets[i + 1]]
        for i, key in enumerate(sorted_keys[rows[:-1]].tolist())
    }


def _look_up(tokens: Ints, tokens_sorted: Ints) -> tuple[Ints, npt.NDArray[np.bool_]]:
    """Where each token stands in the table, and whether it does (the place is arbitrary if not)."""
    if not tokens_sorted.size:
        return np.zeros(tokens.size, np.int64), np.zeros(tokens.size, np.bool_)
    places = tokens_sorted.searchsorted(tokens)
    np.minimum(places, tokens_sorted.size - 1, out=places)
    return places, tokens_sorted[places] == tokens
