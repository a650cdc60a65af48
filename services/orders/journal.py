"""Moves tasks: what the domain decides goes into the ledger, into memory, and to everybody."""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from libs.common import logs
from libs.common.contracts.orders import AccountEvent, OrderState
from libs.common.contracts.orders import DeadLetter as DeadLetterMessage
from libs.common.database import DatabaseUnavailableError
from libs.common.lifecycle import sleep_unless
from libs.common.resilience.backoff import Backoff
from services.orders import dead_letters, metrics
from services.orders.domain.intent import Intent, replacement_of
from services.orders.domain.lifecycle import advance
from services.orders.domain.lifecycle_events import (
    AskAPerson,
    DeadLetter,
    Event,
    LifecycleRules,
    PublishEvent,
    Reconcile,
    Recovered,
    Resend,
)
from services.orders.domain.lifecycle_events import Step as Decision
from services.orders.errors import OrderNumberTakenError, StaleTaskError, TaskGoneError
from services.orders.ledger import Ledger
from services.orders.outbox import Outbox
from services.orders.task import Task, TaskChange
from services.orders.task_book import TaskBook

RESEND_VALID_SECONDS: Final = 60.0
"""A person who says "send it again" means now."""
_CEILING_SECONDS: Final = 2.0

log = logs.get_logger(__name__)


