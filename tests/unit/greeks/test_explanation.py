"""An explanation says what the tick says, shows every input, and prices as others do."""

from datetime import date, datetime, timedelta
from typing import Any

import numpy as np
import pytest
import vollib.black.greeks.analytical as black_greeks
import vollib.black_scholes_merton.greeks.analytical as merton_greeks
from hypothesis import given, settings
from hypothesis import strategies as st
from vollib.black import black
from vollib.black.implied_volatility import implied_volatility as black_iv
from vollib.black_scholes_merton.implied_volatility import implied_volatility as merton_iv

from libs.common.contracts import codec
from libs.common.contracts.messages import (
    Convention,
    ExplainedInput,
    ExplainedView,
    Explanation,
    IvStatus,
    PricingModel,
    Tick,
    YearClock,
)
from libs.common.domain.clock import IST
from libs.common.domain.instruments import Instrument
from libs.common.domain.market_calendar import CALENDAR
from libs.common.kite.frames import frame_of
from services.greeks.domain.shard import Shard
from services.greeks.domain.year_clock import YearClocks
from tests.fakes.kite_frames import FakeMarket
from tests.unit.greeks.test_shard import by_token, option, shard_of, work

NEAR, FAR = date(2026, 11, 24), date(2026, 12, 1)
GREEKS = ("delta", "gamma", "theta", "vega", "rho")
NAMES = ["tickfleet", "nse", "sensibull", "spot_bsm"]


def explained(shard: Shard, item: Instrument) -> Explanation:
    found = shard.explain(item.instrument_token, shard=3)
    assert found is not None
    # Nothing that JSON cannot say is in it: NaN would come back as null.
    assert codec.from_json(Explanation, codec.to_json(found)) == found
    return found


def view(found: Explanation, name: str) -> ExplainedView:
    return next(view for view in found.views if view.name == name)


def close(value: float | None):
    return None if value is None else pytest.approx(value, rel=1e-10, abs=1e-14)


def assert_says_the_same(found: Explanation, tick: Tick) -> None:
    ours = found.views[0]
    for name in ("iv", *GREEKS, "tte"):
        assert getattr(ours, name) == close(getattr(tick, name)), name
    assert ours.iv_status == tick.iv_status
    for name in ("smile_iv", "bid_iv", "ask_iv"):
        assert getattr(found, name) == close(getattr(tick, name)), name
    for name in ("greeks_from", "forward", "forward_source", "settlement", "seq", "epoch"):
        assert getattr(found, name) == getattr(tick, name), name
    prices = (found.last_price.value, found.bid.value, found.ask.value)
    assert prices == (tick.last_price, tick.bid, tick.ask)
    assert found.convention.name == tick.convention


CONVENTIONS = [
    Convention(),
    Convention(rate=0.065, clock=YearClock.TRADING252),
    Convention(model=PricingModel.BSM, rate=0.065, dividend_yield=0.012),
]


@pytest.mark.parametrize("convention", CONVENTIONS, ids=lambda c: c.name)
def test_right_after_a_tick_it_says_what_the_tick_says(convention):
    market = FakeMarket(strikes_each_side=5)
    shard = shard_of(market, convention=convention)
    ticks = by_token(work(shard, market.frame()))
    for item in market.options:
        assert_says_the_same(explained(shard, item), ticks[item.instrument_token])


def packet_without_price(market: FakeMarket, item: Instrument):
    nothing = np.zeros((1, 10), np.int64)
    return market.full([item], last=np.array([0]), depth_price=nothing, depth_quantity=nothing)


def below_intrinsic(market: FakeMarket, item: Instrument):
    paise = int((market.forward(NEAR) - (item.strike or 0.0)) * 100) - 200
    return market.full([item], last=np.array([paise]))


def crossed(market: FakeMarket, item: Instrument):
    paise = int(market.paise([item])[0])
    book = np.full((1, 10), paise + 10)
    book[0, 5:] = paise - 10
    return market.full([item], depth_price=book)


