"""Writing many packets at once: equal to writing them one by one."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from libs.common.kite import frames
from libs.common.kite.frames import FrameError, decode, encode_frame, encode_packet

NIFTY = 256265
QUOTE_FIELDS = (
    *("last_price", "last_quantity", "average_price", "volume", "buy_quantity", "sell_quantity"),
    *("open", "high", "low", "close"),
)
FULL_FIELDS = (*QUOTE_FIELDS, "last_trade_ts_s", "oi", "oi_high", "oi_low", "exchange_ts_s")
INDEX_FIELDS = ("last_price", "open", "high", "low", "close")


def whole(shape: Any, highest: int = 2**32 - 1) -> st.SearchStrategy[Any]:
    return arrays(np.int64, shape, elements=st.integers(0, highest))


def full_columns(count: int = 2) -> dict[str, Any]:
    columns: dict[str, Any] = {name: np.arange(count) + 100 for name in FULL_FIELDS}
    depth = np.arange(count * 10).reshape(count, 10) + 1
    return columns | {
        "token": (np.arange(count) + 1) << 8 | 2,
        "depth_quantity": depth,
        "depth_price": depth * 5,
        "depth_orders": depth * 2,
    }


def assert_written_alike(frame: bytes, count: int) -> None:
    packets = decode(frame)
    assert len(packets) == count
    assert encode_frame([encode_packet(packet) for packet in packets]) == frame


@given(data=st.data(), count=st.integers(1, 5))
def test_full_packets_equal_those_written_one_by_one(data, count):
    columns = {name: data.draw(whole(count)) for name in FULL_FIELDS}
    columns["token"] = data.draw(whole(count, 2**24 - 1)) << 8 | 3
    columns["depth_quantity"] = data.draw(whole((count, 10)))
    columns["depth_price"] = data.draw(whole((count, 10)))
    columns["depth_orders"] = data.draw(whole((count, 10), 65535))
    frame = frames.encode_full(**columns)
    assert_written_alike(frame, count)
    read = frames.decode_columns(frame)
    np.testing.assert_array_equal(read.oi, columns["oi"])
    np.testing.assert_array_equal(read.depth.orders, columns["depth_orders"])
    np.testing.assert_array_equal(read.depth.prices, columns["depth_price"] / 1e7)


@given(data=st.data(), count=st.integers(1, 5))
def test_shorter_packets_equal_those_written_one_by_one(data, count):
    token = data.draw(whole(count, 2**24 - 1)) << 8
    quote = {name: data.draw(whole(count)) for name in QUOTE_FIELDS}
    index = {name: quote[name] for name in INDEX_FIELDS}
    seconds = data.draw(whole(count))
    assert_written_alike(frames.encode_quote(token=token | 2, **quote), count)
    assert_written_alike(frames.encode_ltp(token=token | 9, last_price=quote["open"]), count)
    assert_written_alike(frames.encode_index_quote(token=token | 9, **index), count)
    assert_written_alike(
        frames.encode_index_full(token=token | 9, exchange_ts_s=seconds, **index), count
    )


def test_records_can_be_selected_and_mixed_in_one_frame():
    full = frames.full_records(**full_columns(5))
    ltp = frames.ltp_records(token=[NIFTY], last_price=2_600_000)
    frame = frames.frame_of(full[[3, 1]], ltp, full[:0])
    assert [packet.instrument_token for packet in decode(frame)] == [4 << 8 | 2, 2 << 8 | 2, NIFTY]


def test_one_number_stands_for_all_packets():
    columns = full_columns(3) | {"volume": 7, "depth_orders": 1}
    read = frames.decode_columns(frames.encode_full(**columns))
    assert read.volume.tolist() == [7, 7, 7]
    assert (read.depth.orders == 1).all()


def test_no_records_are_an_empty_frame():
    assert frames.frame_of() == b"\0\0"


@pytest.mark.parametrize(
    ("changes", "offset"),
    [
        ({"last_price": np.array([1, -1])}, 2 + 186 + 2 + 4),
        ({"volume": 2**32}, 2 + 2 + 16),
        ({"depth_orders": 65536}, 2 + 2 + 64 + 8),
        ({"depth_price": -5}, 2 + 2 + 64 + 4),
    ],
)
def test_value_that_does_not_fit_tells_where(changes, offset):
    with pytest.raises(FrameError) as caught:
        frames.encode_full(**full_columns() | changes)
    assert (caught.value.reason, caught.value.offset) == ("value_range", offset)


def test_more_packets_than_the_count_can_tell_are_a_frame_error():
    records = frames.ltp_records(token=np.arange(65536), last_price=1)
    with pytest.raises(FrameError) as caught:
        frames.frame_of(records)
    assert caught.value.reason == "too_many_packets"