class Journal:
    """Writes what happens to the tasks of one account.

    Args:
        account: Whose.
        ledger: Where it is written.
        outbox: Tells it.
        book: The tasks in memory.
        rules: The figures of the state machine.
        signature: Who writes: goes into the word about every send.
        stop: When it is set, a database that is away is waited for only a little longer.
        stop_seconds: How much longer.
        resume: Has a task carried out that has something to send again.

    Attributes:
        unknown: Set when a request became one that must be looked for.
        in_flight: Tags of the requests that this process is sending right now.
    """

    def __init__(
        self,
        account: str,
        *,
        ledger: Ledger,
        outbox: Outbox,
        book: TaskBook,
        rules: LifecycleRules,
        signature: Mapping[str, Any],
        stop: asyncio.Event,
        stop_seconds: float,
        resume: Callable[[Task], None],
    ) -> None:
        self.unknown = asyncio.Event()
        # Requests that this process is sending right now: their `sending` is no relic.
        self.in_flight: set[str] = set()
        self._account = account
        self._ledger = ledger
        self._outbox = outbox
        self._book = book
        self._rules = rules
        self._signature = dict(signature)
        self._stop = stop
        self._stop_seconds = stop_seconds
        self._resume = resume
        self._stop_deadline: float | None = None

    async def move(self, task: Task, tag: str, *events: Event) -> Decision | None:
        """Let events happen to one request of a task, in one transaction.

        When another worker has changed the task meanwhile, the ledger is read and the events meet
        the request as it is there.

        Returns:
            The decision about the last event; None when the task has no such request.

        Raises:
            OrderRefusedError: A person decided what cannot be decided now.
            DatabaseUnavailableError: The process stops and the ledger does not come back.
        """
        async with task.lock:
            while True:
                intent = task.with_tag(tag)
                if intent is None:
                    return None
                decisions = []
                for event in events:
                    decision = advance(intent, event, self._rules)
                    intent = decision.intent
                    decisions.append(decision)
                if decisions[-1].ignored:
                    metrics.IGNORED_TOTAL.labels(account=self._account).inc()
                try:
                    await self._commit(task, decisions, events[-1].at_ns)
                except StaleTaskError:
                    await self._reload(task)
                    continue
                break
        self._follow(task, decisions)
        return decisions[-1]

    async def open(
        self, task: Task, intents: Sequence[Intent], events: Sequence[Sequence[Event]]
    ) -> Intent:
        """Let events happen to several requests in one transaction; the lock is the caller's.

        Args:
            task: Whose requests; new ones and, prepared anew, ones that have not left.
            intents: The requests.
            events: What happens to each.

        Returns:
            The first request, as it is afterwards.

        Raises:
            StaleTaskError: Somebody else has changed the task, which was read anew; nothing of
                this happened.
            DatabaseUnavailableError: The process stops and the ledger does not come back.
        """
        decisions: list[Decision] = []
        after: list[Intent] = []
        at_ns = time.time_ns()
        for intent, happened in zip(intents, events, strict=True):
            for event in happened:
                decision = advance(intent, event, self._rules)
                decisions.append(decision)
                intent = decision.intent  # noqa: PLW2901  # One event follows another.
            after.append(intent)
        tell: list[tuple[PublishEvent, Intent | None]] = [
            (effect, decision.intent)
            for decision in decisions
            for effect in decision.effects
            if isinstance(effect, PublishEvent)
        ]
        checked = [pair for pair in tell if pair[0].kind == "checked"]
        if len(checked) > 1:
            # Sliced: one word about all of them, not one each.
            sizes = [intent.quantity for _, intent in checked if intent is not None]
            whole = PublishEvent(kind="checked", evidence={"slices": sizes})
            tell = [(whole, None), *(pair for pair in tell if pair not in checked)]
        # The first comes last: the task's own words follow it.
        tell = [(self._signed(event), intent) for event, intent in tell]
        change = task.change(
            *reversed(after),
            tell=tell,
            at_ns=at_ns,
            code=after[0].code,
            message=after[0].message,
        )
        try:
            await self._write(task, change)
        except StaleTaskError:
            await self._reload(task)
            raise
        self._follow(task, decisions)
        return after[0]

    async def tell(
        self,
        task: Task,
        kind: str,
        *,
        state: OrderState | None = None,
        code: str = "",
        message: str = "",
    ) -> None:
        """Write something about a task that has no requests, or about it as a whole."""
        async with task.lock:
            while not task.is_settled:
                event = PublishEvent(kind=kind, code=code, message=message)
                change = task.change(
                    tell=[(event, None)],
                    at_ns=time.time_ns(),
                    state=state if not task.intents else None,
                    code=code,
                    message=message,
                )
                try:
                    await self._write(task, change)
                except StaleTaskError:
                    await self._reload(task)
                    continue
                return

    def report(self, event: AccountEvent) -> None:
        """Tell something about the account as a whole."""
        self._outbox.note(event)

    async def _commit(self, task: Task, decisions: Iterable[Decision], at_ns: int) -> None:
        decisions = list(decisions)
        last = decisions[-1].intent
        tell = [
            (effect, decision.intent)
            for decision in decisions
            for effect in decision.effects
            if isinstance(effect, PublishEvent)
        ]
        replacements = [
            self._replacement(task, decision.intent, at_ns)
            for decision in decisions
            for effect in decision.effects
            if isinstance(effect, Resend)
        ]
        if not tell and not replacements and not _differs(task.intent(last.leg), last):
            task.remember(last)
            task.wake()
            return
        await self._write(task, task.change(*replacements, last, tell=tell, at_ns=at_ns))

    async def _write(self, task: Task, change: TaskChange) -> None:
        """Write a change, however long the ledger is away; then memory and the outbox have it."""
        before = task.state
        backoff = Backoff(first_seconds=0.1, ceiling_seconds=_CEILING_SECONDS)
        again = False
        while True:
            try:
                await self._ledger.apply(task, change, again=again)
                break
            except DatabaseUnavailableError as error:
                again = True
                log.warning("ledger.waits", account=self._account, reason=str(error))
                await self._wait_for_ledger(backoff)
            except OrderNumberTakenError as error:
                self._report_taken(task, error)
                raise
        task.apply(change)
        self._book.note(task)
        self._outbox.commit(change.events)
        if task.state is not before:
            metrics.TASKS_TOTAL.labels(account=self._account, state=task.state.value).inc()

    async def _reload(self, task: Task) -> None:
        """Read a task that somebody else has changed."""
        metrics.STALE_TOTAL.labels(account=self._account).inc()
        backoff = Backoff(first_seconds=0.1, ceiling_seconds=_CEILING_SECONDS)
        while True:
            try:
                found = await self._ledger.tasks(self._account, [task.task_id])
                break
            except DatabaseUnavailableError:
                await self._wait_for_ledger(backoff)
        if not found:
            raise TaskGoneError(self._account, task.task_id)
        task.refresh(found[0])
        self._book.note(task)
        log.warning("task.overtaken", account=self._account, task_id=task.task_id)
        for intent in task.intents:
            if intent.state is OrderState.SENDING and intent.tag not in self.in_flight:
                # Another worker was about to send it: nobody here knows whether it has.
                decision = advance(intent, Recovered(at_ns=time.time_ns()), self._rules)
                try:
                    await self._commit(task, [decision], time.time_ns())
                except StaleTaskError:
                    return
                self.unknown.set()

    async def _wait_for_ledger(self, backoff: Backoff) -> None:
        if self._stop.is_set():
            now = time.monotonic()
            self._stop_deadline = self._stop_deadline or now + self._stop_seconds
            if now >= self._stop_deadline:
                raise DatabaseUnavailableError("the process stops and cannot wait any longer")
            await asyncio.sleep(0.1)
            return
        await sleep_unless(self._stop, backoff.next_seconds())

    def _signed(self, event: PublishEvent) -> PublishEvent:
        """Say who sends: no two workers write the same words about a send."""
        if event.kind != "sending":
            return event
        return msgspec.structs.replace(event, evidence=event.evidence | self._signature)

    def _follow(self, task: Task, decisions: Iterable[Decision]) -> None:
        """Do what a decision asks for, once the ledger has it."""
        for decision in decisions:
            for effect in decision.effects:
                match effect:
                    case Reconcile():
                        self.unknown.set()
                    case DeadLetter(code=code, message=message):
                        self._bury(task, code, message)
                    case AskAPerson():
                        self._ask(task, decision.intent, effect)
                    case Resend():
                        self._resume(task)
                    case _:
                        # Sends and retries are seen by whoever waits for the task to change.
                        continue

    def _bury(self, task: Task, code: str, message: str) -> None:
        metrics.DEAD_LETTERS_TOTAL.labels(code=code).inc()
        letter = DeadLetterMessage(
            account=self._account,
            task_id=task.task_id,
            code=code,
            message=message,
            command=dead_letters.text_of(task.command),
            at_ns=time.time_ns(),
        )
        self._outbox.note(letter)

    def _ask(self, task: Task, intent: Intent, effect: AskAPerson) -> None:
        log.error(
            "order.needs_a_person",
            account=self._account,
            task_id=task.task_id,
            tag=intent.tag,
            code=effect.code,
            reason=effect.message,
        )
        self.report(
            AccountEvent(
                account=self._account,
                kind="difference",
                code=effect.code,
                message=effect.message,
                evidence={"task_id": task.task_id, "leg": intent.leg, "tag": intent.tag}
                | effect.evidence,
                at_ns=time.time_ns(),
            )
        )

    def _report_taken(self, task: Task, error: OrderNumberTakenError) -> None:
        log.error(
            "order.number_taken",
            account=self._account,
            task_id=task.task_id,
            reason=error.reason,
        )
        self.report(
            AccountEvent(
                account=self._account,
                kind="difference",
                code="number_taken",
                message=f"task {task.task_id}: {error.reason}; compare it with the broker's book",
                at_ns=time.time_ns(),
            )
        )

    @staticmethod
    def _replacement(task: Task, intent: Intent, at_ns: int) -> Intent:
        leg = max(other.leg for other in task.intents) + 1
        end_ns = at_ns + int(RESEND_VALID_SECONDS * 1e9)
        return replacement_of(intent, leg=leg, valid_until_ns=end_ns)


def jitter() -> float:
    """A number between 0 and 1 that spreads the retries of many."""
    return random.random()  # noqa: S311  # No secret.


# What the ledger does not keep: see Intent.
_MEMORY_ONLY: Final = {
    "retry_at_ns": None,
    "looking_since_ns": None,
    "looks": 0,
    "looked_at_ns": None,
    "other_order_ids": (),
    "valid_until_ns": None,
}


def _differs(old: Intent | None, new: Intent) -> bool:
    """Whether the ledger would see a difference."""
    if old is None:
        return True
    return any(
        getattr(old, name) != getattr(new, name)
        for name in Intent.__struct_fields__
        if name not in _MEMORY_ONLY
    )
