"""The greeks service on a real NATS server: frames go in, ticks with Greeks come out."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import date
from inspect import isawaitable
from itertools import pairwise
from typing import Any

import msgspec
import nats.js.errors
import pytest
import vollib.black.greeks.analytical as black_greeks
from vollib.black.implied_volatility import implied_volatility

from libs.common.bus.connection import Bus, BusMessage
from libs.common.bus.kv import Bucket
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import Bar, Checkpoint, Forward, GreeksStatus, Tick
from libs.common.kite.frames import frame_of
from libs.common.lifecycle import Lifecycle
from services.greeks import app
from services.greeks.settings import GreeksSettings
from tests.fakes.kite_frames import FakeMarket
from tests.fakes.nats_server import NatsServer, free_port

pytestmark = pytest.mark.integration

SHARDS = 4
DEADLINE_SECONDS = 20.0


async def eventually(
    condition: Callable[[], object | Awaitable[object]], *, seconds: float = DEADLINE_SECONDS
) -> object:
    """Poll a condition, sync or async, until it gives something true; give that."""
    async with asyncio.timeout(seconds):
        while True:
            answer = condition()
            if isawaitable(answer):
                answer = await answer
            if answer:
                return answer
            await asyncio.sleep(0.01)


class Listener:
    """Everything the service publishes, decoded."""

    def __init__(self) -> None:
        self.ticks: list[Tick] = []
        self.forwards: list[Forward] = []
        self.bars: list[Bar] = []
        self.lines: list[bytes] = []
        self.sizes: list[int] = []

    def take(self, message: BusMessage) -> None:
        """Decode one message; a line that is no Tick fails the test."""
        if message.subject.startswith(subjects.FORWARD_PREFIX):
            self.forwards.append(codec.from_json(Forward, message.payload))
            return
        if message.subject.startswith(subjects.BAR_PREFIX):
            bar = codec.from_json(Bar, message.payload)
            assert message.subject == subjects.bar(bar.underlying)
            self.bars.append(bar)
            return
        self.sizes.append(len(message.payload))
        for line in message.payload.splitlines():
            self.lines.append(line)
            self.ticks.append(codec.from_json(Tick, line))


@asynccontextmanager
async def listening(bus: Bus) -> AsyncIterator[Listener]:
    listener = Listener()
    ticks = await bus.subscribe(subjects.ALL_TICKS, listener.take)
    forwards = await bus.subscribe(subjects.ALL_FORWARDS, listener.take)
    bars = await bus.subscribe(subjects.ALL_BARS, listener.take)
    yield listener
    await ticks.unsubscribe()
    await forwards.unsubscribe()
    await bars.unsubscribe()


class Feeder:
    """Plays ingest: publishes the frames of one market with their headers."""

    def __init__(self, bus: Bus, market: FakeMarket, *, source: str = "sim") -> None:
        self.bus = bus
        self.market = market
        self.source = source
        self.sent = 0

    async def provide(self, revision: int = 1) -> None:
        """Write the market's instruments into the bucket."""
        await Bucket(self.bus, streams.INSTRUMENTS.name).put(
            subjects.escape(self.market.underlying),
            codec.to_msgpack(self.market.instrument_set(revision)),
        )

    async def send(self, frame: bytes, headers: dict[str, str] | None = None) -> None:
        """Publish one frame."""
        shard = subjects.shard_of(self.market.underlying, SHARDS)
        await self.bus.publish(
            subjects.frame(shard, "A1"),
            frame,
            {
                codec.HEADER_RECEIVED_AT: str(time.time_ns()),
                codec.HEADER_SOURCE: self.source,
            }
            if headers is None
            else headers,
        )
        self.sent += 1

    async def run(self, stop: asyncio.Event, *, interval_seconds: float = 0.02) -> None:
        """Send a frame whose volume counts up, so that order and loss can be seen."""
        items = [*self.market.instruments[1:2], *self.market.options[:10]]
        while not stop.is_set():
            await self.send(frame_of(self.market.full(items, volume=self.sent)))
            await asyncio.sleep(interval_seconds)


@asynccontextmanager
async def feeding(feeder: Feeder) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(feeder.run(stop))
    yield
    stop.set()
    await task


