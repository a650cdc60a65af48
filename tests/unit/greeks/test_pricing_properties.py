"""What holds for every row and every batch, whatever the numbers."""

import math
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from services.greeks.domain import pricing
from services.greeks.domain.pricing import Status

untimed = settings(deadline=None)
"""A busy machine is no reason to fail."""

any_float = st.floats(allow_nan=True, allow_infinity=True, allow_subnormal=True)
edge_float = st.sampled_from(
    [0.0, -0.0, 5e-324, 1e-308, 1e-6, 1e-3, 1.0, 1e3, 1e12, 1.7e308, math.inf, -math.inf, math.nan]
)
wild = st.one_of(any_float, edge_float, st.floats(1e-7, 1e13))
any_flag = st.integers(-128, 127) | st.sampled_from([1, -1])
wild_row = st.tuples(any_flag, wild, wild, wild, wild, wild, wild)

forwards = st.floats(50, 100_000)
log_moneyness = st.floats(-0.5, 0.5)
years = st.floats(2 / (365 * 24 * 60), 3)
vols = st.floats(0.01, 3)
discounts = st.floats(0.8, 1.05)
sides = st.sampled_from([1, -1])


def compute(rows, path, model="black76"):
    flag, price, forward, strike, tte, df, spot = zip(*rows, strict=True)
    with patch.object(pricing, "BATCH_ROWS", 0 if path == "many" else 10**9):
        return pricing.compute(
            np.array(flag, dtype=np.int8), np.array(price), np.array(forward), np.array(strike),
            np.array(tte), np.array(df), model=model,
            spot=np.array(spot) if model == "bsm" else None,
        )  # fmt: skip


def one(flag, price, forward, strike, tte, df, path="few"):
    out, status = compute([(flag, price, forward, strike, tte, df, 1.0)], path)
    return out[:, 0], Status(status[0])


def quote(flag, forward, strike, tte, vol, df):
    return float(pricing.price(flag, forward, strike, tte, vol, df)[0])


@untimed
@given(st.lists(wild_row, max_size=6), sides, st.sampled_from(["black76", "bsm"]))
@pytest.mark.parametrize("path", ["few", "many"])
def test_any_numbers_give_a_status_and_values_only_where_it_says_so(path, rows, side, model):
    rows = [*rows, (side, 300.0, 24000.0, 24000.0, 0.02, 1.0, 24000.0)]
    out, status = compute(rows, path, model)
    has_values = [Status(code).has_values for code in status]
    assert (np.isfinite(out).all(axis=0) == has_values).all()
    assert np.isnan(out[:, ~np.array(has_values)]).all()
    assert (out[0][has_values] > 0).all()
    assert status[-1] == Status.OK


@untimed
@given(st.lists(wild_row, min_size=1, max_size=6), st.sampled_from(["black76", "bsm"]))
def test_both_paths_give_the_same_statuses_to_any_numbers(rows, model):
    few, many = compute(rows, "few", model), compute(rows, "many", model)
    assert few[1].tolist() == many[1].tolist()


@untimed
@given(sides, forwards, log_moneyness | st.just(0.0), years, vols, discounts, st.data())
def test_any_price_between_its_bounds_is_solved_alike_on_both_paths(
    flag, forward, x, tte, vol, df, data
):
    strike = forward * math.exp(x)
    share = data.draw(st.floats(1e-8, 1 - 1e-9) | st.floats(2e-9, 1e-8))
    assume(share * min(forward, strike) > 1.5e-9 * forward)
    price = df * (max(flag * (forward - strike), 0) + share * min(forward, strike))
    few, status = one(flag, price, forward, strike, tte, df, "few")
    many, _ = one(flag, price, forward, strike, tte, df, "many")
    assert status.has_values
    np.testing.assert_allclose(few[0], many[0], rtol=1e-12)


@untimed
@given(forwards, log_moneyness, years, vols, discounts)
def test_volatility_comes_back_from_its_own_price(forward, x, tte, vol, df):
    strike = forward * math.exp(x)
    flag = 1 if strike > forward else -1
    out, status = one(flag, quote(flag, forward, strike, tte, vol, df), forward, strike, tte, df)
    assume(status is Status.OK)
    # The price is rounded to float64; a hundredth of a vol point per rupee of vega is what is left.
    assert out[0] == pytest.approx(vol, rel=1e-11, abs=1e-12)


@untimed
@given(forwards, log_moneyness, years, st.floats(0.05, 1), discounts)
def test_call_and_put_at_parity_have_one_volatility(forward, x, tte, vol, df):
    strike = forward * math.exp(x)
    call = quote(1, forward, strike, tte, vol, df)
    put = call - df * (forward - strike)
    assume(put > 0)
    (of_call, *call_greeks), status = one(1, call, forward, strike, tte, df)
    (of_put, *put_greeks), other = one(-1, put, forward, strike, tte, df)
    assume(status is Status.OK)
    assume(other is Status.OK)
    rounding = 8 * np.spacing(max(call, put, forward)) / (100 * call_greeks[3])
    assert of_call == pytest.approx(of_put, rel=1e-12, abs=rounding)
    assert call_greeks[0] - put_greeks[0] == pytest.approx(df, rel=1e-6)
    assert call_greeks[1] == pytest.approx(put_greeks[1], rel=1e-6)


