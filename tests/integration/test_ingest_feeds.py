"""The feeds of ingest on real NATS and a real simulator: sessions, texts, plans, faults."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from libs.common.bus.connection import Bus, BusMessage
from libs.common.bus.cursor import OrderedCursor, StartPosition, StreamMessage
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import FeedState, OrderUpdate, Source, StreamMode, UpdateKind
from libs.common.domain.instruments import parse_dump
from libs.common.kite.frames import decode
from libs.common.lifecycle import Lifecycle
from services.ingest import app, metrics
from services.ingest.settings import IngestSettings
from tests.fakes.ingest import KEY, ControlPart
from tests.fakes.nats_server import NatsServer, free_port
from tests.fakes.simulator import SimulatorProcess, until
from tests.integration.conftest import running, settings_for

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

ACCOUNT = "sim1"
SHARDS = 4


@pytest.fixture(scope="module")
def shared_simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    """One simulator for the module."""
    process = SimulatorProcess(tmp_path_factory.mktemp("simulator"))
    process.start()
    yield process
    process.kill()


@pytest.fixture
def simulator(shared_simulator: SimulatorProcess) -> Iterator[SimulatorProcess]:
    """The module's simulator, without faults."""
    shared_simulator.heal()
    yield shared_simulator
    shared_simulator.heal()


@pytest.fixture(scope="module")
def tokens(shared_simulator: SimulatorProcess) -> list[int]:
    """Tokens that the simulator streams, ascending."""

    async def read() -> list[int]:
        async with await shared_simulator.client() as client:
            dump = parse_dump((await client.get("/instruments")).content)
        return sorted(item.instrument_token for item in dump.instruments)

    return asyncio.run(read())


@pytest.fixture
async def control(
    nats_server: NatsServer, simulator: SimulatorProcess
) -> AsyncIterator[ControlPart]:
    """Control's part on this test's own server."""
    async with Bus.open(settings_for(nats_server), name="test") as bus:
        await ensure(bus, streams.STREAMS, streams.BUCKETS)
        part = ControlPart(bus, simulator)
        async with running(part.status.run, part.coverage.run):
            yield part


@asynccontextmanager
async def ingest(nats: NatsServer, **changes: object) -> AsyncIterator[Lifecycle]:
    """The service in this process; it must end without a failure."""
    values: dict[str, object] = {
        "nats_url": nats.url,
        "shards": SHARDS,
        "worker_id": "ingest-test",
        "health_port": free_port(),
        "account_encryption_key": KEY,
        "backoff_ceiling_seconds": 0.5,
        **changes,
    }
    life = Lifecycle()
    service = asyncio.create_task(app.serve(IngestSettings(**values), life))  # type: ignore[arg-type]  # By name.
    try:
        yield life
    finally:
        life.request_stop("the test is over")
        await service
    assert life.failure is None


class Frames:
    """Counts what is published, by token, source and connection."""

    def __init__(self) -> None:
        self.tokens: Counter[int] = Counter()
        self.sources: set[str] = set()
        self.connections: Counter[str] = Counter()
        self.texts: list[OrderUpdate] = []

    def take(self, message: BusMessage) -> None:
        """Note one message."""
        if message.subject == subjects.order_update(ACCOUNT):
            self.texts.append(codec.from_json(OrderUpdate, message.payload))
        elif ".beat." not in message.subject:
            headers = message.headers or {}
            self.sources.add(headers[codec.HEADER_SOURCE])
            self.connections[headers[codec.HEADER_CONNECTION]] += 1
            self.tokens.update(packet.instrument_token for packet in decode(message.payload))

    def texts_of(self, text: str) -> list[OrderUpdate]:
        """The texts that contain this."""
        return [update for update in self.texts if text.encode() in bytes(update.data)]


@asynccontextmanager
async def listening(bus: Bus) -> AsyncIterator[Frames]:
    frames = Frames()
    first = await bus.subscribe(f"{subjects.FRAME_PREFIX}.>", frames.take)
    second = await bus.subscribe(subjects.order_update(ACCOUNT), frames.take)
    yield frames
    await first.unsubscribe()
    await second.unsubscribe()


