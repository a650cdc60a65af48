"""vollib as an oracle for our engine, and as the engine that can be selected instead."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.greeks import vollib_engine
from services.greeks.domain import pricing
from services.greeks.domain.pricing import Status
from tests.golden.greeks import generate


def golden(model):
    _, rows = generate.read(model)
    columns = {
        name: np.array([float(row[name]) for row in rows])
        for name in ("price", "forward", "strike", "tte", "df", "iv", "vega")
    }
    columns["flag"] = np.array([int(row["flag"]) for row in rows], dtype=np.int8)
    if model == "bsm":
        columns["spot"] = np.array([float(row["spot"]) for row in rows])
    return columns


@pytest.fixture(scope="module", params=["black76", "bsm"])
def model(request):
    return request.param


def arguments(table):
    return [table[name] for name in ("flag", "price", "forward", "strike", "tte", "df")]


def test_engines_agree_on_volatility_and_status_of_tradable_options(model):
    table = golden(model)
    keywords = {"model": model, "spot": table.get("spot")}
    ours, our_status = pricing.compute(*arguments(table), **keywords)
    theirs, their_status = vollib_engine.compute(*arguments(table), **keywords)
    assert our_status.tolist() == their_status.tolist()
    tradable = table["vega"] > 0.005
    moneyness = table["strike"] / table["forward"]
    listed = tradable & (moneyness > 0.4) & (moneyness < 2.5) & (table["iv"] < 3.001)
    assert listed.sum() > 900
    error = np.abs(ours[0] - theirs[0])
    assert error[listed].max() < 1e-9
    # And by far less, but for what the last digit of a mostly intrinsic price is worth.
    last_digit = np.spacing(np.maximum(table["price"], table["forward"]))
    assert (error <= 3e-12 + last_digit / (100 * table["vega"]))[listed].all()


@pytest.mark.parametrize("name", pricing.GREEKS)
def test_greeks_equal_vollib_at_the_same_volatility(model, name):
    table = golden(model)
    forward, strike, tte, df, iv = (table[k] for k in ("forward", "strike", "tte", "df", "iv"))
    spot = table.get("spot")
    ours = pricing.greeks_at(table["flag"], forward, strike, tte, df, iv, model=model, spot=spot)
    library = vollib_engine.load(model)
    greek = library.greeks[pricing.GREEKS.index(name)]
    rate = -np.log(df) / tte
    unit = forward if spot is None else spot
    rows = [table["flag"], unit, strike, tte, rate, iv]
    if spot is not None:
        rows.append(rate - np.log(forward / spot) / tte)
    theirs = np.array(
        [greek("c" if row[0] > 0 else "p", *map(float, row[1:])) for row in zip(*rows, strict=True)]
    )
    # Where s = vol·√T is tiny, rounding in vollib's ln(F/K)/s costs it digits; so does the dividend
    # yield ln(F/S)/T in theta near expiry. 60-digit arithmetic sides with us (test_pricing_golden).
    digits = iv * np.sqrt(tte) > 1e-3
    if name == "theta":
        digits &= tte > 7 / 365
    assert digits.sum() > 300
    np.testing.assert_allclose(
        ours[pricing.GREEKS.index(name)][digits], theirs[digits], rtol=2e-12, atol=0
    )


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from([1, -1]), st.floats(0.75, 1.33), st.floats(1 / 365, 1), st.floats(0.05, 1.5),
    st.floats(0.9, 1.02),
)  # fmt: skip
def test_engines_agree_on_any_option_that_vega_makes_tradable(flag, ratio, tte, vol, df):
    forward, strike = 23659.85, 23659.85 * ratio
    price = pricing.price(flag, forward, strike, tte, vol, df)
    ours, status = pricing.compute(flag, price, forward, strike, tte, df)
    theirs, their_status = vollib_engine.compute(flag, price, forward, strike, tte, df)
    if status[0] <= Status.LOW_VEGA and ours[4, 0] > 0.005:
        assert status[0] == their_status[0]
        # One last digit of price and intrinsic is all that the two may differ by.
        rounding = 4 * np.spacing(2 * forward) / (100 * ours[4, 0])
        assert ours[0, 0] == pytest.approx(theirs[0, 0], rel=1e-12, abs=rounding)


@pytest.mark.parametrize("flag", [1, -1, 0, 3])
@pytest.mark.parametrize("tte", [0.02, 0.0, -1.0, 1e-7, math.nan, math.inf])
def test_every_trap_of_vollib_ends_as_the_status_our_engine_gives(model, flag, tte):
    prices = np.array(
        [0.0, -1.0, math.nan, math.inf, 1e-300, 659.85, 600.0, 23659.85, 1e9, 300.0, 700.0]
    )
    table = (flag, prices, 23659.85, 23000.0, tte, 1.0)
    ours, our_status = pricing.compute(*table, model=model)
    theirs, their_status = vollib_engine.compute(*table, model=model)
    assert our_status.tolist() == their_status.tolist()
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(theirs))
    assert not (theirs[0] <= 0).any()


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
@pytest.mark.parametrize(
    ("price", "strike", "tte", "letter", "found", "expected"),
    [
        (650.0, 23000.0, 0.02, "c", "BelowIntrinsicException", Status.BELOW_INTRINSIC),
        (23659.85 - 23000.0, 23000.0, 0.02, "c", 0.0, Status.BELOW_INTRINSIC),
        (24000.0, 23000.0, 0.02, "c", "AboveMaximumException", Status.ABOVE_MAX),
        (0.0, 23700.0, 0.02, "c", 0.0, Status.NO_PRICE),
        (300.0, 23700.0, 0.0, "c", math.inf, Status.EXPIRED),
        (700.0, 23000.0, 0.0, "c", "ZeroDivisionError", Status.EXPIRED),
        (300.0, 23700.0, -0.01, "c", "ValueError", Status.EXPIRED),
        (300.0, 23700.0, 0.02, "C", "KeyError", None),
    ],
)
def test_traps_of_vollib_are_those_we_guard_against(price, strike, tte, letter, found, expected):
    from vollib.black.implied_volatility import implied_volatility

    try:
        answer = implied_volatility(price, 23659.85, strike, 0.0, tte, letter)
    except Exception as error:  # noqa: BLE001  # Its classes are what is asked for.
        answer = type(error).__name__
    assert answer == found
    if expected is not None:
        row = (np.array([1]), np.array([price]), 23659.85, strike, tte, 1.0)
        for compute in (pricing.compute, vollib_engine.compute):
            out, status = compute(*row)
            assert Status(status[0]) is expected
            assert np.isnan(out).all()


def test_a_price_at_intrinsic_has_a_volatility_of_noise_by_vollib_and_none_by_us():
    from vollib.black.implied_volatility import implied_volatility

    # 659.85 is 1e-12 more than 23659.85 - 23000 in float64.
    assert implied_volatility(659.85, 23659.85, 23000.0, 0.0, 0.02, "c") > 0.02
    for compute in (pricing.compute, vollib_engine.compute):
        _, status = compute(np.array([1]), np.array([659.85]), 23659.85, 23000.0, 0.02, 1.0)
        assert Status(status[0]) is Status.BELOW_INTRINSIC


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        ("BelowIntrinsicException", Status.BELOW_INTRINSIC),
        ("AboveMaximumException", Status.ABOVE_MAX),
        (ZeroDivisionError, Status.BAD_INPUT),
        (ValueError, Status.BAD_INPUT),
        (0.0, Status.BELOW_INTRINSIC),
        (math.inf, Status.BAD_INPUT),
        (math.nan, Status.BAD_INPUT),
    ],
)
def test_what_vollib_raises_or_answers_for_lack_of_a_volatility_becomes_a_status(
    raised, expected, monkeypatch
):
    from vollib import lets_be_rational

    def solver(*_):
        if isinstance(raised, float):
            return raised
        raise (getattr(lets_be_rational, raised) if isinstance(raised, str) else raised)

    library = vollib_engine.load("black76")._replace(implied_volatility=solver)
    monkeypatch.setattr(vollib_engine, "load", lambda _: library)
    out, status = vollib_engine.compute(
        np.array([1]), np.array([300.0]), 23659.85, 23700.0, 0.02, 1.0
    )
    assert Status(status[0]) is expected
    assert np.isnan(out).all()


def test_vollib_engine_fills_out_and_names_bad_arguments_like_ours():
    out = np.empty((6, 1))
    filled, _ = vollib_engine.compute(1, np.array([300.0]), 23659.85, 23700.0, 0.02, 1.0, out=out)
    assert filled is out
    with pytest.raises(ValueError, match=r"price: expected shape \(n,\)"):
        vollib_engine.compute(1, 300.0, 23659.85, 23700.0, 0.02, 1.0)


def test_vollib_and_pandas_are_imported_only_on_first_use():
    script = (
        "import sys; import services.greeks.vollib_engine as engine; "
        "assert not {'vollib', 'pandas'} & set(sys.modules); "
        "engine.load(); assert 'vollib' in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True, timeout=60)
