"""The choice of the forward and the parity median."""

from datetime import date, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.messages import Convention, PricingModel
from libs.common.domain.clock import IST
from libs.common.domain.market_calendar import CALENDAR
from services.greeks.domain.book import Book
from services.greeks.domain.expiry_terms import ExpiryTerms
from services.greeks.domain.forward import FUTURE, NONE, SPOT, SYNTHETIC, Forwards, parity_forwards
from services.greeks.domain.instrument_table import InstrumentTable
from services.greeks.domain.policy import Policy
from tests.fakes.kite_frames import FakeMarket

NOW = 1_795_415_400.0


def ladder(forward: float, strikes: np.ndarray, growth: float = 1.0):
    """Mids that agree with parity exactly."""
    calls = np.maximum(forward - strikes, 0.0) / growth + 50.0
    puts = np.maximum(strikes - forward, 0.0) / growth + 50.0
    return calls, puts


def median(strikes, calls, puts, near, growth=1.0, **limits):
    result = parity_forwards(
        strikes[None], calls[None], puts[None], np.array([near]), np.array([growth]), **limits
    )
    return float(result.forward[0]), float(result.dispersion[0])


STRIKES = np.arange(24_000.0, 25_001.0, 50.0)


@given(
    forward=st.floats(24_100, 24_900),
    growth=st.floats(1.0, 1.1),
    wrong=st.sets(st.integers(0, 4), max_size=2),
    errors=st.lists(st.floats(-5000, 5000), min_size=5, max_size=5),
)
def test_two_wrong_quotes_of_five_do_not_move_the_median_beyond_the_right_ones(
    forward, growth, wrong, errors
):
    calls, puts = ladder(forward, STRIKES, growth)
    nearest = np.argsort(np.abs(STRIKES - forward), kind="stable")[:5]
    for place in wrong:
        calls[nearest[place]] += errors[place]
    found, _ = median(STRIKES, calls, puts, forward, growth)
    assert found == pytest.approx(forward, abs=1e-6)


def test_only_strikes_nearest_the_money_are_taken():
    calls, puts = ladder(24_500.0, STRIKES)
    calls[:5] += 1000.0
    assert median(STRIKES, calls, puts, 24_500.0) == (24_500.0, 0.0)


def test_unusable_strikes_give_way_to_the_next_nearest():
    calls, puts = ladder(24_500.0, STRIKES)
    calls[9:12] = np.nan
    assert median(STRIKES, calls, puts, 24_500.0) == (24_500.0, 0.0)


def test_too_few_usable_strikes_give_no_forward():
    calls, puts = ladder(24_500.0, STRIKES)
    calls[2:] = np.nan
    found, spread = median(STRIKES, calls, puts, 24_500.0)
    assert np.isnan(found)
    assert np.isnan(spread)


def test_the_money_is_found_where_call_and_put_cost_the_same():
    calls, puts = ladder(24_500.0, STRIKES)
    calls[0] += 300.0
    assert median(STRIKES, calls, puts, np.nan)[0] == 24_500.0


def test_dispersion_is_the_spread_of_the_strikes_taken():
    calls, puts = ladder(24_500.0, STRIKES)
    calls[10] += 4.0
    calls[11] -= 2.0
    assert median(STRIKES, calls, puts, 24_500.0)[1] == 6.0


@given(
    rows=st.lists(
        st.tuples(
            st.floats(50, 100_000),
            st.floats(0.05, 4.3e7) | st.just(np.nan),
            st.floats(0.05, 4.3e7) | st.just(np.nan),
        ),
        min_size=1,
        max_size=12,
    ),
    near=st.floats(50, 100_000) | st.just(np.nan),
    growth=st.floats(0.9, 1.2),
)
def test_books_that_are_no_prices_make_no_forward_that_is_none(rows, near, growth):
    strikes, calls, puts = map(np.array, zip(*sorted(rows, key=lambda row: row[0]), strict=True))
    found, dispersion = median(strikes, calls, puts, near, growth)
    assert np.isnan(found) == np.isnan(dispersion)
    if not np.isnan(found):
        assert 0.0 < found < 2.0 * strikes.max()
        assert dispersion >= 0.0


def test_three_absurd_books_of_five_are_left_out():
    calls, puts = ladder(24_512.0, STRIKES)
    nearest = np.argsort(np.abs(STRIKES - 24_512.0), kind="stable")[:5]
    puts[nearest[:2]] = 2e7
    calls[nearest[2]] = 3e7
    assert median(STRIKES, calls, puts, 24_512.0) == pytest.approx((24_512.0, 0.0), abs=1e-6)


def test_an_expiry_without_options_has_no_parity_forward():
    empty = np.empty((2, 0))
    result = parity_forwards(empty, empty, empty, np.full(2, np.nan), np.ones(2))
    assert np.isnan(result.forward).all()


