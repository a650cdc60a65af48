"""Expiry days, lots and strikes by rule."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.expiries import expiries, freeze_quantity, lot_size, strike_step
from libs.common.domain.market_calendar import CALENDAR

NAMES = ["NIFTY", "BANKNIFTY", "SENSEX", "BANKEX", "RELIANCE"]


def test_holiday_pulls_the_monthly_expiry_to_the_day_before():
    assert expiries("NIFTY", date(2026, 11, 20))[0] == date(2026, 11, 23)
    assert date(2026, 3, 25) in expiries("SENSEX", date(2026, 3, 2))


def test_only_nifty_and_sensex_have_weeks():
    day = date(2026, 10, 1)
    assert expiries("NIFTY", day)[:2] == [date(2026, 10, 6), date(2026, 10, 13)]
    assert expiries("SENSEX", day)[:2] == [date(2026, 10, 1), date(2026, 10, 8)]
    assert expiries("BANKNIFTY", day) == [
        date(2026, 10, 27),
        date(2026, 11, 23),
        date(2026, 12, 29),
    ]


@given(st.sampled_from(NAMES), st.dates(date(2025, 9, 1), date(2027, 12, 31)))
def test_expiries_ascend_trade_and_are_not_past(name, day):
    found = expiries(name, day)
    exchange = "BFO" if name in {"SENSEX", "BANKEX"} else "NFO"
    assert found == sorted(set(found))
    assert found[0] >= day
    assert len(found) >= 3
    assert all(CALENDAR.is_trading_day(exchange, expiry) for expiry in found)


@pytest.mark.parametrize(
    ("name", "lot", "freeze", "step"),
    [
        ("NIFTY", 65, 1755, 50),
        ("BANKNIFTY", 30, 600, 100),
        ("FINNIFTY", 60, 1800, 50),
        ("MIDCPNIFTY", 120, 2760, 25),
        ("NIFTYNXT50", 25, 600, 100),
        ("SENSEX", 20, 1000, 100),
        ("BANKEX", 30, 900, 100),
    ],
)
def test_rules_of_the_indices(name, lot, freeze, step):
    day = date(2026, 11, 23)
    assert (lot_size(name, day), freeze_quantity(name, day), strike_step(name)) == (
        lot,
        freeze,
        step,
    )


@given(st.floats(10, 100_000))
def test_stock_contract_is_worth_some_lakhs(level):
    lot = lot_size("ANY", date(2026, 11, 23), level_rupees=level)
    assert lot % 25 == 0
    assert lot == 25 or 600_000 < lot * level < 900_000 or lot * level <= 750_000 + 25 * level
