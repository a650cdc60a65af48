"""Which accounts count: losses need a grace and somewhere to go, returns a hold-down."""

from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.messages import FeedState, FeedStatus
from services.control.domain import availability
from services.control.domain.availability import Availability

GRACE, HOLD = 3.0, 60.0
DEAD = "nobody holds its lease"


def judge(before, troubles, now, *, absent=()):
    return availability.judge(
        before, troubles, now=now, grace_seconds=GRACE, hold_seconds=HOLD, absent=absent
    )


def states(verdict):
    return {account: standing.availability for account, standing in verdict.items()}


def walk(*looks, absent=()):
    """Judge look after look, each (now, troubles)."""
    verdict: dict[str, availability.Standing] = {}
    for now, troubles in looks:
        verdict = judge(verdict, troubles, now, absent=absent)
    return verdict


def feed(state, *, refused=False, reason="", minted=7):
    return FeedStatus(
        account="a",
        worker="w1",
        state=state,
        reason=reason,
        connections=1,
        tokens=1,
        frames_total=0,
        ticks_total=0,
        dropped_total=0,
        plan_revision=1,
        session_minted_at_ns=minted,
        session_refused=refused,
        at_ns=1,
    )


def trouble_of(*feeds, holder="w1"):
    """What is wrong after these reports, one look each."""
    dead = None
    for status in feeds:
        dead = availability.dead_session(dead, status)
    return availability.trouble(holder, feeds[-1], dead)


def test_account_without_a_holder_is_in_trouble():
    assert trouble_of(None, holder=None) == DEAD


def test_feed_that_reconnects_or_has_not_spoken_is_not_in_trouble():
    assert trouble_of(None) == ""
    for state in (FeedState.CONNECTING, FeedState.BACKING_OFF, FeedState.STREAMING):
        assert trouble_of(feed(state)) == ""


def test_dead_session_is_trouble_and_says_why():
    for state in (FeedState.PARKED, FeedState.WAITING_SESSION):
        assert trouble_of(feed(state, reason="403")) == "its session is dead: 403"


def test_refused_session_is_no_trouble_while_its_sockets_stream():
    assert trouble_of(feed(FeedState.STREAMING, refused=True)) == ""
    assert trouble_of(feed(FeedState.CONNECTING, refused=True)) == "its session is dead"


def test_dead_session_stays_dead_when_the_feed_has_nothing_left_to_connect_for():
    parked, idle = feed(FeedState.PARKED), feed(FeedState.CONNECTING, reason="nothing planned")
    assert trouble_of(parked, idle, idle) == "its session is dead"
    # A hand-over in between proves nothing either.
    assert trouble_of(parked, None, idle) == "its session is dead"


def test_newer_session_or_a_stream_ends_the_trouble():
    parked = feed(FeedState.PARKED)
    assert trouble_of(parked, feed(FeedState.CONNECTING, minted=8)) == ""
    assert trouble_of(parked, feed(FeedState.STREAMING), feed(FeedState.CONNECTING)) == ""


def test_account_is_lost_after_the_grace_and_not_before():
    dead = {"a": DEAD, "b": ""}
    verdict = walk((0.0, {"a": "", "b": ""}), (10.0, dead), (12.9, dead))
    assert states(verdict)["a"] is Availability.AVAILABLE
    verdict = judge(verdict, dead, 13.0)
    assert states(verdict) == {"a": Availability.LOST, "b": Availability.AVAILABLE}
    assert verdict["a"].trouble == DEAD


def test_trouble_that_passes_within_the_grace_is_forgotten():
    dead, well = {"a": DEAD, "b": ""}, {"a": "", "b": ""}
    verdict = walk((0.0, dead), (2.0, well), (2.5, dead), (5.0, dead))
    assert states(verdict)["a"] is Availability.AVAILABLE


def test_nobody_is_lost_while_everybody_is_in_trouble():
    dead = {"a": DEAD, "b": DEAD}
    verdict = walk((0.0, {"a": "", "b": ""}), (1.0, dead), (100.0, dead))
    assert set(states(verdict).values()) == {Availability.AVAILABLE}
    # One is back a moment before the other: the other's grace begins only now.
    verdict = judge(verdict, {"a": "", "b": DEAD}, 101.0)
    assert states(verdict)["b"] is Availability.AVAILABLE
    verdict = judge(verdict, {"a": "", "b": DEAD}, 104.0)
    assert states(verdict)["b"] is Availability.LOST


def test_lost_account_returns_only_after_the_hold_down():
    dead, well = {"a": DEAD, "b": ""}, {"a": "", "b": ""}
    verdict = walk((0.0, dead), (3.0, dead), (50.0, well))
    assert states(verdict)["a"] is Availability.RETURNING
    assert states(judge(verdict, well, 109.9))["a"] is Availability.RETURNING
    assert states(judge(verdict, well, 110.0))["a"] is Availability.AVAILABLE


def test_trouble_during_the_hold_down_starts_it_anew():
    dead, well = {"a": DEAD, "b": ""}, {"a": "", "b": ""}
    verdict = walk((0.0, dead), (3.0, dead), (10.0, well), (60.0, dead), (61.0, well), (80.0, well))
    assert states(verdict)["a"] is Availability.RETURNING
    assert states(judge(verdict, well, 121.0))["a"] is Availability.AVAILABLE


def test_returning_account_is_lost_again_after_the_grace():
    dead, well = {"a": DEAD, "b": ""}, {"a": "", "b": ""}
    verdict = walk((0.0, dead), (3.0, dead), (10.0, well), (20.0, dead), (23.0, dead))
    assert states(verdict)["a"] is Availability.LOST


def test_account_that_an_earlier_leader_lost_is_lost_until_it_is_seen_well():
    verdict = walk((0.0, {"a": DEAD, "b": ""}), absent={"a"})
    assert states(verdict) == {"a": Availability.LOST, "b": Availability.AVAILABLE}
    verdict = judge(verdict, {"a": "", "b": ""}, 1.0, absent={"a"})
    assert states(verdict)["a"] is Availability.RETURNING


def test_account_that_is_no_longer_configured_is_forgotten():
    assert judge(walk((0.0, {"a": "", "b": ""})), {"b": ""}, 1.0).keys() == {"b"}


@given(
    st.lists(
        st.tuples(
            st.floats(0.1, 20.0),
            st.fixed_dictionaries({name: st.sampled_from(["", DEAD]) for name in "abc"}),
        ),
        min_size=1,
        max_size=60,
    )
)
def test_on_any_course_losses_follow_the_grace_and_returns_the_hold_down(course):
    verdict: dict[str, availability.Standing] = {}
    now = 0.0
    well_since: dict[str, float] = {}
    bad_since: dict[str, float] = {}
    for step, troubles in course:
        now += step
        before, verdict = verdict, judge(verdict, troubles, now)
        for name, problem in troubles.items():
            if problem:
                well_since.pop(name, None)
                bad_since.setdefault(name, now)
            else:
                bad_since.pop(name, None)
                well_since.setdefault(name, now)
            was = before[name].availability if before else Availability.AVAILABLE
            standing = verdict[name].availability
            if standing is Availability.LOST and was is not Availability.LOST:
                assert problem
                assert now - bad_since[name] >= GRACE
                assert not all(troubles.values())
            if standing is Availability.AVAILABLE and was is not Availability.AVAILABLE:
                assert now - well_since[name] >= HOLD
            if was is Availability.LOST:
                assert standing is not Availability.AVAILABLE
            if not problem:
                assert standing is not Availability.LOST
