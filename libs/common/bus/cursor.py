"""An ordered reader of a stream that survives restarts of the server and breaks in its numbering.

nats-py's `fetch` costs 15 us a message and its ordered consumer never recovers when started by
time, so this is a pull loop of our own: one ephemeral consumer without acknowledgements, one pull
request at a time (bounded in messages and bytes), and a new consumer wherever the old one stopped.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from enum import StrEnum
from inspect import isawaitable
from typing import Any, Self

import msgspec
import nats.errors
from nats.aio.msg import Msg
from nats.nuid import NUID

from libs.common import logs
from libs.common.bus import api, metrics
from libs.common.bus.connection import MIB, Bus, Subscription
from libs.common.bus.errors import (
    CONSUMER_NOT_FOUND,
    MESSAGE_NOT_FOUND,
    STREAM_NOT_FOUND,
    BusUnavailableError,
    RefusedError,
    translated,
)
from libs.common.resilience.backoff import Backoff

_SECOND_NS = 1_000_000_000
_PULL_EXPIRES_SECONDS = 30
# The server removes a consumer that nobody has pulled from for so long.
_INACTIVE_SECONDS = 30
# How far back to go when the last timestamp is not known (after `StartPosition.at_sequence`).
_STEP_BACK_SECONDS = 2

log = logs.get_logger(__name__)
_nuid = NUID()


class StartKind(StrEnum):
    """Where a cursor begins, in the server's words."""

    NEW = "new"
    ALL = "all"
    LAST_PER_SUBJECT = "last_per_subject"
    SEQUENCE = "by_start_sequence"


class StartPosition(msgspec.Struct, frozen=True):
    """Where a cursor begins; use the class methods.

    Attributes:
        kind: The policy.
        sequence: With `SEQUENCE`: the first sequence wanted, at least 1.
    """

    kind: StartKind
    sequence: int = 0

    @classmethod
    def new(cls) -> Self:
        """Only what is stored from now on."""
        return cls(StartKind.NEW)

    @classmethod
    def all(cls) -> Self:
        """Everything the stream holds."""
        return cls(StartKind.ALL)

    @classmethod
    def last_per_subject(cls) -> Self:
        """The newest message of every subject, then everything new: a warm start."""
        return cls(StartKind.LAST_PER_SUBJECT)

    @classmethod
    def at_sequence(cls, sequence: int) -> Self:
        """From this sequence on, usually a checkpoint + 1.

        Raises:
            ValueError: If it is below 1.
        """
        if sequence < 1:
            raise ValueError("a stream's sequences start at 1")
        return cls(StartKind.SEQUENCE, sequence)


class RestartCause(StrEnum):
    """Why a consumer was created anew."""

    RECONNECT = "reconnect"
    HEARTBEAT = "heartbeat"
    SEQUENCE = "sequence"
    CONSUMER = "consumer"


class GapKind(StrEnum):
    """How a stream's numbering broke."""

    REPLACED = "replaced"
    STEPPED_BACK = "stepped_back"
    EVICTED = "evicted"


class StreamMessage(msgspec.Struct, gc=False):
    """One message of a stream.

    Attributes:
        subject: Where it was published.
        payload: Its bytes.
        headers: Its headers, None when it has none.
        sequence: Its place in the stream.
        timestamp_ns: When the server stored it, epoch ns.
        pending: How many more matching messages the stream holds behind it.
    """

    subject: str
    payload: bytes
    headers: dict[str, str] | None
    sequence: int
    timestamp_ns: int
    pending: int


