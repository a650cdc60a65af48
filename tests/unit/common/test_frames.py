"""Kite frames packet by packet: total on any bytes, and the inverse of writing."""

import struct
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.errors import RejectedError
from libs.common.kite.frames import (
    DIVISORS,
    DepthLevel,
    FrameError,
    Mode,
    Packet,
    decode,
    encode_frame,
    encode_packet,
    is_heartbeat,
    is_index,
    price_divisor,
    slices,
)
from tests.unit.common.frame_samples import frame_of_bodies, frames, random_body

RECORDED = Path(__file__).parents[2] / "data" / "kiteconnectjs"
NIFTY = 256265
REASONS = {"too_short", "truncated", "trailing_bytes", "packet_length"}


def consistent_packets() -> st.SearchStrategy[Packet]:
    """Packets as Kite could send them: every field of their mode, values on the wire's grid."""
    whole = st.integers(0, 2**32 - 1)

    @st.composite
    def packet(draw):
        segment = draw(st.sampled_from((1, 2, 3, 4, 5, 6, 7, 9, 12)))
        token = draw(st.integers(1, 2**24 - 1)) << 8 | segment
        mode = draw(st.sampled_from(Mode))

        def price() -> float:
            units: int = draw(whole)
            return units / price_divisor(token)

        fields: dict[str, Any] = {"last_price": price()}
        if mode is not Mode.LTP:
            fields |= {name: price() for name in ("open", "high", "low", "close")}
            if not is_index(token):
                fields["average_traded_price"] = price()
                for name in (
                    *("last_traded_quantity", "volume_traded"),
                    *("total_buy_quantity", "total_sell_quantity"),
                ):
                    fields[name] = draw(whole)
        if mode is Mode.FULL:
            fields["exchange_timestamp_s"] = draw(whole)
            if not is_index(token):
                for name in ("last_trade_time_s", "oi", "oi_day_high", "oi_day_low"):
                    fields[name] = draw(whole)
                for side in ("depth_buy", "depth_sell"):
                    fields[side] = tuple(
                        DepthLevel(draw(whole), price(), draw(st.integers(0, 65535)))
                        for _ in range(5)
                    )
        return Packet(instrument_token=token, mode=mode, tradable=segment != 9, **fields)

    return packet()


@pytest.mark.parametrize(
    ("name", "mode"),
    [("fullMode", Mode.FULL), ("quoteMode", Mode.QUOTE), ("ltpMode", Mode.LTP)],
)
def test_recorded_frame_is_read_and_written_back_byte_for_byte(name, mode):
    frame = (RECORDED / f"{name}_binary.packet").read_bytes()
    (packet,) = decode(frame)
    assert (packet.instrument_token, packet.last_price, packet.mode) == (884737, 392.95, mode)
    assert encode_frame([encode_packet(packet)]) == frame


@given(packets=st.lists(consistent_packets(), max_size=6))
def test_what_is_written_is_read_back(packets):
    assert decode(encode_frame([encode_packet(packet) for packet in packets])) == packets


@given(payload=st.binary(max_size=400) | frames())
def test_any_bytes_give_packets_or_a_frame_error(payload):
    try:
        packets = decode(payload)
    except FrameError as error:
        assert error.reason in REASONS  # noqa: PT017 -- both outcomes are right, by the bytes.
        assert 0 <= error.offset <= len(payload)  # noqa: PT017
    else:
        assert all(isinstance(packet, Packet) for packet in packets)


@given(frame=frames(), data=st.data())
def test_a_frame_cut_anywhere_is_a_frame_error(frame, data):
    cut = data.draw(st.integers(0, len(frame) - 1))
    with pytest.raises(FrameError) as caught:
        decode(frame[:cut])
    assert caught.value.reason in {"too_short", "truncated"}


@given(frame=frames(), rest=st.binary(min_size=1, max_size=9))
def test_bytes_after_the_last_packet_are_a_frame_error(frame, rest):
    with pytest.raises(FrameError) as caught:
        slices(frame + rest)
    assert (caught.value.reason, caught.value.offset) == ("trailing_bytes", len(frame))


