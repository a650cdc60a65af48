"""Brings what happens to orders to whoever waits for it: callers of REST and WebSocket clients."""

import asyncio
import contextlib
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from typing import Final, Protocol

from libs.common import logs
from libs.common.bus.connection import Bus, BusMessage
from libs.common.contracts import codec, subjects
from libs.common.contracts.orders import OrderEvent
from libs.common.contracts.websocket import ALL_ACCOUNTS
from libs.common.domain.order_states import SETTLED
from libs.common.lifecycle import Lifecycle
from services.gateway import metrics
from services.gateway.domain.ws_frames import text_frame
from services.gateway.wire import Wire

WAITING_BYTES_MAX: Final = 256 * 1024
"""A client for which more waits than this does not read: its order events are dropped, counted."""

_BEFORE: Final = b'{"type":"order","data":'
_AFTER: Final = b"}"

log = logs.get_logger(__name__)


class Listener(Protocol):
    """A WebSocket client as this module sees it."""

    @property
    def wire(self) -> Wire:
        """Its end of the line."""


class Outcome:
    """The newest event of a task since a caller began to wait.

    Attributes:
        event: None before the first.
    """

    def __init__(self) -> None:
        self.event: OrderEvent | None = None
        self._over = asyncio.Event()

    def take(self, event: OrderEvent) -> None:
        """Note an event; an older one than is known changes nothing."""
        if self.event is not None and event.seq <= self.event.seq:
            return
        self.event = event
        if event.state in SETTLED:
            self._over.set()

    def end(self) -> None:
        """Let the caller wait no longer, whatever is known."""
        self._over.set()

    async def settled(self, seconds: float) -> bool:
        """Wait until the task has an outcome; False when it has none in time or the process stops.

        Args:
            seconds: At most.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._over.wait()
        return self.event is not None and self.event.state in SETTLED


class OrderEvents:
    """One subscription for all, so that nobody who waits comes too late for the first event.

    Events are passed on as they arrive, byte for byte, and never waited with: what a client does
    not read is dropped, and the ledger has it. `seq` counts up within a task, so a gap shows.
    """

    def __init__(self) -> None:
        self._outcomes: dict[tuple[str, str], list[Outcome]] = {}
        self._listeners: dict[str, dict[Listener, None]] = {}
        self._stopping = False

    async def start(self, bus: Bus, life: Lifecycle) -> None:
        """Subscribe; the connection keeps that over reconnects."""
        await bus.subscribe(subjects.ALL_ORDER_EVENTS, self.take)
        life.spawn(self._end_waits(life), name="order-waits")

    async def _end_waits(self, life: Lifecycle) -> None:
        """Answer those who wait when the process stops: a cut line would not tell them the key."""
        await life.stop.wait()
        self.end_waits()

    def end_waits(self) -> None:
        """Let nobody wait any longer, now and from now on."""
        self._stopping = True
        for waiting in self._outcomes.values():
            for outcome in waiting:
                outcome.end()

    def take(self, message: BusMessage) -> None:
        """Pass one event on."""
        metrics.ORDER_EVENTS_RECEIVED_TOTAL.inc()
        try:
            account, task_id = subjects.task_of(message.subject)
        except ValueError:
            log.warning("order_events.bad_subject", subject=message.subject)
            return
        for outcome in self._outcomes.get((account, task_id), ()):
            try:
                outcome.take(codec.from_json(OrderEvent, message.payload))
            except codec.DecodeError as error:
                # Of a newer or broken worker: whoever waits reads the ledger in the end.
                log.warning("order_events.undecodable", subject=message.subject, reason=str(error))
        everything = self._listeners.get(ALL_ACCOUNTS, {})
        listeners = self._listeners.get(account, {})
        if everything or listeners:
            # A client that has both is told once.
            self._pass_on(message.payload, everything | listeners)

    @contextlib.contextmanager
    def awaiting(self, account: str, task_id: str) -> Iterator[Outcome]:
        """Collect the events of a task while the block runs; begin before the command is sent."""
        outcome, key = Outcome(), (account, task_id)
        if self._stopping:
            outcome.end()
        self._outcomes.setdefault(key, []).append(outcome)
        try:
            yield outcome
        finally:
            waiting = self._outcomes[key]
            waiting.remove(outcome)
            if not waiting:
                del self._outcomes[key]

    def subscribe(self, listener: Listener, accounts: AbstractSet[str]) -> None:
        """Pass the events of these accounts on to a client, too; `*` stands for all of them."""
        for account in accounts:
            self._listeners.setdefault(account, {})[listener] = None

    def unsubscribe(self, listener: Listener, accounts: AbstractSet[str]) -> None:
        """Pass no event of these accounts on to a client any more."""
        for account in accounts:
            listeners = self._listeners.get(account, {})
            listeners.pop(listener, None)
            if not listeners:
                self._listeners.pop(account, None)

    @staticmethod
    def _pass_on(payload: bytes, listeners: dict[Listener, None]) -> None:
        frame = text_frame(_BEFORE + payload + _AFTER)
        for listener in listeners:
            wire = listener.wire
            if wire.waiting_bytes() + len(frame) > WAITING_BYTES_MAX:
                metrics.ORDER_EVENTS_DROPPED_TOTAL.inc()
                continue
            wire.write(frame)
            metrics.ORDER_EVENTS_SENT_TOTAL.inc()
