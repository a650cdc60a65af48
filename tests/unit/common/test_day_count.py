"""How much of a year is left, on both clocks."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.clock import IST, ns_of
from libs.common.domain.day_count import NS_PER_YEAR, DayCount, year_fraction

EXPIRY = datetime(2026, 11, 23, 15, 40, tzinfo=IST)
FRIDAY_CLOSE = datetime(2026, 11, 20, 15, 40, tzinfo=IST)
MOMENTS = st.datetimes(
    datetime(2026, 1, 1),  # noqa: DTZ001 -- hypothesis adds the zone.
    datetime(2026, 12, 31),  # noqa: DTZ001 -- as above
    timezones=st.just(IST),
)


def left(start: datetime, day_count: DayCount = DayCount.ACT_365) -> float:
    return year_fraction(ns_of(start), EXPIRY, day_count)


def test_calendar_clock_counts_every_second():
    assert left(FRIDAY_CLOSE) == 3 / 365
    assert left(EXPIRY - timedelta(seconds=1)) == pytest.approx(1 / 31_536_000, rel=1e-12)


def test_calendar_clock_keeps_the_nanosecond():
    assert year_fraction(ns_of(EXPIRY) - 1, EXPIRY) == 1 / NS_PER_YEAR


def test_trading_clock_stands_still_over_the_weekend():
    assert left(FRIDAY_CLOSE, DayCount.TRADING_252) == pytest.approx(1 / 252)
    assert left(datetime(2026, 11, 23, 9, 15, tzinfo=IST), DayCount.TRADING_252) == 1 / 252


def test_trading_clock_counts_the_running_session_by_its_share():
    half = datetime(2026, 11, 23, 12, 27, 30, tzinfo=IST)
    assert left(half, DayCount.TRADING_252) == pytest.approx(0.5 / 252)


def test_trading_clock_does_not_count_holidays_and_special_sessions():
    # Friday's close to Tuesday's: over Muhurat Sunday, one session on Monday; Tuesday is a holiday.
    start = datetime(2026, 11, 6, 15, 40, tzinfo=IST)
    end = datetime(2026, 11, 10, 15, 40, tzinfo=IST)
    assert year_fraction(ns_of(start), end, DayCount.TRADING_252) == pytest.approx(1 / 252)


@pytest.mark.parametrize("day_count", list(DayCount))
@pytest.mark.parametrize("late", [timedelta(0), timedelta(microseconds=1), timedelta(days=9)])
def test_nothing_is_left_at_expiry_and_after(day_count, late):
    assert left(EXPIRY + late, day_count) == 0.0


@given(start=MOMENTS, later=st.timedeltas(timedelta(0), timedelta(days=30)))
@pytest.mark.parametrize("day_count", list(DayCount))
def test_time_only_runs_out(day_count, start, later):
    assert 0.0 <= left(start + later, day_count) <= left(start, day_count)


def test_naive_expiry_is_refused():
    with pytest.raises(ValueError, match="time zone"):
        year_fraction(0, datetime(2026, 11, 23))  # noqa: DTZ001 -- the point.
