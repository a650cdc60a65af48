"""One connection to NATS that reconnects for ever, notices a black hole and bounds its buffer."""

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from enum import StrEnum
from inspect import isawaitable
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg
from pydantic import SecretStr

from libs.common import logs
from libs.common.bus import metrics
from libs.common.bus.errors import (
    BusClosedError,
    BusUnavailableError,
    ConnectDeadlineError,
    NoResponderError,
    RequestTimeoutError,
    translated,
)
from libs.common.bus.tasks import OwnedTasks
from libs.common.errors import RetryableError

if TYPE_CHECKING:
    from nats.js import JetStreamContext

MIB = 1024 * 1024
PENDING_LIMIT_BYTES = 8 * MIB
# Requests to the JetStream API may still enter the client's buffer when publishers may not.
_PENDING_SLACK_BYTES = 4 * MIB
_PING_INTERVAL_SECONDS = 5
_PINGS_OUTSTANDING = 2
_TCP_USER_TIMEOUT_MS = 5_000
_CONNECT_TIMEOUT_SECONDS = 2
_RECONNECT_WAIT_SECONDS = 0.3
_WATCH_INTERVAL_SECONDS = 1.0
_PONG_TIMEOUT_SECONDS = 2.0
# Two in a row: one may be missed by a process that was itself paused or busy.
_PONGS_MISSED = 2
_ROOM_PATIENCE_SECONDS = 0.25
_ROOM_POLL_SECONDS = 0.002
_DRAIN_DEADLINE_SECONDS = 3.0
_CALLBACK_RETRY_SECONDS = 0.5
_ERROR_LOG_INTERVAL_SECONDS = 10.0
# The commands by which a message leaves, and where their subject ends at the latest.
_PUBLISH_VERBS = frozenset({b"PUB", b"HPUB"})
_SUBJECT_WITHIN_BYTES = 512
_SOCKET_ENDINGS = (OSError, nats.errors.StaleConnectionError)

log = logs.get_logger(__name__)


class ConnectionSettings(Protocol):
    """What `Bus.open` needs to know; `libs.common.settings.NatsSettings` has it."""

    @property
    def urls(self) -> list[str]:
        """Server URLs, without credentials."""

    @property
    def nats_user(self) -> str | None:
        """User name, or None."""

    @property
    def nats_password(self) -> SecretStr | None:
        """Password, or None."""

    @property
    def nats_connect_deadline_seconds(self) -> float:
        """Give up on the first connect after this."""


class BusState(StrEnum):
    """Where the connection stands."""

    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class PublishOutcome(StrEnum):
    """What became of a message that was offered for publishing."""

    SENT = "sent"
    BUFFER_FULL = "buffer_full"
    CLOSED = "closed"
    INVALID = "invalid"


class BusMessage(msgspec.Struct, frozen=True, gc=False):
    """A message of a core subscription, or the answer to a request.

    Attributes:
        subject: Where it was published.
        payload: Its bytes.
        headers: Its headers, None when it has none.
        reply: Where an answer is wanted; empty when none is.
    """

    subject: str
    payload: bytes
    headers: dict[str, str] | None
    reply: str


class Subscription(Protocol):
    """A core subscription that stands until it is ended."""

    @property
    def pending_msgs(self) -> int:
        """Messages received but not yet given to the callback."""

    async def unsubscribe(self) -> None:
        """End it; what has not been given to the callback is dropped."""