@pytest.mark.parametrize("length", [0, 1, 3])
def test_packet_without_room_for_a_token_is_a_frame_error(length):
    frame = frame_of_bodies([bytes(8), bytes(length)])
    with pytest.raises(FrameError) as caught:
        decode(frame)
    assert (caught.value.reason, caught.value.offset) == ("packet_length", 12)
    assert str(caught.value) == "bad frame: packet_length at byte 12"
    assert isinstance(caught.value, RejectedError)


@pytest.mark.parametrize("length", [4, 10, 45, 183, 185, 1000])
def test_packet_of_unknown_length_is_skipped(length):
    known = random_body(Random(1), 44)
    frame = frame_of_bodies([random_body(Random(2), length), known])
    assert decode(frame) == decode(frame_of_bodies([known]))
    assert [size for _, size in slices(frame)] == [length, 44]


def test_slices_tell_where_the_bodies_are():
    bodies = [random_body(Random(3), length) for length in (8, 184, 28)]
    frame = frame_of_bodies(bodies)
    assert [frame[at : at + length] for at, length in slices(frame)] == bodies


def test_index_packet_keeps_high_low_open_close_in_kites_order():
    body = struct.pack(">8I", NIFTY, 2_600_000, 2_610_000, 2_580_000, 2_590_000, 2_605_000, 0, 17)
    (packet,) = decode(frame_of_bodies([body]))
    assert (packet.open, packet.high, packet.low, packet.close) == (
        25_900.0,
        26_100.0,
        25_800.0,
        26_050.0,
    )
    assert packet.exchange_timestamp_s == 17
    assert not packet.tradable


def test_empty_frame_has_no_packets():
    assert decode(b"\0\0") == []
    assert encode_frame([]) == b"\0\0"


def test_heartbeat_is_one_byte_of_anything():
    assert is_heartbeat(b"\0")
    assert is_heartbeat(b"\xff")
    assert not is_heartbeat(b"")
    assert not is_heartbeat(b"\0\0")


@pytest.mark.parametrize(
    ("segment", "divisor"), [(1, 100), (3, 1e7), (6, 1e4), (9, 100), (12, 1e4)]
)
def test_price_divisor_follows_the_segment(segment, divisor):
    assert price_divisor(1001 << 8 | segment) == divisor == DIVISORS[segment]


def test_divisors_are_read_only():
    assert DIVISORS.shape == (256,)
    assert DIVISORS.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        DIVISORS[0] = 1.0


@pytest.mark.parametrize(
    "changes",
    [
        {"last_price": 5e7},
        {"last_price": -0.05},
        {"last_price": float("nan")},
        {"last_price": float("inf")},
        {"volume_traded": 2**32},
        {"depth_buy": (DepthLevel(1, 1.0, 65536),)},
        {"depth_sell": (DepthLevel(1, 1.0, 1),) * 6},
    ],
)
def test_value_that_does_not_fit_the_wire_is_a_frame_error(changes):
    fields: dict[str, Any] = {
        "instrument_token": 408065,
        "mode": Mode.FULL,
        "tradable": True,
        "last_price": 1.0,
    }
    with pytest.raises(FrameError) as caught:
        encode_packet(Packet(**fields | changes))
    assert caught.value.reason == "value_range"


def test_missing_values_are_written_as_zero():
    packet = Packet(instrument_token=408065, mode=Mode.FULL, tradable=True, last_price=1.0)
    (read,) = decode(encode_frame([encode_packet(packet)]))
    assert (read.oi, read.close, read.exchange_timestamp_s) == (0, 0.0, 0)
    assert read.depth_buy == (DepthLevel(0, 0.0, 0),) * 5


def test_more_packets_than_the_count_can_tell_are_a_frame_error():
    with pytest.raises(FrameError) as caught:
        encode_frame([b""] * 65536)
    assert caught.value.reason == "too_many_packets"


def test_body_longer_than_its_length_field_is_a_frame_error():
    with pytest.raises(FrameError) as caught:
        encode_frame([bytes(65536)])
    assert caught.value.reason == "packet_length"
