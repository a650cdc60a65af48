"""Messages that must not be lost: acknowledged publishing, and reading with acknowledgements.

nats-py's `publish_async` leaks permits and its `fetch` swallows cancellations on Python 3.11, so
both are plain requests and one pull loop of our own.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

import msgspec
import nats.errors
import nats.js.errors
from nats.aio.msg import Msg

from libs.common import logs
from libs.common.bus import api, metrics
from libs.common.bus.connection import Bus, Subscription
from libs.common.bus.cursor import RestartCause
from libs.common.bus.errors import (
    CONSUMER_NOT_FOUND,
    STREAM_NOT_FOUND,
    BusUnavailableError,
    RefusedError,
    RequestTimeoutError,
    translated,
)
from libs.common.errors import RejectedError
from libs.common.resilience.backoff import Backoff

# The stream did not store: its subject is taken, or it is full.
_NOT_STORED: Final = 10077
_MESSAGE_ID: Final = "Nats-Msg-Id"
_SECOND_NS: Final = 1_000_000_000
_PULL_EXPIRES_SECONDS: Final = 30
_CONFIRM_SECONDS: Final = 2.0
_ACK_TOKENS: Final = 9

log = logs.get_logger(__name__)


class SubjectTakenError(RejectedError):
    """The stream keeps one message per subject and holds another one already.

    Attributes:
        subject: Which.
        stored: The payload that it holds.
        sequence: Where in the stream.
    """

    def __init__(self, subject: str, stored: bytes, sequence: int) -> None:
        super().__init__(f"{subject} holds message {sequence} already")
        self.subject = subject
        self.stored = stored
        self.sequence = sequence


class StoredOnce(msgspec.Struct, frozen=True, gc=False):
    """The stream has stored a message.

    Attributes:
        sequence: Where.
        is_repetition: A message with the same id was stored before; this one was not.
    """

    sequence: int
    is_repetition: bool = False


async def publish_once(
    bus: Bus, stream: str, subject: str, payload: bytes, *, timeout_seconds: float = 2.0
) -> StoredOnce:
    """Store a message unless its subject holds one; for streams that refuse a second.

    Safe to repeat after any error: at most one of the attempts is stored.

    Args:
        bus: The connection.
        stream: Which stream must answer; declared with `discard_new_per_subject`.
        subject: A subject that the stream captures.
        payload: At most the stream's `max_msg_size`.
        timeout_seconds: How long to wait for the stream's answer.

    Raises:
        SubjectTakenError: It holds one; the error carries it.
        BusUnavailableError: Nothing was stored: not connected, no such stream, or it is full.
        RequestTimeoutError: No answer came; whether it was stored is unknown.
        RefusedError: The server refuses it for its size or subject.
        BusClosedError: The bus is closed.
    """
    try:
        return await _publish(bus, stream, subject, payload, None, timeout_seconds)
    except _NotStoredError as error:
        with translated():
            try:
                held = await bus.jetstream.get_msg(stream, subject=subject)
            except nats.js.errors.NotFoundError:
                raise BusUnavailableError(f"{stream} does not store: {error.reason}") from error
        raise SubjectTakenError(subject, held.data or b"", held.seq or 0) from None


async def publish_stored(
    bus: Bus,
    stream: str,
    subject: str,
    payload: bytes,
    *,
    message_id: str,
    timeout_seconds: float = 2.0,
) -> StoredOnce:
    """Store a message that the stream drops as a repetition when it has seen its id.

    Safe to repeat within the stream's duplicate window.

    Args:
        bus: The connection.
        stream: Which stream must answer.
        subject: A subject that the stream captures.
        payload: At most the stream's `max_msg_size`.
        message_id: Unique in the stream.
        timeout_seconds: How long to wait for the stream's answer.

    Raises:
        BusUnavailableError: Nothing was stored: not connected, no such stream, or it is full.
        RequestTimeoutError: No answer came; whether it was stored is unknown.
        RefusedError: The server refuses it for its size or subject.
        BusClosedError: The bus is closed.
    """
    return await _publish(bus, stream, subject, payload, message_id, timeout_seconds)


class _NotStoredError(BusUnavailableError):
    """The stream answered that it did not store."""


async def _publish(
    bus: Bus,
    stream: str,
    subject: str,
    payload: bytes,
    message_id: str | None,
    timeout_seconds: float,
) -> StoredOnce:
    bus.require_open()
    if not bus.is_connected:
        # nats-py would buffer it and send it after the reconnect, long after the caller gave up.
        raise BusUnavailableError("not connected")
    try:
        with translated():
            try:
                ack = await bus.jetstream.publish(
                    subject,
                    payload,
                    timeout=timeout_seconds,
                    stream=stream,
                    headers=None if message_id is None else {_MESSAGE_ID: message_id},
                )
            except nats.js.errors.APIError as error:
                if error.err_code == _NOT_STORED:
                    raise _NotStoredError(error.description or "full") from error
                raise
    except _NotStoredError:
        raise
    except BusUnavailableError as error:
        if _answered(error.__cause__):
            raise
        raise RequestTimeoutError(subject, timeout_seconds) from error
    return StoredOnce(ack.seq, bool(ack.duplicate))


def _answered(cause: BaseException | None) -> bool:
    """Whether the server said that it has not stored; anything else leaves it open."""
    return isinstance(
        cause,
        nats.js.errors.APIError | nats.js.errors.NoStreamResponseError,
    )


class Delivery:
    """One message of a durable consumer, to be acknowledged.

    Attributes:
        subject: Where it was published.
        payload: Its bytes.
        sequence: Its place in the stream.
        deliveries: How often it was delivered, this time included.
        timestamp_ns: When the server stored it, epoch ns.
        pending: How many more wait behind it.
    """

    def __init__(self, bus: Bus, stream: str, msg: Msg) -> None:
        # $JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<ns>.<pending>, with
        # <domain>.<account> before <stream> in newer forms.
        parts = msg.reply.split(".")
        offset = 0 if len(parts) == _ACK_TOKENS else 2
        self.subject = msg.subject
        self.payload = bytes(msg.data)
        self.deliveries = int(parts[offset + 4])
        self.sequence = int(parts[offset + 5])
        self.timestamp_ns = int(parts[offset + 7])
        self.pending = int(parts[offset + 8])
        self._bus = bus
        self._stream = stream
        self._reply = msg.reply
        self._settled = False

    @property
    def is_settled(self) -> bool:
        """Whether it was acknowledged, given back or ended."""
        return self._settled

    async def ack_sync(self) -> bool:
        """Acknowledge it and wait until the server has noted that.

        Returns:
            False when no confirmation came: it may be delivered again.
        """
        self._settled = True
        try:
            await self._bus.request(self._reply, b"+ACK", _CONFIRM_SECONDS)
        except (BusUnavailableError, RequestTimeoutError) as error:
            log.info("durable.unconfirmed", stream=self._stream, error=str(error))
            self._count("unconfirmed")
            return False
        except RefusedError as error:
            log.warning("durable.unconfirmed", stream=self._stream, error=str(error))
            self._count("unconfirmed")
            return False
        self._count("acked")
        return True

    async def nak(self, delay_seconds: float = 0.0) -> None:
        """Give it back, to be delivered again after a while."""
        body = b"-NAK"
        if delay_seconds > 0:
            body += b" " + msgspec.json.encode({"delay": int(delay_seconds * _SECOND_NS)})
        await self._settle(body, "returned")

    async def term(self, reason: str) -> None:
        """Never deliver it again; the server publishes an advisory with the reason."""
        await self._settle(f"+TERM {reason}".encode(), "ended")

    async def in_progress(self) -> None:
        """Ask for as much time again as the consumer's `ack_wait`."""
        await self._bus.offer(self._reply, b"+WPI")

    async def _settle(self, body: bytes, outcome: str) -> None:
        self._settled = True
        await self._bus.offer(self._reply, body)
        self._count(outcome)

    def _count(self, outcome: str) -> None:
        metrics.DELIVERIES_TOTAL.labels(stream=self._stream, outcome=outcome).inc()


