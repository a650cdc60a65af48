"""What orders are checked against: contracts, the market in force, switches, limits, prices."""

import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusUnavailableError
from libs.common.bus.kv import Mirror
from libs.common.bus.newest import newest
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import ControlStatus, FeedStatus, InstrumentSet, Source
from libs.common.contracts.orders import OrderControls
from libs.common.domain.instruments import Instrument
from services.orders.domain.order_limits import LimitsTable
from services.orders.price_bands import PriceBands

CONTROL_KEY: Final = "control"
FEED_PREFIX: Final = "feed-"
OFF: Final = OrderControls(kill_switch=False, at_ns=0)

log = logs.get_logger(__name__)


class InstrumentBook:
    """Today's instruments by exchange and symbol, kept current.

    Args:
        bus: The connection.
    """

    def __init__(self, bus: Bus) -> None:
        self.mirror = Mirror(bus, streams.INSTRUMENTS.name, self._changed)
        self._by_set: dict[str, dict[tuple[str, str], Instrument]] = {}
        self._by_name: dict[tuple[str, str], Instrument] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def get(self, exchange: str, tradingsymbol: str) -> Instrument | None:
        """The instrument with this name; None when it is not in today's dump."""
        return self._by_name.get((exchange, tradingsymbol))

    def _changed(self, key: str, value: bytes | None) -> None:
        names: dict[tuple[str, str], Instrument] = {}
        if value is not None:
            try:
                found = codec.from_msgpack(InstrumentSet, value)
            except codec.DecodeError as error:
                # The last good set stays in force.
                log.error("instruments.unreadable", key=key, reason=error.reason)
                return
            names = {(i.exchange, i.tradingsymbol): i for i in found.instruments}
        gone = self._by_set.pop(key, {}).keys() - names.keys()
        for name in gone:
            self._by_name.pop(name, None)
        if names:
            self._by_set[key] = names
            self._by_name.update(names)


class MarketWatch:
    """Whether what people see is the live market, and what an instrument last cost.

    Args:
        bus: The connection.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.mirror = Mirror(bus, streams.STATUS.name, self._changed)
        self._source: Source | None = None
        self._feeds: dict[str, Source] = {}

    @property
    def is_simulated(self) -> bool:
        """Whether the market in force is a simulated one.

        What control said last stays true while control is down. Where it has never said anything,
        the feeds tell.
        """
        if self._source is not None:
            return self._source is Source.SIM
        sources = set(self._feeds.values())
        return sources == {Source.SIM}

    async def last_price(self, instrument: Instrument) -> float | None:
        """What the instrument last cost, in rupees; None when nobody knows."""
        subject = subjects.last(instrument.underlying, instrument.instrument_token)
        try:
            payload = await newest(self._bus, streams.MD_LAST.name, subject)
        except BusUnavailableError:
            return None
        if payload is None:
            return None
        try:
            price = msgspec.json.decode(payload, type=_LastPrice).last_price
        except msgspec.DecodeError:
            return None
        return price if price is not None and price > 0 else None

    def _changed(self, key: str, value: bytes | None) -> None:
        try:
            if key == CONTROL_KEY and value is not None:
                source = codec.from_json(ControlStatus, value).source
                self._source = source if source is not None else self._source
            elif key.startswith(FEED_PREFIX):
                source = None if value is None else codec.from_json(FeedStatus, value).source
                if source is None:
                    self._feeds.pop(key, None)
                else:
                    self._feeds[key] = source
        except codec.DecodeError as error:
            log.warning("status.unreadable", key=key, reason=error.reason)


class _LastPrice(msgspec.Struct):
    last_price: float | None = None


class Switches:
    """The kill switches, as people have set them.

    Args:
        bus: The connection.
        on_change: Called with the account whose switch was set.
    """

    def __init__(self, bus: Bus, on_change: Callable[[str], None] = lambda _: None) -> None:
        self.mirror = Mirror(bus, streams.ORDER_CONTROLS.name, self._changed)
        self.on_change = on_change
        self._controls: dict[str, OrderControls] = {}

    def of(self, account: str) -> OrderControls:
        """What is switched for an account."""
        return self._controls.get(account, OFF)

    def _changed(self, key: str, value: bytes | None) -> None:
        account = subjects.unescape(key)
        if value is None:
            self._controls.pop(account, None)
        else:
            try:
                self._controls[account] = codec.from_json(OrderControls, value)
            except codec.DecodeError as error:
                # Somebody meant to switch something: nothing leaves until it is readable.
                log.error("controls.unreadable", account=account, reason=error.reason)
                self._controls[account] = OrderControls(
                    kill_switch=True,
                    reason="its entry in order_controls cannot be read: switch it anew",
                    at_ns=time.time_ns(),
                )
        self.on_change(account)


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """All of it, for one process.

    Attributes:
        instruments: Today's contracts.
        market: Which market is in force, and prices.
        switches: The kill switches.
        limits: Of accounts and users.
        bands: The day's price bands.
    """

    instruments: InstrumentBook
    market: MarketWatch
    switches: Switches
    limits: LimitsTable
    bands: PriceBands

    @property
    def mirrors(self) -> Mapping[str, Mirror]:
        """What must run, by name."""
        return {
            "instruments": self.instruments.mirror,
            "market": self.market.mirror,
            "switches": self.switches.mirror,
        }
