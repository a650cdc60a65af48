"""Candles of options: which forward each gets, when it ends, and that each is priced by itself."""

from datetime import date, datetime, timedelta

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vollib.black.implied_volatility import implied_volatility

from libs.common.contracts.messages import (
    Candle,
    CandleInterval,
    Convention,
    ForwardSource,
    IvStatus,
    PricedCandle,
    PricingModel,
    YearClock,
)
from libs.common.domain.clock import IST
from libs.common.domain.instruments import Instrument, Kind, OptionType
from libs.common.domain.market_calendar import CALENDAR
from services.greeks.domain import pricing
from services.greeks.domain.candle_columns import Columns, columns_of, day_number
from services.greeks.domain.candle_json import CANDLES_PER_PART, dates_of, parts_of
from services.greeks.domain.candle_legs import legs_of
from services.greeks.domain.candle_pricing import (
    ORDER,
    SOURCES,
    STATUSES,
    OptionCandles,
    death_of,
    ends_of,
    may_run,
)
from services.greeks.domain.year_clock import YearClocks
from tests.fakes.kite_frames import FakeMarket

MARKET = FakeMarket(strikes_each_side=2)
CLOCKS = YearClocks(CALENDAR)
OPEN = int(datetime(2026, 11, 19, 9, 15, tzinfo=IST).timestamp())
FUTURE, SYNTHETIC, SPOT = ForwardSource.FUTURE, ForwardSource.SYNTHETIC, ForwardSource.SPOT


def epoch(text: str) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=IST).timestamp()


def option_of(kind: OptionType = OptionType.CALL, offset: int = 0) -> Instrument:
    strike = 24_500.0 + 50 * offset
    return next(o for o in MARKET.options if (o.strike, o.option_type) == (strike, kind))


def candles(closes: dict[int, float], *, oi: int | None = 75) -> Columns:
    """Five-minute candles that begin so many places after the open, by their closes."""
    return columns_of(
        [
            Candle(OPEN + 300 * place, close, close, close, close, 1, oi)
            for place, close in sorted(closes.items())
        ]
    )


def priced(
    option: Instrument,
    own: Columns,
    legs: dict[ForwardSource, Columns],
    convention: Convention = Convention(),  # noqa: B008  # Frozen.
):
    work = OptionCandles(
        option,
        own,
        ends_s=ends_of(own.start, CandleInterval.MINUTE_5, "NFO", calendar=CALENDAR),
        instant_s=death_of(option, CALENDAR),
        convention=convention,
        clocks=CLOCKS,
    )
    for source in work.order:
        if source in legs:
            work.offer(source, legs[source])
    return work.priced()


closes = st.dictionaries(
    st.integers(0, 60), st.one_of(st.just(0.0), st.floats(0.05, 900.0)), max_size=40
)
bases = st.dictionaries(st.integers(0, 60), st.floats(23_800.0, 25_200.0), max_size=40)
conventions = st.builds(
    Convention,
    model=st.sampled_from(PricingModel),
    rate=st.sampled_from([0.0, 0.065]),
    dividend_yield=st.sampled_from([0.0, 0.012]),
    clock=st.sampled_from(YearClock),
)