def settings_of(server: NatsServer, worker: str = "g1", **changes) -> GreeksSettings:
    return GreeksSettings(
        nats_url=server.url,
        shards=SHARDS,
        worker_id=worker,
        health_port=free_port(),
        **{"last_interval_seconds": 0.2, **changes},
    )


@asynccontextmanager
async def running(settings: GreeksSettings) -> AsyncIterator[Lifecycle]:
    """The whole service in this process; its failure fails the test."""
    life = Lifecycle()
    task = asyncio.create_task(app.serve(settings, life))
    try:
        yield life
    finally:
        life.request_stop("test ends")
        await task
    assert life.failure is None


class Process:
    """The service as a process of its own."""

    def __init__(self, server: NatsServer, worker: str, **variables: str) -> None:
        self.worker = worker
        self._process = subprocess.Popen(
            [sys.executable, "-m", "services.greeks"],
            env={
                **os.environ,
                "NATS_URL": server.url,
                "SHARDS": str(SHARDS),
                "WORKER_ID": worker,
                "HEALTH_PORT": str(free_port()),
                "LOG_LEVEL": "warning",
                **variables,
            },
        )

    def end(self, number: int = signal.SIGTERM) -> int:
        """Signal it and wait; gives the exit status."""
        if self._process.poll() is None:
            self._process.send_signal(number)
        return self._process.wait(15)


async def ready(listener: Listener, feeder: Feeder, *, seconds: float = DEADLINE_SECONDS) -> None:
    """Send one index packet again and again until the service answers."""

    async def answered() -> bool:
        await feeder.send(feeder.market.frame([feeder.market.index]))
        await asyncio.sleep(0.05)
        return bool(listener.ticks)

    await eventually(answered, seconds=seconds)


async def test_ticks_equal_an_independent_recomputation_with_vollib(nats_server, bus):
    market = FakeMarket(strikes_each_side=10)
    feeder = Feeder(bus, market)
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await feeder.provide()
    async with listening(bus) as listener, running(settings_of(nats_server)):
        await ready(listener, feeder)
        await feeder.send(market.frame())
        await eventually(lambda: len({t.instrument_token for t in listener.ticks}) == 84 + 2)
        await eventually(lambda: {f.expiry for f in listener.forwards} == set(market.expiries))
    solved = [t for t in listener.ticks if t.iv is not None and t.iv_status == "ok"]
    assert len(solved) > 60
    for tick in solved:
        flag = "c" if tick.option_type == "CE" else "p"
        vol = implied_volatility(tick.last_price, tick.forward, tick.strike, 0.0, tick.tte, flag)
        assert tick.iv == pytest.approx(vol, abs=1e-6)
        for name in ("delta", "gamma", "theta", "vega", "rho"):
            expected = getattr(black_greeks, name)(
                flag, tick.forward, tick.strike, tick.tte, 0.0, vol
            )
            assert getattr(tick, name) == pytest.approx(expected, abs=1e-6), name
        assert tick.iv is not None
        assert tick.bid_iv is None or tick.bid_iv <= tick.iv
    near, far = (
        {t.forward_source for t in solved if t.expiry == day} for day in sorted(market.expiries)
    )
    assert near == {"future"}
    assert far == {"synthetic"}
    assert {t.source for t in listener.ticks} == {"sim"}
    assert all(size <= 512 * 1024 for size in listener.sizes)


async def test_forwards_tell_source_and_money(nats_server, bus):
    market = FakeMarket(strikes_each_side=5)
    feeder = Feeder(bus, market)
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await feeder.provide()
    async with listening(bus) as listener, running(settings_of(nats_server)):
        await ready(listener, feeder)
        await feeder.send(market.frame())
        await eventually(lambda: any(f.source == "future" for f in listener.forwards))
        await eventually(lambda: any(f.source == "synthetic" for f in listener.forwards))
    synthetic = next(f for f in listener.forwards if f.source == "synthetic")
    assert synthetic.forward == pytest.approx(market.forward(date(2026, 12, 1)), abs=0.2)
    assert synthetic.spot == 24_500.0
    assert synthetic.atm_strike == 24_550.0
    assert synthetic.atm_iv == pytest.approx(0.15, abs=0.005)


