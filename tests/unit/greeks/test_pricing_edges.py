"""The edges of the pricing engine: statuses, shapes, types and conventions, one row at a time."""

import math

import numpy as np
import pytest

from services.greeks.domain import pricing
from services.greeks.domain.iv_status import EXPIRING_YEARS, SECONDS_PER_YEAR
from services.greeks.domain.pricing import Status

SOUND = {"flag": 1, "price": 300.0, "forward": 23659.85, "strike": 23700.0, "tte": 0.02, "df": 1.0}
EDGES = [
    ({}, Status.OK),
    ({"price": 0.0}, Status.NO_PRICE),
    ({"price": -0.0}, Status.NO_PRICE),
    ({"price": math.nan}, Status.NO_PRICE),
    ({"price": -0.05}, Status.BAD_INPUT),
    ({"price": math.inf}, Status.BAD_INPUT),
    ({"price": -math.inf}, Status.BAD_INPUT),
    ({"price": 5e-324}, Status.BELOW_INTRINSIC),
    ({"strike": 23000.0, "price": 659.85}, Status.BELOW_INTRINSIC),
    ({"strike": 23000.0, "price": 650.0}, Status.BELOW_INTRINSIC),
    ({"flag": -1, "strike": 24000.0, "price": 340.15}, Status.BELOW_INTRINSIC),
    ({"price": 23659.85}, Status.ABOVE_MAX),
    ({"price": 1e300}, Status.ABOVE_MAX),
    ({"flag": -1, "price": 23700.0}, Status.ABOVE_MAX),
    ({"flag": -1, "price": 23699.9}, Status.LOW_VEGA),
    ({"price": 23600.0, "df": 0.99}, Status.ABOVE_MAX),
    ({"tte": 0.0}, Status.EXPIRED),
    ({"tte": -1.0}, Status.EXPIRED),
    ({"tte": -math.inf}, Status.EXPIRED),
    ({"tte": 0.0, "price": 0.0}, Status.EXPIRED),
    ({"tte": 5e-324}, Status.EXPIRING),
    ({"tte": 59.9 / SECONDS_PER_YEAR}, Status.EXPIRING),
    ({"tte": 59.9 / SECONDS_PER_YEAR, "price": 0.0}, Status.EXPIRING),
    ({"tte": EXPIRING_YEARS, "price": 10.0}, Status.OK),
    ({"tte": math.nan}, Status.BAD_INPUT),
    ({"tte": math.inf}, Status.BAD_INPUT),
    ({"flag": 0}, Status.BAD_INPUT),
    ({"flag": 2}, Status.BAD_INPUT),
    ({"forward": 0.0}, Status.BAD_INPUT),
    ({"forward": -1.0}, Status.BAD_INPUT),
    ({"forward": math.nan}, Status.BAD_INPUT),
    ({"forward": math.nan, "price": 0.0}, Status.BAD_INPUT),
    ({"forward": math.inf}, Status.BAD_INPUT),
    ({"forward": 1e-320}, Status.BAD_INPUT),
    ({"forward": 1e308}, Status.BAD_INPUT),
    ({"strike": 0.0}, Status.BAD_INPUT),
    ({"strike": -5.0}, Status.BAD_INPUT),
    ({"strike": math.nan}, Status.BAD_INPUT),
    ({"df": 0.0}, Status.BAD_INPUT),
    ({"df": -1.0}, Status.BAD_INPUT),
    ({"df": math.nan}, Status.BAD_INPUT),
    ({"df": math.inf}, Status.BAD_INPUT),
    ({"strike": 24500.0, "price": 0.5}, Status.OK),
    # At the money exactly, where a price this small makes the first guess 0 but for its floor.
    ({"strike": 23659.85, "price": 6e-5}, Status.OK),
    ({"strike": 23659.85, "price": 6e-5, "flag": -1}, Status.OK),
    ({"strike": 23659.85, "price": 2e-5}, Status.BELOW_INTRINSIC),
    ({"strike": 30000.0, "price": 0.05}, Status.LOW_VEGA),
    ({"strike": 23700.0, "price": 0.05, "tte": 120 / SECONDS_PER_YEAR}, Status.LOW_VEGA),
]


def call(row, path, monkeypatch, **keywords):
    monkeypatch.setattr(pricing, "BATCH_ROWS", 0 if path == "many" else 10**9)
    values = SOUND | row
    columns = {name: np.array([value]) for name, value in values.items()}
    return pricing.compute(**{**columns, **keywords})


