"""Splitting and decoding Kite frames against the stock KiteTicker parser, in the same run.

Beside it, what ingest adds to the split of a frame: who ticked, and how publishing keeps up.

Run `python -m benchmarks.frames`. Ratios count, times do not: both sides run interleaved.
"""

import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial

import numpy as np

from libs.common.kite.frames import (
    decode,
    decode_columns,
    encode_frame,
    frame_of,
    full_records,
    index_full_records,
    ltp_records,
    quote_records,
    slices,
    split_by_key,
)
from services.ingest.domain.coverage import Coverage
from services.ingest.domain.pressure import PressureGauge

ROUNDS = 11
SECONDS_PER_SAMPLE = 0.02
SIZES = (1, 10, 50, 300)
SHARDS = 16
KNOWN_TOKENS = 9000
"""What one API key can stream: the size of the table that ingest searches."""


def frame(count: int, *, mixed: bool) -> bytes:
    """A frame of ``count`` packets.

    Args:
        count: Number of packets.
        mixed: 55 % full, 20 % quote, 15 % ltp and 10 % index packets in random order; else all
            are full.
    """
    rng = np.random.default_rng(count)
    number = rng.choice(KNOWN_TOKENS, count, replace=False) + 1
    price = rng.integers(5, 90_000, count) * 5
    prices = {"last_price": price, "open": price, "high": price + 50, "low": price, "close": price}
    token = number << 8 | 2
    traded = {
        "last_quantity": rng.integers(1, 500, count),
        "average_price": price,
        "volume": rng.integers(1, 10_000_000, count),
        "buy_quantity": rng.integers(1, 500_000, count),
        "sell_quantity": rng.integers(1, 500_000, count),
    }
    seconds = np.full(count, 1_795_410_000)
    full = full_records(
        token=token,
        **prices,
        **traded,
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
    kinds = [
        full,
        quote_records(token=token, **prices, **traded),
        ltp_records(token=token, last_price=price),
        index_full_records(token=number << 8 | 9, **prices, exchange_ts_s=seconds),
    ]
    of_kind = [frame_of(records) for records in kinds]
    chosen = rng.choice(len(kinds), count, p=[0.55, 0.20, 0.15, 0.10])
    bodies = []
    for row, kind in enumerate(chosen.tolist()):
        offset, length = slices(of_kind[kind])[row]
        bodies.append(of_kind[kind][offset : offset + length])
    return encode_frame(bodies)


def microseconds(work: Callable[[], object]) -> float:
    """Microseconds of processor time per call, which other processes disturb less than the clock.

    Blocks until enough calls have run to be measurable.
    """
    calls = 1
    while True:
        started = time.process_time()
        for _ in range(calls):
            work()
        elapsed = time.process_time() - started
        if elapsed >= SECONDS_PER_SAMPLE:
            return elapsed / calls * 1e6
        calls *= 2


def price_of_watching(known: np.ndarray, shards: np.ndarray) -> None:
    """Print what ingest adds to the split of a frame: coverage and pressure."""
    places = split_by_key(frame(300, mixed=True), known, shards).places
    coverage = Coverage(no_data_seconds=30, stale_seconds=60)
    coverage.use_tokens(known)
    gauge = PressureGauge(capacity_bytes=2**24)

    def count() -> None:
        now_ns = time.monotonic_ns()
        gauge.received(300, now_ns)
        gauge.published(300, 250_000, now_ns)

    def look() -> None:
        coverage.look(known[::2], frozenset({2, 9}), time.monotonic_ns())

    def judge() -> None:
        now_ns = time.monotonic_ns()
        gauge.assess(gauge.read(pending_bytes=0, at_ns=now_ns), now_ns)

    print("µs beside the split")
    for name, often, work in (
        ("last ticks of 300 packets", "per frame", lambda: coverage.saw(places, 1)),
        ("pressure counts", "per frame", count),
        ("pressure judged", "once a second", judge),
        (f"coverage of {known.size} instruments", "every two seconds", look),
    ):
        median = statistics.median(microseconds(work) for _ in range(ROUNDS))
        print(f"{name:>34} {median:8.1f} {often}")
    print()


def main() -> None:
    """Print medians of interleaved rounds, and ratios to the stock parser."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kiteconnect import KiteTicker  # noqa: PLC0415  # It brings Twisted along.
    ticker = KiteTicker("key", "token")
    numbers = np.arange(1, KNOWN_TOKENS + 1) << 8
    known = np.sort(np.concatenate((numbers | 2, numbers | 9)))
    shards = np.random.default_rng(0).integers(0, SHARDS, known.size).astype(np.int16)
    price_of_watching(known, shards)
    print("µs per frame, median of", ROUNDS, "interleaved rounds (ratio to stock)")
    print(f"{'frame':>12} {'stock':>9} {'split':>16} {'columns':>16} {'packets':>16}")
    for mixed in (False, True):
        for count in SIZES:
            raw = frame(count, mixed=mixed)
            works: dict[str, Callable[[], object]] = {
                "stock": partial(ticker._parse_binary, raw),
                "split": partial(split_by_key, raw, known, shards),
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
