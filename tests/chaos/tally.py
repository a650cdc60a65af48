"""Holds what was accepted, what the ledger says and what the broker has against one another."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

OUR_TAG: Final = re.compile(r"tf[a-z2-7]{14}")
SETTLED: Final = frozenset(
    {"open", "complete", "cancelled", "rejected", "failed", "dead_letter", "absent"}
)
"""Where a task may stand at the end. `absent` waits for a person, and needs evidence."""
_NOT_PLACED: Final = frozenset({"failed", "dead_letter", "absent"})
_ENDS: Final = {
    "COMPLETE": "complete",
    "CANCELLED": "cancelled",
    "LAPSED": "cancelled",
    "REJECTED": "rejected",
}


@dataclass(frozen=True, slots=True)
class Asked:
    """A command that somebody sent, perhaps several times.

    Attributes:
        account: Whose.
        task_id: Its key.
        was_accepted: Whether any attempt was answered with "it is stored".
    """

    account: str
    task_id: str
    was_accepted: bool


@dataclass(frozen=True, slots=True)
class Task:
    """A row of `order_tasks`."""

    account: str
    task_id: str
    state: str


@dataclass(frozen=True, slots=True)
class Request:
    """A row of `order_intents`.

    Attributes:
        account: Whose.
        task_id: Of which task.
        leg: Which slice.
        tag: What it went out with.
        verb: `place`, `modify` or `cancel`.
        state: Where it stands.
        order_id: The broker's number.
        filled_quantity: Units.
        has_evidence: Whether an event of the task says what was seen.
    """

    account: str
    task_id: str
    leg: int
    tag: str
    verb: str
    state: str
    order_id: str | None
    filled_quantity: int
    has_evidence: bool


@dataclass(frozen=True, slots=True)
class Placed:
    """An order in the broker's book."""

    account: str
    order_id: str
    tag: str | None
    status: str
    filled_quantity: int


@dataclass(slots=True)
class Tally:
    """What came of it; each list holds a sentence per case.

    Attributes:
        asked: Commands sent.
        accepted: Of them, those that were answered as stored.
        at_broker: Orders that the broker has.
        states: Tasks by state.
        lost: Accepted and without a task, or with one that is not settled.
        doubled: One request that the broker took more than once.
        unexplained: Orders of the broker with a tag of ours that the ledger does not know.
        misjudged: The ledger says something else than the broker.
        unproven: Given up as absent without a word of what was seen.
        gaps: Tasks of which a subscriber did not get every event.
        disordered: Tasks whose events came out of order; no fault, since a worker that was
            overtaken may tell late what it had committed, and events carry their numbers.
    """

    asked: int = 0
    accepted: int = 0
    at_broker: int = 0
    states: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    unexplained: list[str] = field(default_factory=list)
    misjudged: list[str] = field(default_factory=list)
    unproven: list[str] = field(default_factory=list)
    gaps: list[str] = field(default_factory=list)
    disordered: list[str] = field(default_factory=list)

    @property
    def faults(self) -> dict[str, list[str]]:
        """Everything that must be empty, by name."""
        names = ("lost", "doubled", "unexplained", "misjudged", "unproven", "gaps")
        return {name: getattr(self, name) for name in names}

    @property
    def is_clean(self) -> bool:
        """Whether nothing went wrong."""
        return not any(self.faults.values())

    def as_json(self, examples: int = 10) -> dict[str, Any]:
        """Counts, and the first few cases of each fault."""
        return {
            "asked": self.asked,
            "accepted": self.accepted,
            "at_broker": self.at_broker,
            "states": dict(sorted(self.states.items())),
            **{name: len(cases) for name, cases in self.faults.items()},
            "disordered": len(self.disordered),
            "examples": {name: cases[:examples] for name, cases in self.faults.items() if cases},
        }


