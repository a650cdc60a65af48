"""Greeks workers that join, leave, die and freeze while forwards move: order, loss, and how long.

Some options tick, the others are quiet and live by re-pricing alone. Durations are printed, not
asserted: the machine decides them.
"""

import asyncio
import signal
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import date
from itertools import pairwise

import msgspec
import nats.js.errors
import pytest

from libs.common.bus.connection import Bus, BusMessage
from libs.common.bus.kv import Bucket
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import GreeksStatus, Tick
from libs.common.domain.instruments import Instrument
from libs.common.kite.frames import frame_of
from tests.fakes.kite_frames import FakeMarket
from tests.fakes.nats_server import NatsServer
from tests.integration.test_greeks_service import (
    SHARDS,
    Feeder,
    Listener,
    Process,
    eventually,
    running,
    settings_of,
)

pytestmark = pytest.mark.integration

NAMES = ("FINNIFTY", "NIFTY", "BANKEX", "BANKNIFTY")
"""One in each shard."""
START_SECONDS = 40.0
"""So long may two processes take to start on a busy machine."""
NEAR = date(2026, 12, 1)


def market_of(name: str, number: int) -> FakeMarket:
    """A small market with an index, a future and one expiry."""
    return FakeMarket(
        underlying=name,
        strikes_each_side=4,
        expiries=(NEAR,),
        futures=(NEAR,),
        first_token=50_000 + 1000 * number,
    )


class Tape:
    """Feeds a market whose forward moves with every frame, and remembers what it said."""

    def __init__(self, bus: Bus, market: FakeMarket) -> None:
        self.feeder = Feeder(bus, market)
        self.market = market
        self.shard = subjects.shard_of(market.underlying, SHARDS)
        self.traded = market.options[:6]
        self.quiet = market.options[6:]
        self.frames = 0

    async def open(self) -> None:
        """Say once what every instrument costs; the volume is the frame's number."""
        whole = frame_of(
            self.market.index_packet(), self.market.full(self.market.instruments[1:], volume=0)
        )
        await self.feeder.send(whole)

    async def move(self) -> None:
        """The future at another price, and the traded options with a volume that counts up."""
        self.frames += 1
        self.market.spot = 24_500.0 + self.frames % 40 / 2
        items = [*self.market.instruments[1:2], *self.traded]
        await self.feeder.send(frame_of(self.market.full(items, volume=self.frames)))

    async def run(self, stop: asyncio.Event) -> None:
        """Move until told to stop."""
        while not stop.is_set():
            await self.move()
            await asyncio.sleep(0.03)


class TimedListener(Listener):
    """Remembers when each tick arrived."""

    def __init__(self) -> None:
        super().__init__()
        self.arrived: list[float] = []

    def take(self, message: BusMessage) -> None:
        """Decode a message, and note the time for each of its ticks."""
        super().take(message)
        self.arrived += [time.monotonic()] * (len(self.ticks) - len(self.arrived))

    def of(self, tape: Tape) -> list[Tick]:
        """The ticks of one market, in the order of their arrival."""
        return [t for t in self.ticks if t.underlying == tape.market.underlying]

    def epoch(self, tape: Tape) -> int:
        """The epoch of a market's newest tick; 0 before the first."""
        name = tape.market.underlying
        return next((t.epoch for t in reversed(self.ticks) if t.underlying == name), 0)

    def began(self, tape: Tape, epoch: int) -> float:
        """When the first tick of a later owner than that of an epoch arrived."""
        name = tape.market.underlying
        return next(
            at
            for tick, at in zip(self.ticks, self.arrived, strict=True)
            if tick.underlying == name and tick.epoch > epoch
        )

    def newest_volumes(self, tape: Tape) -> set[int | None]:
        """What the newest ticks of a market's traded options say."""
        tokens = tokens_of(tape.traded)
        newest = {t.instrument_token: t.volume for t in self.ticks if t.instrument_token in tokens}
        return set(newest.values())

    def is_owed(self, tape: Tape) -> bool:
        """Whether the future has moved since the market's options were last priced anew."""
        ticks = [t for t in self.ticks if t.underlying == tape.market.underlying]
        forward = next((t.forward for t in reversed(ticks) if t.repriced), None)
        return next(t.last_price for t in reversed(ticks) if t.kind == "future") != forward

    def repriced_since(self, count: int, tapes: Sequence[Tape]) -> bool:
        """Whether quiet options of all these markets were priced anew after so many ticks."""
        tokens = {t.instrument_token for t in self.ticks[count:] if t.repriced}
        return all(tokens & tokens_of(tape.quiet) for tape in tapes)


