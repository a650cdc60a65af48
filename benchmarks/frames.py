"""Splitting and decoding Kite frames against the stock KiteTicker parser, in the same run."""

import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np

from libs.common.kite.frames import (
    decode,
    decode_columns,
    frame_of,
    full_records,
    quote_records,
    split_by_key,
)

ROUNDS = 7
SIZES = (1, 10, 50, 300)


def frame(count: int, *, mixed: bool) -> bytes:
    """A frame of NFO packets: all full, or a third of them quotes."""
    rng = np.random.default_rng(count)
    token = (np.arange(1, count + 1) << 8) + 2
    price = rng.integers(5, 90_000, count) * 5
    common = {
        "token": token,
        "last_price": price,
        "last_quantity": rng.integers(1, 500, count),
        "average_price": price,
        "volume": rng.integers(1, 10_000_000, count),
        "buy_quantity": rng.integers(1, 500_000, count),
        "sell_quantity": rng.integers(1, 500_000, count),
        "open": price,
        "high": price + 50,
        "low": price,
        "close": price,
    }
    seconds = np.full(count, 1_795_410_000)
    full = full_records(
        **common,
        last_trade_ts_s=seconds,
        oi=rng.integers(1, 10_000_000, count),
        oi_high=rng.integers(1, 10_000_000, count),
        oi_low=rng.integers(1, 10_000_000, count),
        exchange_ts_s=seconds,
        depth_quantity=rng.integers(1, 5_000, (count, 10)),
        depth_price=np.repeat(price[:, None], 10, axis=1),
        depth_orders=rng.integers(1, 50, (count, 10)),
    )
    if not mixed:
        return frame_of(full)
    quotes = quote_records(**common)
    third = max(count // 3, 1) if count > 1 else 0
    return frame_of(full[third:], quotes[:third])


def microseconds(work: Callable[[], object]) -> float:
    """Microseconds per call, over enough calls to be measurable."""
    started = time.perf_counter()
    calls = 0
    while time.perf_counter() - started < 0.06:
        work()
        calls += 1
    return (time.perf_counter() - started) / calls * 1e6


def main() -> None:
    """Print medians of interleaved rounds, and ratios to the stock parser."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kiteconnect import KiteTicker  # noqa: PLC0415  # It brings Twisted along.
    ticker = KiteTicker("key", "token")
    print("µs per frame, median of", ROUNDS, "interleaved rounds (ratio to stock)")
    print(f"{'frame':>12} {'stock':>9} {'split':>16} {'columns':>16} {'packets':>16}")
    for mixed in (False, True):
        for count in SIZES:
            raw = frame(count, mixed=mixed)
            tokens = (np.arange(1, count + 1) << 8) + 2
            shards = (np.arange(count) * 3 // count).astype(np.int16)
            works: dict[str, Callable[[], object]] = {
                "stock": partial(ticker._parse_binary, raw),
                "split": partial(split_by_key, raw, tokens, shards),
                "columns": partial(decode_columns, raw),
                "packets": partial(decode, raw),
            }
            times: dict[str, list[float]] = {name: [] for name in works}
            for _ in range(ROUNDS):
                for name, work in works.items():
                    times[name].append(microseconds(work))
            median = {name: statistics.median(values) for name, values in times.items()}
            cells = [
                f"{median[name]:8.1f} ({median['stock'] / median[name]:4.0f}x)"
                for name in ("split", "columns", "packets")
            ]
            kind = "mixed" if mixed else "full"
            print(f"{count:>6} {kind:>5} {median['stock']:9.1f} {' '.join(cells)}")


if __name__ == "__main__":
    main()
