"""What a line says of its convention, of its last minute, and of where its Greeks come from."""

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from math import exp
from typing import Any

import numpy as np
import pytest
import vollib.black.greeks.analytical as black_greeks
import vollib.black_scholes_merton.greeks.analytical as bsm_greeks
from hypothesis import given, settings
from hypothesis import strategies as st
from vollib.black.implied_volatility import implied_volatility as black_volatility
from vollib.black_scholes_merton.implied_volatility import implied_volatility as bsm_volatility

from libs.common.contracts.messages import Convention, PricingModel, YearClock
from libs.common.domain.clock import IST, ns_of
from libs.common.domain.market_calendar import CALENDAR
from libs.common.kite.frames import frame_of
from services.greeks.domain import pricing
from services.greeks.domain.policy import Policy
from services.greeks.domain.shard import Frame, Shard, Tally
from tests.fakes.kite_frames import FakeMarket

TUESDAY = date(2026, 12, 1)
NEXT = date(2026, 12, 8)
GREEKS = ("delta", "gamma", "theta", "vega", "rho")
TRADING_BSM = Convention(
    model=PricingModel.BSM, rate=0.065, dividend_yield=0.012, clock=YearClock.TRADING252
)


def at(day: date, hour: int, minute: int, second: int = 0) -> int:
    moment = datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=IST)
    return ns_of(moment) // 1_000_000_000


def shard_of(*markets: FakeMarket, **policy) -> Shard:
    shard = Shard(
        epoch=7,
        calendar=CALENDAR,
        policy=Policy(**policy),
        engine=pricing.compute_quotes,
        now_ns=lambda: 1_795_500_000_000_000_000,
    )
    for market in markets:
        shard.use_instruments(market.instrument_set())
    return shard


def lines_of(shard: Shard, *payloads: bytes) -> list[dict[str, Any]]:
    """The ticks of some frames as a subscriber reads them."""
    frames = [Frame(payload, 1, "sim") for payload in payloads]
    messages = shard.work(frames, conflate=False, tally=Tally())
    return [json.loads(line) for message in messages for line in message.payload.splitlines()]


def options_of(lines: Sequence[dict[str, Any]], **wanted) -> list[dict[str, Any]]:
    """Lines of options with these values."""
    return [
        line
        for line in lines
        if line["kind"] == "option" and all(line[name] == want for name, want in wanted.items())
    ]


def tuesday_market(now_s: int, **changes) -> FakeMarket:
    """A market with two expiries on Tuesdays, each with a future."""
    usual: dict[str, Any] = {
        "strikes_each_side": 3,
        "expiries": (TUESDAY, NEXT),
        "futures": (TUESDAY, NEXT),
        "carry": 0.0,
    }
    return FakeMarket(now_s=now_s, **{**usual, **changes})


# -- near expiry -------------------------------------------------------------------------------


@pytest.mark.parametrize("clock", list(YearClock))
@pytest.mark.parametrize(
    ("left_s", "statuses"),
    [
        (61, {"ok", "low_vega", "below_intrinsic"}),
        (60, {"ok", "low_vega", "below_intrinsic"}),
        (59, {"expiring"}),
        (1, {"expiring"}),
        (0, {"expired"}),
        (-30, {"expired"}),
    ],
)
def test_the_last_minute_is_told_by_the_second(clock, left_s, statuses):
    market = tuesday_market(at(TUESDAY, 15, 40) - left_s)
    shard = shard_of(market, convention=Convention(clock=clock))
    lines = options_of(lines_of(shard, market.frame()), expiry=TUESDAY.isoformat())
    assert {line["iv_status"] for line in lines} <= statuses
    if left_s >= 60:
        assert any(line["iv"] is not None for line in lines)
        return
    for line in lines:
        # Null, and not 0: the prices go on.
        values = [line[name] for name in ("iv", "bid_iv", "ask_iv", *GREEKS, "greeks_from")]
        assert values == [None] * len(values)
        assert line["last_price"] > 0.0
        assert line["forward"] is not None
        assert line["tte"] == pytest.approx(left_s / (365 * 86_400), abs=1e-15)


