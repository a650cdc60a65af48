"""The calendar limiter: no second of any clock holds too many calls, and none is wasted."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.resilience.calendar_limiter import CalendarLimiter

SECOND = 1_000_000_000
gaps = st.lists(st.integers(0, 2 * SECOND), min_size=1, max_size=200)


@given(st.integers(1, 12), st.integers(0, 11), st.integers(0, SECOND - 1), gaps)
def test_no_calendar_second_of_any_clock_exceeds_the_limit(limit, spare, skew, steps):
    spare = min(spare, limit - 1)
    limiter = CalendarLimiter(limit, spare=spare)
    now = 0
    calls: Counter[int] = Counter()
    for step in steps:
        now += step
        if limiter.try_acquire(now) == 0:
            calls[(now + skew) // SECOND] += 1
    assert max(calls.values()) <= limit - spare


@given(st.integers(1, 12), st.floats(0, 0.5), gaps)
def test_wait_is_exact(limit, margin, steps):
    limiter = CalendarLimiter(limit, margin_seconds=margin)
    now = 0
    for step in steps:
        now += step
        wait = limiter.try_acquire(now)
        if wait:
            assert limiter.wait_ns(now + wait - 1) == 1
            now += wait
            assert limiter.try_acquire(now) == 0


@given(st.integers(1, 12), st.integers(1, 20))
def test_who_waits_as_told_gets_the_whole_limit(limit, seconds):
    limiter = CalendarLimiter(limit)
    now = calls = 0
    while now < seconds * SECOND:
        wait = limiter.try_acquire(now)
        now += wait
        calls += wait == 0
    assert calls == limit * seconds


def test_refusal_blocks_one_window_even_when_calls_are_left():
    limiter = CalendarLimiter(3, margin_seconds=0.1)
    assert limiter.try_acquire(5 * SECOND) == 0
    limiter.refused(5 * SECOND + 1)
    assert limiter.try_acquire(5 * SECOND + 2) == 1_100_000_000 - 1
    assert limiter.try_acquire(6 * SECOND + 100_000_001) == 0


def test_refused_attempt_is_not_counted():
    limiter = CalendarLimiter(1)
    assert limiter.try_acquire(0) == 0
    for now in range(1, SECOND, SECOND // 10):
        assert limiter.try_acquire(now) > 0
    assert limiter.try_acquire(SECOND) == 0


calls = st.lists(st.tuples(st.integers(0, 20 * SECOND), st.booleans()), min_size=1, max_size=200)


@given(st.integers(1, 12), st.integers(0, 4), st.integers(1, 60), calls)
def test_spare_is_for_those_who_may_use_it_and_no_window_exceeds_the_whole(
    usable, spare, window, steps
):
    limiter = CalendarLimiter(usable + spare, spare=spare, window_seconds=window)
    now = 0
    left: list[int] = []
    for step, may_use_spare in steps:
        now += step
        inside = sum(at > now - window * SECOND for at in left)
        assert limiter.used(now) == inside
        allowed = usable + spare if may_use_spare else usable
        went = limiter.try_acquire(now, may_use_spare=may_use_spare) == 0
        assert went is (inside < allowed)
        if went:
            left.append(now)


@given(st.integers(1, 12), gaps, st.integers(0, SECOND))
def test_limiter_that_is_told_of_earlier_calls_waits_as_if_it_had_made_them(limit, steps, later):
    first, second = CalendarLimiter(limit), CalendarLimiter(limit)
    now = 0
    left = []
    for step in steps:
        now += step
        if first.try_acquire(now) == 0:
            left.append(now)
    second.restore(reversed(left))
    assert second.wait_ns(now + later) == first.wait_ns(now + later)


def test_clock_that_is_put_back_locks_nobody_out():
    limiter = CalendarLimiter(2)
    for _ in range(2):
        assert limiter.try_acquire(3600 * SECOND) == 0
    limiter.refused(3600 * SECOND)
    assert limiter.wait_ns(10 * SECOND) == SECOND
    assert limiter.try_acquire(11 * SECOND) == 0


@pytest.mark.parametrize(
    ("limit", "options"),
    [
        (0, {}),
        (3, {"spare": 3}),
        (3, {"spare": -1}),
        (3, {"margin_seconds": -0.1}),
        (3, {"window_seconds": 0}),
    ],
)
def test_senseless_limiter_is_refused(limit, options):
    with pytest.raises(ValueError, match=r"limit|margin|window"):
        CalendarLimiter(limit, **options)