@settings(deadline=None)
@given(
    st.sampled_from(OptionType),
    closes.filter(bool),
    bases,
    closes,
    bases,
    conventions,
)
def test_each_candle_is_priced_as_if_it_were_alone_with_its_forward(
    kind, own, future, partner, spot, convention
):
    option = option_of(kind)
    found = priced(
        option,
        candles(own),
        {FUTURE: candles(future), SYNTHETIC: candles(partner), SPOT: candles(spot)},
        convention,
    )
    flag = 1 if kind is OptionType.CALL else -1
    rate, dividends = convention.rate, convention.dividend_yield
    instant = death_of(option, CALENDAR)
    for row, place in enumerate(sorted(own)):
        tte = float(CLOCKS.years(convention.clock, "NFO", OPEN + 300.0 * (place + 1), instant))
        assert found.tte[row] == pytest.approx(tte, rel=1e-12)
        growth = np.exp(rate * tte)
        both = own[place] > 0 and partner.get(place, 0) > 0
        parity = option.strike + flag * (own[place] - partner.get(place, 0.0)) * growth
        candidates = {
            FUTURE: future.get(place),
            SYNTHETIC: parity if both else None,
            SPOT: spot[place] * np.exp((rate - dividends) * tte) if place in spot else None,
        }
        source = next((s for s in ORDER[convention.model] if candidates[s]), None)
        assert SOURCES[found.source[row]] is source
        if source is None:
            assert STATUSES[found.status[row]] is IvStatus.NO_FORWARD
            assert np.isnan(found.values[:, row]).all()
            continue
        forward = candidates[source]
        assert forward is not None
        assert found.forward[row] == pytest.approx(forward, rel=1e-12)
        is_bsm = convention.model is PricingModel.BSM
        values, status = pricing.compute(
            np.array([flag]),
            np.array([own[place]]),
            found.forward[row],
            float(option.strike or 0.0),
            found.tte[row],
            np.exp(-rate * found.tte[row]),
            model=convention.model.value,
            spot=found.forward[row] * np.exp((dividends - rate) * found.tte[row])
            if is_bsm
            else None,
        )
        if convention.clock is YearClock.TRADING252:
            values[3] *= 365 / 252
        np.testing.assert_allclose(found.values[:, row], values[:, 0], rtol=1e-9, atol=1e-12)
        assert STATUSES[found.status[row]].value == pricing.WIRE_NAMES[status[0]]


def test_forward_is_of_the_same_candle_and_never_of_a_neighbour():
    own = candles({0: 200.0, 1: 200.0, 2: 200.0})
    found = priced(option_of(), own, {FUTURE: candles({1: 24_600.0, 3: 24_900.0})})
    assert [SOURCES[code] for code in found.source] == [None, FUTURE, None]
    assert found.forward[1] == 24_600.0


def test_future_wins_over_parity_and_parity_over_spot():
    legs = {
        FUTURE: candles({0: 24_600.0}),
        SYNTHETIC: candles({0: 150.0, 1: 150.0}),
        SPOT: candles({0: 24_500.0, 1: 24_500.0, 2: 24_500.0}),
    }
    found = priced(option_of(), candles({0: 200.0, 1: 200.0, 2: 200.0}), legs)
    assert [SOURCES[code] for code in found.source] == [FUTURE, SYNTHETIC, SPOT]
    assert found.forward.tolist() == [24_600.0, 24_550.0, 24_500.0]


def test_bsm_prices_on_the_spot_where_there_is_one():
    convention = Convention(model=PricingModel.BSM, rate=0.06, dividend_yield=0.01)
    legs = {FUTURE: candles({0: 24_600.0, 1: 24_600.0}), SPOT: candles({0: 24_500.0})}
    found = priced(option_of(), candles({0: 200.0, 1: 200.0}), legs, convention)
    assert [SOURCES[code] for code in found.source] == [SPOT, FUTURE]
    assert found.forward[0] == pytest.approx(24_500.0 * np.exp(0.05 * found.tte[0]))


def test_volatility_equals_that_of_vollib():
    found = priced(option_of(), candles({3: 231.4}), {FUTURE: candles({3: 24_562.5})})
    tte = (epoch("2026-11-24T15:40") - epoch("2026-11-19T09:35")) / (365 * 86_400)
    assert found.tte[0] == pytest.approx(tte)
    expected = implied_volatility(231.4, 24_562.5, 24_500.0, 0.0, tte, "c")
    assert found.values[0, 0] == pytest.approx(expected, rel=1e-9)
    assert STATUSES[found.status[0]] is IvStatus.OK


