"""A ten-second burst at three times what a greeks worker can do, and how it comes back.

The worker is a real process on a real NATS server, fed by another process. Its capacity is measured
first: the ticks per second that it publishes while it is offered more than it can work and nothing
is conflated away. Then comes the load that is normal here (a quarter of the capacity), the burst,
and normal load again; the ages are those of the ticks of one underlying, from their frame's publish
to their arrival here. Claims: nothing but obsolete packets is lost (conflated), memory stays flat,
and the age is back under 50 ms within seconds of the burst's end. The baseline is the normal load
before the burst.

    python -m benchmarks.burst [--times 3]
"""

import argparse
import asyncio
import time
from typing import Final

from benchmarks._worker_rig import Fed, Feeder, Load, Phase, Rig, Shape, quantile, quiet, rig, watch
from benchmarks.ingest import usage

SHAPE: Final = Shape(10)
CAPACITY_SECONDS: Final = 6.0
OFFERED: Final = 200_000.0
"""More than a worker can do."""
NORMAL_SHARE: Final = 0.25
BEFORE_SECONDS: Final = 6.0
BURST_SECONDS: Final = 10.0
AFTER_SECONDS: Final = 20.0
RECOVERED_SECONDS: Final = 0.05
_STEP_SECONDS: Final = 0.5


async def capacity() -> float:
    """Ticks per second that a worker publishes when it is never idle and leaves nothing out."""
    async with rig(SHAPE, CONFLATE_AFTER_SECONDS="1000000") as stage:
        feeder = Feeder(Load(stage.server.url, SHAPE, (Phase(CAPACITY_SECONDS, OFFERED),)))
        try:
            await feeder.ready()
            run = asyncio.create_task(feeder.run())
            await asyncio.sleep(2.0)
            began, before = time.perf_counter(), await asyncio.to_thread(stage.worker.ticks)
            await run
            ticks = await asyncio.to_thread(stage.worker.ticks) - before
            return ticks / (time.perf_counter() - began)
        finally:
            feeder.kill()


async def look(stage: Rig, rows: list[tuple[float, float, float, float]]) -> None:
    """Note moment, memory, ticks and conflated packets again and again, until cancelled."""
    worker = stage.worker
    while True:
        ticks, conflated = await asyncio.gather(
            asyncio.to_thread(worker.ticks), asyncio.to_thread(worker.conflated)
        )
        rows.append((time.perf_counter(), usage(worker.pid).rss_mib, ticks, conflated))
        await asyncio.sleep(_STEP_SECONDS)


async def measure(times: float) -> None:
    """Find the capacity, feed the three phases, print what happened."""
    able = await capacity()
    normal, flood = NORMAL_SHARE * able, times * able
    print(f"capacity {able:,.0f} ticks/s; normal load {normal:,.0f}/s, burst {flood:,.0f}/s")
    phases = (
        Phase(BEFORE_SECONDS, normal),
        Phase(BURST_SECONDS, flood),
        Phase(AFTER_SECONDS, normal),
    )
    async with rig(SHAPE) as stage:
        feeder = Feeder(Load(stage.server.url, SHAPE, phases))
        rows: list[tuple[float, float, float, float]] = []
        watcher = asyncio.create_task(look(stage, rows))
        try:
            await feeder.ready()
            seen = await watch(stage.bus, "STOCK0")
            ends: list[float] = []
            offered: list[float] = []

            def note(_number: int, fed: Fed) -> None:
                ends.append(time.perf_counter())
                offered.append(fed.packets / fed.seconds)

            began = time.perf_counter()
            await feeder.run(note)
        finally:
            watcher.cancel()
            feeder.kill()
    print(f"{'':8} {'offered/s':>10} {'ticks/s':>9} {'conflated':>10} {'RSS MiB':>8} "
          f"{'p50 ms':>8} {'p99 ms':>8} {'max ms':>8}")  # fmt: skip
    starts = [began, *ends[:-1]]
    for name, start, end, rate in zip(
        ("before", "burst", "after"), starts, ends, offered, strict=True
    ):
        own = [row for row in rows if start < row[0] <= end]
        ages = [
            age * 1e3
            for at, age in zip(seen.at, seen.age_seconds, strict=True)
            if start < at <= end
        ]
        first, last = own[0], own[-1]
        print(
            f"{name:8} {rate:10,.0f} {(last[2] - first[2]) / (last[0] - first[0]):9,.0f} "
            f"{last[3] - first[3]:10,.0f} {max(row[1] for row in own):8.0f} "
            f"{quantile(ages, 0.5):8.1f} {quantile(ages, 0.99):8.1f} {max(ages, default=0):8.1f}"
        )
    late = [
        at
        for at, age in zip(seen.at, seen.age_seconds, strict=True)
        if at > ends[1] and age > RECOVERED_SECONDS
    ]
    # The last tick that is late marks the end: from there on all are young.
    print(
        f"back under {RECOVERED_SECONDS * 1e3:.0f} ms for good "
        f"{max(late, default=ends[1]) - ends[1]:.1f} s after the burst"
    )


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description="a burst beyond a greeks worker's capacity")
    parser.add_argument("--times", type=float, default=3, help="the burst over the capacity")
    arguments = parser.parse_args()
    quiet()
    asyncio.run(measure(arguments.times))


if __name__ == "__main__":
    main()