def streams_fully(control: ControlPart, connections: int, tokens: int, **also: object) -> object:
    status = control.feed(ACCOUNT)
    return (
        status is not None
        and status.state is FeedState.STREAMING
        and (status.connections, status.tokens) == (connections, tokens)
        and all(getattr(status, name) == value for name, value in also.items())
    )


async def test_frames_of_three_connections_flow_and_the_status_tells_all(
    nats_server, control, tokens
):
    await control.session(ACCOUNT)
    await control.plan(ACCOUNT, [tokens[:100], tokens[100:150], tokens[150:160]])
    async with listening(control.bus) as frames, ingest(nats_server):
        await until(lambda: streams_fully(control, 3, 160), "three connections stream")
        await until(lambda: len(frames.tokens) == 160, "every instrument has ticked")
        await until(
            lambda: (status := control.feed(ACCOUNT)) and status.publish_p95_ms is not None,
            "latencies are known",
        )
    assert frames.sources == {"sim"}
    assert frames.connections.keys() == {"0", "1", "2"}
    status = control.feed(ACCOUNT)
    assert status is not None
    assert status.source is Source.SIM
    assert status.session_refused is False
    assert status.published_ratio == 1.0


async def test_texts_are_forwarded_once_whichever_connections_carry_them(
    nats_server, simulator, control, tokens
):
    await control.session(ACCOUNT)
    await control.plan(ACCOUNT, [tokens[:5], tokens[5:10], tokens[10:15]])
    async with listening(control.bus) as frames, ingest(nats_server):
        await until(lambda: streams_fully(control, 3, 15), "three connections stream")
        opened = {"order_id": "17", "status": "OPEN", "filled_quantity": 0}
        for order in (opened, {**opened, "status": "COMPLETE", "filled_quantity": 75}):
            answer = simulator.fault(kind="text_message", type="order", data=order)
            assert answer["connections_hit"] == 3
        simulator.fault(kind="text_message", type="message", data="a word of the broker")
        simulator.fault(kind="text_message", type="error", data="a fault of the broker")
        await until(lambda: frames.texts_of("a fault of the broker"), "the last text has come")
        # Only connection 2 carries this one: it counts although another is the first.
        await control.plan(ACCOUNT, [[], [], tokens[10:15]])
        await until(lambda: streams_fully(control, 1, 5), "one connection is left")
        simulator.fault(kind="text_message", type="order", data={"order_id": "18"})
        await until(lambda: frames.texts_of("18"), "the text of connection 2 has come")
    found = [(update.kind, json.loads(bytes(update.data))) for update in frames.texts]
    assert found == [
        (UpdateKind.ORDER, opened),
        (UpdateKind.ORDER, {**opened, "status": "COMPLETE", "filled_quantity": 75}),
        (UpdateKind.MESSAGE, "a word of the broker"),
        (UpdateKind.ERROR, "a fault of the broker"),
        (UpdateKind.ORDER, {"order_id": "18"}),
    ]


async def test_order_updates_come_while_a_connection_is_away(
    nats_server, simulator, control, tokens
):
    await control.session(ACCOUNT)
    await control.plan(ACCOUNT, [tokens[:5], tokens[5:10]])
    async with (
        listening(control.bus) as frames,
        ingest(nats_server, backoff_first_seconds=10, backoff_ceiling_seconds=60),
    ):
        await until(lambda: streams_fully(control, 2, 10), "two connections stream")
        simulator.fault(kind="dropped_socket", count=1)
        await until(
            lambda: (status := control.feed(ACCOUNT)) and status.connections == 1, "one is away"
        )
        simulator.fault(kind="text_message", type="order", data={"order_id": "19"})
        await until(lambda: frames.texts_of("19"), "the other connection brought the update")
    assert len(frames.texts) == 1


