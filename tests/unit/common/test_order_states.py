"""Every state has a word of the predecessor's, and no uncertain one says that there is no order."""

import pytest

from libs.common.contracts.orders import OrderState
from libs.common.domain.order_states import (
    SETTLED,
    TERMINAL,
    UNCERTAIN,
    PredecessorState,
    predecessor_state,
)


def test_every_state_has_its_word():
    assert {state.value: predecessor_state(state).value for state in OrderState} == {
        "pending": "PENDING",
        "checked": "PENDING",
        "sending": "RUNNING",
        "acked": "COMPLETED",
        "open": "COMPLETED",
        "complete": "COMPLETED",
        "cancelled": "COMPLETED",
        "rejected": "FAILED",
        "unknown": "RUNNING",
        "absent": "RUNNING",
        "retrying": "RETRYING",
        "failed": "FAILED",
        "dead_letter": "DEAD_LETTER",
    }


@pytest.mark.parametrize("state", [*sorted(UNCERTAIN), "of-a-newer-worker"])
def test_what_may_be_an_order_is_never_told_as_failed(state):
    assert predecessor_state(state) is PredecessorState.RUNNING


def test_groups_hold_nothing_but_states():
    states = {state.value for state in OrderState}
    assert states >= SETTLED >= TERMINAL
    assert states >= UNCERTAIN
    assert not UNCERTAIN & TERMINAL
