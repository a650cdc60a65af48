"""The market's time."""

from hypothesis import given
from hypothesis import strategies as st

from services.greeks.domain.market_clock import MarketClock

SECOND = 1_000_000_000


def test_time_goes_forward_with_the_newest_stamp_and_not_back_with_an_old_one():
    clock = MarketClock()
    for stamp in (100_000, 100_002, 100_001, 0, 90_000):
        assert not clock.advance(stamp, 1)
    assert clock.now_s == 100_002


def test_time_goes_back_when_only_old_stamps_come_for_a_while():
    clock = MarketClock()
    clock.advance(100_000, 0)
    assert not clock.advance(50_000, 0)
    assert not clock.advance(50_001, 2 * SECOND)
    assert clock.advance(50_000, 3 * SECOND)
    assert clock.now_s == 50_001


def test_one_present_stamp_keeps_the_time():
    clock = MarketClock()
    clock.advance(100_000, 0)
    clock.advance(50_000, 0)
    clock.advance(99_990, SECOND)
    assert not clock.advance(50_000, 4 * SECOND)
    assert clock.now_s == 100_000


@given(st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 10)), max_size=30))
def test_time_goes_back_only_with_notice(steps):
    clock = MarketClock()
    received = 0
    for stamp, seconds in steps:
        received += seconds * SECOND
        before = clock.now_s
        assert clock.advance(stamp, received) == (clock.now_s < before)
