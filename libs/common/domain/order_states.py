"""What the states of an order task mean to those who only look on, old clients included.

States are taken and given as the plain words of `libs.common.contracts.orders.OrderState`, so that
the domain needs no contract.
"""

from enum import StrEnum
from typing import Final

TERMINAL: Final = frozenset({"complete", "cancelled", "rejected", "failed", "dead_letter"})
"""Nothing more will happen to the task."""

SETTLED: Final = TERMINAL | {"acked", "open", "absent"}
"""A caller who waits for the outcome of a request need not wait any longer.

`acked` and `open` settle a request, not the order: the broker took it and gave it a number; what
the exchange makes of it comes later, as events. `absent` waits for a person, who may take hours.
`unknown` and `retrying` are no outcome yet.
"""

UNCERTAIN: Final = frozenset({"unknown", "absent"})
"""The broker may or may not have the order."""


class PredecessorState(StrEnum):
    """The words by which the predecessor's task queue told how a task fared."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    RETRYING = "RETRYING"
    DEAD_LETTER = "DEAD_LETTER"


_PREDECESSOR: Final = {
    "pending": PredecessorState.PENDING,
    "checked": PredecessorState.PENDING,
    "sending": PredecessorState.RUNNING,
    "acked": PredecessorState.COMPLETED,
    "open": PredecessorState.COMPLETED,
    "complete": PredecessorState.COMPLETED,
    "cancelled": PredecessorState.COMPLETED,
    "rejected": PredecessorState.FAILED,
    "unknown": PredecessorState.RUNNING,
    "absent": PredecessorState.RUNNING,
    "retrying": PredecessorState.RETRYING,
    "failed": PredecessorState.FAILED,
    "dead_letter": PredecessorState.DEAD_LETTER,
}


def predecessor_state(state: str) -> PredecessorState:
    """The predecessor's word for a state.

    Its COMPLETED meant that the broker had answered with an order number, whatever became of the
    order; so `open` and `cancelled` are COMPLETED too. `unknown` and `absent` are RUNNING: any
    other word would tell an old client that the order does not exist, and it would send another
    one. A state that is not known here, of a newer worker, is RUNNING for the same reason.
    """
    return _PREDECESSOR.get(state, PredecessorState.RUNNING)
