"""Has the process make a call that holds another account."""

import time
from collections.abc import Iterable, Iterator
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
from libs.common.contracts.messages import (
    Candle,
    HistoryRequest,
    QuoteRequest,
    RpcError,
    Source,
)
from services.ingest.domain import handover
from services.ingest.domain.candle_piece import CandlePiece
from services.ingest.domain.handover import Failure
from services.ingest.errors import AccountFailedError, RequestError

# An answer that is due at once still has to travel.
_SHORTEST_SECONDS = 0.1


class RemoteDesks:
    """Calls through the accounts of other processes, which make them at once or not at all.

    Args:
        bus: The connection.
        answer_seconds: How long the other process may take for one call.
    """

    def __init__(self, bus: Bus, *, answer_seconds: float) -> None:
        self._bus = bus
        self._answer_seconds = answer_seconds

    async def candles(
        self, account: str, tried: Iterable[str], until: float, request: HistoryRequest
    ) -> CandlePiece:
        """Candles of one piece, whole or not at all.

        Args:
            account: With which.
            tried: The accounts that could not, in order.
            until: When an answer is of no use any more (`time.monotonic`).
            request: Within what Kite gives at once.

        Raises:
            AccountFailedError: That account could not; another one may.
            RequestError: The request is wrong.
        """
        seconds = self._seconds(until)
        candles: list[Candle] = []
        source: Source | None = None
        with _sorted(account):
            async with market_requests.history(
                self._bus,
                request,
                account=account,
                timeout_seconds=seconds,
                headers=_headers(tried, seconds),
            ) as parts:
                async for part in parts:
                    candles.extend(part.candles)
                    source = part.source
        return CandlePiece(candles, source)

    async def quotes(
        self, account: str, tried: Iterable[str], until: float, request: QuoteRequest
    ) -> dict[str, msgspec.Raw]:
        """Quotes of one call; see `candles`."""
        seconds = self._seconds(until)
        with _sorted(account):
            reply = await market_requests.quotes(
                self._bus,
                request,
                account=account,
                timeout_seconds=seconds,
                headers=_headers(tried, seconds),
            )
        return reply.quotes

    def _seconds(self, until: float) -> float:
        return max(min(self._answer_seconds, until - time.monotonic()), _SHORTEST_SECONDS)


def _headers(tried: Iterable[str], seconds: float) -> dict[str, str]:
    return {
        # Its presence alone says: now or not at all. Before any attempt it names nobody.
        codec.HEADER_TRIED: handover.tried_header(tried),
        codec.HEADER_TIMEOUT_SECONDS: f"{seconds:.3f}",
    }


@contextmanager
def _sorted(account: str) -> Iterator[None]:
    """Turn what a request can fail with into what it means for the search of an account."""
    try:
        yield
    except ServiceRefusedError as error:
        raise RequestError(
            RpcError(code=error.code, message=error.reason, field=error.field)
        ) from error
    except ServiceBusyError as error:
        raise AccountFailedError(
            account,
            handover.failure_of(error.code).value,
            retry_after_seconds=error.retry_after_seconds,
        ) from error
    except NoResponderError as error:
        raise AccountFailedError(account, Failure.NO_RESPONDER.value) from error
    except (RequestTimeoutError, IncompleteAnswerError, codec.DecodeError) as error:
        raise AccountFailedError(account, Failure.NO_ANSWER.value, str(error)) from error
    except BusUnavailableError as error:
        raise AccountFailedError(account, Failure.UNAVAILABLE.value, error.reason) from error
