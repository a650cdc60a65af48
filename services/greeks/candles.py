"""Serves `rpc.candles.v1`: candles of any instrument, those of options with Greeks."""

import asyncio
import time
from collections.abc import Callable, Sequence

import msgspec

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusUnavailableError
from libs.common.bus.service import Refusal, RequestService, ServiceRequest
from libs.common.contracts import codec, subjects
from libs.common.contracts.messages import (
    CandlesPart,
    CandlesRequest,
    Convention,
    ForwardSource,
    RpcError,
    Source,
)
from libs.common.contracts.request_checks import candles_problem, patience_seconds, unreadable
from libs.common.domain.candle_spans import Span, split
from libs.common.domain.instruments import Instrument
from libs.common.domain.market_calendar import CALENDAR
from services.greeks import metrics
from services.greeks.candle_source import CandleSource, Terms
from services.greeks.candle_store import CandleStore
from services.greeks.domain import candle_checks
from services.greeks.domain.candle_columns import Columns, day_number, day_numbers
from services.greeks.domain.candle_json import parts_of
from services.greeks.domain.candle_legs import Legs, legs_of
from services.greeks.domain.candle_pricing import (
    OptionCandles,
    PricedCandles,
    death_of,
    ends_of,
    may_run,
)
from services.greeks.domain.year_clock import YearClocks
from services.greeks.errors import RequestError
from services.greeks.instrument_index import Found, InstrumentIndex
from services.greeks.market_in_force import MarketInForce
from services.greeks.settings import GreeksSettings

SERVICE_NAME = "tickfleet-greeks"
SERVICE_VERSION = "1.0.0"
QUEUE_GROUP = "greeks"
_RETRY_SECONDS = 2.0
_NO_CANDLES = msgspec.Raw(b"[]")

log = logs.get_logger(__name__)


