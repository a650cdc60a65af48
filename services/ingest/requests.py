"""Serves candles and quotes over the bus with the accounts that this process holds."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TypeVar

import msgspec

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusUnavailableError
from libs.common.bus.service import Handler, Refusal, RequestService, ServiceRequest
from libs.common.contracts import codec, subjects
from libs.common.contracts.messages import (
    HistoryPart,
    HistoryRequest,
    QuoteReply,
    QuoteRequest,
    RpcError,
)
from libs.common.contracts.request_checks import candles_problem, patience_seconds, unreadable
from libs.common.domain.candle_spans import Span, split
from libs.common.kite.market_data import INSTRUMENTS_AT_ONCE, KiteAccess, KiteMarketData
from libs.common.lifecycle import changed_or_stopped
from services.ingest import metrics
from services.ingest.account_desk import AccountDesk, Call, CallLines
from services.ingest.account_feed import AccountFeed
from services.ingest.dispatch import Dispatch, Served, Work
from services.ingest.domain import request_checks
from services.ingest.domain.candle_piece import CandlePiece
from services.ingest.domain.handover import Failure
from services.ingest.errors import AccountFailedError, RequestError
from services.ingest.remote_desk import RemoteDesks
from services.ingest.settings import IngestSettings

SERVICE_NAME = "tickfleet-ingest"
SERVICE_VERSION = "1.0.0"
QUEUE_GROUP = "ingest"
_LOOK_SECONDS = 1.0
# For the way of an answer from the other process.
_HANDOVER_MARGIN_SECONDS = 1.0

T = TypeVar("T")

log = logs.get_logger(__name__)


class Requests:
    """Answers `rpc.history.v1` and `rpc.quote.v1`, for any account and for each own one alone.

    The subjects are served only while this process holds an account with a session that Kite has
    not refused, so that a request without any such process fails at once.

    Args:
        bus: The connection.
        settings: Limits and deadlines.
        feeds: The accounts that this process holds, as they are now.
        accounts: All accounts of the plan, as they are now.
    """

    def __init__(
        self,
        bus: Bus,
        settings: IngestSettings,
        feeds: Callable[[], Mapping[str, AccountFeed]],
        accounts: Callable[[], Iterable[str]],
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._feeds = feeds
        self._lines = CallLines(settings)
        self._desks: dict[str, AccountDesk] = {}
        self._desk_feeds: dict[str, AccountFeed] = {}
        self._dispatch = Dispatch(self._desks, accounts)
        self._remote = RemoteDesks(
            bus, answer_seconds=settings.broker_call_seconds + _HANDOVER_MARGIN_SECONDS
        )
        self._kite: KiteMarketData | None = None
        self._changed = asyncio.Event()

    def poke(self) -> None:
        """An account, or its session, came or went: look now instead of within a second."""
        self._changed.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set; then finish what runs and refuse what is new.

        Raises:
            BusClosedError: The bus is closed for good before that.
        """
        settings = self._settings
        async with (
            KiteMarketData.opened(
                deadline_seconds=settings.broker_call_seconds,
                connections=settings.request_concurrency,
            ) as self._kite,
            RequestService.opened(
                self._bus,
                name=SERVICE_NAME,
                version=SERVICE_VERSION,
                description="Candles and quotes of Kite, within its limits, by any account.",
                queue_group=QUEUE_GROUP,
                concurrency=settings.request_concurrency,
                stop_seconds=settings.request_stop_seconds,
                metadata={"worker": settings.worker_id},
            ) as service,
        ):
            while not stop.is_set():
                self._changed.clear()
                self._match_desks()
                try:
                    await self._match_subjects(service)
                except BusUnavailableError as error:
                    log.warning("requests.not_served", reason=str(error))
                await changed_or_stopped(self._changed, stop, _LOOK_SECONDS)

    def _match_desks(self) -> None:
        feeds = self._feeds()
        for account in [name for name, feed in self._desk_feeds.items() if feeds.get(name) != feed]:
            del self._desks[account], self._desk_feeds[account]
        for account, feed in feeds.items():
            if account not in self._desks:
                self._desks[account] = AccountDesk(feed, self._lines)
                self._desk_feeds[account] = feed

    async def _match_subjects(self, service: RequestService) -> None:
        wanted: dict[str, tuple[Call, str | None]] = {}
        for account, desk in self._desks.items():
            if not desk.is_open:
                continue
            wanted[subjects.RPC_HISTORY] = (Call.HISTORY, None)
            wanted[subjects.RPC_QUOTE] = (Call.QUOTE, None)
            wanted[subjects.rpc_history_of(account)] = (Call.HISTORY, account)
            wanted[subjects.rpc_quote_of(account)] = (Call.QUOTE, account)
        for subject in service.subjects - wanted.keys():
            await service.withdraw(subject)
        for subject in wanted.keys() - service.subjects:
            call, only = wanted[subject]
            handler, refusal = (
                (self._history_handler(only), _no_history)
                if call is Call.HISTORY
                else (self._quote_handler(only), _no_quotes)
            )
            name = call.value if only is None else f"{call.value}-{subjects.escape(only)}"
            await service.serve(subject, handler, name=name, refusal=refusal)

    def _history_handler(self, account: str | None) -> Handler:
        async def handle(request: ServiceRequest) -> None:
            answer = _HistoryAnswer(request)
            work = self._history(request, account, answer)
            await self._answered(Call.HISTORY, request, work, answer.fail)

        return handle

    def _quote_handler(self, account: str | None) -> Handler:
        async def handle(request: ServiceRequest) -> None:
            async def fail(error: RpcError) -> None:
                await request.respond(codec.to_json(QuoteReply(error=error)))

            await self._answered(Call.QUOTE, request, self._quotes(request, account), fail)

        return handle

    async def _answered(
        self,
        call: Call,
        request: ServiceRequest,
        work: Awaitable[None],
        fail: Callable[[RpcError], Awaitable[None]],
    ) -> None:
        """Run a request to its end, answer its error, and count."""
        started = time.monotonic()
        outcome = "cancelled"
        try:
            await work
            outcome = "abandoned" if request.is_abandoned else "ok"
        except RequestError as error:
            outcome = error.error.code
            await fail(error.error)
        finally:
            metrics.REQUESTS_TOTAL.labels(call=call.value, outcome=outcome).inc()
            metrics.REQUEST_SECONDS.labels(call=call.value).observe(time.monotonic() - started)

    async def _history(
        self, request: ServiceRequest, account: str | None, answer: "_HistoryAnswer"
    ) -> None:
        wanted = _decoded(HistoryRequest, request)
        _refuse_if(candles_problem(wanted))
        spans = list(split(wanted.start, wanted.end, wanted.interval.value))
        for place, span in enumerate(spans):
            if request.is_abandoned:
                # Kite's calls are scarce: none for somebody who has left.
                return
            served = await self._served(self._candles_work(wanted, span), request, account)
            await answer.piece(served, last=place == len(spans) - 1)

    def _candles_work(self, wanted: HistoryRequest, span: Span) -> Work[CandlePiece]:
        piece = msgspec.structs.replace(wanted, start=span.start, end=span.end)

        async def fetch(access: KiteAccess) -> CandlePiece:
            candles = await self._market_data.candles(
                access,
                wanted.instrument_token,
                wanted.interval,
                span,
                oi=wanted.oi,
                continuous=wanted.continuous,
            )
            return CandlePiece(candles, access.source)

        async def here(desk: AccountDesk, until: float | None) -> CandlePiece:
            if wanted.source is not None and desk.source is not wanted.source:
                raise AccountFailedError(desk.account, Failure.OTHER_MARKET.value)
            return await desk.call(Call.HISTORY, fetch, until=until)

        async def there(account: str, tried: Iterable[str], until: float) -> CandlePiece:
            return await self._remote.candles(account, tried, until, piece)

        return Work(Call.HISTORY, here, there)

    async def _quotes(self, request: ServiceRequest, account: str | None) -> None:
        wanted = _decoded(QuoteRequest, request)
        _refuse_if(request_checks.quote_problem(wanted))
        quotes: dict[str, msgspec.Raw] = {}
        served_by: set[str] = set()
        for names in request_checks.chunks(wanted.instruments, INSTRUMENTS_AT_ONCE):
            served = await self._served(self._quotes_work(names), request, account)
            quotes.update(served.result)
            served_by.add(served.account)
        who = served_by.pop() if len(served_by) == 1 else None
        await request.respond(codec.to_json(QuoteReply(quotes=quotes, account=who)))

    def _quotes_work(self, names: tuple[str, ...]) -> Work[dict[str, msgspec.Raw]]:
        async def here(desk: AccountDesk, until: float | None) -> dict[str, msgspec.Raw]:
            return await desk.call(
                Call.QUOTE,
                lambda access: self._market_data.quotes(access, names),
                until=until,
            )

        async def there(account: str, tried: Iterable[str], until: float) -> dict[str, msgspec.Raw]:
            return await self._remote.quotes(account, tried, until, QuoteRequest(instruments=names))

        return Work(Call.QUOTE, here, there)

    async def _served(
        self, work: Work[T], request: ServiceRequest, account: str | None
    ) -> Served[T]:
        """Have one call made, within the patience of the caller."""
        settings = self._settings
        patience = patience_seconds(request.headers, settings.request_deadline_seconds)
        if isinstance(patience, RpcError):
            raise RequestError(patience)
        # Whoever waits to the very end has no time left for the call itself.
        waiting = max(patience - settings.broker_call_seconds, patience / 2)
        until = time.monotonic() + waiting
        tried = request.headers.get(codec.HEADER_TRIED)
        try:
            async with asyncio.timeout(patience):
                if account is not None:
                    return await self._dispatch.alone(
                        work, account, until=until, may_wait=tried is None
                    )
                return await self._dispatch.anywhere(work, until=until, tried=tried or "")
        except TimeoutError as error:
            raise RequestError(
                RpcError(code="unavailable", message=f"no answer of Kite within {patience:g} s")
            ) from error

    @property
    def _market_data(self) -> KiteMarketData:
        if self._kite is None:
            raise RuntimeError("requests are served only while `run` is running")
        return self._kite


