"""The packets of one or many frames as structure of arrays, with the frame each came in."""

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from libs.common.kite.frames import (
    ABSENT,
    DIVISORS,
    MAX_PACKETS,
    Columns,
    FrameError,
    ModeCode,
    decode_columns,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_LTP_BYTES: Final = 10
"""A packet of eight bytes and its length field; the others likewise."""
_QUOTE_BYTES: Final = 46
_FULL_BYTES: Final = 186
_INDEX_QUOTE_BYTES: Final = 30
_INDEX_FULL_BYTES: Final = 34


class Depth(NamedTuple):
    """n order books as they stand on the wire: five bids, then five asks, best first.

    Attributes:
        words: uint32[3, n, 10]: quantities (0 at an empty level), prices in wire units, orders.
        divisors: float64[n], wire units per rupee.
    """

    words: npt.NDArray[np.uint32]
    divisors: Floats

    @property
    def quantities(self) -> npt.NDArray[np.uint32]:
        """Units, uint32[n, 10]."""
        return self._plane(0)

    @property
    def wire_prices(self) -> npt.NDArray[np.uint32]:
        """Prices in wire units, uint32[n, 10]."""
        return self._plane(1)

    @property
    def orders(self) -> npt.NDArray[np.uint32]:
        """Orders, uint32[n, 10]."""
        return self._plane(2)

    @property
    def prices(self) -> Floats:
        """Rupees, float64[n, 10]."""
        rupees: Floats = self.wire_prices / self.divisors[:, None]
        return rupees

    def take(self, rows: Ints) -> "Depth":
        """The books at these positions."""
        return Depth(self.words[:, rows], self.divisors[rows])

    def _plane(self, number: int) -> npt.NDArray[np.uint32]:
        plane: npt.NDArray[np.uint32] = self.words[number]
        return plane


class BadFrame(NamedTuple):
    """A frame that was left out.

    Attributes:
        position: Which of the frames.
        reason: One of `libs.common.kite.frames.FrameFault`.
    """

    position: int
    reason: str


class Packets:
    """n packets in the order of their frames; every property has shape [n].

    Absent values are NaN (prices), -1 (quantities) and 0 (times), as the decoder gives them. Treat
    the arrays as read-only.

    Attributes:
        mode: `ModeCode` of each packet.
        frame: Index of the frame it came in.
    """

    __slots__ = ("_floats", "_ints", "_origin", "_sources", "frame", "mode")

    def __init__(
        self,
        *,
        floats: Floats,
        ints: Ints,
        mode: npt.NDArray[np.uint8],
        frame: Ints,
        origin: Ints,
        sources: Sequence[Columns],
    ) -> None:
        self.mode = mode
        self.frame = frame
        self._floats = floats
        self._ints = ints
        self._origin = origin
        self._sources = sources

    @classmethod
    def of(cls, sources: Sequence[Columns], frame: Ints) -> "Packets":
        """Put decoded frames one behind the other.

        Args:
            sources: Decoded frames, n rows in all.
            frame: Index of the frame of every row [n].
        """
        floats = [
            np.stack((c.last_price, c.bid, c.ask, c.open, c.high, c.low, c.close)) for c in sources
        ]
        ints = [
            np.stack((c.token, c.bid_qty, c.ask_qty, c.volume, c.oi, c.exchange_ts_s))
            for c in sources
        ]
        modes = [c.mode for c in sources]
        return cls(
            floats=np.concatenate(floats, axis=1) if floats else np.empty((7, 0)),
            ints=np.concatenate(ints, axis=1) if ints else np.empty((6, 0), np.int64),
            mode=np.concatenate(modes) if modes else np.empty(0, np.uint8),
            frame=frame,
            origin=np.arange(frame.size),
            sources=sources,
        )

    def __len__(self) -> int:
        """Number of packets."""
        return self.frame.size

    def take(self, rows: Ints | slice) -> "Packets":
        """The packets at these positions, in this order; a slice copies nothing."""
        return Packets(
            floats=self._floats[:, rows],
            ints=self._ints[:, rows],
            mode=self.mode[rows],
            frame=self.frame[rows],
            origin=self._origin[rows],
            sources=self._sources,
        )

    @property
    def last_price(self) -> Floats:
        """Rupees."""
        return self._price(0)

    @property
    def bid(self) -> Floats:
        """Best bid, rupees; 0.0 if nobody bids."""
        return self._price(1)

    @property
    def ask(self) -> Floats:
        """Best ask, rupees; 0.0 if nobody offers."""
        return self._price(2)

    @property
    def ohlc(self) -> Floats:
        """Open, high, low and the previous session's close, rupees [4, n]."""
        block: Floats = self._floats[3:7]
        return block

    @property
    def close(self) -> Floats:
        """The previous session's close, rupees."""
        return self._price(6)

    @property
    def token(self) -> Ints:
        """Instrument tokens."""
        return self._whole(0)

    @property
    def bid_qty(self) -> Ints:
        """Units at the best bid."""
        return self._whole(1)

    @property
    def ask_qty(self) -> Ints:
        """Units at the best ask."""
        return self._whole(2)

    @property
    def volume(self) -> Ints:
        """Units traded on the day."""
        return self._whole(3)

    @property
    def oi(self) -> Ints:
        """Open interest in units."""
        return self._whole(4)

    @property
    def exchange_ts_s(self) -> Ints:
        """Exchange timestamps, epoch seconds; 0 where there is none."""
        return self._whole(5)

    @property
    def has_depth(self) -> npt.NDArray[np.bool_]:
        """Which packets carry an order book: tradable instruments in full mode."""
        carried: npt.NDArray[np.bool_] = (self.mode == ModeCode.FULL) & (self.bid_qty != ABSENT)
        return carried

    def depth(self, rows: Ints) -> Depth:
        """The order books at these positions, of which each must have one."""
        divisors = DIVISORS[self.token[rows] & 0xFF]
        origin = self._origin[rows]
        if len(self._sources) == 1:
            return Depth(self._sources[0].book_words(origin), divisors)
        words = np.empty((3, rows.size, 10), np.uint32)
        first = 0
        for columns in self._sources:
            last = first + len(columns)
            own = np.flatnonzero((origin >= first) & (origin < last))
            if own.size:
                words[:, own] = columns.book_words(origin[own] - first)
            first = last
        return Depth(words, divisors)

    def _price(self, row: int) -> Floats:
        values: Floats = self._floats[row]
        return values

    def _whole(self, row: int) -> Ints:
        values: Ints = self._ints[row]
        return values


def read_frames(payloads: Sequence[bytes]) -> tuple[Packets, list[BadFrame]]:
    """Decode frames into one structure of arrays.

    Many small frames cost as much as one large one: they are joined before they are decoded.

    Args:
        payloads: Kite frames, oldest first.

    Returns:
        The packets of known length in order, and the frames that are none.
    """
    if len(payloads) > 1:
        joined = _read_joined(payloads)
        if joined is not None:
            return joined, []
    sources: list[Columns] = []
    frames: list[Ints] = []
    bad: list[BadFrame] = []
    for index, payload in enumerate(payloads):
        try:
            columns = decode_columns(payload)
        except FrameError as error:
            bad.append(BadFrame(index, error.reason))
            continue
        if len(columns):
            sources.append(columns)
            frames.append(np.full(len(columns), index))
    frame = np.concatenate(frames) if frames else np.empty(0, np.int64)
    return Packets.of(sources, frame), bad


def _read_joined(payloads: Sequence[bytes]) -> Packets | None:
    """Decode all frames as one; None unless that provably equals decoding one by one."""
    counts = np.array([int.from_bytes(payload[:2], "big") for payload in payloads])
    total = int(counts.sum())
    if not 0 < total <= MAX_PACKETS or not counts.all():
        return None
    joined = b"".join([total.to_bytes(2, "big"), *(payload[2:] for payload in payloads)])
    try:
        columns = decode_columns(joined)
    except FrameError:
        return None
    if len(columns) != total:
        return None  # Packets of unknown length: whose they are, only their own frame tells.
    # Each frame must end exactly where its own packets end, not only all of them together.
    sizes = np.where(
        columns.mode == ModeCode.FULL,
        np.where(columns.bid_qty == ABSENT, _INDEX_FULL_BYTES, _FULL_BYTES),
        np.where(
            columns.mode == ModeCode.LTP,
            _LTP_BYTES,
            np.where(columns.volume == ABSENT, _INDEX_QUOTE_BYTES, _QUOTE_BYTES),
        ),
    )
    starts = np.concatenate(([0], counts.cumsum()[:-1]))
    lengths = np.array([len(payload) - 2 for payload in payloads])
    if (np.add.reduceat(sizes, starts) != lengths).any():
        return None
    return Packets.of([columns], np.repeat(np.arange(len(payloads)), counts))