@pytest.mark.parametrize(
    ("status", "strike", "later_s", "packet"),
    [
        (IvStatus.OK, 24_450.0, 2, lambda m, i: m.full([i])),
        (IvStatus.OK, 24_450.0, 2, lambda m, i: m.full([i], exchange_ts_s=m.now_s - 5)),
        (IvStatus.OK, 24_450.0, 2, lambda m, i: m.full([i], exchange_ts_s=m.now_s - 7200)),
        (IvStatus.OK, 24_450.0, 2, lambda m, i: m.ltp([i])),
        (IvStatus.NO_PRICE, 24_450.0, 2, packet_without_price),
        (IvStatus.BELOW_INTRINSIC, 24_300.0, 2, below_intrinsic),
        (IvStatus.BELOW_INTRINSIC, 24_300.0, 90, below_intrinsic),
        (IvStatus.CROSSED, 24_450.0, 2, crossed),
        (IvStatus.STALE_FORWARD, 24_450.0, 300, lambda m, i: m.full([i])),
        (IvStatus.EXPIRED, 24_450.0, 2 * 86_400, lambda m, i: m.full([i])),
    ],
)
def test_rows_of_every_status_are_explained_as_they_were_published(status, strike, later_s, packet):
    market = FakeMarket(strikes_each_side=5)
    shard = shard_of(market)
    work(shard, market.frame())
    call = option(market, strike, "CE")
    market.now_s += later_s
    (tick,) = work(shard, frame_of(packet(market, call)))
    found = explained(shard, call)
    assert tick.iv_status == status
    assert_says_the_same(found, tick)
    assert found.seq == 2


def test_an_option_in_its_last_minute_is_expiring_in_every_view():
    instant = int(CALENDAR.expiry_instant("NFO", NEAR).timestamp())
    market = FakeMarket(strikes_each_side=3, now_s=instant - 30)
    shard = shard_of(market)
    ticks = by_token(work(shard, market.frame()))
    call = option(market, 24_500.0, "CE")
    found = explained(shard, call)
    assert_says_the_same(found, ticks[call.instrument_token])
    assert {v.iv_status for v in found.views} == {IvStatus.EXPIRING}
    assert all(v.iv is None and v.delta is None for v in found.views)
    assert found.seconds_left == 30


def test_an_option_that_never_ticked_is_explained_with_nulls():
    market = FakeMarket(strikes_each_side=3)
    shard = shard_of(market)
    call = option(market, 24_500.0, "CE", FAR)
    found = explained(shard, call)
    assert [v.name for v in found.views] == NAMES
    assert {v.iv_status for v in found.views} == {IvStatus.NO_FORWARD}
    assert (found.market_time, found.priced_at, found.seconds_left, found.source) == (None,) * 4
    assert (found.seq, found.forward, found.last_price.value) == (0, None, None)
    assert found.future.tradingsymbol is None
    assert "the future is not listed" in found.forward_says
    work(shard, frame_of(market.index_packet()))
    found = explained(shard, call)
    assert {v.iv_status for v in found.views if v.name != "sensibull"} == {IvStatus.NO_PRICE}
    assert view(found, "sensibull").iv_status is IvStatus.NO_FORWARD
    assert found.market_time == market.now_s * 1_000_000_000


def test_what_is_no_option_of_the_shard_is_not_explained():
    market = FakeMarket(strikes_each_side=1)
    shard = shard_of(market)
    for token in (0, 1, market.index.instrument_token, market.instruments[1].instrument_token):
        assert shard.explain(token, shard=0) is None


def test_explaining_changes_nothing():
    market = FakeMarket(strikes_each_side=3)
    shard, other = shard_of(market), shard_of(market)
    frames = [market.frame()]
    market.now_s += 20
    frames.append(frame_of(market.full(market.options[:4]), market.index_packet()))
    for frame in frames:
        for item in market.options:
            explained(shard, item)
        assert work(shard, frame) == work(other, frame)
    for name in ("forward", "source", "is_stale", "touched", "dispersion"):
        mine, its = getattr(shard.forwards, name), getattr(other.forwards, name)
        np.testing.assert_array_equal(mine, its)
    for name in shard.book.__slots__:
        np.testing.assert_array_equal(getattr(shard.book, name), getattr(other.book, name))


