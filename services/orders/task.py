"""One task while a worker holds it: the command, its requests, and how far its history goes."""

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec

from libs.common.contracts.orders import OrderCommand, OrderEvent, OrderState, PlaceOrder
from services.orders.domain.intent import SETTLED, Intent
from services.orders.domain.lifecycle_events import PublishEvent
from services.orders.domain.task_states import task_state

# Before its requests exist nothing of the task can be in any other of these.
_UNSENT = frozenset(
    {OrderState.PENDING, OrderState.CHECKED, OrderState.RETRYING},
)


class TaskChange(msgspec.Struct, frozen=True, kw_only=True):
    """What one transaction writes about a task.

    Attributes:
        state: Of the task afterwards.
        code: Why, for programs.
        message: Why, for people.
        intents: The requests that differ, as they are afterwards.
        events: What is added to the history.
    """

    state: OrderState
    code: str
    message: str
    intents: tuple[Intent, ...] = ()
    events: tuple[OrderEvent, ...] = ()


class Task:
    """A task in memory; the ledger's row is what counts.

    Everything that changes it holds `lock`, writes the ledger, and only then `apply`s the change,
    so that memory never knows more than the ledger.

    Attributes:
        command: What was asked for.
        fingerprint: Of the command.
        stream_sequence: Where the command lies in ORDER_COMMANDS: the order of the account.
        state: Where the task stands.
        code: Why, for programs.
        message: Why, for people.
        event_count: Of the history; the ledger's guard against a second writer.
        valid_until_ns: Nothing of it is sent after this; None for no end.
        accepted_at_ns: When the ledger took it.
        lock: Held by whoever changes it.
        changed: Set when something has changed; whoever waits for it clears it first.
        is_withdrawn: A cancellation came before anything was sent.
        followers: Tasks that wait for this one: they are told of every change.
    """

    def __init__(
        self,
        command: OrderCommand,
        *,
        fingerprint: str,
        stream_sequence: int,
        accepted_at_ns: int,
        stored_at_ns: int = 0,
        state: OrderState = OrderState.PENDING,
        code: str = "",
        message: str = "",
        event_count: int = 0,
        valid_until_ns: int | None = None,
        intents: Iterable[Intent] = (),
    ) -> None:
        self.command = command
        self.fingerprint = fingerprint
        self.stream_sequence = stream_sequence
        self.accepted_at_ns = accepted_at_ns
        self.state = state
        self.code = code
        self.message = message
        self.event_count = event_count
        self.valid_until_ns = valid_until_ns
        self.lock = asyncio.Lock()
        self.changed = asyncio.Event()
        self.is_withdrawn = False
        self.followers: set[Task] = set()
        self._stored_at_ns = stored_at_ns
        self._intents = {intent.leg: intent for intent in intents}
        # Events of a task are told in this order even when the machine's clock steps back.
        self._last_event_ns = accepted_at_ns

    def __repr__(self) -> str:
        return f"Task({self.account!r}, {self.task_id!r}, {self.state.value})"

    @property
    def account(self) -> str:
        """Whose it is."""
        return self.command.account

    @property
    def task_id(self) -> str:
        """Its key within the account."""
        return self.command.task_id

    @property
    def intents(self) -> tuple[Intent, ...]:
        """Its requests, by leg."""
        return tuple(self._intents[leg] for leg in sorted(self._intents))

    @property
    def is_settled(self) -> bool:
        """Whether nothing more is done for it."""
        return self.state in SETTLED

    @property
    def is_unsent(self) -> bool:
        """Whether nothing of it has left, so that it can still be withdrawn."""
        return not self.is_settled and all(
            intent.state in _UNSENT or (intent.is_settled and not intent.attempts)
            for intent in self._intents.values()
        )

    def take_stored_at_ns(self) -> int:
        """When its command was stored, epoch ns, for the figures; 0 for unknown, and later on."""
        stored_at_ns, self._stored_at_ns = self._stored_at_ns, 0
        return stored_at_ns

    def wake(self) -> None:
        """Tell whoever waits that something has changed."""
        self.changed.set()
        for follower in self.followers:
            follower.changed.set()

    def intent(self, leg: int) -> Intent | None:
        """The request with this number."""
        return self._intents.get(leg)

    def with_tag(self, tag: str) -> Intent | None:
        """The request that carries this tag."""
        return next((i for i in self._intents.values() if i.tag == tag), None)

    def placed(self, leg: int | None = None) -> list[Intent]:
        """The requests that stand for the order, or for one slice of it.

        A request that replaces another stands for the slice of the one it replaces.
        """
        if not isinstance(self.command, PlaceOrder):
            return []
        slices: dict[int, Intent] = {}
        first_of = {intent.tag: intent.leg for intent in self.intents}
        for intent in self.intents:
            if intent.replaces is not None:
                first_of[intent.tag] = first_of.get(intent.replaces, intent.leg)
            slices[first_of[intent.tag]] = intent
        if leg is not None:
            return [slices[leg]] if leg in slices else []
        return list(slices.values())

    def change(
        self,
        *intents: Intent,
        tell: Iterable[tuple[PublishEvent, Intent | None]] = (),
        at_ns: int,
        state: OrderState | None = None,
        code: str | None = None,
        message: str | None = None,
    ) -> TaskChange:
        """Work out what is written when these requests change and this is told.

        Args:
            intents: The requests that differ, as they are afterwards.
            tell: What happened, each with the request it is about; None for the whole task.
            at_ns: When.
            state: Of the task, while it has no requests; else it follows from them.
            code: Why the task stands there; else that of the request changed last.
            message: As `code`.
        """
        after = {**self._intents, **{intent.leg: intent for intent in intents}}
        if state is None:
            ordered = tuple(after[leg] for leg in sorted(after))
            state = task_state(ordered) if ordered else self.state
        if code is None:
            code, message = (
                (intents[-1].code, intents[-1].message) if intents else (self.code, self.message)
            )
        events: list[OrderEvent] = []
        for event, intent in tell:
            self._last_event_ns = max(at_ns, self._last_event_ns)
            events.append(self._event(event, intent, state, self.event_count + 1 + len(events)))
        return TaskChange(
            state=state,
            code=code,
            message=message or "",
            intents=intents,
            events=tuple(events),
        )

    def apply(self, change: TaskChange) -> None:
        """Take over what the ledger has written."""
        self.state = change.state
        self.code = change.code
        self.message = change.message
        self.event_count += len(change.events)
        for intent in change.intents:
            self._intents[intent.leg] = intent
        self.wake()

    def remember(self, *intents: Intent) -> None:
        """Take over what the ledger need not know, such as how often an order was looked for."""
        for intent in intents:
            self._intents[intent.leg] = intent

    def refresh(self, other: "Task") -> None:
        """Take over what the ledger says, after somebody else has written there."""
        self.state = other.state
        self.code = other.code
        self.message = other.message
        self.event_count = other.event_count
        self._intents = {intent.leg: intent for intent in other.intents}
        self.wake()

    def _event(
        self, event: PublishEvent, intent: Intent | None, state: OrderState, seq: int
    ) -> OrderEvent:
        placed = None if intent is None else intent
        return OrderEvent(
            account=self.account,
            task_id=self.task_id,
            seq=seq,
            kind=event.kind,
            state=state,
            leg=None if placed is None else placed.leg,
            tag=None if placed is None else placed.tag,
            order_id=None if placed is None else placed.order_id,
            code=event.code,
            message=event.message,
            filled_quantity=0 if placed is None else placed.filled_quantity,
            average_price=None if placed is None else placed.average_price,
            evidence=event.evidence,
            at_ns=self._last_event_ns,
        )


def command_values(command: OrderCommand) -> dict[str, Any]:
    """The command as plain values, defaults written out: what is fingerprinted and kept."""
    values: dict[str, Any] = msgspec.to_builtins(command)
    return values