class Scene:
    """A near expiry with a future, its options and an index, with prices as asked for."""

    def __init__(self, **convention) -> None:
        self.market = FakeMarket(expiries=(date(2026, 11, 24),), strikes_each_side=4)
        self.table = InstrumentTable(CALENDAR.expiry_instant)
        self.table.apply(self.market.instrument_set())
        self.book = Book(self.table.capacity)
        self.forwards = Forwards(len(self.table.expiries))
        self.policy = Policy(convention=Convention(**convention))
        self.terms = ExpiryTerms(CALENDAR, self.policy)
        self.terms.use(self.table.expiries)

    def quote(self, slot: int, last: float, *, age: float = 0.0) -> None:
        """Give a slot a last price and a book around it, seen so many seconds ago."""
        self.book.last_price[slot] = last
        self.book.bid[slot], self.book.ask[slot] = last - 0.05, last + 0.05
        self.book.seen_s[slot] = NOW - age

    def options(self, forward: float, *, age: float = 0.0) -> None:
        """Give all options prices that agree with a forward."""
        expiry = self.table.expiries[0]
        calls, puts = ladder(forward, expiry.strikes)
        for slots, prices in ((expiry.calls, calls), (expiry.puts, puts)):
            for slot, last in zip(slots.tolist(), prices.tolist(), strict=True):
                self.quote(slot, last, age=age)

    def choose(self, later: float = 0.0) -> tuple[float, int, bool]:
        """Choose the forward so many seconds later: value, source, stale."""
        self.forwards.update(
            np.array([0]), self.table, self.book, NOW + later, self.terms, self.policy
        )
        forwards = self.forwards
        return float(forwards.forward[0]), int(forwards.source[0]), bool(forwards.is_stale[0])


def test_a_fresh_future_wins():
    scene = Scene()
    scene.quote(int(scene.table.future[0]), 24_510.0)
    scene.quote(int(scene.table.spot[0]), 24_500.0)
    scene.options(24_505.0)
    assert scene.choose() == (24_510.0, FUTURE, False)


def test_parity_follows_an_old_future():
    scene = Scene()
    scene.quote(int(scene.table.future[0]), 24_510.0, age=11)
    scene.quote(int(scene.table.spot[0]), 24_500.0)
    scene.options(24_505.0)
    found, source, stale = scene.choose()
    assert found == pytest.approx(24_505.0)
    assert (source, stale) == (SYNTHETIC, False)


def test_spot_with_the_carry_of_the_rate_follows_old_books():
    scene = Scene(rate=0.10)
    scene.quote(int(scene.table.spot[0]), 24_500.0)
    scene.options(24_505.0, age=16)
    found, source, stale = scene.choose()
    assert found == pytest.approx(24_500.0 * np.exp(0.10 * scene.market.tte(date(2026, 11, 24))))
    assert (source, stale) == (SPOT, False)


def test_the_last_forward_stays_and_is_stale_when_all_are_old():
    scene = Scene()
    scene.options(24_505.0)
    scene.choose()
    found, source, stale = scene.choose(later=600)
    assert found == pytest.approx(24_505.0)
    assert (source, stale) == (SYNTHETIC, True)


def test_without_any_price_there_is_no_forward():
    found, source, _ = Scene().choose()
    assert np.isnan(found)
    assert source == NONE


def test_a_zero_or_crossed_book_makes_no_parity_forward():
    scene = Scene()
    scene.options(24_505.0)
    scene.book.ask[scene.table.expiries[0].calls] -= 10.0
    assert scene.choose()[1] == NONE


def test_a_future_of_another_expiry_is_not_taken():
    market = FakeMarket(expiries=(date(2026, 12, 1),), futures=(date(2026, 11, 24),))
    table = InstrumentTable(CALENDAR.expiry_instant)
    table.apply(market.instrument_set())
    of_day = {expiry.day: expiry for expiry in table.expiries}
    assert of_day[date(2026, 11, 24)].future
    assert not of_day[date(2026, 12, 1)].future


def test_bsm_is_about_the_spot_though_a_future_is_fresh():
    scene = Scene(model=PricingModel.BSM, rate=0.065, dividend_yield=0.012)
    scene.quote(int(scene.table.future[0]), 24_510.0)
    scene.quote(int(scene.table.spot[0]), 24_500.0)
    found, source, stale = scene.choose()
    tte = scene.market.tte(date(2026, 11, 24))
    assert found == pytest.approx(24_500.0 * np.exp((0.065 - 0.012) * tte))
    assert (source, stale) == (SPOT, False)


def test_bsm_asks_the_future_when_the_spot_is_old():
    scene = Scene(model=PricingModel.BSM)
    scene.quote(int(scene.table.future[0]), 24_510.0)
    scene.quote(int(scene.table.spot[0]), 24_500.0, age=11)
    assert scene.choose() == (24_510.0, FUTURE, False)


@pytest.mark.parametrize(("clock", "source"), [((15, 14), SPOT), ((15, 16), FUTURE)])
def test_bsm_leaves_the_spot_when_its_shares_are_in_the_closing_auction(clock, source):
    scene = Scene(model=PricingModel.BSM)
    hour, minute = clock
    moment = datetime(2026, 11, 23, hour, minute, tzinfo=IST).timestamp()
    scene.quote(int(scene.table.future[0]), 24_510.0, age=NOW - moment)
    scene.quote(int(scene.table.spot[0]), 24_500.0, age=NOW - moment)
    assert scene.choose(later=moment - NOW)[1] == source