def test_the_expiry_instant_follows_the_session_table_of_its_day():
    # Until July 2026 derivatives of shares died at 15:30.
    before = date(2026, 7, 28)
    market = FakeMarket(
        strikes_each_side=1, expiries=(before,), futures=(before,), now_s=at(before, 15, 29, 30)
    )
    lines = options_of(lines_of(shard_of(market), market.frame()))
    assert {line["iv_status"] for line in lines} == {"expiring"}
    assert lines[0]["tte"] == pytest.approx(30 / (365 * 86_400))


@pytest.mark.parametrize(
    ("moment", "settles"),
    [
        (at(TUESDAY, 15, 14, 59), False),
        (at(TUESDAY, 15, 15), True),
        (at(TUESDAY, 15, 39, 59), True),
        (at(TUESDAY - timedelta(days=1), 15, 20), False),
    ],
)
def test_the_settlement_window_is_told_on_the_day_of_expiry_alone(moment, settles):
    market = tuesday_market(moment)
    lines = lines_of(shard_of(market), market.frame())
    assert {x["settlement"] for x in options_of(lines, expiry=TUESDAY.isoformat())} == {settles}
    others = [x for x in lines if x["kind"] != "option" or x["expiry"] == NEXT.isoformat()]
    assert {x["settlement"] for x in others} == {False}


def test_before_the_closing_auction_the_window_was_the_last_half_hour():
    before = date(2026, 7, 28)
    for moment, settles in ((at(before, 14, 59, 59), False), (at(before, 15, 0), True)):
        market = FakeMarket(
            strikes_each_side=1, expiries=(before,), futures=(before,), now_s=moment
        )
        lines = options_of(lines_of(shard_of(market), market.frame()))
        assert {line["settlement"] for line in lines} == {settles}


# -- where the Greeks come from ----------------------------------------------------------------


def test_a_line_says_which_volatility_its_greeks_come_from():
    market = tuesday_market(at(TUESDAY - timedelta(days=1), 12, 0), strikes_each_side=10)
    shard = shard_of(market)
    lines_of(shard, market.frame())
    call, put = (
        next(
            item
            for item in market.options
            if (item.expiry, item.strike, item.option_type) == (TUESDAY, 24_200.0, kind)
        )
        for kind in ("CE", "PE")
    )
    # The call is 300 rupees in the money; two rupees less than that have no volatility.
    below = np.array([int((market.forward(TUESDAY) - 24_200.0) * 100) - 200])
    (own,) = lines_of(shard, frame_of(market.full([put])))
    (borrowed,) = lines_of(shard, frame_of(market.full([call], last=below)))
    assert (own["iv_status"], own["greeks_from"]) == ("ok", "iv")
    assert (borrowed["iv_status"], borrowed["greeks_from"]) == ("below_intrinsic", "smile_iv")
    assert borrowed["iv"] is None
    assert borrowed["smile_iv"] == own["iv"]
    terms = (borrowed["forward"], 24_200.0, borrowed["tte"], 0.0, own["iv"])
    for name in GREEKS:
        expected = getattr(black_greeks, name)("c", *terms)
        assert borrowed[name] == pytest.approx(expected, rel=1e-9), name
    # Out of the money there is nothing to borrow from, and after a minute nothing to lend.
    nothing = np.array([0])
    (none,) = lines_of(shard, frame_of(market.full([put], last=nothing)))
    assert (none["iv_status"], none["greeks_from"], none["delta"]) == ("no_price", None, None)
    (alone,) = lines_of(shard, frame_of(market.full([call], last=below)))
    assert (alone["greeks_from"], alone["delta"], alone["smile_iv"]) == (None, None, None)


# -- conventions side by side ------------------------------------------------------------------


def two_markets(now_s: int) -> tuple[FakeMarket, FakeMarket]:
    here = tuesday_market(now_s, carry=0.065)
    there = tuesday_market(
        now_s, underlying="TCS", spot=3_200.0, step=20.0, first_token=60_000, carry=0.053
    )
    return here, there


