"""`tickfleet explain`: what a person is shown."""

from datetime import date, datetime
from io import StringIO

import pytest
from rich.console import Console

from libs.common.contracts.messages import Convention, Explanation
from libs.common.domain.clock import IST
from libs.common.kite.frames import frame_of
from services.fleet.explanation_tables import conclusions, show
from tests.fakes.kite_frames import FakeMarket
from tests.unit.greeks.test_shard import option, shard_of, work

DAY = date(2026, 12, 1)


def market_at_noon() -> FakeMarket:
    noon = int(datetime(2026, 11, 25, 12, 0, tzinfo=IST).timestamp())
    return FakeMarket(strikes_each_side=6, now_s=noon, expiries=(DAY,), futures=())


def explanation(market: FakeMarket, *frames: bytes, strike: float = 24_700.0) -> Explanation:
    shard = shard_of(market, convention=Convention())
    for frame in frames:
        work(shard, frame)
    found = shard.explain(option(market, strike, "PE", DAY).instrument_token, shard=3)
    assert found is not None
    return found


def printed(found: Explanation, width: int = 120) -> str:
    console = Console(file=StringIO(), width=width)
    show(found, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_everything_that_went_into_the_greeks_is_shown():
    market = market_at_noon()
    text = printed(explanation(market, market.frame()))
    lines = [line.split() for line in text.splitlines()]
    assert "6 d 3 h left" in text
    assert "market time 2026-11-25 12:00:00 IST" in text
    assert ["last", "price", "294.15", "0", "s", "-", "NIFTY26120124700PE"] in lines
    assert ["smile", "leg", "114.80", "0", "s", "60", "s", "NIFTY26120124700CE"] in lines
    assert [">", "synthetic", "24520.65", "-", "15", "s", "median", "of", "5", "strikes"] in lines
    assert "the future is not listed; so the synthetic future is taken" in text
    assert sum(line[:1] != ["forward"] and line[-1:] == ["taken"] for line in lines) == 5
    assert ["tickfleet", "nse", "sensibull", "spot_bsm"] in lines
    assert ["iv", "%", "15.00", "16.28", "14.46", "13.84"] in lines
    assert ["of", "itself", "itself", "other", "leg", "itself"] in lines


def test_each_difference_is_told_with_the_input_that_makes_it():
    market = market_at_noon()
    told = list(conclusions(explanation(market, market.frame())))
    assert told[0] == "nse is +1.27 vol points from ours"
    assert told[1] == (
        "  -1.16 vol points by the underlying: spot 24500.00 instead of synthetic 24520.65"
    )
    assert told[2] == "  +2.28 vol points by the rate: rate 10 % instead of rate 0 %"
    assert told[-2] == "spot_bsm is -1.16 vol points from ours"


def test_an_estimated_age_is_marked_and_an_old_one_is_too():
    market = market_at_noon()
    frame = market.frame()
    market.now_s += 40
    text = printed(
        explanation(market, frame, frame_of(market.ltp(market.options[:1]), market.index_packet()))
    )
    assert "40 s" in text
    found = explanation(market, market.frame(), frame_of(market.ltp(market.options)))
    assert "~0 s" in printed(found)


@pytest.mark.parametrize("width", [60, 80, 200])
def test_an_option_that_never_ticked_is_shown_without_numbers(width):
    text = printed(explanation(market_at_noon()), width)
    assert "market time unknown" in text
    assert "nse has no volatility: no_forward" in text
    assert "nan" not in text
    assert "None" not in text