class Bus:
    """A connection to NATS; open it with `Bus.open`.

    It reconnects for ever. Three guards notice a peer that is silent but not gone, which nats-py
    alone never leaves while unsent data remains: pings every 5 s, `TCP_USER_TIMEOUT` on the socket
    and a watchdog that aborts the transport when two pongs in a row are late (about 5 s).

    Attributes:
        client: The nats-py client, for what this class does not offer.
        jetstream: Its JetStream context.
        closed: Set when the connection is closed for good, or when a background task of the bus
            failed; the process should end.
    """

    def __init__(self, settings: ConnectionSettings, *, name: str) -> None:
        self.client = Client()
        self.closed = asyncio.Event()
        self._settings = settings
        self._name = name
        self._state = BusState.RECONNECTING
        self._stopping = asyncio.Event()
        self._reconnected = asyncio.Event()
        self._on_reconnect: list[Callable[[], Awaitable[None]]] = []
        self._on_disconnect: list[Callable[[], None]] = []
        # A lost guard is as bad as a lost connection: both set `closed`.
        self._tasks = OwnedTasks(failed=self.closed)
        self._generation = 0
        self._congested = False
        self._last_error = "no answer"
        self._server_said = False
        self._error_logged_at: dict[str, float] = {}
        self.jetstream: JetStreamContext = self.client.jetstream()

    @classmethod
    @asynccontextmanager
    async def open(cls, settings: ConnectionSettings, *, name: str) -> AsyncIterator[Self]:
        """Connect, and close again at the end of the block.

        Args:
            settings: Where the server is and how long the first connect may take.
            name: Shown in the server's monitoring.

        Raises:
            ConnectDeadlineError: If the first connect does not succeed in time.
            Exception: What a background task of the bus raised, such as an `on_reconnect`
                callback, once the block has ended without an error of its own.
        """
        bus = cls(settings, name=name)
        await bus._connect()
        try:
            yield bus
        finally:
            await bus._shut_down()
        bus._tasks.raise_failure()

    @property
    def state(self) -> BusState:
        """Whether messages flow right now."""
        return self._state

    @property
    def is_connected(self) -> bool:
        """Whether the connection stands; a frozen peer is noticed after some seconds."""
        return self._state is BusState.CONNECTED and self.client.is_connected

    @property
    def pending_bytes(self) -> int:
        """Bytes waiting in the client: the back-pressure signal of publishers."""
        return self.client.pending_data_size

    def on_reconnect(self, callback: Callable[[], Awaitable[None]]) -> Callable[[], None]:
        """Have a callback awaited after every reconnect, in order of registration.

        A callback that fails with a RetryableError is tried again while the connection stands;
        any other exception closes the bus and is raised by its context manager.

        Returns:
            A function that removes the callback again.
        """
        self._on_reconnect.append(callback)

        def remove() -> None:
            if callback in self._on_reconnect:
                self._on_reconnect.remove(callback)

        return remove

    def on_disconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Have a callback called when the connection is lost, before the next attempt.

        Returns:
            A function that removes the callback again.
        """
        self._on_disconnect.append(callback)

        def remove() -> None:
            if callback in self._on_disconnect:
                self._on_disconnect.remove(callback)

        return remove

    def withdraw(self, subjects: AbstractSet[str]) -> int:
        """Take back what was published on these subjects but still waits in the client.

        For publishers whose right to publish may end before the server is back: the client would
        send it after the reconnect, whatever has become of that right.

        Returns:
            How many messages were taken back.
        """
        client = self.client
        wanted = {subject.encode() for subject in subjects}
        kept: list[bytes] = []
        taken = 0
        for command in client._pending:  # noqa: SLF001  # No public way to it.
            words = command[:_SUBJECT_WITHIN_BYTES].split(b" ", 2)
            if len(words) == 3 and words[0] in _PUBLISH_VERBS and words[1] in wanted:
                client._pending_data_size -= len(command)  # noqa: SLF001
                taken += 1
            else:
                kept.append(command)
        client._pending[:] = kept  # noqa: SLF001
        return taken

    async def publish(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> bool:
        """Publish without waiting for an acknowledgement; see `offer` for what may happen.

        Returns:
            False if the message was dropped (and counted) instead.
        """
        return await self.offer(subject, payload, headers) is PublishOutcome.SENT

    async def publish_all(self, messages: Sequence[tuple[str, bytes]]) -> int:
        """Publish many small messages in one go, as `publish` would do one by one, in order.

        Nobody else has a turn in between unless there is no room: keep the pieces small.

        Args:
            messages: Subject and payload of each.

        Returns:
            How many were taken; the others were dropped (and counted).
        """
        if not self._takes_all(messages):
            return sum([await self.publish(subject, payload) for subject, payload in messages])
        self._congested = False
        client = self.client
        commands = [
            b"PUB %b %d\r\n%b\r\n" % (subject.encode(), len(payload), payload)
            for subject, payload in messages
        ]
        # What the client does for every message with four coroutines; no public way to it.
        client._pending += commands  # noqa: SLF001
        client._pending_data_size += sum(map(len, commands))  # noqa: SLF001
        client.stats["out_msgs"] += len(messages)
        client.stats["out_bytes"] += sum(len(payload) for _, payload in messages)
        await client._flush_pending()  # noqa: SLF001
        metrics.PUBLISHED_TOTAL.inc(len(messages))
        return len(messages)

    def _takes_all(self, messages: Sequence[tuple[str, bytes]]) -> bool:
        """Whether nothing can happen to these messages that must be looked at one by one."""
        client = self.client
        sizes = [len(payload) for _, payload in messages]
        subjects = [subject for subject, _ in messages]
        return (
            bool(sizes)
            and self.is_connected
            and not client.is_draining_pubs
            and client.pending_data_size + sum(sizes) <= PENDING_LIMIT_BYTES
            and max(sizes) <= client.max_payload
            and all(subjects)
            # White space in a subject would end it, and a line break the command.
            and len("".join(subjects).split()) == 1
        )

    async def offer(
        self,
        subject: str,
        payload: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        reply: str = "",
    ) -> PublishOutcome:
        """Publish without waiting for an acknowledgement; never raises for a state of the bus.

        While NATS is away up to 8 MiB wait and are sent after the reconnect; more is dropped,
        since old market data has no value. While connected but congested the first publish waits
        0.25 s at most for room, later ones drop at once until there is room again.

        Args:
            subject: A subject without wildcards.
            payload: At most the server's max_payload.
            headers: Text headers; together with the payload within max_payload.
            reply: Where the server says so when nobody receives the message.
        """
        client = self.client
        size = len(payload)
        if headers:
            size += sum(len(key) + len(value) + 4 for key, value in headers.items()) + 12
        if client.pending_data_size + size > PENDING_LIMIT_BYTES:
            if not await self._room_for(size):
                return self._dropped(PublishOutcome.BUFFER_FULL)
        elif self._congested:
            self._congested = False
        # nats-py compares the payload alone; the server counts headers too and would close the
        # connection of a publisher that exceeds its limit.
        if size > client.max_payload:
            log.error("bus.publish_invalid", subject=subject, size_bytes=size, reason="too large")
            return self._dropped(PublishOutcome.INVALID)
        try:
            await client.publish(
                subject, payload, reply=reply, headers=dict(headers) if headers else None
            )
        except nats.errors.OutboundBufferLimitError:
            return self._dropped(PublishOutcome.BUFFER_FULL)
        except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError):
            return self._dropped(PublishOutcome.CLOSED)
        except (
            nats.errors.MaxPayloadError,
            nats.errors.BadSubjectError,
            nats.errors.BadHeaderError,
        ):
            log.exception("bus.publish_invalid", subject=subject, size_bytes=size)
            return self._dropped(PublishOutcome.INVALID)
        except RuntimeError:
            # uvloop's transport has closed and nats-py does not know yet: the message waits in the
            # client and goes out after the reconnect.
            log.debug("bus.transport_closed", subject=subject)
        metrics.PUBLISHED_TOTAL.inc()
        return PublishOutcome.SENT

    async def subscribe(
        self,
        subject: str,
        callback: Callable[[BusMessage], Awaitable[None] | None],
        queue: str | None = None,
        *,
        pending_bytes_limit: int = 64 * MIB,
    ) -> Subscription:
        """Receive core messages; the callback runs for one message at a time, in order.

        A slow callback makes the client drop the newest messages beyond `pending_bytes_limit`,
        counted as SlowConsumerError. What a callback raises is logged and counted; the
        subscription goes on.

        Args:
            subject: May hold wildcards.
            callback: Sync or async.
            queue: Members of one queue group share the messages.
            pending_bytes_limit: How much may wait for the callback.

        Raises:
            BusClosedError: If the bus is closed.
        """

        async def deliver(msg: Msg) -> None:
            try:
                outcome = callback(_own_message(msg))
                if isawaitable(outcome):
                    await outcome
            except Exception:
                metrics.CALLBACK_FAILURES_TOTAL.inc()
                log.exception("bus.callback_failed", subject=msg.subject)

        with translated():
            return await self.client.subscribe(
                subject,
                queue=queue or "",
                cb=deliver,
                pending_bytes_limit=pending_bytes_limit,
            )

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout_seconds: float = 2.0,
        headers: Mapping[str, str] | None = None,
    ) -> BusMessage:
        """Ask whoever serves a subject, and wait for the first answer.

        Raises:
            NoResponderError: Nobody serves it; nothing was delivered.
            RequestTimeoutError: No answer in time; the effect is unknown.
            BusUnavailableError: The connection is down; nothing was sent.
            BusClosedError: The bus is closed.
        """
        if not self.is_connected and not self.client.is_closed:
            # nats-py would buffer it and send it after the reconnect, when nobody waits any more.
            raise BusUnavailableError("not connected")
        try:
            with translated():
                msg = await self._request(subject, payload, timeout_seconds, headers)
        except BusUnavailableError as error:
            if isinstance(error.__cause__, nats.errors.NoRespondersError):
                raise NoResponderError(subject) from error
            if isinstance(error.__cause__, TimeoutError):
                raise RequestTimeoutError(subject, timeout_seconds) from error
            raise
        return _own_message(msg)

    async def _request(
        self,
        subject: str,
        payload: bytes,
        timeout_seconds: float,
        headers: Mapping[str, str] | None,
    ) -> Msg:
        return await self.client.request(
            subject,
            payload,
            timeout=timeout_seconds,
            headers=dict(headers) if headers else None,
        )

    def _dropped(self, outcome: PublishOutcome) -> PublishOutcome:
        metrics.DROPPED_TOTAL.labels(reason=outcome.value).inc()
        return outcome

    async def _room_for(self, size: int) -> bool:
        if self._congested:
            return False
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _ROOM_PATIENCE_SECONDS
        while self.client.is_connected and loop.time() < deadline:
            # Even a healthy server needs the loop to run: the client's flusher is a task.
            await asyncio.sleep(_ROOM_POLL_SECONDS)
            if self.client.pending_data_size + size <= PENDING_LIMIT_BYTES:
                return True
        self._congested = True
        return False

    async def _connect(self) -> None:
        settings = self._settings
        password = settings.nats_password
        deadline_seconds = settings.nats_connect_deadline_seconds
        try:
            async with asyncio.timeout(deadline_seconds):
                await self.client.connect(
                    servers=list(settings.urls),
                    name=self._name,
                    user=settings.nats_user,
                    password=password.get_secret_value() if password is not None else None,
                    error_cb=self._error_reported,
                    disconnected_cb=self._was_disconnected,
                    reconnected_cb=self._was_reconnected,
                    closed_cb=self._was_closed,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=_RECONNECT_WAIT_SECONDS,  # type: ignore[arg-type]  # A float works: it goes to sleep().
                    connect_timeout=_CONNECT_TIMEOUT_SECONDS,
                    ping_interval=_PING_INTERVAL_SECONDS,
                    max_outstanding_pings=_PINGS_OUTSTANDING,
                    pending_size=PENDING_LIMIT_BYTES + _PENDING_SLACK_BYTES,
                    drain_timeout=int(_DRAIN_DEADLINE_SECONDS),
                )
        except TimeoutError as error:
            await self._close_client()
            raise ConnectDeadlineError(
                urls=settings.urls, deadline_seconds=deadline_seconds, reason=self._last_error
            ) from error
        except nats.errors.Error as error:
            await self._close_client()
            raise ConnectDeadlineError(
                urls=settings.urls, deadline_seconds=deadline_seconds, reason=repr(error)
            ) from error
        self._set_state(BusState.CONNECTED)
        self._bound_socket()
        self._tasks.spawn(self._watch(), name="bus-watchdog")
        self._tasks.spawn(self._run_reconnect_callbacks(), name="bus-reconnect-callbacks")
        log.info("bus.connected", name=self._name, urls=settings.urls)

    def _set_state(self, state: BusState) -> None:
        self._state = state
        metrics.CONNECTED.set(1 if state is BusState.CONNECTED else 0)

    def _bound_socket(self) -> None:
        """Let the kernel give up on unacknowledged data after 5 s (Linux only)."""
        option = getattr(socket, "TCP_USER_TIMEOUT", None)
        transport = self._writer_transport()
        if option is None or transport is None:
            return
        own = transport.get_extra_info("socket")
        if own is None:
            return
        # A duplicate descriptor of the same socket: works for asyncio's and uvloop's wrappers.
        with socket.socket(fileno=os.dup(own.fileno())) as duplicate:
            if duplicate.family in {socket.AF_INET, socket.AF_INET6}:
                duplicate.setsockopt(socket.IPPROTO_TCP, option, _TCP_USER_TIMEOUT_MS)

    def _writer_transport(self) -> Any:
        """The asyncio transport under the client, None for a WebSocket or before the connect."""
        writer = getattr(self.client._transport, "_io_writer", None)  # noqa: SLF001  # No public way to it.
        return None if writer is None else writer.transport

    def _abort(self, reason: str) -> None:
        transport = self._writer_transport()
        metrics.ABORTS_TOTAL.inc()
        log.warning("bus.aborting_connection", reason=reason)
        if transport is not None:
            transport.abort()

    async def _watch(self) -> None:
        """Abort a connection whose peer is silent; close the bus if nothing reconnects."""
        missed = 0
        closing_since = 0.0
        while not self._stopping.is_set():
            if missed == 0:
                await self._pause(_WATCH_INTERVAL_SECONDS)
            metrics.PENDING_BYTES.set(self.client.pending_data_size)
            if self.client.is_connected:
                closing_since = 0.0
                missed = 0 if await self._pong_arrives() else missed + 1
                if missed >= _PONGS_MISSED:
                    missed = 0
                    self._abort("no pong")
                    # The read loop notices the abort, unless it has died.
                    await self.client.force_reconnect()
                continue
            missed = 0
            if not self.client.is_reconnecting:
                continue
            task = self.client._reconnection_task  # noqa: SLF001  # The only sign of a dead reconnect.
            if task is not None and task.done():
                log.error("bus.reconnect_task_died", error=repr(_error_of(task)))
                await self._close_client()
            elif self._state is BusState.CONNECTED:
                # nats-py left the connection but still waits for its old transport to drain into
                # a peer that does not read; it announces the disconnect only afterwards.
                now = time.monotonic()
                closing_since = closing_since or now
                if now - closing_since > _PONG_TIMEOUT_SECONDS:
                    self._abort("old transport does not close")

    async def _pong_arrives(self) -> bool:
        generation = self._generation
        loop = asyncio.get_running_loop()
        pong: asyncio.Future[bool] = loop.create_future()
        started = loop.time()
        try:
            # Not flush(): that returns at once, without a ping, when the read loop has died. Not
            # rtt(): it cancels the future of a late pong, and the read loop dies when that comes.
            await self.client._send_ping(pong)  # noqa: SLF001  # No public way that survives it.
            done, _ = await asyncio.wait({pong}, timeout=_PONG_TIMEOUT_SECONDS)
        except (nats.errors.Error, OSError, RuntimeError, AttributeError):
            # AttributeError, RuntimeError: the transport was replaced or closed under the ping.
            done = set()
        if done:
            metrics.ROUND_TRIP_SECONDS.set(loop.time() - started)
        # A reconnect in between drops outstanding pings, so only a silence of one and the same
        # connection counts.
        return bool(done) or generation != self._generation

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return

    async def _run_reconnect_callbacks(self) -> None:
        while True:
            await self._reconnected.wait()
            if self._stopping.is_set():
                return
            self._reconnected.clear()
            for callback in list(self._on_reconnect):
                await self._call_until_done(callback)

    async def _call_until_done(self, callback: Callable[[], Awaitable[None]]) -> None:
        while not self._stopping.is_set() and self.is_connected:
            try:
                await callback()
            except RetryableError as error:
                log.warning("bus.reconnect_callback_failed", error=str(error))
                await self._pause(_CALLBACK_RETRY_SECONDS)
            else:
                return

    async def _error_reported(self, error: Exception) -> None:
        kind = type(error).__name__
        metrics.ERRORS_TOTAL.labels(kind=kind).inc()
        # After a refusal the server closes the socket, and a later attempt may meet a reset: what
        # the server said explains more than how the socket ended.
        if not (isinstance(error, _SOCKET_ENDINGS) and self._server_said):
            self._last_error = str(error) or kind
            self._server_said = not isinstance(error, _SOCKET_ENDINGS)
        if not self.client.is_connected:
            # A handshake that failed: nats-py forgets its socket without closing it.
            transport = self._writer_transport()
            if transport is not None and not transport.is_closing():
                transport.abort()
        # One slow consumer reports every message it drops: the counter tells, the log would drown.
        now = time.monotonic()
        if now - self._error_logged_at.get(kind, -_ERROR_LOG_INTERVAL_SECONDS) >= (
            _ERROR_LOG_INTERVAL_SECONDS
        ):
            self._error_logged_at[kind] = now
            log.warning("bus.error", kind=kind, error=str(error))

    async def _was_disconnected(self) -> None:
        if not self.client.is_closed:
            self._set_state(BusState.RECONNECTING)
            log.warning("bus.disconnected", name=self._name)
            for callback in list(self._on_disconnect):
                callback()

    async def _was_reconnected(self) -> None:
        # Runs inside nats-py's reconnect task, which is cancelled if the connection breaks again:
        # only note it here, the callbacks run in a task of our own.
        self._generation += 1
        self._server_said = False
        self._bound_socket()
        self._set_state(BusState.CONNECTED)
        metrics.RECONNECTS_TOTAL.inc()
        self._reconnected.set()
        log.info("bus.reconnected", name=self._name)

    async def _was_closed(self) -> None:
        self._set_state(BusState.CLOSED)
        if not self._stopping.is_set():
            log.error("bus.closed", name=self._name, error=self._last_error)
        self.closed.set()

    async def _shut_down(self) -> None:
        self._stopping.set()
        self._reconnected.set()
        await self._tasks.finish(patience_seconds=_PONG_TIMEOUT_SECONDS + 0.5)
        if self.client.is_connected:
            draining = asyncio.create_task(self._drain(), name="bus-drain")
            _, late = await asyncio.wait({draining}, timeout=_DRAIN_DEADLINE_SECONDS)
            if late:
                # The peer does not read: without the abort the close would wait for it too.
                self._abort("drain deadline")
                await asyncio.wait({draining}, timeout=1.0)
                draining.cancel()
        await self._close_client()
        self._set_state(BusState.CLOSED)
        self.closed.set()

    async def _drain(self) -> None:
        try:
            await self.client.drain()
        except (nats.errors.Error, OSError) as error:
            log.warning("bus.drain_failed", error=repr(error))

    async def _close_client(self) -> None:
        if self.client.is_closed:
            return
        closing = asyncio.create_task(self.client.close(), name="bus-close")
        _, late = await asyncio.wait({closing}, timeout=1.0)
        if late:
            self._abort("close deadline")
            _, late = await asyncio.wait({closing}, timeout=1.0)
        if late:
            closing.cancel()
        elif (error := _error_of(closing)) is not None:
            log.warning("bus.close_failed", error=repr(error))
        self._set_state(BusState.CLOSED)
        self.closed.set()

    def require_open(self) -> None:
        """Raise BusClosedError if the bus is closed for good."""
        if self.closed.is_set():
            raise BusClosedError


def _own_message(msg: Msg) -> BusMessage:
    return BusMessage(msg.subject, msg.data, msg.headers, msg.reply)


def _error_of(task: asyncio.Task[Any]) -> BaseException | None:
    return None if task.cancelled() else task.exception()
