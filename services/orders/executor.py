"""Carries out what was taken: in order within an instrument, side by side across instruments."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Final

import msgspec

from libs.common import logs
from libs.common.bus.tasks import OwnedTasks
from libs.common.contracts.orders import CancelOrder, OrderState, PlaceOrder
from libs.common.database import DatabaseUnavailableError
from libs.common.kite.orders import OrderBroker
from libs.common.lifecycle import changed_or_stopped
from services.orders.broker_calls import BrokerCalls, CallEnd
from services.orders.check_desk import CheckDesk
from services.orders.checkpoint import Checkpoint, Step
from services.orders.domain.intent import Intent, Verb, new_intent
from services.orders.domain.lifecycle_events import (
    Acked,
    Checked,
    Event,
    Failed,
    Held,
    Refused,
    Sending,
    SessionRenewed,
    Tick,
)
from services.orders.errors import (
    OrderNumberTakenError,
    OrderRefusedError,
    StaleTaskError,
    TaskGoneError,
)
from services.orders.journal import Journal, jitter
from services.orders.lanes import Lanes
from services.orders.target_orders import Found, Gone, TargetOrders, Waits
from services.orders.task import Task

# How long what is held sleeps at most before it looks again.
_LOOK_SECONDS: Final = 0.25
_NS_PER_SECOND: Final = 1_000_000_000
_UNSENT: Final = frozenset({OrderState.PENDING, OrderState.CHECKED, OrderState.RETRYING})

log = logs.get_logger(__name__)


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """Why nothing may leave now.

    Attributes:
        code: For programs.
        message: For people.
        until_ns: When it may be otherwise, epoch ns; None when that cannot be known.
    """

    code: str
    message: str
    until_ns: int | None = None


class Executor:
    """Sends the requests of one account's tasks.

    Placements of one instrument leave one after the other, each when the one before has its
    answer, be it that the outcome is unknown. So do changes of one order, and cancellations of
    one. All else runs side by side within the limits.

    Args:
        journal: Where everything goes before it happens.
        calls: Makes the calls.
        checks: What an order must pass.
        targets: Finds the orders that changes and cancellations are about.
        checkpoint: See `checkpoint.Step`.
        stop: When it is set nothing more is sent; calls under way end.
        failed: Set when something unexpected ended a line.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        calls: BrokerCalls,
        checks: CheckDesk,
        targets: TargetOrders,
        checkpoint: Checkpoint,
        stop: asyncio.Event,
        failed: asyncio.Event,
    ) -> None:
        self.tasks = OwnedTasks(failed=failed)
        self._journal = journal
        self._calls = calls
        self._checks = checks
        self._targets = targets
        self._checkpoint = checkpoint
        self._stop = stop
        self._lanes: Lanes[Task] = Lanes(self._carry_out, self.tasks)
        # First come, first served at the limits. Cancellations have a line of their own, since
        # they may use what is kept spare for them.
        self._turn = asyncio.Lock()
        self._cancel_turn = asyncio.Lock()

    def start(self, task: Task) -> None:
        """Carry a task out when its turn comes; a task that needs nothing more ends by itself."""
        self._lanes.put(_lane_of(task), task)

    async def finish(self, patience_seconds: float) -> None:
        """Wait for the calls under way, after `stop` was set."""
        await self.tasks.finish(patience_seconds=patience_seconds)

    async def _carry_out(self, task: Task) -> None:
        turn = self._try_place if isinstance(task.command, PlaceOrder) else self._try_change
        try:
            while not self._stop.is_set() and not task.is_settled:
                task.changed.clear()
                if task.intents and not _unsent(task):
                    return
                try:
                    pause_seconds = await turn(task)
                except StaleTaskError:
                    continue  # It was read anew.
                if pause_seconds is not None:
                    pause_seconds = min(max(pause_seconds, 0.001), _LOOK_SECONDS)
                    await changed_or_stopped(task.changed, self._stop, pause_seconds)
        except DatabaseUnavailableError as error:
            # Only while stopping. Its row says what may have happened.
            log.warning("order.left", task_id=task.task_id, reason=error.reason)
        except (OrderNumberTakenError, TaskGoneError) as error:
            # Reported where it was found; the reconciler and people have the rest.
            log.error("order.left", task_id=task.task_id, reason=str(error))

    # -- placing -------------------------------------------------------------------------------

    async def _try_place(self, task: Task) -> float | None:
        """Take a placement one step further; gives how many seconds to wait before the next."""
        if task.is_withdrawn:
            await self.withdraw(task)
            return None
        command = task.command
        assert isinstance(command, PlaceOrder)  # noqa: S101  # Its lane says so.
        self._checkpoint(Step.ACKED_NOT_CHECKED)
        intent = next(iter(_unsent(task)), None)
        if intent is not None and (pause := await self._not_due(task, intent)) is not None:
            return pause
        try:
            context = await self._checks.context(task)
            checked = self._checks.place(command, context)
            hold = self._hold()
            if hold is not None:
                if intent is None:
                    async with task.lock:
                        await self._begin(task, self._legs(task, checked.parameters), send=False)
                    return 0.0
                return await self._held(task, intent, hold)
            async with self._turn:
                if (pause := await self._slot(Verb.PLACE)) is not None:
                    return pause
                units = checked.day_units
                term = self._calls.acquire()
                if term is None:
                    return _LOOK_SECONDS
                self._calls.budget.try_acquire(Verb.PLACE, time.time_ns(), units=units)
        except OrderRefusedError as error:
            await self._refuse(task, error)
            return None
        sending = await self._commit_sending(
            task, intent, self._legs(task, checked.parameters), term
        )
        if sending is None:
            return None
        # The user's and the account's day count what leaves.
        self._checks.note_sent(command.user)
        tag, parameters = sending.tag, sending.parameters
        await self._call(task, sending, term, lambda broker: broker.place(parameters, tag))
        return None

    @staticmethod
    def _legs(task: Task, parameters: tuple[dict[str, object], ...]) -> list[Intent]:
        return [
            new_intent(
                account=task.account,
                task_id=task.task_id,
                leg=leg,
                verb=Verb.PLACE,
                parameters=dict(given),
                quantity=int(str(given["quantity"])),
                exchange=str(given["exchange"]),
                tradingsymbol=str(given["tradingsymbol"]),
                valid_until_ns=task.valid_until_ns,
            )
            for leg, given in enumerate(parameters)
        ]

    async def withdraw(self, task: Task) -> None:
        """Refuse what of a task has not left: its cancellation came first."""
        message = "it was cancelled before it was sent"
        if not task.intents:
            await self._journal.tell(
                task, "refused", state=OrderState.CANCELLED, code="withdrawn", message=message
            )
            return
        event = Refused(at_ns=time.time_ns(), code="withdrawn", message=message)
        for intent in _unsent(task):
            await self._journal.move(task, intent.tag, event)

    # -- changing and cancelling ---------------------------------------------------------------

    async def _try_change(self, task: Task) -> float | None:
        """Take a change or a cancellation one step further; gives how many seconds to wait."""
        try:
            if not task.intents:
                return await self._begin_change(task)
            intent = _unsent(task)[0]
            # Of several, one that waits for its order does not hold up the others.
            for other in _unsent(task):
                if isinstance(self._targets.of(task, other), Found):
                    intent = other
                    break
            return await self._try_one_change(task, intent)
        except OrderRefusedError as error:
            await self._refuse(task, error)
            return None

    async def _begin_change(self, task: Task) -> float | None:
        """Find out which orders a command is about, and make a request for each."""
        self._expire(task)
        legs = await self._targets.legs(task)
        if isinstance(legs, Waits):
            return legs.seconds
        if isinstance(task.command, CancelOrder):
            target = self._targets.task_of(task)
            if target is not None and _unsent_or_new(target):
                target.is_withdrawn = True
                await self.withdraw(target)
                legs = [leg for leg in legs if not self._targets.is_withdrawn(target, leg)]
                if not legs:
                    await self._journal.tell(
                        task,
                        "updated",
                        state=OrderState.COMPLETE,
                        code="withdrawn",
                        message="the order was withdrawn before anything of it was sent",
                    )
                    return None
        verb = Verb.CANCEL if isinstance(task.command, CancelOrder) else Verb.MODIFY
        intents = [
            new_intent(
                account=task.account,
                task_id=task.task_id,
                leg=leg,
                verb=verb,
                parameters={},
                valid_until_ns=task.valid_until_ns,
            )
            for leg in legs
        ]
        if len(intents) == 1:
            # The usual case: made and sent in one transaction.
            return await self._try_one_change(task, intents[0])
        async with task.lock:
            await self._begin(task, intents, send=False, checked=False)
        return 0.0

    async def _try_one_change(self, task: Task, intent: Intent) -> float | None:
        is_new = not task.intents
        if not is_new and (pause := await self._not_due(task, intent)) is not None:
            return pause
        found = self._targets.of(task, intent)
        if isinstance(found, Waits):
            if is_new:
                async with task.lock:
                    await self._begin(task, [intent], send=False, checked=False)
            return found.seconds
        if isinstance(found, Gone):
            raise_or = OrderRefusedError(found.code, found.message)
            if is_new:
                raise raise_or
            await self._refuse(task, raise_or, only=intent)
            return None
        try:
            context = await self._checks.context(task, found.target)
            checked = self._checks.change(task.command, found.target, context)
        except OrderRefusedError as error:
            if is_new:
                raise
            await self._refuse(task, error, only=intent)
            return None
        prepared = msgspec.structs.replace(
            intent,
            parameters=checked.parameters,
            quantity=checked.quantity,
            order_id=found.target.order_id,
            exchange=found.target.exchange or None,
            tradingsymbol=found.target.tradingsymbol or None,
        )
        hold = self._hold()
        if hold is not None:
            async with task.lock:
                await self._begin(task, [prepared], send=False)
            return await self._held(task, prepared, hold)
        verb, order_id = intent.verb, found.target.order_id
        try:
            async with self._cancel_turn if verb is Verb.CANCEL else self._turn:
                if (pause := await self._slot(verb)) is not None:
                    return pause
                term = self._calls.acquire()
                if term is None:
                    return _LOOK_SECONDS
                self._calls.budget.try_acquire(verb, time.time_ns(), order_id=order_id)
        except OrderRefusedError as error:
            if is_new:
                raise
            await self._refuse(task, error, only=intent)
            return None
        sending = await self._commit_sending(task, prepared, [prepared], term)
        if sending is not None:
            await self._call(task, sending, term, _changing(sending))
        return None

    # -- what both need ------------------------------------------------------------------------

    def _expire(self, task: Task) -> None:
        until_ns = task.valid_until_ns
        if until_ns is not None and time.time_ns() > until_ns:
            raise OrderRefusedError(
                "expired",
                "it was not sent while it was valid: send it again with a new key if it is still "
                "wanted",
                "valid_until_ns",
            )

    async def _not_due(self, task: Task, intent: Intent) -> float | None:
        """How long a request still has to wait for its own time; None when it may go on."""
        now = time.time_ns()
        if intent.valid_until_ns is not None and now > intent.valid_until_ns:
            await self._journal.move(task, intent.tag, Tick(at_ns=now))
            return 0.0
        due_ns = intent.retry_at_ns
        if due_ns is not None and due_ns > now:
            return (due_ns - now) / _NS_PER_SECOND
        is_waiting_for_session = intent.state is OrderState.RETRYING and intent.code in {
            "no_session",
            "session_refused",
        }
        if is_waiting_for_session and due_ns is None and self._calls.session.broker is not None:
            await self._journal.move(task, intent.tag, SessionRenewed(at_ns=now))
        return None

    def _hold(self) -> Hold | None:
        """Why nothing may leave now; None when it may."""
        session = self._calls.session
        if session.broker is None:
            code = "session_refused" if session.refusal else "no_session"
            return Hold(code=code, message=session.why_not)
        wait_ns = self._calls.breaker.wait_ns(time.monotonic_ns())
        if wait_ns == 0:
            return None
        message = "the broker does not answer: it is held in its place until it does"
        if wait_ns is None:
            return Hold(code="breaker_open", message=message)
        return Hold(code="breaker_open", message=message, until_ns=time.time_ns() + wait_ns)

    async def _held(self, task: Task, intent: Intent, hold: Hold) -> float:
        known = task.with_tag(intent.tag) or intent
        if known.state is not OrderState.RETRYING or known.code != hold.code:
            event = Held(
                at_ns=time.time_ns(),
                code=hold.code,
                message=hold.message,
                until_ns=hold.until_ns,
            )
            await self._journal.move(task, intent.tag, event)
        return _LOOK_SECONDS

    async def _slot(self, verb: Verb) -> float | None:
        """Wait at the limits; the turn is the caller's. Gives a pause when all is to be asked anew.

        Raises:
            OrderRefusedError: Waiting does not help.
        """
        waited = False
        while (wait_ns := self._calls.budget.wait_ns(verb, time.time_ns())) > 0:
            waited = True
            await changed_or_stopped(asyncio.Event(), self._stop, wait_ns / _NS_PER_SECOND)
            if self._stop.is_set():
                return _LOOK_SECONDS
        # What was true before the wait is asked again: the switch, the session, the age.
        return 0.0 if waited else None

    async def _begin(
        self, task: Task, intents: list[Intent], *, send: bool, checked: bool = True
    ) -> Intent | None:
        """Write the first requests of a task; its lock is the caller's.

        Returns:
            The request that may leave now, with `send`; None when somebody was faster.
        """
        if task.is_settled or task.is_withdrawn:
            return None
        new = [intent for intent in intents if task.with_tag(intent.tag) is None]
        if not new and not send:
            return None
        events: list[list[Event]] = [[] for _ in intents]
        now = time.time_ns()
        for place, intent in enumerate(intents):
            known = task.with_tag(intent.tag)
            state = OrderState.PENDING if known is None else known.state
            if checked and state is OrderState.PENDING:
                events[place].append(Checked(at_ns=now))
        if send:
            events[0].append(Sending(at_ns=now))
        return await self._journal.open(task, intents, events)

    async def _commit_sending(
        self, task: Task, intent: Intent | None, legs: list[Intent], term: int
    ) -> Intent | None:
        """Commit that a request is about to leave; None when it may not after all."""
        self._checkpoint(Step.CHECKED_NOT_SENDING)
        sent: Intent | None = None
        try:
            async with task.lock:
                if not task.intents:
                    sent = await self._begin(task, legs, send=True)
                elif intent is not None:
                    known = task.with_tag(intent.tag)
                    may_send = known is not None and known.state in _UNSENT
                    if may_send and not task.is_withdrawn:
                        sent = await self._begin(task, [intent], send=True)
        except StaleTaskError:
            sent = None
        finally:
            if sent is None:
                self._calls.release(term)
        return sent

    async def _call(
        self,
        task: Task,
        intent: Intent,
        term: int,
        call: Callable[[OrderBroker], Awaitable[str]],
    ) -> None:
        in_flight = self._journal.in_flight
        in_flight.add(intent.tag)
        try:
            end = await self._calls.make(
                intent.verb, term, call, stored_at_ns=task.take_stored_at_ns()
            )
            await self._journal.move(task, intent.tag, _event_of(end))
        finally:
            in_flight.discard(intent.tag)

    async def _refuse(
        self, task: Task, error: OrderRefusedError, only: Intent | None = None
    ) -> None:
        """Nothing more of a task is sent, or one request of it is not."""
        log.info("order.refused", task_id=task.task_id, code=error.code, reason=error.message)
        if not task.intents:
            await self._journal.tell(
                task,
                "refused",
                state=OrderState.REJECTED,
                code=error.code,
                message=error.message,
            )
            return
        event = Refused(at_ns=time.time_ns(), code=error.code, message=error.message)
        for intent in _unsent(task) if only is None else [only]:
            await self._journal.move(task, intent.tag, event)


