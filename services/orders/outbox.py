"""Tells everybody what the ledger has committed: again and again until the bus has stored it."""

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Final

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.durable import publish_stored
from libs.common.bus.errors import BusUnavailableError, RefusedError, RequestTimeoutError
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.orders import AccountEvent, DeadLetter, OrderEvent
from libs.common.database import DatabaseUnavailableError
from libs.common.lifecycle import sleep_unless
from libs.common.resilience.backoff import Backoff
from services.orders import metrics
from services.orders.checkpoint import Checkpoint, Step
from services.orders.ledger import Ledger

# More than this is read from the ledger when its turn comes.
KEPT_EVENTS: Final = 2_000
# What concerns the account as a whole is not in the ledger; the oldest give way.
KEPT_NOTES: Final = 200
_BATCH: Final = 200

log = logs.get_logger(__name__)


class Outbox:
    """Publishes the events of one account in the order of its ledger.

    At least once: what was told and not noted before a crash is told again, under the same message
    id, which the stream drops within its window.

    Args:
        bus: The connection.
        account: Whose.
        ledger: What is to be told, and what was.
        checkpoint: See `checkpoint.Step`.
    """

    def __init__(self, bus: Bus, account: str, ledger: Ledger, checkpoint: Checkpoint) -> None:
        self._bus = bus
        self._account = account
        self._ledger = ledger
        self._checkpoint = checkpoint
        self._events: deque[OrderEvent] = deque()
        self._notes: deque[AccountEvent | DeadLetter] = deque(maxlen=KEPT_NOTES)
        # At the beginning whatever the one before has left is told first.
        self._must_read = True
        self._wake = asyncio.Event()

    def commit(self, events: Sequence[OrderEvent]) -> None:
        """The ledger has committed these."""
        if not events:
            return
        if len(self._events) + len(events) > KEPT_EVENTS:
            self._events.clear()
            self._must_read = True
        elif not self._must_read:
            self._events.extend(events)
        self._wake.set()

    def note(self, message: AccountEvent | DeadLetter) -> None:
        """Tell something that is no event of a task."""
        if len(self._notes) == KEPT_NOTES:
            log.warning("outbox.note_dropped", account=self._account)
        self._notes.append(message)
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Tell until `stop` is set; then once more what waits, as far as it goes at once.

        Raises:
            BusClosedError: If the bus is closed for good.
        """
        backoff = Backoff(first_seconds=0.1, ceiling_seconds=2.0)
        watcher = asyncio.create_task(stop.wait(), name="outbox-stop")
        watcher.add_done_callback(lambda _: self._wake.set())
        try:
            while True:
                self._wake.clear()
                try:
                    await self._tell()
                    backoff.reset()
                except (
                    BusUnavailableError,
                    RequestTimeoutError,
                    DatabaseUnavailableError,
                ) as error:
                    self._events.clear()
                    self._must_read = True
                    log.info("outbox.waits", account=self._account, reason=str(error))
                    if stop.is_set():
                        return
                    await sleep_unless(stop, backoff.next_seconds())
                    continue
                if stop.is_set():
                    return
                if not (self._events or self._notes or self._must_read):
                    await self._wake.wait()
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)

    async def _tell(self) -> None:
        while self._notes:
            note = self._notes[0]
            await self._tell_note(note)
            if self._notes and self._notes[0] is note:  # Else it has given way meanwhile.
                self._notes.popleft()
        if self._must_read:
            # From here on `commit` collects; what it adds while this reads may come twice, which
            # the message id makes harmless.
            self._must_read = False
            while events := await self._ledger.unpublished(self._account, _BATCH):
                await self._tell_events(events)
        while self._events:
            events = [self._events[n] for n in range(min(_BATCH, len(self._events)))]
            await self._tell_events(events)
            for _ in events:
                # Cleared when too many came meanwhile; then the ledger is read.
                if self._events:
                    self._events.popleft()
        metrics.OUTBOX_PENDING.labels(account=self._account).set(0)

    async def _tell_events(self, events: Sequence[OrderEvent]) -> None:
        metrics.OUTBOX_PENDING.labels(account=self._account).set(len(events) + len(self._events))
        self._checkpoint(Step.COMMITTED_NOT_PUBLISHED)
        for event in events:
            try:
                await publish_stored(
                    self._bus,
                    streams.ORDER_EVENTS.name,
                    subjects.order_event(event.account, event.task_id),
                    codec.to_json(event),
                    message_id=f"{event.account}:{event.task_id}:{event.seq}",
                )
            except RefusedError as error:
                # For its size: the evidence is too large. The ledger has it whole.
                log.error("outbox.refused", task_id=event.task_id, seq=event.seq, reason=str(error))
        self._checkpoint(Step.PUBLISHED_NOT_NOTED)
        await self._ledger.note_published(self._account, events)

    async def _tell_note(self, message: AccountEvent | DeadLetter) -> None:
        if isinstance(message, DeadLetter):
            stream = streams.ORDER_DEAD.name
            subject = subjects.dead_letter(message.account)
            name = f"{message.account}:{message.task_id}:{message.at_ns}"
        else:
            stream = streams.ORDER_EVENTS.name
            subject = subjects.order_account_event(message.account)
            name = f"{message.account}:{message.kind}:{message.code}:{message.at_ns}"
        try:
            await publish_stored(
                self._bus, stream, subject, codec.to_json(message), message_id=name
            )
        except RefusedError as error:
            log.error("outbox.refused", account=self._account, reason=str(error))
