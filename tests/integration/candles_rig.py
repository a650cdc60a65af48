"""Greeks with everything that candles need, for tests: buckets, control's word, ingest played."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import date, datetime
from typing import Any

import msgspec
from pydantic import SecretStr

from libs.common.bus import market_requests
from libs.common.bus.connection import Bus, BusMessage
from libs.common.bus.kv import Bucket
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import (
    CandleGreeks,
    CandleInterval,
    CandlesPart,
    CandlesRequest,
    ControlStatus,
    PricedCandle,
    Source,
)
from libs.common.domain.clock import IST
from libs.common.domain.instruments import Instrument, OptionType
from services.greeks.candles import SERVICE_NAME
from tests.fakes.history_desk import HistoryDesk
from tests.fakes.kite_frames import FakeMarket
from tests.fakes.nats_server import NatsServer
from tests.integration.test_greeks_service import eventually, running, settings_of

NOW = datetime(2026, 11, 23, 11, 5, tzinfo=IST)
"""The market's time."""


class CandlesRig:
    """A greeks process, the buckets that it reads, and ingest played by hand."""

    def __init__(
        self, bus: Bus, nats_server: NatsServer, market: FakeMarket, desk: HistoryDesk
    ) -> None:
        self.bus = bus
        self.nats_server = nats_server
        self.market = market
        self.desk = desk

    async def prepare(self, *, source: Source = Source.SIM) -> None:
        """Write what control would write."""
        await ensure(self.bus, streams.STREAMS, streams.BUCKETS)
        found = self.market.instrument_set()
        await Bucket(self.bus, streams.INSTRUMENTS.name).put("NIFTY", codec.to_msgpack(found))
        await self.say_control(source)

    async def say_control(self, source: Source, day: date = date(2026, 11, 23)) -> None:
        """Say which market is in force."""
        status = ControlStatus(
            worker="control",
            plan_revision=1,
            planned=0,
            unplaced=0,
            instruments=1,
            instruments_revision=1,
            market_date=day,
            source=source,
            at_ns=0,
        )
        await Bucket(self.bus, streams.STATUS.name).put("control", codec.to_json(status))

    @asynccontextmanager
    async def greeks(
        self, database_url: str | None = None, worker: str = "g1", **changes: Any
    ) -> AsyncIterator[None]:
        """Run greeks in this process until the block ends."""
        url = None if database_url is None else SecretStr(database_url)
        settings = settings_of(self.nats_server, worker, database_url=url, **changes)
        async with running(settings):
            await self.until_served(worker)
            yield

    async def until_served(self, worker: str) -> None:
        """Wait until a worker has announced that it answers."""
        serving: set[str] = set()

        def note(message: BusMessage) -> None:
            told = msgspec.json.decode(message.payload)
            if any(end["subject"] == subjects.RPC_CANDLES for end in told["endpoints"]):
                serving.add(told["metadata"]["worker"])

        inbox = self.bus.client.new_inbox()
        answers = await self.bus.subscribe(inbox, note)

        async def is_served() -> bool:
            await self.bus.client.publish(f"$SRV.INFO.{SERVICE_NAME}", b"", reply=inbox)
            return worker in serving

        await eventually(is_served)
        await answers.unsubscribe()

    def option(
        self, offset: int = 0, kind: OptionType = OptionType.CALL, expiry: int = 0
    ) -> Instrument:
        """An option so many strikes from the money."""
        return next(
            item
            for item in self.market.options
            if (item.strike, item.option_type, item.expiry)
            == (24_500.0 + 50 * offset, kind, self.market.expiries[expiry])
        )

    async def parts(
        self, item: Instrument | int, start: str, end: str, **changes: Any
    ) -> list[CandlesPart]:
        """Ask for candles and wait for all of them."""
        values: dict[str, Any] = {"interval": CandleInterval.MINUTE_15, "oi": True, **changes}
        request = CandlesRequest(
            instrument_token=item if isinstance(item, int) else item.instrument_token,
            start=epoch(start),
            end=epoch(end),
            **values,
        )
        async with market_requests.candles(self.bus, request, timeout_seconds=60) as parts:
            return [part async for part in parts]

    async def candles(
        self, item: Instrument | int, start: str, end: str, **changes: Any
    ) -> list[PricedCandle]:
        """The same, read."""
        return shown(await self.parts(item, start, end, **changes))


def shown(parts: list[CandlesPart]) -> list[PricedCandle]:
    """The candles of some parts, read."""
    return [
        candle
        for part in parts
        for candle in msgspec.json.decode(part.candles, type=list[PricedCandle])
    ]


def epoch(text: str) -> int:
    """An Indian date or time as epoch seconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=IST).timestamp())


def greeks_of(candle: PricedCandle) -> CandleGreeks:
    """The Greeks of a candle that has some."""
    assert candle.greeks is not None
    return candle.greeks
