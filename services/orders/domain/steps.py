"""The steps that several events have in common, and the groups of states."""

from typing import Any, Final

import msgspec

from libs.common.contracts.orders import OrderState
from services.orders.domain.intent import Intent
from services.orders.domain.lifecycle_events import (
    AskAPerson,
    Effect,
    Event,
    PublishEvent,
    Reconcile,
    Step,
)

__all__ = [
    "AWAITED",
    "UNSENT",
    "absent",
    "difference",
    "found",
    "ignored",
    "looking",
    "moved",
    "settled",
    "unknown",
]

UNSENT: Final = frozenset({OrderState.PENDING, OrderState.CHECKED, OrderState.RETRYING})
"""Proven that the broker has nothing of it."""

AWAITED: Final = frozenset({OrderState.SENDING, OrderState.UNKNOWN, OrderState.ABSENT})
"""The broker may or may not have it."""


def moved(intent: Intent, state: OrderState, *effects: Effect) -> Step:
    """The request in another state."""
    return Step(intent=msgspec.structs.replace(intent, state=state), effects=effects)


def ignored(intent: Intent, reason: str) -> Step:
    """Nothing changes; the reason is for a counter."""
    return Step(intent=intent, ignored=reason)


def settled(
    intent: Intent,
    event: Event,
    state: OrderState,
    code: str,
    message: str,
    *,
    kind: str = "",
    evidence: dict[str, Any] | None = None,
) -> Step:
    """The request at its end, which its history tells as `kind`."""
    changed = msgspec.structs.replace(
        intent,
        code=code,
        message=message,
        settled_at_ns=event.at_ns,
        retry_at_ns=None,
        looking_since_ns=None,
    )
    kind = kind or ("refused" if state is OrderState.REJECTED else "failed")
    published = PublishEvent(kind=kind, code=code, message=message, evidence=evidence or {})
    return moved(changed, state, published)


def looking(intent: Intent, at_ns: int, *, code: str, message: str) -> Intent:
    """The request with a search that begins now."""
    return msgspec.structs.replace(
        intent,
        code=code,
        message=message,
        looking_since_ns=at_ns,
        looks=0,
        looked_at_ns=None,
        retry_at_ns=None,
    )


def found(intent: Intent, *, order_id: str) -> Intent:
    """The request with the broker's number, and nothing to wait or look for."""
    return msgspec.structs.replace(
        intent,
        order_id=order_id,
        code="",
        message="",
        retry_at_ns=None,
        looking_since_ns=None,
        settled_at_ns=None,
    )


def difference(intent: Intent, evidence: dict[str, Any]) -> PublishEvent:
    """The broker shows what we had ruled out."""
    return PublishEvent(
        kind="difference",
        code=f"was_{intent.state}",
        message=(
            f"the broker shows an order for a request that stood at {intent.state}; its word counts"
        ),
        evidence=evidence,
    )


def unknown(intent: Intent, at_ns: int, code: str, message: str, evidence: dict[str, Any]) -> Step:
    """The request may be an order, and is looked for from now on."""
    changed = looking(intent, at_ns, code=code, message=message)
    published = PublishEvent(kind="unknown", code=code, message=message, evidence=evidence)
    return moved(changed, OrderState.UNKNOWN, published, Reconcile())


def absent(intent: Intent, code: str, message: str, evidence: dict[str, Any]) -> Step:
    """The request was not found, and a person decides."""
    changed = msgspec.structs.replace(intent, code=code, message=message, looking_since_ns=None)
    return moved(
        changed,
        OrderState.ABSENT,
        PublishEvent(kind="absent", code=code, message=message, evidence=evidence),
        AskAPerson(code=code, message=message, evidence=evidence),
    )
