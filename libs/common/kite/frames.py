"""Kite's binary market data both ways, without I/O: the one place to import it from.

Values equal those of ``kiteconnect.KiteTicker``, proven by the contract tests; unlike it, nothing
here raises anything but ``FrameError``, whatever the bytes. Layout: ``frame_packets``; many
packets at once: ``frame_columns``; the simulator's encoders: ``frame_records``.
"""

from libs.common.kite.frame_columns import (
    ABSENT,
    DIVISORS,
    Columns,
    Depth,
    decode_columns,
    split_by_key,
)
from libs.common.kite.frame_packets import (
    INDEX_SEGMENT,
    MAX_PACKETS,
    DepthLevel,
    FrameError,
    FrameFault,
    Mode,
    ModeCode,
    Packet,
    decode,
    encode_frame,
    encode_packet,
    is_heartbeat,
    is_index,
    price_divisor,
    slices,
)
from libs.common.kite.frame_records import (
    Records,
    WireUnits,
    encode_full,
    encode_index_full,
    encode_index_quote,
    encode_ltp,
    encode_quote,
    frame_of,
    full_records,
    index_full_records,
    index_quote_records,
    ltp_records,
    quote_records,
)

__all__ = [
    "ABSENT",
    "DIVISORS",
    "INDEX_SEGMENT",
    "MAX_PACKETS",
    "Columns",
    "Depth",
    "DepthLevel",
    "FrameError",
    "FrameFault",
    "Mode",
    "ModeCode",
    "Packet",
    "Records",
    "WireUnits",
    "decode",
    "decode_columns",
    "encode_frame",
    "encode_full",
    "encode_index_full",
    "encode_index_quote",
    "encode_ltp",
    "encode_packet",
    "encode_quote",
    "frame_of",
    "full_records",
    "index_full_records",
    "index_quote_records",
    "is_heartbeat",
    "is_index",
    "ltp_records",
    "price_divisor",
    "quote_records",
    "slices",
    "split_by_key",
]