class _HistoryAnswer:
    """The parts of one answer, numbered."""

    def __init__(self, request: ServiceRequest) -> None:
        self._request = request
        self._parts = 0

    async def piece(self, served: Served[CandlePiece], *, last: bool) -> None:
        """Send a piece of the span, in as many parts as it needs."""
        at_once = request_checks.CANDLES_PER_PART
        candles, source = served.result
        for first in range(0, max(len(candles), 1), at_once):
            await self._send(
                HistoryPart(
                    candles=tuple(candles[first : first + at_once]),
                    account=served.account,
                    source=source,
                    part=self._parts,
                    last=last and first + at_once >= len(candles),
                )
            )

    async def fail(self, error: RpcError) -> None:
        """End the answer with an error."""
        await self._send(HistoryPart(part=self._parts, last=True, error=error))

    async def _send(self, part: HistoryPart) -> None:
        # A part that is dropped is noticed by the caller, who counts.
        await self._request.respond(codec.to_json(part))
        self._parts += 1


def _decoded(kind: type[codec.M], request: ServiceRequest) -> codec.M:
    try:
        return codec.from_json(kind, request.payload)
    except codec.DecodeError as error:
        raise RequestError(unreadable(error)) from error


def _refuse_if(problem: RpcError | None) -> None:
    if problem is not None:
        raise RequestError(problem)


def _no_history(refusal: Refusal) -> bytes:
    return codec.to_json(HistoryPart(part=0, last=True, error=refusal.error))


def _no_quotes(refusal: Refusal) -> bytes:
    return codec.to_json(QuoteReply(error=refusal.error))
