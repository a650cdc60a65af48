"""One request, step by step: what each event makes of it, and what it never does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.orders import OrderState, Resolution
from services.orders.domain.intent import SETTLED, Verb, replacement_of
from services.orders.domain.lifecycle import advance
from services.orders.domain.lifecycle_events import (
    Acked,
    Checked,
    DayOver,
    Failed,
    Held,
    LifecycleRules,
    NotSeen,
    Recovered,
    Refused,
    Resolved,
    RowSeen,
    ScheduleRetry,
    Sending,
    SessionRenewed,
    Tick,
)
from services.orders.domain.outcomes import Outcome
from services.orders.errors import OrderRefusedError
from tests.unit.orders.lifecycle_rig import (
    SECOND,
    START,
    changing,
    effects,
    evidence,
    failure,
    in_state,
    kinds,
    placing,
    row,
)

ALL = list(OrderState)
UNSENT = [OrderState.PENDING, OrderState.CHECKED, OrderState.RETRYING]


def test_order_goes_from_its_check_to_its_end():
    intent = placing()
    step = advance(intent, Checked(at_ns=START))
    assert (step.intent.state, effects(step)) == (OrderState.CHECKED, ["PublishEvent", "Send"])
    step = advance(step.intent, Sending(at_ns=START))
    assert (step.intent.state, step.intent.attempts) == (OrderState.SENDING, 1)
    step = advance(step.intent, Acked(at_ns=START + 1, order_id="1"))
    assert (step.intent.state, step.intent.order_id) == (OrderState.ACKED, "1")
    step = advance(step.intent, RowSeen(at_ns=START + 2, order=row("OPEN PENDING")))
    assert step.intent.state is OrderState.ACKED
    step = advance(step.intent, RowSeen(at_ns=START + 3, order=row("OPEN", filled=20)))
    assert (step.intent.state, step.intent.filled_quantity) == (OrderState.OPEN, 20)
    step = advance(step.intent, RowSeen(at_ns=START + 4, order=row("COMPLETE", filled=65)))
    assert (step.intent.state, step.intent.average_price) == (OrderState.COMPLETE, 100.0)
    assert step.intent.settled_at_ns == START + 4
    assert kinds(step) == ["updated"]


# Sending.


@pytest.mark.parametrize("state", [state for state in ALL if state not in UNSENT])
def test_only_what_has_not_left_can_be_refused_held_or_expire(state):
    intent = in_state(state, valid_until_ns=START)
    for event in (
        Refused(at_ns=START, code="off_tick", message="…"),
        Held(at_ns=START, code="breaker_open", message="…"),
        Tick(at_ns=START + 10**6 * SECOND),
    ):
        step = advance(intent, event)
        assert step.intent == intent
        assert step.ignored
        assert not step.effects


@pytest.mark.parametrize(
    "state", [s for s in ALL if s not in {OrderState.CHECKED, OrderState.RETRYING}]
)
def test_only_what_was_checked_and_has_not_left_can_be_sent(state):
    step = advance(in_state(state), Sending(at_ns=START))
    assert step.intent.state is state
    assert step.ignored == "not_sendable"


def test_refusal_of_a_check_is_its_end_and_says_why():
    step = advance(placing(), Refused(at_ns=START, code="off_lot", message="nearest is 65"))
    assert (step.intent.state, step.intent.code) == (OrderState.REJECTED, "off_lot")
    assert kinds(step) == ["refused"]


@pytest.mark.parametrize(
    ("outcome", "code"), [(Outcome.NOT_SENT, "not_sent"), (Outcome.LIMITED, "rate_limited")]
)
def test_what_was_provably_not_placed_is_sent_again_after_a_while(outcome, code):
    step = advance(
        in_state(OrderState.SENDING), Failed(at_ns=START, outcome=outcome, failure=failure())
    )
    assert (step.intent.state, step.intent.code) == (OrderState.RETRYING, code)
    due = step.intent.retry_at_ns
    assert due is not None
    assert due > START
    assert ScheduleRetry(at_ns=due) in step.effects
    early = advance(step.intent, Tick(at_ns=due - 1))
    assert early.ignored == "nothing_due"
    late = advance(step.intent, Tick(at_ns=due))
    assert effects(late) == ["Send"]
    # Asked once: a second tick while it waits for its turn does not ask again.
    assert advance(late.intent, Tick(at_ns=due + SECOND)).ignored == "nothing_due"


def test_limiter_is_left_alone_for_its_second():
    step = advance(
        in_state(OrderState.SENDING),
        Failed(at_ns=START, outcome=Outcome.LIMITED, failure=failure(), jitter=0.0),
    )
    assert step.intent.retry_at_ns is not None
    assert step.intent.retry_at_ns - START > SECOND


@given(st.floats(0, 1), st.integers(1, 4))
def test_retries_wait_longer_each_time_and_never_above_the_ceiling(jitter, attempts):
    rules = LifecycleRules(retry_first_seconds=1, retry_ceiling_seconds=4)
    step = advance(
        in_state(OrderState.SENDING, attempts=attempts),
        Failed(at_ns=START, outcome=Outcome.NOT_SENT, failure=failure(sent=False), jitter=jitter),
        rules,
    )
    assert step.intent.retry_at_ns is not None
    waited = (step.intent.retry_at_ns - START) / SECOND
    size = min(2.0 ** (attempts - 1), 4)
    assert size / 2 - 1e-6 <= waited <= size + 1e-6


@pytest.mark.parametrize("outcome", [Outcome.NOT_SENT, Outcome.LIMITED, Outcome.SESSION_REFUSED])
def test_attempts_end_in_a_dead_letter(outcome):
    step = advance(
        in_state(OrderState.SENDING, attempts=5),
        Failed(at_ns=START, outcome=outcome, failure=failure()),
    )
    assert (step.intent.state, step.intent.code) == (OrderState.DEAD_LETTER, "attempts_used_up")
    assert effects(step) == ["PublishEvent", "DeadLetter"]


def test_cap_of_the_day_is_not_waited_for():
    said = failure("Maximum allowed order requests exceeded", code=429)
    step = advance(
        in_state(OrderState.SENDING), Failed(at_ns=START, outcome=Outcome.LIMITED, failure=said)
    )
    assert (step.intent.state, step.intent.code) == (OrderState.FAILED, "day_cap")


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (Outcome.REFUSED, "broker_refused"),
        (Outcome.NOT_PERMITTED, "not_permitted"),
        (Outcome.NEEDS_AUTHORISATION, "needs_authorisation"),
    ],
)
def test_refusal_of_the_broker_is_final_and_in_its_words(outcome, code):
    step = advance(
        in_state(OrderState.SENDING),
        Failed(at_ns=START, outcome=outcome, failure=failure("Insufficient funds", code=400)),
    )
    assert (step.intent.state, step.intent.code) == (OrderState.REJECTED, code)
    assert "Insufficient funds" in step.intent.message
    assert ("AskAPerson" in effects(step)) is (outcome is Outcome.NOT_PERMITTED)


def test_hold_costs_no_attempt_and_is_said_once():
    step = advance(
        in_state(OrderState.CHECKED),
        Held(at_ns=START, code="breaker_open", message="…", until_ns=START + SECOND),
    )
    assert (step.intent.state, step.intent.attempts) == (OrderState.RETRYING, 0)
    assert kinds(step) == ["held"]
    again = advance(
        step.intent,
        Held(at_ns=START, code="breaker_open", message="…", until_ns=START + 2 * SECOND),
    )
    assert kinds(again) == []
    assert again.intent.retry_at_ns == START + 2 * SECOND


def test_refused_session_waits_for_a_newer_one_and_for_nothing_else():
    step = advance(
        in_state(OrderState.SENDING, valid_until_ns=START + 60 * SECOND),
        Failed(at_ns=START, outcome=Outcome.SESSION_REFUSED, failure=failure(code=403)),
    )
    assert (step.intent.state, step.intent.retry_at_ns) == (OrderState.RETRYING, None)
    assert advance(step.intent, Tick(at_ns=START + 59 * SECOND)).ignored
    renewed = advance(step.intent, SessionRenewed(at_ns=START + SECOND))
    assert effects(renewed) == ["ScheduleRetry"]
    assert effects(advance(renewed.intent, Tick(at_ns=START + SECOND))) == ["Send"]
    # A second new session does not make it leave twice.
    assert advance(renewed.intent, SessionRenewed(at_ns=START + SECOND)).ignored
    over = advance(step.intent, Tick(at_ns=START + 61 * SECOND))
    assert (over.intent.state, over.intent.code) == (OrderState.FAILED, "expired")


# Unknown.


def test_unclear_answer_is_looked_for_and_never_sent_again():
    step = advance(
        in_state(OrderState.SENDING),
        Failed(at_ns=START, outcome=Outcome.AMBIGUOUS, failure=failure("Read timed out")),
    )
    assert step.intent.state is OrderState.UNKNOWN
    assert effects(step) == ["PublishEvent", "Reconcile"]
    assert advance(step.intent, Sending(at_ns=START)).ignored == "not_sendable"


@pytest.mark.parametrize(
    ("looks_at", "state"),
    [
        ([1, 2, 3], OrderState.UNKNOWN),
        ([30, 60, 89.9], OrderState.UNKNOWN),
        ([91], OrderState.UNKNOWN),
        ([91, 92], OrderState.UNKNOWN),
        ([1, 2, 90], OrderState.ABSENT),
        ([90, 91, 92], OrderState.ABSENT),
    ],
)
def test_absence_takes_the_whole_window_and_three_looks_the_last_one_after_it(looks_at, state):
    intent = in_state(OrderState.UNKNOWN)
    for seconds in looks_at:
        step = advance(intent, NotSeen(at_ns=START + round(seconds * SECOND)))
        intent = step.intent
    assert intent.state is state
    if state is OrderState.ABSENT:
        assert effects(step) == ["PublishEvent", "AskAPerson"]
        assert evidence(step)["looks"] == len(looks_at)


def test_time_alone_makes_nothing_absent():
    intent = in_state(OrderState.UNKNOWN)
    assert advance(intent, Tick(at_ns=START + 10**6 * SECOND)).intent == intent


def test_look_from_before_the_search_proves_nothing():
    step = advance(in_state(OrderState.UNKNOWN), NotSeen(at_ns=START - 1))
    assert step.ignored == "before_the_search"


@pytest.mark.parametrize("state", [s for s in ALL if s is not OrderState.UNKNOWN])
def test_book_without_it_changes_only_what_is_looked_for(state):
    step = advance(in_state(state), NotSeen(at_ns=START + 1000 * SECOND))
    assert step.intent == in_state(state)


@pytest.mark.parametrize("state", [OrderState.UNKNOWN, OrderState.ABSENT])
@pytest.mark.parametrize(
    ("status", "found"),
    [
        ("PUT ORDER REQ RECEIVED", OrderState.ACKED),
        ("OPEN", OrderState.OPEN),
        ("TRIGGER PENDING", OrderState.OPEN),
        ("COMPLETE", OrderState.COMPLETE),
        ("CANCELLED", OrderState.CANCELLED),
        ("LAPSED", OrderState.CANCELLED),
        ("REJECTED", OrderState.REJECTED),
        ("SOME NEW STATUS", OrderState.ACKED),
    ],
)
def test_order_that_shows_up_is_adopted_as_the_broker_shows_it(state, status, found):
    step = advance(in_state(state), RowSeen(at_ns=START, order=row(status, order_id="7")))
    assert (step.intent.state, step.intent.order_id) == (found, "7")
    assert kinds(step) == ["adopted"]


def test_update_that_overtakes_the_answer_is_believed_and_the_answer_then_says_nothing_new():
    step = advance(in_state(OrderState.SENDING), RowSeen(at_ns=START, order=row("OPEN")))
    assert step.intent.state is OrderState.OPEN
    assert advance(step.intent, Acked(at_ns=START, order_id="1")).ignored == "known"
    late = Failed(at_ns=START, outcome=Outcome.AMBIGUOUS, failure=failure())
    assert advance(step.intent, late).intent == step.intent
    late = Failed(at_ns=START, outcome=Outcome.NOT_SENT, failure=failure(sent=False))
    assert advance(step.intent, late).intent == step.intent


@pytest.mark.parametrize("state", ALL)
def test_row_of_another_order_changes_nothing(state):
    other = row("COMPLETE", order_id="99", tag="tfotherother")
    assert advance(in_state(state), RowSeen(at_ns=START, order=other)).intent == in_state(state)


@pytest.mark.parametrize("state", ALL)
def test_take_over_never_sends_what_may_have_left(state):
    step = advance(in_state(state), Recovered(at_ns=START + SECOND))
    if state is OrderState.SENDING:
        assert (step.intent.state, step.intent.code) == (OrderState.UNKNOWN, "worker_gone")
    else:
        assert step.intent.state is state
    may_send = {"Send", "ScheduleRetry"} & set(effects(step))
    assert bool(may_send) is (state in {OrderState.CHECKED, OrderState.RETRYING})


def test_take_over_begins_the_search_anew():
    intent = in_state(OrderState.UNKNOWN, looks=2, looked_at_ns=START + 80 * SECOND)
    step = advance(intent, Recovered(at_ns=START + 85 * SECOND))
    assert (step.intent.looks, step.intent.looking_since_ns) == (0, START + 85 * SECOND)


# The broker's word.


@pytest.mark.parametrize(
    "state",
    [*UNSENT, OrderState.REJECTED, OrderState.FAILED, OrderState.DEAD_LETTER],
)
def test_order_that_we_had_ruled_out_is_adopted_and_said_to_differ(state):
    step = advance(in_state(state), RowSeen(at_ns=START, order=row("OPEN", order_id="7")))
    assert (step.intent.state, step.intent.order_id) == (OrderState.OPEN, "7")
    assert step.intent.settled_at_ns is None
    assert kinds(step)[0] == "difference"
    assert "Send" not in effects(step)


@pytest.mark.parametrize("state", [OrderState.COMPLETE, OrderState.CANCELLED])
@pytest.mark.parametrize(
    "status", ["OPEN", "OPEN PENDING", "TRIGGER PENDING", "COMPLETE", "CANCELLED", "REJECTED"]
)
def test_last_word_of_the_broker_stands_whatever_comes_late(state, status):
    step = advance(in_state(state), RowSeen(at_ns=START, order=row(status)))
    assert step.intent == in_state(state)
    assert step.ignored == "nothing_new"


def test_fill_that_is_told_late_is_still_counted():
    cancelled = in_state(OrderState.CANCELLED)
    step = advance(cancelled, RowSeen(at_ns=START, order=row("CANCELLED", filled=20)))
    assert (step.intent.state, step.intent.filled_quantity) == (OrderState.CANCELLED, 20)


def test_working_order_does_not_go_back_to_being_on_its_way():
    working = in_state(OrderState.OPEN, filled_quantity=20)
    step = advance(working, RowSeen(at_ns=START, order=row("VALIDATION PENDING")))
    assert step.intent == working


def test_second_order_with_one_tag_is_reported_to_a_person_once():
    step = advance(in_state(OrderState.OPEN), RowSeen(at_ns=START, order=row("OPEN", order_id="2")))
    assert step.intent.order_id == "1"
    assert effects(step) == ["PublishEvent", "AskAPerson"]
    again = advance(step.intent, RowSeen(at_ns=START, order=row("OPEN", order_id="2")))
    assert again.ignored == "known_other"
    assert advance(step.intent, Acked(at_ns=START, order_id="2")).ignored == "known_other"


def test_iceberg_is_complete_with_its_last_leg():
    def leg(number: int, filled: int, remaining: int):
        meta = {
            "iceberg": {
                "leg": number,
                "legs": 2,
                "leg_quantity": 40,
                "total_quantity": 65,
                "remaining_quantity": remaining,
            }
        }
        return row(
            "COMPLETE",
            order_id=str(number),
            filled=filled,
            variety="iceberg",
            raw={"meta": meta},
        )

    step = advance(in_state(OrderState.ACKED), RowSeen(at_ns=START, order=leg(1, 40, 25)))
    assert (step.intent.state, step.intent.filled_quantity) == (OrderState.OPEN, 40)
    step = advance(step.intent, RowSeen(at_ns=START, order=leg(2, 25, 0)))
    assert (step.intent.state, step.intent.filled_quantity) == (OrderState.COMPLETE, 65)
    assert step.intent.order_id == "1"


# A person, and the end of the day.


@pytest.mark.parametrize("state", [s for s in ALL if s is not OrderState.ABSENT])
@pytest.mark.parametrize("resolution", list(Resolution))
def test_person_decides_only_about_what_is_absent(state, resolution):
    with pytest.raises(OrderRefusedError) as refused:
        advance(in_state(state), Resolved(at_ns=START, resolution=resolution, by="ops"))
    assert refused.value.code == "not_absent"


def test_adopted_order_is_followed_to_its_end():
    absent = in_state(OrderState.ABSENT)
    with pytest.raises(OrderRefusedError, match="number"):
        advance(absent, Resolved(at_ns=START, resolution=Resolution.ADOPT, by="ops"))
    step = advance(
        absent, Resolved(at_ns=START, resolution=Resolution.ADOPT, by="ops", order_id="7")
    )
    assert (step.intent.state, step.intent.order_id) == (OrderState.ACKED, "7")
    # It was placed by hand or lost its tag: its number alone is enough from here on.
    seen = row("COMPLETE", order_id="7", filled=65, tag=None)
    assert advance(step.intent, RowSeen(at_ns=START, order=seen)).intent.state is (
        OrderState.COMPLETE
    )


def test_absent_by_a_persons_word_is_failed_until_the_broker_shows_it():
    step = advance(
        in_state(OrderState.ABSENT),
        Resolved(at_ns=START, resolution=Resolution.ABSENT, by="ops", reason="looked in Kite"),
    )
    assert (step.intent.state, step.intent.code) == (OrderState.FAILED, "resolved_absent")
    assert evidence(step)["reason"] == "looked in Kite"
    shown = advance(step.intent, RowSeen(at_ns=START, order=row("OPEN")))
    assert shown.intent.state is OrderState.OPEN
    assert kinds(shown) == ["difference", "updated"]


def test_request_that_is_sent_again_has_another_tag_and_names_the_one_it_replaces():
    step = advance(
        in_state(OrderState.ABSENT), Resolved(at_ns=START, resolution=Resolution.RESEND, by="ops")
    )
    assert effects(step) == ["PublishEvent", "Resend"]
    assert step.intent.is_replaced
    anew = replacement_of(step.intent, leg=3, valid_until_ns=None)
    assert (anew.state, anew.leg, anew.replaces) == (OrderState.PENDING, 3, step.intent.tag)
    assert anew.tag != step.intent.tag
    assert anew.parameters == step.intent.parameters
    with pytest.raises(ValueError, match="leg"):
        replacement_of(step.intent, leg=0, valid_until_ns=None)


@pytest.mark.parametrize(
    ("state", "after", "code"),
    [
        (OrderState.PENDING, OrderState.FAILED, "day_over"),
        (OrderState.RETRYING, OrderState.FAILED, "day_over"),
        (OrderState.UNKNOWN, OrderState.ABSENT, "day_over"),
        (OrderState.ACKED, OrderState.ABSENT, "day_over"),
        (OrderState.OPEN, OrderState.ABSENT, "day_over"),
        (OrderState.COMPLETE, OrderState.COMPLETE, ""),
    ],
)
def test_day_that_is_over_ends_only_what_never_left(state, after, code):
    step = advance(in_state(state), DayOver(at_ns=START))
    assert (step.intent.state, step.intent.code) == (after, code)


def test_order_of_a_day_that_is_over_is_ended_by_a_person_and_not_sent_again():
    over = advance(in_state(OrderState.OPEN), DayOver(at_ns=START)).intent
    with pytest.raises(OrderRefusedError) as refused:
        advance(over, Resolved(at_ns=START, resolution=Resolution.RESEND, by="ops"))
    assert refused.value.code == "was_taken"
    ended = advance(over, Resolved(at_ns=START, resolution=Resolution.ABSENT, by="ops"))
    assert ended.intent.state is OrderState.CANCELLED
    done = advance(over, Resolved(at_ns=START, resolution=Resolution.ADOPT, by="ops"))
    assert done.intent.state is OrderState.COMPLETE


# Changes and cancellations are settled by reading the order.


def sent(verb: Verb, outcome: Outcome | None):
    intent = advance(changing(verb), Checked(at_ns=START)).intent
    intent = advance(intent, Sending(at_ns=START)).intent
    if outcome is None:
        return advance(intent, Acked(at_ns=START, order_id="1")).intent
    return advance(intent, Failed(at_ns=START, outcome=outcome, failure=failure())).intent


@pytest.mark.parametrize("outcome", [None, Outcome.AMBIGUOUS])
@pytest.mark.parametrize(
    ("verb", "shown", "after", "code"),
    [
        (Verb.MODIFY, row("OPEN", price=101.0), OrderState.COMPLETE, ""),
        (Verb.MODIFY, row("COMPLETE", price=101.0), OrderState.COMPLETE, ""),
        (Verb.MODIFY, row("COMPLETE"), OrderState.REJECTED, "order_settled"),
        (Verb.MODIFY, row("CANCELLED"), OrderState.REJECTED, "order_settled"),
        (Verb.CANCEL, row("CANCELLED"), OrderState.COMPLETE, ""),
        (Verb.CANCEL, row("COMPLETE"), OrderState.REJECTED, "order_settled"),
        (Verb.CANCEL, row("REJECTED"), OrderState.REJECTED, "order_settled"),
    ],
)
def test_change_is_settled_by_what_the_order_shows(outcome, verb, shown, after, code):
    step = advance(sent(verb, outcome), RowSeen(at_ns=START + SECOND, order=shown))
    assert (step.intent.state, step.intent.code) == (after, code)


@pytest.mark.parametrize("outcome", [None, Outcome.AMBIGUOUS])
@pytest.mark.parametrize("verb", [Verb.MODIFY, Verb.CANCEL])
def test_change_that_the_order_does_not_show_for_the_whole_window_was_not_carried_out(
    outcome, verb
):
    intent = sent(verb, outcome)
    for seconds in (1, 60):
        look = RowSeen(at_ns=START + seconds * SECOND, order=row("OPEN"), is_look=True)
        intent = advance(intent, look).intent
        assert intent.state in {OrderState.ACKED, OrderState.UNKNOWN}
    # What the broker pushes may be old, and a change under way tells nothing: no looks.
    pushed = RowSeen(at_ns=START + 100 * SECOND, order=row("OPEN"))
    assert advance(intent, pushed).ignored == "nothing_new"
    under_way = row("MODIFY PENDING" if verb is Verb.MODIFY else "CANCEL PENDING")
    look = RowSeen(at_ns=START + 100 * SECOND, order=under_way, is_look=True)
    assert advance(intent, look).ignored == "nothing_new"
    look = RowSeen(at_ns=START + 100 * SECOND, order=row("OPEN"), is_look=True)
    step = advance(intent, look)
    assert (step.intent.state, step.intent.code) == (OrderState.REJECTED, "not_applied")
    # And if it came through after all, the broker's word wins.
    through = row("OPEN", price=101.0) if verb is Verb.MODIFY else row("CANCELLED")
    late = advance(step.intent, RowSeen(at_ns=START + 200 * SECOND, order=through))
    assert late.intent.state is OrderState.COMPLETE
    assert kinds(late) == ["difference", "updated"]


def test_row_of_before_the_answer_does_not_settle_a_change():
    intent = advance(changing(), Checked(at_ns=START)).intent
    intent = advance(intent, Sending(at_ns=START)).intent
    step = advance(intent, RowSeen(at_ns=START, order=row("COMPLETE")))
    assert step.ignored == "not_awaited"


@pytest.mark.parametrize("state", sorted(SETTLED))
def test_change_that_is_settled_stays_so(state):
    intent = changing(state=state)
    step = advance(intent, RowSeen(at_ns=START, order=row("CANCELLED"), is_look=True))
    assert step.intent == intent


def test_market_order_that_stands_as_a_protected_limit_counts_as_changed():
    intent = changing(
        state=OrderState.ACKED,
        looking_since_ns=START,
        parameters={"order_id": "1", "order_type": "MARKET", "market_protection": -1.0},
    )
    shown = row("OPEN", order_type="LIMIT", price=103.0)
    assert advance(intent, RowSeen(at_ns=START, order=shown)).intent.state is OrderState.COMPLETE
