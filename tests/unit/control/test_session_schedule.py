"""The session day: 06:05 in India ends it, midnight, weekends and holidays do not."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.clock import IST
from services.control.domain import session_schedule as schedule

moments = st.datetimes(datetime(2024, 1, 1), datetime(2027, 12, 31)).map(  # noqa: DTZ001
    lambda moment: moment.replace(tzinfo=IST)
)
spans = st.timedeltas(timedelta(0), timedelta(days=5))


def at(text):
    return datetime.fromisoformat(f"{text}+05:30")


@pytest.mark.parametrize(
    ("moment", "day"),
    [
        ("2026-11-19T00:00:00", date(2026, 11, 18)),
        ("2026-11-19T06:04:59.999999", date(2026, 11, 18)),
        ("2026-11-19T06:05:00", date(2026, 11, 19)),
        ("2026-11-19T23:59:59", date(2026, 11, 19)),
        # A Saturday, a Sunday and Republic Day: Kite's tokens die on them too.
        ("2026-11-21T06:05:00", date(2026, 11, 21)),
        ("2026-11-22T12:00:00", date(2026, 11, 22)),
        ("2026-01-26T07:00:00", date(2026, 1, 26)),
        ("2026-12-31T23:59:59", date(2026, 12, 31)),
        ("2027-01-01T06:04:00", date(2026, 12, 31)),
    ],
)
def test_session_day_begins_at_0605(moment, day):
    assert schedule.session_day(at(moment)) == day


def test_moment_without_a_zone_is_refused():
    with pytest.raises(ValueError, match="time zone"):
        schedule.session_day(datetime(2026, 11, 19, 12))  # noqa: DTZ001


def test_midnight_alone_ends_no_session():
    minted = at("2026-11-18T22:00:00")
    assert not schedule.is_over(minted, at("2026-11-19T00:00:01"))
    assert not schedule.is_over(minted, at("2026-11-19T06:04:59"))
    assert schedule.is_over(minted, at("2026-11-19T06:05:00"))


@given(moments, spans)
def test_session_is_over_exactly_when_a_0605_lies_between(minted, span):
    now = minted + span
    boundary = minted.replace(hour=6, minute=5, second=0, microsecond=0)
    if boundary <= minted:
        boundary += timedelta(days=1)
    assert schedule.is_over(minted, now) == (now >= boundary)


@given(moments)
def test_zone_of_a_moment_changes_nothing(moment):
    assert schedule.session_day(moment) == schedule.session_day(moment.astimezone(UTC))


@given(moments)
def test_moment_lies_within_its_day(moment):
    day = schedule.session_day(moment)
    begins = schedule.day_begins(day)
    assert begins <= moment < schedule.day_begins(day + timedelta(days=1))
    assert schedule.session_day(begins) == day


@given(moments)
def test_pause_is_the_end_of_a_session_day(moment):
    if schedule.is_pause(moment):
        assert schedule.session_day(moment + timedelta(minutes=5)) > schedule.session_day(moment)
