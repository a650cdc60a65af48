"""Which market is in force, by what control says, and what time it is there."""

from datetime import date

import pytest

from libs.common.bus.kv import Bucket
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import Source, Tick
from services.greeks.market_in_force import MarketInForce
from tests.fakes.history_desk import HistoryDesk
from tests.fakes.kite_frames import FakeMarket
from tests.integration.candles_rig import NOW, CandlesRig
from tests.integration.conftest import running, until

pytestmark = pytest.mark.integration


@pytest.fixture
async def rig(bus, nats_server):
    market = FakeMarket(strikes_each_side=0)
    rig = CandlesRig(bus, nats_server, market, HistoryDesk(bus, market, now=NOW))
    await rig.prepare()
    return rig


async def test_market_stays_in_force_while_control_is_away_and_settles_after_a_turn(rig, bus):
    clock = [100.0]
    market = MarketInForce(bus, lambda: clock[0])
    assert (market.now.source, market.now.day) == (None, None)
    async with running(market.run):
        await until(lambda: market.now.source is Source.SIM)
        assert (market.now.day, market.now.is_settled) == (date(2026, 11, 23), True)
        await Bucket(bus, streams.STATUS.name).delete("control")
        await rig.say_control(Source.LIVE)
        await until(lambda: market.now.source is Source.LIVE)
        assert not market.now.is_settled
        clock[0] += 61.0
        assert market.now.is_settled


async def test_time_is_that_of_the_newest_tick_of_the_same_market(rig, bus):
    market = MarketInForce(bus)
    option, index = rig.option(), rig.market.index
    assert await market.time_s(Source.SIM, option, index) is None
    for item, stamp, source in ((option, 50, "sim"), (index, 70, "sim")):
        tick = Tick(
            instrument_token=item.instrument_token,
            tradingsymbol=item.tradingsymbol,
            underlying="NIFTY",
            kind=item.kind,
            seq=1,
            epoch=1,
            exchange_ts=stamp * 1_000_000_000,
            ingest_ts=0,
            greeks_ts=0,
            source=Source(source),
        )
        subject = subjects.last("NIFTY", item.instrument_token)
        await bus.jetstream.publish(subject, codec.to_json(tick))
    assert await market.time_s(Source.SIM, option, index) == 70
    assert await market.time_s(Source.SIM, option) == 50
    # A simulated stamp says nothing of the live market, which has the clock on the wall.
    assert (await market.time_s(Source.LIVE, option) or 0) > 1_000_000_000
