"""Commands that will not be carried out, kept whole where people find them."""

import asyncio
import time
from typing import Final

import msgspec

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.durable import publish_stored
from libs.common.bus.errors import BusUnavailableError, RefusedError, RequestTimeoutError
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.orders import DeadLetter, OrderCommand, OrderEvent, OrderState
from libs.common.database import DatabaseUnavailableError
from libs.common.lifecycle import sleep_unless
from libs.common.resilience.backoff import Backoff
from services.orders import metrics
from services.orders.checkpoint import Checkpoint, Step
from services.orders.ledger import Ledger

TEXT_BYTES: Final = 16 * 1024

log = logs.get_logger(__name__)


def text_of(command: OrderCommand | bytes) -> str:
    """A command as text, cut off where it would be too long to keep."""
    raw = command if isinstance(command, bytes) else msgspec.json.encode(command)
    # PostgreSQL's text holds no NUL.
    return raw[:TEXT_BYTES].decode("utf-8", "replace").replace("\x00", "\ufffd")


def letter_of(
    account: str,
    task_id: str,
    payload: bytes,
    *,
    code: str,
    message: str,
    field: str | None = None,
) -> DeadLetter:
    """The letter about a command that never became a task."""
    return DeadLetter(
        account=account,
        task_id=task_id,
        code=code,
        message=message,
        field=field,
        command=text_of(payload),
        at_ns=time.time_ns(),
    )


class Undertaker:
    """Puts commands that will not be carried out where people find them, before they are acked.

    Args:
        bus: The connection.
        ledger: Keeps a row of each.
        checkpoint: See `checkpoint.Step`.
    """

    def __init__(self, bus: Bus, ledger: Ledger, checkpoint: Checkpoint) -> None:
        self._bus = bus
        self._ledger = ledger
        self._checkpoint = checkpoint

    async def bury(
        self, letter: DeadLetter, stream_sequence: int, stop: asyncio.Event, *, tell: bool = True
    ) -> bool:
        """Keep a letter and tell of it, however long ledger and bus are away.

        Args:
            letter: The letter.
            stream_sequence: Where the command lies in ORDER_COMMANDS: one letter for each.
            stop: Give up when it is set.
            tell: Whether whoever waits for the task is told that it was refused; not when its key
                belongs to another task, whose history this is no part of.

        Returns:
            Whether it was done; when not, the command must not be acknowledged.
        """
        backoff = Backoff(first_seconds=0.1, ceiling_seconds=2.0)
        while not stop.is_set():
            try:
                await self._ledger.bury(letter, stream_sequence)
                await self._publish(letter, stream_sequence, tell=tell)
            except (BusUnavailableError, RequestTimeoutError, DatabaseUnavailableError) as error:
                log.info("dead_letter.waits", account=letter.account, reason=str(error))
                await sleep_unless(stop, backoff.next_seconds())
                continue
            metrics.DEAD_LETTERS_TOTAL.labels(code=letter.code).inc()
            log.warning(
                "command.buried",
                account=letter.account,
                task_id=letter.task_id,
                code=letter.code,
                reason=letter.message,
            )
            self._checkpoint(Step.BURIED_NOT_ACKED)
            return True
        return False

    async def _publish(self, letter: DeadLetter, stream_sequence: int, *, tell: bool) -> None:
        try:
            await publish_stored(
                self._bus,
                streams.ORDER_DEAD.name,
                subjects.dead_letter(letter.account),
                codec.to_json(letter),
                message_id=f"command:{stream_sequence}",
            )
            if tell:
                await publish_stored(
                    self._bus,
                    streams.ORDER_EVENTS.name,
                    subjects.order_event(letter.account, letter.task_id),
                    codec.to_json(_refused(letter)),
                    message_id=f"refused:{stream_sequence}",
                )
        except RefusedError as error:
            # The row in the ledger stays; a name that is no subject cannot be told of.
            log.error("dead_letter.refused", account=letter.account, reason=str(error))


def _refused(letter: DeadLetter) -> OrderEvent:
    return OrderEvent(
        account=letter.account,
        task_id=letter.task_id,
        seq=1,
        kind="refused",
        state=OrderState.REJECTED,
        code=letter.code,
        message=letter.message,
        evidence={} if letter.field is None else {"field": letter.field},
        at_ns=letter.at_ns,
    )
