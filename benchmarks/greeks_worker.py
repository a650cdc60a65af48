"""Ticks that one greeks worker turns around, frame to published tick, on a real NATS server.

The worker is the whole service in this process (one thread, uvloop); the server is a process of
its own. Frames of 300 full packets lie in the stream; the clock runs from the first published tick
to the last, and the CPU time of this process is given beside it, since the server shares the
machine. Conflation is off: every packet becomes a tick. The baseline is what the predecessor did
per tick, in the same run: the stock parser, vollib's scalar solver and Greeks, and json.dumps
(its publish, 50-130 us of Redis, is left out).

    python -m benchmarks.greeks_worker [--frames 600] [--rounds 5]
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import structlog
import uvloop

from libs.common.bus.connection import Bus
from libs.common.bus.kv import Bucket
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.domain.instruments import Kind
from libs.common.domain.market_calendar import CALENDAR
from libs.common.kite.frames import decode, frame_of
from libs.common.lifecycle import Lifecycle
from services.greeks import app
from services.greeks.domain import packets, pricing
from services.greeks.domain import shard as shard_module
from services.greeks.domain.book_texts import BookTexts
from services.greeks.domain.forward import Forwards
from services.greeks.domain.policy import Policy
from services.greeks.domain.shard import Frame, Shard, Tally
from services.greeks.settings import GreeksSettings
from tests.fakes.kite_frames import FakeMarket
from tests.fakes.nats_server import NatsServer, free_port

PACKETS = 300
DISTINCT_FRAMES = 40
BATCH_FRAMES = 16
DAYS = (date(2026, 11, 24), date(2026, 12, 29), date(2027, 1, 25))


class Result(NamedTuple):
    """One round: ticks, and seconds on the wall and of this process's CPU."""

    ticks: int
    wall_seconds: float
    cpu_seconds: float


