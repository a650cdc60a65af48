"""Which market the fleet streams now, and what time it is there."""

import asyncio
import base64
import time
from collections.abc import Callable
from datetime import date

import msgspec

from libs.common import logs
from libs.common.bus import api
from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusUnavailableError, RefusedError
from libs.common.bus.kv import Mirror
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import ControlStatus, Forward, Source, Tick
from libs.common.domain.instruments import Instrument

_KEY = "control"
# Instruments follow a turn between live and simulated within seconds; until then a token may
# still mean a contract of the market that was left.
_SETTLING_SECONDS = 60.0
_NANOSECONDS = 1_000_000_000

log = logs.get_logger(__name__)


class Market(msgspec.Struct, frozen=True, kw_only=True):
    """The market in force.

    Attributes:
        source: Live or simulated; None if control has not said so yet.
        day: Its current one.
        is_settled: Whether it has been in force for a while.
    """

    source: Source | None = None
    day: date | None = None
    is_settled: bool = False


class MarketInForce:
    """What control last said of the market; it stays in force while control is away.

    Args:
        bus: The connection.
        monotonic: Seconds of a clock that never goes back.
    """

    def __init__(self, bus: Bus, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._bus = bus
        self._monotonic = monotonic
        self._market = Market()
        self._turned_at: float | None = None
        self._mirror = Mirror(bus, streams.STATUS.name, self._status_changed, keys=_KEY)

    async def run(self, stop: asyncio.Event) -> None:
        """Follow what control says until `stop` is set; raises as Mirror does."""
        await self._mirror.run(stop)

    @property
    def now(self) -> Market:
        """The market in force."""
        turned = self._turned_at
        settled = turned is None or self._monotonic() - turned >= _SETTLING_SECONDS
        return msgspec.structs.replace(self._market, is_settled=settled)

    async def time_s(self, source: Source | None, *witnesses: Instrument) -> float | None:
        """The market's time as its feed last told it, epoch seconds; None if it tells nothing.

        A live feed that tells nothing goes by the clock on the wall.

        Args:
            source: Whose market.
            witnesses: Instruments whose newest tick, and for derivatives whose expiry's newest
                forward, tell the time.
        """
        wanted: dict[str, str] = {}
        for item in witnesses:
            wanted[subjects.last(item.underlying, item.instrument_token)] = streams.MD_LAST.name
            if item.expiry is not None:
                subject = subjects.forward(item.underlying, item.expiry)
                wanted[subject] = streams.MD_FORWARDS.name
        stamps = [await self._stamp(stream, subject, source) for subject, stream in wanted.items()]
        newest = max((stamp for stamp in stamps if stamp is not None), default=None)
        if newest is not None:
            return newest / _NANOSECONDS
        return time.time() if source is Source.LIVE else None

    async def _stamp(self, stream: str, subject: str, source: Source | None) -> int | None:
        """The exchange's time in the newest message of a subject, epoch nanoseconds."""
        try:
            answer = await api.call(
                self._bus, f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject}
            )
            payload = base64.b64decode(answer["message"]["data"])
            if stream == streams.MD_FORWARDS.name:
                forward = codec.from_json(Forward, payload)
                feed, stamp = forward.feed, forward.exchange_ts
            else:
                tick = codec.from_json(Tick, payload)
                feed, stamp = tick.source, tick.exchange_ts
        except (RefusedError, BusUnavailableError, codec.DecodeError, KeyError) as error:
            # Nothing has ticked yet, mostly.
            log.debug("market.time_unknown", subject=subject, reason=str(error))
            return None
        return stamp if feed is source else None

    def _status_changed(self, key: str, value: bytes | None) -> None:
        del key
        if value is None:
            return
        try:
            status = codec.from_json(ControlStatus, value)
        except codec.DecodeError as error:
            log.warning("market.status_unreadable", reason=error.reason)
            return
        before = self._market.source
        if before is not None and status.source is not before:
            self._turned_at = self._monotonic()
        self._market = Market(source=status.source, day=status.market_date)
