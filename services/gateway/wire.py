"""How bytes reach a client: straight into uvicorn's transport, or over plain ASGI elsewhere.

`await send` blocks for ever on a peer that never reads once 64 KB wait for it (uvicorn 0.54), so
no code that serves several clients may await it. On uvicorn the gateway writes ready frames to the
transport and obeys its pause and resume; on any other server one task per client does the waiting.
"""

import asyncio
import contextlib
import socket
import struct
import sys
import time
from collections import deque
from typing import Any, Final, Protocol

from starlette.types import Scope, Send
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from libs.common import logs
from libs.common.contracts import codec
from libs.common.contracts.websocket import CloseCode, ErrorCode, ErrorMessage
from services.gateway import metrics
from services.gateway.domain.ws_frames import payloads, text_frame

EXTENSION: Final = "tickfleet.protocol"
"""Key in `scope["extensions"]` under which the protocol object is found."""

WRITE_HIGH_WATER_BYTES: Final = 16 * 1024
NOTSENT_LOWAT_BYTES: Final = 16 * 1024
_TCP_NOTSENT_LOWAT: Final = 25  # Linux; Python's socket module does not name it.
CONTROL_BYTES_MAX: Final = 512 * 1024
"""More than this waiting for a client, ticks being held back already, ends its connection."""

log = logs.get_logger(__name__)


class WireOwner(Protocol):
    """Who wants to know about a wire."""

    def wire_resumed(self) -> None:
        """The client reads again: ticks that wait may be written."""

    def wire_lost(self) -> None:
        """The connection is gone for good."""


class Wire(Protocol):
    """One client's end of the line. No method waits."""

    @property
    def is_open(self) -> bool:
        """Whether frames may still be written."""

    @property
    def is_paused(self) -> bool:
        """Whether the client has not yet taken what was written."""

    def attach(self, owner: WireOwner) -> None:
        """Name who is told of resume and loss."""

    def write(self, frames: bytes) -> None:
        """Write ready frames; dropped when the wire is no longer open."""

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake."""

    def stalled_seconds(self, now: float) -> float:
        """For how long the client has taken nothing; 0 while all is well."""

    def waiting_bytes(self) -> int:
        """Bytes written that the operating system has not taken yet."""

    def reset(self) -> None:
        """Drop the connection at once, whatever waits."""


class GatewayProtocol(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol, exposed to the application through the scope.

    It adds no behaviour to a connection that keeps to the rules. `tests/contract` pins everything
    of the base class that is used here.
    """

    owner: WireOwner | None = None
    paused_at: float | None = None
    closing_at: float | None = None

    def handle_connect(self, event: Any) -> None:
        """Answer the handshake; the application task starts with its first await."""
        super().handle_connect(event)
        if not self.close_sent:
            extensions: dict[str, Any] = self.scope["extensions"]
            extensions[EXTENSION] = self

    def pause_writing(self) -> None:
        """The client is not reading."""
        super().pause_writing()
        self.paused_at = time.monotonic()

    def resume_writing(self) -> None:
        """The client has read."""
        super().resume_writing()
        self.paused_at = None
        if self.owner is not None:
            self.owner.wire_resumed()

    def connection_lost(self, exc: Exception | None) -> None:
        """The transport is gone."""
        super().connection_lost(exc)
        if self.owner is not None:
            self.owner.wire_lost()
            self.owner = None

    def handle_ping(self) -> None:
        """Answer pings, but not those of a client that does not read: pongs would pile up."""
        if self.paused_at is None:
            super().handle_ping()
        else:
            self.conn.data_to_send()
            metrics.PONGS_DROPPED_TOTAL.inc()

    def handle_parser_exception(self) -> None:
        """Say what was wrong before the close frame that the parser has prepared."""
        sent = self.conn.close_sent
        if sent is not None and sent.code == CloseCode.TOO_BIG and self.handshake_complete:
            metrics.CONNECTIONS_ENDED_TOTAL.labels(reason="too_big").inc()
            self.transport.write(_too_big(self.config.ws_max_size))
        super().handle_parser_exception()


