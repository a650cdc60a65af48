"""Options of several conventions solved in one batch, and what each convention makes of its own."""

from datetime import date, datetime
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.contracts.messages import Convention, PricingModel, YearClock
from libs.common.domain.clock import IST
from libs.common.domain.market_calendar import CALENDAR
from services.greeks import vollib_engine
from services.greeks.domain import pricing
from services.greeks.domain.chain_pricer import (
    FROM_IV,
    FROM_NOTHING,
    FROM_SMILE,
    NO_FORWARD,
    Contracts,
    Solved,
    borrow_smile,
    marked,
    solve,
)
from services.greeks.domain.expiry_terms import ExpiryTerms
from services.greeks.domain.forward import FUTURE, NONE
from services.greeks.domain.instrument_table import InstrumentTable
from services.greeks.domain.policy import Policy
from services.greeks.domain.pricing import Status
from tests.fakes.kite_frames import FakeMarket

untimed = settings(deadline=None, max_examples=60)
BSM = Convention(model=PricingModel.BSM, rate=0.065, dividend_yield=0.012)
BY_DAYS = Convention(rate=0.04, clock=YearClock.TRADING252)
NEAR, FAR = date(2026, 11, 27), date(2026, 12, 31)
NOON_S = datetime(2026, 11, 23, 12, 0, tzinfo=IST).timestamp()


def rows_of(*rows):
    """Contracts of (flag, strike, forward, tte, rate, carry, is_bsm, theta_scale) each."""
    flag, strike, forward, tte, rate, carry, is_bsm, scale = map(np.array, zip(*rows, strict=True))
    return Contracts(
        flag=flag.astype(np.int8),
        strike=strike.astype(float),
        forward=forward.astype(float),
        tte=tte.astype(float),
        df=np.exp(-rate * tte),
        spot=forward * np.exp(-carry * tte),
        is_bsm=is_bsm.astype(np.bool_),
        theta_scale=scale.astype(float),
        smile_age_s=np.full(flag.size, 60.0),
    )


row = st.tuples(
    st.sampled_from([1, -1]),
    st.floats(20_000, 28_000),
    st.floats(20_000, 28_000),
    st.floats(-0.01, 1.0) | st.sampled_from([0.0, 1e-6]),
    st.sampled_from([0.0, 0.065, -0.01]),
    st.sampled_from([0.0, 0.05, -0.02]),
    st.booleans(),
    st.sampled_from([1.0, 365 / 252]),
)
price = st.one_of(st.just(np.nan), st.just(0.0), st.floats(0.05, 9_000), st.floats(-1, 1e9))
quoted = st.lists(st.tuples(row, price, price, price), min_size=1, max_size=12)


def solved_of(quotes, engine=pricing.compute_quotes):
    contracts = rows_of(*(quote[0] for quote in quotes))
    last, bid, ask = (np.array(column) for column in list(zip(*quotes, strict=True))[1:])
    return solve(contracts, last, bid, ask, engine=engine)


def assert_alike(found: Solved, expected: Solved, rows, **tolerance):
    assert found.status[rows].tolist() == expected.status.tolist()
    for name in ("iv", "bid_iv", "ask_iv", "greeks"):
        np.testing.assert_allclose(
            getattr(found, name)[..., rows], getattr(expected, name), **tolerance
        )


@pytest.fixture(autouse=True)
def one_path(monkeypatch):
    """Few rows and many take one code path, so that equal means equal."""
    monkeypatch.setattr(pricing, "BATCH_ROWS", 0)


@untimed
@given(quoted, quoted)
def test_conventions_of_one_batch_do_not_influence_each_others_rows(first, second):
    mixed = solved_of([*first, *second])
    exactly = {"rtol": 0, "atol": 0}
    assert_alike(mixed, solved_of(first), np.arange(len(first)), **exactly)
    assert_alike(mixed, solved_of(second), np.arange(len(first), len(mixed.iv)), **exactly)
    order = np.arange(len(mixed.iv))[::-1]
    assert_alike(solved_of([*first, *second][::-1]), mixed, order, **exactly)


@untimed
@given(quoted)
def test_a_volatility_and_its_greeks_exist_together_and_are_finite(quotes):
    solved = solved_of(quotes)
    has_values = np.isin(solved.status, [Status.OK, Status.LOW_VEGA])
    assert (np.isfinite(solved.iv) == has_values).all()
    assert (np.isfinite(solved.greeks).all(axis=0) == has_values).all()
    assert np.isnan(solved.greeks[:, ~has_values]).all()
    for ivs in (solved.iv, solved.bid_iv, solved.ask_iv):
        assert (np.isnan(ivs) | ((ivs > 0) & np.isfinite(ivs))).all()


