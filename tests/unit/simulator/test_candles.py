"""Historical candles: shape, bounds and agreement with the live market."""

from datetime import date, datetime, timedelta

import numpy as np
import pytest

from libs.common.domain.clock import ist_datetime
from services.simulator.domain.candles import INTERVALS, candles
from services.simulator.errors import InputError
from tests.unit.simulator.markets import DAY, at, shared_market

MARKET = shared_market()
NOW = at(14, 0, 30)
OPTION = next(
    row
    for row in np.flatnonzero(MARKET.universe.flag == 1)
    if abs(MARKET.money[row]) < 0.3 and MARKET.universe.underlying[row] == 0
)


def ask_for(interval: str, start: datetime, end: datetime, row: int = 0, now_ns: int = NOW):
    return candles(
        MARKET, row, interval=interval, start=start, end=end, now_ns=now_ns, with_oi=True
    )


def clock(hour: int, minute: int = 0) -> datetime:
    return ist_datetime(at(hour, minute))


def test_a_minute_candle_is_stamped_with_its_opening_and_to_is_inclusive():
    found = ask_for("minute", clock(9, 15), clock(9, 17))
    assert [candle[0] for candle in found] == [
        f"{DAY}T09:15:00+0530",
        f"{DAY}T09:16:00+0530",
        f"{DAY}T09:17:00+0530",
    ]


def test_candles_are_consistent_in_themselves():
    for interval in INTERVALS:
        found = ask_for(interval, clock(9) - timedelta(days=3), clock(14), row=int(OPTION))
        assert found
        for _, opened, high, low, closed, volume, oi in found:
            assert low <= min(opened, closed)
            assert max(opened, closed) <= high
            assert volume >= 0
            assert oi > 0


def test_nothing_lies_after_now():
    found = ask_for("minute", clock(13, 58), clock(15, 30))
    assert found[-1][0] == f"{DAY}T14:00:00+0530"


def test_longer_candles_are_made_of_the_shorter_ones():
    minutes = ask_for("minute", clock(10), clock(10, 14), row=int(OPTION))
    (quarter,) = ask_for("15minute", clock(10), clock(10, 14), row=int(OPTION))
    assert quarter[1] == minutes[0][1]
    assert quarter[2] == max(candle[2] for candle in minutes)
    assert quarter[3] == min(candle[3] for candle in minutes)
    assert quarter[4] == minutes[-1][4]
    assert quarter[5] == sum(candle[5] for candle in minutes)


def test_the_volumes_of_the_day_add_up_to_the_live_volume():
    found = ask_for("minute", clock(9, 15), clock(15, 40), row=int(OPTION))
    assert sum(candle[5] for candle in found) == MARKET.start(NOW).volume[OPTION]


def test_candles_agree_with_the_live_market_within_its_spread():
    state = MARKET.advance(MARKET.start(at(11)), at(11, 0, 15), all_tick=True)
    (candle,) = ask_for("minute", clock(11), clock(11), row=int(OPTION))
    spread = (state.ask[OPTION] - state.bid[OPTION]) / 100
    assert candle[3] - spread <= state.last[OPTION] / 100 <= candle[2] + spread


def test_day_candles_are_stamped_midnight_and_skip_closed_days():
    end = datetime.combine(date(2026, 11, 16), datetime.min.time(), tzinfo=clock(9).tzinfo)
    found = ask_for("day", end - timedelta(days=9), end)
    assert [candle[0][:10] for candle in found] == [
        "2026-11-08",  # Sunday, an hour of Muhurat trading
        "2026-11-09",
        "2026-11-11",
        "2026-11-12",
        "2026-11-13",
        "2026-11-16",
    ]
    assert all(candle[0].endswith("T00:00:00+0530") for candle in found)


@pytest.mark.parametrize("interval", list(INTERVALS))
def test_the_longest_span_is_bounded(interval):
    days = INTERVALS[interval].max_days
    with pytest.raises(InputError, match=f"interval exceeds max limit: {days} days"):
        ask_for(interval, clock(9) - timedelta(days=days + 1), clock(9))


def test_unknown_interval_and_wrong_order_are_refused():
    with pytest.raises(InputError, match="invalid interval"):
        ask_for("fortnight", clock(9), clock(10))
    with pytest.raises(InputError, match="from date"):
        ask_for("minute", clock(10), clock(9))


def test_an_option_has_no_candles_before_it_was_listed():
    expiry = MARKET.universe.instruments[OPTION].expiry
    assert expiry is not None
    found = ask_for("day", clock(9) - timedelta(days=400), clock(9), row=int(OPTION))
    assert date.fromisoformat(found[0][0][:10]) >= expiry - timedelta(days=100)
