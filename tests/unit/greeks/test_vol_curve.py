"""What a desk reads from a volatility curve, held against loops over strikes."""

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import ndtr

from services.greeks.domain.vol_curve import (
    ATM_REACH,
    atm_volatility,
    max_pain,
    total_open_interest,
    wing_volatilities,
)

TTE = 0.05


def curves(draw, *, flat: bool = False):
    """One to four ladders of different length: strikes, smile and forward of each."""
    found = []
    for _ in range(draw(st.integers(1, 4))):
        size = draw(st.integers(1, 25))
        strikes = [24_000.0 + 50.0 * place for place in range(size)]
        vols = st.just(0.15) if flat else st.floats(0.02, 3.0)
        smile = draw(st.lists(st.none() | vols, min_size=size, max_size=size))
        forward = draw(st.sampled_from(strikes) | st.floats(23_800, 25_500))
        found.append((strikes, smile, forward))
    return found


@st.composite
def any_curves(draw):
    return curves(draw)


@st.composite
def flat_curves(draw):
    return curves(draw, flat=True)


def matrices(found):
    """Strikes, smile, forward and ATM positions, padded with NaN."""
    shape = (len(found), max(len(strikes) for strikes, _, _ in found))
    strikes, smile = np.full(shape, np.nan), np.full(shape, np.nan)
    for row, (ladder, vols, _) in enumerate(found):
        strikes[row, : len(ladder)] = ladder
        smile[row, : len(vols)] = [math.nan if vol is None else vol for vol in vols]
    forward = np.array([forward for _, _, forward in found])
    atm = np.array([nearest(ladder, forward) for ladder, _, forward in found])
    return strikes, smile, forward, atm


def nearest(strikes, forward) -> int:
    return min(range(len(strikes)), key=lambda place: abs(strikes[place] - forward))


def atm_by_loop(strikes, smile, forward):
    """Walk from the forward to both sides, three strikes at most."""
    above = [place for place, strike in enumerate(strikes) if strike > forward]
    first = above[0] if above else len(strikes)
    low = next((p for p in range(first - 1, first - 1 - ATM_REACH, -1) if has(smile, p)), None)
    if low is not None and strikes[low] == forward:
        return smile[low]
    high = next((p for p in range(first, first + ATM_REACH) if has(smile, p)), None)
    if low is not None and high is not None:
        share = math.log(forward / strikes[low]) / math.log(strikes[high] / strikes[low])
        return smile[low] + share * (smile[high] - smile[low])
    at = nearest(strikes, forward)
    inside = any(
        0 <= near < len(strikes) and abs(strikes[near] - strikes[at]) >= abs(strikes[at] - forward)
        for near in (at - 1, at + 1)
    )
    return smile[at] if inside else None


def has(smile, place) -> bool:
    return 0 <= place < len(smile) and smile[place] is not None


def wing_by_loop(strikes, smile, forward, delta):
    """Walk outward from the money over the strikes that have a volatility, pair by pair."""
    known = [(k, v, delta_of(k, v, forward)) for k, v in zip(strikes, smile, strict=True) if v]
    pairs = list(pairwise(known))
    if delta > 0.5:
        pairs = [(b, a) for a, b in reversed(pairs) if a[0] < forward]
    for (_, inner_vol, inner), (_, outer_vol, outer) in pairs:
        if (outer <= delta < inner) if delta < 0.5 else (inner < delta <= outer):
            share = (delta - outer) / (inner - outer)
            return outer_vol + share * (inner_vol - outer_vol)
    return None


def delta_of(strike, vol, forward) -> float:
    total = vol * math.sqrt(TTE)
    return float(ndtr(math.log(forward / strike) / total + 0.5 * total))


def same(found: float, expected: float | None) -> bool:
    return math.isnan(found) if expected is None else found == pytest.approx(expected, rel=1e-9)


@given(any_curves())
def test_atm_volatility_equals_a_walk_from_the_forward(found):
    values = atm_volatility(*matrices(found))
    for row, (strikes, smile, forward) in enumerate(found):
        assert same(values[row], atm_by_loop(strikes, smile, forward))