async def test_newer_token_keeps_the_socket_and_another_key_replaces_it(
    nats_server, simulator, control, tokens
):
    before = lost_connections("session_changed")
    first = await control.session(ACCOUNT)
    await control.plan(ACCOUNT, [tokens[:20]])
    async with listening(control.bus) as frames, ingest(nats_server):
        await until(lambda: streams_fully(control, 1, 20), "streams")
        newer = await control.session(ACCOUNT)
        assert newer.api_key == first.api_key
        await until(
            lambda: streams_fully(control, 1, 20, session_minted_at_ns=newer.minted_at_ns),
            "the newer session is known",
        )
        assert lost_connections("session_changed") == before

        other = await control.session(ACCOUNT, 2)
        assert other.api_key != first.api_key
        await until(lambda: control.open_sockets(2) == 1, "the other key has the socket")
        await until(lambda: control.open_sockets(1) == 0, "the first key has none")
        await until(lambda: streams_fully(control, 1, 20), "streams again")

        frames.sources.clear()
        await control.session(ACCOUNT, 2, source=Source.LIVE)
        await until(lambda: "live" in frames.sources, "frames are stamped with the new source")
        status = await wait_for_status(control, source=Source.LIVE)
        assert status.state is not FeedState.PARKED
    assert lost_connections("session_changed") == before + 2


def lost_connections(cause: str) -> float:
    value: float = metrics.RECONNECTS_TOTAL.labels(account=ACCOUNT, cause=cause)._value.get()
    return value


def refused(reason: str) -> float:
    value: float = metrics.PLAN_REFUSED_TOTAL.labels(account=ACCOUNT, reason=reason)._value.get()
    return value


async def wait_for_status(control: ControlPart, **wanted: object):
    def holds() -> object:
        status = control.feed(ACCOUNT)
        return status is not None and all(
            getattr(status, name) == value for name, value in wanted.items()
        )

    await until(holds, f"a status with {wanted}")
    status = control.feed(ACCOUNT)
    assert status is not None
    return status


async def test_every_way_to_end_a_connection_is_counted_by_cause(
    nats_server, simulator, control, tokens
):
    causes = ("not_planned", "stopped", "closed_clean", "dropped", "silent", "session_refused")
    before = {cause: lost_connections(cause) for cause in causes}

    def came(cause: str) -> bool:
        return lost_connections(cause) > before[cause]

    await control.session(ACCOUNT)
    await control.plan(ACCOUNT, [tokens[:5], tokens[5:10]])
    async with ingest(nats_server, silence_limit_seconds=1.5):
        await until(lambda: streams_fully(control, 2, 10), "streams")
        await control.plan(ACCOUNT, [tokens[:5]])
        await until(lambda: came("not_planned"), "the second connection is not planned")
        simulator.fault(kind="dropped_socket")
        await until(lambda: came("closed_clean"), "closed with 1000")
        await until(lambda: streams_fully(control, 1, 5), "streams again")
        simulator.fault(kind="reset")
        await until(lambda: came("dropped"), "reset")
        await until(lambda: streams_fully(control, 1, 5), "streams again")
        simulator.fault(kind="silent_socket", seconds=4)
        await until(lambda: came("silent"), "silent")
        await until(lambda: streams_fully(control, 1, 5), "streams again")
        simulator.fault(kind="dead_token", api_key="sim1key")
        status = await wait_for_status(control, state=FeedState.PARKED, session_refused=True)
        assert "403" in status.reason
        assert came("session_refused")
        await control.session(ACCOUNT)
        await until(lambda: streams_fully(control, 1, 5, session_refused=False), "streams again")
    assert lost_connections("stopped") == before["stopped"] + 1


async def test_429_at_the_handshake_backs_off_with_growth(nats_server, simulator, control, tokens):
    await control.session(ACCOUNT)
    await control.plan(ACCOUNT, [tokens[:5]])
    before = lost_connections("rate_limited")
    simulator.fault(kind="refused_handshake", status=429, count=4)
    async with ingest(
        nats_server, rate_limited_backoff_seconds=0.05, rate_limited_ceiling_seconds=0.2
    ):
        await until(lambda: streams_fully(control, 1, 5), "streams at last")
    assert lost_connections("rate_limited") == before + 4


