"""The last minutes of an expiry day on a real NATS server, with conventions per underlying."""

from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path

import pytest

from libs.common.bus.connection import Bus
from libs.common.bus.provision import ensure
from libs.common.contracts import streams, subjects
from libs.common.contracts.messages import Tick
from libs.common.domain.clock import IST, ns_of
from libs.common.kite.frames import frame_of
from tests.fakes.kite_frames import FakeMarket
from tests.fakes.nats_server import NatsServer
from tests.integration.test_greeks_service import (
    SHARDS,
    Feeder,
    Listener,
    assert_ordered,
    eventually,
    listening,
    running,
    settings_of,
)

pytestmark = pytest.mark.integration

TODAY = date(2026, 12, 1)
NEXT = date(2026, 12, 8)
CONVENTIONS = """
[TCS]
model = "bsm"
rate = 0.065
clock = "trading252"
"""


def at(hour: int, minute: int, second: int = 0) -> int:
    moment = datetime(TODAY.year, TODAY.month, TODAY.day, hour, minute, second, tzinfo=IST)
    return ns_of(moment) // 1_000_000_000


class Rig:
    """Two underlyings of one shard; their options are said once, and quiet from then on."""

    def __init__(self, bus: Bus, now_s: int) -> None:
        days = (TODAY, NEXT)
        self.nifty = FakeMarket(
            strikes_each_side=2, expiries=days, futures=days, carry=0.0, now_s=now_s
        )
        self.tcs = FakeMarket(
            "TCS", 3_200.0, 20.0, 2, expiries=days, futures=days, first_token=60_000, now_s=now_s
        )
        self.markets = (self.nifty, self.tcs)
        self.feeders = tuple(Feeder(bus, market) for market in self.markets)
        shards = {subjects.shard_of(market.underlying, SHARDS) for market in self.markets}
        assert len(shards) == 1

    async def open(self) -> None:
        """Say what everything costs."""
        for feeder in self.feeders:
            await feeder.provide()
            await feeder.send(feeder.market.frame())

    async def go_on(self, now_s: int) -> None:
        """Index and futures trade on at the same price: the market's time passes."""
        for feeder in self.feeders:
            market = feeder.market
            market.now_s = now_s
            await feeder.send(frame_of(market.index_packet(), market.full(market.instruments[1:3])))


def newest(listener: Listener, market: FakeMarket, day: date = TODAY) -> Sequence[Tick]:
    """The newest tick of every option of an expiry."""
    tokens = {item.instrument_token for item in market.options if item.expiry == day}
    ticks = {t.instrument_token: t for t in listener.ticks if t.instrument_token in tokens}
    return [*ticks.values()] if ticks.keys() == tokens else []


async def test_quiet_options_live_through_the_end_of_their_last_day(
    nats_server: NatsServer, bus: Bus, tmp_path: Path
):
    file = tmp_path / "conventions.toml"
    file.write_text(CONVENTIONS)
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    rig = Rig(bus, at(15, 14, 50))
    # A market of a few frames: its time must not make their forwards old.
    settings = settings_of(
        nats_server,
        greeks_conventions_file=str(file),
        future_max_age_seconds=3600,
        spot_max_age_seconds=3600,
    )
    async with listening(bus) as listener, running(settings):
        await rig.open()

        async def all_say(**wanted: object) -> None:
            """Wait until the newest tick of every option of the day says so."""

            def said() -> bool:
                return all(
                    (ticks := newest(listener, market))
                    and all(
                        getattr(tick, name) == want
                        for tick in ticks
                        for name, want in wanted.items()
                    )
                    for market in rig.markets
                )

            await eventually(said)

        await all_say(settlement=False, repriced=False)
        names = {
            market.underlying: {t.convention for t in newest(listener, market)}
            for market in rig.markets
        }
        assert names == {"NIFTY": {"black76 act365 r=0"}, "TCS": {"bsm trading252 r=0.065"}}

        await rig.go_on(at(15, 15))
        await all_say(settlement=True, repriced=True)
        # A week is left to the others: nothing was said of them, or that it is not so yet.
        assert not any(t.settlement for t in listener.ticks if t.expiry == NEXT)

        await rig.go_on(at(15, 39, 1))
        await all_say(iv_status="expiring", settlement=True, repriced=True)
        for market in rig.markets:
            for tick in newest(listener, market):
                assert tick.tte == pytest.approx(59 / (365 * 86_400))
                values = (tick.iv, tick.bid_iv, tick.ask_iv, tick.delta, tick.theta)
                assert values == (None,) * 5
                assert tick.last_price is not None
                assert tick.depth is not None

        await rig.go_on(at(15, 40))
        await all_say(iv_status="expired", repriced=True, tte=0.0)
        later = newest(listener, rig.nifty, NEXT)
        assert later
        assert {t.iv_status for t in later} <= {"ok", "low_vega"}
    assert_ordered(listener.ticks)
