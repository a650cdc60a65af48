"""Many packets at once, the other way: arrays of wire units into packets, for the simulator.

Any argument may be an array of length n or one number for all n packets.
"""

from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from libs.common.kite.frame_packets import FULL_LENGTH, MAX_PACKETS, FrameError

_U32_MAX: Final = 0xFFFF_FFFF

Ints: TypeAlias = npt.NDArray[np.int64]
Records: TypeAlias = npt.NDArray[np.void]

WireUnits: TypeAlias = npt.ArrayLike
"""Whole prices in units of 1/``price_divisor`` rupee: paise, except for currencies and NCO."""


def full_records(
    *,
    token: npt.ArrayLike,
    last_price: WireUnits,
    last_quantity: npt.ArrayLike,
    average_price: WireUnits,
    volume: npt.ArrayLike,
    buy_quantity: npt.ArrayLike,
    sell_quantity: npt.ArrayLike,
    open: WireUnits,  # noqa: A002 -- the field's name in the trade and in every other place here.
    high: WireUnits,
    low: WireUnits,
    close: WireUnits,
    last_trade_ts_s: npt.ArrayLike,
    oi: npt.ArrayLike,
    oi_high: npt.ArrayLike,
    oi_low: npt.ArrayLike,
    exchange_ts_s: npt.ArrayLike,
    depth_quantity: npt.ArrayLike,
    depth_price: WireUnits,
    depth_orders: npt.ArrayLike,
) -> Records:
    """Full packets of tradable instruments, each with its length in front.

    Args:
        token: int[n].
        last_price: int[n], as every price in wire units (paise for NSE, NFO, BSE, BFO, MCX).
        last_quantity: int[n].
        average_price: int[n].
        volume: int[n].
        buy_quantity: int[n].
        sell_quantity: int[n].
        open: int[n].
        high: int[n].
        low: int[n].
        close: int[n], the previous session's.
        last_trade_ts_s: int[n], epoch seconds.
        oi: int[n].
        oi_high: int[n].
        oi_low: int[n].
        exchange_ts_s: int[n], epoch seconds.
        depth_quantity: int[n, 10], five bids best first, then five asks best first.
        depth_price: int[n, 10].
        depth_orders: int[n, 10], below 65 536.

    Returns:
        Records for ``frame_of``; select and reorder them like any array.

    Raises:
        FrameError: ``value_range``: a value is negative or does not fit its field.
    """
    tokens = np.atleast_1d(np.asarray(token, np.int64))
    words = np.empty((tokens.size, FULL_LENGTH // 4), np.int64)
    head = (
        *(tokens, last_price, last_quantity, average_price, volume, buy_quantity, sell_quantity),
        *(open, high, low, close, last_trade_ts_s, oi, oi_high, oi_low, exchange_ts_s),
    )
    for position, values in enumerate(head):
        words[:, position] = values
    words[:, 16::3] = depth_quantity
    words[:, 17::3] = depth_price
    # The number of orders is the upper half of the level's last word, the lower half is spare.
    words[:, 18::3] = np.asarray(depth_orders, np.int64) << 16
    return _records(words)


def quote_records(
    *,
    token: npt.ArrayLike,
    last_price: WireUnits,
    last_quantity: npt.ArrayLike,
    average_price: WireUnits,
    volume: npt.ArrayLike,
    buy_quantity: npt.ArrayLike,
    sell_quantity: npt.ArrayLike,
    open: WireUnits,  # noqa: A002 -- as above.
    high: WireUnits,
    low: WireUnits,
    close: WireUnits,
) -> Records:
    """Quote packets of tradable instruments; arguments and errors as ``full_records``."""
    return _stack(
        *(token, last_price, last_quantity, average_price, volume, buy_quantity, sell_quantity),
        *(open, high, low, close),
    )


def ltp_records(*, token: npt.ArrayLike, last_price: WireUnits) -> Records:
    """LTP packets of any instrument; arguments and errors as ``full_records``."""
    return _stack(token, last_price)


def index_quote_records(
    *,
    token: npt.ArrayLike,
    last_price: WireUnits,
    open: WireUnits,  # noqa: A002 -- as above.
    high: WireUnits,
    low: WireUnits,
    close: WireUnits,
) -> Records:
    """Quote packets of indices; arguments and errors as ``full_records``."""
    change = _price_change(last_price, close)
    return _stack(token, last_price, high, low, open, close, change)


def index_full_records(
    *,
    token: npt.ArrayLike,
    last_price: WireUnits,
    open: WireUnits,  # noqa: A002 -- as above.
    high: WireUnits,
    low: WireUnits,
    close: WireUnits,
    exchange_ts_s: npt.ArrayLike,
) -> Records:
    """Full packets of indices; arguments and errors as ``full_records``."""
    change = _price_change(last_price, close)
    return _stack(token, last_price, high, low, open, close, change, exchange_ts_s)


def frame_of(*records: Records) -> bytes:
    """Put records into one frame.

    Args:
        records: Results of the ``…_records`` functions, or selections of them, in order.

    Returns:
        The frame.

    Raises:
        FrameError: ``too_many_packets``: more than 65 535.
    """
    count = sum(batch.size for batch in records)
    if count > MAX_PACKETS:
        raise FrameError("too_many_packets", 0)
    return b"".join((count.to_bytes(2, "big"), *(batch.tobytes() for batch in records)))


def encode_full(**columns: npt.ArrayLike) -> bytes:
    """One frame of ``full_records``, which see for arguments and errors."""
    return frame_of(full_records(**columns))


def encode_quote(**columns: npt.ArrayLike) -> bytes:
    """One frame of ``quote_records``, which see for arguments and errors."""
    return frame_of(quote_records(**columns))


def encode_ltp(**columns: npt.ArrayLike) -> bytes:
    """One frame of ``ltp_records``, which see for arguments and errors."""
    return frame_of(ltp_records(**columns))


def encode_index_quote(**columns: npt.ArrayLike) -> bytes:
    """One frame of ``index_quote_records``, which see for arguments and errors."""
    return frame_of(index_quote_records(**columns))


def encode_index_full(**columns: npt.ArrayLike) -> bytes:
    """One frame of ``index_full_records``, which see for arguments and errors."""
    return frame_of(index_full_records(**columns))


def _price_change(last_price: WireUnits, close: WireUnits) -> Ints:
    # Documented as int32, read by nobody: two's complement, so that the u32 check lets it pass.
    change: Ints = (np.asarray(last_price, np.int64) - np.asarray(close, np.int64)) & _U32_MAX
    return change


def _stack(token: npt.ArrayLike, *columns: npt.ArrayLike) -> Records:
    tokens = np.atleast_1d(np.asarray(token, np.int64))
    words = np.empty((tokens.size, 1 + len(columns)), np.int64)
    words[:, 0] = tokens
    for position, values in enumerate(columns, start=1):
        words[:, position] = values
    return _records(words)


def _records(words: Ints) -> Records:
    """Pack int64[n, w] into n records of a length field and w words."""
    width = words.shape[1]
    if words.size and not (words.min() >= 0 and words.max() <= _U32_MAX):
        outside = np.argwhere((words < 0) | (words > _U32_MAX))[0]
        raise FrameError(
            "value_range", 2 + int(outside[0]) * (2 + 4 * width) + 2 + 4 * int(outside[1])
        )
    records = np.empty(words.shape[0], [("length", ">u2"), ("words", ">u4", (width,))])
    records["length"] = 4 * width
    records["words"] = words
    return records