async def test_plan_beyond_the_limits_is_refused_by_name_and_never_tried(
    nats_server, control, tokens, simulator
):
    limited = lost_connections("rate_limited")
    before = refused("too_many_connections"), refused("too_many_tokens")
    await control.session(ACCOUNT)
    await control.plan(
        ACCOUNT, [tokens[:5], tokens[5:10], tokens[10:15], tokens[15:20], tokens[20:25]]
    )
    async with ingest(nats_server):
        await until(lambda: streams_fully(control, 3, 15), "three connections stream")
        assert control.open_sockets() == 3
        plan = await control.plan(ACCOUNT, [range(1, 3002), tokens[30:36]])
        await until(
            lambda: streams_fully(control, 2, 11, plan_revision=plan.revision),
            "the first keeps its five, the second follows",
        )
    assert lost_connections("rate_limited") == limited
    assert refused("too_many_connections") == before[0] + 2
    assert refused("too_many_tokens") == before[1] + 1


async def test_silent_instruments_are_reported_and_those_that_tick_are_not(
    nats_server, simulator, control, tokens
):
    ghost = 4_000_000_002  # No such instrument.
    await control.session(ACCOUNT)
    await control.plan(ACCOUNT, [[*tokens[:20], ghost]])
    async with ingest(nats_server, no_data_seconds=1, stale_seconds=60):
        await until(
            lambda: (found := control.silent(ACCOUNT)) and found.no_data == (ghost,),
            "only the instrument that does not exist has no data",
        )
        await wait_for_status(control, no_data_tokens=1, stale_tokens=0)
        found = control.silent(ACCOUNT)
        assert found is not None
        assert found.pending == found.stale == ()
        plan = await control.plan(ACCOUNT, [tokens[:20]])
        await until(
            lambda: (
                (found := control.silent(ACCOUNT))
                and found.plan_revision == plan.revision
                and not found.no_data
            ),
            "nothing is silent without it",
        )


async def test_instrument_outside_its_session_is_pending_however_long(nats_server, control, tokens):
    currency = 1_000_002 << 8 | 8  # A segment that no exchange trades any more.
    await control.session(ACCOUNT, source=Source.LIVE)
    await control.plan(ACCOUNT, [[*tokens[:5], currency]])
    async with ingest(nats_server, no_data_seconds=0.1):
        await until(
            lambda: (found := control.silent(ACCOUNT)) and currency in found.pending, "pending"
        )
        first = control.silent(ACCOUNT)
        await until(
            lambda: (found := control.silent(ACCOUNT)) and first and found.at_ns > first.at_ns,
            "written again",
        )
        found = control.silent(ACCOUNT)
        assert found is not None
        assert currency in found.pending
        assert currency not in found.no_data


