"""Takes commands: once the ledger has one it is acknowledged, and never before."""

import asyncio
import re
import time
from collections.abc import Callable
from typing import Final

import msgspec

from libs.common import logs
from libs.common.bus.durable import Delivery
from libs.common.bus.lease import Lease
from libs.common.contracts import subjects
from libs.common.contracts.orders import OrderCommand, OrderEvent, OrderState
from libs.common.database import DatabaseUnavailableError
from libs.common.domain.order_fingerprint import fingerprint
from libs.common.lifecycle import sleep_unless
from libs.common.resilience.backoff import Backoff
from services.orders import metrics
from services.orders.checkpoint import Checkpoint, Step
from services.orders.dead_letters import Undertaker, letter_of
from services.orders.domain.check_context import CheckRules
from services.orders.domain.checks import valid_until_ns
from services.orders.errors import KeyTakenError, OrderRefusedError
from services.orders.ledger import Ledger
from services.orders.outbox import Outbox
from services.orders.task import Task, command_values
from services.orders.task_book import TaskBook

_FULL_SECONDS: Final = 0.05
_PATH: Final = re.compile(r" - at `\$\.?([^`]*)`$")
_MISSING: Final = re.compile(r"missing required field `([^`]*)`")
_DECODER: Final = msgspec.json.Decoder(OrderCommand)

log = logs.get_logger(__name__)


def read_command(payload: bytes, account: str, task_id: str) -> OrderCommand:
    """Decode a command and hold it against the subject on which it came.

    Raises:
        OrderRefusedError: It is no command, or one of another account or task.
    """
    try:
        command: OrderCommand = _DECODER.decode(payload)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        reason = str(error)
        path, missing = _PATH.search(reason), _MISSING.search(reason)
        field = ".".join(part for part in (path and path[1], missing and missing[1]) if part)
        raise OrderRefusedError(
            "bad_request", f"not a valid command: {reason}", field or None
        ) from error
    for field, said, known in (
        ("account", command.account, account),
        ("task_id", command.task_id, task_id),
    ):
        if said != known:
            raise OrderRefusedError(
                "bad_request",
                f"{field} is {said!r} and the subject says {known!r}: they must be the same",
                field,
            )
    return command


class Intake:
    """Takes the commands of one account, one after the other.

    Args:
        account: Whose.
        lease: Without it nothing is taken.
        ledger: Where a command must be before it is acknowledged.
        book: Where its task goes.
        outbox: Tells that it was taken.
        undertaker: Takes what is no command.
        start: Has a task carried out.
        rules: With the default end of market orders.
        waiting: So many tasks may wait to be sent; more commands stay in the stream.
        checkpoint: See `checkpoint.Step`.
        stop: When it is set nothing more is taken.
    """

    def __init__(
        self,
        account: str,
        *,
        lease: Lease,
        ledger: Ledger,
        book: TaskBook,
        outbox: Outbox,
        undertaker: Undertaker,
        start: Callable[[Task], None],
        rules: CheckRules,
        waiting: int,
        checkpoint: Checkpoint,
        stop: asyncio.Event,
    ) -> None:
        self._account = account
        self._lease = lease
        self._ledger = ledger
        self._book = book
        self._outbox = outbox
        self._undertaker = undertaker
        self._start = start
        self._rules = rules
        self._waiting = waiting
        self._checkpoint = checkpoint
        self._stop = stop

    async def take(self, delivery: Delivery) -> None:
        """Take one command; a repetition of one that was taken changes nothing."""
        self._checkpoint(Step.DELIVERED_NOT_ACCEPTED)
        task_id = delivery.subject.rpartition(".")[2]
        try:
            task_id = subjects.task_of(delivery.subject)[1]
            command = read_command(delivery.payload, self._account, task_id)
        except OrderRefusedError as error:
            await self._refuse(delivery, task_id, error)
            return
        except ValueError as error:
            reason = f"its subject cannot be read: {error}"
            await self._refuse(delivery, task_id, OrderRefusedError("bad_request", reason))
            return
        await self._room()
        if self._stop.is_set() or not self._lease.is_valid():
            await delivery.nak()
            return
        try:
            is_new, task, accepted = await self._accept(delivery, command)
        except KeyTakenError as error:
            refused = OrderRefusedError("key_taken", str(error), "task_id")
            await self._refuse(delivery, task_id, refused, tell=False)
            return
        except DatabaseUnavailableError:
            # Only while stopping: whoever comes next takes it.
            await delivery.nak()
            return
        outcome = "accepted" if is_new else "repeated"
        metrics.COMMANDS_TOTAL.labels(account=self._account, outcome=outcome).inc()
        self._checkpoint(Step.ACCEPTED_NOT_ACKED)
        if is_new:
            self._outbox.commit([accepted])
            self._start(self._book.add(task))
        elif task_id not in self._book:
            await self._resume(task_id)
        # Not before the request may leave: its way to the broker does not wait for this.
        await delivery.ack_sync()

    async def _room(self) -> None:
        """Wait until fewer tasks wait to be sent; meanwhile the stream keeps the others."""
        while len(self._book) >= self._waiting and self._book.unsent() >= self._waiting:
            if await sleep_unless(self._stop, _FULL_SECONDS) or not self._lease.is_valid():
                return

    async def _accept(
        self, delivery: Delivery, command: OrderCommand
    ) -> tuple[bool, Task, OrderEvent]:
        """Write a command into the ledger, however long that is away.

        Raises:
            KeyTakenError: The key belongs to another command.
            DatabaseUnavailableError: The ledger is away and the process stops.
        """
        now = time.time_ns()
        task = Task(
            command,
            fingerprint=fingerprint(command_values(command)),
            stream_sequence=delivery.sequence,
            accepted_at_ns=now,
            stored_at_ns=delivery.timestamp_ns if delivery.deliveries == 1 else 0,
            event_count=1,
            valid_until_ns=valid_until_ns(command, self._rules),
        )
        accepted = OrderEvent(
            account=self._account,
            task_id=command.task_id,
            seq=1,
            kind="accepted",
            state=OrderState.PENDING,
            at_ns=now,
        )
        known = self._book.get(command.task_id)
        if known is not None:
            if known.fingerprint != task.fingerprint:
                raise KeyTakenError(self._account, command.task_id)
            return False, known, accepted
        backoff = Backoff(first_seconds=0.05, ceiling_seconds=1.0)
        while True:
            try:
                return await self._ledger.accept(task, accepted), task, accepted
            except DatabaseUnavailableError as error:
                if self._stop.is_set() or not self._lease.is_valid():
                    raise
                log.warning("intake.waits", account=self._account, reason=error.reason)
                await sleep_unless(self._stop, backoff.next_seconds())

    async def _resume(self, task_id: str) -> None:
        """A command that was taken before, by whom this worker did not hear of it."""
        try:
            found = await self._ledger.tasks(self._account, [task_id])
        except DatabaseUnavailableError:
            return  # The next look for such tasks finds it.
        for task in found:
            if not task.is_settled:
                self._start(self._book.add(task))

    async def _refuse(
        self, delivery: Delivery, task_id: str, error: OrderRefusedError, *, tell: bool = True
    ) -> None:
        letter = letter_of(
            self._account,
            task_id,
            delivery.payload,
            code=error.code,
            message=error.message,
            field=error.field,
        )
        metrics.COMMANDS_TOTAL.labels(account=self._account, outcome="refused").inc()
        if await self._undertaker.bury(letter, delivery.sequence, self._stop, tell=tell):
            await delivery.ack_sync()
        else:
            await delivery.nak()
