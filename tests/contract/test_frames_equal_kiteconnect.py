"""Our reading of Kite's frames equals the stock client's in every value."""

from datetime import datetime
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given

from libs.common.kite import frames
from tests.unit.common.frame_samples import (
    LENGTHS,
    SEGMENTS,
    frame_of_bodies,
    mixed_length,
    random_body,
    random_frame,
)
from tests.unit.common.frame_samples import (
    frames as any_frames,
)

RECORDED = Path(__file__).parent.parent / "data" / "kiteconnectjs"


@pytest.fixture(scope="module")
def ticker():
    # Here, because the import starts Twisted and autobahn, which warn and take a third of a second.
    from kiteconnect import KiteTicker

    return KiteTicker("key", "token")


def as_stock(packet: frames.Packet) -> dict[str, Any]:
    """A packet of ours in the stock client's shape, without its derived ``change``."""
    tick: dict[str, Any] = {
        "tradable": packet.tradable,
        "mode": packet.mode.value,
        "instrument_token": packet.instrument_token,
        "last_price": packet.last_price,
    }
    if packet.mode is frames.Mode.LTP:
        return tick
    tick["ohlc"] = {
        "open": packet.open,
        "high": packet.high,
        "low": packet.low,
        "close": packet.close,
    }
    full = packet.mode is frames.Mode.FULL
    if packet.volume_traded is not None:
        tick |= {
            "last_traded_quantity": packet.last_traded_quantity,
            "average_traded_price": packet.average_traded_price,
            "volume_traded": packet.volume_traded,
            "total_buy_quantity": packet.total_buy_quantity,
            "total_sell_quantity": packet.total_sell_quantity,
        }
        if full:
            tick |= {
                "last_trade_time": datetime.fromtimestamp(packet.last_trade_time_s or 0),  # noqa: DTZ006 -- as the stock client does
                "oi": packet.oi,
                "oi_day_high": packet.oi_day_high,
                "oi_day_low": packet.oi_day_low,
                "depth": {
                    side: [
                        {"quantity": level.quantity, "price": level.price, "orders": level.orders}
                        for level in levels
                    ]
                    for side, levels in (("buy", packet.depth_buy), ("sell", packet.depth_sell))
                },
            }
    if full:
        tick["exchange_timestamp"] = datetime.fromtimestamp(packet.exchange_timestamp_s or 0)  # noqa: DTZ006 -- as above
    return tick


def stock_ticks(ticker, frame: bytes) -> list[dict[str, Any]]:
    ticks: list[dict[str, Any]] = ticker._parse_binary(frame)
    for tick in ticks:
        tick.pop("change", None)
    return ticks


def assert_equal_reading(ticker, frame: bytes) -> None:
    packets = frames.decode(frame)
    # `==` on floats is the claim: equal to the last bit, not approximately.
    assert [as_stock(packet) for packet in packets] == stock_ticks(ticker, frame)


@pytest.mark.parametrize("name", ["fullMode", "quoteMode", "ltpMode"])
def test_recorded_frame_reads_the_same(ticker, name):
    frame = (RECORDED / f"{name}_binary.packet").read_bytes()
    assert len(frames.decode(frame)) == 1
    assert_equal_reading(ticker, frame)


@pytest.mark.parametrize("segment", SEGMENTS)
@pytest.mark.parametrize("length", LENGTHS)
def test_every_kind_in_every_segment_reads_the_same(ticker, length, segment):
    random = Random(length * 256 + segment)
    tokens = [random.randrange(1 << 24) << 8 | segment for _ in range(20)]
    assert_equal_reading(
        ticker, frame_of_bodies([random_body(random, length, token) for token in tokens])
    )


@pytest.mark.parametrize("seed", range(40))
def test_mixed_frames_read_the_same(ticker, seed):
    random = Random(seed)
    frame = random_frame(random, random.randrange(1, 80), lambda: mixed_length(random))
    assert_equal_reading(ticker, frame)


@given(frame=any_frames())
def test_any_valid_frame_reads_the_same(ticker, frame):
    assert_equal_reading(ticker, frame)


def test_what_we_encode_the_stock_client_reads(ticker):
    depth = np.arange(20).reshape(2, 10)
    full = frames.full_records(
        token=np.array([408065, 2 << 8 | 3]),
        last_price=np.array([159010, 831234567]),
        last_quantity=5,
        average_price=[158500, 831234000],
        volume=1_000_000,
        buy_quantity=100,
        sell_quantity=200,
        open=[158000, 830000000],
        high=[160000, 840000000],
        low=[157000, 820000000],
        close=[158800, 829990000],
        last_trade_ts_s=1_764_000_000,
        oi=77,
        oi_high=88,
        oi_low=66,
        exchange_ts_s=1_764_000_001,
        depth_quantity=depth + 1,
        depth_price=depth + 1000,
        depth_orders=depth + 2,
    )
    index = frames.index_full_records(
        token=256265,
        last_price=2_600_000,
        open=2_590_000,
        high=2_610_000,
        low=2_580_000,
        close=2_605_000,
        exchange_ts_s=1_764_000_001,
    )
    ltp = frames.ltp_records(token=[884737], last_price=[39295])
    frame = frames.frame_of(full, index, ltp)
    assert_equal_reading(ticker, frame)
    first, currency, nifty, plain = stock_ticks(ticker, frame)
    assert (first["last_price"], first["depth"]["buy"][0]["quantity"]) == (1590.1, 1)
    assert first["depth"]["sell"][4] == {"quantity": 10, "price": 10.09, "orders": 11}
    assert currency["last_price"] == 83.1234567
    assert nifty["ohlc"] == {"open": 25900.0, "high": 26100.0, "low": 25800.0, "close": 26050.0}
    assert plain["last_price"] == 392.95
