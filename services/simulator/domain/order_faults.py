"""Faults of the order side: what happens to requests about orders, and to their updates."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from services.simulator.domain.faults import Fault, FaultKind, as_fault_error, parse_fault
from services.simulator.domain.faults_in_force import FaultsInForce
from services.simulator.errors import FaultError


class OrderFaultKind(StrEnum):
    """Everything that can go wrong between somebody's order and its answer.

    Attributes:
        ACCEPT_THEN_SILENCE: Carried out at once; the answer comes after `answer_seconds`.
        ACCEPT_THEN_ERROR: Carried out; the answer is a proxy's HTML page of `status`.
        TIMED_OUT_400: The answer is a 400 that speaks of a time-out; the order appears
            `delay_seconds` later.
        LATE_ORDER: The order appears after `delay_seconds`; its caller gets a proxy's page of 504
            after `answer_seconds`, so a time-out.
        ORDER_LIMIT: Not carried out: 429, as JSON or as HTML.
        SLOW_ORDER: Carried out after `delay_seconds`, then answered.
        RESET_BEFORE: Not carried out: the connection is reset without an answer.
        RESET_AFTER: Carried out, then the connection is reset without an answer.
        ERROR_BEFORE: Not carried out, but the answer, HTML of `status`, does not tell.
        TOKEN_DEATH: Carried out and answered; then all tokens of the account die.
        DUPLICATE_UPDATE: The update comes twice, the second time after `delay_seconds`.
        LATE_UPDATE: The update comes after `delay_seconds`.
        REORDERED_UPDATE: The update comes after the account's next one, or after `delay_seconds`.
        LOST_UPDATE: The update never comes.
        ORDER_CHAOS: Each time one of `kinds`, drawn.
    """

    ACCEPT_THEN_SILENCE = "accept_then_silence"
    ACCEPT_THEN_ERROR = "accept_then_error"
    TIMED_OUT_400 = "timed_out_400"
    LATE_ORDER = "late_order"
    ORDER_LIMIT = "order_limit"
    SLOW_ORDER = "slow_order"
    RESET_BEFORE = "reset_before"
    RESET_AFTER = "reset_after"
    ERROR_BEFORE = "error_before"
    TOKEN_DEATH = "token_death"  # noqa: S105  # The name of a fault.
    DUPLICATE_UPDATE = "duplicate_update"
    LATE_UPDATE = "late_update"
    REORDERED_UPDATE = "reordered_update"
    LOST_UPDATE = "lost_update"
    ORDER_CHAOS = "order_chaos"


class Verb(StrEnum):
    """What a request wants done."""

    PLACE = "place"
    MODIFY = "modify"
    CANCEL = "cancel"


class Channel(StrEnum):
    """The ways in which an account hears of its orders."""

    WEBSOCKET = "websocket"
    POSTBACK = "postback"


UPDATE_KINDS: Final = frozenset(
    {
        OrderFaultKind.DUPLICATE_UPDATE,
        OrderFaultKind.LATE_UPDATE,
        OrderFaultKind.REORDERED_UPDATE,
        OrderFaultKind.LOST_UPDATE,
    }
)
"""Strike updates; all others strike requests."""

_PLACE_ONLY: Final = frozenset({OrderFaultKind.TIMED_OUT_400, OrderFaultKind.LATE_ORDER})
_ONE_BY_ONE: Final = frozenset(OrderFaultKind) - {OrderFaultKind.ORDER_CHAOS}
_CHAOS: Final = _ONE_BY_ONE - {OrderFaultKind.TOKEN_DEATH}
"""Without `kinds`: all but the one after which somebody must log in again."""
_DELAY_SECONDS: Final = {
    # Both seen at Kite: an order that came 8 s after such a 400, one that sat for 85 s.
    OrderFaultKind.TIMED_OUT_400: 8.0,
    OrderFaultKind.LATE_ORDER: 85.0,
    OrderFaultKind.SLOW_ORDER: 2.0,
    OrderFaultKind.DUPLICATE_UPDATE: 0.5,
    OrderFaultKind.LATE_UPDATE: 5.0,
    OrderFaultKind.REORDERED_UPDATE: 2.0,
}
# Kite's own client gives up after 7 s.
_ANSWER_SECONDS: Final = {
    OrderFaultKind.ACCEPT_THEN_SILENCE: 15.0,
    OrderFaultKind.LATE_ORDER: 15.0,
}
_SHORTEST_SHARE: Final = 0.1

Seconds = Annotated[float, Meta(ge=0, le=600)]


class OrderFault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a fault of the order side.

    Attributes:
        kind: What goes wrong.
        api_key: Whose; None means everybody's.
        count: How often; None means no limit.
        seconds: For how long, in real time; None means until deleted.
        probability: Chance that it strikes a request or update it is for.
        seed: Of that chance, and of what chaos draws.
        verb: Only requests of this kind; None means all that the fault is for.
        channel: Only updates of this channel; None means both.
        delay_seconds: See the kinds; None means the kind's own. Chaos draws a tenth to all of it.
        answer_seconds: The same of the answer.
        status: HTTP status of the pages of `accept_then_error` and `error_before`.
        html: `order_limit` answers with a page instead of JSON.
        kinds: What `order_chaos` draws from; empty means all but `token_death`.
    """

    kind: OrderFaultKind
    api_key: str | None = None
    count: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None
    seconds: Annotated[float, Meta(gt=0, le=86_400)] | None = None
    probability: Annotated[float, Meta(gt=0, le=1)] = 1.0
    seed: int = 0
    verb: Verb | None = None
    channel: Channel | None = None
    delay_seconds: Seconds | None = None
    answer_seconds: Seconds | None = None
    status: Annotated[int, Meta(ge=500, le=599)] = 502
    html: bool = False
    kinds: tuple[OrderFaultKind, ...] = ()