@pytest.fixture
def long_leases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let leases outlive an outage that a busy machine makes longer."""
    patient = msgspec.structs.replace(streams.LEASES_ACCOUNTS, ttl_seconds=90)
    others = [bucket for bucket in streams.BUCKETS if bucket.name != patient.name]
    monkeypatch.setattr(streams, "LEASES_ACCOUNTS", patient)
    monkeypatch.setattr(streams, "BUCKETS", (*others, patient))


async def test_frames_that_come_while_nats_is_away_are_stored_in_order_after_its_return(
    long_leases, nats_server, control, tokens
):
    await control.session(ACCOUNT)
    await control.plan(ACCOUNT, [tokens[:100], tokens[100:200]])
    received = metrics.FRAMES_TOTAL.labels(account=ACCOUNT)._value
    async with ingest(nats_server, outbox_seconds=60):
        await until(lambda: streams_fully(control, 2, 200), "streams")
        await asyncio.to_thread(nats_server.kill)
        gone_ns = time.time_ns()
        before = received.get()
        await until(lambda: received.get() >= before + 20, "frames came while NATS was away")
        back_ns = time.time_ns()
        await asyncio.to_thread(nats_server.start)
        stored: list[StreamMessage] = []
        cursor = OrderedCursor(
            control.bus,
            streams.MD_FRAMES.name,
            [f"{subjects.FRAME_PREFIX}.{shard}.*" for shard in range(SHARDS)],
            StartPosition.all(),
            stored.extend,
        )

        def stored_at(message: StreamMessage) -> int:
            return int((message.headers or {})[codec.HEADER_RECEIVED_AT])

        async with running(cursor.run):
            await until(
                lambda: any(stored_at(message) > back_ns for message in stored),
                "frames are stored again",
            )
    waited = {stored_at(message) for message in stored if gone_ns < stored_at(message) < back_ns}
    # Of twenty frames those of the first moment may be lost in the broken socket.
    assert len(waited) >= 10
    numbers: dict[tuple[str, str], list[int]] = {}
    for message in stored:
        headers = message.headers or {}
        line = message.subject, headers[codec.HEADER_CONNECTION]
        numbers.setdefault(line, []).append(int(headers[codec.HEADER_FRAME_SEQ]))
    assert len(numbers) > 2
    assert all(line == sorted(set(line)) for line in numbers.values())


async def test_feed_is_well_again_after_nats_was_killed(nats_server, control, tokens):
    await control.session(ACCOUNT)
    await control.plan(ACCOUNT, [tokens[:200]])
    async with ingest(nats_server):
        await until(lambda: streams_fully(control, 1, 200), "streams")
        await asyncio.to_thread(nats_server.kill)
        await asyncio.to_thread(nats_server.start)
        now_ns = time.time_ns()
        async with listening(control.bus) as frames:
            await until(lambda: frames.tokens, "frames flow again")
        await until(
            lambda: (
                (status := control.feed(ACCOUNT))
                and status.at_ns > now_ns
                and status.state is FeedState.STREAMING
            ),
            "the status is current",
        )


async def test_large_plan_is_subscribed_while_frames_are_read(nats_server, control, tokens):
    await control.session(ACCOUNT)
    await control.plan(ACCOUNT, [tokens[:50]], mode=StreamMode.LTP)
    async with ingest(nats_server):
        await until(lambda: streams_fully(control, 1, 50), "streams")
        chunks = [tokens[start : start + 3000] for start in range(0, min(len(tokens), 9000), 3000)]
        total = sum(map(len, chunks))
        assert total > 1000
        await control.plan(ACCOUNT, chunks, mode=StreamMode.LTP)
        await until(lambda: streams_fully(control, len(chunks), total), "all are subscribed")
        state = await asyncio.to_thread(control.simulator.state)
        assert state["accounts"]["sim1key"]["tokens"] == total


async def test_refusal_found_by_rest_reports_and_parks_but_keeps_a_healthy_socket(
    nats_server, control, tokens, monkeypatch
):
    feeds: list[app.FeedSet] = []
    original = app.FeedSet.start

    async def start(self, lease):
        feeds.append(self)
        await original(self, lease)

    monkeypatch.setattr(app.FeedSet, "start", start)
    session = await control.session(ACCOUNT)
    await control.plan(ACCOUNT, [tokens[:5]])
    async with ingest(nats_server):
        await until(lambda: streams_fully(control, 1, 5), "streams")
        feed = feeds[0]._feeds[ACCOUNT]
        feed.refuse_session(session.minted_at_ns - 1, "an older one")
        feed.refuse_session(session.minted_at_ns, "HTTP 403 by REST")
        await until(lambda: streams_fully(control, 1, 5, session_refused=True), "reported")
        assert control.open_sockets() == 1
        await control.plan(ACCOUNT, [tokens[:5], tokens[5:10]])
        status = await wait_for_status(control, state=FeedState.PARKED, connections=1)
        assert status.reason == "HTTP 403 by REST"
        await control.session(ACCOUNT)
        await until(lambda: streams_fully(control, 2, 10, session_refused=False), "streams anew")


async def test_session_with_its_token_is_never_logged(nats_server, control, tokens, capsys):
    session = await control.session(ACCOUNT)
    await control.plan(ACCOUNT, [tokens[:5]])
    async with ingest(nats_server):
        await until(lambda: streams_fully(control, 1, 5), "streams")
        control.simulator.fault(kind="reset")
        await until(lambda: streams_fully(control, 1, 5), "streams")
    captured = capsys.readouterr()
    assert session.access_token not in captured.out + captured.err
