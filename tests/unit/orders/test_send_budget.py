"""The budget of an account: seconds, minutes, the day, the changes of an order, and the spare."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orders.domain.intent import Verb
from services.orders.domain.send_budget import PastSend, SendBudget, SendLimits
from services.orders.errors import OrderRefusedError

SECOND = 1_000_000_000
# 2026-11-25 10:00 in India.
MORNING = 1_795_581_000 * SECOND
DAY = 86_400 * SECOND
steps = st.lists(
    st.tuples(st.integers(0, 3 * SECOND), st.sampled_from(Verb)), min_size=1, max_size=300
)


@given(steps)
def test_broker_never_sees_more_than_it_allows(sends):
    budget = SendBudget()
    now = MORNING
    left: list[int] = []
    for step, verb in sends:
        now += step
        if budget.try_acquire(verb, now) == 0:
            left.append(now)
    for at in left:
        assert sum(at <= other < at + SECOND for other in left) <= 10
        assert sum(at <= other < at + 60 * SECOND for other in left) <= 400


def test_nine_leave_in_a_second_and_the_tenth_is_kept_for_a_cancellation():
    budget = SendBudget()
    for _ in range(9):
        assert budget.try_acquire(Verb.PLACE, MORNING) == 0
    assert budget.try_acquire(Verb.PLACE, MORNING) > 0
    assert budget.try_acquire(Verb.MODIFY, MORNING, order_id="1") > 0
    assert budget.try_acquire(Verb.CANCEL, MORNING) == 0
    assert budget.try_acquire(Verb.CANCEL, MORNING) > 0
    assert budget.used(MORNING).second == 10


def test_minute_is_kept_to_even_when_every_second_is():
    budget = SendBudget(SendLimits(per_minute=20, spare_per_minute=1, margin_seconds=0))
    now = MORNING
    for _ in range(20):
        assert budget.try_acquire(Verb.PLACE, now) == 0
        now += SECOND
    wait = budget.try_acquire(Verb.PLACE, now)
    assert now + wait == MORNING + 60 * SECOND
    assert budget.try_acquire(Verb.CANCEL, now) == 0


def test_cap_of_the_day_refuses_placements_alone_and_ends_with_the_indian_day():
    budget = SendBudget(SendLimits(per_day=3))
    for _ in range(3):
        assert budget.try_acquire(Verb.PLACE, MORNING) == 0
    with pytest.raises(OrderRefusedError) as refused:
        budget.try_acquire(Verb.PLACE, MORNING)
    assert refused.value.code == "day_cap"
    assert budget.try_acquire(Verb.CANCEL, MORNING) == 0
    # 23:59:59 in India is the same day, a second later is not.
    with pytest.raises(OrderRefusedError):
        budget.try_acquire(Verb.PLACE, MORNING + 14 * 3600 * SECOND - SECOND)
    assert budget.try_acquire(Verb.PLACE, MORNING + 14 * 3600 * SECOND) == 0


def test_legs_of_an_iceberg_count_one_by_one_for_the_day():
    budget = SendBudget(SendLimits(per_day=5))
    assert budget.try_acquire(Verb.PLACE, MORNING, units=4) == 0
    with pytest.raises(OrderRefusedError):
        budget.try_acquire(Verb.PLACE, MORNING, units=2)
    assert budget.used(MORNING).day == 4


def test_order_is_changed_twenty_five_times_and_others_besides():
    budget = SendBudget()
    now = MORNING
    for _ in range(25):
        assert budget.try_acquire(Verb.MODIFY, now, order_id="1") == 0
        now += SECOND
    with pytest.raises(OrderRefusedError) as refused:
        budget.try_acquire(Verb.MODIFY, now, order_id="1")
    assert refused.value.code == "modifications_used_up"
    assert budget.try_acquire(Verb.MODIFY, now, order_id="2") == 0


def test_refused_request_counts_nothing():
    budget = SendBudget(SendLimits(per_day=1))
    assert budget.try_acquire(Verb.PLACE, MORNING) == 0
    with pytest.raises(OrderRefusedError):
        budget.try_acquire(Verb.PLACE, MORNING + SECOND)
    assert budget.used(MORNING + SECOND).minute == 1


@given(steps, st.integers(0, 2 * SECOND))
def test_worker_that_takes_over_goes_on_counting(sends, later):
    limits = SendLimits(per_minute=30, spare_per_minute=2, per_day=100)
    budget, taken_over = SendBudget(limits), SendBudget(limits)
    now = MORNING
    past = [PastSend(at_ns=MORNING - DAY, verb=Verb.PLACE)]
    for step, verb in sends:
        now += step
        try:
            if budget.try_acquire(verb, now, order_id="1") == 0:
                past.append(PastSend(at_ns=now, verb=verb, order_id="1"))
        except OrderRefusedError:
            continue
    now += later
    taken_over.restore(reversed(past), now)
    assert taken_over.used(now) == budget.used(now)
    for verb in Verb:
        assert taken_over.wait_ns(verb, now) == budget.wait_ns(verb, now)


def test_refusal_of_the_broker_stops_even_cancellations_for_a_second():
    budget = SendBudget(SendLimits(margin_seconds=0))
    budget.refused(MORNING)
    assert budget.wait_ns(Verb.CANCEL, MORNING) == SECOND
    assert budget.try_acquire(Verb.PLACE, MORNING + SECOND) == 0