@pytest.mark.parametrize(
    ("close", "future", "status"),
    [
        (0.0, 24_600.0, IvStatus.NO_PRICE),
        (50.0, 24_600.0, IvStatus.BELOW_INTRINSIC),
        (24_700.0, 24_600.0, IvStatus.ABOVE_MAX),
        (200.0, None, IvStatus.NO_FORWARD),
        (200.0, 0.0, IvStatus.NO_FORWARD),
    ],
)
def test_candle_without_a_volatility_says_why(close, future, status):
    legs = {} if future is None else {FUTURE: candles({0: future})}
    found = priced(option_of(), candles({0: close}), legs)
    assert STATUSES[found.status[0]] is status
    assert np.isnan(found.values).all()


@pytest.mark.parametrize(
    ("start", "status"),
    [
        ("2026-11-24T15:30", IvStatus.OK),
        ("2026-11-24T15:35", IvStatus.EXPIRED),
        ("2026-11-24T15:40", IvStatus.EXPIRED),
    ],
)
def test_candle_that_ends_with_the_contract_has_expired(start, status):
    first = int(epoch(start))
    own = columns_of([Candle(first, 80.0, 80.0, 80.0, 80.0, 1)])
    future = columns_of([Candle(first, 24_500.0, 24_500.0, 24_500.0, 24_500.0, 1)])
    found = priced(option_of(), own, {FUTURE: future})
    assert STATUSES[found.status[0]] is status


def test_last_minute_of_a_contract_is_expiring():
    option = option_of()
    first = int(epoch("2026-11-24T15:38"))
    own = columns_of([Candle(first, 8.0, 8.0, 8.0, 8.0, 1)])
    work = OptionCandles(
        option,
        own,
        ends_s=np.array([epoch("2026-11-24T15:39:30")]),
        instant_s=death_of(option, CALENDAR),
        convention=Convention(),
        clocks=CLOCKS,
    )
    work.offer(FUTURE, columns_of([Candle(first, 24_500.0, 24_500.0, 24_500.0, 24_500.0, 1)]))
    assert STATUSES[work.priced().status[0]] is IvStatus.EXPIRING


@pytest.mark.parametrize(
    ("start", "interval", "end"),
    [
        ("2026-11-19T09:15", CandleInterval.MINUTE, "2026-11-19T09:16"),
        ("2026-11-19T15:15", CandleInterval.HOUR, "2026-11-19T15:40"),
        ("2026-11-19T15:30", CandleInterval.MINUTE_30, "2026-11-19T15:40"),
        ("2026-11-19T00:00", CandleInterval.DAY, "2026-11-19T15:40"),
        ("2026-07-30T00:00", CandleInterval.DAY, "2026-07-30T15:30"),
        ("2026-11-08T00:00", CandleInterval.DAY, "2026-11-08T19:00"),
        # No session that the calendar knows: the usual close.
        ("2026-11-15T00:00", CandleInterval.DAY, "2026-11-15T15:40"),
    ],
)
def test_candle_ends_after_its_length_but_not_after_its_session(start, interval, end):
    ends = ends_of(np.array([int(epoch(start))]), interval, "NFO", calendar=CALENDAR)
    assert ends.tolist() == [epoch(end)]


def test_running_candle_ends_now_and_those_before_it_do_not():
    start = np.array([int(epoch("2026-11-19T09:15")), int(epoch("2026-11-19T09:20"))])
    now = epoch("2026-11-19T09:22")
    ends = ends_of(start, CandleInterval.MINUTE_5, "NFO", calendar=CALENDAR, now_s=now)
    assert ends.tolist() == [epoch("2026-11-19T09:20"), now]


@pytest.mark.parametrize("now", ["2026-11-19T09:10", "2026-11-19T09:26"])
def test_clock_that_disagrees_with_the_candles_moves_no_end(now):
    start = np.array([int(epoch("2026-11-19T09:20"))])
    ends = ends_of(start, CandleInterval.MINUTE_5, "NFO", calendar=CALENDAR, now_s=epoch(now))
    assert ends.tolist() == [epoch("2026-11-19T09:25")]


