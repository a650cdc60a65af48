"""Everything of uvicorn's WebSocket protocol that the gateway's subclass builds upon.

`services.gateway.wire` writes ready frames past uvicorn's own `send`. A new version of uvicorn may
be taken when these tests, and `tests/integration/test_gateway_*`, pass.
"""

import asyncio
import inspect
import time
from typing import Any

import pytest
import uvicorn
from uvicorn.config import Config
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from services.gateway.wire import EXTENSION, GatewayProtocol, ProtocolWire


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written = b""
        self.closing = False

    def write(self, data: Any) -> None:
        """Keep it."""
        self.written += bytes(data)

    def is_closing(self) -> bool:
        """Whether `close` was called."""
        return self.closing

    def close(self) -> None:
        """Note it."""
        self.closing = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Note them."""
        self.limits = (high, low)

    def get_write_buffer_size(self) -> int:
        """Everything is sent at once."""
        return 0

    def pause_reading(self) -> None:
        """Note it."""
        self.reading = False

    def resume_reading(self) -> None:
        """Note it."""
        self.reading = True


class Owner:
    """Notes what the wire says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def wire_resumed(self) -> None:
        """Note it."""
        self.said.append("resumed")

    def wire_lost(self) -> None:
        """Note it."""
        self.said.append("lost")


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


async def connected(
    ended: asyncio.Event | None = None,
) -> tuple[GatewayProtocol, Transport, ClientProtocol, list[dict[str, Any]]]:
    """Shake hands over a pretended transport; gives what the application saw, too."""
    seen: list[dict[str, Any]] = []
    accepted = asyncio.Event()

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)
        await receive()
        await send({"type": "websocket.accept"})
        accepted.set()
        while (event := await receive())["type"] == "websocket.receive":
            seen.append(event)
        seen.append(event)
        if ended is not None:
            ended.set()

    config = Config(application, ws=GatewayProtocol, ws_per_message_deflate=False, lifespan="off")
    config.load()
    protocol = GatewayProtocol(config, ServerState(), {}, _loop=asyncio.get_running_loop())
    transport = Transport()
    protocol.connection_made(transport)
    client = ClientProtocol(parse_uri("ws://localhost/ws/ticks?token=x"))
    client.send_request(client.connect())
    protocol.data_received(b"".join(client.data_to_send()))
    async with asyncio.timeout(5):
        await accepted.wait()
    client.receive_data(transport.written)
    client.events_received()
    transport.written = b""
    return protocol, transport, client, seen


def test_version_of_uvicorn_is_the_one_that_was_read():
    assert uvicorn.__version__.startswith("0.54.")


def test_methods_that_are_overridden_or_called_exist_with_their_parameters():
    expected = {
        "handle_connect": ["self", "event"],
        "handle_ping": ["self"],
        "handle_parser_exception": ["self"],
        "pause_writing": ["self"],
        "resume_writing": ["self"],
        "connection_lost": ["self", "exc"],
    }
    for name, parameters in expected.items():
        method = getattr(WebSocketsSansIOProtocol, name)
        assert list(inspect.signature(method).parameters) == parameters, name


async def test_attributes_that_are_read_or_set_exist():
    protocol, transport, _, _ = await connected()
    for name in (
        "close_sent",
        "close_timeout",
        "close_timer",
        "config",
        "conn",
        "disconnected",
        "handshake_complete",
        "loop",
        "queue",
        "read_paused",
        "scope",
        "transport",
    ):
        assert hasattr(protocol, name), name
    assert protocol.config.ws_max_size > 0
    transport.close()
    protocol.connection_lost(None)


async def test_application_finds_the_protocol_in_its_scope():
    protocol, _, _, seen = await connected()
    assert seen[0]["extensions"][EXTENSION] is protocol
    protocol.connection_lost(None)


async def test_frame_written_past_uvicorn_arrives_beside_its_own():
    protocol, transport, client, _ = await connected()
    wire = ProtocolWire(protocol)
    wire.write(b"\x81\x02hi")
    protocol.conn.send_ping(b"p")
    transport.write(b"".join(protocol.conn.data_to_send()))
    wire.write(b"\x81\x03you")
    client.receive_data(transport.written)
    frames: list[Any] = client.events_received()
    assert [bytes(frame.data) for frame in frames] == [b"hi", b"p", b"you"]
    protocol.connection_lost(None)


async def test_pause_resume_and_loss_reach_the_owner():
    protocol, _, _, _ = await connected()
    wire = ProtocolWire(protocol)
    owner = Owner()
    wire.attach(owner)
    protocol.pause_writing()
    paused = (wire.is_paused, wire.stalled_seconds((protocol.paused_at or 0.0) + 7))
    protocol.resume_writing()
    resumed = (wire.is_paused, wire.stalled_seconds(time.monotonic()))
    assert (paused, resumed) == ((True, 7), (False, 0))
    protocol.connection_lost(None)
    assert owner.said == ["resumed", "lost"]
    assert not wire.is_open


async def test_closing_sends_the_code_ends_the_application_and_stops_writing():
    ended = asyncio.Event()
    protocol, transport, client, seen = await connected(ended)
    wire = ProtocolWire(protocol)
    wire.close(4401, "token_expired")
    wire.write(b"\x81\x02no")
    client.receive_data(transport.written)
    assert client.close_rcvd is not None
    assert client.close_rcvd.code == 4401
    async with asyncio.timeout(5):
        await ended.wait()
    assert seen[-1]["type"] == "websocket.disconnect"
    assert not wire.is_open
    protocol.data_received(b"".join(client.data_to_send()))
    assert transport.closing
    protocol.connection_lost(None)


async def test_pongs_are_withheld_from_a_client_that_does_not_read():
    protocol, transport, client, _ = await connected()
    client.send_ping(b"a")
    protocol.data_received(b"".join(client.data_to_send()))
    assert transport.written
    transport.written = b""
    protocol.pause_writing()
    client.send_ping(b"b")
    protocol.data_received(b"".join(client.data_to_send()))
    assert transport.written == b""
    protocol.connection_lost(None)


async def test_message_beyond_the_bound_is_explained_before_the_close_frame():
    protocol, transport, client, _ = await connected()
    client.send_text(b"x" * (protocol.config.ws_max_size + 1))
    protocol.data_received(b"".join(client.data_to_send()))
    client.receive_data(transport.written)
    first: Any = client.events_received()[0]
    assert b"message_too_big" in first.data
    assert client.close_rcvd is not None
    assert client.close_rcvd.code == 1009
    protocol.connection_lost(None)
