"""Two real ingest processes and one account: never more sockets than planned, whatever happens."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise

import pytest

from libs.common.bus.connection import Bus, BusMessage
from libs.common.bus.kv import Mirror
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.domain.instruments import parse_dump
from tests.fakes.ingest import ControlPart, IngestProcess
from tests.fakes.nats_server import NatsServer
from tests.fakes.simulator import SimulatorProcess, until
from tests.integration.conftest import running, settings_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

ACCOUNT = "sim1"
PLANNED = 2
_SAMPLE_SECONDS = 0.02


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    """The broker."""
    process = SimulatorProcess(tmp_path_factory.mktemp("simulator"))
    process.start()
    yield process
    process.kill()


class Sampler:
    """Asks the simulator all the time how many sockets it saw, and hears every frame."""

    def __init__(self, control: ControlPart) -> None:
        self._control = control
        self.most = 0
        self.now = 0
        self.frames = 0
        self.samples = 0
        self.heard_of: dict[str, list[int]] = {}
        """Frame numbers by connection, as they came."""

    async def run(self, stop: asyncio.Event) -> None:
        """Sample until `stop`."""
        while not stop.is_set():
            state = await asyncio.to_thread(self._control.simulator.state)
            counted = state["accounts"][self._control.simulator.account().api_key]
            self.now = counted["connections"]
            # What the simulator saw between two looks, however briefly.
            self.most = max(self.most, counted["connections_peak"])
            self.samples += 1
            await asyncio.sleep(_SAMPLE_SECONDS)

    def heard(self, message: BusMessage) -> None:
        """Note a frame."""
        if ".beat." not in message.subject:
            self.frames += 1
            headers = message.headers or {}
            numbers = self.heard_of.setdefault(headers[codec.HEADER_CONNECTION], [])
            number = int(headers[codec.HEADER_FRAME_SEQ])
            if numbers[-1:] != [number]:  # A frame comes as one message per shard.
                numbers.append(number)

    def assert_one_voice(self) -> None:
        """Frame numbers rise, and start again from the beginning with a new socket."""
        for numbers in self.heard_of.values():
            for before, after in pairwise(numbers):
                assert after > before or after <= 3, numbers


class Rig:
    """One account, a sampler, and as many ingest processes as a test starts."""

    def __init__(self, control: ControlPart, nats: NatsServer, folder) -> None:
        self.control = control
        self.nats = nats
        self.leases = Mirror(control.bus, streams.LEASES_ACCOUNTS.name)
        self.sampler = Sampler(control)
        self._folder = folder
        self._processes: dict[str, IngestProcess] = {}

    def start(self, name: str) -> IngestProcess:
        """Start a process."""
        process = self._processes[name] = IngestProcess(self._folder, name, self.nats)
        return process.start()

    def owner(self) -> str | None:
        """Who owns the account."""
        value = self.leases.get(f"p.{subjects.escape(ACCOUNT)}")
        for name in self._processes:
            if value is not None and f'"{name}"'.encode() in value:
                return name
        return None

    def member(self, name: str) -> bool:
        """Whether a process takes part."""
        return f"m.{subjects.escape(name)}" in self.leases

    async def joined(self, process: IngestProcess) -> None:
        """Wait until a process takes part."""
        await until(lambda: self.member(process.name), f"{process.name} takes part", 60)

    async def flows_from(self, name: str) -> None:
        """Wait until a process owns the account and its frames come."""
        await until(lambda: self.owner() == name, f"{name} owns the account", 60)
        before = self.sampler.frames
        await until(
            lambda: self.sampler.frames > before + 5 and self.sampler.now == PLANNED,
            f"frames flow from {name}",
            60,
        )

    async def owned(self) -> IngestProcess:
        """Wait until somebody's frames flow, and give who that is."""
        await self.flows()
        name = self.owner()
        assert name is not None
        return self._processes[name]

    async def flows(self) -> None:
        """Wait until frames come over as many sockets as planned."""
        before = self.sampler.frames
        await until(
            lambda: (
                self.sampler.frames > before + 5
                and self.sampler.now == PLANNED
                and self.owner() is not None
            ),
            "frames flow",
            60,
        )

    def other(self, process: IngestProcess) -> IngestProcess:
        """The other of two processes."""
        (other,) = [p for p in self._processes.values() if p is not process]
        return other

    def kill_all(self) -> None:
        """End what still runs."""
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.signal(signal.SIGCONT)
            process.kill()
            # Shown when the test fails.
            print(f"--- {process.name}\n{process.log.read_text()[-20_000:]}")


