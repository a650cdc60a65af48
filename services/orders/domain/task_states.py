"""Where a task stands, given where its requests stand."""

from collections.abc import Iterable
from typing import Final

from libs.common.contracts.orders import OrderState
from services.orders.domain.intent import Intent

__all__ = ["PRECEDENCE", "filled_of_task", "task_state"]

_S: Final = OrderState
# The first that any request has is the task's. Before the end: what needs attention, then what has
# come furthest. At the end: what went wrong, so that "complete" means all of it is.
PRECEDENCE: Final = (
    _S.UNKNOWN,
    _S.ABSENT,
    _S.SENDING,
    _S.RETRYING,
    _S.OPEN,
    _S.ACKED,
    _S.CHECKED,
    _S.PENDING,
    _S.DEAD_LETTER,
    _S.FAILED,
    _S.REJECTED,
    _S.CANCELLED,
    _S.COMPLETE,
)


def task_state(intents: Iterable[Intent]) -> OrderState:
    """The state of a task.

    A request that another one replaces does not count, since the other stands for it; unless the
    broker showed it after all: then there are two orders, and both count.

    Args:
        intents: Every request of the task.

    Returns:
        PENDING without any; else the first of UNKNOWN, ABSENT, SENDING, RETRYING, OPEN, ACKED,
        CHECKED, PENDING, DEAD_LETTER, FAILED, REJECTED, CANCELLED, COMPLETE that a request has.
        So a task is at its end exactly when all of its requests are.
    """
    states = {intent.state for intent in intents if not intent.is_replaced}
    return next((state for state in PRECEDENCE if state in states), _S.PENDING)


def filled_of_task(intents: Iterable[Intent]) -> tuple[int, float | None]:
    """Units traded of all requests, and the average price of those; None without any."""
    filled, value = 0, 0.0
    priced = True
    for intent in intents:
        if intent.filled_quantity:
            filled += intent.filled_quantity
            priced = priced and intent.average_price is not None
            value += intent.filled_quantity * (intent.average_price or 0.0)
    return filled, (value / filled if filled and priced else None)
