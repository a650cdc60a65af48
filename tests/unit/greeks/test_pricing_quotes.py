"""Volatilities without Greeks, and several prices of one option, equal those priced one by one."""

import csv
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.greeks import vollib_engine
from services.greeks.domain import pricing
from services.greeks.domain.pricing import Status
from tests.unit.greeks.test_pricing_properties import wild_row

GOLDEN = Path(__file__).parents[2] / "golden" / "greeks" / "black76.csv"
SOUND = [
    (1, 321.5, 23659.85, 23700.0, 5.6 / 365, 0.999, 23650.0),
    (-1, 300.0, 24000.0, 24000.0, 0.02, 1.0, 24000.0),
    (1, 0.05, 24000.0, 24300.0, 90 / (365 * 86_400), 1.0, 24000.0),
]
"""Rows with values, the last of low vega and of small total volatility."""

rows_of_any_numbers = st.lists(wild_row, max_size=5).map(lambda rows: [*rows, *SOUND])
models = st.sampled_from(["black76", "bsm"])


@pytest.fixture(scope="module", params=["few", "many"])
def path(request):
    with patch.object(pricing, "BATCH_ROWS", 0 if request.param == "many" else 10**9):
        yield request.param


def columns_of(rows):
    flag, price, *others = (np.array(values) for values in zip(*rows, strict=True))
    *terms, spot = others
    return flag.astype(np.int8), price, terms, spot


def three_prices(price):
    return np.stack((price, price * 0.99, np.where(price > 1.0, price - 0.5, 0.0)))


def without_low_vega(status):
    return np.where(status == Status.LOW_VEGA, Status.OK, status)


@settings(deadline=None)
@given(rows_of_any_numbers)
def test_volatility_alone_is_that_of_compute_bit_for_bit(path, rows):
    flag, price, terms, _ = columns_of(rows)
    values, status = pricing.compute(flag, price, *terms)
    iv, own_status = pricing.implied_volatility(flag, price, *terms)
    np.testing.assert_array_equal(iv, values[0])
    np.testing.assert_array_equal(own_status, without_low_vega(status))


@settings(deadline=None)
@given(rows_of_any_numbers, models)
def test_several_prices_of_an_option_are_solved_as_if_each_came_alone(path, rows, model):
    flag, price, terms, spot = columns_of(rows)
    keywords = {"model": model, "spot": spot if model == "bsm" else None}
    prices = three_prices(price)
    quoted = pricing.compute_quotes(flag, prices, *terms, **keywords)
    alone = [pricing.compute(flag, row, *terms, **keywords) for row in prices]
    np.testing.assert_array_equal(quoted.values, alone[0][0])
    np.testing.assert_array_equal(quoted.iv, [values[0] for values, _ in alone])
    np.testing.assert_array_equal(quoted.status[0], alone[0][1])
    np.testing.assert_array_equal(
        quoted.status[1:], [without_low_vega(status) for _, status in alone[1:]]
    )


@settings(deadline=None)
@given(rows_of_any_numbers)
def test_rows_of_prices_are_solved_like_columns_repeated(path, rows):
    flag, price, terms, _ = columns_of(rows)
    prices = three_prices(price)
    iv, status = pricing.implied_volatility(flag, prices, *terms)
    flat, flat_status = pricing.implied_volatility(
        np.tile(flag, 3), prices.ravel(), *(np.tile(values, 3) for values in terms)
    )
    np.testing.assert_array_equal(iv.ravel(), flat)
    np.testing.assert_array_equal(status.ravel(), flat_status)


def test_prices_are_left_as_they_were(path):
    flag, price, terms, _ = columns_of(SOUND)
    prices = three_prices(price)
    before = prices.copy()
    pricing.compute_quotes(flag, prices, *terms)
    pricing.implied_volatility(flag, prices, *terms)
    np.testing.assert_array_equal(prices, before)


def test_no_options_have_no_volatilities(path):
    nothing = np.empty(0)
    flag = np.empty(0, dtype=np.int8)
    for price in (nothing, np.empty((2, 0))):
        iv, status = pricing.implied_volatility(flag, price, 1.0, 1.0, 1.0, 1.0)
        assert iv.shape == status.shape == price.shape
    quoted = pricing.compute_quotes(flag, np.empty((3, 0)), 1.0, 1.0, 1.0, 1.0)
    assert quoted.values.shape == (6, 0)
    assert quoted.iv.shape == quoted.status.shape == (3, 0)


@pytest.mark.parametrize("engine", [pricing, vollib_engine])
@pytest.mark.parametrize("shape", [(), (1, 1, 1)])
def test_prices_of_another_shape_are_refused_by_name(engine, shape):
    price = np.ones(shape)
    flag = np.ones(1, dtype=np.int8)
    with pytest.raises(ValueError, match="price: expected shape"):
        engine.implied_volatility(flag, price, 1.0, 1.0, 1.0, 1.0)
    with pytest.raises(ValueError, match="price: expected shape"):
        engine.compute_quotes(flag, price, 1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("engine", [pricing, vollib_engine])
def test_quotes_without_a_first_price_are_refused(engine):
    with pytest.raises(ValueError, match="k ≥ 1"):
        engine.compute_quotes(np.ones(2, dtype=np.int8), np.ones((0, 2)), 1.0, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("model", ["black76", "bsm"])
def test_both_engines_solve_several_prices_alike(model):
    with GOLDEN.open(newline="") as file:
        table = csv.DictReader(line for line in file if not line.startswith("#"))
        rows = [row for row in table if float(row["vega"]) > 0.005][::7]
    flag = np.array([int(row["flag"]) for row in rows], dtype=np.int8)
    price, *terms = (
        np.array([float(row[name]) for row in rows])
        for name in ("price", "forward", "strike", "tte", "df")
    )
    prices = np.stack((price, 1.001 * price, np.zeros(price.size)))
    ours = pricing.compute_quotes(flag, prices, *terms, model=model)
    theirs = vollib_engine.compute_quotes(flag, prices, *terms, model=model)
    np.testing.assert_array_equal(ours.status, theirs.status)
    assert (ours.status[2] == Status.NO_PRICE).all()
    np.testing.assert_allclose(ours.iv, theirs.iv, rtol=1e-8)
    np.testing.assert_allclose(ours.values, theirs.values, rtol=1e-6)
    iv, status = vollib_engine.implied_volatility(flag, prices[:2], *terms, model=model)
    np.testing.assert_array_equal(iv, theirs.iv[:2])
    np.testing.assert_array_equal(status, without_low_vega(theirs.status[:2]))