def _lane_of(task: Task) -> Hashable:
    command = task.command
    if isinstance(command, PlaceOrder):
        return ("place", command.exchange, command.tradingsymbol)
    kind = "cancel" if isinstance(command, CancelOrder) else "modify"
    return (kind, command.order_id or "", command.target_task_id or "")


def _unsent(task: Task) -> list[Intent]:
    return [intent for intent in task.intents if intent.state in _UNSENT]


def _unsent_or_new(task: Task) -> bool:
    return not task.is_settled and (not task.intents or bool(_unsent(task)))


def _event_of(end: CallEnd) -> Event:
    now = time.time_ns()
    if end.order_id is not None:
        return Acked(at_ns=now, order_id=end.order_id)
    assert end.outcome is not None  # noqa: S101  # A call ends in one of the two ways.
    assert end.failure is not None  # noqa: S101
    return Failed(at_ns=now, outcome=end.outcome, failure=end.failure, jitter=jitter())


def _changing(intent: Intent) -> Callable[[OrderBroker], Awaitable[str]]:
    """The call of a change or a cancellation, by what was committed of it."""
    given = dict(intent.parameters)
    variety, order_id = given.pop("variety"), given.pop("order_id")
    if intent.verb is Verb.CANCEL:
        parent_order_id = given.get("parent_order_id")
        return lambda broker: broker.cancel(variety, order_id, parent_order_id)
    return lambda broker: broker.modify(variety, order_id, given)
