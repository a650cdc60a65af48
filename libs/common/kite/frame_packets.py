"""Kite's wire format, packet by packet: frames from bytes and bytes from frames.

A frame is ``u16 packet_count``, then per packet ``u16 length`` and a body; everything is
big-endian and unsigned. The length tells what a body is:

======  ==================================  ==============================================
length  packet                              words (u32) after the token
======  ==================================  ==============================================
8       ltp                                 last price
28      index quote                         last, high, low, open, close, price change
32      index full                          … and the exchange timestamp
44      quote                               last, last quantity, average, volume, buy and
                                            sell quantity, open, high, low, close
184     full                                … last trade time, oi, oi high, oi low, exchange
                                            timestamp, then 5 bid and 5 ask levels of
                                            ``u32 quantity, u32 price, u16 orders, 2 spare``
======  ==================================  ==============================================

Prices are whole numbers of 1/divisor rupee (``price_divisor``); times are epoch seconds in UTC.
Values equal those of ``kiteconnect.KiteTicker``, proven by the contract tests. Unlike it, this
module never raises anything but ``FrameError``, whatever the bytes.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum, StrEnum
from itertools import pairwise
from typing import Final, Literal

import msgspec

from libs.common.errors import RejectedError

FrameFault = Literal[
    "too_short", "truncated", "trailing_bytes", "packet_length", "value_range", "too_many_packets"
]
"""Why bytes are no frame, or values do not fit one; safe as a metric label."""

MAX_PACKETS: Final = 0xFFFF
"""The packet count is a u16."""

INDEX_SEGMENT: Final = 9
"""The low byte of an index's token; indices are not tradable and have packets of their own."""

TOKEN_LENGTH: Final = 4
LTP_LENGTH: Final = 8
INDEX_QUOTE_LENGTH: Final = 28
INDEX_FULL_LENGTH: Final = 32
QUOTE_LENGTH: Final = 44
FULL_LENGTH: Final = 184

# CDS has seven decimals on the wire; BCD and (since kiteconnect 5.2.2) NCO have four.
_SEGMENT_DIVISORS: Final = {3: 1e7, 6: 1e4, 12: 1e4}

WIRE_UNITS_PER_RUPEE: Final = tuple(_SEGMENT_DIVISORS.get(segment, 100.0) for segment in range(256))
"""Divisor of every price by segment, the low byte of the token."""


class Mode(StrEnum):
    """How much of an instrument a packet tells, spelled as on the wire."""

    LTP = "ltp"
    QUOTE = "quote"
    FULL = "full"


class ModeCode(IntEnum):
    """The modes as they stand in ``Columns.mode``."""

    LTP = 0
    QUOTE = 1
    FULL = 2


class FrameError(RejectedError):
    """These bytes are no Kite frame, or these values fit into none.

    Attributes:
        reason: One of ``FrameFault``.
        offset: Byte at which it was noticed.
    """

    def __init__(self, reason: FrameFault, offset: int) -> None:
        super().__init__(reason, offset)
        self.reason = reason
        self.offset = offset

    def __str__(self) -> str:
        """The reason and the place."""
        return f"bad frame: {self.reason} at byte {self.offset}"


class DepthLevel(msgspec.Struct, frozen=True):
    """One price level of the order book.

    Attributes:
        quantity: Units waiting at this price; 0 marks an empty level.
        price: Rupees.
        orders: Number of orders that make up the quantity.
    """

    quantity: int
    price: float
    orders: int


class Packet(msgspec.Struct, frozen=True, kw_only=True):
    """One packet of a frame; None where its mode (or an index) has no such field.

    Attributes:
        instrument_token: Kite's number of the instrument.
        mode: What the packet's length says.
        tradable: False for an index (segment 9).
        last_price: Rupees, as every price here.
        last_traded_quantity: Units of the last trade.
        average_traded_price: Average of the day.
        volume_traded: Units of the day.
        total_buy_quantity: Units waiting to be bought.
        total_sell_quantity: Units waiting to be sold.
        open: First price of the day.
        high: Highest price of the day.
        low: Lowest price of the day.
        close: Last price of the previous session.
        last_trade_time_s: Epoch seconds; 0 before the first trade.
        oi: Open interest in units.
        oi_day_high: Highest open interest of the day.
        oi_day_low: Lowest open interest of the day.
        exchange_timestamp_s: Epoch seconds at the exchange; 0 if it sent none.
        depth_buy: Five bid levels, best first; empty unless full.
        depth_sell: Five ask levels, best first; empty unless full.
    """

    instrument_token: int
    mode: Mode
    tradable: bool
    last_price: float
    last_traded_quantity: int | None = None
    average_traded_price: float | None = None
    volume_traded: int | None = None
    total_buy_quantity: int | None = None
    total_sell_quantity: int | None = None
    open: float | None = None
    high: float | None = None
    low: float | None = None
    close: float | None = None
    last_trade_time_s: int | None = None
    oi: int | None = None
    oi_day_high: int | None = None
    oi_day_low: int | None = None
    exchange_timestamp_s: int | None = None
    depth_buy: tuple[DepthLevel, ...] = ()
    depth_sell: tuple[DepthLevel, ...] = ()


