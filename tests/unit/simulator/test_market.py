"""The market model: what must hold of every quote at every moment."""

import itertools
from dataclasses import fields
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.domain.instruments import Kind
from services.simulator.domain import black76
from services.simulator.domain.market import Market, Quotes, day_share
from tests.unit.simulator.markets import at, make_market, shared_market

MARKET = shared_market()
OPTIONS = MARKET.universe.flag != 0
TRADABLE = ~MARKET.universe.is_index


OPENED = MARKET.start(MARKET.open_ns)


def run(market: Market, start_ns: int, steps: int, step_ms: int = 500) -> list[Quotes]:
    """The states of a few consecutive steps."""
    states = [market.start(start_ns)]
    for number in range(1, steps + 1):
        states.append(market.advance(states[-1], start_ns + number * step_ms * 1_000_000))
    return states


def test_equal_seeds_give_equal_markets():
    first, second = run(make_market(3), at(11), 3)[-1], run(make_market(3), at(11), 3)[-1]
    for field in fields(Quotes):
        assert np.array_equal(getattr(first, field.name), getattr(second, field.name)), field.name


def test_another_seed_gives_another_market():
    first, second = make_market(3).start(at(11)), make_market(4).start(at(11))
    assert first.last[0] != second.last[0]


def test_a_price_does_not_depend_on_the_size_of_the_universe():
    small = shared_market()
    large = make_market(7)
    token = int(small.universe.tokens[40])
    row = large.universe.row_of_token[token]
    assert small.values(at(12))[40] == large.values(at(12))[row]


@settings(max_examples=15, deadline=None)
@given(second=st.integers(1, 23_000))
def test_books_are_ordered_and_on_the_price_grid(second):
    state = MARKET.advance(OPENED, at(9, 15) + second * 10**9)
    tick = MARKET.universe.tick_paise
    assert np.all(state.bid % tick == 0)
    assert np.all(state.ask % tick == 0)
    assert np.all(state.last % tick == 0)
    both = (state.bid > 0) & (state.ask > 0)
    assert np.all(state.bid[both] < state.ask[both])
    assert np.all((state.low <= state.last) & (state.last <= state.high))
    assert np.all(state.bid[~TRADABLE] == 0)


@settings(max_examples=15, deadline=None)
@given(second=st.integers(1, 23_000))
def test_depth_has_five_ordered_levels_per_side(second):
    state = MARKET.advance(OPENED, at(9, 15) + second * 10**9)
    rows = np.flatnonzero(TRADABLE)
    depth = MARKET.depth(state, rows)
    bids, asks = depth.price[:, :5], depth.price[:, 5:]
    assert np.array_equal(bids[:, 0], state.bid[rows])
    assert np.array_equal(asks[:, 0], state.ask[rows])
    assert np.all((np.diff(bids, axis=1) < 0) | (bids[:, 1:] == 0))
    assert np.all((np.diff(asks, axis=1) > 0) | (asks[:, 1:] == 0))
    assert np.all((depth.quantity > 0) == (depth.price > 0))
    assert np.all((depth.orders > 0) == (depth.price > 0))
    assert np.all(depth.quantity % MARKET.universe.lot[rows, None] == 0)
    assert np.all(depth.buy_quantity >= depth.quantity[:, :5].sum(axis=1))
    assert np.all(depth.sell_quantity >= depth.quantity[:, 5:].sum(axis=1))


def test_depth_stays_until_the_instrument_ticks():
    before, after = run(make_market(tick_probability=0.3), at(11), 1)
    rows = np.flatnonzero(TRADABLE & ~after.ticked)
    assert rows.size
    assert np.array_equal(MARKET.depth(before, rows).price, MARKET.depth(after, rows).price)


def test_volume_and_open_interest_never_fall_and_come_in_lots():
    states = run(MARKET, at(10), 40, step_ms=5_000)
    for before, after in itertools.pairwise(states):
        assert np.all(after.volume >= before.volume)
        assert np.all(after.oi >= before.oi)
    last = states[-1]
    assert np.all(last.volume % MARKET.universe.lot == 0)
    assert np.all(last.oi % MARKET.universe.lot == 0)
    assert last.volume.sum() > states[0].volume.sum()