# -- inputs ---------------------------------------------------------------------------------------


def test_every_price_tells_its_age_by_market_time_and_its_limit():
    market = FakeMarket(strikes_each_side=3)
    shard = shard_of(market)
    work(shard, market.frame())
    market.now_s += 12
    call = option(market, 24_500.0, "CE")
    work(shard, frame_of(market.full([call])), frame_of(market.ltp(market.instruments[1:2])))
    found = explained(shard, call)
    assert (found.last_price.age_seconds, found.last_price.max_age_seconds) == (0, None)
    assert (found.bid.age_seconds, found.bid.max_age_seconds, found.bid.fresh) == (0, 15, True)
    assert (found.spot.age_seconds, found.spot.max_age_seconds, found.spot.fresh) == (12, 10, False)
    assert found.spot.exchange_ts == (market.now_s - 12) * 1_000_000_000
    assert (found.spot.stamped, found.last_price.stamped) == (True, True)
    # An LTP packet has no timestamp of its own: it is as old as the market was when it came.
    assert (found.future.age_seconds, found.future.stamped, found.future.fresh) == (0, False, True)
    assert found.spot.tradingsymbol == "NIFTY"
    assert found.future.tradingsymbol == "NIFTY26NOVFUT"


def test_parity_shows_the_strikes_nearest_the_money_and_which_were_taken():
    market = FakeMarket(strikes_each_side=6)
    shard = shard_of(market)
    work(shard, market.frame())
    put = option(market, 24_550.0, "PE", FAR)
    work(shard, frame_of(packet_without_price(market, put)))
    found = explained(shard, put)
    taken = [row.strike for row in found.parity if row.taken]
    assert sorted(taken) == [24_400.0, 24_450.0, 24_500.0, 24_600.0, 24_650.0]
    left_out = next(row for row in found.parity if row.strike == 24_550.0)
    assert (left_out.put_mid, left_out.forward, left_out.taken) == (None, None, False)
    assert left_out.call_mid is not None
    assert [row.strike for row in found.parity][:2] == [24_550.0, 24_500.0]
    values = [row.forward or 0.0 for row in found.parity if row.taken]
    assert found.parity_forward == pytest.approx(float(np.median(values)))
    assert found.forward == pytest.approx(found.parity_forward)
    assert found.forward_source == "synthetic"


def test_it_says_why_a_forward_was_taken_and_the_better_ones_were_not():
    market = FakeMarket(strikes_each_side=3)
    shard = shard_of(market)
    call = option(market, 24_500.0, "CE")
    work(shard, market.frame())
    assert explained(shard, call).forward_says == "the future comes first"
    market.now_s += 11
    work(shard, frame_of(market.full(market.options)))
    synthetic = explained(shard, call)
    assert synthetic.forward_says == (
        "the future is 11 s old, at most 10 s count; so the synthetic future is taken"
    )
    market.now_s += 20
    work(shard, frame_of(market.index_packet(), market.full([call])))
    on_spot = explained(shard, call).forward_says
    assert "the future is 31 s old" in on_spot
    assert "1 strikes" not in on_spot.split("the future")[0]
    assert "3 are needed" in on_spot
    assert on_spot.endswith("so the spot is taken")
    market.now_s += 300
    work(shard, frame_of(market.full([call])))
    stale = explained(shard, call)
    assert stale.forward_stale
    assert stale.forward_says.startswith("nothing was fresh")


def test_a_choice_that_has_aged_since_says_so():
    market = FakeMarket(strikes_each_side=3)
    other = FakeMarket(underlying="OTHER", first_token=90_000, strikes_each_side=1)
    shard = shard_of(market, other)
    work(shard, market.frame())
    other.now_s = market.now_s + 40
    work(shard, other.frame())
    says = explained(shard, option(market, 24_500.0, "CE")).forward_says
    assert "nothing of the expiry has come since" in says
    assert "the future is 40 s old" in says


