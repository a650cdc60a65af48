"""A hundred thousand contracts, each ticking once a second, on one greeks worker.

The worker is a real process on a real NATS server; another process feeds it frames of 300 full
packets, whole chains one after the other, all prices moving. First the cost of a tick is measured
with about 1 000, 10 000 and 100 000 instruments at the same rate, each on a worker of its own: the
claim is that it stays flat. Then every instrument of the largest universe ticks once a second.

Every instrument's newest tick is also written as its last value once a second by default. At this
size these are as many messages as a worker has ticks, each alone, so they are measured apart: the
comparison and a first run of the whole universe write them once a minute.

The baseline is the smallest universe. CPU and memory are read from /proc; the ages are those of the
ticks of one underlying, from their frame's publish to their arrival here.

    python -m benchmarks.universe [--seconds 20] [--rate 20000]
"""

import argparse
import asyncio
import time
from typing import NamedTuple

from benchmarks._worker_rig import Fed, Feeder, Load, Phase, Rig, Shape, quantile, quiet, rig, watch
from benchmarks.ingest import Usage, usage

UNDERLYINGS = (1, 10, 100)
WARM_SECONDS = 4.0
"""Every instrument has ticked by then, and memory has settled."""
RARELY = "60"
"""Seconds between the last values of an instrument where they are not to be measured."""


class Sample(NamedTuple):
    """What a worker had done and used at a moment."""

    at: float
    use: Usage
    server: Usage
    ticks: float
    conflated: float


class Cost(NamedTuple):
    """One measured phase."""

    micros_per_tick: float
    cpu_share: float
    server_share: float
    ticks_per_second: float
    rss_mib: float


def sample(stage: Rig) -> Sample:
    """Look at the worker."""
    worker = stage.worker
    return Sample(
        time.perf_counter(),
        usage(worker.pid),
        usage(stage.server.pid),
        worker.ticks(),
        worker.conflated(),
    )


def cost(before: Sample, after: Sample) -> Cost:
    """What lies between two moments."""
    seconds = after.at - before.at
    cpu = after.use.cpu_seconds - before.use.cpu_seconds
    ticks = after.ticks - before.ticks
    return Cost(
        cpu / ticks * 1e6,
        cpu / seconds,
        (after.server.cpu_seconds - before.server.cpu_seconds) / seconds,
        ticks / seconds,
        after.use.rss_mib,
    )


async def measure(shape: Shape, phases: tuple[Phase, ...], **settings: str) -> None:
    """Feed one universe and print a line per phase after the first, which warms up."""
    async with rig(shape, **settings) as stage:
        feeder = Feeder(Load(stage.server.url, shape, phases))
        try:
            await feeder.ready()
            seen = await watch(stage.bus, "STOCK0")
            samples: list[Sample] = []
            fed: list[Fed] = []

            def note(_number: int, said: Fed) -> None:
                fed.append(said)
                samples.append(sample(stage))

            await feeder.run(note)
            for number in range(1, len(phases)):
                before, after = samples[number - 1], samples[number]
                spent = cost(before, after)
                ages = [
                    age * 1e3
                    for at, age in zip(seen.at, seen.age_seconds, strict=True)
                    if before.at < at <= after.at
                ]
                offered = fed[number].packets / fed[number].seconds
                print(
                    f"{stage.instruments:9,} {offered:9,.0f} {spent.ticks_per_second:9,.0f} "
                    f"{spent.micros_per_tick:9.2f} {spent.cpu_share:9.0%} "
                    f"{spent.server_share:9.0%} {spent.rss_mib:9.0f} "
                    f"{after.conflated - before.conflated:9,.0f} {stage.worker.lag_frames():9.0f} "
                    f"{quantile(ages, 0.5):9.1f} {quantile(ages, 0.99):9.1f}",
                    flush=True,
                )
        finally:
            feeder.kill()


def main() -> None:
    """Measure all universes."""
    parser = argparse.ArgumentParser(description="one greeks worker and 100 000 contracts")
    parser.add_argument("--seconds", type=float, default=20, help="of the whole universe")
    parser.add_argument("--rate", type=float, default=20_000, help="ticks/s in the comparison")
    arguments = parser.parse_args()
    quiet()
    names = ("known", "offered/s", "ticks/s", "us/tick", "CPU", "server", "RSS MiB")
    print(" ".join(f"{name:>9}" for name in (*names, "conflated", "lag", "p50 ms", "p99 ms")))
    print(f"same rate, a last value per instrument every {RARELY} s")
    for count in UNDERLYINGS:
        warm = max(WARM_SECONDS, 1200.0 * count / arguments.rate)
        phases = (Phase(warm, arguments.rate), Phase(5.0, arguments.rate))
        asyncio.run(measure(Shape(count), phases, LAST_INTERVAL_SECONDS=RARELY))
    count = UNDERLYINGS[-1]
    size = 994.0 * count
    for interval in (RARELY, "1"):
        print(f"every instrument once a second, a last value of each every {interval} s")
        phases = (Phase(WARM_SECONDS, size / 3), Phase(arguments.seconds, size))
        asyncio.run(measure(Shape(count), phases, LAST_INTERVAL_SECONDS=interval))


if __name__ == "__main__":
    main()