def test_two_underlyings_of_a_shard_are_priced_by_their_own_conventions():
    # A Monday's noon. The exchange is closed on the Tuesday of the week.
    here, there = two_markets(at(date(2026, 11, 23), 12, 0))
    shard = shard_of(here, there, conventions={"TCS": TRADING_BSM})
    frame = frame_of(
        here.index_packet(),
        here.full(here.instruments[1:]),
        there.index_packet(),
        there.full(there.instruments[1:]),
    )
    lines = lines_of(shard, frame)
    nifty = options_of(lines, underlying="NIFTY", expiry=TUESDAY.isoformat(), iv_status="ok")
    tcs = options_of(lines, underlying="TCS", expiry=TUESDAY.isoformat(), iv_status="ok")
    assert min(len(nifty), len(tcs)) > 6
    assert {line["convention"] for line in nifty} == {Convention().name}
    assert {line["convention"] for line in tcs} == {TRADING_BSM.name}

    # Eight days, three hours and forty minutes: all of it by seconds; by sessions 220 of the 385
    # minutes of Monday, then Wednesday, Thursday, Friday, Monday and Tuesday.
    seconds = 8 * 86_400 + 3 * 3_600 + 40 * 60
    days = 220 / 385 + 5
    for line in nifty:
        assert line["tte"] == pytest.approx(seconds / (365 * 86_400), rel=1e-12)
        flag = "c" if line["option_type"] == "CE" else "p"
        terms = (line["forward"], line["strike"])
        vol = black_volatility(line["last_price"], *terms, 0.0, line["tte"], flag)
        assert line["iv"] == pytest.approx(vol, abs=1e-9)
        for name in GREEKS:
            expected = getattr(black_greeks, name)(flag, *terms, line["tte"], 0.0, vol)
            assert line[name] == pytest.approx(expected, rel=1e-7, abs=1e-12), name
    for line in tcs:
        assert line["forward_source"] == "spot"
        assert line["tte"] == pytest.approx(days / 252, rel=1e-12)
        years = days / 252
        assert line["forward"] == pytest.approx(3_200.0 * exp(0.053 * years), rel=1e-12)
        flag = "c" if line["option_type"] == "CE" else "p"
        on_spot = (3_200.0, line["strike"], years, 0.065)
        vol = bsm_volatility(line["last_price"], *on_spot, 0.012, flag)
        assert line["iv"] == pytest.approx(vol, abs=1e-9)
        for name in GREEKS:
            expected = getattr(bsm_greeks, name)(flag, *on_spot, vol, 0.012)
            if name == "theta":
                # vollib divides a year of theta by 365 days; this year has 252.
                expected *= 365 / 252
            assert line[name] == pytest.approx(expected, rel=1e-6, abs=1e-12), name


def test_theta_by_trading_days_is_what_an_option_loses_over_a_session():
    now_s = at(date(2026, 11, 30), 15, 40)  # A Monday's close, eight days before the expiry.
    market = tuesday_market(now_s)
    convention = Convention(clock=YearClock.TRADING252)
    shard = shard_of(market, convention=convention)
    lines = options_of(lines_of(shard, market.frame()), expiry=NEXT.isoformat(), strike=24_500.0)
    for line in lines:
        assert line["tte"] == pytest.approx(6 / 252)
        # A hundredth of a session later, at the same forward and volatility.
        later = line["tte"] - 0.01 / 252
        flag = 1 if line["option_type"] == "CE" else -1
        terms = (flag, line["forward"], 24_500.0)
        now, then = (float(pricing.price(*terms, t, line["iv"])[0]) for t in (line["tte"], later))
        assert (then - now) / 0.01 == pytest.approx(line["theta"], rel=2e-3)


conventions = st.builds(
    Convention,
    model=st.sampled_from(PricingModel),
    rate=st.floats(-0.05, 0.2),
    dividend_yield=st.floats(0.0, 0.1),
    clock=st.sampled_from(YearClock),
    spot_max_age_seconds=st.floats(0.5, 100.0),
    smile_max_age_seconds=st.floats(0.5, 100.0),
)


@settings(max_examples=25, deadline=None)
@given(own=conventions, other=conventions, late_s=st.integers(0, 120))
def test_the_convention_of_one_underlying_never_changes_a_line_of_another(own, other, late_s):
    def told(conventions: Mapping[str, Convention]) -> list[dict[str, Any]]:
        here, there = two_markets(at(date(2026, 11, 30), 15, 14, 30))
        shard = shard_of(here, there, conventions=conventions)
        both = [
            frame_of(
                here.index_packet(),
                there.index_packet(),
                here.full(here.instruments[1:]),
                there.full(there.instruments[1:]),
            )
        ]
        here.now_s += late_s
        there.now_s += late_s
        both.append(frame_of(there.full(there.options), here.full(here.options)))
        return [line for line in lines_of(shard, *both) if line["underlying"] == "NIFTY"]

    assert told({"NIFTY": own}) == told({"NIFTY": own, "TCS": other})