def test_the_smile_leg_is_shown_with_the_age_of_its_volatility():
    market = FakeMarket(strikes_each_side=5)
    shard = shard_of(market)
    work(shard, market.frame())
    market.now_s += 70
    call = option(market, 24_350.0, "CE")
    work(shard, frame_of(market.full(market.instruments[1:2]), market.full([call])))
    found = explained(shard, call)
    put = option(market, 24_350.0, "PE")
    assert found.smile_leg.tradingsymbol == put.tradingsymbol
    assert (found.smile_leg.age_seconds, found.smile_leg.max_age_seconds) == (70, 60)
    assert (found.smile_leg.fresh, found.smile_iv) == (False, None)


def test_nothing_of_another_market_explains_this_one():
    market = FakeMarket(strikes_each_side=3)
    shard = shard_of(market)
    work(shard, market.frame())
    call = option(market, 24_500.0, "CE")
    work(shard, frame_of(market.index_packet()), source="live")
    found = explained(shard, call)
    assert found.source == "live"
    assert found.spot.value == 24_500.0
    for price in (found.last_price, found.future, found.bid):
        assert (price.value, price.exchange_ts, price.stamped, price.fresh) == (
            None, None, False, False,
        )  # fmt: skip
    assert not any(row.taken for row in found.parity)


# -- views ----------------------------------------------------------------------------------------


def noon_market(**more) -> FakeMarket:
    """Six days before the expiry that has no future of its own."""
    noon = int(datetime(2026, 11, 25, 12, 0, tzinfo=IST).timestamp())
    return FakeMarket(
        strikes_each_side=6, now_s=noon, expiries=(FAR, date(2026, 12, 29)),
        futures=(date(2026, 12, 29),), **more,
    )  # fmt: skip


def assert_equals_vollib(found: ExplainedView, flag: str, strike: float) -> None:
    price, underlying, years = found.option_price, found.underlying_price, found.tte
    leg = "p" if (found.option_price_of or "").endswith("PE") else "c"
    rate, dividends = found.rate, found.dividend_yield
    module: Any = black_greeks
    more: tuple[float, ...] = ()
    if found.model is PricingModel.BLACK76:
        iv = black_iv(price, underlying, strike, rate, years, leg)
    else:
        iv = merton_iv(price, underlying, strike, years, rate, dividends, leg)
        module, more = merton_greeks, (dividends,)
    inputs = (flag, underlying, strike, years, rate, iv, *more)
    assert found.iv == pytest.approx(iv, rel=1e-9)
    scale = 365 / 252 if found.name == "sensibull" else 1.0
    for name in GREEKS:
        expected = getattr(module, name)(*inputs) * (scale if name == "theta" else 1.0)
        assert getattr(found, name) == pytest.approx(expected, rel=1e-8), name


@pytest.mark.parametrize("day", [FAR, date(2026, 12, 29)])
@pytest.mark.parametrize(("strike", "kind"), [(24_300.0, "CE"), (24_300.0, "PE"), (24_700.0, "CE")])
def test_every_view_equals_vollib_at_the_inputs_that_it_names(day, strike, kind):
    market = noon_market()
    shard = shard_of(market, convention=Convention(rate=0.065, dividend_yield=0.01))
    work(shard, market.frame())
    found = explained(shard, option(market, strike, kind, day))
    assert [v.name for v in found.views] == NAMES
    for each in found.views:
        assert each.iv_status == IvStatus.OK
        assert_equals_vollib(each, "c" if kind == "CE" else "p", strike)