async def test_bad_frames_and_strangers_disturb_nobody(nats_server, bus):
    market = FakeMarket(strikes_each_side=3)
    stranger = FakeMarket(underlying="STRANGER", first_token=70_000, strikes_each_side=1)
    feeder = Feeder(bus, market)
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await feeder.provide()
    async with listening(bus) as listener, running(settings_of(nats_server)):
        await ready(listener, feeder)
        await feeder.send(b"\x00\x07garbage")
        await feeder.send(b"")
        await feeder.send(market.frame()[:-3])
        await feeder.send(stranger.frame())
        await feeder.send(market.frame(), headers={})
        await feeder.send(market.frame())
        tokens = {item.instrument_token for item in market.instruments}
        await eventually(lambda: {t.instrument_token for t in listener.ticks} == tokens)
    # The frame without a source was left out: nobody knows whether it was live.
    assert (
        sum(t.instrument_token == market.options[0].instrument_token for t in listener.ticks) == 1
    )


async def test_a_new_dump_is_used_without_a_restart_and_slots_are_kept(nats_server, bus):
    market = FakeMarket(strikes_each_side=2)
    feeder = Feeder(bus, market)
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await feeder.provide()
    async with listening(bus) as listener, running(settings_of(nats_server)):
        await ready(listener, feeder)
        await feeder.send(market.frame())
        await eventually(lambda: len({t.instrument_token for t in listener.ticks}) == 22)
        wider = FakeMarket(
            strikes_each_side=2,
            expiries=(*market.expiries, date(2026, 12, 8)),
        )
        feeder.market = wider
        await feeder.provide(revision=2)
        new = {i.instrument_token for i in wider.instruments} - {
            i.instrument_token for i in market.instruments
        }

        async def sent_and_seen() -> bool:
            await feeder.send(wider.frame())
            return new <= {t.instrument_token for t in listener.ticks}

        await eventually(sent_and_seen)
    assert_ordered(listener.ticks)


def assert_ordered(ticks: list[Tick]) -> None:
    """Within an epoch the sequence of an instrument goes up by one; epochs never go back."""
    seen: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for tick in ticks:
        seen[tick.instrument_token].append((tick.epoch, tick.seq))
    for history in seen.values():
        for (epoch, seq), (next_epoch, next_seq) in pairwise(history):
            assert next_epoch >= epoch
            if next_epoch == epoch:
                assert next_seq == seq + 1


async def test_last_values_hold_the_newest_tick(nats_server, bus):
    market = FakeMarket(strikes_each_side=2)
    feeder = Feeder(bus, market)
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await feeder.provide()
    async with listening(bus) as listener, running(settings_of(nats_server)):
        await ready(listener, feeder)
        for _ in range(20):
            await feeder.send(market.frame())
        await eventually(lambda: len(listener.ticks) >= 20 * 22)
        newest = {msgspec.json.decode(line)["instrument_token"]: line for line in listener.lines}

        async def all_stored() -> bool:
            for token, line in newest.items():
                try:
                    message = await bus.jetstream.get_last_msg(
                        streams.MD_LAST.name, subjects.last(market.underlying, token)
                    )
                except nats.js.errors.NotFoundError:
                    return False
                if message.data != line:
                    return False
            return True

        await eventually(all_stored)
        info = await bus.jetstream.stream_info(streams.MD_LAST.name)
    # 22 instruments, and the frames came within a few intervals: far fewer writes than ticks.
    assert info.state.last_seq < len(listener.ticks) / 2


async def test_status_and_checkpoint_are_said(nats_server, bus):
    market = FakeMarket(strikes_each_side=2)
    feeder = Feeder(bus, market)
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await feeder.provide()
    shard = subjects.shard_of(market.underlying, SHARDS)
    async with listening(bus) as listener, running(settings_of(nats_server)):
        await ready(listener, feeder)
        status = Bucket(bus, streams.STATUS.name)
        entry: Any = await eventually(lambda: status.get("greeks-g1"))
        said = codec.from_json(GreeksStatus, entry.value)
        assert said.shards == tuple(range(SHARDS))
        assert said.instruments == 22
        assert said.ticks_total >= 1
        checkpoints = Bucket(bus, streams.CHECKPOINTS.name)
        entry = await eventually(lambda: checkpoints.get(str(shard)))
        assert codec.from_json(Checkpoint, entry.value).sequence >= 1