class ProtocolWire:
    """A wire that is uvicorn's own transport."""

    def __init__(self, protocol: GatewayProtocol) -> None:
        self._protocol = protocol
        protocol.transport.set_write_buffer_limits(high=WRITE_HIGH_WATER_BYTES)
        sock = self._socket()
        if sock is not None and sys.platform == "linux":
            # Otherwise 0.7 MB of old ticks sit in the kernel for a slow reader.
            with contextlib.suppress(OSError):  # Not TCP: a Unix socket has no such option.
                sock.setsockopt(socket.IPPROTO_TCP, _TCP_NOTSENT_LOWAT, NOTSENT_LOWAT_BYTES)

    @property
    def is_open(self) -> bool:
        """Whether frames may still be written."""
        protocol = self._protocol
        return not (protocol.close_sent or protocol.disconnected or protocol.transport.is_closing())

    @property
    def is_paused(self) -> bool:
        """Whether the transport asked for a pause."""
        return self._protocol.paused_at is not None

    def attach(self, owner: WireOwner) -> None:
        """Name who is told of resume and loss."""
        if self._protocol.disconnected:
            owner.wire_lost()
        else:
            self._protocol.owner = owner

    def write(self, frames: bytes) -> None:
        """Write ready frames."""
        if self.is_open:
            self._protocol.transport.write(frames)

    def close(self, code: int, reason: str) -> None:
        """Begin the closing handshake, as uvicorn does for `websocket.close`, without waiting."""
        protocol = self._protocol
        if not self.is_open:
            return
        protocol.queue.put_nowait({"type": "websocket.disconnect", "code": code, "reason": reason})
        protocol.conn.send_close(code, reason)
        protocol.transport.write(b"".join(protocol.conn.data_to_send()))
        protocol.close_sent = True
        if protocol.read_paused:
            # The peer's close frame must be read.
            protocol.read_paused = False
            protocol.transport.resume_reading()
        protocol.close_timer = protocol.loop.call_later(
            protocol.close_timeout, protocol.transport.close
        )

    def stalled_seconds(self, now: float) -> float:
        """For how long writing has been paused, or closing has not come to its end."""
        protocol = self._protocol
        if protocol.closing_at is None and (protocol.close_sent or protocol.transport.is_closing()):
            protocol.closing_at = now
        since = [at for at in (protocol.paused_at, protocol.closing_at) if at is not None]
        return now - min(since) if since and not protocol.disconnected else 0.0

    def waiting_bytes(self) -> int:
        """What the transport holds."""
        return self._protocol.transport.get_write_buffer_size()

    def reset(self) -> None:
        """Send a reset: `close` and even `abort` alone would wait for data nobody reads."""
        sock = self._socket()
        if sock is not None:
            with contextlib.suppress(OSError):  # Already gone.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._protocol.transport.abort()

    def _socket(self) -> socket.socket | None:
        sock: socket.socket | None = self._protocol.transport.get_extra_info("socket")
        return sock


class AsgiWire:
    """A wire over any ASGI server: one task takes what was written and waits for the client."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._owner: WireOwner | None = None
        self._queue: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._busy_since: float | None = None
        self._closing: tuple[int, str] | None = None
        self._lost = False
        self._task: asyncio.Task[None] | None = None

    @property
    def is_open(self) -> bool:
        """Whether frames may still be written."""
        return self._closing is None and not self._lost

    @property
    def is_paused(self) -> bool:
        """Whether the last write is still under way."""
        return self._busy_since is not None

    def attach(self, owner: WireOwner) -> None:
        """Name who is told of resume and loss."""
        self._owner = owner

    def write(self, frames: bytes) -> None:
        """Queue ready frames; the server frames their payloads anew."""
        if self.is_open:
            self._queue.append(frames)
            self._waiting_bytes += len(frames)
            self._start()

    def close(self, code: int, reason: str) -> None:
        """Close once everything queued is sent."""
        if self.is_open:
            self._closing = (code, reason)
            self._start()

    def stalled_seconds(self, now: float) -> float:
        """For how long one send has been under way."""
        return 0.0 if self._busy_since is None else now - self._busy_since

    def waiting_bytes(self) -> int:
        """What is queued here; the server's own buffer is out of sight."""
        return self._waiting_bytes

    def reset(self) -> None:
        """Give the connection up; the server drops it when the application returns."""
        if self._task is not None:
            self._task.cancel()
        self.lost()

    def lost(self) -> None:
        """Note that the server reported the end of the connection."""
        if self._lost:
            return
        self._lost = True
        self._queue.clear()
        self._waiting_bytes = 0
        if self._owner is not None:
            self._owner.wire_lost()

    async def drained(self) -> None:
        """Wait until everything queued is sent; the application must not return before."""
        if self._task is not None:
            await asyncio.wait([self._task])

    def _start(self) -> None:
        if self._task is None or self._task.done():
            self._busy_since = time.monotonic()
            self._task = asyncio.create_task(self._drain(), name="asgi-wire")

    async def _drain(self) -> None:
        try:
            while self._queue:
                frames = self._queue.popleft()
                self._waiting_bytes -= len(frames)
                for payload in payloads(frames):
                    self._busy_since = time.monotonic()
                    await self._send({"type": "websocket.send", "text": payload.decode()})
            if self._closing is not None:
                code, reason = self._closing
                await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except (OSError, RuntimeError) as error:
            # What servers raise once the client is gone differs; all of it means just that.
            log.debug("wire.lost", error=repr(error))
            self.lost()
        finally:
            self._busy_since = None
        if self._owner is not None and self.is_open:
            self._owner.wire_resumed()


def protocol_in(scope: Scope) -> GatewayProtocol | None:
    """Find uvicorn's protocol object, if the server is ours."""
    protocol = scope.get("extensions", {}).get(EXTENSION)
    return protocol if isinstance(protocol, GatewayProtocol) else None


def _too_big(limit: int) -> bytes:
    return text_frame(
        codec.to_json(
            ErrorMessage(
                message=f"a message may have {limit} bytes at most",
                code=ErrorCode.MESSAGE_TOO_BIG,
            )
        )
    )