def test_only_candles_of_a_day_that_is_not_over_may_run():
    start = np.array([int(epoch("2026-11-19T15:35"))])
    assert may_run(start, day_number(date(2026, 11, 19)))
    assert not may_run(start, day_number(date(2026, 11, 20)))
    assert not may_run(np.empty(0, np.int64), 0)


def test_unknown_exchange_prices_nothing_and_loses_nothing():
    option = msgspec.structs.replace(option_of(), exchange="NCDEX")
    own = candles({0: 200.0})
    assert np.isnan(death_of(option, CALENDAR))
    work = OptionCandles(
        option,
        own,
        ends_s=ends_of(own.start, CandleInterval.MINUTE_5, "NCDEX", calendar=CALENDAR),
        instant_s=death_of(option, CALENDAR),
        convention=Convention(clock=YearClock.TRADING252),
        clocks=CLOCKS,
    )
    work.offer(FUTURE, candles({0: 24_600.0}))
    assert STATUSES[work.priced().status[0]] is IvStatus.BAD_INPUT


def test_legs_are_of_the_same_expiry_exchange_and_strike():
    call = option_of()
    legs = legs_of(call, MARKET.instruments)
    assert legs.future is not None
    assert legs.future.expiry == call.expiry
    assert legs.partner == option_of(OptionType.PUT)
    assert legs.spot == MARKET.index
    far = next(o for o in MARKET.options if o.expiry == MARKET.expiries[1])
    assert legs_of(far, MARKET.instruments).future is None
    listed_elsewhere = [
        msgspec.structs.replace(item, exchange="BFO") if item.expiry else item
        for item in MARKET.instruments
    ]
    assert legs_of(call, listed_elsewhere) == (None, None, MARKET.index)


def test_share_listed_twice_is_taken_from_the_exchange_that_settles():
    def share(exchange: str) -> Instrument:
        return msgspec.structs.replace(MARKET.index, exchange=exchange, kind=Kind.EQUITY)

    both = [share("BSE"), share("NSE")]
    assert legs_of(option_of(), both).spot == share("NSE")
    assert legs_of(option_of(), both[:1]).spot == share("BSE")


def test_dates_are_iso_with_the_indian_zone():
    start = np.array([OPEN, OPEN + 59])
    assert dates_of(start) == ["2026-11-19T09:15:00+05:30", "2026-11-19T09:15:59+05:30"]
    assert [datetime.fromisoformat(text).timestamp() for text in dates_of(start)] == start.tolist()


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 2 * CANDLES_PER_PART + 7), st.booleans())
def test_parts_hold_every_candle_once_and_in_order(count, with_oi):
    own = columns_of([Candle(OPEN + 60 * n, 1.0, 2.0, 0.5, 1.5, n, n) for n in range(count)])
    parts = list(parts_of(own, None, with_oi=with_oi))
    assert len(parts) == max(1, -(-count // CANDLES_PER_PART))
    shown = [c for part in parts for c in msgspec.json.decode(part, type=list[PricedCandle])]
    assert [c.volume for c in shown] == list(range(count))
    assert all(c.oi == (c.volume if with_oi else None) and c.greeks is None for c in shown)


def test_what_does_not_exist_is_null_on_the_wire():
    own = candles({0: 200.0, 1: 200.0}, oi=None)
    found = priced(option_of(), own, {FUTURE: candles({1: 24_600.0})})
    (part,) = parts_of(own, found, with_oi=True)
    first, second = msgspec.json.decode(part)
    assert first["oi"] is None
    assert first["greeks"]["iv_status"] == "no_forward"
    assert [first["greeks"][k] for k in ("iv", "theta", "forward", "forward_source")] == [None] * 4
    assert second["greeks"]["forward_source"] == "future"
    greeks = msgspec.json.decode(part, type=list[PricedCandle])[1].greeks
    assert greeks is not None
    assert greeks.iv == found.values[0, 1]
    assert timedelta(0) == datetime.fromisoformat(first["date"]) - datetime.fromtimestamp(OPEN, IST)