async def test_a_drained_worker_hands_over_within_a_moment_and_in_order(nats_server, bus):
    market = FakeMarket(strikes_each_side=4)
    feeder = Feeder(bus, market)
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await feeder.provide()
    async with listening(bus) as listener:
        async with running(settings_of(nats_server, "g2", checkpoint_interval_seconds=0.2)):
            async with running(settings_of(nats_server, "g1", checkpoint_interval_seconds=0.2)):
                await ready(listener, feeder)
                async with feeding(feeder):
                    await eventually(lambda: len(listener.ticks) > 200)
            epochs = {t.epoch for t in listener.ticks[-20:]}
            before = len(listener.ticks)
            async with feeding(feeder):
                await eventually(lambda: len(listener.ticks) > before + 200)
        before = len(listener.ticks)
        async with running(settings_of(nats_server, "g3")), feeding(feeder):
            await eventually(lambda: len(listener.ticks) > before + 200)
    assert {t.epoch for t in listener.ticks[-20:]} != epochs
    assert_ordered(listener.ticks)
    assert_nothing_lost(listener.ticks, feeder)


def assert_nothing_lost(ticks: list[Tick], feeder: Feeder) -> None:
    """Every frame's number was seen, in order, for an instrument that is in every frame."""
    token = feeder.market.options[0].instrument_token
    numbers = [t.volume or 0 for t in ticks if t.instrument_token == token]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == numbers[-1] - numbers[0] + 1


async def test_a_killed_worker_is_replaced_and_the_order_is_kept(nats_server, bus):
    market = FakeMarket(strikes_each_side=4)
    feeder = Feeder(bus, market)
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await feeder.provide()
    first, second = Process(nats_server, "p1"), Process(nats_server, "p2")
    try:
        async with listening(bus) as listener:
            await ready(listener, feeder, seconds=40)
            async with feeding(feeder):
                await eventually(lambda: len(listener.ticks) > 100)
                leases = Bucket(bus, streams.LEASES_SHARDS.name)
                shard = subjects.shard_of(market.underlying, SHARDS)
                entry = await leases.get(f"p.{shard}")
                assert entry is not None
                owner = msgspec.json.decode(entry.value)["member"]
                victim, heir = (first, second) if owner == "p1" else (second, first)
                await asyncio.to_thread(victim.end, signal.SIGKILL)
                epoch = listener.ticks[-1].epoch
                await eventually(lambda: listener.ticks[-1].epoch > epoch)
                count = len(listener.ticks)
                await eventually(lambda: len(listener.ticks) > count + 100)
            assert await asyncio.to_thread(heir.end) == 0
    finally:
        first.end(signal.SIGKILL)
        second.end(signal.SIGKILL)
    epochs = [t.epoch for t in listener.ticks]
    assert epochs == sorted(epochs)
    assert_ordered(listener.ticks)


async def test_ticks_flow_again_after_nats_came_back(nats_server, bus):
    market = FakeMarket(strikes_each_side=4)
    feeder = Feeder(bus, market)
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await feeder.provide()
    async with listening(bus) as listener, running(settings_of(nats_server)):
        await ready(listener, feeder)
        async with feeding(feeder):
            await eventually(lambda: len(listener.ticks) > 100)
            await asyncio.to_thread(nats_server.restart)
            count = len(listener.ticks)
            await eventually(lambda: len(listener.ticks) > count + 200)
    newest = listener.ticks[-1]
    assert newest.volume is not None
    assert newest.volume > feeder.sent - 200


async def test_a_frozen_owner_publishes_nothing_when_it_wakes(nats_server, bus):
    market = FakeMarket(strikes_each_side=4)
    feeder = Feeder(bus, market)
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await feeder.provide()
    frozen = Process(nats_server, "p1")
    try:
        async with listening(bus) as listener:
            await ready(listener, feeder, seconds=40)
            async with feeding(feeder):
                await eventually(lambda: len(listener.ticks) > 100)
                frozen._process.send_signal(signal.SIGSTOP)
                epoch = listener.ticks[-1].epoch
                async with running(settings_of(nats_server, "g2")):
                    await eventually(lambda: listener.ticks[-1].epoch > epoch)
                    new_epoch = listener.ticks[-1].epoch
                    frozen._process.send_signal(signal.SIGCONT)
                    count = len(listener.ticks)
                    await eventually(lambda: len(listener.ticks) > count + 300)
                    late = [t for t in listener.ticks[count:] if t.epoch <= epoch]
        assert new_epoch > epoch
        assert late == []
    finally:
        frozen.end(signal.SIGKILL)


