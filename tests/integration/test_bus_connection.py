"""The bus against a real server that is killed, stopped and frozen."""

import asyncio
import os
import socket
from typing import Any

import pytest
import uvloop

from libs.common.bus import connection, metrics
from libs.common.bus.connection import PENDING_LIMIT_BYTES, Bus, BusState, PublishOutcome
from libs.common.bus.errors import (
    BusClosedError,
    BusUnavailableError,
    ConnectDeadlineError,
    NoResponderError,
    RequestTimeoutError,
)
from libs.common.settings import NatsSettings
from tests.fakes.nats_server import NatsServer, free_port
from tests.integration.conftest import settings_for, until

pytestmark = pytest.mark.integration


def count(counter, **labels):
    return (counter.labels(**labels) if labels else counter)._value.get()


def connected_port(bus):
    return bus.client.connected_url and bus.client.connected_url.port


async def test_message_arrives_with_subject_payload_and_headers(shared_bus):
    got: list[Any] = []
    await shared_bus.subscribe("conn.a.*", got.append)

    assert await shared_bus.publish("conn.a.1", b"x", {"Source": "sim"})
    assert await shared_bus.publish("conn.a.2", b"y")

    await until(lambda: len(got) == 2)
    assert (got[0].subject, got[0].payload, got[0].headers) == (
        "conn.a.1",
        b"x",
        {"Source": "sim"},
    )
    assert got[1].headers is None


async def test_messages_published_together_arrive_in_order_between_those_published_alone(
    shared_bus,
):
    got: list[Any] = []
    await shared_bus.subscribe("conn.many.*", got.append)
    before = count(metrics.PUBLISHED_TOTAL)

    assert await shared_bus.publish("conn.many.first", b"0")
    together = [(f"conn.many.{number}", b"%d\r\n" % number) for number in range(1, 500)]
    assert await shared_bus.publish_all(together) == len(together)
    assert await shared_bus.publish("conn.many.last", b"500")

    await until(lambda: len(got) == 501)
    assert [(m.subject, m.payload) for m in got[1:-1]] == together
    assert [int(m.payload) for m in got] == list(range(501))
    assert count(metrics.PUBLISHED_TOTAL) == before + 501


@pytest.mark.parametrize(
    "bad", [("conn.odd one", b""), ("conn.odd\r\nPUB", b""), ("", b""), ("conn.odd", None)]
)
async def test_one_message_that_cannot_be_sent_is_dropped_alone(shared_bus, bad):
    subject, payload = bad
    if payload is None:
        payload = bytes(shared_bus.client.max_payload + 1)
    got: list[Any] = []
    await shared_bus.subscribe("conn.fit.*", got.append)
    before = count(metrics.DROPPED_TOTAL, reason="invalid")

    messages = [("conn.fit.a", b"a"), (subject, payload), ("conn.fit.b", b"b")]
    assert await shared_bus.publish_all(messages) == 2

    await until(lambda: len(got) == 2)
    assert [m.payload for m in got] == [b"a", b"b"]
    assert count(metrics.DROPPED_TOTAL, reason="invalid") == before + 1
    assert shared_bus.is_connected


async def test_nothing_is_published_together_when_there_is_nothing(shared_bus):
    assert await shared_bus.publish_all([]) == 0


async def test_messages_published_together_while_the_server_is_away_are_bounded_and_withdrawn(
    nats_server, bus
):
    got: list[Any] = []
    await bus.subscribe("conn.gone.*", got.append)
    await bus.client.flush()
    nats_server.kill()
    await until(lambda: not bus.is_connected)
    before = count(metrics.DROPPED_TOTAL, reason="buffer_full")
    block = bytes(512 * 1024)
    taken = await bus.publish_all([("conn.gone.a", block)] * 40)
    assert 0 < taken < 40
    assert count(metrics.DROPPED_TOTAL, reason="buffer_full") == before + 40 - taken
    assert bus.withdraw({"conn.gone.a"}) == taken
    assert await bus.publish_all([("conn.gone.b", b"x")]) == 1
    nats_server.start()
    await until(lambda: got, 20)
    assert [m.subject for m in got] == ["conn.gone.b"]


async def test_messages_published_together_can_be_withdrawn_while_they_wait(shared_bus):
    await shared_bus.client.flush()
    assert await shared_bus.publish_all([("conn.mine", b"1"), ("conn.other", b"2")]) == 2
    # Nobody else had a turn yet: both still wait in the client.
    assert shared_bus.withdraw({"conn.mine"}) == 1
    await shared_bus.client.flush()
    assert shared_bus.pending_bytes == 0


