"""Reading Kite's candles against the stock client's parser, in the same run.

Run `python -m benchmarks.candles`. One minute's answer for sixty days is what a single request may
bring. Ratios count, times do not: both sides run interleaved, in processor time of one thread.
"""

import json
import statistics
import time
from collections.abc import Callable
from datetime import datetime, timedelta

from kiteconnect import KiteConnect

from libs.common.domain.candle_spans import LAST_SECOND, Span
from libs.common.domain.clock import IST
from libs.common.kite.market_data import parse_candles

ROUNDS = 5
DAYS = 60
MINUTES = 375


def answer() -> bytes:
    """What Kite sends for sixty days of minutes with open interest."""
    rows = []
    for day in range(DAYS):
        opened = datetime(2026, 1, 1, 9, 15, tzinfo=IST) + timedelta(days=day)
        for minute in range(MINUTES):
            stamp = (opened + timedelta(minutes=minute)).strftime("%Y-%m-%dT%H:%M:%S+0530")
            price = 26_000.05 + minute
            rows.append([stamp, price, price + 5, price - 5, price + 1, 12_345, 1_000_000])
    return json.dumps({"status": "success", "data": {"candles": rows}}).encode()


def seconds(call: Callable[[], object]) -> float:
    """Processor time of one call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def main() -> None:
    """Run both sides in turn and print the medians."""
    body = answer()
    client = KiteConnect(api_key="none")

    def stock() -> list[datetime]:
        return [row["date"] for row in client._format_historical(json.loads(body)["data"])]

    def own() -> list[int]:
        return [candle.start for candle in parse_candles(body, Span(0, LAST_SECOND))]

    assert [int(moment.timestamp()) for moment in stock()] == own()
    times: dict[str, list[float]] = {"stock": [], "own": []}
    for _ in range(ROUNDS):
        times["stock"].append(seconds(stock))
        times["own"].append(seconds(own))
    theirs, ours = (statistics.median(times[side]) for side in ("stock", "own"))
    print(f"{DAYS * MINUTES} candles, {len(body) / 1e6:.1f} MB")
    print(f"  stock kiteconnect {theirs * 1e3:8.1f} ms")
    print(f"  own               {ours * 1e3:8.1f} ms   {theirs / ours:.0f}x")


if __name__ == "__main__":
    main()