PRICES = (24_500.0, 24_520.0, 24_480.0, 24_505.0)
"""What the index costs within every second of the tape."""


class Tape:
    """A feeder of the index whose seconds all look alike, so that a partial one is told at once."""

    def __init__(self, bus: Bus, market: FakeMarket) -> None:
        self.feeder = Feeder(bus, market)
        self.second = 0
        self._position = 0

    async def play(self, packets: int) -> None:
        """Send so many packets of the index, a frame each, four to a second."""
        market = self.feeder.market
        for _ in range(packets):
            paise = round(PRICES[self._position] * 100)
            packet = market.index_packet(last_price=paise, exchange_ts_s=market.now_s + self.second)
            await self.feeder.send(frame_of(packet))
            self._position += 1
            if self._position == len(PRICES):
                self._position = 0
                self.second += 1

    def seconds(self, bars: list[Bar]) -> list[int]:
        """Which seconds of the tape these bars are."""
        return [bar.start // 1_000_000_000 - self.feeder.market.now_s for bar in bars]


def assert_whole(bars: list[Bar]) -> None:
    """Every bar, in whatever version, holds all four ticks of its second."""
    for bar in bars:
        assert (bar.open, bar.high, bar.low, bar.close) == (24_500, 24_520, 24_480, 24_505), bar
        assert (bar.ticks, bar.gap_seconds, bar.volume, bar.source) == (4, 0, None, "sim")


# Seconds end with a tick of a later one alone: the tests choose where each of them ends.
PATIENT: dict[str, Any] = {"bar_grace_seconds": 60}


async def test_bars_hold_every_tick_of_their_second_and_are_kept(nats_server, bus):
    tape = Tape(bus, FakeMarket(strikes_each_side=1))
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await tape.feeder.provide()
    # Behind from the first frame on: ticks are conflated, bars are not.
    settings = settings_of(nats_server, conflate_after_seconds=0.0, **PATIENT)
    async with listening(bus) as listener, running(settings):
        await tape.play(4 * 12 + 1)
        await eventually(lambda: 11 in tape.seconds(listener.bars))

        async def kept() -> bool:
            info = await bus.jetstream.stream_info(streams.MD_BARS.name)
            return bool(info.state.messages == len(listener.bars))

        await eventually(kept)
    # Reading began in second 0; one second more is left out for connections that are ahead.
    assert tape.seconds(listener.bars) == [*range(2, 12)]
    assert_whole(listener.bars)
    assert {bar.revision for bar in listener.bars} == {0}


async def test_a_backlog_is_conflated_over_all_its_fetches_by_the_age_that_ingest_tells(
    nats_server, bus
):
    market = FakeMarket(strikes_each_side=1)
    items = market.options[:4]
    feeder = Feeder(bus, market)
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await feeder.provide()
    # Stored just now, but received long ago, as when a flooded server stores late.
    received = str(time.time_ns() - 60_000_000_000)
    headers = {codec.HEADER_RECEIVED_AT: received, codec.HEADER_SOURCE: "sim"}
    for number in range(20):
        await feeder.send(frame_of(market.full(items, volume=1000 + number)), headers)
    await bus.client.flush()
    # One frame a fetch: within a fetch no instrument comes twice. Collected for 30 s at most.
    settings = settings_of(nats_server, batch_frames=1, conflate_after_seconds=30.0)
    async with listening(bus) as listener, running(settings):
        await eventually(lambda: {tick.volume for tick in listener.ticks} >= {1019})
    assert len(listener.ticks) == len(items)
    assert {tick.seq for tick in listener.ticks} == {1}


async def test_a_second_is_published_by_the_clock_and_again_when_a_tick_comes_late(
    nats_server, bus
):
    market = FakeMarket(strikes_each_side=1)
    tape = Tape(bus, market)
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await tape.feeder.provide()
    async with listening(bus) as listener, running(settings_of(nats_server, bar_grace_seconds=0.5)):
        await tape.play(4 * 4)
        # Whichever versions a slow machine makes before: the second is over with four ticks.
        await eventually(lambda: any(bar.ticks == 4 for bar in versions_of(listener.bars, tape, 3)))
        late = market.index_packet(last_price=2_470_000, exchange_ts_s=market.now_s + 3)
        await tape.feeder.send(frame_of(late))
        await eventually(lambda: any(bar.ticks == 5 for bar in versions_of(listener.bars, tape, 3)))
    before, again = versions_of(listener.bars, tape, 3)[-2:]
    assert again.revision == before.revision + 1
    assert (before.open, before.high, before.close) == (24_500.0, 24_520.0, 24_505.0)
    assert (again.open, again.high, again.close) == (24_500.0, 24_700.0, 24_700.0)


def versions_of(bars: list[Bar], tape: Tape, second: int) -> list[Bar]:
    """All versions of one second of the tape, oldest first."""
    return [bar for bar in bars if tape.seconds([bar]) == [second]]


async def test_a_second_that_was_open_at_a_hand_over_is_published_once_and_as_a_whole(
    nats_server, bus
):
    tape = Tape(bus, FakeMarket(strikes_each_side=1))
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await tape.feeder.provide()
    async with listening(bus) as listener:
        async with running(settings_of(nats_server, "g1", **PATIENT)):
            await tape.play(4 * 6 + 2)  # Two of the four ticks of second 6.
            await eventually(lambda: len(listener.ticks) == 4 * 6 + 2)
        await eventually(lambda: 5 in tape.seconds(listener.bars))
        assert tape.seconds(listener.bars) == [2, 3, 4, 5]
        async with running(settings_of(nats_server, "g2", **PATIENT)):
            await tape.play(4 * 4)
            await eventually(lambda: 9 in tape.seconds(listener.bars))
    assert tape.seconds(listener.bars) == [*range(2, 10)]
    assert_whole(listener.bars)
    epochs = [bar.epoch for bar in listener.bars]
    assert epochs[:4] == [epochs[0]] * 4
    assert epochs[4:] == [epochs[-1]] * 4
    assert epochs[-1] > epochs[0]


async def test_the_beginning_of_a_second_that_a_new_owner_cannot_read_is_not_made_up(
    nats_server, bus
):
    tape = Tape(bus, FakeMarket(strikes_each_side=1))
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await tape.feeder.provide()
    settings = {**PATIENT, "rebuild_seconds": 0}
    async with listening(bus) as listener:
        async with running(settings_of(nats_server, "g1", **settings)):
            await tape.play(4 * 6 + 2)
            await eventually(lambda: len(listener.ticks) == 4 * 6 + 2)
        async with running(settings_of(nats_server, "g2", **settings)):
            await tape.play(4 * 4)
            await eventually(lambda: 9 in tape.seconds(listener.bars))
    # Second 6 began under the owner before; 7 is left out because connections differ.
    assert tape.seconds(listener.bars) == [2, 3, 4, 5, 8, 9]
    assert_whole(listener.bars)


async def test_after_a_kill_bars_go_on_without_a_hole_and_repeats_say_the_same(nats_server, bus):
    tape = Tape(bus, FakeMarket(strikes_each_side=1))
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await tape.feeder.provide()
    first, second = (
        Process(nats_server, worker, BAR_GRACE_SECONDS="60") for worker in ("p1", "p2")
    )
    try:
        async with listening(bus) as listener:
            await ready(listener, tape.feeder, seconds=40)
            tape.second = 1  # The first second holds what `ready` sent.
            await tape.play(4 * 6 + 2)
            await eventually(lambda: 6 in tape.seconds(listener.bars))
            leases = Bucket(bus, streams.LEASES_SHARDS.name)
            shard = subjects.shard_of(tape.feeder.market.underlying, SHARDS)
            entry = await leases.get(f"p.{shard}")
            assert entry is not None
            owner = msgspec.json.decode(entry.value)["member"]
            victim, heir = (first, second) if owner == "p1" else (second, first)
            await asyncio.to_thread(victim.end, signal.SIGKILL)
            epoch = listener.bars[-1].epoch
            await tape.play(4 * 4)
            await eventually(lambda: 10 in tape.seconds(listener.bars))
            assert await asyncio.to_thread(heir.end) == 0
    finally:
        first.end(signal.SIGKILL)
        second.end(signal.SIGKILL)
    assert_whole(listener.bars)
    assert listener.bars[-1].epoch > epoch
    assert sorted(set(tape.seconds(listener.bars))) == [*range(2, 11)]
    for bar in listener.bars:
        assert bar.revision == 0
