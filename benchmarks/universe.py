"""A hundred thousand contracts, each ticking once a second, on one greeks worker.

The worker is a real process on a real NATS server; another process feeds it frames of 300 full
packets, whole chains one after the other, all prices moving. First the cost of a tick is measured
with about 1 000, 10 000 and 100 000 instruments at the same rate, each on a worker of its own: the
claim is that it stays flat. Then every instrument of the largest universe ticks once a second.

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


class Sample(NamedTuple):
    """What a worker had done and used at a moment."""

    at: float
    use: Usage
    ticks: float
    conflated: float


class Cost(NamedTuple):
    """One measured phase."""

    micros_per_tick: float
    cpu_share: float
    ticks_per_second: float
    conflated_per_second: float
    rss_mib: float


def sample(stage: Rig) -> Sample:
    """Look at the worker."""
    worker = stage.worker
    return Sample(time.perf_counter(), usage(worker.pid), worker.ticks(), worker.conflated())


def cost(before: Sample, after: Sample) -> Cost:
    """What lies between two moments."""
    seconds = after.at - before.at
    cpu = after.use.cpu_seconds - before.use.cpu_seconds
    ticks = after.ticks - before.ticks
    return Cost(
        cpu / ticks * 1e6,
        cpu / seconds,
        ticks / seconds,
        (after.conflated - before.conflated) / seconds,
        after.use.rss_mib,
    )


async def measure(shape: Shape, phases: tuple[Phase, ...]) -> None:
    """Feed one universe and print a line per phase after the first, which warms up."""
    async with rig(shape) as stage:
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
                    f"{stage.instruments:8,} {offered:10,.0f} {spent.ticks_per_second:10,.0f} "
                    f"{spent.micros_per_tick:9.2f} {spent.cpu_share:7.0%} {spent.rss_mib:6.0f} MiB "
                    f"{spent.conflated_per_second:11,.0f} {stage.worker.lag_frames():5.0f} "
                    f"{quantile(ages, 0.5):8.1f} {quantile(ages, 0.99):8.1f}",
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
    print(
        f"{'known':>8} {'offered/s':>10} {'ticks/s':>10} {'us/tick':>9} {'CPU':>7} {'RSS':>10} "
        f"{'conflated/s':>11} {'lag':>5} {'p50 ms':>8} {'p99 ms':>8}"
    )
    for count in UNDERLYINGS:
        shape = Shape(count)
        size = 1000.0 * count
        phases = [
            Phase(max(WARM_SECONDS, 2 * size / arguments.rate), arguments.rate),
            Phase(6.0, arguments.rate),
        ]
        if count == UNDERLYINGS[-1]:
            phases.append(Phase(arguments.seconds, size))
        asyncio.run(measure(shape, tuple(phases)))


if __name__ == "__main__":
    main()
