"""A greeks worker under a load: the process, what feeds it from another process, and who watches.

Used by `worker_latency`, `universe` and `burst`; no benchmark of its own (its name begins with an
underscore so that `make bench` passes it by). Run as a program it is the feeder: it builds the
frames, says `ready`, waits for a line, and publishes the phases it was told at their pace.
"""

import asyncio
import contextlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import date
from pathlib import Path
from typing import Final, NamedTuple

import httpx
import msgspec
import numpy as np
import numpy.typing as npt
import structlog

from libs.common.bus.connection import Bus, BusMessage
from libs.common.bus.kv import Bucket
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.domain.instruments import Kind
from libs.common.kite.frames import frame_of, slices
from libs.common.settings import NatsSettings
from services.greeks.domain.pricing import price
from tests.fakes.kite_frames import NOON, FakeMarket
from tests.fakes.nats_server import NatsServer
from tests.fakes.service_process import ServiceProcess
from tests.fakes.simulator import until

PACKETS: Final = 300
SHARDS: Final = 1
"""So that one worker owns everything."""
ECHO_SHARD: Final = 1
"""A shard beyond those of the worker: its frames go into the same stream, and to nobody."""
_DAYS: Final = (date(2026, 11, 24), date(2026, 12, 29), date(2027, 1, 25))
_STRIKES_EACH_SIDE: Final = 82
_STEP_SECONDS: Final = 0.002
REPRICED: Final = b'"repriced":true'
"""Stands in all lines of a message, or in none."""
_INGEST_TS: Final = re.compile(rb'"ingest_ts":(\d+)')
_FULL_BYTES: Final = 184
# Where words of a full packet stand: last price, best bid and best ask; and its time.
_FULL_PRICES: Final = np.array([4, 68, 128])
_FULL_TIME: Final = 60
_INDEX_TIME: Final = 28

Words = npt.NDArray[np.int64]


class Shape(msgspec.Struct, frozen=True):
    """Which instruments tick.

    Attributes:
        underlyings: How many, each with an index, three futures and options of three expiries.
        is_mixed: Whether a frame holds packets of all underlyings, four fifths of them options; or
            one chain after the other, every instrument once before any comes again.
        strikes_each_side: Of the chains.
    """

    underlyings: int
    is_mixed: bool = False
    strikes_each_side: int = _STRIKES_EACH_SIDE

    def markets(self) -> list[FakeMarket]:
        """The underlyings; the same in every process."""
        return [
            FakeMarket(
                underlying=f"STOCK{number}",
                spot=1000.0 + 8.0 * number,
                step=2.0 + number // 25,
                strikes_each_side=self.strikes_each_side,
                expiries=_DAYS,
                futures=_DAYS,
                first_token=2_000 * (number + 1),
            )
            for number in range(self.underlyings)
        ]


class Phase(msgspec.Struct, frozen=True):
    """A stretch of load: so many ticks a second for so many seconds."""

    seconds: float
    rate: float


class Load(msgspec.Struct, frozen=True):
    """What a feeder is told.

    Attributes:
        url: Of the server.
        shape: What ticks.
        phases: One after the other.
        echo: Publish every frame a second time, for `ECHO_SHARD`.
        packets: Per frame.
    """

    url: str
    shape: Shape
    phases: tuple[Phase, ...]
    echo: bool = False
    packets: int = PACKETS


class Fed(msgspec.Struct, frozen=True):
    """What a feeder says after each phase: packets published, and in how many seconds."""

    packets: int
    seconds: float


# -- the feeder ------------------------------------------------------------------------------------


class _Template:
    """A frame whose times and prices are written anew for every publish."""

    def __init__(self, frame: bytes) -> None:
        self._bytes = np.frombuffer(frame, np.uint8).copy()
        places = slices(frame)
        full = np.array([at for at, length in places if length == _FULL_BYTES])
        index = np.array([at for at, length in places if length != _FULL_BYTES], np.int64)
        self.packets = len(places)
        self._times = _bytes_at(np.concatenate((full + _FULL_TIME, index + _INDEX_TIME)))
        self._prices = _bytes_at(np.add.outer(full, _FULL_PRICES).ravel())
        self._base = self._bytes[self._prices].view(">u4").ravel().astype(np.int64)

    def at(self, now_s: int, shift: int) -> bytes:
        """The frame of this second, all prices of tradable instruments moved by so many paise."""
        moved = self._base + shift
        self._bytes[self._prices] = moved.astype(">u4").view(np.uint8).reshape(-1, 4)
        self._bytes[self._times] = np.array([now_s], ">u4").view(np.uint8)
        return self._bytes.tobytes()