@pytest.fixture
async def rig(nats_server, simulator, tmp_path) -> AsyncIterator[Rig]:
    """A planned account with a session, and two processes of which one owns it."""
    async with Bus.open(settings_for(nats_server), name="test") as bus:
        await ensure(bus, streams.STREAMS, streams.BUCKETS)
        control = ControlPart(bus, simulator)
        rig = Rig(control, nats_server, tmp_path)
        async with await simulator.client() as client:
            dump = parse_dump((await client.get("/instruments")).content)
        tokens = sorted(item.instrument_token for item in dump.instruments)[:40]
        await control.session(ACCOUNT)
        await control.plan(ACCOUNT, [tokens[:20], tokens[20:]])
        frames = await bus.subscribe(f"{subjects.FRAME_PREFIX}.>", rig.sampler.heard)
        try:
            async with running(rig.leases.run, rig.sampler.run, control.status.run):
                for name in ("ingest-a", "ingest-b"):
                    rig.start(name)
                await until(lambda: rig.member("ingest-a") and rig.member("ingest-b"), "both live")
                yield rig
        finally:
            rig.kill_all()
        await frames.unsubscribe()


async def test_hand_overs_never_show_more_sockets_than_planned(rig):
    for _ in range(4):
        owner = await rig.owned()
        other = rig.other(owner)
        assert await asyncio.to_thread(owner.stop) == 0
        await rig.flows_from(other.name)
        rig.start(owner.name)
        await rig.joined(owner)
    owner = await rig.owned()
    other = rig.other(owner)
    owner.kill()
    await rig.flows_from(other.name)
    assert rig.sampler.most == PLANNED
    assert rig.sampler.samples > 50


async def test_nats_restarts_never_show_more_sockets_than_planned(rig):
    await rig.owned()
    for seconds_away in (0.0, 2.0, 8.0):
        await asyncio.to_thread(rig.nats.kill)
        # Longer than the lease: its owner must let go of its sockets while it cannot ask anyone.
        await asyncio.sleep(seconds_away)
        if seconds_away > 5:
            await until(lambda: rig.sampler.now == 0, "the owner has let go")
        await asyncio.to_thread(rig.nats.start)
        await until(lambda: rig.control.bus.is_connected, "the test is connected")
        await rig.flows()
    assert rig.sampler.most == PLANNED


async def test_frozen_nats_ends_the_sockets_before_anybody_else_may_have_the_lease(rig):
    await rig.owned()
    rig.nats.pause()
    try:
        await until(lambda: rig.sampler.now == 0, "the owner has let go while NATS stands still")
    finally:
        rig.nats.resume()
    await rig.owned()
    assert rig.sampler.most == PLANNED


async def test_paused_owner_is_replaced_publishes_nothing_and_closes_when_it_wakes(rig):
    """What no lease can prevent: the sockets of a paused process stay open until it wakes.

    The newcomer does not wait for it. Kite's limit of three holds (a fourth gets 429 and backs
    off), and the paused process publishes nothing when it wakes, but closes at once.
    """
    owner = await rig.owned()
    other = rig.other(owner)
    # So that its next frame could not be taken for one of the newcomer's.
    await until(lambda: all(n[-1] > 60 for n in rig.sampler.heard_of.values()), "sixty frames")
    owner.signal(signal.SIGSTOP)
    await until(lambda: rig.owner() == other.name, "the other owns the account", 60)
    before = rig.sampler.frames
    await until(lambda: rig.sampler.frames > before + 5, "frames flow from the other", 60)
    owner.signal(signal.SIGCONT)
    await until(lambda: rig.sampler.now <= PLANNED, "the old sockets are closed")
    # It comes back as a member; the assignment may give it the account again, in good order.
    await rig.joined(owner)
    await rig.owned()
    await until(lambda: rig.sampler.now == PLANNED, "as many as planned are open")
    assert rig.sampler.most <= 3
    rig.sampler.assert_one_voice()


async def test_paused_owner_with_three_sockets_keeps_the_broker_below_its_limit(rig, simulator):
    async with await simulator.client() as client:
        dump = parse_dump((await client.get("/instruments")).content)
    tokens = sorted(item.instrument_token for item in dump.instruments)[:30]
    owner = await rig.owned()
    other = rig.other(owner)
    await rig.control.plan(ACCOUNT, [tokens[:10], tokens[10:20], tokens[20:]])
    await until(lambda: rig.sampler.now == 3, "three sockets")
    owner.signal(signal.SIGSTOP)
    await until(lambda: rig.owner() == other.name, "the other owns the account", 60)
    # 429 for all of them: it waits, with growing pauses, and does not hammer.
    await until(
        lambda: other.metric("tickfleet_ingest_reconnects_total", cause="rate_limited") >= 3,
        "the broker has refused the newcomer",
        60,
    )
    owner.signal(signal.SIGCONT)
    await until(lambda: rig.sampler.now == 3, "three sockets again", 90)
    assert rig.sampler.most == 3
