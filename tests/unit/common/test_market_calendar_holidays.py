"""The generated holiday table is what exchange_calendars says, and no more is claimed."""

import subprocess
import sys
from datetime import date, timedelta

from libs.common.domain.holidays import FIRST_DAY, LAST_DAY, WEEKDAY_CLOSURES
from libs.common.domain.market_calendar import CALENDAR
from tests.golden import generate_holidays


def test_table_equals_the_weekday_closures_of_exchange_calendars():
    assert (FIRST_DAY, LAST_DAY) == (generate_holidays.FIRST_DAY, generate_holidays.LAST_DAY)
    assert sorted(WEEKDAY_CLOSURES) == generate_holidays.weekday_closures()


def test_calendar_opens_on_exactly_those_weekdays():
    closed = set(generate_holidays.weekday_closures())
    days = (FIRST_DAY + timedelta(days=n) for n in range((LAST_DAY - FIRST_DAY).days + 1))
    for day in days:
        assert CALENDAR.is_business_day("NSE", day) is (day.weekday() < 5 and day not in closed)


def test_published_holidays_of_2026_are_in_the_table():
    published = "1-15 1-26 3-3 3-26 3-31 4-3 4-14 5-1 5-28 6-26 9-14 10-2 10-20 11-10 11-24 12-25"
    wanted = {date(2026, *map(int, day.split("-"))) for day in published.split()}
    assert {day for day in WEEKDAY_CLOSURES if day.year == 2026} == wanted


def test_beyond_the_table_only_weekends_are_closed():
    assert CALENDAR.known_until == LAST_DAY
    assert CALENDAR.is_trading_day("NSE", date(2027, 1, 26))
    assert not CALENDAR.is_trading_day("NSE", date(2027, 1, 24))


def test_runtime_does_not_import_the_package_it_comes_from():
    code = (
        "import sys; import libs.common.domain.market_calendar, libs.common.domain.expiries;"
        "print([name for name in ('pandas', 'numpy', 'exchange_calendars') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