@given(any_curves())
def test_wings_equal_a_walk_outward_over_pairs_of_neighbours(found):
    strikes, smile, forward, _ = matrices(found)
    wings = wing_volatilities(strikes, smile, forward, np.full(forward.size, TTE))
    for row, (ladder, vols, at) in enumerate(found):
        assert same(wings.call[row], wing_by_loop(ladder, vols, at, 0.25))
        assert same(wings.put[row], wing_by_loop(ladder, vols, at, 0.75))


@given(flat_curves())
def test_a_flat_smile_has_neither_risk_reversal_nor_butterfly(found):
    strikes, smile, forward, atm = matrices(found)
    wings = wing_volatilities(strikes, smile, forward, np.full(forward.size, TTE))
    middle = atm_volatility(strikes, smile, forward, atm)
    for values in (wings.call, wings.put, middle):
        assert (np.isnan(values) | (values == 0.15)).all()


def test_wings_of_a_straight_smile_are_found_where_its_deltas_are():
    strikes = np.arange(22_000.0, 27_001.0, 10.0)
    smile = 0.15 - 0.4 * np.log(strikes / 24_510.0)
    wings = wing_volatilities(strikes[None], smile[None], np.array([24_510.0]), np.array([TTE]))
    for vol, delta in ((wings.call[0], 0.25), (wings.put[0], 0.75)):
        strike = 24_510.0 * math.exp((0.15 - vol) / 0.4)
        assert delta_of(strike, vol, 24_510.0) == pytest.approx(delta, abs=1e-4)
    assert wings.call[0] < 0.15 < wings.put[0]


@pytest.mark.parametrize("tte", [0.0, -0.1, math.nan])
def test_without_time_left_there_are_no_wings(tte):
    strikes = np.arange(24_000.0, 25_001.0, 50.0)[None]
    smile = np.full_like(strikes, 0.15)
    wings = wing_volatilities(strikes, smile, np.array([24_510.0]), np.array([tte]))
    assert np.isnan([*wings.call, *wings.put]).all()


def test_beyond_the_ladder_nobody_knows_the_volatility():
    strikes, smile = np.array([[100.0, 110.0]]), np.array([[0.2, 0.3]])
    for forward, at, expected in ((114.0, 1, 0.3), (95.0, 0, 0.2), (121.0, 1, math.nan)):
        found = atm_volatility(strikes, smile, np.array([forward]), np.array([at]))
        assert found[0] == pytest.approx(expected, nan_ok=True)


Interest = st.lists(
    st.tuples(st.integers(-1, 5) | st.integers(0, 2**32 - 1), st.integers(-1, 5)),
    min_size=1,
    max_size=12,
)


def padded(ladders, side):
    width = max(map(len, ladders))
    return np.array([[row[side] for row in rows] + [-1] * (width - len(rows)) for rows in ladders])


@given(st.lists(Interest, min_size=1, max_size=3))
def test_max_pain_is_the_lowest_strike_of_least_payout(ladders):
    call_oi, put_oi = padded(ladders, 0), padded(ladders, 1)
    strikes = np.where(
        np.arange(call_oi.shape[1]) < np.array([[len(rows)] for rows in ladders]),
        100.0 + 5.0 * np.arange(call_oi.shape[1]),
        np.nan,
    )
    found = max_pain(strikes, call_oi, put_oi)
    for row, rows in enumerate(ladders):
        steps = range(len(rows))
        paid = [
            sum(
                max(c, 0) * max(at - k, 0) + max(p, 0) * max(k - at, 0)
                for k, (c, p) in zip(steps, rows, strict=True)
            )
            for at in steps
        ]
        is_open = any(c > 0 or p > 0 for c, p in rows)
        assert same(found[row], 100.0 + 5.0 * paid.index(min(paid)) if is_open else None)


@given(st.lists(Interest, min_size=1, max_size=3))
def test_open_interest_is_the_sum_of_what_is_known(ladders):
    found = total_open_interest(padded(ladders, 0))
    for row, rows in enumerate(ladders):
        known = [calls for calls, _ in rows if calls >= 0]
        assert found[row] == (sum(known) if known else -1)