@untimed
@given(sides, forwards, log_moneyness, years, discounts, st.lists(st.floats(1e-6, 0.999),
       min_size=2, max_size=20, unique=True))  # fmt: skip
def test_volatility_never_falls_as_the_price_rises(flag, forward, x, tte, df, shares):
    strike = forward * math.exp(x)
    intrinsic = max(flag * (forward - strike), 0)
    prices = [df * (intrinsic + share * min(forward, strike)) for share in sorted(shares)]
    rows = [(flag, price, forward, strike, tte, df, 1.0) for price in prices]
    (iv, *_), status = compute(rows, "many")
    assume((status <= Status.LOW_VEGA).all())
    # Where prices differ by rounding only, so may the volatilities.
    steps = np.diff(iv)
    assert (steps >= -1e-12 * iv[1:]).all()
    assert (steps[np.diff(prices) > 1e-9 * forward] > 0).all()


@untimed
@given(st.lists(wild_row, min_size=1, max_size=8), st.randoms(use_true_random=False))
@pytest.mark.parametrize("path", ["few", "many"])
def test_no_row_affects_another_and_order_does_not_matter(path, rows, chance):
    sound = (1, 321.5, 23659.85, 23700.0, 5.6 / 365, 0.999, 23650.0)
    rows = [*rows, sound] * 9
    order = list(range(len(rows)))
    chance.shuffle(order)
    out, status = compute(rows, path)
    moved, moved_status = compute([rows[index] for index in order], path)
    alone, _ = compute([sound], path)
    assert (status[order] == moved_status).all()
    np.testing.assert_array_equal(out[:, order], moved)
    np.testing.assert_array_equal(out[:, len(rows) - 1], alone[:, 0])


@untimed
@given(sides, forwards, log_moneyness, years, vols, discounts)
def test_price_stays_between_intrinsic_and_its_maximum(flag, forward, x, tte, vol, df):
    strike = forward * math.exp(x)
    price = quote(flag, forward, strike, tte, vol, df)
    assert df * max(flag * (forward - strike), 0) <= price * (1 + 1e-15)
    assert price <= df * (forward if flag == 1 else strike) * (1 + 1e-15)


@untimed
@given(any_flag, wild, wild, wild, wild, wild)
def test_price_and_greeks_at_any_numbers_are_values_or_nan_and_never_raise(
    flag, forward, strike, tte, vol, df
):
    price = pricing.price(flag, forward, strike, tte, vol, df)
    assert price.shape == (1,)
    assert np.isnan(price[0]) or 0 <= price[0] < math.inf
    assert pricing.greeks_at(flag, forward, strike, tte, df, vol).shape == (5, 1)


@untimed
@given(sides, forwards, log_moneyness, st.floats(0.01, 2), st.floats(0.05, 1), discounts)
def test_greeks_are_the_slopes_of_the_price(flag, forward, x, tte, vol, df):
    strike = forward * math.exp(x)
    delta, gamma, _, vega, _ = pricing.greeks_at(flag, forward, strike, tte, df, vol)[:, 0]
    step = 1e-4 * forward
    up, at, down = pricing.price(
        flag, np.array([forward + step, forward, forward - step]), strike, tte, vol, df
    )
    scale = df * forward
    assert delta == pytest.approx((up - down) / (2 * step), abs=1e-5)
    assert gamma == pytest.approx((up - 2 * at + down) / step**2, rel=0.02, abs=1e-6 * scale / step)
    bump = 1e-5
    dearer, cheaper = pricing.price(
        flag, forward, strike, tte, np.array([vol + bump, vol - bump]), df
    )
    assert vega == pytest.approx((dearer - cheaper) / (200 * bump), rel=1e-4, abs=1e-9 * scale)


@untimed
@given(forwards, log_moneyness, years, st.floats(0.05, 1), discounts, st.floats(0.9, 1.1))
@pytest.mark.parametrize("model", ["black76", "bsm"])
def test_greeks_of_call_and_put_at_one_volatility_differ_by_those_of_the_forward(
    model, forward, x, tte, vol, df, ratio
):
    strike = forward * math.exp(x)
    spot = forward * ratio if model == "bsm" else None
    both = np.array([1, -1])
    call, put = pricing.greeks_at(both, forward, strike, tte, df, vol, model=model, spot=spot).T
    rate = -math.log(df) / tte
    largest = max(forward, strike)
    worth = df * (forward - strike)
    prices = pricing.price(both, forward, strike, tte, vol, df)
    assert prices[0] - prices[1] == pytest.approx(worth, abs=1e-13 * largest)
    delta, gamma, theta, vega, rho = call - put
    assert abs(gamma) <= 1e-12 * call[1]
    assert abs(vega) <= 1e-12 * call[3]
    assert delta == pytest.approx(df if spot is None else df / ratio, rel=1e-12)
    # The forward contract loses rate on its bond and, on a spot, dividends on its share.
    growth = rate if spot is None else rate - math.log(1 / ratio) / tte
    expected = (growth * df * forward - rate * df * strike) / 365
    parts = (abs(growth) + abs(rate)) * df * largest / 365 + abs(call[2])
    assert theta == pytest.approx(expected, abs=1e-11 * parts)
    expected = (-worth if spot is None else df * strike) * tte / 100
    assert rho == pytest.approx(expected, abs=1e-12 * largest * tte)
