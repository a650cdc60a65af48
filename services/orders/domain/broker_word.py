"""What a row of the broker's order book makes of a request; the broker's word outweighs ours."""

from typing import Any, Final

import msgspec

from libs.common.contracts.orders import OrderState
from libs.common.domain.order_answers import BrokerOrder
from services.orders.domain.intent import Intent, Verb
from services.orders.domain.lifecycle_events import AskAPerson, PublishEvent, Step

__all__ = ["about_other_order", "evidence_of", "is_in_progress", "settled_by_row", "with_row"]

_S: Final = OrderState
_FINAL_STATE: Final = {
    "COMPLETE": _S.COMPLETE,
    "CANCELLED": _S.CANCELLED,
    "LAPSED": _S.CANCELLED,
    "REJECTED": _S.REJECTED,
}
# What an order says before it works for the first time. Seen of one that works, it is old news.
_ON_ITS_WAY: Final = frozenset(
    {
        "",
        "AMO REQ RECEIVED",
        "OPEN PENDING",
        "PUT ORDER REQ RECEIVED",
        "VALIDATION PENDING",
    }
)
_IN_PROGRESS: Final = frozenset(
    {"CANCEL PENDING", "MODIFIED", "MODIFY PENDING", "MODIFY VALIDATION PENDING"}
)
# A protected market order stands as a limit order at its protection price.
_SHOWN_AS: Final = {"MARKET": {"MARKET", "LIMIT"}, "SL-M": {"SL-M", "SL", "LIMIT"}}


def with_row(intent: Intent, order: BrokerOrder) -> Intent:
    """A placed order's request after the broker showed the order.

    Rows come late, twice and out of order. So: after the broker's last word only fills may still
    grow, a working order does not go back to being on its way, and fills never fall.

    Args:
        intent: Of a placement.
        order: Known to be the request's.

    Returns:
        The request as it stands now; the same when the row says nothing new.
    """
    filled = _filled_of(order)
    average_price = intent.average_price
    if filled >= intent.filled_quantity and order.average_price is not None:
        average_price = order.average_price
    changed = msgspec.structs.replace(
        intent,
        order_id=intent.order_id or order.order_id,
        filled_quantity=max(filled, intent.filled_quantity),
        average_price=average_price,
    )
    if intent.has_final_word:
        return changed
    state = _state_of(intent, order)
    is_old_news = intent.state is _S.OPEN and order.status in _ON_ITS_WAY
    if not is_old_news:
        # The last word about one leg of an iceberg is not the last word about the request.
        status = "OPEN" if order.is_final and state is _S.OPEN else order.status or intent.status
        changed = msgspec.structs.replace(
            changed, status=status, status_message=order.status_message
        )
    code = message = ""
    if state is _S.REJECTED:
        code, message = "broker_rejected", order.status_message or "the broker gave no reason"
    return msgspec.structs.replace(
        changed,
        state=state,
        code=code,
        message=message,
        retry_at_ns=None,
        looking_since_ns=None,
    )


def settled_by_row(intent: Intent, order: BrokerOrder) -> tuple[OrderState, str, str] | None:
    """How a change or a cancellation ended, read from the order that it is about.

    Args:
        intent: Of a change or a cancellation.
        order: The order, read after the request left.

    Returns:
        State, code and message; None when the order does not tell yet.
    """
    if intent.verb is Verb.CANCEL:
        if order.status in {"CANCELLED", "LAPSED"}:
            return _S.COMPLETE, "", ""
    elif _is_changed(intent, order):
        return _S.COMPLETE, "", ""
    if order.is_final:
        message = f"order {order.order_id} is {order.status}: the {intent.verb} came too late"
        return _S.REJECTED, "order_settled", message
    return None


def is_in_progress(order: BrokerOrder) -> bool:
    """Whether a change or a cancellation of the order is under way, so that it tells nothing."""
    return order.status in _IN_PROGRESS


def about_other_order(intent: Intent, order_id: str, evidence: dict[str, Any]) -> Step:
    """A second order carries the request's tag: what must never be; said once, to a person."""
    if order_id in intent.other_order_ids:
        return Step(intent=intent, ignored="known_other")
    message = (
        f"order {order_id} carries the tag of order {intent.order_id}: there may be two orders for "
        "one request; look at both and cancel one"
    )
    evidence = {**evidence, "known_order_id": intent.order_id}
    return Step(
        intent=msgspec.structs.replace(intent, other_order_ids=(*intent.other_order_ids, order_id)),
        effects=(
            PublishEvent(
                kind="difference", code="second_order", message=message, evidence=evidence
            ),
            AskAPerson(code="second_order", message=message, evidence=evidence),
        ),
    )


def evidence_of(order: BrokerOrder) -> dict[str, Any]:
    """The row, for the history."""
    return {"order": order.raw or {"order_id": order.order_id, "status": order.status}}


def _state_of(intent: Intent, order: BrokerOrder) -> OrderState:
    state = _FINAL_STATE.get(order.status)
    if state is _S.COMPLETE and _iceberg(order).get("remaining_quantity"):
        # One leg of an iceberg is complete, and others are to come.
        return _S.OPEN
    if state is not None:
        return state
    if order.is_working or intent.state is _S.OPEN or order.status in _IN_PROGRESS:
        return _S.OPEN
    return _S.ACKED


def _iceberg(order: BrokerOrder) -> dict[str, Any]:
    meta = order.raw.get("meta")
    iceberg = meta.get("iceberg") if isinstance(meta, dict) else None
    return iceberg if isinstance(iceberg, dict) else {}


def _filled_of(order: BrokerOrder) -> int:
    iceberg = _iceberg(order)
    leg, per_leg = iceberg.get("leg"), iceberg.get("leg_quantity")
    if isinstance(leg, int | float) and isinstance(per_leg, int | float) and leg > 1:
        # Legs follow one another: those before this one are filled.
        return int((leg - 1) * per_leg) + order.filled_quantity
    return order.filled_quantity


def _is_changed(intent: Intent, order: BrokerOrder) -> bool:
    asked = intent.parameters
    order_type = asked.get("order_type")
    if order_type and order.order_type not in _SHOWN_AS.get(order_type, {order_type}):
        return False
    for name in ("price", "trigger_price"):
        value = asked.get(name)
        if value is not None and abs(getattr(order, name) - value) > 1e-9 * max(1.0, value):
            return False
    validity = asked.get("validity")
    if validity and order.validity and order.validity != validity:
        return False
    quantity = asked.get("quantity")
    # Kite does not say whether the quantity of a change is the total or what is left of it.
    return quantity is None or quantity in {order.quantity, order.pending_quantity}
