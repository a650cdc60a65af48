"""What the market last said of every instrument of a shard, as structure of arrays by slot."""

import numpy as np
import numpy.typing as npt

from libs.common.kite.frames import ABSENT
from services.greeks.domain.packets import Packets

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Book:
    """The newest price of every slot.

    Prices that do not exist are NaN, never 0; `NOBODY`'s stay NaN for ever.

    Attributes:
        last_price: float64, rupees.
        bid: float64, rupees.
        ask: float64, rupees.
        close: float64, the previous session's, rupees.
        bid_qty: int64, -1 if unknown; ask_qty, volume and oi likewise.
        ask_qty: int64.
        volume: int64.
        oi: int64.
        seen_s: float64, market time (epoch seconds) of the newest packet; -inf before the first.
        stamped: bool, whether that packet told it; else it is the market's time when it came.
        iv: float64, newest volatility from the last price; NaN if it had none.
        iv_seen_s: float64, market time of `iv`.
        seq: int64, ticks made of this slot in this lease term.
    """

    __slots__ = (
        "ask",
        "ask_qty",
        "bid",
        "bid_qty",
        "close",
        "iv",
        "iv_seen_s",
        "last_price",
        "oi",
        "seen_s",
        "seq",
        "stamped",
        "volume",
    )

    def __init__(self, capacity: int) -> None:
        self.last_price: Floats = np.full(capacity, np.nan)
        self.bid: Floats = np.full(capacity, np.nan)
        self.ask: Floats = np.full(capacity, np.nan)
        self.close: Floats = np.full(capacity, np.nan)
        self.bid_qty: Ints = np.full(capacity, ABSENT)
        self.ask_qty: Ints = np.full(capacity, ABSENT)
        self.volume: Ints = np.full(capacity, ABSENT)
        self.oi: Ints = np.full(capacity, ABSENT)
        self.seen_s: Floats = np.full(capacity, -np.inf)
        self.stamped: npt.NDArray[np.bool_] = np.zeros(capacity, np.bool_)
        self.iv: Floats = np.full(capacity, np.nan)
        self.iv_seen_s: Floats = np.full(capacity, -np.inf)
        self.seq: Ints = np.zeros(capacity, np.int64)

    def grow(self, capacity: int) -> None:
        """Make room for more slots; what is there stays."""
        extra = capacity - self.seq.size
        if extra <= 0:
            return
        empty = Book(extra)
        for name in Book.__slots__:
            setattr(self, name, np.concatenate((getattr(self, name), getattr(empty, name))))

    def forget(self, slots: Ints | slice = slice(None)) -> None:
        """Forget all prices of these slots; sequence numbers go on."""
        for name in ("last_price", "bid", "ask", "close", "iv"):
            getattr(self, name)[slots] = np.nan
        for name in ("bid_qty", "ask_qty", "volume", "oi"):
            getattr(self, name)[slots] = ABSENT
        self.seen_s[slots] = -np.inf
        self.stamped[slots] = False
        self.iv_seen_s[slots] = -np.inf

    def take(self, slots: Ints, packets: Packets, seen_s: Floats) -> None:
        """Overwrite slots with their newest packet, whatever its mode.

        A field that the packet lacks becomes unknown: a book kept from an earlier mode would
        age unseen.

        Args:
            slots: Slot of each packet [n], each at most once.
            packets: The packets [n].
            seen_s: Market time of each packet [n].
        """
        self.last_price[slots] = known(packets.last_price)
        self.bid[slots] = known(packets.bid)
        self.ask[slots] = known(packets.ask)
        self.close[slots] = packets.close
        self.bid_qty[slots] = packets.bid_qty
        self.ask_qty[slots] = packets.ask_qty
        self.volume[slots] = packets.volume
        self.oi[slots] = packets.oi
        self.seen_s[slots] = seen_s
        self.stamped[slots] = packets.exchange_ts_s > 0

    def mid(self, slots: Ints, oldest_s: Floats | float) -> Floats:
        """Middle of bid and ask; NaN where a side is missing, crossed, or seen before `oldest_s`.

        Args:
            slots: Any shape.
            oldest_s: Market time, one or of a shape that goes with `slots`.
        """
        bid, ask = self.bid[slots], self.ask[slots]
        usable = (ask >= bid) & (self.seen_s[slots] >= oldest_s)
        mids: Floats = np.where(usable, 0.5 * (bid + ask), np.nan)
        return mids


def known(prices: Floats) -> Floats:
    """Prices with 0 (nothing there) as NaN."""
    return np.where(prices > 0.0, prices, np.nan)
