"""The pricing engine against tables computed with 60 digits (tests/golden/greeks/generate.py)."""

from types import SimpleNamespace

import numpy as np
import pytest

from services.greeks.domain import pricing
from services.greeks.domain.iv_status import EXPIRING_YEARS
from tests.golden.greeks import generate

TRADABLE = 0.005
"""Rupees per vol point from which on a volatility means something to a trader."""


@pytest.fixture(scope="module", params=["black76", "bsm"])
def table(request):
    """One golden table as columns: inputs, exact values, and which rows are tradable."""
    origin, rows = generate.read(request.param)
    names = ("price", "forward", "strike", "tte", "df", *pricing.VALUES)
    columns = {name: np.array([float(row[name]) for row in rows]) for name in names}
    columns["flag"] = np.array([int(row["flag"]) for row in rows], dtype=np.int8)
    spot = np.array([float(row["spot"]) for row in rows]) if request.param == "bsm" else None
    return SimpleNamespace(
        **columns,
        spot=spot,
        model=request.param,
        origin=origin,
        rows=rows,
        tradable=columns["vega"] >= TRADABLE,
        in_the_money=columns["flag"] * (columns["forward"] - columns["strike"]) > 0,
    )


@pytest.fixture(params=["few", "many"])
def path(request, monkeypatch):
    monkeypatch.setattr(pricing, "BATCH_ROWS", 0 if request.param == "many" else 10**9)
    return request.param


def solve(table):
    return pricing.compute(
        table.flag, table.price, table.forward, table.strike, table.tte, table.df,
        model=table.model, spot=table.spot,
    )  # fmt: skip


def test_tables_reach_from_one_minute_to_five_years_and_into_both_wings(table):
    assert len(table.flag) > 1700
    assert table.tradable.sum() > 1000
    assert table.tte.min() == EXPIRING_YEARS
    assert table.tte.max() == 5
    for flag in (1, -1):
        side = table.flag == flag
        listed = side & (table.iv >= 0.00999) & (table.iv <= 3.001)
        deviations = np.log(table.strike / table.forward) / (table.iv * np.sqrt(table.tte))
        assert deviations[listed].min() < -4.5
        assert deviations[listed].max() > 5
        assert np.isclose(table.iv[side], 0.01).any()
        assert np.isclose(table.iv[side], 3).any()
        time_value = table.price / table.df - np.maximum(flag * (table.forward - table.strike), 0)
        assert ((time_value < 1e-8 * table.forward) & table.in_the_money & side).any()
        most = np.minimum(table.forward, table.strike)
        assert ((time_value > 0.99 * most) & side).any()
    assert (table.forward == table.strike).any()


def test_tables_say_how_they_were_made(table):
    assert table.origin.startswith(f"# {table.model}: python -m tests.golden.greeks.generate, ")
    assert f"60 digits, seed {generate.SEEDS[table.model]}" in table.origin


def test_60_digits_give_rows_of_the_tables_again(table):
    for text in table.rows[7::61]:
        values = {name: float(text[name]) for name in ("price", "forward", "strike", "tte", "df")}
        case = generate.Case(int(text["flag"]), **values)
        spot = float(text["spot"]) if table.model == "bsm" else None
        found = [None if value is None else float(value) for value in generate.row(case, spot)]
        assert found == [float(value) if value else None for value in text.values()]


def test_volatility_of_tradable_options_is_exact_to_3e_12(table, path):
    out, _ = solve(table)
    error = np.abs(out[0] - table.iv)
    out_of_money = table.tradable & ~table.in_the_money
    assert out_of_money.sum() > 500
    assert error[out_of_money].max() < 3e-12
    # In the money a price is mostly intrinsic: what its last digit is worth comes on top.
    last_digit = np.spacing(np.maximum(table.price / table.df, table.forward)) * table.df
    rest = table.tradable & table.in_the_money
    assert rest.sum() > 300
    assert (error <= 3e-12 + last_digit / (100 * table.vega))[rest].all()
    # Of options as they are listed it is worth less than that.
    moneyness = table.strike / table.forward
    listed = table.tradable & (moneyness > 0.5) & (moneyness < 2) & (table.iv < 3.001)
    assert (listed & table.in_the_money).sum() > 250
    assert error[listed].max() < 3e-12


def test_volatility_errs_by_no_more_than_the_last_digits_of_price_and_intrinsic_allow(table, path):
    out, _ = solve(table)
    # Deep in the money a float64 price holds few digits of time value: that, and no more, is lost.
    undiscounted = table.price / table.df
    rounding = 4 * np.spacing(np.maximum(undiscounted, table.forward)) * table.df
    allowed = 1e-12 + rounding / (100 * table.vega)
    assert (np.abs(out[0] - table.iv) <= allowed).all()


def test_every_row_is_solved_and_only_insensitive_ones_are_marked(table, path):
    _, status = solve(table)
    expected = np.where(
        table.vega < pricing.DEFAULT_TICK / 2, pricing.Status.LOW_VEGA, pricing.Status.OK
    )
    assert (status == expected).all()


@pytest.mark.parametrize("name", pricing.GREEKS)
def test_greeks_at_the_exact_volatility_have_twelve_digits(table, name):
    greeks = pricing.greeks_at(
        table.flag, table.forward, table.strike, table.tte, table.df, table.iv,
        model=table.model, spot=table.spot,
    )  # fmt: skip
    np.testing.assert_allclose(
        greeks[pricing.GREEKS.index(name)], getattr(table, name), rtol=1e-12, atol=0
    )


@pytest.mark.parametrize("name", pricing.GREEKS)
def test_greeks_beside_a_solved_volatility_move_no_more_than_it(table, path, name):
    out, _ = solve(table)
    exact = getattr(table, name)
    out_of_money = table.flag * (table.forward - table.strike) <= 0
    rows = out_of_money & table.tradable
    np.testing.assert_allclose(
        out[pricing.VALUES.index(name)][rows], exact[rows], rtol=2e-12, atol=0
    )


def test_price_at_the_exact_volatility_gives_the_price_back(table):
    price = pricing.price(table.flag, table.forward, table.strike, table.tte, table.iv, table.df)
    np.testing.assert_allclose(price, table.price, rtol=2e-12, atol=0)


def test_both_paths_agree_to_1e_12(table, monkeypatch):
    monkeypatch.setattr(pricing, "BATCH_ROWS", 0)
    many, status_of_many = solve(table)
    monkeypatch.setattr(pricing, "BATCH_ROWS", 10**9)
    few, status_of_few = solve(table)
    assert (status_of_many == status_of_few).all()
    np.testing.assert_allclose(many[0], few[0], rtol=1e-12, atol=0)
    # Time and carry pull a theta in opposite directions; of its parts twelve digits remain.
    decay = 100 * table.vega * table.iv / (2 * 365 * table.tte)
    for name, ours, others in zip(pricing.GREEKS, many[1:], few[1:], strict=True):
        parts = np.abs(others) + (decay if name == "theta" else 0.0)
        assert (np.abs(ours - others) <= 1e-12 * parts)[table.tradable].all(), name