@settings(deadline=None, max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([1, -1]), st.floats(0.9, 1.1), st.floats(7 / 365, 1.0),
            st.floats(0.08, 0.6), st.booleans(), st.sampled_from([1.0, 365 / 252]),
        ),
        min_size=1,
        max_size=5,
    )
)  # fmt: skip
def test_both_engines_agree_through_solve_for_both_models(options):
    contracts = rows_of(
        *(
            (flag, 24_500.0 * ratio, 24_500.0, tte, 0.065, 0.053, is_bsm, scale)
            for flag, ratio, tte, _, is_bsm, scale in options
        )
    )
    vol = np.array([option[3] for option in options])
    fair = pricing.price(
        contracts.flag, contracts.forward, contracts.strike, contracts.tte, vol, contracts.df
    )
    prices = (fair, fair * 0.999, fair * 1.001)
    ours = solve(contracts, *prices, engine=pricing.compute_quotes)
    theirs = solve(contracts, *prices, engine=vollib_engine.compute_quotes)
    assert ours.status.tolist() == theirs.status.tolist()
    rows = np.flatnonzero(ours.greeks[3] > 0.005)
    for name in ("iv", "bid_iv", "ask_iv"):
        np.testing.assert_allclose(
            getattr(ours, name)[rows], getattr(theirs, name)[rows], rtol=0, atol=1e-9
        )
    np.testing.assert_allclose(ours.greeks[:, rows], theirs.greeks[:, rows], rtol=1e-8, atol=1e-10)


def market_contracts(convention, *, expiry=FAR, at_s=NOON_S, strikes_each_side=6):
    """The options of a market under a convention, at fair prices of 15 %."""
    market = FakeMarket(strikes_each_side=strikes_each_side, expiries=(NEAR, FAR), futures=(NEAR,))
    table = InstrumentTable(CALENDAR.expiry_instant)
    table.apply(market.instrument_set())
    terms = ExpiryTerms(CALENDAR, Policy(conventions={"NIFTY": convention}))
    terms.use(table.expiries)
    slots = np.array(
        [table.slot_of(item.instrument_token) for item in market.options if item.expiry == expiry]
    )
    contracts = Contracts.of(slots, np.full(slots.size, 24_600.0), at_s, table, terms)
    return contracts, fair_of(contracts, 0.15)


def fair_of(contracts, vol):
    return pricing.price(
        contracts.flag, contracts.forward, contracts.strike, contracts.tte, vol, contracts.df
    )


def test_rows_of_bsm_equal_vollib_with_the_spot_and_the_dividend_yield():
    from vollib.black_scholes_merton import black_scholes_merton
    from vollib.black_scholes_merton.greeks import analytical
    from vollib.black_scholes_merton.implied_volatility import implied_volatility

    contracts, fair = market_contracts(BSM)
    solved = solve(contracts, fair, fair, fair, engine=pricing.compute_quotes)
    greeks = [getattr(analytical, name) for name in pricing.GREEKS]
    for index in range(fair.size):
        letter = "c" if contracts.flag[index] > 0 else "p"
        spot, strike, tte = (
            float(column[index]) for column in (contracts.spot, contracts.strike, contracts.tte)
        )
        price = black_scholes_merton(letter, spot, strike, tte, 0.065, 0.15, 0.012)
        assert price == pytest.approx(fair[index], rel=1e-11)
        vol = implied_volatility(float(fair[index]), spot, strike, tte, 0.065, 0.012, letter)
        assert solved.iv[index] == pytest.approx(vol, abs=1e-9)
        expected = [greek(letter, spot, strike, tte, 0.065, vol, 0.012) for greek in greeks]
        np.testing.assert_allclose(solved.greeks[:, index], expected, rtol=1e-9)