def test_each_view_takes_the_inputs_of_its_convention():
    market = noon_market()
    shard = shard_of(market, convention=Convention(rate=0.065, dividend_yield=0.01))
    work(shard, market.frame())
    put = option(market, 24_700.0, "PE", FAR)
    call = option(market, 24_700.0, "CE", FAR)
    found = explained(shard, put)
    seconds_left = CALENDAR.expiry_instant("NFO", FAR).timestamp() - market.now_s

    nse = view(found, "nse")
    assert (nse.underlying_price, nse.underlying_source, nse.rate) == (24_500.0, "spot", 0.10)
    assert (nse.days, nse.tte, nse.dividend_yield) == (6, 6 / 365, 0)
    assert nse.option_price_of == put.tradingsymbol

    spot = view(found, "spot_bsm")
    assert (spot.underlying_price, spot.rate, spot.dividend_yield) == (24_500.0, 0.065, 0.01)
    assert spot.tte == pytest.approx(seconds_left / (365 * 86_400))

    sensibull = view(found, "sensibull")
    assert (sensibull.underlying_source, sensibull.rate) == ("synthetic", 0.0)
    mids = [(p.strike, p.call_mid, p.put_mid) for p in found.parity if p.taken]
    synthetic = float(np.median([strike + c - p for strike, c, p in mids if c and p]))
    assert sensibull.underlying_price == pytest.approx(synthetic, abs=1e-8)
    # The put is in the money: the volatility is that of the call.
    assert sensibull.option_price_of == call.tradingsymbol
    days = YearClocks(CALENDAR).trading_days("NFO", market.now_s, market.now_s + seconds_left)
    assert sensibull.days == pytest.approx(float(days))
    assert sensibull.tte == pytest.approx(float(days) / 252)

    monthly = explained(shard, option(market, 24_700.0, "PE", date(2026, 12, 29)))
    assert view(monthly, "sensibull").underlying_source == "future"
    assert view(monthly, "sensibull").underlying_price == monthly.future.value


def test_without_a_spot_the_views_on_it_have_no_numbers_and_say_so():
    market = FakeMarket(strikes_each_side=3)
    shard = shard_of(market)
    work(shard, market.frame(market.instruments[1:]))
    found = explained(shard, option(market, 24_500.0, "CE"))
    for name in ("nse", "spot_bsm"):
        each = view(found, name)
        assert (each.iv_status, each.underlying_price, each.iv, each.delta) == (
            IvStatus.NO_FORWARD, None, None, None,
        )  # fmt: skip
        assert each.steps == ()
    assert view(found, "sensibull").iv_status == IvStatus.OK


def test_on_the_last_day_no_whole_day_is_left_and_nse_has_no_numbers():
    morning = int(datetime(2026, 12, 1, 10, 0, tzinfo=IST).timestamp())
    market = FakeMarket(strikes_each_side=3, now_s=morning, expiries=(FAR,), futures=(FAR,))
    shard = shard_of(market)
    work(shard, market.frame())
    found = explained(shard, option(market, 24_500.0, "CE", FAR))
    nse = view(found, "nse")
    assert (nse.days, nse.iv, nse.iv_status) == (0, None, IvStatus.EXPIRING)
    assert "not published" in nse.says
    assert found.views[0].iv_status == IvStatus.OK


def test_the_views_of_a_published_chain_differ_as_they_did():
    # NIFTY at 23659 and 5.6 days: on the spot the call had 18.93 % and the put 15.43 %, on the
    # synthetic forward both had 17.08 %. The forward between is not told, and follows from them.
    noon = datetime(2026, 11, 25, 12, 0, tzinfo=IST)
    market = FakeMarket(spot=23_659.0, now_s=int(noon.timestamp()), expiries=(FAR,), futures=())
    left_s = CALENDAR.expiry_instant("NFO", FAR).timestamp() - market.now_s
    market.now_s += int(left_s - 5.6 * 86_400)
    years = 5.6 / 365
    forward, vol, strike = 23_659.0 + 41.0, 0.1708, 23_650.0
    items = [item for item in market.options if abs((item.strike or 0) - strike) <= 200]
    paise = [
        round(20 * black("cp"[i.option_type == "PE"], forward, i.strike, years, 0.0, vol)) * 5
        for i in items
    ]
    shard = shard_of(market)
    work(shard, frame_of(market.index_packet(), market.full(items, last=np.array(paise))))
    ivs = {
        kind: {v.name: v.iv for v in explained(shard, option(market, strike, kind, FAR)).views}
        for kind in ("CE", "PE")
    }
    for kind, on_spot in (("CE", 0.1893), ("PE", 0.1543)):
        assert ivs[kind]["tickfleet"] == pytest.approx(0.1708, abs=2e-4)
        assert ivs[kind]["spot_bsm"] == pytest.approx(on_spot, abs=1e-3)


