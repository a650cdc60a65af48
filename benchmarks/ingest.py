"""Processor time and memory of ingest at 9000 instruments, each ticking once a second.

A real ingest process holds three connections of 3000 instruments in full mode to a real simulator
and publishes to a real NATS server. The baseline is a process that reads the same instruments from
the same simulator in the same run, by the same WebSocket client, and does nothing with a frame but
parse it as the stock KiteTicker does: no splitting, no publishing. Both are read from /proc over
the same seconds.

    python -m benchmarks.ingest [--seconds 30] [--rounds 3]
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import websockets.asyncio.client as ws_client

from libs.common.bus.connection import Bus
from libs.common.bus.provision import ensure
from libs.common.contracts import streams
from libs.common.contracts.messages import StreamMode
from libs.common.domain.instruments import parse_dump
from libs.common.settings import NatsSettings
from services.ingest.domain import subscriptions
from tests.fakes.ingest import ControlPart, IngestProcess
from tests.fakes.nats_server import NatsServer
from tests.fakes.simulator import SimulatorProcess, until

ACCOUNT = "bench"
CONNECTIONS = 3
TOKENS = 3000
_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Usage(NamedTuple):
    """What a process has used so far."""

    cpu_seconds: float
    rss_mib: float


def usage(pid: int) -> Usage:
    """Read a process's use from /proc."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return Usage(
        (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND, pages * _PAGE_BYTES / 2**20
    )


async def baseline(url: str, tokens: list[int]) -> None:
    """Parse everything by the stock parser, until killed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kiteconnect import KiteTicker  # noqa: PLC0415  # Only the baseline needs it.
    parse = KiteTicker("key", "token")._parse_binary

    async def read(own: list[int]) -> None:
        async with ws_client.connect(
            url, compression=None, ping_interval=None, max_size=2**22
        ) as socket:
            for command in subscriptions.commands({}, dict.fromkeys(own, StreamMode.FULL)):
                await socket.send(command)
            async for payload in socket:
                if isinstance(payload, bytes) and len(payload) > 4:
                    parse(payload)

    async with asyncio.TaskGroup() as group:
        for number in range(CONNECTIONS):
            group.create_task(read(tokens[number * TOKENS : (number + 1) * TOKENS]))


def launch_baseline(url: str, tokens: list[int], folder: Path) -> "subprocess.Popen[bytes]":
    """Start this file as the baseline."""
    file = folder / "tokens"
    file.write_text("\n".join(map(str, tokens)))
    return subprocess.Popen(
        [sys.executable, "-m", "benchmarks.ingest", "--baseline", url, str(file)]
    )


async def all_open(control: ControlPart, number: int) -> None:
    """Wait for all connections of one of the simulator's accounts."""
    await until(
        lambda: control.open_sockets(number) == CONNECTIONS, "all connections are open", 120
    )


async def measure(folder: Path, seconds: float, rounds: int) -> None:
    """Run all processes and print a line per round."""
    simulator = SimulatorProcess(
        folder,
        SIM_UNIVERSE="full",
        SIM_STRIKES_PER_SIDE="25",
        SIM_TICK_INTERVAL_SECONDS="1",
        SIM_TICK_PROBABILITY="4",
        SIM_HEARTBEAT_SECONDS="2",
    )
    nats = NatsServer(folder / "nats")
    process = IngestProcess(folder, "ingest-bench", nats, SHARDS="16")
    other: subprocess.Popen[bytes] | None = None
    try:
        nats.start()
        await asyncio.to_thread(simulator.start)
        async with await simulator.client() as client:
            dump = parse_dump((await client.get("/instruments", timeout=60)).content)
        # Those that can have a full packet, in the order of the dump: whole chains together.
        tokens = [item.instrument_token for item in dump.instruments][: CONNECTIONS * TOKENS]
        assert len(tokens) == CONNECTIONS * TOKENS
        settings = NatsSettings(nats_url=nats.url)
        async with Bus.open(settings, name="bench") as bus:
            await ensure(bus, streams.STREAMS, streams.BUCKETS)
            control = ControlPart(bus, simulator)
            await control.session(ACCOUNT)
            await control.plan(
                ACCOUNT,
                [tokens[number * TOKENS : (number + 1) * TOKENS] for number in range(CONNECTIONS)],
            )
            process.start()
            url = simulator.stream_url(2, await simulator.token(2))
            other = launch_baseline(url, tokens, folder)
            for number in (1, 2):
                await all_open(control, number)
            await asyncio.sleep(10)  # Let snapshots pass and memory settle.
            print(f"{len(tokens)} instruments over {CONNECTIONS} connections, each once a second")
            print(f"{'':10} {'CPU':>7} {'RSS':>9} {'stock CPU':>10} {'stock RSS':>10} {'ratio':>6}")
            for number in range(rounds):
                started = time.monotonic()
                before = usage(process.pid), usage(other.pid)
                packets = await asyncio.to_thread(process.metric, "tickfleet_ingest_packets_total")
                await asyncio.sleep(seconds)
                after = usage(process.pid), usage(other.pid)
                elapsed = time.monotonic() - started
                published = (
                    await asyncio.to_thread(process.metric, "tickfleet_ingest_packets_total")
                    - packets
                )
                ours, theirs = (
                    (late.cpu_seconds - early.cpu_seconds) / elapsed
                    for early, late in zip(before, after, strict=True)
                )
                print(
                    f"round {number + 1:<4} {ours:7.1%} {after[0].rss_mib:5.0f} MiB "
                    f"{theirs:10.1%} {after[1].rss_mib:6.0f} MiB {theirs / ours:5.1f}x   "
                    f"{published / elapsed:,.0f} packets/s"
                )
            dropped = await asyncio.to_thread(
                process.metric, "tickfleet_ingest_dropped_frames_total"
            )
            print(f"dropped: {dropped:.0f}")
    finally:
        if other is not None:
            other.kill()
            other.wait()
        process.kill()
        nats.kill()
        simulator.kill()


def main() -> None:
    """Measure, or be the baseline."""
    parser = argparse.ArgumentParser(description="processor time and memory of ingest")
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--baseline", nargs=2, metavar=("URL", "FILE"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.baseline is not None:
        url, file = arguments.baseline
        asyncio.run(baseline(url, [int(line) for line in Path(file).read_text().split()]))
        return
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), arguments.seconds, arguments.rounds))


if __name__ == "__main__":
    main()
