"""Asks for candles piece by piece, so that a slow client holds one piece and no more."""

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager

import msgspec

from libs.common.bus import market_requests
from libs.common.bus.connection import MIB, Bus
from libs.common.bus.errors import (
    BusUnavailableError,
    IncompleteAnswerError,
    NoResponderError,
    RequestTimeoutError,
    ServiceBusyError,
    ServiceRefusedError,
)
from libs.common.contracts import codec
from libs.common.contracts.messages import CandlesPart, CandlesRequest, Source
from libs.common.domain.candle_spans import split
from services.gateway import metrics
from services.gateway.domain.candle_query import FIELD_OF
from services.gateway.errors import CandlesFailedError

# Greeks gives its own answer, or says why not, a moment before.
_MARGIN_SECONDS = 2.0
_RETRY_SECONDS = 2.0
# The longest piece, sixty days of minutes of a commodity with Greeks, has some 15 MB.
_PENDING_BYTES = 32 * MIB


class CandleDesk:
    """Requests for candles to the greeks workers.

    The span is cut as Kite cuts it, and the next piece is asked for when the client has taken the
    one before: between pieces a slow client costs nobody anything.

    Args:
        bus: The connection.
        concurrency: Requests at once; one more is refused.
        piece_seconds: How long greeks may take for one piece.
    """

    def __init__(self, bus: Bus, *, concurrency: int, piece_seconds: float) -> None:
        self._bus = bus
        self._concurrency = concurrency
        self._piece_seconds = piece_seconds
        self._running = 0

    async def parts(self, request: CandlesRequest) -> AsyncGenerator[CandlesPart, None]:
        """The candles, part by part, oldest first; leaving the iteration ends the request.

        Raises:
            CandlesFailedError: They cannot be served, or not any further.
        """
        if self._running >= self._concurrency:
            raise CandlesFailedError(
                "busy",
                "too many requests for candles are being served",
                retry_after_seconds=_RETRY_SECONDS,
            )
        self._running += 1
        metrics.HISTORY_RUNNING.set(self._running)
        try:
            source: Source | None = None
            for span in split(request.start, request.end, request.interval.value):
                piece = msgspec.structs.replace(request, start=span.start, end=span.end)
                async with aclosing(self._piece(piece)) as parts:
                    async for part in parts:
                        source = source or part.source
                        if part.source is not source:
                            raise CandlesFailedError(
                                "unavailable",
                                "the market turned between live and simulated; ask again",
                                retry_after_seconds=_RETRY_SECONDS,
                            )
                        yield part
        finally:
            self._running -= 1
            metrics.HISTORY_RUNNING.set(self._running)

    async def _piece(self, request: CandlesRequest) -> AsyncGenerator[CandlesPart, None]:
        seconds = self._piece_seconds
        with _explained():
            async with market_requests.candles(
                self._bus,
                request,
                timeout_seconds=seconds + _MARGIN_SECONDS,
                headers={codec.HEADER_TIMEOUT_SECONDS: f"{seconds:g}"},
                pending_bytes_limit=_PENDING_BYTES,
            ) as parts:
                async for part in parts:
                    yield part


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what a request can fail with into what the client is told."""
    try:
        yield
    except ServiceRefusedError as error:
        field = None if error.field is None else FIELD_OF.get(error.field, error.field)
        raise CandlesFailedError(error.code, error.reason, field=field) from error
    except ServiceBusyError as error:
        raise CandlesFailedError(
            error.code, error.reason, retry_after_seconds=error.retry_after_seconds
        ) from error
    except NoResponderError as error:
        raise CandlesFailedError(
            "no_worker", "no greeks process runs", retry_after_seconds=_RETRY_SECONDS
        ) from error
    except RequestTimeoutError as error:
        raise CandlesFailedError("timeout", str(error)) from error
    except (IncompleteAnswerError, BusUnavailableError, codec.DecodeError) as error:
        raise CandlesFailedError(
            "unavailable", str(error), retry_after_seconds=_RETRY_SECONDS
        ) from error
