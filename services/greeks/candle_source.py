"""Brings raw candles of one request: from the store where a day is over, else through ingest."""

import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import msgspec

from libs.common.bus import market_requests
from libs.common.bus.connection import Bus
from libs.common.bus.errors import (
    BusUnavailableError,
    IncompleteAnswerError,
    NoResponderError,
    RequestTimeoutError,
    ServiceBusyError,
    ServiceRefusedError,
)
from libs.common.contracts import codec
from libs.common.contracts.messages import CandleInterval, HistoryRequest, RpcError, Source
from libs.common.domain.candle_spans import Span
from libs.common.domain.instruments import Instrument, Kind
from services.greeks import metrics
from services.greeks.candle_store import CandleStore, Series
from services.greeks.domain import candle_days
from services.greeks.domain.candle_columns import Columns, columns_of, join
from services.greeks.errors import RequestError

_HAVE_OI = frozenset({Kind.OPTION, Kind.FUTURE})
# An answer that is due at once still has to travel.
_SHORTEST_SECONDS = 0.1
_RETRY_SECONDS = 2.0


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """What holds for every fetch of one request.

    Attributes:
        interval: Length of a candle.
        continuous: Day candles of expired futures, too; never from the store.
        closed_before: Days before this one were over when the request came, by number; None if
            nobody knows, then nothing is kept.
    """

    interval: CandleInterval
    continuous: bool = False
    closed_before: int | None


class CandleSource:
    """Candles for one request, all of one market.

    Args:
        bus: The connection.
        store: Of days that are over.
        terms: Of the request.
        source: The market in force; None if nobody knows, then the first answer decides and
            nothing is read from the store.
    """

    def __init__(
        self, bus: Bus, store: CandleStore, terms: Terms, *, source: Source | None
    ) -> None:
        self._bus = bus
        self._store = store
        self._terms = terms
        self._may_store = source is not None and not terms.continuous
        self.source = source

    async def candles(
        self, instrument: Instrument, span: Span, *, until: float, days: Collection[int] | None
    ) -> Columns:
        """Candles that begin in a span, ascending, each once.

        Args:
            instrument: Of what.
            span: A piece of the request, within what Kite gives at once.
            until: When an answer is of no use any more (`time.monotonic`).
            days: Only those days are wanted, by number; None for all. Others may come, too.

        Raises:
            RequestError: They cannot be had.
        """
        closed_before, source = self._terms.closed_before, self.source
        if closed_before is None or source is None or not self._may_store:
            return (await self._fetched(instrument, span, until)).between(*span)
        series = Series(source, instrument, self._terms.interval)
        needed = candle_days.days_of(span) if days is None else days
        known = await self._store.read(series, candle_days.closed_days(needed, closed_before))
        fetch = candle_days.fetch_for(span, needed, known, closed_before)
        fetched = columns_of(())
        if fetch is not None:
            fetched = await self._fetched(instrument, fetch.span, until)
        if fetch is not None and self._may_store:
            await self._store.write(series, candle_days.kept_days(fetched, fetch.keep))
        return candle_days.merged(known, fetched).between(*span)

    async def _fetched(self, instrument: Instrument, span: Span, until: float) -> Columns:
        """Candles of a span through ingest, whole or not at all."""
        seconds = max(until - time.monotonic(), _SHORTEST_SECONDS)
        request = HistoryRequest(
            instrument_token=instrument.instrument_token,
            interval=self._terms.interval,
            start=span.start,
            end=span.end,
            # Always, since a stored day serves those who want it and those who do not.
            oi=instrument.kind in _HAVE_OI,
            continuous=self._terms.continuous,
            source=self.source,
        )
        pieces: list[Columns] = []
        metrics.CANDLE_FETCHES_TOTAL.inc()
        with _explained():
            async with market_requests.history(
                self._bus,
                request,
                timeout_seconds=seconds,
                headers={codec.HEADER_TIMEOUT_SECONDS: f"{seconds:.3f}"},
            ) as parts:
                async for part in parts:
                    self._check(part.source)
                    pieces.append(columns_of(part.candles))
        return join(pieces)

    def _check(self, came: Source | None) -> None:
        if self.source is None:
            self.source = came
        elif came is None:
            # An older ingest that does not say: nobody can vouch for what would be kept.
            self._may_store = False
        elif came is not self.source:
            raise RequestError(
                RpcError(
                    code="unavailable",
                    message=f"the market turned from {self.source.value} to {came.value} "
                    "during the request",
                    retry_after_seconds=_RETRY_SECONDS,
                )
            )


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what a request to ingest can fail with into what the caller is told."""
    try:
        yield
    except ServiceRefusedError as error:
        raise RequestError(
            RpcError(code=error.code, message=error.reason, field=error.field)
        ) from error
    except ServiceBusyError as error:
        raise RequestError(
            RpcError(
                code=error.code,
                message=error.reason,
                retry_after_seconds=error.retry_after_seconds,
            )
        ) from error
    except NoResponderError as error:
        raise RequestError(
            RpcError(
                code="no_account",
                message="no ingest process holds an account with a session",
                retry_after_seconds=_RETRY_SECONDS,
            )
        ) from error
    except RequestTimeoutError as error:
        raise RequestError(RpcError(code="timeout", message=str(error))) from error
    except (IncompleteAnswerError, BusUnavailableError, codec.DecodeError) as error:
        raise RequestError(
            RpcError(code="unavailable", message=str(error), retry_after_seconds=_RETRY_SECONDS)
        ) from error