def parse_any_fault(body: bytes, known_keys: list[str]) -> Fault | OrderFault:
    """Read a fault request of either side.

    Args:
        body: A JSON object with the fields of `OrderFault` or of `Fault`, by its `kind`.
        known_keys: The api_keys that exist.

    Raises:
        FaultError: Names the offending field and what would be right.
    """
    try:
        kind = msgspec.json.decode(body, type=_Kind).kind
    except (msgspec.ValidationError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FaultError("body", f"must be a JSON object with a kind: {error}") from error
    if kind in list(FaultKind):
        return parse_fault(body, known_keys)
    if kind not in list(OrderFaultKind):
        raise FaultError("kind", f"must be one of {', '.join([*FaultKind, *OrderFaultKind])}")
    try:
        fault = msgspec.json.decode(body, type=OrderFault)
    except msgspec.ValidationError as error:
        raise as_fault_error(error, OrderFaultKind) from error
    for field, reason in _problems(fault, known_keys):
        raise FaultError(field, reason)
    return fault


class _Kind(msgspec.Struct):
    kind: Any = None


def _problems(fault: OrderFault, known_keys: list[str]) -> Iterator[tuple[str, str]]:
    chaos = fault.kind is OrderFaultKind.ORDER_CHAOS
    if fault.api_key is not None and fault.api_key not in known_keys:
        yield "api_key", "is unknown; give one of the accounts' keys, or null for all"
    if fault.kinds and not chaos:
        yield "kinds", f"has no meaning for {fault.kind}; it is for order_chaos"
    if OrderFaultKind.ORDER_CHAOS in fault.kinds:
        yield "kinds", "must not name order_chaos itself"
    if fault.verb is not None and fault.kind in UPDATE_KINDS:
        yield "verb", f"has no meaning for {fault.kind}, which strikes updates; use channel"
    if fault.channel is not None and not chaos and fault.kind not in UPDATE_KINDS:
        yield "channel", f"has no meaning for {fault.kind}, which strikes requests; use verb"
    if fault.verb not in {None, Verb.PLACE} and fault.kind in _PLACE_ONLY:
        yield "verb", f"must be place: {fault.kind} is about an order that comes late"


class Ending(StrEnum):
    """How a request is answered.

    Attributes:
        ANSWER: As it deserves.
        PAGE: With a proxy's page of some status.
        LIMIT: With 429.
        TIMED_OUT: With a 400 that speaks of a time-out.
        RESET: Not at all; the connection is reset.
    """

    ANSWER = "answer"
    PAGE = "page"
    LIMIT = "limit"
    TIMED_OUT = "timed_out"
    RESET = "reset"


_NOT_CARRIED_OUT: Final = frozenset(
    {OrderFaultKind.ORDER_LIMIT, OrderFaultKind.RESET_BEFORE, OrderFaultKind.ERROR_BEFORE}
)
_ENDINGS: Final = {
    OrderFaultKind.ACCEPT_THEN_ERROR: Ending.PAGE,
    OrderFaultKind.LATE_ORDER: Ending.PAGE,
    OrderFaultKind.ERROR_BEFORE: Ending.PAGE,
    OrderFaultKind.TIMED_OUT_400: Ending.TIMED_OUT,
    OrderFaultKind.ORDER_LIMIT: Ending.LIMIT,
    OrderFaultKind.RESET_BEFORE: Ending.RESET,
    OrderFaultKind.RESET_AFTER: Ending.RESET,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What happens to one request.

    Attributes:
        kind: Why.
        fault_id: By which fault.
        wait_seconds: Pause before it is carried out.
        accept: Whether it is carried out.
        hold_seconds: For how long the order stays out of sight.
        answer_seconds: Pause before the answer.
        ending: The answer.
        status: Of a page.
        html: Whether a 429 is a page.
        kills_tokens: Whether the account's tokens die afterwards.
    """

    kind: OrderFaultKind
    fault_id: int
    wait_seconds: float = 0.0
    accept: bool = True
    hold_seconds: float = 0.0
    answer_seconds: float = 0.0
    ending: Ending = Ending.ANSWER
    status: int = 502
    html: bool = False
    kills_tokens: bool = False


@dataclass(frozen=True, slots=True)
class UpdateVerdict:
    """What happens to one update.

    Attributes:
        kind: One of `UPDATE_KINDS`.
        delay_seconds: See there.
    """

    kind: OrderFaultKind
    delay_seconds: float


class ActiveOrderFault:
    """A fault that waits for its occasion.

    Args:
        number: For `DELETE /sim/faults?id=`.
        fault: What was asked for.
        until_seconds: End on the monotonic clock, None for no end.

    Attributes:
        fired: How often it has struck.
    """

    def __init__(self, number: int, fault: OrderFault, until_seconds: float | None) -> None:
        self.id = number
        self.fault = fault
        self.until_seconds = until_seconds
        self.fired = 0
        # Requests and updates draw apart: how many updates came must not change what strikes the
        # next request, so that a seed means the same in every run.
        self.draws = {
            updates: random.Random(f"{fault.seed}:{updates}") for updates in (False, True)
        }

    @property
    def is_used_up(self) -> bool:
        """Whether it has struck as often as it may."""
        return self.fault.count is not None and self.fired >= self.fault.count

    def draw(self, *, update: bool, applicable: frozenset[OrderFaultKind]) -> OrderFaultKind | None:
        """Give what strikes now, or None.

        Args:
            update: Whether an update is in question, and no request.
            applicable: The kinds that could strike it.
        """
        fault, draws = self.fault, self.draws[update]
        wanted = {fault.kind}
        if fault.kind is OrderFaultKind.ORDER_CHAOS:
            wanted = set(fault.kinds or _CHAOS)
        choice = sorted(wanted & applicable)
        if not choice or draws.random() >= fault.probability:
            return None
        return draws.choice(choice)

    def delay(self, kind: OrderFaultKind, *, update: bool) -> float:
        """Give the seconds by which a kind delays something."""
        default = _DELAY_SECONDS.get(kind, 0.0)
        return self._seconds(self.fault.delay_seconds, default, update=update)

    def patience(self, kind: OrderFaultKind) -> float:
        """Give the seconds by which a kind delays the answer."""
        default = _ANSWER_SECONDS.get(kind, 0.0)
        return self._seconds(self.fault.answer_seconds, default, update=False)

    def _seconds(self, asked: float | None, default: float, *, update: bool) -> float:
        if default == 0:
            return 0.0
        longest = default if asked is None else asked
        if self.fault.kind is not OrderFaultKind.ORDER_CHAOS:
            return longest
        return longest * self.draws[update].uniform(_SHORTEST_SHARE, 1.0)


class OrderFaultBook:
    """The order side's faults that are in force.

    Args:
        monotonic_seconds: Elapsed real time.
        numbers: Gives numbers, the same as those of the other faults.
    """

    def __init__(self, monotonic_seconds: Callable[[], float], numbers: Iterator[int]) -> None:
        self._in_force: FaultsInForce[ActiveOrderFault] = FaultsInForce(monotonic_seconds)
        self._numbers = numbers

    def add(self, fault: OrderFault) -> ActiveOrderFault:
        """Put a fault into force.

        Raises:
            FaultError: 100 are in force already.
        """
        until = self._in_force.end_of(fault.seconds)
        entry = ActiveOrderFault(next(self._numbers), fault, until)
        self._in_force.put(entry)
        return entry

    def remove(self, number: int | None) -> int:
        """Lift one fault, or all; give how many were lifted."""
        return self._in_force.remove(number)

    def active(self) -> list[ActiveOrderFault]:
        """Give the faults in force, oldest first; what is over is forgotten."""
        return self._in_force.active()

    def strike(self, verb: Verb, api_key: str | None) -> Verdict | None:
        """Decide about a request and count what strikes it; None when nothing does."""
        if self._in_force.is_empty:
            return None
        applicable = _ONE_BY_ONE - UPDATE_KINDS
        if verb is not Verb.PLACE:
            applicable -= _PLACE_ONLY
        for entry in self.active():
            fault = entry.fault
            if fault.api_key in {None, api_key} and fault.verb in {None, verb}:
                kind = entry.draw(update=False, applicable=applicable)
                if kind is not None:
                    entry.fired += 1
                    return _verdict(entry, kind)
        return None

    def strike_update(self, channel: Channel, api_key: str) -> UpdateVerdict | None:
        """Decide about an update and count what strikes it; None when nothing does."""
        if self._in_force.is_empty:
            return None
        for entry in self.active():
            fault = entry.fault
            if fault.api_key in {None, api_key} and fault.channel in {None, channel}:
                kind = entry.draw(update=True, applicable=UPDATE_KINDS)
                if kind is not None:
                    entry.fired += 1
                    return UpdateVerdict(kind, entry.delay(kind, update=True))
        return None

    def give_back(self, verdict: Verdict) -> None:
        """Take back a strike that hit nothing: the request was refused on its own account."""
        entry = self._in_force.get(verdict.fault_id)
        if entry is not None:
            entry.fired -= 1


def _verdict(entry: ActiveOrderFault, kind: OrderFaultKind) -> Verdict:
    """Spell out what a kind does to a request."""
    delay = entry.delay(kind, update=False)
    return Verdict(
        kind=kind,
        fault_id=entry.id,
        wait_seconds=delay if kind is OrderFaultKind.SLOW_ORDER else 0.0,
        accept=kind not in _NOT_CARRIED_OUT,
        hold_seconds=delay if kind in _PLACE_ONLY else 0.0,
        answer_seconds=entry.patience(kind),
        ending=_ENDINGS.get(kind, Ending.ANSWER),
        status=504 if kind is OrderFaultKind.LATE_ORDER else entry.fault.status,
        html=entry.fault.html,
        kills_tokens=kind is OrderFaultKind.TOKEN_DEATH,
    )
