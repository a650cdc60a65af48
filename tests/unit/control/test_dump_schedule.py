"""When dumps are due: a new day, 08:30, old age; and failures only after their pause."""

import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.clock import IST
from libs.common.resilience.backoff import Backoff
from services.control.domain.dump_schedule import DumpSchedule, is_due

DAY = datetime(2026, 11, 23, tzinfo=IST)


def at(hour: int, minute: int = 0, *, day: int = 0) -> datetime:
    return DAY + timedelta(days=day, hours=hour, minutes=minute)


def schedule(*names: str, hours: float = 12.0) -> DumpSchedule:
    return DumpSchedule(
        names or ("NSE", "NFO"),
        refresh_hours=hours,
        new_backoff=lambda: Backoff(first_seconds=10, ceiling_seconds=80, rng=random.Random(1)),
    )


@pytest.mark.parametrize(
    ("fetched", "now", "due"),
    [
        (at(9), at(15, 30), False),
        (at(9), at(20, 59), False),
        (at(9), at(21), True),
        (at(0, 1), at(8, 29), False),
        (at(0, 1), at(8, 30), True),
        (at(8, 30), at(8, 31), False),
        (at(23, 59), at(0, day=1), True),
        (at(9, day=1), at(9), True),
        (at(9, 5), at(9), False),
    ],
)
def test_dump_is_due_on_another_day_at_half_past_eight_and_when_it_is_old(fetched, now, due):
    assert is_due(fetched, now, refresh_hours=12) is due
    assert is_due(fetched.astimezone(UTC), now.astimezone(UTC), refresh_hours=12) is due


@given(
    age=st.timedeltas(timedelta(0), timedelta(days=365)),
    later=st.timedeltas(timedelta(0), timedelta(days=3)),
    more=st.timedeltas(timedelta(0), timedelta(days=3)),
    hours=st.floats(0.25, 24),
)
def test_what_is_due_stays_due_as_time_goes_on(age, later, more, hours):
    fetched = DAY - age
    if is_due(fetched, fetched + later, refresh_hours=hours):
        assert is_due(fetched, fetched + later + more, refresh_hours=hours)
    assert is_due(fetched, fetched + timedelta(hours=24), refresh_hours=hours)


def test_everything_is_due_at_first_and_nothing_after_success():
    plan = schedule()
    assert plan.due(at(9), 0.0) == ["NSE", "NFO"]
    plan.succeeded("NSE", at(9))
    assert plan.due(at(9), 0.0) == ["NFO"]
    plan.succeeded("NFO", at(9))
    assert plan.due(at(12), 9e9) == []


def test_what_an_earlier_leader_fetched_is_taken_over():
    plan = schedule()
    plan.adopt("NSE", at(9))
    plan.adopt("CDS", at(9))
    assert plan.due(at(10), 0.0) == ["NFO"]


def test_failed_dump_waits_for_growing_pauses_while_others_go_on():
    plan = schedule()
    now, clock, pauses = at(9), 100.0, []
    plan.succeeded("NSE", now)
    for _ in range(6):
        assert plan.due(now, clock) == ["NFO"]
        pause = plan.failed("NFO", now, clock)
        pauses.append(pause)
        assert plan.due(now, clock + pause - 0.01) == []
        clock += pause
    assert all(10 / 2 <= pause <= 80 for pause in pauses)
    assert pauses[3] > pauses[0]
    plan.succeeded("NFO", now)
    assert plan.due(now, clock + 1e6) == []
    plan.failed("NFO", now, clock)
    assert plan.failed("NFO", now, clock) <= 20, "the pauses began anew after the success"


def test_failed_refresh_of_a_good_dump_is_tried_again():
    plan = schedule("NSE")
    plan.succeeded("NSE", at(0, 1))
    assert plan.due(at(8, 30), 0.0) == ["NSE"]
    pause = plan.failed("NSE", at(8, 30), 0.0)
    assert plan.due(at(8, 31), pause / 2) == []
    assert plan.due(at(8, 31), pause) == ["NSE"]


def test_new_day_does_not_wait_for_yesterdays_pause():
    plan = schedule("NSE")
    for _ in range(5):
        pause = plan.failed("NSE", at(23, 59), 0.0)
    assert pause > 20
    assert plan.due(at(23, 59), 1.0) == []
    assert plan.due(at(0, day=1), 1.0) == ["NSE"]
    assert plan.failed("NSE", at(0, day=1), 1.0) <= 10
