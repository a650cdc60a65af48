"""Reading and splitting many packets at once: equal to the plain way in every value."""

import math
from collections.abc import Callable
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.kite.frames import (
    ABSENT,
    DIVISORS,
    DepthLevel,
    FrameError,
    Mode,
    Packet,
    decode,
    decode_columns,
    slices,
    split_by_key,
)
from tests.unit.common.frame_samples import (
    LENGTHS,
    frame_of_bodies,
    frames,
    mixed_length,
    random_body,
    random_frame,
)

MODES = [Mode.LTP, Mode.QUOTE, Mode.FULL]


def outcome(read: Callable[[], int]) -> int | tuple[str, int]:
    """What reading gives: a number of packets, or the fault and its place."""
    try:
        return read()
    except FrameError as error:
        return error.reason, error.offset


def or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def or_absent(value: int | None) -> int:
    return ABSENT if value is None else value


def row_of(packet: Packet) -> tuple[float, ...]:
    """What a row of the columns must hold for a packet."""
    no_level = DepthLevel(ABSENT, math.nan, ABSENT)
    best_bid = packet.depth_buy[0] if packet.depth_buy else no_level
    best_ask = packet.depth_sell[0] if packet.depth_sell else no_level
    return (
        packet.instrument_token,
        MODES.index(packet.mode),
        packet.last_price,
        best_bid.price,
        best_ask.price,
        best_bid.quantity,
        best_ask.quantity,
        or_absent(packet.volume_traded),
        or_absent(packet.oi),
        or_absent(packet.oi_day_high),
        or_absent(packet.oi_day_low),
        or_absent(packet.last_traded_quantity),
        or_nan(packet.average_traded_price),
        or_absent(packet.total_buy_quantity),
        or_absent(packet.total_sell_quantity),
        or_nan(packet.open),
        or_nan(packet.high),
        or_nan(packet.low),
        or_nan(packet.close),
        packet.exchange_timestamp_s or 0,
        packet.last_trade_time_s or 0,
    )


def assert_columns_equal_packets(frame: bytes) -> None:
    packets = decode(frame)
    columns = decode_columns(frame)
    assert len(columns) == len(packets)
    actual: list[npt.NDArray[Any]] = [
        columns.token,
        columns.mode,
        columns.last_price,
        columns.bid,
        columns.ask,
        columns.bid_qty,
        columns.ask_qty,
        columns.volume,
        columns.oi,
        columns.oi_high,
        columns.oi_low,
        columns.last_quantity,
        columns.average_price,
        columns.buy_quantity,
        columns.sell_quantity,
        columns.open,
        columns.high,
        columns.low,
        columns.close,
        columns.exchange_ts_s,
        columns.last_trade_ts_s,
    ]
    for values in actual:
        assert values.shape == (len(packets),)
    for column, wanted in zip(actual, zip(*map(row_of, packets), strict=True), strict=False):
        np.testing.assert_array_equal(column, np.array(wanted))
    depth = columns.depth
    assert depth.prices.shape == depth.quantities.shape == depth.orders.shape == (len(packets), 10)
    for row, packet in enumerate(packets):
        levels = packet.depth_buy + packet.depth_sell
        if levels:
            assert depth.prices[row].tolist() == [level.price for level in levels]
            assert depth.quantities[row].tolist() == [level.quantity for level in levels]
            assert depth.orders[row].tolist() == [level.orders for level in levels]
        else:
            assert np.isnan(depth.prices[row]).all()
            assert (depth.quantities[row] == ABSENT).all()
            assert (depth.orders[row] == ABSENT).all()
    books = np.flatnonzero(columns.bid_qty != ABSENT)[::-1]
    quantities, prices, orders = columns.book_words(books)
    np.testing.assert_array_equal(quantities, depth.quantities[books])
    np.testing.assert_array_equal(
        prices / DIVISORS[columns.token[books] & 0xFF, None], depth.prices[books]
    )
    np.testing.assert_array_equal(orders, depth.orders[books])


@given(frame=frames())
def test_columns_equal_packets(frame):
    assert_columns_equal_packets(frame)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_columns_of_a_uniform_frame_equal_packets(length, count):
    random = Random(length + count)
    assert_columns_equal_packets(random_frame(random, count, lambda: length))


@pytest.mark.parametrize("seed", range(10))
def test_columns_of_a_busy_frame_equal_packets(seed):
    random = Random(seed)
    assert_columns_equal_packets(random_frame(random, 300, lambda: mixed_length(random)))


def test_columns_are_contiguous_and_typed():
    columns = decode_columns(random_frame(Random(1), 4, lambda: 184))
    assert columns.mode.dtype == np.uint8
    for values, dtype in (
        (columns.token, np.int64),
        (columns.volume, np.int64),
        (columns.last_price, np.float64),
        (columns.ask, np.float64),
    ):
        assert values.dtype == dtype
        assert values.flags.c_contiguous


@given(payload=st.binary(max_size=600))
def test_columns_of_any_bytes_are_columns_or_a_frame_error(payload):
    assert outcome(lambda: len(decode_columns(payload))) == outcome(lambda: len(decode(payload)))