# -- steps ----------------------------------------------------------------------------------------


def test_the_steps_lead_from_our_volatility_to_each_other_one():
    market = noon_market()
    shard = shard_of(market)
    work(shard, market.frame())
    found = explained(shard, option(market, 24_700.0, "PE", FAR))
    ours = found.views[0]
    assert ours.steps == ()
    for other in found.views[1:]:
        assert other.steps
        assert other.steps[-1].iv == pytest.approx(other.iv, rel=1e-9)
        total = sum(step.iv_change or 0.0 for step in other.steps)
        assert ours.iv is not None
        assert ours.iv + total == pytest.approx(other.iv, rel=1e-9)
    inputs = {v.name: [step.input for step in v.steps] for v in found.views}
    every = ExplainedInput
    assert inputs["nse"] == [every.UNDERLYING, every.RATE, every.CLOCK]
    # At rate 0 the synthetic future of both is the same number: it is no difference.
    assert inputs["sensibull"] == [every.OPTION_PRICE, every.CLOCK]
    assert inputs["spot_bsm"] == [every.UNDERLYING]
    first = view(found, "nse").steps[0]
    assert first.says == f"spot 24500.00 instead of synthetic {found.forward:.2f}"


# -- properties -----------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_state_of_the_book_has_an_explanation_that_json_can_say(data):
    market = FakeMarket(strikes_each_side=2)
    convention = data.draw(st.sampled_from(CONVENTIONS))
    shard = shard_of(market, convention=convention)
    for _ in range(data.draw(st.integers(0, 4))):
        market.now_s += data.draw(st.sampled_from([0, 1, 11, 65, 100_000]))
        items = data.draw(
            st.lists(st.sampled_from(market.options), min_size=1, max_size=6, unique=True)
        )
        prices = data.draw(
            st.lists(st.sampled_from([0, 5, 1_000, 40_000, 5_000_000, 4_000_000_000]),
                     min_size=len(items), max_size=len(items))
        )  # fmt: skip
        stamp = data.draw(st.sampled_from([0, market.now_s, market.now_s - 40]))
        parts = [market.full(items, last=np.array(prices), exchange_ts_s=stamp)]
        if data.draw(st.booleans()):
            parts.append(market.index_packet(last_price=data.draw(st.sampled_from([0, 2_450_000]))))
        if data.draw(st.booleans()):
            parts.append(market.full(market.instruments[1:2]))
        ticks = by_token(work(shard, frame_of(*parts)))
        for item in items:
            found = explained(shard, item)
            assert_says_the_same(found, ticks[item.instrument_token])
    for item in market.options:
        found = explained(shard, item)
        assert [v.name for v in found.views] == NAMES
        for each in found.views:
            solved = each.iv_status in {"ok", "low_vega", "crossed", "stale_forward"}
            assert solved == (each.iv is not None)


def test_days_of_the_calendar_are_those_of_the_expiry_date():
    midnight = datetime(2026, 11, 29, 23, 59, 59, tzinfo=IST)
    for moment, days in ((midnight, 2), (midnight + timedelta(seconds=1), 1)):
        market = FakeMarket(
            strikes_each_side=3, now_s=int(moment.timestamp()), expiries=(FAR,), futures=()
        )
        shard = shard_of(market)
        work(shard, market.frame())
        assert view(explained(shard, option(market, 24_500.0, "CE", FAR)), "nse").days == days
