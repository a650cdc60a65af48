"""Square-off and the day of the broker's book: when an order's absence proves something."""

from datetime import date

import pytest

from libs.common.domain.clock import ist_datetime
from libs.common.domain.market_calendar import CALENDAR
from services.orders.domain.market_rules import book_day, is_day_over, square_off
from tests.unit.orders.check_rig import at


@pytest.mark.parametrize(
    ("exchange", "day", "time"),
    [
        ("NSE", date(2026, 11, 25), "15:20"),
        ("NFO", date(2026, 11, 25), "15:25"),
        ("CDS", date(2026, 11, 25), "16:45"),
        ("MCX", date(2026, 11, 25), "23:30"),
        ("MCX", date(2026, 7, 1), "23:05"),
    ],
)
def test_intraday_positions_are_closed_at_the_brokers_time(exchange, day, time):
    session = CALENDAR.session(exchange, day)
    assert session is not None
    assert f"{square_off(session):%H:%M}" == time


def test_hour_of_muhurat_has_no_known_square_off():
    session = CALENDAR.session("NSE", date(2026, 11, 8))
    assert session is not None
    assert square_off(session) is None


@pytest.mark.parametrize(
    ("variety", "at_ns", "day"),
    [
        ("regular", at(12), 25),
        ("regular", at(20), 25),
        ("amo", at(8), 25),
        ("amo", at(20), 26),
        ("amo", at(20, day=27), 30),
        ("amo", at(12, day=28), 30),
        ("amo", at(12, day=24), 25),
    ],
)
def test_after_market_order_belongs_to_the_session_it_waits_for(variety, at_ns, day):
    assert book_day("NFO", variety, at_ns, CALENDAR) == date(2026, 11, day)


@pytest.mark.parametrize(
    ("variety", "at_ns", "now_ns", "is_over"),
    [
        ("regular", at(12), at(23, 59), False),
        ("regular", at(12), at(5, 59, day=26), False),
        ("regular", at(12), at(6, day=26), True),
        ("amo", at(20), at(12, day=26), False),
        ("amo", at(20), at(6, day=27), True),
        ("amo", at(20, day=27), at(20, day=30), False),
    ],
)
def test_book_turns_in_the_small_hours(variety, at_ns, now_ns, is_over):
    assert is_day_over("NFO", variety, at_ns, now_ns, CALENDAR) is is_over


def test_moments_are_indian():
    assert ist_datetime(at(12)).hour == 12