# --- split_by_key --------------------------------------------------------------------------------


def plain_split(frame: bytes, key_of_token: dict[int, int]) -> tuple[dict[int, list[bytes]], int]:
    """What the split must give, written the obvious way."""
    groups: dict[int, list[bytes]] = {}
    unknown = 0
    for offset, length in slices(frame):
        body = frame[offset : offset + length]
        key = key_of_token.get(int.from_bytes(body[:4], "big"))
        if key is None:
            unknown += 1
        else:
            groups.setdefault(key, []).append(body)
    return groups, unknown


def table(key_of_token: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    tokens = sorted(key_of_token)
    return np.array(tokens, np.int64), np.array([key_of_token[t] for t in tokens], np.int16)


def assert_split(frame: bytes, key_of_token: dict[int, int]) -> None:
    wanted, wanted_unknown = plain_split(frame, key_of_token)
    tokens, keys = table(key_of_token)
    parts, places, unknown = split_by_key(frame, tokens, keys)
    assert unknown == wanted_unknown
    assert parts == {key: frame_of_bodies(bodies) for key, bodies in wanted.items()}
    assert all(type(key) is int and type(part) is bytes for key, part in parts.items())
    in_frame = [int.from_bytes(frame[offset : offset + 4], "big") for offset, _ in slices(frame)]
    assert tokens[places].tolist() == [token for token in in_frame if token in key_of_token]


@given(frame=frames(), data=st.data())
def test_split_keeps_every_known_packet_in_order(frame, data):
    tokens = {int.from_bytes(frame[offset : offset + 4], "big") for offset, _ in slices(frame)}
    keys = {token: data.draw(st.none() | st.integers(0, 3)) for token in sorted(tokens)}
    strangers = data.draw(st.dictionaries(st.integers(0, 2**32 - 1), st.integers(0, 3), max_size=3))
    assert_split(frame, strangers | {t: k for t, k in keys.items() if k is not None})


@pytest.mark.parametrize("uniform", [True, False])
def test_split_of_a_busy_frame_over_sixteen_shards(uniform):
    random = Random(5)
    frame = random_frame(random, 300, lambda: 184 if uniform else mixed_length(random))
    tokens = [int.from_bytes(frame[offset : offset + 4], "big") for offset, _ in slices(frame)]
    assert_split(frame, {token: random.randrange(16) for token in tokens if random.random() < 0.9})


@given(frame=frames(min_packets=33, max_packets=60), data=st.data())
def test_split_of_many_packets_keeps_every_known_packet_in_order(frame, data):
    tokens = {int.from_bytes(frame[offset : offset + 4], "big") for offset, _ in slices(frame)}
    keys = data.draw(
        st.lists(st.none() | st.integers(0, 5), min_size=len(tokens), max_size=len(tokens))
    )
    assert_split(frame, {t: k for t, k in zip(sorted(tokens), keys, strict=True) if k is not None})


@pytest.mark.parametrize("seed", range(20))
def test_split_of_shuffled_lengths_is_exact_to_the_byte(seed):
    random = Random(seed)
    frame = random_frame(random, random.randrange(33, 400), lambda: mixed_length(random))
    tokens = [int.from_bytes(frame[offset : offset + 4], "big") for offset, _ in slices(frame)]
    known = random.choice((0.1, 0.9, 1.0))
    assert_split(frame, {t: random.randrange(16) for t in tokens if random.random() < known})


@pytest.mark.parametrize("length", [185, 255, 256, 300, 1_000])
def test_packet_longer_than_any_known_kind_is_split_as_the_others(length):
    random = Random(length)
    frame = random_frame(random, 60, lambda: random.choice((8, 184, length)))
    tokens = [int.from_bytes(frame[offset : offset + 4], "big") for offset, _ in slices(frame)]
    assert_split(frame, {token: random.randrange(4) for token in tokens})


@pytest.mark.parametrize("lengths", [[184, 184, 184], [184, 8, 44], [10, 10], [184]])
def test_frame_of_one_key_is_passed_on_as_it_is(lengths):
    random = Random(6)
    bodies = [random_body(random, length) for length in lengths]
    frame = frame_of_bodies(bodies)
    keys = {int.from_bytes(body[:4], "big"): 7 for body in bodies}
    split = split_by_key(frame, *table(keys))
    assert split.parts[7] is frame
    assert split.unknown == 0


@pytest.mark.parametrize("lengths", [[184, 184], [184, 8]])
def test_split_without_a_table_counts_every_packet(lengths):
    frame = frame_of_bodies([random_body(Random(7), length) for length in lengths])
    parts, places, unknown = split_by_key(frame, *table({}))
    assert (parts, places.tolist(), unknown) == ({}, [], 2)


def test_split_of_an_empty_frame_is_empty():
    parts, places, unknown = split_by_key(b"\0\0", *table({1: 1}))
    assert (parts, places.tolist(), unknown) == ({}, [], 0)


@given(payload=st.binary(max_size=600))
def test_split_of_any_bytes_is_a_split_or_a_frame_error(payload):
    split = outcome(lambda: split_by_key(payload, *table({})).unknown)
    assert split == outcome(lambda: len(slices(payload)))
