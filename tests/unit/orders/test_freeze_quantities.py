"""Freeze quantities: dated, in whole lots, and slices that add up."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orders.domain.freeze_quantities import (
    FREEZE_QUANTITIES,
    freeze_quantity,
    slices_of,
)
from services.orders.errors import OrderRefusedError

TODAY = date(2026, 11, 25)


@pytest.mark.parametrize(
    ("exchange", "underlying", "lot", "units"),
    [
        ("NFO", "NIFTY", 65, 1755),
        ("NFO", "BANKNIFTY", 30, 600),
        ("NFO", "FINNIFTY", 60, 1800),
        ("NFO", "MIDCPNIFTY", 120, 2760),
        ("NFO", "NIFTYNXT50", 25, 600),
        ("BFO", "SENSEX", 20, 1000),
        ("BFO", "BANKEX", 30, 900),
        ("NFO", "INFY", 400, None),
        ("NSE", "NIFTY", 1, None),
        ("NFO", "BANKNIFTY", 601, None),
    ],
)
def test_freeze_quantity_is_whole_lots_where_it_is_known(exchange, underlying, lot, units):
    assert freeze_quantity(exchange, underlying, lot, TODAY) == units


def test_day_before_the_table_has_its_first_row():
    assert freeze_quantity("NFO", "NIFTY", 75, date(2020, 1, 1)) == 1800


def test_rows_ascend():
    for rows in FREEZE_QUANTITIES.values():
        days = [row.effective_from for row in rows]
        assert days == sorted(set(days))


@given(st.integers(1, 400), st.integers(1, 50), st.integers(1, 200), st.integers(1, 10))
def test_slices_add_up_are_whole_lots_and_each_is_taken(lots, lot, most_lots, max_slices):
    quantity, at_most = lots * lot, most_lots * lot
    if quantity > max_slices * at_most:
        with pytest.raises(OrderRefusedError, match=str(max_slices * at_most)):
            slices_of(quantity, at_most, max_slices)
        return
    slices = slices_of(quantity, at_most, max_slices)
    assert sum(slices) == quantity
    assert len(slices) <= max_slices
    assert all(0 < units <= at_most and units % lot == 0 for units in slices)


def test_quantity_without_a_limit_stays_whole():
    assert slices_of(1_000_000, None) == (1_000_000,)
