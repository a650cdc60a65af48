"""What every request passes on its way out: its time, holds, limits, the ledger, the broker."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from libs.common import logs
from libs.common.contracts.orders import OrderState
from libs.common.kite.orders import OrderBroker
from libs.common.lifecycle import sleep_unless
from services.orders.broker_calls import BrokerCalls, CallEnd
from services.orders.checkpoint import Checkpoint, Step
from services.orders.domain.intent import Intent, Verb
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
from services.orders.errors import OrderRefusedError, StaleTaskError
from services.orders.journal import Journal, jitter
from services.orders.task import Task

LOOK_SECONDS: Final = 0.25
"""How long what is held sleeps at most before it looks again."""
UNSENT: Final = frozenset({OrderState.PENDING, OrderState.CHECKED, OrderState.RETRYING})
_NS_PER_SECOND: Final = 1_000_000_000
_SESSION_CODES: Final = frozenset({"no_session", "session_refused"})

log = logs.get_logger(__name__)


class Pause(msgspec.Struct, frozen=True):
    """Not yet.

    Attributes:
        seconds: Look again after so long.
    """

    seconds: float = LOOK_SECONDS


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


class SendDesk:
    """Sends the requests of one account.

    Args:
        journal: Where everything goes before it happens.
        calls: Makes the calls.
        checkpoint: See `checkpoint.Step`.
        stop: When it is set nothing more is sent.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        calls: BrokerCalls,
        checkpoint: Checkpoint,
        stop: asyncio.Event,
    ) -> None:
        self._journal = journal
        self._calls = calls
        self._checkpoint = checkpoint
        self._stop = stop
        # First come, first served at the limits. Cancellations have a line of their own, since
        # they may use what is kept spare for them.
        self._turn = asyncio.Lock()
        self._cancel_turn = asyncio.Lock()

    async def not_due(self, task: Task, intent: Intent) -> Pause | None:
        """How long a request still has to wait for its own time; None when it may go on."""
        now = time.time_ns()
        if intent.valid_until_ns is not None and now > intent.valid_until_ns:
            await self._journal.move(task, intent.tag, Tick(at_ns=now))
            return Pause(0.0)
        due_ns = intent.retry_at_ns
        if due_ns is not None and due_ns > now:
            return Pause((due_ns - now) / _NS_PER_SECOND)
        awaits_session = intent.state is OrderState.RETRYING and intent.code in _SESSION_CODES
        if awaits_session and due_ns is None and self._calls.session.broker is not None:
            await self._journal.move(task, intent.tag, SessionRenewed(at_ns=now))
        return None

    def hold(self) -> Hold | None:
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

    async def held(self, task: Task, legs: Sequence[Intent], hold: Hold) -> Pause:
        """Say once that a request is held, having written it first if need be."""
        async with task.lock:
            await self.write(task, legs)
        known = task.with_tag(legs[0].tag)
        is_told = (
            known is not None and known.state is OrderState.RETRYING and known.code == hold.code
        )
        if known is not None and not is_told:
            event = Held(
                at_ns=time.time_ns(),
                code=hold.code,
                message=hold.message,
                until_ns=hold.until_ns,
            )
            await self._journal.move(task, known.tag, event)
        return Pause()

    async def acquire(
        self, verb: Verb, *, order_id: str | None = None, units: int = 1
    ) -> int | Pause:
        """Wait at the limits, then take a call.

        Returns:
            The breaker's term of the call; or a pause, after which everything is asked anew: the
            switch, the session, the age.

        Raises:
            OrderRefusedError: Waiting does not help.
        """
        async with self._cancel_turn if verb is Verb.CANCEL else self._turn:
            wait_ns = self._calls.budget.wait_ns(verb, time.time_ns())
            if wait_ns > 0:
                # In turn, so that nobody who comes later is served before.
                await sleep_unless(self._stop, wait_ns / _NS_PER_SECOND)
                return Pause(0.0)
            # Nothing is counted of what may not leave; from here on nothing else runs.
            if self.hold() is not None:
                return Pause(0.0)
            wait_ns = self._calls.budget.try_acquire(
                verb, time.time_ns(), order_id=order_id, units=units
            )
            term = self._calls.acquire() if wait_ns == 0 else None
            return Pause() if term is None else term

    async def write(
        self, task: Task, legs: Sequence[Intent], *, send: bool = False, checked: bool = True
    ) -> Intent | None:
        """Write requests of a task; its lock is the caller's.

        Args:
            task: Whose.
            legs: The requests, those of the ledger included.
            send: Whether the first is about to leave.
            checked: Whether they have passed the checks.

        Returns:
            The first request, as it is then; None when nothing was to be written.

        Raises:
            StaleTaskError: Another worker has changed the task.
        """
        if task.is_settled or task.is_withdrawn or not legs:
            return None
        now = time.time_ns()
        events: list[list[Event]] = []
        is_news = send
        for intent in legs:
            known = task.with_tag(intent.tag)
            is_pending = known is None or known.state is OrderState.PENDING
            is_news = is_news or known is None or (checked and is_pending)
            events.append([Checked(at_ns=now)] if checked and is_pending else [])
        if not is_news:
            return None
        if send:
            events[0].append(Sending(at_ns=now))
        return await self._journal.open(task, legs, events)

    async def send(
        self,
        task: Task,
        legs: Sequence[Intent],
        term: int,
        call: Callable[[OrderBroker, Intent], Awaitable[str]],
        *,
        on_sent: Callable[[], None] = lambda: None,
    ) -> None:
        """Commit that the first of these requests is about to leave, and let it leave.

        Args:
            task: Whose.
            legs: The request, and those that are made with it.
            term: What `acquire` gave.
            call: The call.
            on_sent: Called when it is committed.
        """
        self._checkpoint(Step.CHECKED_NOT_SENDING)
        intent: Intent | None = None
        try:
            async with task.lock:
                known = task.with_tag(legs[0].tag)
                if known is None or known.state in UNSENT:
                    # In flight before it is committed: nobody may take it for a relic.
                    self._journal.in_flight.add(legs[0].tag)
                    intent = await self.write(task, legs, send=True)
        except StaleTaskError:
            intent = None
        finally:
            if intent is None:
                self._journal.in_flight.discard(legs[0].tag)
                self._calls.release(term)
        if intent is None:
            return
        on_sent()
        sent = intent
        try:
            end = await self._calls.make(
                sent.verb,
                term,
                lambda broker: call(broker, sent),
                stored_at_ns=task.take_stored_at_ns(),
            )
            await self._journal.move(task, sent.tag, _event_of(end))
        finally:
            self._journal.in_flight.discard(sent.tag)

    async def refuse(
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
        for intent in unsent(task) if only is None else [only]:
            await self._journal.move(task, intent.tag, event)

    async def withdraw(self, task: Task, leg: int | None = None) -> None:
        """Refuse what of a task, or of one slice, has not left: its cancellation came first."""
        message = "it was cancelled before it was sent"
        if not task.intents:
            await self._journal.tell(
                task, "refused", state=OrderState.CANCELLED, code="withdrawn", message=message
            )
            return
        event = Refused(at_ns=time.time_ns(), code="withdrawn", message=message)
        for intent in unsent(task) if leg is None else task.placed(leg):
            await self._journal.move(task, intent.tag, event)

    async def withdrawn_target(self, task: Task) -> None:
        """A cancellation is done: of its order nothing had left."""
        await self._journal.tell(
            task,
            "updated",
            state=OrderState.COMPLETE,
            code="withdrawn",
            message="the order was withdrawn before anything of it was sent",
        )


def unsent(task: Task) -> list[Intent]:
    """The requests of a task that may still leave."""
    return [intent for intent in task.intents if intent.state in UNSENT]


def _event_of(end: CallEnd) -> Event:
    now = time.time_ns()
    if end.order_id is not None:
        return Acked(at_ns=now, order_id=end.order_id)
    assert end.outcome is not None  # noqa: S101  # A call ends in one of the two ways.
    assert end.failure is not None  # noqa: S101
    return Failed(at_ns=now, outcome=end.outcome, failure=end.failure, jitter=jitter())