class DurableReader:
    """Reads a stream through a durable consumer, one message at a time, in order.

    The server remembers what was acknowledged over every restart, ours and its own. What a process
    that died has not acknowledged is delivered again after `ack_wait_seconds`; so is what a
    callback leaves unsettled, and what it has acknowledged when the server did not hear of it: the
    callback meets repetitions and must bear them. A callback that cannot work now waits in place,
    so that nothing overtakes; at most `batch` messages wait behind it, and the server is told that
    they are looked after.

    Args:
        bus: The connection.
        stream: The stream's name; it may appear later.
        durable: The consumer's name; it is made when it is not there, from the stream's beginning.
        filter_subjects: Read only these, wildcards allowed; empty for all.
        on_message: Called with one message at a time; it settles the message, or leaves it to be
            delivered again. What it raises ends `run`.
        ack_wait_seconds: After this an unsettled message is delivered again.
        max_ack_pending: So many may be unsettled.
        max_deliveries: After so many the server gives up and publishes an advisory; -1 for never.
        batch: Messages per pull request.
        heartbeat_seconds: The server's sign of life; two and a half without one and the pull
            begins anew.
    """

    def __init__(
        self,
        bus: Bus,
        stream: str,
        durable: str,
        filter_subjects: Sequence[str],
        on_message: Callable[[Delivery], Awaitable[None]],
        *,
        ack_wait_seconds: float = 30.0,
        max_ack_pending: int = 64,
        max_deliveries: int = -1,
        batch: int = 16,
        heartbeat_seconds: float = 1.0,
    ) -> None:
        self._bus = bus
        self._stream = stream
        self._durable = durable
        self._filters = list(filter_subjects)
        self._on_message = on_message
        self._ack_wait_seconds = ack_wait_seconds
        self._max_ack_pending = max_ack_pending
        self._max_deliveries = max_deliveries
        self._batch = min(batch, max_ack_pending)
        self._heartbeat_seconds = heartbeat_seconds
        self._subscription: Subscription | None = None
        self._reply = ""
        self._inbox: deque[Msg] = deque()
        # What the callback has in hand.
        self._current: Delivery | None = None
        self._wake = asyncio.Event()
        self._reconnected = False
        # Of the current pull request: how many messages it may still bring.
        self._request_left = 0

    async def run(self, stop: asyncio.Event) -> None:
        """Read until `stop` is set; what was not given to the callback is given back.

        Raises:
            BusClosedError: If the bus is closed for good before that.
            RefusedError: If the server refuses the consumer for what it asks.
            Exception: Whatever `on_message` raises.
        """
        remove = self._bus.on_reconnect(self._note_reconnect)
        watchers = [asyncio.create_task(e.wait()) for e in (stop, self._bus.closed)]
        for watcher in watchers:
            watcher.add_done_callback(lambda _: self._wake.set())
        quiet = asyncio.Event()
        keeper = asyncio.create_task(self._keep(quiet), name="durable-keeper")
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
                await self._leave()
                if cause is not None:
                    metrics.CURSOR_RESTARTS_TOTAL.labels(stream=self._stream, cause=cause).inc()
                    log.info(
                        "durable.restarting",
                        stream=self._stream,
                        durable=self._durable,
                        cause=cause,
                    )
        finally:
            remove()
            for watcher in watchers:
                watcher.cancel()
            quiet.set()
            await asyncio.wait([*watchers, keeper])
            await self._leave()
        keeper.result()

    async def _keep(self, quiet: asyncio.Event) -> None:
        """Tell the server of what waits here, before it takes it for lost."""
        while True:
            try:
                async with asyncio.timeout(self._ack_wait_seconds / 3):
                    await quiet.wait()
            except TimeoutError:
                current = self._current
                if current is None or current.is_settled or not self._bus.is_connected:
                    continue
                await current.in_progress()
                for msg in list(self._inbox):
                    if _is_message(msg):
                        await self._bus.offer(msg.reply, b"+WPI")
            else:
                return

    async def _note_reconnect(self) -> None:
        self._reconnected = True
        self._wake.set()

    async def _wait_before_retry(self, backoff: Backoff, error: Exception) -> None:
        log.debug("durable.waiting", stream=self._stream, error=str(error))
        self._wake.clear()
        self._reconnected = False
        try:
            async with asyncio.timeout(backoff.next_seconds()):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _open(self) -> None:
        """Make the consumer if it is not there, and send the first pull request."""
        self._reconnected = False
        config: dict[str, Any] = {
            "name": self._durable,
            "durable_name": self._durable,
            "ack_policy": "explicit",
            "deliver_policy": "all",
            "replay_policy": "instant",
            "filter_subjects": self._filters or [">"],
            "ack_wait": int(self._ack_wait_seconds * _SECOND_NS),
            "max_ack_pending": self._max_ack_pending,
            "max_deliver": self._max_deliveries,
        }
        # Without an action: make it, or change it to this where it differs.
        await api.call(
            self._bus,
            f"CONSUMER.CREATE.{self._stream}.{self._durable}",
            {"stream_name": self._stream, "config": config, "action": ""},
        )
        self._inbox = deque()
        self._reply = self._bus.client.new_inbox()
        with translated():
            self._subscription = await self._bus.client.subscribe(self._reply, cb=self._receive)
        await self._pull()

    async def _leave(self) -> None:
        """Stop receiving and give back what nobody has looked at."""
        subscription, self._subscription = self._subscription, None
        if subscription is None:
            return
        try:
            await subscription.unsubscribe()
        except nats.errors.Error as error:
            log.debug("durable.unsubscribe_failed", stream=self._stream, error=repr(error))
        inbox, self._inbox = self._inbox, deque()
        unseen = [msg for msg in inbox if _is_message(msg)]
        if not unseen or not self._bus.is_connected:
            return  # The server delivers them again by itself, once `ack_wait` is over.
        try:
            # Asked for its state, the server forgets our pull request. Otherwise it would try to
            # serve it with the first message given back, and put that behind all others.
            await api.call(self._bus, f"CONSUMER.INFO.{self._stream}.{self._durable}")
        except (BusUnavailableError, RefusedError) as error:
            log.info("durable.not_given_back", stream=self._stream, error=str(error))
            return
        for msg in unseen:
            await Delivery(self._bus, self._stream, msg).nak()

    async def _receive(self, msg: Msg) -> None:
        self._inbox.append(msg)
        self._wake.set()

    async def _pull(self) -> None:
        self._request_left = self._batch
        request = {
            "batch": self._batch,
            "expires": _PULL_EXPIRES_SECONDS * _SECOND_NS,
            "idle_heartbeat": int(self._heartbeat_seconds * _SECOND_NS),
        }
        with translated():
            await self._bus.client.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._durable}",
                msgspec.json.encode(request),
                reply=self._reply,
            )

    async def _read(self, stop: asyncio.Event) -> RestartCause | None:
        """Deliver until the pull must begin anew; None when asked to stop."""
        silence_seconds = 2.5 * self._heartbeat_seconds
        while not stop.is_set() and not self._bus.closed.is_set():
            if self._reconnected:
                return RestartCause.RECONNECT
            if not self._inbox:
                if self._request_left == 0:
                    try:
                        await self._pull()
                    except BusUnavailableError:
                        return RestartCause.CONSUMER
                try:
                    async with asyncio.timeout(silence_seconds):
                        await self._wake.wait()
                except TimeoutError:
                    return RestartCause.HEARTBEAT
            self._wake.clear()
            if not self._inbox:
                continue
            msg = self._inbox.popleft()
            if _is_message(msg):
                self._request_left = max(0, self._request_left - 1)
                self._current = Delivery(self._bus, self._stream, msg)
                try:
                    await self._on_message(self._current)
                finally:
                    self._current = None
                continue
            cause = self._status(msg.headers or {})
            if cause is not None:
                return cause
        return None

    def _status(self, headers: dict[str, str]) -> RestartCause | None:
        status = headers.get("Status", "")
        description = headers.get("Description", "").lower()
        if status == "100":
            return None
        if status in {"404", "408"} or (status == "409" and "batch completed" in description):
            self._request_left = 0
            return None
        log.info("durable.consumer_lost", stream=self._stream, status=status, reason=description)
        return RestartCause.CONSUMER


def _is_message(msg: Msg) -> bool:
    """Whether it is a message of the stream, and not a word of the server about the pull."""
    return msg.reply.startswith("$JS.ACK.")
