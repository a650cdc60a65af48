"""Clocks that can be handed around, and the way between nanoseconds and Indian time."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.clock import (
    IST,
    OffsetClock,
    SystemClock,
    VirtualClock,
    ist_datetime,
    ns_of,
)

START_NS = ns_of(datetime(2026, 11, 23, 9, 15, tzinfo=IST))


class Ticks:
    """Elapsed real time under the test's control."""

    def __init__(self) -> None:
        self.ns = 5_000

    def __call__(self) -> int:
        """Nanoseconds, as ``time.monotonic_ns``."""
        return self.ns


def test_system_clock_tells_the_time_of_the_machine():
    before = time.time_ns()
    assert before <= SystemClock().now_ns() <= time.time_ns() + 1_000_000_000


def test_offset_clock_shifts_another_clock():
    base = VirtualClock(START_NS, rate=0)
    assert OffsetClock(-7, base).now_ns() == START_NS - 7


def test_virtual_clock_starts_where_it_is_told_and_runs_at_its_rate():
    ticks = Ticks()
    clock = VirtualClock(START_NS, rate=60.0, monotonic_ns=ticks)
    assert clock.now_ns() == START_NS
    ticks.ns += 1_000_000_000
    assert clock.now_ns() == START_NS + 60_000_000_000


def test_virtual_clock_at_rate_one_loses_no_nanosecond_in_a_year():
    ticks = Ticks()
    clock = VirtualClock(START_NS, monotonic_ns=ticks)
    elapsed = 365 * 86_400 * 1_000_000_000 + 1
    ticks.ns += elapsed
    assert clock.now_ns() == START_NS + elapsed


def test_changing_the_rate_does_not_move_the_clock():
    ticks = Ticks()
    clock = VirtualClock(START_NS, rate=2.0, monotonic_ns=ticks)
    ticks.ns += 100
    clock.set_rate(0)
    assert (clock.rate, clock.now_ns()) == (0, START_NS + 200)
    ticks.ns += 100
    assert clock.now_ns() == START_NS + 200
    clock.set_rate(1)
    ticks.ns += 5
    assert clock.now_ns() == START_NS + 205


def test_frozen_clock_moves_only_when_advanced():
    clock = VirtualClock(START_NS, rate=0)
    clock.advance_ns(42)
    assert clock.now_ns() == START_NS + 42


def test_virtual_clock_never_runs_backwards():
    clock = VirtualClock(START_NS, rate=0)
    with pytest.raises(ValueError, match="step_ns"):
        clock.advance_ns(-1)


@pytest.mark.parametrize("rate", [-1.0, float("inf"), float("nan")])
def test_rate_that_makes_no_sense_is_refused(rate):
    with pytest.raises(ValueError, match="rate"):
        VirtualClock(START_NS, rate=rate)
    with pytest.raises(ValueError, match="rate"):
        VirtualClock(START_NS).set_rate(rate)


def test_indian_time_is_five_and_a_half_hours_ahead():
    # A timestamp as recorded: 2021-07-05 10:41:27 in India.
    moment = ist_datetime(1_625_461_887 * 1_000_000_000)
    assert moment.isoformat() == "2021-07-05T10:41:27+05:30"


@given(ns=st.integers(0, 4_102_444_800_000_000_000))
def test_way_there_and_back_keeps_the_microsecond(ns):
    assert ns_of(ist_datetime(ns)) == ns // 1000 * 1000


@given(
    moment=st.datetimes(
        datetime(1970, 1, 2),  # noqa: DTZ001 -- hypothesis adds the zone.
        datetime(2100, 1, 1),  # noqa: DTZ001 -- as above
        timezones=st.timezones(),
    )
)
def test_nanoseconds_do_not_depend_on_the_zone(moment):
    assert ns_of(moment) == ns_of(moment.astimezone(UTC))
    assert ist_datetime(ns_of(moment)) - moment == timedelta(0)


def test_naive_datetime_is_refused():
    with pytest.raises(ValueError, match="time zone"):
        ns_of(datetime(2026, 11, 23))  # noqa: DTZ001 -- a naive one is the point.