def _bytes_at(places: Words) -> Words:
    """Positions of the four bytes of each word."""
    return np.add.outer(places, np.arange(4))


def _full(market: FakeMarket) -> npt.NDArray[np.void]:
    """A full packet of everything but the index, with random quantities in the books."""
    items = market.instruments[1:]
    forward = np.array([market.forward(item.expiry) for item in items if item.expiry])
    tte = np.array([market.tte(item.expiry) for item in items if item.expiry])
    is_option = np.array([item.kind is Kind.OPTION for item in items])
    strike = np.array([item.strike or 1.0 for item in items])
    flag = np.array([-1 if item.option_type == "PE" else 1 for item in items], np.int8)
    vol = 0.15 + 0.4 * (strike / forward - 1.0) ** 2
    fair = np.where(is_option, price(flag, forward, strike, tte, vol), forward)
    paise = np.maximum(np.round(fair * 20) * 5, 35).astype(np.int64)
    rng = np.random.default_rng(1)
    records = market.full(items, paise, depth_quantity=rng.integers(1, 5000, (len(items), 10)))
    # As bytes: putting arrays of records together would turn their fields to native order.
    plain: npt.NDArray[np.void] = records.view(f"V{records.dtype.itemsize}")
    return plain


def templates(load: Load) -> list[_Template]:
    """The frames that are published in turn."""
    markets = load.shape.markets()
    indices = [market.index_packet() for market in markets]
    whole = [_full(market) for market in markets]
    if not load.shape.is_mixed:
        packets = np.concatenate(whole)
        groups = [
            [packets[first : first + load.packets]]
            for first in range(0, len(packets), load.packets)
        ]
        # The indices come with the first frame, as they would on the account that has them.
        groups[0] = [*indices, *groups[0]]
    else:
        share = load.packets // len(markets) - 4
        groups = []
        for number in range(len(whole[0]) // share):
            turn = slice(3 + number * share, 3 + (number + 1) * share)
            groups.append(
                [
                    part
                    for index, own in zip(indices, whole, strict=True)
                    for part in (index, own[:3], own[turn])
                ]
            )
    return [_Template(frame_of(*group)) for group in groups]


async def feed(load: Load) -> None:
    """Publish the phases of a load once told to; says what was published after each."""
    frames = templates(load)
    async with Bus.open(NatsSettings(nats_url=load.url), name="feeder") as bus:
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.readline)
        number = 0
        for phase in load.phases:
            began = time.perf_counter()
            sent = 0
            while (elapsed := time.perf_counter() - began) < phase.seconds:
                # No more than what is due, and not all of it at once after a pause.
                while sent < phase.rate * elapsed:
                    template = frames[number % len(frames)]
                    turn = number // len(frames)
                    payload = template.at(NOON + int(time.time()) % 10_000, 5 * (turn % 4))
                    await _publish(bus, payload, echo=load.echo)
                    sent += template.packets
                    number += 1
                    if time.perf_counter() - began > phase.seconds:
                        break
                await asyncio.sleep(_STEP_SECONDS)
            await bus.client.flush()
            fed = Fed(sent, time.perf_counter() - began)
            print(msgspec.json.encode(fed).decode(), flush=True)


async def _publish(bus: Bus, payload: bytes, *, echo: bool) -> None:
    for shard in (0, ECHO_SHARD)[: 1 + echo]:
        headers = {codec.HEADER_RECEIVED_AT: str(time.time_ns()), codec.HEADER_SOURCE: "sim"}
        await bus.publish(subjects.frame(shard, "A1"), payload, headers)


