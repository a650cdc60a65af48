"""The day's price bands, asked of Kite's quotes beside the orders and kept for a while."""

import asyncio
import time
from typing import Final

import msgspec

from libs.common import logs
from libs.common.bus import market_requests
from libs.common.bus.connection import Bus
from libs.common.contracts import codec
from libs.common.contracts.messages import QuoteRequest
from libs.common.errors import RejectedError, RetryableError
from libs.common.lifecycle import changed_or_stopped
from services.orders import metrics
from services.orders.domain.check_context import PriceBand

FRESH_SECONDS: Final = 60.0
"""An exchange widens a band now and then: older ones are asked for anew, and used meanwhile."""
USABLE_SECONDS: Final = 300.0
"""Nobody is refused by a band that is older."""
SILENT_SECONDS: Final = 10.0
"""After no answer the next orders do not wait for one."""
_AT_ONCE: Final = 200
_KEPT: Final = 20_000
_CALL_SECONDS: Final = 5.0

log = logs.get_logger(__name__)


class _Quote(msgspec.Struct):
    lower_circuit_limit: float | None = None
    upper_circuit_limit: float | None = None


class PriceBands:
    """Knows the bands of instruments that somebody has ordered lately.

    An account's bands come of its own quotes, so that a simulated market's never refuse a live
    order. The broker checks the band too: without an answer an order goes on unchecked.

    Args:
        bus: The connection.
        wait_seconds: How long an order waits for a band that nobody has asked for yet.
    """

    def __init__(self, bus: Bus, *, wait_seconds: float) -> None:
        self._bus = bus
        self._wait_seconds = wait_seconds
        # When it was asked, and the band; None where there was no answer.
        self._known: dict[tuple[str, str], tuple[float, PriceBand | None]] = {}
        self._wanted: dict[tuple[str, str], None] = {}
        self._news = asyncio.Event()
        self._answered = asyncio.Event()

    async def of(self, account: str, name: str) -> PriceBand | None:
        """The band of an instrument (`EXCHANGE:SYMBOL`) for an account; None if nobody knows it."""
        if self._wait_seconds <= 0:
            return None
        key = (account, name)
        if not self._is_fresh(key):
            self._want(key)
        if key not in self._known:
            try:
                async with asyncio.timeout(self._wait_seconds):
                    while key not in self._known:
                        await self._answered.wait()
            except TimeoutError:
                pass
        asked_at, band = self._known.get(key, (0.0, None))
        usable = band is not None and time.monotonic() - asked_at < USABLE_SECONDS
        metrics.BANDS_TOTAL.labels(outcome="known" if usable else "unknown").inc()
        return band if usable else None

    async def run(self, stop: asyncio.Event) -> None:
        """Ask for what is wanted until told to stop."""
        while not stop.is_set():
            await changed_or_stopped(self._news, stop, SILENT_SECONDS)
            self._news.clear()
            while self._wanted and not stop.is_set():
                account = next(iter(self._wanted))[0]
                names = [name for who, name in self._wanted if who == account][:_AT_ONCE]
                await self._ask(account, names)

    def _is_fresh(self, key: tuple[str, str]) -> bool:
        if key not in self._known:
            return False
        asked_at, band = self._known[key]
        lasts = SILENT_SECONDS if band is None else FRESH_SECONDS
        return time.monotonic() - asked_at < lasts

    def _want(self, key: tuple[str, str]) -> None:
        if len(self._wanted) < _KEPT:
            self._wanted[key] = None
            self._news.set()

    async def _ask(self, account: str, names: list[str]) -> None:
        now = time.monotonic()
        found: dict[str, PriceBand] = {}
        try:
            reply = await market_requests.quotes(
                self._bus,
                QuoteRequest(instruments=tuple(names)),
                account=account,
                timeout_seconds=_CALL_SECONDS,
                headers={codec.HEADER_TIMEOUT_SECONDS: f"{_CALL_SECONDS:g}"},
            )
            found = {name: band for name, raw in reply.quotes.items() if (band := _band(raw))}
        except (RetryableError, RejectedError) as error:
            log.debug("bands.unanswered", account=account, reason=str(error))
        for name in names:
            key = (account, name)
            self._wanted.pop(key, None)
            old = self._known.pop(key, None)
            if name in found or old is None or old[1] is None:
                self._known[key] = (now, found.get(name))
            else:
                # The last good one, as old as it is.
                self._known[key] = old
        while len(self._known) > _KEPT:
            self._known.pop(next(iter(self._known)))
        # Whoever waits looks, and waits for the next answer.
        self._answered.set()
        self._answered = asyncio.Event()


def _band(raw: msgspec.Raw) -> PriceBand | None:
    try:
        quote = msgspec.json.decode(raw, type=_Quote)
    except msgspec.DecodeError:
        return None
    lower, upper = quote.lower_circuit_limit, quote.upper_circuit_limit
    # Indices, and instruments without a band, have zeros.
    if lower is None or upper is None or not 0 <= lower < upper:
        return None
    return PriceBand(lower=lower, upper=upper)