async def test_members_of_a_queue_group_share_the_messages(shared_bus):
    first: list[Any] = []
    second: list[Any] = []
    await shared_bus.subscribe("conn.queue", first.append, queue="workers")
    await shared_bus.subscribe("conn.queue", second.append, queue="workers")

    for _ in range(100):
        await shared_bus.publish("conn.queue", b"")

    await until(lambda: len(first) + len(second) == 100)
    assert first
    assert second


async def test_request_gets_the_answer(shared_bus):
    async def answer(message):
        await shared_bus.publish(message.reply, b"re: " + message.payload)

    await shared_bus.subscribe("conn.rpc", answer)

    assert (await shared_bus.request("conn.rpc", b"hello")).payload == b"re: hello"


async def test_request_that_nobody_serves_is_refused_at_once(shared_bus):
    with pytest.raises(NoResponderError, match=r"conn\.nobody"):
        await shared_bus.request("conn.nobody")


async def test_request_without_answer_times_out(shared_bus):
    await shared_bus.subscribe("conn.silent", lambda _: None)

    with pytest.raises(RequestTimeoutError):
        await shared_bus.request("conn.silent", timeout_seconds=0.05)


async def test_callback_that_raises_is_counted_and_the_next_message_is_delivered(shared_bus):
    before = count(metrics.CALLBACK_FAILURES_TOTAL)
    got: list[Any] = []

    def fragile(message):
        if message.payload == b"bad":
            raise ValueError(message.payload)
        got.append(message.payload)

    await shared_bus.subscribe("conn.fragile", fragile)
    await shared_bus.publish("conn.fragile", b"bad")
    await shared_bus.publish("conn.fragile", b"good")

    await until(lambda: got == [b"good"])
    assert count(metrics.CALLBACK_FAILURES_TOTAL) == before + 1


async def test_slow_subscriber_is_counted_per_dropped_message(shared_bus):
    before = count(metrics.ERRORS_TOTAL, kind="SlowConsumerError")
    gate = asyncio.Event()

    async def slow(message):
        del message
        await gate.wait()

    await shared_bus.subscribe("conn.slow", slow, pending_bytes_limit=1_000)
    for _ in range(20):
        await shared_bus.publish("conn.slow", bytes(200))

    await until(lambda: count(metrics.ERRORS_TOTAL, kind="SlowConsumerError") >= before + 10)
    gate.set()


@pytest.mark.parametrize(
    ("subject", "size"),
    [("conn.large", 5_000_000), ("conn.header", 4 * 1024 * 1024), ("conn bad", 1)],
)
async def test_invalid_message_is_dropped_and_the_connection_stays(shared_bus, subject, size):
    before = count(metrics.DROPPED_TOTAL, reason="invalid")
    reconnects = count(metrics.RECONNECTS_TOTAL)

    outcome = await shared_bus.offer(subject, bytes(size), {"A": "b"})

    assert outcome is PublishOutcome.INVALID
    assert count(metrics.DROPPED_TOTAL, reason="invalid") == before + 1
    await shared_bus.client.flush()
    assert shared_bus.is_connected
    assert count(metrics.RECONNECTS_TOTAL) == reconnects


async def test_burst_larger_than_the_buffer_is_sent_when_the_server_keeps_up(shared_bus):
    payload = bytes(1024 * 1024)

    outcomes = [await shared_bus.publish("conn.burst", payload) for _ in range(20)]

    assert all(outcomes)


async def test_unreachable_server_fails_at_the_deadline_and_names_the_variable():
    settings = NatsSettings(
        nats_url=f"nats://127.0.0.1:{free_port()}", nats_connect_deadline_seconds=0.5
    )

    with pytest.raises(ConnectDeadlineError, match="check NATS_URL") as caught:
        async with Bus.open(settings, name="test"):
            pytest.fail("connected to nothing")
    assert "111" in caught.value.reason  # Connection refused, in the words of either loop.


async def test_wrong_password_fails_at_the_deadline_and_says_so(tmp_path):
    server = NatsServer(
        tmp_path, extra_config='authorization { user: "feed", password: "right" }\n'
    )
    server.start()
    try:
        settings = NatsSettings(
            nats_url=server.url,
            nats_user="feed",
            nats_password="wrong",
            nats_connect_deadline_seconds=0.5,
        )
        with pytest.raises(ConnectDeadlineError, match="Authorization Violation"):
            async with Bus.open(settings, name="test"):
                pytest.fail("let in with a wrong password")

        right = NatsSettings(nats_url=server.url, nats_user="feed", nats_password="right")
        async with Bus.open(right, name="test") as bus:
            assert bus.is_connected
    finally:
        server.kill()