class Feeder:
    """The feeder's process, seen from the benchmark's."""

    def __init__(self, load: Load) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._worker_rig", msgspec.json.encode(load).decode()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._phases = len(load.phases)

    async def ready(self) -> None:
        """Wait until the frames are built."""
        assert await self._line() == "ready"

    async def run(
        self, on_phase: Callable[[int, Fed], object] = lambda _number, _fed: None
    ) -> None:
        """Publish everything; `on_phase` is called after each phase."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        for number in range(self._phases):
            on_phase(number, msgspec.json.decode(await self._line(), type=Fed))

    async def _line(self) -> str:
        assert self._process.stdout is not None
        line = await asyncio.to_thread(self._process.stdout.readline)
        if not line:
            raise RuntimeError("the feeder has died")
        return line.strip()

    def kill(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()


# -- who watches -----------------------------------------------------------------------------------


class Seen(NamedTuple):
    """Ages of one underlying's ticks when this process had them, in order of arrival."""

    at: list[float]
    """Seconds of `time.perf_counter`."""
    age_seconds: list[float]


async def watch(bus: Bus, underlying: str) -> Seen:
    """Note the age of the first tick of every message of one underlying from now on."""
    seen = Seen([], [])

    def note(message: BusMessage) -> None:
        if REPRICED in message.payload:
            return  # These carry the times of old packets.
        found = _INGEST_TS.search(message.payload)
        assert found is not None
        seen.at.append(time.perf_counter())
        seen.age_seconds.append((time.time_ns() - int(found.group(1))) / 1e9)

    await bus.subscribe(subjects.tick(underlying), note)
    return seen


class Worker(ServiceProcess):
    """A real greeks process that owns the only shard."""

    def __init__(self, folder: Path, url: str, **settings: str) -> None:
        super().__init__(folder, "greeks", "bench", NATS_URL=url, SHARDS=str(SHARDS), **settings)

    async def ready(self, instruments: int) -> None:
        """Wait until it knows so many instruments and reads."""

        async def knows() -> bool:
            try:
                known = await asyncio.to_thread(self.metric, "tickfleet_greeks_instruments")
            except httpx.HTTPError:
                return False
            return known >= instruments

        await until(knows, f"the worker knows {instruments} instruments", 120)

    def ticks(self) -> float:
        """Ticks published so far."""
        return self.metric("tickfleet_greeks_ticks_total")

    def conflated(self) -> float:
        """Packets left out for newer ones so far."""
        return self.metric("tickfleet_greeks_conflated_total")

    def lag_frames(self) -> float:
        """Frames that wait in the stream, as last reported."""
        return self.metric("tickfleet_greeks_lag_frames")


class Rig(NamedTuple):
    """A server with everything provided, a worker that knows its instruments, a connection."""

    server: NatsServer
    worker: Worker
    bus: Bus
    instruments: int


@contextlib.asynccontextmanager
async def rig(shape: Shape, **settings: str) -> AsyncIterator[Rig]:
    """Start a server and a worker for the instruments of a shape."""
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        server = NatsServer(folder / "nats")
        server.start()
        worker = Worker(folder, server.url, **settings)
        try:
            async with Bus.open(NatsSettings(nats_url=server.url), name="bench") as bus:
                await ensure(bus, streams.STREAMS, streams.BUCKETS)
                bucket = Bucket(bus, streams.INSTRUMENTS.name)
                instruments = 0
                for market in shape.markets():
                    instruments += len(market.instruments)
                    await bucket.put(
                        subjects.escape(market.underlying),
                        codec.to_msgpack(market.instrument_set()),
                    )
                worker.launch()
                await worker.ready(instruments)
                yield Rig(server, worker, bus, instruments)
        finally:
            worker.kill()
            server.kill()


def quantile(values: Sequence[float], share: float) -> float:
    """A quantile; NaN of nothing."""
    return float(np.quantile(values, share)) if len(values) else float("nan")


def quiet() -> None:
    """Log errors alone: what a benchmark prints is its figures."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))


def main() -> None:
    """Be the feeder."""
    quiet()
    asyncio.run(feed(msgspec.convert(json.loads(sys.argv[1]), Load)))


if __name__ == "__main__":
    main()
