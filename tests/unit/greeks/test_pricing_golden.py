"""The pricing engine against tables computed with 60 digits (tests/golden/greeks/generate.py)."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from services.greeks.domain import pricing

GOLDEN = Path(__file__).parents[2] / "golden" / "greeks"
TRADABLE = 0.005
"""Rupees per vol point from which on a volatility means something to a trader."""


@pytest.fixture(scope="module", params=["black76", "bsm"])
def table(request):
    """One golden table as columns: inputs, exact values, and which rows are tradable."""
    with (GOLDEN / f"{request.param}.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("price", "forward", "strike", "tte", "df", *pricing.VALUES)
    columns = {name: np.array([float(row[name]) for row in rows]) for name in names}
    columns["flag"] = np.array([int(row["flag"]) for row in rows], dtype=np.int8)
    spot = np.array([float(row["spot"]) for row in rows]) if request.param == "bsm" else None
    return SimpleNamespace(
        **columns, spot=spot, model=request.param, tradable=columns["vega"] >= TRADABLE
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


def test_tables_span_minutes_to_years_and_one_to_three_hundred_percent(table):
    assert len(table.flag) > 900
    assert table.tradable.sum() > 700
    assert table.tte.min() < 2 / (365 * 24 * 60)
    assert table.tte.max() == 3
    assert table.iv.min() == pytest.approx(0.01)
    assert table.iv.max() == pytest.approx(3)


def test_volatility_of_listed_options_is_exact_to_3e_12(table, path):
    out, _ = solve(table)
    moneyness = table.strike / table.forward
    listed = table.tradable & (moneyness > 0.4) & (moneyness < 2.5)
    assert listed.sum() > 500
    assert np.abs(out[0] - table.iv)[listed].max() < 3e-12


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
    np.testing.assert_allclose(many[:, table.tradable], few[:, table.tradable], rtol=1e-12, atol=0)