def is_heartbeat(payload: bytes) -> bool:
    """Tell Kite's sign of life (one byte, content irrelevant) from a frame.

    Args:
        payload: A binary WebSocket message.
    """
    return len(payload) == 1


def is_index(token: int) -> bool:
    """Tell whether a token is an index's, by its segment."""
    return token & 0xFF == INDEX_SEGMENT


def price_divisor(token: int) -> float:
    """Wire units per rupee for the prices of an instrument.

    Args:
        token: An instrument token; its low byte is the segment.
    """
    return WIRE_UNITS_PER_RUPEE[token & 0xFF]


_PARSE_LTP: Final = struct.Struct(">2I").unpack_from
_PARSE_INDEX_QUOTE: Final = struct.Struct(">6I").unpack_from  # The price change is not read.
_PARSE_INDEX_FULL: Final = struct.Struct(">6I4xI").unpack_from
_PARSE_QUOTE: Final = struct.Struct(">11I").unpack_from
_FULL_FORMAT: Final = ">16I" + "IIHxx" * 10
_PARSE_FULL: Final = struct.Struct(_FULL_FORMAT).unpack_from


def slices(frame: bytes) -> list[tuple[int, int]]:
    """Find the packets of a frame.

    Args:
        frame: A binary WebSocket message that is no heartbeat.

    Returns:
        (offset, length) of each packet body, in frame order.

    Raises:
        FrameError: The bytes do not add up to the packets they announce, or a packet is too
            short to hold a token.
    """
    found = [(start + 2, end - start - 2) for start, end in pairwise(walk(frame))]
    for offset, length in found:
        if length < TOKEN_LENGTH:
            raise FrameError("packet_length", offset - 2)
    return found


def walk(frame: bytes) -> list[int]:
    """Where each packet's length field stands, and the end: the proof that reads are in bounds."""
    size = len(frame)
    if size < 2:
        raise FrameError("too_short", size)
    position = 2
    starts = [position]
    try:
        for _ in range(frame[0] << 8 | frame[1]):
            position += 2 + (frame[position] << 8 | frame[position + 1])
            starts.append(position)
    except IndexError:
        raise FrameError("truncated", size) from None
    if position > size:
        raise FrameError("truncated", size)
    if position < size:
        raise FrameError("trailing_bytes", position)
    return starts


def uniform_length(frame: bytes) -> int:
    """The length all packets share; 0 if they do not, or if the frame is empty or broken."""
    size = len(frame)
    if size < 4:
        return 0
    count = frame[0] << 8 | frame[1]
    length = frame[2] << 8 | frame[3]
    stride = length + 2
    if size != 2 + count * stride or length < TOKEN_LENGTH:
        return 0
    if count > 1 and (
        frame[2::stride] != frame[2:3] * count or frame[3::stride] != frame[3:4] * count
    ):
        return 0
    return length


def decode(frame: bytes) -> list[Packet]:
    """Read every packet of a frame; the plain way, for tests, tools and small frames.

    Args:
        frame: A binary WebSocket message that is no heartbeat.

    Returns:
        The packets in frame order. A packet of unknown length is skipped, as kiteconnect does.

    Raises:
        FrameError: As ``slices``.
    """
    packets: list[Packet] = []
    for offset, length in slices(frame):
        if length == FULL_LENGTH:
            packets.append(_read_full(frame, offset))
        elif length == QUOTE_LENGTH:
            packets.append(_read_quote(frame, offset))
        elif length == LTP_LENGTH:
            packets.append(_read_ltp(frame, offset))
        elif length in {INDEX_QUOTE_LENGTH, INDEX_FULL_LENGTH}:
            packets.append(_read_index(frame, offset, full=length == INDEX_FULL_LENGTH))
    return packets


def _read_ltp(frame: bytes, offset: int) -> Packet:
    token, last = _PARSE_LTP(frame, offset)
    segment = token & 0xFF
    return Packet(
        instrument_token=token,
        mode=Mode.LTP,
        tradable=segment != INDEX_SEGMENT,
        last_price=last / WIRE_UNITS_PER_RUPEE[segment],
    )


def _read_index(frame: bytes, offset: int, *, full: bool) -> Packet:
    timestamp: int | None = None
    if full:
        token, last, high, low, first, close, timestamp = _PARSE_INDEX_FULL(frame, offset)
    else:
        token, last, high, low, first, close = _PARSE_INDEX_QUOTE(frame, offset)
    segment = token & 0xFF
    divisor = WIRE_UNITS_PER_RUPEE[segment]
    return Packet(
        instrument_token=token,
        mode=Mode.FULL if full else Mode.QUOTE,
        tradable=segment != INDEX_SEGMENT,
        last_price=last / divisor,
        open=first / divisor,
        high=high / divisor,
        low=low / divisor,
        close=close / divisor,
        exchange_timestamp_s=timestamp,
    )


