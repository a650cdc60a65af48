"""Expiry days, lots and strikes by rule."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.expiries import (
    INDEX_RULES,
    derivatives_exchange,
    expiries,
    freeze_quantity,
    lot_size,
    strike_step,
)
from libs.common.domain.instruments import INDEX_UNDERLYINGS
from libs.common.domain.market_calendar import CALENDAR

NAMES = ["NIFTY", "BANKNIFTY", "SENSEX", "BANKEX", "RELIANCE"]


def test_holiday_pulls_the_monthly_expiry_to_the_day_before():
    assert expiries("NIFTY", date(2026, 11, 20))[0] == date(2026, 11, 23)
    assert date(2026, 3, 25) in expiries("SENSEX", date(2026, 3, 2))


def test_expiry_on_muhurat_tuesday_moves_to_monday():
    assert expiries("NIFTY", date(2025, 10, 15))[0] == date(2025, 10, 20)


def test_exchanges_changed_their_weekday_in_september_2025():
    assert expiries("NIFTY", date(2025, 8, 25))[:2] == [date(2025, 8, 28), date(2025, 9, 2)]
    assert expiries("SENSEX", date(2025, 8, 25))[:2] == [date(2025, 8, 26), date(2025, 9, 4)]


def test_number_of_listed_expiries_can_be_chosen():
    day = date(2026, 11, 2)
    assert expiries("NIFTY", day, weeklies=1, monthlies=0) == [date(2026, 11, 3)]
    assert expiries("NIFTY", day, weeklies=0, monthlies=1) == [date(2026, 11, 23)]
    # Eight weeks hold one month; two more months come on top.
    assert len(expiries("NIFTY", day, weeklies=8, monthlies=3)) == 10


def test_lots_change_with_the_series_not_with_the_day():
    assert lot_size("NIFTY", date(2025, 12, 30)) == 75
    assert lot_size("NIFTY", date(2026, 1, 6)) == 65


def test_index_tokens_are_in_the_index_segment_and_names_are_the_dumps():
    assert all(rules.index_token & 0xFF == 9 for rules in INDEX_RULES.values())
    assert set(INDEX_RULES) == set(INDEX_UNDERLYINGS.values())
    assert derivatives_exchange("SENSEX") == "BFO"
    assert derivatives_exchange("RELIANCE") == "NFO"


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
    assert all(CALENDAR.is_business_day(exchange, expiry) for expiry in found)


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
