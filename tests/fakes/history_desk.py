"""Plays ingest for whoever asks for candles: model prices of a small market, every call counted."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import msgspec

from libs.common.bus.connection import Bus, BusMessage
from libs.common.contracts import codec, subjects
from libs.common.contracts.messages import (
    Candle,
    CandleInterval,
    HistoryPart,
    HistoryRequest,
    RpcError,
    Source,
)
from libs.common.domain.candle_spans import split
from libs.common.domain.clock import IST
from libs.common.domain.instruments import Instrument, Kind
from libs.common.domain.market_calendar import CALENDAR
from tests.fakes.kite_frames import FakeMarket

_SECONDS = {CandleInterval.MINUTE_15: 900, CandleInterval.HOUR: 3_600, CandleInterval.DAY: 86_400}


class HistoryDesk:
    """Serves `rpc.history.v1` as ingest does: piece by piece, in numbered parts.

    Args:
        bus: The connection.
        market: Whose prices.
        now: The market's time; nothing after it exists.

    Attributes:
        asked: Every request, in order.
        lacks: Whether an instrument has no candle at a moment (epoch seconds).
        error: What every request is answered with, if anything.
        source: What the parts say.
        gate: Requests are answered while it is set.
    """

    def __init__(self, bus: Bus, market: FakeMarket, *, now: datetime) -> None:
        self._bus = bus
        self._market = market
        self._now_s = now.timestamp()
        self._items = {item.instrument_token: item for item in market.instruments}
        self.asked: list[HistoryRequest] = []
        self.lacks: Callable[[Instrument, int], bool] = lambda _item, _start: False
        self.error: RpcError | None = None
        self.source: Source | None = Source.SIM
        self.gate = asyncio.Event()
        self.gate.set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["HistoryDesk"]:
        """Answer until the block ends."""
        subscription = await self._bus.subscribe(subjects.RPC_HISTORY, self._answer, "ingest")
        await self._bus.client.flush()
        yield self
        await subscription.unsubscribe()

    def symbols(self) -> list[str]:
        """What was asked for, by tradingsymbol, in order."""
        return [self._items[request.instrument_token].tradingsymbol for request in self.asked]

    def candles(self, item: Instrument, interval: CandleInterval, start: int, end: int):
        """What Kite would have, from start to end inclusive."""
        seconds = _SECONDS[interval]
        day = datetime.fromtimestamp(start, IST).replace(hour=0, minute=0, second=0)
        found = []
        while day.timestamp() <= end:
            session = CALENDAR.session(item.exchange, day.date())
            if session is not None:
                is_day = interval is CandleInterval.DAY
                opened = int((day if is_day else session.open).timestamp())
                closes = session.close.timestamp()
                found += [
                    self._candle(item, at, min(at + seconds, closes, self._now_s))
                    for at in range(opened, int(closes), seconds)
                    if start <= at <= end and at < self._now_s and not self.lacks(item, at)
                ]
            day += timedelta(days=1)
        return found

    def _candle(self, item: Instrument, start: int, end: float) -> Candle:
        self._market.now_s = int(end)
        # The market drifts by forty rupees an hour, or every candle would be like the others.
        self._market.spot = 24_500.0 + (start % 86_400) / 90 - 200
        close = round(self._market.fair(item) * 20) / 20
        oi = 75 * (start % 977) if item.kind in {Kind.OPTION, Kind.FUTURE} else None
        return Candle(start, close + 1, close + 2, close - 1, close, start % 13, oi)

    async def _answer(self, message: BusMessage) -> None:
        request = codec.from_json(HistoryRequest, message.payload)
        self.asked.append(request)
        await self.gate.wait()
        if self.error is not None:
            await self._send(message, HistoryPart(part=0, last=True, error=self.error))
            return
        item = self._items[request.instrument_token]
        spans = list(split(request.start, request.end, request.interval.value))
        for number, span in enumerate(spans):
            found = self.candles(item, request.interval, *span)
            if not request.oi:
                found = [msgspec.structs.replace(candle, oi=None) for candle in found]
            await self._send(
                message,
                HistoryPart(
                    candles=tuple(found),
                    account="sim1",
                    source=self.source,
                    part=number,
                    last=number == len(spans) - 1,
                ),
            )

    async def _send(self, message: BusMessage, part: HistoryPart) -> None:
        assert message.reply
        await self._bus.publish(message.reply, codec.to_json(part))
