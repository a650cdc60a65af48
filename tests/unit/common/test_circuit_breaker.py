"""The circuit breaker: opens after failures in a row, probes with care, closes on success."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.resilience.circuit_breaker import BreakerState, CircuitBreaker

SECOND = 1_000_000_000


def opened(**options) -> CircuitBreaker:
    """A breaker that has just opened, at time 0."""
    breaker = CircuitBreaker(**options)
    while breaker.state is BreakerState.CLOSED:
        term = breaker.try_acquire(0)
        assert term is not None
        breaker.failed(term, 0)
    return breaker


def test_failures_in_a_row_open_it_and_a_success_between_starts_the_count_anew():
    breaker = CircuitBreaker(failures=3)
    for ends in ("failed", "failed", "succeeded", "failed", "failed", "failed"):
        assert breaker.state is BreakerState.CLOSED
        term = breaker.try_acquire(0)
        assert term is not None
        if ends == "failed":
            breaker.failed(term, 0)
        else:
            breaker.succeeded(term)
    assert breaker.state is BreakerState.OPEN


def test_nothing_passes_until_its_time_is_over():
    breaker = opened(open_seconds=60)
    assert breaker.wait_ns(SECOND) == 59 * SECOND
    assert breaker.try_acquire(60 * SECOND - 1) is None
    assert breaker.try_acquire(60 * SECOND) is not None
    assert breaker.state is BreakerState.HALF_OPEN


def test_probes_pass_one_for_each_success_that_is_needed_and_close_it():
    breaker = opened(probes=3)
    terms = [breaker.try_acquire(60 * SECOND) for _ in range(4)]
    assert terms[3] is None
    assert breaker.wait_ns(60 * SECOND) is None
    for term in terms[:2]:
        assert term is not None
        assert breaker.succeeded(term) is BreakerState.HALF_OPEN
    assert terms[2] is not None
    assert breaker.succeeded(terms[2]) is BreakerState.CLOSED
    assert breaker.wait_ns(60 * SECOND) == 0


def test_one_probe_that_fails_opens_it_again_for_the_whole_time():
    breaker = opened(open_seconds=60)
    first, second = breaker.try_acquire(60 * SECOND), breaker.try_acquire(60 * SECOND)
    assert first is not None
    assert second is not None
    assert breaker.failed(first, 61 * SECOND) is BreakerState.OPEN
    assert breaker.wait_ns(61 * SECOND) == 60 * SECOND
    # The other probe is of a time that is over.
    assert breaker.succeeded(second) is BreakerState.OPEN
    assert breaker.failed(second, 100 * SECOND) is BreakerState.OPEN
    assert breaker.wait_ns(100 * SECOND) == 21 * SECOND


def test_probe_that_proves_nothing_gives_its_place_back():
    breaker = opened(probes=1)
    term = breaker.try_acquire(60 * SECOND)
    assert term is not None
    assert breaker.try_acquire(60 * SECOND) is None
    breaker.released(term)
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.try_acquire(60 * SECOND) is not None


def test_late_failures_of_calls_from_before_do_not_hold_it_open_longer():
    breaker = CircuitBreaker(failures=2, open_seconds=10)
    terms = [breaker.try_acquire(0) for _ in range(4)]
    for term in terms[:2]:
        assert term is not None
        breaker.failed(term, 0)
    for term in terms[2:]:
        assert term is not None
        breaker.failed(term, 9 * SECOND)
    assert breaker.wait_ns(9 * SECOND) == SECOND


endings = st.lists(
    st.tuples(st.integers(0, 30 * SECOND), st.sampled_from(["failed", "succeeded", "released"])),
    max_size=80,
)


@given(endings, st.integers(1, 5), st.integers(1, 4))
def test_it_always_finds_out_again_whether_the_other_side_is_back(steps, failures, probes):
    breaker = CircuitBreaker(failures=failures, open_seconds=60, probes=probes)
    now = 0
    for step, ending in steps:
        now += step
        term = breaker.try_acquire(now)
        if term is None:
            assert breaker.state is BreakerState.OPEN
            continue
        if ending == "failed":
            breaker.failed(term, now)
        elif ending == "succeeded":
            breaker.succeeded(term)
        else:
            breaker.released(term)
    now += 60 * SECOND
    for _ in range(probes):
        term = breaker.try_acquire(now)
        assert term is not None
        breaker.succeeded(term)
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize("options", [{"failures": 0}, {"probes": 0}, {"open_seconds": 0}])
def test_senseless_breaker_is_refused(options):
    with pytest.raises(ValueError, match="above 0"):
        CircuitBreaker(**options)