@pytest.mark.parametrize("path", ["few", "many"])
@pytest.mark.parametrize(("row", "expected"), EDGES, ids=str)
def test_edge_gets_its_status_and_null_values(row, expected, path, monkeypatch):
    out, status = call(row, path, monkeypatch)
    assert Status(status[0]) is expected
    if expected.has_values:
        assert np.isfinite(out).all()
    else:
        assert np.isnan(out).all()


@pytest.mark.parametrize("path", ["few", "many"])
def test_tick_decides_when_vega_is_low(path, monkeypatch):
    out, status = call({}, path, monkeypatch)
    vega = out[4, 0]
    assert status[0] == Status.OK
    _, coarse = call({}, path, monkeypatch, tick=2.01 * vega)
    assert coarse[0] == Status.LOW_VEGA
    _, fine = call({}, path, monkeypatch, tick=np.array([1.99 * vega]))
    assert fine[0] == Status.OK


def test_statuses_have_wire_names_by_code():
    assert pricing.WIRE_NAMES == (
        "ok", "low_vega", "bad_input", "no_price", "below_intrinsic", "above_max", "expired",
        "expiring", "stale_forward", "crossed",
    )  # fmt: skip
    assert all(pricing.WIRE_NAMES[status] == status.wire_name for status in Status)


@pytest.mark.parametrize("n", [0, 1, 39, 40, 41, 300])
def test_results_have_the_documented_shapes_and_types(n):
    out, status = pricing.compute(
        np.ones(n, dtype=np.int8), np.full(n, 300.0), 23659.85, np.full(n, 23700.0), 0.02, 1.0
    )
    assert out.shape == (6, n)
    assert out.dtype == np.float64
    assert status.shape == (n,)
    assert status.dtype == np.uint8
    assert (status == Status.OK).all()


@pytest.mark.parametrize("n", [3, 64])
def test_scalars_equal_columns(n):
    price = np.linspace(200.0, 400.0, n)
    full = [np.full(n, value) for value in (23659.85, 23700.0, 0.02, 0.99)]
    columns = pricing.compute(np.ones(n, dtype=np.int64), price, *full)
    scalars = pricing.compute(1, price, 23659.85, 23700, 0.02, 0.99)
    np.testing.assert_array_equal(columns[0], scalars[0])
    spots = pricing.compute(1, price, *full, model="bsm", spot=np.full(n, 23650.0))
    spot = pricing.compute(1, price, 23659.85, 23700, 0.02, 0.99, model="bsm", spot=23650.0)
    np.testing.assert_array_equal(spots[0], spot[0])


@pytest.mark.parametrize("n", [3, 64])
@pytest.mark.parametrize("model", ["black76", "bsm"])
@pytest.mark.parametrize("name", ["forward", "strike", "tte", "df"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf, 5e-324, 1.7e308])
def test_unusable_scalar_blanks_every_row(n, model, name, value):
    scalars = {"forward": 23659.85, "strike": 23700.0, "tte": 0.02, "df": 1.0, name: value}
    out, status = pricing.compute(1, np.full(n, 300.0), **scalars, model=model)
    assert np.isnan(out).all()
    assert not any(Status(code).has_values for code in status)


@pytest.mark.parametrize("n", [3, 64])
def test_out_is_filled_and_inputs_are_left_alone(n):
    columns = [
        np.ones(n, dtype=np.int8), np.linspace(-1.0, 400.0, n), np.full(n, 23659.85),
        np.full(n, 23700.0), np.full(n, 0.02), np.full(n, 1.0),
    ]  # fmt: skip
    before = [column.copy() for column in columns]
    out = np.full((6, n), 7.0)
    filled, status = pricing.compute(*columns, out=out)
    assert filled is out
    assert status[0] == Status.BAD_INPUT
    assert np.isnan(out[:, 0]).all()
    assert not (out == 7.0).any()
    for column, copy in zip(columns, before, strict=True):
        np.testing.assert_array_equal(column, copy)


@pytest.mark.parametrize("n", [3, 64])
def test_strided_columns_equal_contiguous_ones(n):
    wide = np.linspace(200.0, 400.0, 2 * n)
    strided = pricing.compute(1, wide[::2], 23659.85, 23700.0, 0.02, 1.0)
    contiguous = pricing.compute(1, wide[::2].copy(), 23659.85, 23700.0, 0.02, 1.0)
    np.testing.assert_array_equal(strided[0], contiguous[0])


