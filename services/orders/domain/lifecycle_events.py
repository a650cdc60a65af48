"""What can happen to a request, and what can have to be done: the words of its state machine."""

from typing import Any

import msgspec

from libs.common.contracts.orders import Resolution
from libs.common.domain.order_answers import BrokerOrder, CallFailure
from services.orders.domain.intent import Intent
from services.orders.domain.outcomes import Outcome


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to a request.

    Attributes:
        at_ns: When.
    """

    at_ns: int


class Checked(Event, frozen=True, kw_only=True):
    """It passed every check and may be sent."""


class Refused(Event, frozen=True, kw_only=True):
    """A check of ours refused it; nothing was sent.

    Attributes:
        code: For programs.
        message: For people.
    """

    code: str
    message: str


class Held(Event, frozen=True, kw_only=True):
    """It may be sent but not now: the breaker is open, or no session is good. Costs no attempt.

    Attributes:
        code: Why: `breaker_open`, `no_session` …
        message: Why, for people.
        until_ns: When to try again; None to wait for a newer session.
    """

    code: str
    message: str
    until_ns: int | None = None


class Sending(Event, frozen=True, kw_only=True):
    """It is about to leave; committed before it does."""


class Acked(Event, frozen=True, kw_only=True):
    """The broker answered with the order's number.

    Attributes:
        order_id: The number.
    """

    order_id: str


class Failed(Event, frozen=True, kw_only=True):
    """The call failed.

    Attributes:
        outcome: What that proves.
        failure: What was seen.
        jitter: 0 to 1, drawn evenly: spreads the retries of many.
    """

    outcome: Outcome
    failure: CallFailure
    jitter: float = 0.5


class SessionRenewed(Event, frozen=True, kw_only=True):
    """The account has a session newer than the one that was refused."""


class RowSeen(Event, frozen=True, kw_only=True):
    """The broker showed the order: in its book, in an order update or in a postback.

    Attributes:
        order: What it showed; carries the tag, or has a number known to be the request's.
        is_look: Whether it came of asking the broker for its book; `at_ns` is then when it was
            asked. What the broker pushes may be old and never counts as a look.
    """

    order: BrokerOrder
    is_look: bool = False


class NotSeen(Event, frozen=True, kw_only=True):
    """The broker's order book was read in full, and the order is not in it.

    `at_ns` is when the broker was asked, not when it answered: the answer may be as old.
    """


class Tick(Event, frozen=True, kw_only=True):
    """Time passed: is a retry due, has the search ended, is the request too old?"""


class Resolved(Event, frozen=True, kw_only=True):
    """A person decided about a request that was not found.

    Attributes:
        resolution: What.
        by: Who.
        reason: Why, for the record.
        order_id: With `adopt`: the broker's number.
    """

    resolution: Resolution
    by: str
    reason: str = ""
    order_id: str | None = None


class Recovered(Event, frozen=True, kw_only=True):
    """It was read from the ledger after a start or a take-over."""


class DayOver(Event, frozen=True, kw_only=True):
    """The trading day it belonged to is over: the broker's book no longer shows its orders."""


class Send(msgspec.Struct, frozen=True, kw_only=True):
    """Send it as soon as its turn comes."""


class ScheduleRetry(msgspec.Struct, frozen=True, kw_only=True):
    """Send a Tick then.

    Attributes:
        at_ns: When.
    """

    at_ns: int


class Reconcile(msgspec.Struct, frozen=True, kw_only=True):
    """Look for it in the broker's book until its outcome is known."""


class PublishEvent(msgspec.Struct, frozen=True, kw_only=True):
    """Write this into the task's history and tell everybody.

    Attributes:
        kind: As in OrderEvent.
        code: Why, for programs.
        message: Why, for people.
        evidence: What was seen; JSON values.
    """

    kind: str
    code: str = ""
    message: str = ""
    evidence: dict[str, Any] = msgspec.field(default_factory=dict)


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """Put the command where people find what could not be done.

    Attributes:
        code: Why, for programs.
        message: Why, for people.
    """

    code: str
    message: str


class AskAPerson(msgspec.Struct, frozen=True, kw_only=True):
    """Nobody but a person can decide; alert one.

    Attributes:
        code: What about, for programs.
        message: What about, for people.
        evidence: What was seen; JSON values.
    """

    code: str
    message: str
    evidence: dict[str, Any] = msgspec.field(default_factory=dict)


class Resend(msgspec.Struct, frozen=True, kw_only=True):
    """Make the request that replaces this one (`replacement_of`) and begin with it."""


Effect = Send | ScheduleRetry | Reconcile | PublishEvent | DeadLetter | AskAPerson | Resend


class LifecycleRules(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of the state machine.

    Attributes:
        max_attempts: Sends of one request, all of them proven to have failed.
        unknown_window_seconds: How long an unknown request is looked for, at least.
        min_looks: Answers of the broker without it before it is given up.
        retry_first_seconds: The step of the first retry; doubles with each.
        retry_ceiling_seconds: No step grows beyond this.
        limited_seconds: Wait at least so long after the broker's limiter refused.
    """

    max_attempts: int = 5
    unknown_window_seconds: float = 90.0
    min_looks: int = 3
    retry_first_seconds: float = 0.5
    retry_ceiling_seconds: float = 30.0
    limited_seconds: float = 1.1


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What an event makes of a request.

    Attributes:
        intent: The request afterwards.
        effects: What to do, in this order, once the request is in the ledger.
        ignored: Why the event changed nothing, for a counter; empty when it did what it says.
    """

    intent: Intent
    effects: tuple[Effect, ...] = ()
    ignored: str = ""