def test_a_trade_sets_last_price_quantity_and_time_together():
    before, after = run(MARKET, at(10), 1)
    traded = after.volume > before.volume
    assert traded.any()
    assert np.all(after.last_quantity[traded] == (after.volume - before.volume)[traded])
    assert np.all(after.last_trade_s[traded] == at(10) // 10**9)
    quiet = ~traded & TRADABLE
    assert np.array_equal(after.last[quiet], before.last[quiet])


def test_calls_and_puts_agree_with_the_forward():
    """Put-call parity of the mids, within the spreads, for every strike with two books."""
    state = run(MARKET, at(11), 1)[-1]
    universe = MARKET.universe
    forwards = MARKET.smile(state.at_ns).forward
    errors = []
    for row in np.flatnonzero(universe.flag == 1):
        put = row + 1
        assert universe.flag[put] == -1
        assert universe.strike[put] == universe.strike[row]
        if min(state.bid[row], state.bid[put], state.ask[row], state.ask[put]) == 0:
            continue
        mids = (state.bid + state.ask)[[row, put]] / 200
        spreads = (state.ask - state.bid)[[row, put]].sum() / 100
        implied = universe.strike[row] + mids[0] - mids[1]
        assert abs(implied - forwards[universe.expiry[row]]) <= spreads
        errors.append(implied - forwards[universe.expiry[row]])
    assert len(errors) > 500
    assert abs(np.median(errors)) < 0.5


def test_futures_trade_around_their_forward():
    state = MARKET.advance(OPENED, at(11), all_tick=True)
    for row, item in enumerate(MARKET.universe.instruments):
        if item.kind is Kind.FUTURE:
            forward = MARKET.smile(state.at_ns).forward[MARKET.universe.expiry[row]]
            assert state.bid[row] / 100 <= forward <= state.ask[row] / 100


def test_some_books_are_empty_and_some_bids_lie_below_intrinsic():
    state = MARKET.start(at(14))
    universe = MARKET.universe
    intrinsic = np.maximum(
        universe.flag * (MARKET.smile(state.at_ns).forward[universe.expiry] - universe.strike), 0
    )
    assert np.any((state.bid[OPTIONS] / 100 < intrinsic[OPTIONS]) & (state.bid[OPTIONS] > 0))
    far = make_market(7)
    wide = far.start(at(14))
    assert np.any(wide.bid[OPTIONS] == 0)


def test_indices_and_shares_stand_still_after_the_cash_close_while_options_go_on():
    state = MARKET.start(at(15, 36))
    later = MARKET.advance(state, at(15, 37), all_tick=True)
    spot = MARKET.universe.expiry < 0
    assert not later.ticked[spot].any()
    assert np.array_equal(later.last[spot], state.last[spot])
    assert np.any(later.bid[OPTIONS] != state.bid[OPTIONS])


def test_a_burst_makes_every_instrument_tick():
    state = MARKET.start(at(11))
    assert MARKET.advance(state, at(11, 0, 1), all_tick=True).ticked.all()


def test_on_expiry_day_options_end_at_their_intrinsic_value():
    day = date(2026, 11, 23)
    market = make_market(7, day)
    values = market.values(at(15, 40, day=day))
    universe = market.universe
    dying = OPTIONS & np.array([item.expiry == day for item in universe.instruments])
    assert dying.sum() > 50
    forward = market.smile(at(15, 40, day=day)).forward[universe.expiry]
    intrinsic = np.maximum(universe.flag * (forward - universe.strike), 0)
    assert values[dying] == pytest.approx(intrinsic[dying], abs=1e-6)


def test_start_after_the_close_shows_the_close():
    assert MARKET.start(at(18)).at_ns == MARKET.close_ns
    assert MARKET.start(at(7)).at_ns == MARKET.open_ns


def test_the_day_is_busy_at_both_ends_and_complete_at_the_close():
    shares = day_share(np.linspace(0, 23_100, 50))
    assert shares[0] == 0
    assert shares[-1] == pytest.approx(1)
    assert np.all(np.diff(shares) > 0)
    assert np.diff(shares)[0] > np.diff(shares)[25]


@given(
    forward=st.floats(10, 1e5),
    moneyness=st.floats(-0.5, 0.5),
    years=st.floats(0, 2),
    sigma=st.floats(0.01, 2),
)
def test_black76_obeys_parity_and_its_bounds(forward, moneyness, years, sigma):
    strike = forward * np.exp(moneyness)
    call, put = black76.price([1, -1], forward, strike, years, sigma)
    assert call - put == pytest.approx(forward - strike, abs=1e-8 * forward)
    assert max(forward - strike, 0) - 1e-9 * forward <= call <= forward
    assert max(strike - forward, 0) - 1e-9 * forward <= put <= strike
