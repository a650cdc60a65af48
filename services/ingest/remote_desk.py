"""Has the process make a call that holds another account."""

import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import msgspec

from libs.common.bus.connection import Bus, BusMessage
from libs.common.bus.errors import BusUnavailableError, NoResponderError, RequestTimeoutError
from libs.common.bus.requests import request_stream
from libs.common.contracts import codec, subjects
from libs.common.contracts.messages import (
    Candle,
    HistoryPart,
    HistoryRequest,
    QuoteReply,
    QuoteRequest,
    RpcError,
)
from services.ingest.domain import handover
from services.ingest.domain.handover import Failure
from services.ingest.errors import AccountFailedError, RequestError

# An answer that is lost must not cost the caller's whole patience.
_SHORTEST_SECONDS = 0.1


class RemoteDesks:
    """Calls through the accounts of other processes, which answer at once or not at all.

    Args:
        bus: The connection.
        answer_seconds: How long the other process may take for one call.
    """

    def __init__(self, bus: Bus, *, answer_seconds: float) -> None:
        self._bus = bus
        self._answer_seconds = answer_seconds

    async def candles(
        self, account: str, tried: Iterable[str], until: float, request: HistoryRequest
    ) -> list[Candle]:
        """Candles of one piece, whole or not at all.

        Raises:
            AccountFailedError: That account could not; another one may.
            RequestError: The request is wrong.
        """
        candles: list[Candle] = []
        subject = subjects.rpc_history_of(account)
        async with self._asked(account, subject, codec.to_json(request), tried, until) as answers:
            expected = 0
            async for message in answers:
                part = codec.from_json(HistoryPart, message.payload)
                if part.error is not None:
                    raise _error(account, part.error)
                if part.part != expected:
                    raise _failed(account, Failure.NO_ANSWER, "a part of its answer was lost")
                expected += 1
                candles.extend(part.candles)
        return candles

    async def quotes(
        self, account: str, tried: Iterable[str], until: float, request: QuoteRequest
    ) -> dict[str, msgspec.Raw]:
        """Quotes of one call.

        Raises:
            AccountFailedError: That account could not; another one may.
            RequestError: The request is wrong.
        """
        subject = subjects.rpc_quote_of(account)
        quotes: dict[str, msgspec.Raw] = {}
        async with self._asked(account, subject, codec.to_json(request), tried, until) as answers:
            async for message in answers:
                reply = codec.from_json(QuoteReply, message.payload)
                if reply.error is not None:
                    raise _error(account, reply.error)
                quotes = reply.quotes
        return quotes

    @asynccontextmanager
    async def _asked(
        self, account: str, subject: str, payload: bytes, tried: Iterable[str], until: float
    ) -> AsyncIterator[AsyncIterator[BusMessage]]:
        seconds = max(min(self._answer_seconds, until - time.monotonic()), _SHORTEST_SECONDS)
        headers = {
            # Its presence alone says: answer at once. Before any attempt it names nobody.
            codec.HEADER_TRIED: handover.tried_header(tried),
            codec.HEADER_TIMEOUT_SECONDS: f"{seconds:.3f}",
        }
        try:
            async with request_stream(
                self._bus,
                subject,
                payload,
                is_last=_is_last,
                timeout_seconds=seconds,
                headers=headers,
            ) as answers:
                yield answers
        except NoResponderError as error:
            raise _failed(account, Failure.NO_RESPONDER) from error
        except RequestTimeoutError as error:
            raise _failed(account, Failure.NO_ANSWER, str(error)) from error
        except BusUnavailableError as error:
            raise _failed(account, Failure.UNAVAILABLE, error.reason) from error
        except codec.DecodeError as error:
            raise _failed(account, Failure.NO_ANSWER, str(error)) from error


class _Ending(msgspec.Struct):
    # A QuoteReply has no such field: it is a whole answer.
    last: bool = True


_ENDINGS = msgspec.json.Decoder(_Ending)


def _is_last(message: BusMessage) -> bool:
    try:
        return _ENDINGS.decode(message.payload).last
    except (msgspec.DecodeError, ValueError, RecursionError):
        return True


def _failed(account: str, failure: Failure, reason: str = "") -> AccountFailedError:
    return AccountFailedError(account, failure.value, reason)


def _error(account: str, error: RpcError) -> AccountFailedError | RequestError:
    failure = handover.failure_of(error)
    if failure is None:
        return RequestError(error)
    return AccountFailedError(account, failure.value, retry_after_seconds=error.retry_after_seconds)