class OrderedCursor:
    """Reads a stream in order, every message once, over restarts of server and connection.

    Nothing is lost, doubled or reordered as long as the stream keeps its data. When it does not
    (a SIGKILLed server forgets the last messages of an asynchronously persisted stream and gives
    their numbers away again; a stream was deleted and made anew; messages aged out unread), the
    cursor goes on with the first message stored after the last one it has seen, and counts a gap.

    Args:
        bus: The connection.
        stream: The stream's name; it may appear later.
        filter_subjects: Read only these, wildcards allowed; empty for all.
        start: Where to begin.
        on_batch: Called with 1 to `batch` messages, one call at a time; what it raises ends `run`.
        batch: Messages per pull request. Up to one more request waits in memory.
        max_bytes: Bytes per pull request: keeps the server from taking us for a slow consumer.
        heartbeat_seconds: The server's sign of life; two and a half without one and the consumer
            is made anew.
        on_caught_up: Called once, when everything stored before the start has been delivered.
        replay: Begin at `start` again with every new consumer instead of going on, after a call
            of `on_replay`; then `on_caught_up` is called each time. For small last-value streams.
        on_replay: See `replay`.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        filter_subjects: Sequence[str],
        start: StartPosition,
        on_batch: Callable[[list[StreamMessage]], Awaitable[None] | None],
        *,
        batch: int = 500,
        max_bytes: int = 16 * MIB,
        heartbeat_seconds: float = 1.0,
        on_caught_up: Callable[[], Awaitable[None] | None] | None = None,
        replay: bool = False,
        on_replay: Callable[[], None] | None = None,
    ) -> None:
        self._bus = bus
        self._stream = stream
        self._filters = list(filter_subjects)
        self._start = start
        self._on_batch = on_batch
        self._batch = batch
        self._max_bytes = max_bytes
        self._heartbeat_seconds = heartbeat_seconds
        self._on_caught_up = on_caught_up
        self._replay = replay
        self._on_replay = on_replay
        self.caught_up = asyncio.Event()
        # The last message taken, or for a start by sequence the one before; None: nothing fixed.
        self._position: int | None = start.sequence - 1 if start.sequence else None
        self._timestamp_ns = 0
        self._stream_created: str | None = None
        # After a step back, until the first message: start again after this timestamp.
        self._resume_after_ns: int | None = None
        # The current consumer.
        self._consumer = ""
        self._consumer_sequence = 0
        self._subscription: Subscription | None = None
        self._reply = ""
        self._inbox: list[Msg] = []
        self._wake = asyncio.Event()
        self._reconnected = False
        self._until_caught_up: int | None = None
        # The current pull request.
        self._request_left = 0
        self._request_delivered = 0
        self._request_oversized = False
        self._messages_total = metrics.CURSOR_MESSAGES_TOTAL.labels(stream=stream)
        self._pending_gauge = metrics.CURSOR_PENDING.labels(stream=stream)

    @property
    def sequence(self) -> int:
        """Sequence of the last message that `on_batch` has taken; 0 before the first."""
        return self._position or 0

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop` is set.

        Raises:
            BusClosedError: If the bus is closed for good before that.
            RefusedError: If the server refuses the consumer for what it asks, such as a filter
                that overlaps another.
            Exception: Whatever `on_batch` raises.
        """
        remove = self._bus.on_reconnect(self._note_reconnect)
        watchers = [asyncio.create_task(e.wait()) for e in (stop, self._bus.closed)]
        for watcher in watchers:
            watcher.add_done_callback(lambda _: self._wake.set())
        backoff = Backoff(first_seconds=0.1, ceiling_seconds=1.0)
        try:
            while not stop.is_set():
                self._bus.require_open()
                try:
                    await self._open()
                except BusUnavailableError as error:
                    await self._wait_before_retry(backoff, error)
                    continue
                except RefusedError as error:
                    if error.code not in {STREAM_NOT_FOUND, CONSUMER_NOT_FOUND}:
                        raise
                    await self._wait_before_retry(backoff, error)
                    continue
                backoff.reset()
                cause = await self._read(stop)
                await self._discard_consumer()
                if cause is not None:
                    metrics.CURSOR_RESTARTS_TOTAL.labels(stream=self._stream, cause=cause).inc()
                    log.info(
                        "cursor.restarting",
                        stream=self._stream,
                        cause=cause,
                        sequence=self.sequence,
                    )
        finally:
            remove()
            for watcher in watchers:
                watcher.cancel()
            await asyncio.wait(watchers)
            await self._discard_consumer()

    async def _note_reconnect(self) -> None:
        self._reconnected = True
        self._wake.set()

    async def _wait_before_retry(self, backoff: Backoff, error: Exception) -> None:
        log.debug("cursor.waiting", stream=self._stream, error=str(error))
        self._wake.clear()
        self._reconnected = False
        try:
            async with asyncio.timeout(backoff.next_seconds()):
                await self._wake.wait()
        except TimeoutError:
            return

    # -- the consumer --------------------------------------------------------------------------

    async def _open(self) -> None:
        """Create a consumer where reading should go on, and send the first pull request."""
        self._reconnected = False
        info = await api.call(self._bus, f"STREAM.INFO.{self._stream}")
        policy = await self._delivery(info)
        self._consumer = f"cursor-{_nuid.next().decode()}"
        self._consumer_sequence = 0
        self._inbox = []
        self._reply = self._bus.client.new_inbox()
        with translated():
            self._subscription = await self._bus.client.subscribe(self._reply, cb=self._receive)
        config: dict[str, Any] = {
            "name": self._consumer,
            "ack_policy": "none",
            "replay_policy": "instant",
            "filter_subjects": self._filters or [">"],
            "inactive_threshold": _INACTIVE_SECONDS * _SECOND_NS,
            "mem_storage": True,
            "num_replicas": 1,
            **policy,
        }
        try:
            created = await api.call(
                self._bus,
                f"CONSUMER.CREATE.{self._stream}.{self._consumer}",
                {"stream_name": self._stream, "config": config, "action": "create"},
            )
        except BaseException:
            await self._discard_consumer()
            raise
        pending = int(created.get("num_pending", 0))
        self._pending_gauge.set(pending)
        if self._replay:
            self.caught_up.clear()
            if self._on_replay is not None:
                self._on_replay()
        if not self.caught_up.is_set():
            self._until_caught_up = pending
            await self._check_caught_up(pending, 0)
        await self._pull()

    async def _delivery(self, info: dict[str, Any]) -> dict[str, Any]:
        """Work out where the consumer begins; sets the position when it had none."""
        created = str(info["created"])
        last = int(info["state"]["last_seq"])
        first = int(info["state"]["first_seq"])
        known, self._stream_created = self._stream_created, created
        if self._replay:
            return {"deliver_policy": self._start.kind.value}
        if known is not None and known != created:
            self._count_gap(GapKind.REPLACED, last)
            self._position, self._timestamp_ns, self._resume_after_ns = 0, 0, None
            return {"deliver_policy": StartKind.ALL.value}
        if self._position is None and self._start.kind is StartKind.NEW:
            # As a sequence and not as "new": what is stored between a loss of the connection and
            # the next consumer must not be skipped.
            self._position = last
        if self._position is None:
            return {"deliver_policy": self._start.kind.value}
        if self._resume_after_ns is None and (
            last < self._position or await self._was_rewritten(first)
        ):
            self._step_back(last)
        if self._resume_after_ns is not None:
            return {
                "deliver_policy": "by_start_time",
                "opt_start_time": api.rfc3339_of(self._resume_after_ns + 1),
            }
        if first > self._position + 1:
            if self._position:
                self._count_gap(GapKind.EVICTED, last)
            self._position = first - 1
        return {
            "deliver_policy": StartKind.SEQUENCE.value,
            "opt_start_seq": self._position + 1,
        }

    async def _was_rewritten(self, first: int) -> bool:
        """Whether the number of our last message was given away again to another message."""
        position = self._position or 0
        if not self._timestamp_ns or position < first:
            return False
        try:
            answer = await api.call(self._bus, f"STREAM.MSG.GET.{self._stream}", {"seq": position})
        except RefusedError as error:
            if error.code == MESSAGE_NOT_FOUND:
                return False  # Replaced by a newer one of its subject, or aged out.
            raise
        return api.ns_of_rfc3339(answer["message"]["time"]) != self._timestamp_ns

    def _step_back(self, last: int) -> None:
        self._count_gap(GapKind.STEPPED_BACK, last)
        self._position = min(last, self._position or 0)
        # The server stamps messages in order, so "after the last timestamp" is exactly what we
        # have not seen, whatever numbers it has now. Unknown only before the first message.
        self._resume_after_ns = self._timestamp_ns or (
            time.time_ns() - _STEP_BACK_SECONDS * _SECOND_NS
        )

    def _count_gap(self, kind: GapKind, last: int) -> None:
        metrics.CURSOR_GAPS_TOTAL.labels(stream=self._stream, kind=kind).inc()
        log.warning(
            "cursor.gap", stream=self._stream, kind=kind, sequence=self.sequence, last_sequence=last
        )

    async def _discard_consumer(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            return
        try:
            await subscription.unsubscribe()
        except nats.errors.Error as error:
            log.debug("cursor.unsubscribe_failed", stream=self._stream, error=repr(error))
        if self._bus.is_connected:
            # Without waiting: the server removes it anyway once it is inactive.
            await self._bus.offer(f"$JS.API.CONSUMER.DELETE.{self._stream}.{self._consumer}", b"")

    # -- reading -------------------------------------------------------------------------------

    async def _receive(self, msg: Msg) -> None:
        self._inbox.append(msg)
        self._wake.set()

    async def _pull(self) -> None:
        request: dict[str, int] = {
            "batch": 1 if self._request_oversized else self._batch,
            "expires": _PULL_EXPIRES_SECONDS * _SECOND_NS,
            "idle_heartbeat": int(self._heartbeat_seconds * _SECOND_NS),
        }
        if not self._request_oversized:
            request["max_bytes"] = self._max_bytes
        self._request_left = request["batch"]
        self._request_delivered = 0
        self._request_oversized = False
        with translated():
            await self._bus.client.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}",
                msgspec.json.encode(request),
                reply=self._reply,
            )

    async def _read(self, stop: asyncio.Event) -> RestartCause | None:
        """Deliver until the consumer must be made anew; None when asked to stop."""
        silence_seconds = 2.5 * self._heartbeat_seconds
        while not stop.is_set() and not self._bus.closed.is_set():
            if not self._inbox:
                try:
                    async with asyncio.timeout(silence_seconds):
                        await self._wake.wait()
                except TimeoutError:
                    return RestartCause.HEARTBEAT
            self._wake.clear()
            inbox, self._inbox = self._inbox, []
            messages, cause = self._sort(inbox)
            if cause is None and self._request_left == 0:
                # Before the batch is worked on, so that the next one travels meanwhile.
                try:
                    await self._pull()
                except BusUnavailableError:
                    cause = RestartCause.CONSUMER
            if messages:
                await self._deliver(messages)
            if cause is not None:
                return cause
            if self._reconnected:
                return RestartCause.RECONNECT
        return None

    async def _deliver(self, messages: list[StreamMessage]) -> None:
        outcome = self._on_batch(messages)
        if isawaitable(outcome):
            await outcome
        last = messages[-1]
        self._position = last.sequence
        self._timestamp_ns = last.timestamp_ns
        self._resume_after_ns = None
        self._messages_total.inc(len(messages))
        self._pending_gauge.set(last.pending)
        if not self.caught_up.is_set():
            await self._check_caught_up(last.pending, len(messages))

    async def _check_caught_up(self, pending: int, delivered: int) -> None:
        left = self._until_caught_up or 0
        self._until_caught_up = max(0, left - delivered)
        if pending and self._until_caught_up:
            return
        self.caught_up.set()
        if self._on_caught_up is not None:
            outcome = self._on_caught_up()
            if isawaitable(outcome):
                await outcome

    def _sort(self, inbox: list[Msg]) -> tuple[list[StreamMessage], RestartCause | None]:
        """Split what arrived into messages and signs; stop at the first break in the order."""
        messages: list[StreamMessage] = []
        for msg in inbox:
            reply = msg.reply
            if not reply.startswith("$JS.ACK."):
                cause = self._status(msg.headers or {})
                if cause is not None:
                    return messages, cause
                continue
            # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<ns>.<pending>,
            # with <domain>.<account> before <stream> in newer forms.
            parts = reply.split(".")
            offset = 0 if len(parts) == 9 else 2
            consumer_sequence = int(parts[offset + 6])
            if consumer_sequence != self._consumer_sequence + 1:
                return messages, RestartCause.SEQUENCE
            self._consumer_sequence = consumer_sequence
            self._request_left = max(0, self._request_left - 1)
            self._request_delivered += 1
            messages.append(
                StreamMessage(
                    msg.subject,
                    msg.data,
                    msg.headers,
                    int(parts[offset + 5]),
                    int(parts[offset + 7]),
                    int(parts[offset + 8]),
                )
            )
        return messages, None

    def _status(self, headers: dict[str, str]) -> RestartCause | None:
        status = headers.get("Status", "")
        if status == "100":
            told = int(headers.get("Nats-Last-Consumer", 0))
            # Sent on the same connection after the messages, so what is missing now is lost.
            return RestartCause.SEQUENCE if told > self._consumer_sequence else None
        description = headers.get("Description", "").lower()
        if status in {"404", "408"} or (status == "409" and "batch completed" in description):
            self._request_left = 0
            return None
        if status == "409" and "maxbytes" in description.replace(" ", ""):
            self._request_left = 0
            # Not one message fits: ask for a single one without a limit instead of for ever.
            self._request_oversized = self._request_delivered == 0
            return None
        log.info("cursor.consumer_lost", stream=self._stream, status=status, reason=description)
        return RestartCause.CONSUMER
