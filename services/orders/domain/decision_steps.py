"""What a person, and the end of the day, make of a request."""

from typing import Any, Final

import msgspec

from libs.common.contracts.orders import OrderState, Resolution
from services.orders.domain.intent import Intent, Verb
from services.orders.domain.lifecycle_events import (
    DayOver,
    PublishEvent,
    Reconcile,
    Resend,
    Resolved,
    Step,
)
from services.orders.domain.steps import UNSENT, absent, found, ignored, moved, settled
from services.orders.errors import OrderRefusedError

__all__ = ["day_over", "resolved"]

_S: Final = OrderState


def resolved(intent: Intent, event: Resolved) -> Step:
    """A person decides about a request that was not found.

    Raises:
        OrderRefusedError: `not_absent`, `order_id_missing` or `was_taken`.
    """
    if intent.state is not _S.ABSENT:
        raise OrderRefusedError(
            "not_absent",
            f"leg {intent.leg} is {intent.state}, and a person decides only about absent ones"
            + (": it is still looked for" if intent.state is _S.UNKNOWN else ""),
        )
    evidence = {"resolution": event.resolution.value, "by": event.by, "reason": event.reason}
    match event.resolution:
        case Resolution.ADOPT:
            return _adopted(intent, event, evidence)
        case Resolution.ABSENT:
            return _given_up(intent, event, evidence)
        case Resolution.RESEND:
            return _replaced(intent, event, evidence)


def _given_up(intent: Intent, event: Resolved, evidence: dict[str, Any]) -> Step:
    # An order that had a number did exist: what a person knows is that it works no more.
    existed = intent.verb is Verb.PLACE and intent.order_id is not None
    message = f"{event.by} decided that it {'works no more' if existed else 'is not at the broker'}"
    state = _S.CANCELLED if existed else _S.FAILED
    return settled(
        intent, event, state, "resolved_absent", message, kind="resolved", evidence=evidence
    )


def _replaced(intent: Intent, event: Resolved, evidence: dict[str, Any]) -> Step:
    if intent.verb is Verb.PLACE and intent.order_id is not None:
        raise OrderRefusedError(
            "was_taken",
            f"order {intent.order_id} was taken by the broker and is not sent again: resolve it "
            "as absent and place a new one",
            "resolution",
        )
    message = f"{event.by} decided to send it again under another tag"
    step = settled(
        intent, event, _S.FAILED, "replaced", message, kind="resolved", evidence=evidence
    )
    return msgspec.structs.replace(step, effects=(*step.effects, Resend()))


def _adopted(intent: Intent, event: Resolved, evidence: dict[str, Any]) -> Step:
    order_id = intent.order_id
    if intent.verb is Verb.PLACE:
        order_id = event.order_id or intent.order_id
    if order_id is None:
        raise OrderRefusedError(
            "order_id_missing", "adopt needs the broker's number of the order", "order_id"
        )
    evidence = {**evidence, "order_id": order_id}
    # The book of a day that is over shows nothing any more, and whether a change came through is
    # what the person has just said: nothing is left to look for.
    if intent.verb is not Verb.PLACE or intent.code == "day_over":
        changed = msgspec.structs.replace(intent, order_id=order_id)
        message = f"{event.by} decided that the broker carried it out, as order {order_id}"
        return settled(
            changed,
            event,
            _S.COMPLETE,
            "resolved_adopt",
            message,
            kind="resolved",
            evidence=evidence,
        )
    published = PublishEvent(kind="resolved", evidence=evidence)
    return moved(found(intent, order_id=order_id), _S.ACKED, published, Reconcile())


def day_over(intent: Intent, event: DayOver) -> Step:
    """What has not left never will; what the broker did not end is a person's to end."""
    if intent.state in UNSENT:
        message = "it was not sent on the day it was asked for; send it again with a new key"
        return settled(intent, event, _S.FAILED, "day_over", message, kind="failed")
    if intent.is_settled or intent.state in {_S.ABSENT, _S.SENDING}:
        return ignored(intent, "nothing_due")
    message = (
        "its day is over before the broker said how it ended, and the book of that day is gone; a "
        "person decides, by the contract note"
    )
    return absent(intent, "day_over", message, {"status": intent.status})
