"""The wheel calls everybody at their interval and spreads those that came together."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain.flush_wheel import SLOT_MS, FlushWheel


@given(st.lists(st.integers(20, 1000), min_size=1, max_size=30))
def test_every_member_is_due_once_per_interval(intervals):
    wheel: FlushWheel[int] = FlushWheel()
    for member, interval in enumerate(intervals):
        wheel.join(member, interval)
    due = [wheel.advance() for _ in range(600)]
    for member, interval in enumerate(intervals):
        turns = [slot for slot, members in enumerate(due) if member in members]
        steps = interval // SLOT_MS
        assert turns[0] < steps
        assert {b - a for a, b in pairwise(turns)} <= {steps}


def test_members_that_join_together_are_spread_over_the_interval():
    wheel: FlushWheel[int] = FlushWheel()
    for member in range(100):
        wheel.join(member, 100)
    assert [len(wheel.advance()) for _ in range(10)] == [10] * 10


def test_member_that_left_is_never_due_again():
    wheel: FlushWheel[str] = FlushWheel()
    wheel.join("a", 20)
    wheel.join("b", 20)
    wheel.leave("a")
    wheel.leave("a")
    wheel.leave("never there")
    assert Counter(m for _ in range(20) for m in wheel.advance()) == {"b": 10}
    assert len(wheel) == 1


def test_joining_again_changes_the_interval():
    wheel: FlushWheel[str] = FlushWheel()
    wheel.join("a", 20)
    wheel.join("a", 200)
    assert Counter(m for _ in range(100) for m in wheel.advance()) == {"a": 5}


@pytest.mark.parametrize("interval", [0, 9, 1011, 5000])
def test_interval_beyond_the_wheel_is_refused(interval):
    with pytest.raises(ValueError, match="interval_ms"):
        FlushWheel[str]().join("a", interval)
