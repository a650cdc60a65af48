"""The judge of the chaos run sees every way in which orders can go wrong, and nothing else."""

from dataclasses import replace

import pytest

from tests.chaos.tally import Asked, Placed, Request, Task, tally

TAG = "tfaaaaaaaaaaaaaa"
ASKED = Asked("main", "t1", was_accepted=True)
TASK = Task("main", "t1", "complete")
REQUEST = Request(
    account="main",
    task_id="t1",
    leg=0,
    tag=TAG,
    verb="place",
    state="complete",
    order_id="1",
    filled_quantity=65,
    has_evidence=False,
)
PLACED = Placed("main", "1", TAG, "COMPLETE", 65)
TAKEN = {("main", TAG): 1}
EVENTS = {("main", "t1"): [1, 2, 3]}


def judged(asked=(ASKED,), tasks=(TASK,), requests=(REQUEST,), placed=(PLACED,), taken=TAKEN):
    return tally(asked, tasks, list(requests), list(placed), taken, EVENTS)


def test_order_that_was_placed_once_and_told_right_is_clean():
    found = judged()

    assert found.is_clean
    assert (found.asked, found.accepted, found.at_broker) == (1, 1, 1)
    assert found.as_json()["states"] == {"complete": 1}


def test_accepted_without_a_task_is_lost():
    assert len(judged(asked=(ASKED, Asked("main", "t2", was_accepted=True))).lost) == 1


def test_what_nobody_was_told_is_accepted_may_be_missing():
    assert judged(asked=(ASKED, Asked("main", "t2", was_accepted=False))).is_clean


@pytest.mark.parametrize("state", ["pending", "checked", "sending", "acked", "unknown", "retrying"])
def test_task_that_stands_somewhere_in_between_is_lost(state):
    assert judged(tasks=(replace(TASK, state=state),)).lost


def test_tag_that_was_taken_twice_is_doubled_even_when_the_book_shows_one():
    assert judged(taken={("main", TAG): 2}).doubled


def test_two_orders_with_one_tag_are_doubled():
    assert judged(placed=(PLACED, replace(PLACED, order_id="2"))).doubled


def test_order_with_our_tag_that_the_ledger_does_not_know_is_unexplained():
    found = judged(placed=(PLACED, Placed("main", "2", "tfbbbbbbbbbbbbbb", "OPEN", 0)))

    assert found.unexplained
    assert not found.doubled


def test_orders_of_others_are_none_of_our_business():
    placed = (PLACED, Placed("main", "2", "mine", "OPEN", 0), Placed("main", "3", None, "OPEN", 0))

    assert judged(placed=placed, taken={**TAKEN, ("main", "mine"): 5}).is_clean


def test_task_that_nobody_asked_for_is_unexplained():
    assert judged(asked=()).unexplained


@pytest.mark.parametrize(
    ("state", "placed"),
    [
        ("absent", (PLACED,)),
        ("failed", (PLACED,)),
        ("dead_letter", (PLACED,)),
        ("open", (PLACED,)),
        ("rejected", (PLACED,)),
        ("complete", ()),
        ("open", ()),
        ("complete", (replace(PLACED, order_id="2"),)),
        ("complete", (replace(PLACED, filled_quantity=60),)),
        ("complete", (replace(PLACED, status="CANCELLED"),)),
    ],
)
def test_ledger_that_says_something_else_than_the_broker_is_misjudged(state, placed):
    request = replace(REQUEST, state=state, has_evidence=True)

    assert judged(requests=(request,), placed=placed).misjudged


@pytest.mark.parametrize("state", ["absent", "failed", "rejected", "dead_letter"])
def test_what_was_never_placed_may_have_no_order(state):
    request = replace(REQUEST, state=state, order_id=None, filled_quantity=0, has_evidence=True)

    assert judged(requests=(request,), placed=(), taken={}).is_clean


def test_absent_needs_evidence():
    request = replace(REQUEST, state="absent", order_id=None)

    assert judged(requests=(request,), placed=(), taken={}).unproven


@pytest.mark.parametrize("seen", [[], [2, 3], [1, 3]])
def test_event_that_a_subscriber_did_not_get_is_a_gap(seen):
    found = tally((ASKED,), (TASK,), [REQUEST], [PLACED], TAKEN, {("main", "t1"): seen})

    assert found.gaps


def test_events_out_of_order_are_counted_and_no_fault():
    found = tally((ASKED,), (TASK,), [REQUEST], [PLACED], TAKEN, {("main", "t1"): [1, 3, 2]})

    assert found.disordered
    assert found.is_clean
