"""A task is as far as its requests are, and complete only when all of it is."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.orders import OrderState
from services.orders.domain.intent import SETTLED, Intent
from services.orders.domain.task_states import filled_of_task, task_state
from tests.unit.orders.lifecycle_rig import placing

S = OrderState


def of(*states: OrderState) -> list[Intent]:
    return [placing(state=state, leg=leg) for leg, state in enumerate(states)]


@pytest.mark.parametrize(
    ("states", "state"),
    [
        ((), S.PENDING),
        ((S.COMPLETE, S.COMPLETE), S.COMPLETE),
        ((S.COMPLETE, S.OPEN), S.OPEN),
        ((S.COMPLETE, S.UNKNOWN, S.SENDING), S.UNKNOWN),
        ((S.ABSENT, S.SENDING), S.ABSENT),
        ((S.OPEN, S.PENDING), S.OPEN),
        ((S.CHECKED, S.ACKED), S.ACKED),
        ((S.COMPLETE, S.CANCELLED), S.CANCELLED),
        ((S.COMPLETE, S.REJECTED), S.REJECTED),
        ((S.REJECTED, S.FAILED, S.DEAD_LETTER), S.DEAD_LETTER),
    ],
)
def test_state_of_a_task_is_that_of_the_request_that_matters_most(states, state):
    assert task_state(of(*states)) is state


@given(st.lists(st.sampled_from(OrderState), min_size=1))
def test_task_is_at_its_end_exactly_when_all_its_requests_are(states):
    is_over = all(state in SETTLED for state in states)
    assert (task_state(of(*states)) in SETTLED) is is_over


def test_request_that_was_replaced_counts_only_when_the_broker_has_it_after_all():
    replaced = placing(state=S.FAILED, code="replaced")
    anew = placing(state=S.COMPLETE, leg=1)
    assert task_state([replaced, anew]) is S.COMPLETE
    shown = placing(state=S.OPEN)
    assert task_state([shown, anew]) is S.OPEN


def test_fills_are_added_up_and_their_prices_averaged():
    legs = [
        placing(filled_quantity=100, average_price=10.0),
        placing(filled_quantity=300, average_price=20.0),
        placing(),
    ]
    assert filled_of_task(legs) == (400, 17.5)
    assert filled_of_task([]) == (0, None)
    assert filled_of_task([placing(filled_quantity=5)]) == (5, None)
