"""What each expiry is priced by: conventions side by side, years, and the settlement window."""

from datetime import date, datetime

import numpy as np
import pytest

from libs.common.contracts.messages import Convention, PricingModel, YearClock
from libs.common.domain.clock import IST
from libs.common.domain.market_calendar import CALENDAR
from services.greeks.domain.expiry_terms import ExpiryTerms
from services.greeks.domain.instrument_table import Expiry
from services.greeks.domain.policy import Policy


def at(day: date, hour: int, minute: int, second: int = 0) -> float:
    return datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=IST).timestamp()


def expiry(underlying: str, exchange: str, day: date) -> Expiry:
    empty = np.empty(0, np.int64)
    return Expiry(
        underlying_id=0,
        underlying=underlying,
        exchange=exchange,
        day=day,
        instant_s=CALENDAR.expiry_instant(exchange, day).timestamp(),
        future=0,
        strikes=np.empty(0),
        calls=empty,
        puts=empty,
        subject="",
        chain_subject="",
        vol_subject="",
    )


def terms_of(*expiries: Expiry, **conventions: Convention) -> ExpiryTerms:
    terms = ExpiryTerms(CALENDAR, Policy(conventions=conventions))
    terms.use(list(expiries))
    return terms


# Trading days: a Thursday under the old hours, the last day of them, the first and a later new one.
@pytest.mark.parametrize(
    ("exchange", "day", "start"),
    [
        ("NFO", date(2026, 7, 23), (15, 0)),
        ("NFO", date(2026, 7, 31), (15, 0)),
        ("NFO", date(2026, 8, 3), (15, 15)),
        ("NFO", date(2026, 11, 26), (15, 15)),
        ("BFO", date(2026, 7, 30), (15, 0)),
        ("BFO", date(2026, 8, 6), (15, 15)),
    ],
)
def test_settlement_begins_with_the_last_half_hour_or_the_closing_auction(exchange, day, start):
    terms = terms_of(expiry("X", exchange, day))
    which = np.array([0, 0, 0])
    begins = at(day, *start)
    assert terms.settlement_s.tolist() == [begins]
    moments = np.array([begins - 1, begins, at(day, 15, 29)])
    assert terms.settles(which, moments).tolist() == [False, True, True]


@pytest.mark.parametrize("exchange", ["MCX", "CDS"])
def test_commodities_and_currencies_have_no_settlement_window_of_ours(exchange):
    day = date(2026, 11, 26)
    terms = terms_of(expiry("X", exchange, day))
    assert np.isnan(terms.settlement_s).all()
    assert not terms.settles(np.array([0]), at(day, 23, 0)).any()


def test_expiries_that_are_added_leave_those_known_as_they_are():
    first = expiry("NIFTY", "NFO", date(2026, 11, 26))
    second = expiry("GOLD", "MCX", date(2026, 11, 26))
    by_days = Convention(rate=0.065, dividend_yield=0.012, clock=YearClock.TRADING252)
    bsm = Convention(model=PricingModel.BSM, smile_max_age_seconds=5)
    terms = terms_of(first, NIFTY=by_days, GOLD=bsm)
    before = terms.years(np.array([0]), at(date(2026, 11, 23), 12, 0))
    terms.use([first, second])
    assert terms.names == ["black76 trading252 r=0.065 q=0.012", "bsm act365 r=0"]
    assert terms.rate.tolist() == [0.065, 0.0]
    assert terms.carry.tolist() == pytest.approx([0.053, 0.0])
    assert terms.is_bsm.tolist() == [False, True]
    assert terms.theta_scale.tolist() == pytest.approx([365 / 252, 1.0])
    assert terms.smile_age_s.tolist() == [60.0, 5.0]
    assert np.isnan(terms.settlement_s).tolist() == [False, True]
    np.testing.assert_array_equal(terms.years(np.array([0]), at(date(2026, 11, 23), 12, 0)), before)


def test_clocks_of_one_batch_do_not_influence_each_other():
    day, monday, friday = date(2026, 11, 23), date(2026, 11, 23), date(2026, 11, 20)
    expiries = [expiry(name, "NFO", day) for name in ("A", "B")]
    expiries += [expiry("C", "BFO", day), expiry("D", "MCX", day)]
    by_days = Convention(clock=YearClock.TRADING252)
    terms = terms_of(*expiries, B=by_days, C=by_days)
    which = np.array([0, 1, 2, 3, 1, 0, 2])
    moments = np.array([at(friday, 15, 40)] * 4 + [at(monday, 15, 39, 30)] * 3)
    together = terms.years(which, moments)
    alone = [terms.years(which[i : i + 1], moments[i : i + 1])[0] for i in range(which.size)]
    np.testing.assert_array_equal(together, alone)
    assert together[:2] == pytest.approx([3 / 365, 1 / 252])
    half_a_minute = 30 / (365 * 86_400)
    assert together[4:6] == pytest.approx([half_a_minute, half_a_minute])


def test_the_spot_may_stand_still_from_the_closing_auction_of_its_shares_on():
    day = date(2026, 11, 24)
    friday = date(2026, 7, 31)
    expiries = [expiry("X", exchange, date(2026, 12, 29)) for exchange in ("NFO", "BFO", "MCX")]
    terms = terms_of(*expiries)
    which = np.arange(3)
    assert not terms.spot_may_stand(which, at(friday, 15, 29, 59)).any()
    assert terms.spot_may_stand(which, at(friday, 15, 30)).tolist() == [True, True, False]
    business = day if CALENDAR.is_business_day("NFO", day) else date(2026, 11, 25)
    assert not terms.spot_may_stand(which, at(business, 15, 14, 59)).any()
    assert terms.spot_may_stand(which, at(business, 15, 15)).tolist() == [True, True, False]
