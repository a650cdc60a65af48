"""Backoff: grows, jitters, is bounded, starts again."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.resilience.backoff import Backoff


@given(st.floats(0.01, 10), st.floats(1, 100), st.integers(0, 2**32), st.integers(1, 200))
def test_delay_stays_between_half_and_all_of_its_step(first, factor, seed, draws):
    backoff = Backoff(
        first_seconds=first, ceiling_seconds=first * 50, factor=factor, rng=random.Random(seed)
    )
    step = first
    for _ in range(draws):
        assert step / 2 * 0.999 <= backoff.next_seconds() <= step * 1.001
        step = min(step * factor, first * 50)


def test_reset_starts_at_the_first_step():
    backoff = Backoff(first_seconds=1, ceiling_seconds=60)
    for _ in range(10):
        backoff.next_seconds()
    backoff.reset()
    assert backoff.next_seconds() <= 1


def test_days_of_failures_do_not_overflow():
    backoff = Backoff(first_seconds=0.5, ceiling_seconds=5, factor=10)
    for _ in range(5_000):
        assert backoff.next_seconds() <= 5


@pytest.mark.parametrize(
    "arguments",
    [
        {"first_seconds": 0},
        {"first_seconds": 2, "ceiling_seconds": 1},
        {"factor": 0.5},
    ],
)
def test_senseless_backoff_is_refused(arguments):
    with pytest.raises(ValueError, match="backoff"):
        Backoff(**arguments)
