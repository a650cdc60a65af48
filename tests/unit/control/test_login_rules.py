"""The rules of logins: whatever Kite answers, no account is logged in over and over."""

from datetime import date, timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.control.domain import login_rules as rules
from services.control.domain.login_rules import History, Limits, Verdict

DAY = date(2026, 11, 18)
LIMITS = Limits(attempts_per_day=12)


def step(history, now, outcome, jitter=0.5):
    """One login with an outcome."""
    history = rules.begun(history, now, LIMITS)
    if outcome == "minted":
        return rules.succeeded(history)
    if outcome == "no answer":
        return rules.unanswered(history, now, LIMITS, jitter)
    return rules.turned_down(history, now, step=outcome, reason="no", period_left_seconds=12.0)


def test_refused_password_is_never_tried_again_not_even_tomorrow():
    history = step(rules.on_day(History(), DAY), 0.0, "password")
    for days in range(4):
        history = rules.on_day(history, DAY + timedelta(days=days))
        assert rules.verdict(history, 1e9, LIMITS) is Verdict.REFUSED
    assert rules.verdict(rules.asked_by_a_person(history), 0.0, LIMITS) is Verdict.GO


def test_refused_code_is_tried_once_more_and_only_in_the_next_period():
    history = step(History(), 100.0, "totp")
    assert rules.verdict(history, 112.0, LIMITS) is Verdict.WAIT
    assert rules.verdict(history, 113.5, LIMITS) is Verdict.GO
    history = step(history, 113.5, "totp")
    assert rules.verdict(history, 1e9, LIMITS) is Verdict.REFUSED


@given(st.lists(st.floats(0, 1), min_size=1, max_size=40))
def test_delays_without_an_answer_double_up_to_the_ceiling(jitters):
    history, now, limits = History(), 0.0, Limits(attempts_per_day=1000)
    for number, jitter in enumerate(jitters):
        history = rules.unanswered(rules.begun(history, now, limits), now, limits, jitter)
        delay = history.not_before - now
        full = min(300.0, 0.5 * 2**number)
        assert full / 2 - 1e-6 <= delay <= full + 1e-6
        now = history.not_before


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["minted", "no answer", "password", "totp", "session", "died"]),
            st.floats(0, 600),
        ),
        max_size=200,
    )
)
def test_no_sequence_of_answers_makes_more_logins_than_a_day_allows(answers):
    """The loop that asks as often as it can, against an opponent that answers anything."""
    history, now, begun, refusals = rules.on_day(History(), DAY), 0.0, 0, 0
    minted_at = None
    for outcome, pause in answers:
        now += pause
        if outcome == "died":
            if minted_at is not None:
                history = rules.died(history, now, LIMITS, life_seconds=now - minted_at)
                minted_at = None
            continue
        if minted_at is not None or rules.verdict(history, now, LIMITS) is not Verdict.GO:
            continue
        begun += 1
        refusals += outcome in {"password", "session"}
        history = step(history, now, outcome)
        if outcome == "minted":
            minted_at = now
    assert begun <= LIMITS.attempts_per_day
    assert refusals <= 1


@given(st.lists(st.floats(0, 60), min_size=2, max_size=50))
def test_sessions_that_die_at_once_are_renewed_ever_more_seldom(pauses):
    history, now = rules.on_day(History(), DAY), 0.0
    limits = Limits(attempts_per_day=1000)
    logins = []
    for pause in pauses:
        now += pause
        if rules.verdict(history, now, limits) is Verdict.GO:
            logins.append(now)
            history = rules.succeeded(rules.begun(history, now, limits))
            history = rules.died(history, now, limits, life_seconds=0.0)
    distances = [later - earlier for earlier, later in pairwise(logins)]
    for number, distance in enumerate(distances):
        least = limits.interval_seconds * 2 ** max(0, number)
        assert distance >= min(limits.delay_ceiling_seconds, least if number else 30.0) - 1e-6


def test_new_session_day_begins_with_all_attempts_and_without_waiting():
    history = rules.on_day(History(), DAY)
    for _ in range(LIMITS.attempts_per_day):
        history = step(history, 0.0, "no answer")
    assert rules.verdict(history, 1e9, LIMITS) is Verdict.USED_UP
    assert rules.verdict(rules.on_day(history, DAY), 1e9, LIMITS) is Verdict.USED_UP
    # A clock that goes back gives no new attempts.
    assert rules.verdict(rules.on_day(history, DAY - timedelta(days=1)), 1e9, LIMITS) is (
        Verdict.USED_UP
    )
    fresh = rules.on_day(history, DAY + timedelta(days=1))
    assert rules.verdict(fresh, 0.0, LIMITS) is Verdict.GO


def test_two_logins_keep_their_distance():
    history = step(History(), 0.0, "minted")
    assert rules.verdict(history, 29.9, LIMITS) is Verdict.WAIT
    assert rules.verdict(history, 30.0, LIMITS) is Verdict.GO
