"""What a greeks worker adds to a tick's way, at a paced 20 000 ticks/s of which 80 % are options.

A real worker process reads frames of 300 full packets from a real NATS server; another process
feeds them at an even pace, each frame twice: for the worker, and for an echo. The echo is the
baseline: a process that reads the same stream by the same cursor and publishes every frame as it
came. Added is, frame by frame, the time from publish to the arrival of the frame's last tick here
less the time of its echo; asked is a 99th percentile of 5 ms.

From inside comes the worker's own histogram of batches, fetch to last publish, as upper bounds.

    python -m benchmarks.worker_latency [--rate 20000] [--packets 300] [--last-interval 1]
"""

import argparse
import asyncio
import re
import subprocess
import sys
import time
from typing import Final

import httpx

from benchmarks._worker_rig import (
    ECHO_SHARD,
    REPRICED,
    Feeder,
    Load,
    Phase,
    Shape,
    Worker,
    quantile,
    quiet,
    rig,
)
from libs.common.bus.connection import Bus, BusMessage
from libs.common.bus.cursor import OrderedCursor, StartPosition, StreamMessage
from libs.common.contracts import codec, streams, subjects
from libs.common.settings import NatsSettings

UNDERLYINGS: Final = 15
ASKED_MS: Final = 5.0
ECHOED: Final = "bench.echo"
WARM_SECONDS: Final = 3.0
_TIMES: Final = re.compile(rb'"ingest_ts":(\d+),"greeks_ts":(\d+)')
_BUCKET: Final = re.compile(r'tickfleet_greeks_batch_seconds_bucket\{le="([^"]+)"\} (\S+)')


async def echo(url: str) -> None:
    """Publish every frame of the echo's shard as it came, until killed."""
    async with Bus.open(NatsSettings(nats_url=url), name="echo") as bus:

        async def on_batch(messages: list[StreamMessage]) -> None:
            for message in messages:
                await bus.publish(ECHOED, message.payload, message.headers)

        cursor = OrderedCursor(
            bus,
            streams.MD_FRAMES.name,
            [subjects.frames_of_shard(ECHO_SHARD)],
            StartPosition.all(),
            on_batch,
        )
        await cursor.run(asyncio.Event())


def launch_echo(url: str) -> "subprocess.Popen[bytes]":
    """Start this file as the echo."""
    return subprocess.Popen([sys.executable, "-m", "benchmarks.worker_latency", "--echo", url])


def batches(worker: Worker) -> dict[float, float]:
    """How many batches took at most so many seconds, so far."""
    text = httpx.get(f"http://127.0.0.1:{worker.health_port}/metrics", timeout=5).text
    return {float(bound): float(count) for bound, count in _BUCKET.findall(text)}


def bound_of(counts: dict[float, float], share: float) -> float:
    """The bucket that holds this share of the batches, in milliseconds."""
    whole = max(counts.values())
    return min(bound for bound, count in counts.items() if count >= share * whole) * 1e3


async def measure(arguments: argparse.Namespace) -> None:
    """Feed, listen, and print."""
    shape = Shape(UNDERLYINGS, is_mixed=True)
    phases = (Phase(WARM_SECONDS, arguments.rate), Phase(arguments.seconds, arguments.rate))
    ticks: list[tuple[int, bytes]] = []
    echoes: list[tuple[int, int]] = []

    def on_ticks(message: BusMessage) -> None:
        # A message that prices options anew carries the times of their old packets.
        if REPRICED not in message.payload:
            ticks.append((time.time_ns(), message.payload))

    def on_echo(message: BusMessage) -> None:
        assert message.headers is not None
        echoes.append((time.time_ns(), int(message.headers[codec.HEADER_RECEIVED_AT])))

    async with rig(shape, LAST_INTERVAL_SECONDS=str(arguments.last_interval)) as stage:
        other = launch_echo(stage.server.url)
        load = Load(stage.server.url, shape, phases, echo=True, packets=arguments.packets)
        feeder = Feeder(load)
        try:
            await stage.bus.subscribe(subjects.ALL_TICKS, on_ticks)
            await stage.bus.subscribe(ECHOED, on_echo)
            await feeder.ready()
            warm: dict[float, float] = {}

            def note(number: int, _fed: object) -> None:
                if not number:
                    warm.update(batches(stage.worker))
                    ticks.clear()
                    echoes.clear()

            await feeder.run(note)
            await asyncio.sleep(0.5)
            after = batches(stage.worker)
            print_figures(
                ticks, echoes, {bound: count - warm[bound] for bound, count in after.items()},
                arguments.seconds,
            )  # fmt: skip
        finally:
            feeder.kill()
            other.kill()
            other.wait()


def print_figures(
    ticks: list[tuple[int, bytes]],
    echoes: list[tuple[int, int]],
    counts: dict[float, float],
    seconds: float,
) -> None:
    """Match every frame's last tick with its echo, and print what lies between."""
    last_tick: dict[int, int] = {}
    priced_at: dict[int, int] = {}
    lines = 0
    for arrived, payload in ticks:
        lines += payload.count(b"\n")
        for stamp, priced in set(_TIMES.findall(payload)):
            last_tick[int(stamp)] = arrived
            priced_at[int(stamp)] = int(priced)
    # A frame for the worker is published just before its echo: the next stamp is its own.
    published = sorted(last_tick)
    stamps = sorted(echo for _, echo in echoes)
    arrived_at = {stamp: arrived for arrived, stamp in echoes}
    through, echoed, added = [], [], []
    place = 0
    for stamp in published:
        while place < len(stamps) and stamps[place] < stamp:
            place += 1
        if place == len(stamps):
            break
        whole = (last_tick[stamp] - stamp) / 1e6
        back = (arrived_at[stamps[place]] - stamps[place]) / 1e6
        through.append(whole)
        echoed.append(back)
        added.append(whole - back)
    print(f"{lines / seconds:,.0f} ticks/s arrived, of {len(added):,} frames")
    print(f"{'milliseconds':32} {'p50':>7} {'p99':>7} {'p99.9':>7}")
    for name, values in (
        ("publish -> priced in the worker", [(priced_at[s] - s) / 1e6 for s in published]),
        ("publish -> last tick of frame", through),
        ("publish -> echo (baseline)", echoed),
        ("added by the worker", added),
    ):
        cells = " ".join(f"{quantile(values, share):7.2f}" for share in (0.5, 0.99, 0.999))
        print(f"{name:32} {cells}")
    inside = " ".join(f"{bound_of(counts, share):7.1f}" for share in (0.5, 0.99, 0.999))
    print(f"{'batch in the worker, at most':32} {inside}")
    p99 = quantile(added, 0.99)
    print(f"asked: p99 <= {ASKED_MS:g} ms added: {p99 <= ASKED_MS} ({p99 / ASKED_MS:.2f} of it)")


def main() -> None:
    """Measure, or be the echo."""
    parser = argparse.ArgumentParser(description="latency that one greeks worker adds")
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--rate", type=float, default=20_000, help="ticks/s")
    parser.add_argument("--packets", type=int, default=300, help="per frame")
    parser.add_argument("--last-interval", type=float, default=1, help="seconds per last value")
    parser.add_argument("--echo", metavar="URL", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    quiet()
    asyncio.run(echo(arguments.echo) if arguments.echo else measure(arguments))


if __name__ == "__main__":
    main()