def markets(count: int) -> list[FakeMarket]:
    """Underlyings, each with an index, three futures and three chains."""
    options = (PACKETS // count - 4) * (10 if count > 1 else 4)
    return [
        FakeMarket(
            underlying=f"STOCK{number}" if count > 1 else "NIFTY",
            spot=1000.0 + 40.0 * number if count > 1 else 24_500.0,
            step=5.0 if count > 1 else 50.0,
            strikes_each_side=options // 12,
            expiries=DAYS,
            futures=DAYS,
            first_token=10_000 * (number + 1),
        )
        for number in range(count)
    ]


def frames_of(chosen: Sequence[FakeMarket]) -> list[bytes]:
    """Full-mode frames: index and futures of every underlying, the options in turn."""
    rng = np.random.default_rng(1)
    share = PACKETS // len(chosen) - 4
    frames = []
    for number in range(DISTINCT_FRAMES):
        records = []
        for market in chosen:
            market.now_s += number % 2
            market.spot = round(market.spot * (1 + rng.normal(0, 1e-4)), 2)
            options = market.options
            turn = [options[(number * share + i) % len(options)] for i in range(share)]
            futures = [item for item in market.instruments if item.kind is Kind.FUTURE]
            records += [
                market.index_packet(),
                market.full(futures + turn, depth_quantity=rng.integers(1, 5000, (share + 3, 10))),
            ]
        frames.append(frame_of(*records))
    return frames


async def turn_around(frames: Sequence[bytes], chosen: Sequence[FakeMarket], count: int) -> Result:
    """Let a worker empty a stream of `count` frames."""
    with tempfile.TemporaryDirectory() as directory:
        server = NatsServer(Path(directory))
        server.start()
        try:
            settings = GreeksSettings(
                nats_url=server.url,
                shards=1,
                worker_id="bench",
                health_port=free_port(),
                conflate_after_seconds=1e6,
                first_start_seconds=600,
                batch_frames=BATCH_FRAMES,
            )
            async with Bus.open(settings, name="feeder") as bus:
                await ensure(bus, streams.STREAMS, streams.BUCKETS)
                bucket = Bucket(bus, streams.INSTRUMENTS.name)
                for market in chosen:
                    await bucket.put(
                        subjects.escape(market.underlying),
                        codec.to_msgpack(market.instrument_set()),
                    )
                for number in range(count):
                    await bus.publish(
                        subjects.frame(0, "A1"),
                        frames[number % len(frames)],
                        {
                            codec.HEADER_RECEIVED_AT: str(time.time_ns()),
                            codec.HEADER_SOURCE: "sim",
                        },
                    )
                    if number % 16 == 0:
                        await bus.client.flush()
                await bus.client.flush()
                return await _watch(bus, settings, count * PACKETS)
        finally:
            server.kill()


async def _watch(bus: Bus, settings: GreeksSettings, expected: int) -> Result:
    """Run the service until all ticks are stored, measuring from the first to the last."""
    life = Lifecycle()
    service = asyncio.create_task(app.serve(settings, life))

    async def stored() -> int:
        info = await bus.jetstream.stream_info(streams.MD_TICKS.name)
        return int(info.state.messages)

    while not await stored():  # noqa: ASYNC110  # Another process stores them.
        await asyncio.sleep(0.002)
    started, cpu_started = time.perf_counter(), time.process_time()
    done_before = shard_ticks.total
    while shard_ticks.total < expected:  # noqa: ASYNC110  # An event would cost the worker.
        await asyncio.sleep(0.005)
    await bus.client.flush()
    result = Result(
        expected - done_before,
        time.perf_counter() - started,
        time.process_time() - cpu_started,
    )
    life.request_stop("done")
    await service
    if life.failure is not None:
        raise life.failure
    return result


class TickCounter:
    """Counts the ticks that the service's shard has handed out for publishing."""

    def __init__(self) -> None:
        self.total = 0


shard_ticks = TickCounter()


def count_ticks() -> None:
    """Have every shard count into `shard_ticks`."""
    original = Shard.work

    def counted(self: Shard, frames: Sequence[Frame], *, conflate: bool, tally: Tally) -> Any:
        for message in original(self, frames, conflate=conflate, tally=tally):
            yield message
            shard_ticks.total += message.slots.size

    Shard.work = counted  # type: ignore[method-assign]  # The benchmark looks inside.


def stages(frames: Sequence[bytes], chosen: Sequence[FakeMarket]) -> dict[str, float]:
    """Microseconds per tick of each stage of the pure part, in the batches of the service."""
    spent: dict[str, float] = defaultdict(float)

    def timed(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            result = work(*args, **kwargs)
            spent[name] += time.perf_counter() - started
            return result

        return run

    state = Shard(
        epoch=1,
        calendar=CALENDAR,
        policy=Policy(),
        engine=timed("  of which solver", pricing.compute_quotes),
        now_ns=time.time_ns,
    )
    for market in chosen:
        state.use_instruments(market.instrument_set())
    names = {
        "decode": "read_frames",
        "price": "price_options",
        "rows": "rows_of",
    }
    write_books = BookTexts.of
    BookTexts.of = timed("  of which order books", write_books)  # type: ignore[method-assign]
    kept = {name: getattr(shard_module, name) for name in (*names.values(), "encode")}
    update = Forwards.update
    Forwards.update = timed("forwards", update)  # type: ignore[method-assign]
    for label, name in names.items():
        setattr(shard_module, name, timed(label, kept[name]))
    encode_all = timed("encode", lambda *a, **k: list(kept["encode"](*a, **k)))
    setattr(shard_module, "encode", encode_all)  # noqa: B010  # As the names above.
    tally = Tally()
    received = [Frame(payload, 1, "sim") for payload in frames]
    batches = [
        received[first : first + BATCH_FRAMES] for first in range(0, len(received), BATCH_FRAMES)
    ]
    for _ in range(2):
        for batch in batches:
            list(state.work(batch, conflate=False, tally=tally))
    spent.clear()
    before = tally.ticks
    started = time.perf_counter()
    for _ in range(4):
        for batch in batches:
            list(state.work(batch, conflate=False, tally=tally))
    whole = time.perf_counter() - started
    for name, work in kept.items():
        setattr(shard_module, name, work)
    Forwards.update = update  # type: ignore[method-assign]
    BookTexts.of = write_books  # type: ignore[method-assign]
    ticks = tally.ticks - before
    inside = sum(seconds for name, seconds in spent.items() if not name.startswith(" "))
    spent["state, order, columns"] = whole - inside
    spent["pure part in all"] = whole
    return {name: seconds / ticks * 1e6 for name, seconds in spent.items()}


def baseline(frame: bytes, chosen: Sequence[FakeMarket]) -> float:
    """Microseconds per tick of the predecessor's way, median of three frames."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kiteconnect import KiteTicker  # noqa: PLC0415  # Only the baseline needs it.
    import vollib.black_scholes.greeks.analytical as greeks  # noqa: PLC0415
    from vollib.black_scholes.implied_volatility import implied_volatility  # noqa: PLC0415

    ticker = KiteTicker("key", "token")
    known = {item.instrument_token: item for market in chosen for item in market.instruments}
    spots = {market.underlying: market for market in chosen}
    samples = []
    for _ in range(3):
        started = time.perf_counter()
        ticks = ticker._parse_binary(frame)
        for tick in ticks:
            item = known[tick["instrument_token"]]
            if item.strike is not None and item.expiry is not None:
                market = spots[item.underlying]
                flag = "c" if item.option_type == "CE" else "p"
                terms = (market.spot, item.strike, market.tte(item.expiry), 0.0)
                try:
                    vol = implied_volatility(tick["last_price"], *terms, flag)
                    for name in ("delta", "gamma", "theta", "vega", "rho"):
                        tick[name] = getattr(greeks, name)(flag, *terms, vol)
                except Exception:  # noqa: BLE001  # Below intrinsic: the predecessor went on as well.
                    tick["delta"] = 0.0
            json.dumps(tick, default=str)
        samples.append((time.perf_counter() - started) / len(ticks) * 1e6)
    assert len(decode(frame)) == len(ticks)
    return statistics.median(samples)


def main() -> None:
    """Print ticks per second and the share of every stage."""
    parser = argparse.ArgumentParser(description="ticks/s of one greeks worker")
    parser.add_argument("--frames", type=int, default=600)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    count_ticks()
    for count, title in ((15, "15 underlyings, 80 % options"), (1, "1 underlying, 99 % options")):
        chosen = markets(count)
        frames = frames_of(chosen)
        known = sum(len(market.instruments) for market in chosen)
        assert len(packets.read_frames(frames[:1])[0]) == PACKETS
        results = []
        for _ in range(arguments.rounds):
            shard_ticks.total = 0
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                results.append(runner.run(turn_around(frames, chosen, arguments.frames)))
        wall = statistics.median(r.ticks / r.wall_seconds for r in results)
        cpu = statistics.median(r.ticks / r.cpu_seconds for r in results)
        best = max(r.ticks / r.wall_seconds for r in results)
        slow = baseline(frames[0], chosen)
        print(f"\n{title}: frames of {PACKETS} full packets, {known} instruments")
        print(
            f"  turned around   {wall:10,.0f} ticks/s   "
            f"({cpu:,.0f} per CPU second; best round {best:,.0f})"
        )
        print(f"  predecessor     {1e6 / slow:10,.0f} ticks/s   ratio {wall * slow / 1e6:.0f}x")
        shares = stages(frames, chosen)
        whole = shares["pure part in all"]
        for name, micros in shares.items():
            print(f"    {name:24s} {micros:6.2f} us/tick {micros / whole:6.0%}")


if __name__ == "__main__":
    main()
