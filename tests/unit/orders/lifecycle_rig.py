"""What the tests of the state machine share: requests in every state, answers and rows."""

from typing import Any

import msgspec

from libs.common.contracts.orders import OrderState
from libs.common.domain.order_answers import BrokerOrder, CallFailure
from services.orders.domain.intent import Intent, Verb, new_intent
from services.orders.domain.lifecycle_events import PublishEvent, Step

SECOND = 1_000_000_000
START = 1_700_000_000 * SECOND
PARAMETERS: dict[str, Any] = {
    "variety": "regular",
    "exchange": "NFO",
    "tradingsymbol": "NIFTY26DEC26000CE",
    "transaction_type": "BUY",
    "quantity": 65,
    "product": "NRML",
    "order_type": "LIMIT",
    "price": 100.0,
}


def placing(**fields) -> Intent:
    """A request that places an order, with some fields as given."""
    intent = new_intent(
        account="AB1234",
        task_id="task-1",
        leg=0,
        verb=Verb.PLACE,
        parameters=PARAMETERS,
        quantity=65,
        exchange="NFO",
        tradingsymbol="NIFTY26DEC26000CE",
    )
    return msgspec.structs.replace(intent, **fields)


def changing(verb: Verb = Verb.MODIFY, **fields) -> Intent:
    """A request about order 1: a new price of 101, or its cancellation."""
    parameters: dict[str, Any] = {"variety": "regular", "order_id": "1"}
    if verb is Verb.MODIFY:
        parameters["price"] = 101.0
    intent = new_intent(
        account="AB1234",
        task_id="task-2",
        leg=0,
        verb=verb,
        parameters=parameters,
        order_id="1",
    )
    return msgspec.structs.replace(intent, **fields)


def in_state(state: OrderState, **fields) -> Intent:
    """A placement as it stands in a state."""
    known: dict[OrderState, dict[str, Any]] = {
        OrderState.SENDING: {"attempts": 1, "sent_at_ns": START},
        OrderState.RETRYING: {"attempts": 1, "sent_at_ns": START, "retry_at_ns": START + SECOND},
        OrderState.UNKNOWN: {"attempts": 1, "sent_at_ns": START, "looking_since_ns": START},
        OrderState.ABSENT: {"attempts": 1, "sent_at_ns": START, "code": "not_found"},
        OrderState.ACKED: {"attempts": 1, "sent_at_ns": START, "order_id": "1"},
        OrderState.OPEN: {
            "attempts": 1,
            "sent_at_ns": START,
            "order_id": "1",
            "status": "OPEN",
        },
        OrderState.COMPLETE: {
            "order_id": "1",
            "status": "COMPLETE",
            "filled_quantity": 65,
            "settled_at_ns": START,
        },
        OrderState.CANCELLED: {"order_id": "1", "status": "CANCELLED", "settled_at_ns": START},
        OrderState.REJECTED: {"code": "off_tick", "settled_at_ns": START},
        OrderState.FAILED: {"code": "expired", "settled_at_ns": START},
        OrderState.DEAD_LETTER: {"attempts": 5, "settled_at_ns": START},
    }
    return placing(**{"state": state, **known.get(state, {}), **fields})


def row(status: str, *, order_id: str = "1", filled: int = 0, **fields) -> BrokerOrder:
    """The order of `placing()` as the broker shows it."""
    values = {
        "tag": placing().tag,
        "quantity": 65,
        "price": 100.0,
        "order_type": "LIMIT",
        "variety": "regular",
        "average_price": 100.0 if filled else None,
        **fields,
    }
    return BrokerOrder(order_id=order_id, status=status, filled_quantity=filled, **values)


def failure(message: str = "no words", *, code: int | None = None, sent: bool = True):
    """A failed call."""
    return CallFailure("NetworkException", code, message, request_sent=sent)


def kinds(step: Step) -> list[str]:
    """What the history says of a step."""
    return [effect.kind for effect in step.effects if isinstance(effect, PublishEvent)]


def evidence(step: Step) -> dict[str, Any]:
    """What the history keeps as evidence of a step."""
    return next(effect.evidence for effect in step.effects if isinstance(effect, PublishEvent))


def effects(step: Step) -> list[str]:
    """Which effects a step has, by name."""
    return [type(effect).__name__ for effect in step.effects]