def test_bsm_without_spot_has_no_dividends():
    arguments = (np.array([1]), np.array([300.0]), 23659.85, 23700.0, 0.02, 0.99)
    given, _ = pricing.compute(*arguments, model="bsm", spot=23659.85 * 0.99)
    left_out, _ = pricing.compute(*arguments, model="bsm")
    np.testing.assert_array_equal(given, left_out)


def test_models_share_the_volatility_and_differ_in_greeks():
    arguments = (np.array([1]), np.array([300.0]), 23659.85, 23700.0, 0.02, 0.99)
    black, _ = pricing.compute(*arguments)
    bsm, _ = pricing.compute(*arguments, model="bsm")
    assert black[0, 0] == bsm[0, 0]
    # Per rupee of spot, S = F·df, delta is larger by 1/df; black76 rho is -T·price.
    assert bsm[1, 0] == pytest.approx(black[1, 0] / 0.99)
    assert black[5, 0] == pytest.approx(-0.02 * 300 / 100)


@pytest.mark.parametrize("spot", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("path", ["few", "many"])
def test_spot_that_is_none_is_bad_input(spot, path, monkeypatch):
    out, status = call({}, path, monkeypatch, model="bsm", spot=spot)
    assert status[0] == Status.BAD_INPUT
    assert np.isnan(out).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"price": np.zeros((2, 2))}, r"price: expected shape \(n,\), got \(2, 2\)"),
        ({"price": 300.0}, r"price: expected shape \(n,\), got \(\)"),
        ({"price": np.array(["a", "b"])}, "price: expected real numbers"),
        ({"price": np.zeros(2, dtype=complex)}, "price: expected real numbers"),
        ({"forward": np.zeros(3)}, r"forward: expected shape \(2,\) or a scalar, got \(3,\)"),
        ({"strike": np.zeros(1)}, "strike: expected shape"),
        ({"tte": None}, "tte: expected real numbers"),
        ({"df": np.zeros((2, 1))}, "df: expected shape"),
        ({"flag": np.array([1.0, -1.0])}, "flag: expected signed integers"),
        ({"flag": np.array([1, 1], dtype=np.uint8)}, "flag: expected signed integers"),
        ({"flag": np.array([True, False])}, "flag: expected signed integers"),
        ({"tick": np.zeros(5)}, "tick: expected shape"),
        ({"model": "bachelier"}, "model: 'bachelier' is unknown; use one of black76, bsm"),
        ({"spot": 1.0}, "spot: black76 has no spot"),
        ({"model": "bsm", "spot": np.zeros(3)}, "spot: expected shape"),
        ({"out": np.zeros((5, 2))}, r"out: expected float64 \(6, 2\)"),
        ({"out": np.zeros((6, 2), dtype=np.float32)}, "out: expected float64"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_shape_or_type_raises_and_names_the_argument(change, message):
    two = {name: np.array([value, value]) for name, value in SOUND.items()}
    with pytest.raises(ValueError, match=message):
        pricing.compute(**(two | change))


def test_read_only_out_is_refused():
    out = np.zeros((6, 1))
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out: the array is read-only"):
        pricing.compute(1, np.array([300.0]), 23659.85, 23700.0, 0.02, 1.0, out=out)


def test_price_at_no_time_or_no_volatility_is_the_discounted_intrinsic_value():
    assert pricing.price(1, 110.0, 100.0, 0.0, 0.2, 0.9)[0] == pytest.approx(9.0)
    assert pricing.price(-1, 110.0, 100.0, 1.0, 0.0, 0.9)[0] == 0.0


def test_price_and_greeks_at_take_columns_and_refuse_two_dimensions():
    strikes = np.array([90.0, 100.0, 110.0])
    assert pricing.price(1, 100.0, strikes, 0.1, 0.2).shape == (3,)
    assert pricing.greeks_at(1, 100.0, strikes, 0.1, 1.0, 0.2).shape == (5, 3)
    with pytest.raises(ValueError, match="strike: expected one dimension"):
        pricing.price(1, 100.0, np.zeros((2, 2)), 0.1, 0.2)


def test_greeks_at_no_volatility_are_null_and_leave_the_other_rows():
    vol = np.array([0.2, 0.0, math.nan, -0.1, math.inf])
    greeks = pricing.greeks_at(1, 100.0, 100.0, 0.1, 1.0, vol)
    assert np.isfinite(greeks[:, 0]).all()
    assert np.isnan(greeks[:, 1:]).all()