def test_rows_of_black76_equal_vollib_on_the_forward():
    from vollib.black.greeks import analytical

    contracts, fair = market_contracts(Convention(rate=0.065))
    solved = solve(contracts, fair, fair, fair, engine=pricing.compute_quotes)
    np.testing.assert_allclose(solved.iv, 0.15, rtol=0, atol=1e-11)
    for name, found in zip(pricing.GREEKS, solved.greeks, strict=True):
        greek = getattr(analytical, name)
        expected = [
            greek("c" if flag > 0 else "p", 24_600.0, strike, tte, 0.065, 0.15)
            for flag, strike, tte in zip(
                contracts.flag, contracts.strike.tolist(), contracts.tte.tolist(), strict=True
            )
        ]
        np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("convention", "days_per_year"),
    [
        (Convention(), 365),
        (BSM, 365),
        (BY_DAYS, 252),
        (Convention(model=PricingModel.BSM, rate=0.065, clock=YearClock.TRADING252), 252),
    ],
)
def test_theta_is_what_a_day_of_the_clock_takes_away(convention, days_per_year):
    contracts, fair = market_contracts(convention)
    theta = solve(contracts, fair, fair, fair, engine=pricing.compute_quotes).greeks[2]
    step = 0.01 / days_per_year  # A hundredth of a day: close to the tangent.

    def after(years):
        tte = contracts.tte - years
        # Black-76 keeps the forward, BSM the spot.
        carry = np.log(contracts.forward / contracts.spot) / contracts.tte * contracts.is_bsm
        rate = -np.log(contracts.df) / contracts.tte
        forward = contracts.forward * np.exp(-carry * years)
        return pricing.price(
            contracts.flag, forward, contracts.strike, tte, 0.15, np.exp(-rate * tte)
        )

    slope = (after(step) - after(-step)) / 0.02
    np.testing.assert_allclose(theta, slope, rtol=1e-5, atol=1e-6)
    assert (theta < 0).any()


@pytest.mark.parametrize("convention", [Convention(), BSM, BY_DAYS])
def test_the_smile_gives_greeks_only_to_in_the_money_rows_without_a_usable_price(convention):
    contracts, fair = market_contracts(convention)
    in_the_money = contracts.flag * (contracts.forward - contracts.strike) > 0
    last = fair.copy()
    last[::2] = 0.0
    solved = solve(contracts, last, last, last, engine=pricing.compute_quotes)
    before = solved.greeks.copy()
    smile = np.full(fair.size, 0.2)
    smile[4] = np.nan
    origin = borrow_smile(contracts, solved, smile, in_the_money=in_the_money)
    unpriced = np.arange(fair.size) % 2 == 0
    borrowed = unpriced & in_the_money & np.isfinite(smile)
    assert borrowed.any()
    assert (
        origin == np.where(borrowed, FROM_SMILE, np.where(unpriced, FROM_NOTHING, FROM_IV))
    ).all()
    np.testing.assert_array_equal(solved.greeks[:, ~borrowed], before[:, ~borrowed])
    # The same as if the option had cost what its strike's volatility makes of it.
    worth = fair_of(contracts, 0.2)
    expected = solve(contracts, worth, worth, worth, engine=pricing.compute_quotes).greeks
    np.testing.assert_allclose(
        solved.greeks[:, borrowed], expected[:, borrowed], rtol=1e-9, atol=1e-12
    )
    assert np.isnan(solved.iv[unpriced]).all()


@pytest.mark.parametrize("status", [s for s in Status if not s.has_values])
def test_only_a_price_that_says_nothing_lets_a_row_borrow(status):
    contracts, fair = market_contracts(Convention())
    nothing = np.full(fair.size, np.nan)
    solved = Solved(
        iv=nothing,
        bid_iv=nothing,
        ask_iv=nothing,
        greeks=np.full((5, fair.size), np.nan),
        status=np.full(fair.size, status, np.uint8),
    )
    everywhere = np.ones(fair.size, np.bool_)
    origin = borrow_smile(contracts, solved, np.full(fair.size, 0.15), in_the_money=everywhere)
    may = status in {Status.NO_PRICE, Status.BELOW_INTRINSIC, Status.ABOVE_MAX}
    assert set(origin.tolist()) == {FROM_SMILE if may else FROM_NOTHING}
    assert np.isfinite(solved.greeks).all() == may


def test_marks_fall_on_solved_rows_only_and_the_gravest_wins():
    before_all = [int(status) for status in Status if status < Status.STALE_FORWARD]
    prices = (np.nan, 10.0, 11.0)
    rows = list(product(before_all, prices, prices, (True, False), (NONE, FUTURE)))
    status, bid, ask, stale, source = map(np.array, zip(*rows, strict=True))
    found = marked(
        status.astype(np.uint8), bid, ask, is_stale=stale, source=source.astype(np.uint8)
    )
    for code, (before, low, high, is_stale, origin) in zip(found.tolist(), rows, strict=True):
        if origin == NONE:
            expected = NO_FORWARD
        elif before not in {Status.OK, Status.LOW_VEGA}:
            expected = before
        elif is_stale:
            expected = Status.STALE_FORWARD
        else:
            expected = Status.CROSSED if low > high else before
        assert code == expected
    assert status.tolist() == [before for before, *_ in rows], "the argument is left alone"