class Candles:
    """Answers requests for candles, whatever shards this process holds.

    A request is worked piece by piece, oldest first: fetch the option, then only those of its
    legs that are needed, price all candles of the piece in one call, answer in parts. So its
    memory is that of one piece, and the first part leaves before the second piece is fetched.

    Args:
        bus: The connection.
        settings: Limits and deadlines.
        index: Knows all instruments.
        market: Knows which market is in force.
        store: Keeps days that are over.
        convention_of: How the options of an underlying are priced.
    """

    def __init__(
        self,
        bus: Bus,
        settings: GreeksSettings,
        *,
        index: InstrumentIndex,
        market: MarketInForce,
        store: CandleStore,
        convention_of: Callable[[str], Convention],
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._index = index
        self._market = market
        self._store = store
        self._convention_of = convention_of
        self._clocks = YearClocks(CALENDAR)
        # One at a time: threads share the interpreter with the loop that prices ticks.
        self._turn = asyncio.Semaphore(1)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set; then finish what runs and refuse what is new.

        Raises:
            BusClosedError: The bus is closed for good before that.
        """
        settings = self._settings
        async with RequestService.opened(
            self._bus,
            name=SERVICE_NAME,
            version=SERVICE_VERSION,
            description="Candles of any instrument, those of options with Greeks.",
            queue_group=QUEUE_GROUP,
            concurrency=settings.candles_concurrency,
            stop_seconds=settings.candles_stop_seconds,
            metadata={"worker": settings.worker_id},
        ) as service:
            try:
                await service.serve(
                    subjects.RPC_CANDLES, self._handle, name="candles", refusal=_refused
                )
            except BusUnavailableError as error:
                log.warning("candles.serve_unconfirmed", reason=error.reason)
            await stop.wait()

    async def _handle(self, request: ServiceRequest) -> None:
        started = time.monotonic()
        outcome = "cancelled"
        answer = _Answer(request)
        try:
            await self._answer(request, answer)
            outcome = "abandoned" if request.is_abandoned else "ok"
        except RequestError as error:
            outcome = error.error.code
            await answer.fail(error.error)
        finally:
            metrics.CANDLE_REQUESTS_TOTAL.labels(outcome=outcome).inc()
            metrics.CANDLE_REQUEST_SECONDS.observe(time.monotonic() - started)

    async def _answer(self, request: ServiceRequest, answer: "_Answer") -> None:
        wanted = _decoded(request)
        _refuse_if(candles_problem(wanted))
        patience = patience_seconds(request.headers, self._settings.candles_deadline_seconds)
        if isinstance(patience, RpcError):
            raise RequestError(patience)
        found = await self._found(wanted.instrument_token)
        _refuse_if(candle_checks.greeks_problem(wanted, found.instrument))
        work = self._work(wanted, found)
        spans = list(split(wanted.start, wanted.end, wanted.interval.value))
        for place, span in enumerate(spans):
            if request.is_abandoned:
                # Kite's calls are scarce: none for somebody who has left.
                return
            try:
                async with asyncio.timeout(patience):
                    parts = await work.piece(span, until=time.monotonic() + patience)
            except TimeoutError as error:
                raise RequestError(
                    RpcError(code="timeout", message=f"no candles within {patience:g} s")
                ) from error
            await answer.piece(
                parts,
                last=place == len(spans) - 1,
                source=work.source.source,
                convention=work.convention,
            )

    async def _found(self, token: int) -> Found:
        found = await self._index.find(token)
        if found is not None:
            return found
        if self._index.is_empty:
            raise RequestError(
                RpcError(
                    code="unavailable",
                    message="no instruments have been loaded yet",
                    retry_after_seconds=_RETRY_SECONDS,
                )
            )
        raise RequestError(
            RpcError(
                code="not_found",
                message=f"no instrument of today has the token {token}",
                field="instrument_token",
            )
        )

    def _work(self, wanted: CandlesRequest, found: Found) -> "_Work":
        market, listed = self._market.now, found.of_underlying
        # The day of the set and not that of the wall: a simulated market has its own. Where the
        # two senders disagree, one of them is of a market that was left.
        is_sure = market.is_settled and market.day == listed.market_date
        return _Work(
            wanted=wanted,
            instrument=found.instrument,
            legs=legs_of(found.instrument, listed.instruments),
            convention=self._convention_of(listed.underlying)
            if candle_checks.wants_greeks(wanted, found.instrument)
            else None,
            source=CandleSource(
                self._bus,
                self._store,
                Terms(
                    interval=wanted.interval,
                    continuous=wanted.continuous,
                    closed_before=day_number(listed.market_date) if is_sure else None,
                ),
                source=market.source,
            ),
            today=day_number(listed.market_date),
            market=self._market,
            clocks=self._clocks,
            turn=self._turn,
        )


class _Work:
    """One request, once it is clear what it asks for.

    Attributes:
        convention: How its candles are priced; None for candles without Greeks.
        source: Where its candles come from.
    """

    def __init__(
        self,
        *,
        wanted: CandlesRequest,
        instrument: Instrument,
        legs: Legs,
        convention: Convention | None,
        source: CandleSource,
        today: int,
        market: MarketInForce,
        clocks: YearClocks,
        turn: asyncio.Semaphore,
    ) -> None:
        self.convention = convention
        self.source = source
        self._wanted = wanted
        self._instrument = instrument
        self._leg_of = {
            ForwardSource.FUTURE: legs.future,
            ForwardSource.SYNTHETIC: legs.partner,
            ForwardSource.SPOT: legs.spot,
        }
        self._today = today
        self._market = market
        self._clocks = clocks
        self._turn = turn

    async def piece(self, span: Span, *, until: float) -> list[msgspec.Raw]:
        """The candles of one piece as JSON, in parts.

        Raises:
            RequestError: They cannot be had.
        """
        candles = await self.source.candles(self._instrument, span, until=until, days=None)
        priced = None
        if self.convention is not None and candles.size:
            option = OptionCandles(
                self._instrument,
                candles,
                ends_s=ends_of(
                    candles.start,
                    self._wanted.interval,
                    self._instrument.exchange,
                    calendar=CALENDAR,
                    now_s=await self._now_s(candles),
                ),
                instant_s=death_of(self._instrument, CALENDAR),
                convention=self.convention,
                clocks=self._clocks,
            )
            for source in option.order:
                await self._offer(option, source, until)
            async with self._turn:
                priced = await asyncio.to_thread(option.priced)
        async with self._turn:
            return await asyncio.to_thread(_spelled, candles, priced, self._wanted.oi)

    async def _offer(self, option: OptionCandles, source: ForwardSource, until: float) -> None:
        """Fetch a leg for the candles that still lack a forward, and for no others."""
        leg, lacking = self._leg_of[source], option.lacking
        if leg is None or not lacking.size:
            return
        span = Span(int(lacking[0]), int(lacking[-1]))
        days = set(day_numbers(lacking).tolist())
        try:
            candles = await self.source.candles(leg, span, until=until, days=days)
        except RequestError as error:
            if error.error.code != "not_found":
                raise
            # Listed, but Kite has no candles of it: the next best source tells the forward.
            log.warning("candles.leg_unknown", leg=leg.key, reason=error.error.message)
            return
        option.offer(source, candles)
        metrics.CANDLE_FORWARDS_TOTAL.labels(source=source.value).inc(
            lacking.size - option.lacking.size
        )

    async def _now_s(self, candles: Columns) -> float | None:
        """The market's time if the last candle may still be running, else None."""
        if not may_run(candles.start, self._today):
            return None
        spot = self._leg_of[ForwardSource.SPOT]
        witnesses = [self._instrument] if spot is None else [self._instrument, spot]
        return await self._market.time_s(self.source.source, *witnesses)


class _Answer:
    """The parts of one answer, numbered."""

    def __init__(self, request: ServiceRequest) -> None:
        self._request = request
        self._parts = 0

    async def piece(
        self,
        parts: Sequence[msgspec.Raw],
        *,
        last: bool,
        source: Source | None,
        convention: Convention | None,
    ) -> None:
        """Send a piece of the span."""
        for place, candles in enumerate(parts):
            if self._request.is_abandoned:
                return
            await self._send(
                CandlesPart(
                    candles=candles,
                    part=self._parts,
                    last=last and place == len(parts) - 1,
                    convention=convention if not self._parts else None,
                    source=source,
                )
            )

    async def fail(self, error: RpcError) -> None:
        """End the answer with an error."""
        await self._send(CandlesPart(candles=_NO_CANDLES, part=self._parts, last=True, error=error))

    async def _send(self, part: CandlesPart) -> None:
        # A part that is dropped is noticed by the caller, who counts.
        await self._request.respond(codec.to_json(part))
        self._parts += 1


def _spelled(
    candles: Columns,
    priced: PricedCandles | None,
    with_oi: bool,  # noqa: FBT001  # For to_thread.
) -> list[msgspec.Raw]:
    return list(parts_of(candles, priced, with_oi=with_oi))


def _decoded(request: ServiceRequest) -> CandlesRequest:
    try:
        return codec.from_json(CandlesRequest, request.payload)
    except codec.DecodeError as error:
        raise RequestError(unreadable(error)) from error


def _refuse_if(problem: RpcError | None) -> None:
    if problem is not None:
        raise RequestError(problem)


def _refused(refusal: Refusal) -> bytes:
    return codec.to_json(CandlesPart(candles=_NO_CANDLES, part=0, last=True, error=refusal.error))