def _read_quote(frame: bytes, offset: int) -> Packet:
    token, last, quantity, average, volume, buy, sell, first, high, low, close = _PARSE_QUOTE(
        frame, offset
    )
    segment = token & 0xFF
    divisor = WIRE_UNITS_PER_RUPEE[segment]
    return Packet(
        instrument_token=token,
        mode=Mode.QUOTE,
        tradable=segment != INDEX_SEGMENT,
        last_price=last / divisor,
        last_traded_quantity=quantity,
        average_traded_price=average / divisor,
        volume_traded=volume,
        total_buy_quantity=buy,
        total_sell_quantity=sell,
        open=first / divisor,
        high=high / divisor,
        low=low / divisor,
        close=close / divisor,
    )


def _read_full(frame: bytes, offset: int) -> Packet:
    values = _PARSE_FULL(frame, offset)
    token, last, quantity, average, volume, buy, sell, first, high, low, close = values[:11]
    segment = token & 0xFF
    divisor = WIRE_UNITS_PER_RUPEE[segment]
    levels = tuple(
        DepthLevel(values[i], values[i + 1] / divisor, values[i + 2]) for i in range(16, 46, 3)
    )
    return Packet(
        instrument_token=token,
        mode=Mode.FULL,
        tradable=segment != INDEX_SEGMENT,
        last_price=last / divisor,
        last_traded_quantity=quantity,
        average_traded_price=average / divisor,
        volume_traded=volume,
        total_buy_quantity=buy,
        total_sell_quantity=sell,
        open=first / divisor,
        high=high / divisor,
        low=low / divisor,
        close=close / divisor,
        last_trade_time_s=values[11],
        oi=values[12],
        oi_day_high=values[13],
        oi_day_low=values[14],
        exchange_timestamp_s=values[15],
        depth_buy=levels[:5],
        depth_sell=levels[5:],
    )


def encode_packet(packet: Packet) -> bytes:
    """Write one packet body, the inverse of ``decode`` for a packet that Kite could send.

    Args:
        packet: Its mode and whether it is tradable choose the layout; a field that is None is
            written as 0. Prices are rounded to the instrument's wire unit.

    Returns:
        The body, without its length.

    Raises:
        FrameError: ``value_range``: a value does not fit its field, or there are more than
            five levels on a side.
    """
    try:
        return _layout(packet)
    except (struct.error, OverflowError, ValueError) as error:
        # OverflowError and ValueError: a price that is infinite or not a number.
        raise FrameError("value_range", 0) from error


def _layout(packet: Packet) -> bytes:
    divisor = price_divisor(packet.instrument_token)

    def units(price: float | None) -> int:
        return round((price or 0.0) * divisor)

    head = [packet.instrument_token, units(packet.last_price)]
    if packet.mode is Mode.LTP:
        return struct.pack(">2I", *head)
    full = packet.mode is Mode.FULL
    first, high, low, close = map(units, (packet.open, packet.high, packet.low, packet.close))
    if not packet.tradable:
        # The price change is documented as signed and read by nobody: two's complement.
        head += (high, low, first, close, (head[1] - close) & 0xFFFF_FFFF)
        if full:
            head.append(packet.exchange_timestamp_s or 0)
        return struct.pack(f">{len(head)}I", *head)
    head += (
        packet.last_traded_quantity or 0,
        units(packet.average_traded_price),
        packet.volume_traded or 0,
        packet.total_buy_quantity or 0,
        packet.total_sell_quantity or 0,
        *(first, high, low, close),
    )
    if not full:
        return struct.pack(">11I", *head)
    levels: list[int] = []
    for side in (packet.depth_buy, packet.depth_sell):
        for level in side:
            levels += (level.quantity, units(level.price), level.orders)
        levels += [0] * (3 * (5 - len(side)))
    return struct.pack(
        _FULL_FORMAT,
        *head,
        packet.last_trade_time_s or 0,
        packet.oi or 0,
        packet.oi_day_high or 0,
        packet.oi_day_low or 0,
        packet.exchange_timestamp_s or 0,
        *levels,
    )


def encode_frame(bodies: Sequence[bytes]) -> bytes:
    """Put packet bodies into one frame.

    Args:
        bodies: Bodies of at most 65 535 bytes each, in order; any length, so that tests can
            send packets of unknown kinds.

    Returns:
        The frame.

    Raises:
        FrameError: ``too_many_packets`` (over 65 535) or ``packet_length``.
    """
    if len(bodies) > MAX_PACKETS:
        raise FrameError("too_many_packets", 0)
    parts = [len(bodies).to_bytes(2, "big")]
    for body in bodies:
        if len(body) > 0xFFFF:
            raise FrameError("packet_length", sum(map(len, parts)))
        parts += (len(body).to_bytes(2, "big"), body)
    return b"".join(parts)