@asynccontextmanager
async def hearing(bus: Bus) -> AsyncIterator[TimedListener]:
    """Everything that is said on ticks."""
    listener = TimedListener()
    subscription = await bus.subscribe(subjects.ALL_TICKS, listener.take)
    yield listener
    await subscription.unsubscribe()


@asynccontextmanager
async def feeding(tapes: Iterable[Tape]) -> AsyncIterator[None]:
    """All markets move."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for tape in tapes:
            group.create_task(tape.run(stop))
        try:
            yield
        finally:
            stop.set()


@contextmanager
def processes(server: NatsServer) -> Iterator[Callable[[str], Process]]:
    """Starts workers, and kills those that are left at the end."""
    started: list[Process] = []

    def start(worker: str) -> Process:
        # However late they are: every packet becomes a tick.
        started.append(Process(server, worker, CONFLATE_AFTER_SECONDS="1000"))
        return started[-1]

    try:
        yield start
    finally:
        for process in started:
            process.end(signal.SIGKILL)


@pytest.fixture
async def tapes(bus: Bus) -> list[Tape]:
    """A market in every shard, whose instruments are known."""
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    found = [Tape(bus, market_of(name, number)) for number, name in enumerate(NAMES)]
    assert {tape.shard for tape in found} == set(range(SHARDS))
    for tape in found:
        await tape.feeder.provide()
    return found


async def opened(listener: TimedListener, tapes: Sequence[Tape]) -> None:
    """Say what everything costs, once somebody answers in every shard."""

    async def all_answer() -> bool:
        for tape in tapes:
            if not listener.epoch(tape):
                await tape.feeder.send(frame_of(tape.market.index_packet()))
        await asyncio.sleep(0.05)
        return all(listener.epoch(tape) for tape in tapes)

    await eventually(all_answer, seconds=START_SECONDS)
    for tape in tapes:
        await tape.open()


async def owners(bus: Bus) -> dict[int, str]:
    """Who holds which shard."""
    leases = Bucket(bus, streams.LEASES_SHARDS.name)
    entries = {shard: await leases.get(f"p.{shard}") for shard in range(SHARDS)}
    return {
        shard: msgspec.json.decode(entry.value)["member"]
        for shard, entry in entries.items()
        if entry is not None
    }


async def shared(bus: Bus) -> bool:
    """Whether two workers hold all shards, each its half."""
    held = sorted((await owners(bus)).values())
    return held == ["p1", "p1", "p2", "p2"]


def tokens_of(items: Iterable[Instrument]) -> set[int]:
    """Their tokens."""
    return {item.instrument_token for item in items}


def assert_in_order(ticks: Sequence[Tick]) -> None:
    """Every instrument's (epoch, seq) grows, by one within an epoch; volumes never go back in one.

    A tick that is priced anew tells the volume of the packet before it and nothing else.
    """
    seen: dict[int, list[Tick]] = defaultdict(list)
    for tick in ticks:
        seen[tick.instrument_token].append(tick)
    for history in seen.values():
        for before, after in pairwise(history):
            assert (after.epoch, after.seq) > (before.epoch, before.seq)
            if after.epoch > before.epoch:
                continue
            assert after.seq == before.seq + 1
            if after.repriced:
                assert (after.volume, after.ingest_ts) == (before.volume, before.ingest_ts)
            elif before.volume is not None:
                assert after.volume is not None
                assert after.volume > before.volume


def volumes(ticks: Sequence[Tick], item: Instrument) -> list[int]:
    """What the packets of an instrument said, in the order of their ticks."""
    token = item.instrument_token
    return [t.volume or 0 for t in ticks if t.instrument_token == token and not t.repriced]


def assert_nothing_lost(ticks: Sequence[Tick], tape: Tape) -> None:
    """The number of every frame came for every traded option."""
    for item in tape.traded:
        missing = set(range(tape.frames + 1)) - set(volumes(ticks, item))
        assert not missing, (item.tradingsymbol, sorted(missing))


async def all_came(listener: TimedListener, tapes: Sequence[Tape]) -> None:
    """Wait until the last frame of every market was priced."""
    await eventually(lambda: all(listener.newest_volumes(t) == {t.frames} for t in tapes))


async def test_workers_join_and_leave_while_order_is_kept_and_nothing_is_lost(
    nats_server: NatsServer, bus: Bus, tapes: list[Tape]
):
    async with hearing(bus) as listener:
        with processes(nats_server) as start:
            first = start("p1")
            await opened(listener, tapes)
            async with feeding(tapes):
                await eventually(lambda: listener.repriced_since(0, tapes))
                epochs = {tape.shard: listener.epoch(tape) for tape in tapes}
                members = Bucket(bus, streams.LEASES_SHARDS.name)
                begun = time.monotonic()
                second = start("p2")
                await eventually(lambda: members.get("m.p2"), seconds=START_SECONDS)
                joined = time.monotonic()
                await eventually(lambda: shared(bus))
                print(
                    f"balanced {time.monotonic() - joined:.2f} s after the worker joined, "
                    f"{time.monotonic() - begun:.2f} s after its process began"
                )
                owner = await owners(bus)
                moved = [tape for tape in tapes if owner[tape.shard] == "p2"]
                await eventually(lambda: all(listener.epoch(t) > epochs[t.shard] for t in moved))
                for tape in moved:
                    seconds = listener.began(tape, epochs[tape.shard]) - joined
                    print(f"shard {tape.shard} served by it after {seconds:.2f} s")
                count = len(listener.ticks)
                await eventually(lambda: listener.repriced_since(count, tapes))

                # The first one leaves, and what it had moves to the second.
                epochs = {tape.shard: listener.epoch(tape) for tape in tapes}
                left = [tape for tape in tapes if owner[tape.shard] == "p1"]
                asked = time.monotonic()
                ended = asyncio.create_task(asyncio.to_thread(first.end))
                await eventually(lambda: all(listener.epoch(t) > epochs[t.shard] for t in left))
                for tape in left:
                    seconds = listener.began(tape, epochs[tape.shard]) - asked
                    print(f"SIGTERM: shard {tape.shard} served again after {seconds:.3f} s")
                assert await ended == 0
                later = len(listener.ticks)
                await eventually(lambda: listener.repriced_since(later, tapes))
            await all_came(listener, tapes)
            assert await asyncio.to_thread(second.end) == 0
    assert_in_order(listener.ticks)
    for tape in tapes:
        assert_nothing_lost(listener.ticks, tape)
        # A hand-over repeats nothing either.
        numbers = volumes(listener.ticks, tape.traded[0])
        assert numbers == sorted(set(numbers))


async def test_after_a_kill_every_packet_comes_and_quiet_options_follow_their_forward_again(
    nats_server: NatsServer, bus: Bus, tapes: list[Tape]
):
    async with hearing(bus) as listener:
        with processes(nats_server) as start:
            victim = start("p1")
            await opened(listener, tapes)
            async with feeding(tapes):
                await eventually(lambda: listener.repriced_since(0, tapes))
                heir = start("p2")
                await eventually(lambda: shared(bus), seconds=START_SECONDS)
                owner = await owners(bus)
                epochs = {tape.shard: listener.epoch(tape) for tape in tapes}
                lost = [tape for tape in tapes if owner[tape.shard] == "p1"]
                killed = time.monotonic()
                await asyncio.to_thread(victim.end, signal.SIGKILL)
                await eventually(lambda: all(listener.epoch(t) > epochs[t.shard] for t in lost))
                for tape in lost:
                    seconds = listener.began(tape, epochs[tape.shard]) - killed
                    print(f"SIGKILL: shard {tape.shard} served again after {seconds:.2f} s")
                count = len(listener.ticks)
                await eventually(lambda: listener.repriced_since(count, tapes))
            await all_came(listener, tapes)
            assert await asyncio.to_thread(heir.end) == 0
    assert_in_order(listener.ticks)
    for tape in tapes:
        assert_nothing_lost(listener.ticks, tape)


async def test_a_frozen_owner_prices_nothing_anew_when_it_wakes(
    nats_server: NatsServer, bus: Bus, tapes: list[Tape]
):
    async with hearing(bus) as listener:
        with processes(nats_server) as start:
            frozen = start("p1")
            await opened(listener, tapes)
            async with feeding(tapes):
                await eventually(lambda: listener.repriced_since(0, tapes))
                # So that it has something to say when it wakes.
                await eventually(lambda: all(listener.is_owed(tape) for tape in tapes))
                frozen._process.send_signal(signal.SIGSTOP)
                epochs = {tape.shard: listener.epoch(tape) for tape in tapes}
                settings = settings_of(nats_server, "p2", conflate_after_seconds=1000)
                async with running(settings):
                    await eventually(
                        lambda: all(listener.epoch(t) > epochs[t.shard] for t in tapes)
                    )
                    # Forwards have moved for seconds: all that it holds is due when it wakes.
                    frozen._process.send_signal(signal.SIGCONT)
                    # Until it works again, what it has to say of its old term would be out.
                    await eventually(lambda: shared(bus))
                    count = len(listener.ticks)
                    await eventually(lambda: listener.repriced_since(count, tapes))
            await all_came(listener, tapes)
            assert await asyncio.to_thread(frozen.end) == 0
    assert_in_order(listener.ticks)
    for tape in tapes:
        assert_nothing_lost(listener.ticks, tape)


async def test_a_worker_that_is_behind_prices_the_newest_packet_alone_and_counts_the_rest(
    nats_server: NatsServer, bus: Bus, tapes: list[Tape]
):
    tape = tapes[1]
    await tape.open()
    for _ in range(30):
        await tape.move()
    stored = time.monotonic()
    packets = len(tape.market.instruments) + 30 * (1 + len(tape.traded))
    await eventually(lambda: time.monotonic() > stored + 1.0)
    # Nobody has worked for a second, and the threshold is half of one.
    settings = settings_of(nats_server, first_start_seconds=600, reprice_interval_seconds=0)
    async with hearing(bus) as listener, running(settings):
        await eventually(lambda: listener.newest_volumes(tape) == {30})
        status = Bucket(bus, streams.STATUS.name)

        async def counted() -> GreeksStatus | None:
            entry = await status.get("greeks-g1")
            said = None if entry is None else codec.from_json(GreeksStatus, entry.value)
            return said if said and said.ticks_total + said.conflated_total == packets else None

        said = await eventually(counted)
        assert isinstance(said, GreeksStatus)
        assert said.conflated_total == packets - len(listener.ticks)
        # Every instrument came once, with the newest that is known of it.
        assert said.ticks_total == len(tape.market.instruments)

        async def written() -> bool:
            subject = subjects.last(tape.market.underlying, tape.traded[0].instrument_token)
            try:
                message = await bus.jetstream.get_last_msg(streams.MD_LAST.name, subject)
            except nats.js.errors.NotFoundError:
                return False
            return codec.from_json(Tick, message.data or b"").volume == 30

        await eventually(written)


async def test_the_last_value_of_a_quiet_option_is_the_one_priced_anew(
    nats_server: NatsServer, bus: Bus, tapes: list[Tape]
):
    tape = tapes[1]
    quiet = tape.quiet[0]
    async with hearing(bus) as listener, running(settings_of(nats_server)):
        await opened(listener, tapes)
        await eventually(lambda: volumes(listener.ticks, quiet) == [0])
        await tape.move()
        await eventually(lambda: listener.repriced_since(0, [tape]))

        async def is_last() -> bool:
            subject = subjects.last(tape.market.underlying, quiet.instrument_token)
            message = await bus.jetstream.get_last_msg(streams.MD_LAST.name, subject)
            newest = [t for t in listener.ticks if t.instrument_token == quiet.instrument_token][-1]
            assert newest.repriced
            return message.data == codec.to_json(newest)

        await eventually(is_last)
        newest = [t for t in listener.ticks if t.instrument_token == quiet.instrument_token][-1]
        future = [t for t in listener.ticks if t.kind == "future"][-1]
        assert newest.forward == future.last_price