def tally(
    asked: Iterable[Asked],
    tasks: Iterable[Task],
    requests: Sequence[Request],
    placed: Sequence[Placed],
    accepted_by_tag: Mapping[tuple[str, str], int],
    events: Mapping[tuple[str, str], Sequence[int]] | None = None,
) -> Tally:
    """Judge a run.

    Args:
        asked: What was sent.
        tasks: The ledger's tasks.
        requests: The ledger's requests.
        placed: The broker's book.
        accepted_by_tag: How often the broker took an order with a tag, by account and tag: what
            its book may not show any more counts, too.
        events: Sequence numbers of the events of each task as a subscriber got them, repetitions
            left out; None when nobody listened.
    """
    result = Tally(at_broker=len(placed))
    by_key = {(task.account, task.task_id): task for task in tasks}
    rows = _by_tag(placed)
    _judge_tasks(result, list(asked), by_key)
    _judge_broker(result, requests, rows, accepted_by_tag)
    _judge_requests(result, requests, rows)
    if events is not None:
        _judge_events(result, by_key, events)
    return result


def _judge_tasks(
    result: Tally, asked: Sequence[Asked], by_key: Mapping[tuple[str, str], Task]
) -> None:
    result.asked = len(asked)
    result.accepted = sum(command.was_accepted for command in asked)
    result.states.update(task.state for task in by_key.values())
    keys = {(command.account, command.task_id) for command in asked}
    result.lost += [
        f"{command.account}/{command.task_id}: accepted, not in the ledger"
        for command in asked
        if command.was_accepted and (command.account, command.task_id) not in by_key
    ]
    for key, task in by_key.items():
        if task.state not in SETTLED:
            result.lost.append(f"{'/'.join(key)}: still {task.state}")
        if key not in keys:
            result.unexplained.append(f"{'/'.join(key)}: a task that nobody asked for")


def _judge_broker(
    result: Tally,
    requests: Sequence[Request],
    rows: Mapping[tuple[str, str], Sequence[Placed]],
    accepted_by_tag: Mapping[tuple[str, str], int],
) -> None:
    taken = {key: len(orders) for key, orders in rows.items()}
    for key, count in accepted_by_tag.items():
        if OUR_TAG.fullmatch(key[1]):
            taken[key] = max(count, taken.get(key, 0))
    known = {(request.account, request.tag) for request in requests}
    for (account, tag), count in taken.items():
        if count > 1:
            result.doubled.append(f"{account} {tag}: taken {count} times")
        if count and (account, tag) not in known:
            result.unexplained.append(f"{account} {tag}: not in the ledger")


def _judge_requests(
    result: Tally,
    requests: Sequence[Request],
    rows: Mapping[tuple[str, str], Sequence[Placed]],
) -> None:
    for request in requests:
        name = f"{request.account}/{request.task_id}"
        if request.verb == "place":
            fault = _misjudged(request, rows.get((request.account, request.tag), []))
            if fault:
                result.misjudged.append(f"{name}: {fault}")
        if request.state in {"absent", "unknown"} and not request.has_evidence:
            result.unproven.append(f"{name}: {request.state}")


def _judge_events(
    result: Tally,
    by_key: Mapping[tuple[str, str], Task],
    events: Mapping[tuple[str, str], Sequence[int]],
) -> None:
    for key in by_key:
        seen = list(events.get(key, ()))
        if not seen or sorted(seen) != list(range(1, len(seen) + 1)):
            result.gaps.append(f"{'/'.join(key)}: {seen}")
        elif seen != sorted(seen):
            result.disordered.append(f"{'/'.join(key)}: {seen}")


def _by_tag(placed: Sequence[Placed]) -> dict[tuple[str, str], list[Placed]]:
    rows: dict[tuple[str, str], list[Placed]] = {}
    for order in placed:
        if order.tag is not None and OUR_TAG.fullmatch(order.tag):
            rows.setdefault((order.account, order.tag), []).append(order)
    return rows


def _misjudged(request: Request, rows: Sequence[Placed]) -> str | None:
    """What the ledger has wrong about a request, None when it is right."""
    if not rows:
        # A refusal leaves no order; everything else that claims one needs one.
        if request.state in _NOT_PLACED | {"rejected"}:
            return None
        return f"{request.state}, and the broker has no order of it"
    row = rows[0]
    if request.state in _NOT_PLACED:
        return f"{request.state}, and the broker has order {row.order_id} ({row.status})"
    ledger = (request.order_id, request.state, request.filled_quantity)
    broker = (row.order_id, _ENDS.get(row.status, "open"), row.filled_quantity)
    return None if ledger == broker else f"{ledger}, at the broker {broker}"
