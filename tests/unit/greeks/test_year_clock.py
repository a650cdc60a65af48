"""Years to expiry by seconds and by trading days."""

from datetime import date, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.messages import YearClock
from libs.common.domain.clock import IST
from libs.common.domain.market_calendar import CALENDAR, CalendarError
from services.greeks.domain.year_clock import YearClocks

FRIDAY = date(2026, 11, 20)
MONDAY = date(2026, 11, 23)


def at(day: date, hour: int = 15, minute: int = 40) -> float:
    return datetime(day.year, day.month, day.day, hour, minute, tzinfo=IST).timestamp()


def years(clock: YearClock, start: float, end: float) -> float:
    return float(YearClocks(CALENDAR).years(clock, "NFO", start, end))


def test_friday_close_to_monday_expiry_is_one_trading_day_but_three_calendar_days():
    assert years(YearClock.TRADING252, at(FRIDAY), at(MONDAY)) == pytest.approx(1 / 252)
    assert years(YearClock.ACT365, at(FRIDAY), at(MONDAY)) == pytest.approx(3 / 365)


def test_half_a_session_is_half_a_trading_day():
    middle = (at(MONDAY, 9, 15) + at(MONDAY)) / 2
    assert years(YearClock.TRADING252, middle, at(MONDAY)) == pytest.approx(0.5 / 252)


def test_a_holiday_takes_no_trading_time():
    # 2026-11-24 is Guru Nanak's birthday: the exchanges are closed.
    wednesday = MONDAY + timedelta(days=2)
    expected = 1 + (not CALENDAR.is_business_day("NFO", MONDAY + timedelta(days=1)))
    days = YearClocks(CALENDAR).trading_days("NFO", at(MONDAY), at(wednesday))
    assert days == pytest.approx(3 - expected)


def test_the_last_minute_counts_seconds_by_every_clock():
    start = at(MONDAY) - 59.0
    assert years(YearClock.TRADING252, start, at(MONDAY)) == pytest.approx(59 / (365 * 86_400))
    assert years(YearClock.TRADING252, at(MONDAY) + 5, at(MONDAY)) < 0


@given(
    moments=st.lists(
        st.floats(at(date(2024, 1, 1)), at(date(2028, 12, 29))), min_size=3, max_size=3
    ).map(sorted)
)
def test_trading_days_add_up_whatever_was_asked_before(moments):
    first, middle, last = moments
    clocks = YearClocks(CALENDAR)
    parts = clocks.trading_days("NFO", middle, last) + clocks.trading_days("NFO", first, middle)
    whole = YearClocks(CALENDAR).trading_days("NFO", first, last)
    assert parts == pytest.approx(whole, abs=1e-9)
    assert whole >= 0.0


def test_a_moment_that_is_not_finite_has_no_years_and_harms_nobody_else():
    found = YearClocks(CALENDAR).years(
        YearClock.TRADING252, "NFO", np.array([np.nan, at(FRIDAY), -np.inf]), at(MONDAY)
    )
    assert np.isnan(found[[0, 2]]).all()
    assert found[1] == pytest.approx(1 / 252)


def test_an_unknown_exchange_is_refused():
    with pytest.raises(CalendarError, match="XYZ"):
        YearClocks(CALENDAR).years(YearClock.TRADING252, "XYZ", at(FRIDAY), at(MONDAY))