@pytest.mark.parametrize("runner", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_kernel_gives_up_on_unacknowledged_data_after_each_connect(nats_server, runner):
    def timeout_ms(bus):
        own = bus._writer_transport().get_extra_info("socket")
        with socket.socket(fileno=os.dup(own.fileno())) as duplicate:
            return duplicate.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

    async def main():
        async with Bus.open(settings_for(nats_server), name="test") as bus:
            first = timeout_ms(bus)
            again = asyncio.Event()

            async def reconnected():
                again.set()

            bus.on_reconnect(reconnected)
            nats_server.restart()
            async with asyncio.timeout(10):
                await again.wait()
            return first, timeout_ms(bus)

    assert runner(main()) == (5_000, 5_000)


@pytest.mark.parametrize("end", [NatsServer.kill, NatsServer.stop], ids=["SIGKILL", "SIGTERM"])
async def test_bus_returns_after_the_server_does(nats_server, bus, end):
    got: list[Any] = []
    calls: list[str] = []
    await bus.subscribe("conn.back", got.append)

    async def first():
        calls.append("first")

    async def second():
        calls.append("second")

    bus.on_reconnect(first)
    remove = bus.on_reconnect(lambda: pytest.fail("was removed"))
    bus.on_reconnect(second)
    remove()

    end(nats_server)
    await until(lambda: bus.state is BusState.RECONNECTING)
    assert not bus.closed.is_set()
    with pytest.raises(BusUnavailableError):
        await bus.request("conn.any")
    nats_server.start()
    await until(lambda: calls == ["first", "second"])

    assert bus.is_connected
    await bus.publish("conn.back", b"again")
    await until(lambda: [message.payload for message in got] == [b"again"])


async def test_while_the_server_is_away_the_buffer_is_bounded_and_drops_are_counted(
    nats_server, bus
):
    got: list[Any] = []
    await bus.subscribe("conn.away", lambda message: got.append(int(message.payload[:4])))
    before = count(metrics.DROPPED_TOTAL, reason="buffer_full")
    nats_server.kill()
    await until(lambda: bus.state is BusState.RECONNECTING)

    size = 64 * 1024
    outcomes = [await bus.offer("conn.away", b"%04d".ljust(size) % number) for number in range(200)]

    sent = outcomes.count(PublishOutcome.SENT)
    dropped = outcomes.count(PublishOutcome.BUFFER_FULL)
    assert outcomes == [PublishOutcome.SENT] * sent + [PublishOutcome.BUFFER_FULL] * dropped
    assert sent + dropped == 200
    assert 0.9 * PENDING_LIMIT_BYTES < sent * size <= PENDING_LIMIT_BYTES
    assert bus.pending_bytes <= PENDING_LIMIT_BYTES + 64 * 1024
    assert count(metrics.DROPPED_TOTAL, reason="buffer_full") == before + dropped
    nats_server.start()
    await until(lambda: got == list(range(sent)))
    assert await bus.publish("conn.away", b"0999")


async def test_frozen_server_is_left_for_the_next_one_although_data_is_unsent(tmp_path):
    servers = [NatsServer(tmp_path / name) for name in ("one", "two")]
    for server in servers:
        server.start()
    try:
        async with Bus.open(settings_for(*servers), name="test") as bus:
            port = connected_port(bus)
            frozen = next(server for server in servers if server.port == port)
            aborts = count(metrics.ABORTS_TOTAL)
            frozen.pause()
            # Fill the socket and the buffer until publishing finds no room.
            while await bus.publish("conn.frozen", bytes(256 * 1024)):  # noqa: ASYNC110  # Filling, not waiting.
                await asyncio.sleep(0)

            # The other server answers at once: the time between the two may be too short to see.
            await until(lambda: bus.is_connected and connected_port(bus) != port, 30)

            assert count(metrics.ABORTS_TOTAL) > aborts
            got: list[Any] = []
            await bus.subscribe("conn.frozen.after", got.append)
            await until(lambda: bus.pending_bytes == 0)
            assert await bus.publish("conn.frozen.after", b"x")
            await until(lambda: got)
    finally:
        for server in servers:
            server.kill()


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_pong_that_comes_late_does_not_stop_the_client_from_reading(
    nats_server, monkeypatch, loop_factory
):
    monkeypatch.setattr(connection, "_PONG_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(connection, "_PONGS_MISSED", 1_000)

    async def story() -> None:
        got: list[Any] = []
        async with Bus.open(settings_for(nats_server), name="late") as bus:
            await bus.subscribe("conn.late", got.append)
            nats_server.pause()
            # Several pongs are missed, and all come when the server goes on.
            await until(lambda: len(bus.client._pongs) >= 3)
            nats_server.resume()
            await until(lambda: not bus.client._pongs)
            assert await bus.publish("conn.late", b"x")
            await until(lambda: got)
            assert not bus.closed.is_set()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(story())


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_connection_whose_reading_has_died_is_made_anew(nats_server, monkeypatch, loop_factory):
    monkeypatch.setattr(connection, "_PONG_TIMEOUT_SECONDS", 0.2)

    async def story() -> None:
        got: list[Any] = []
        async with Bus.open(settings_for(nats_server), name="deaf") as bus:
            await bus.subscribe("conn.deaf", got.append)
            reading = bus.client._reading_task
            assert reading is not None
            reading.cancel()
            publishing = 0
            while not got:
                # Whatever state it is in, publishing never raises.
                await bus.publish("conn.deaf", b"x")
                publishing += 1
                assert publishing < 2_000
                await asyncio.sleep(0.01)
            assert not bus.closed.is_set()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(story())


async def test_withdrawn_messages_are_not_sent_after_the_reconnect_and_the_others_are(
    nats_server, bus
):
    got: list[Any] = []
    await bus.subscribe("conn.kept.*", got.append)
    taken: list[int] = []
    remove = bus.on_disconnect(lambda: taken.append(bus.withdraw({"conn.kept.a", "conn.kept.b"})))
    nats_server.pause()
    block = bytes(512 * 1024)
    # Until the socket is full and the rest stays in the client.
    while bus.pending_bytes < 6 * len(block):
        for name in ("a", "c", "b"):
            assert await bus.publish(f"conn.kept.{name}", block, {"Source": "sim"})
        await asyncio.sleep(0)
    assert await bus.publish("conn.kept.a", b"last")
    assert await bus.publish("conn.kept.c", b"stays")
    nats_server.kill()
    await until(lambda: taken)
    assert taken[0] >= 1
    assert not any(b"conn.kept.a" in command for command in bus.client._pending)
    nats_server.start()
    await until(lambda: any(message.payload == b"stays" for message in got), 20)
    assert all(message.payload != b"last" for message in got)
    remove()
    assert bus.withdraw({"conn.kept.a"}) == 0


async def test_closing_does_not_wait_for_a_frozen_server(nats_server, monkeypatch):
    monkeypatch.setattr(connection, "_DRAIN_DEADLINE_SECONDS", 0.5)  # To save time only.
    async with asyncio.timeout(20):
        async with Bus.open(settings_for(nats_server), name="test") as bus:
            nats_server.pause()
            await bus.publish("conn.x", bytes(1024 * 1024))
    assert bus.state is BusState.CLOSED


async def test_reconnect_callback_is_tried_again_when_it_may_succeed_later(nats_server, bus):
    attempts: list[int] = []

    async def flaky():
        attempts.append(1)
        if len(attempts) < 3:
            raise BusUnavailableError("not ready")

    bus.on_reconnect(flaky)
    nats_server.restart()

    await until(lambda: len(attempts) == 3)
    assert not bus.closed.is_set()


async def test_bug_in_a_reconnect_callback_closes_the_bus_and_reaches_its_owner(nats_server):
    async def broken():
        raise LookupError("bug")

    async def serve():
        async with Bus.open(settings_for(nats_server), name="test") as bus:
            bus.on_reconnect(broken)
            nats_server.restart()
            async with asyncio.timeout(10):
                await bus.closed.wait()

    with pytest.raises(LookupError, match="bug"):
        await serve()


async def test_closed_bus_says_so(shared_nats_server):
    async with Bus.open(settings_for(shared_nats_server), name="test") as bus:
        await bus.client.close()

        assert bus.closed.is_set()
        assert bus.state is BusState.CLOSED
        assert await bus.offer("conn.x", b"") is PublishOutcome.CLOSED
        with pytest.raises(BusClosedError):
            await bus.subscribe("conn.x", lambda _: None)
        with pytest.raises(BusClosedError):
            await bus.request("conn.x")


async def test_error_inside_the_block_is_not_replaced(shared_nats_server):
    with pytest.raises(KeyError):
        async with Bus.open(settings_for(shared_nats_server), name="test"):
            raise KeyError("mine")
