"""Asks the fleet for candles, quotes and explanations; checks that the answers are whole."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TypeVar

import msgspec

from libs.common.bus.connection import Bus, BusMessage
from libs.common.bus.errors import (
    IncompleteAnswerError,
    ServiceBusyError,
    ServiceRefusedError,
)
from libs.common.bus.requests import request_stream
from libs.common.contracts import codec, subjects
from libs.common.contracts.messages import (
    CandlesPart,
    CandlesRequest,
    ExplainReply,
    ExplainRequest,
    Explanation,
    HistoryPart,
    HistoryRequest,
    QuoteReply,
    QuoteRequest,
    RpcError,
)

# A little more than an ingest process takes to say that it cannot (REQUEST_DEADLINE_SECONDS).
ANSWER_SECONDS = 25.0
# The same of greeks, which fetches up to four instruments for a piece (CANDLES_DEADLINE_SECONDS).
PRICED_ANSWER_SECONDS = 50.0
# Longer than a greeks worker waits for the one that owns the option's shard.
EXPLANATION_SECONDS = 5.0
_REJECTIONS = frozenset({"bad_request", "not_found"})
_MIB = 1024 * 1024

P = TypeVar("P", HistoryPart, CandlesPart)


@asynccontextmanager
async def history(
    bus: Bus,
    request: HistoryRequest,
    *,
    account: str | None = None,
    timeout_seconds: float = ANSWER_SECONDS,
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[AsyncIterator[HistoryPart]]:
    """Ask for candles; iterate over the parts, oldest first.

    Args:
        bus: The connection.
        request: Which candles.
        account: Through this account alone; None for any.
        timeout_seconds: How long to wait for each part.
        headers: Of the request, such as `codec.HEADER_TIMEOUT_SECONDS`.

    Raises:
        ServiceRefusedError: The request is wrong, or the instrument unknown (while iterating).
        ServiceBusyError: It cannot be served now (while iterating).
        IncompleteAnswerError: A part was lost on the way (while iterating).
        NoResponderError: No process holds an account with a session (while iterating).
        RequestTimeoutError: The next part did not come in time (while iterating).
        BusUnavailableError: The connection is down; nothing was sent.
        DecodeError: An answer is no HistoryPart (while iterating).
    """
    subject = subjects.RPC_HISTORY if account is None else subjects.rpc_history_of(account)
    async with request_stream(
        bus,
        subject,
        codec.to_json(request),
        is_last=_is_last,
        timeout_seconds=timeout_seconds,
        headers=headers,
    ) as answers:
        yield _whole(subject, answers, HistoryPart)


@asynccontextmanager
async def candles(
    bus: Bus,
    request: CandlesRequest,
    *,
    timeout_seconds: float = PRICED_ANSWER_SECONDS,
    headers: Mapping[str, str] | None = None,
    pending_bytes_limit: int = 64 * _MIB,
) -> AsyncIterator[AsyncIterator[CandlesPart]]:
    """Ask for candles with Greeks; iterate over the parts, oldest first.

    Args:
        bus: The connection.
        request: Which candles.
        timeout_seconds: How long to wait for each part.
        headers: Of the request, such as `codec.HEADER_TIMEOUT_SECONDS`.
        pending_bytes_limit: How much may wait for the reader; a part that is lost beyond it ends
            the iteration with IncompleteAnswerError.

    Raises:
        ServiceRefusedError: The request is wrong, or the instrument unknown (while iterating).
        ServiceBusyError: It cannot be served now (while iterating).
        IncompleteAnswerError: A part was lost on the way (while iterating).
        NoResponderError: No greeks process runs (while iterating).
        RequestTimeoutError: The next part did not come in time (while iterating).
        BusUnavailableError: The connection is down; nothing was sent.
        DecodeError: An answer is no CandlesPart (while iterating).
    """
    async with request_stream(
        bus,
        subjects.RPC_CANDLES,
        codec.to_json(request),
        is_last=_is_last,
        timeout_seconds=timeout_seconds,
        headers=headers,
        pending_bytes_limit=pending_bytes_limit,
    ) as answers:
        yield _whole(subjects.RPC_CANDLES, answers, CandlesPart)


async def quotes(
    bus: Bus,
    request: QuoteRequest,
    *,
    account: str | None = None,
    timeout_seconds: float = ANSWER_SECONDS,
    headers: Mapping[str, str] | None = None,
) -> QuoteReply:
    """Ask for quotes; see `history` for the arguments.

    Raises:
        ServiceRefusedError: The request is wrong.
        ServiceBusyError: It cannot be served now.
        NoResponderError: No process holds an account with a session.
        RequestTimeoutError: No answer in time.
        BusUnavailableError: The connection is down; nothing was sent.
        DecodeError: The answer is no QuoteReply.
    """
    subject = subjects.RPC_QUOTE if account is None else subjects.rpc_quote_of(account)
    answer = await bus.request(subject, codec.to_json(request), timeout_seconds, headers)
    reply = codec.from_json(QuoteReply, answer.payload)
    if reply.error is not None:
        raise _raised(subject, reply.error)
    return reply


async def explanation(
    bus: Bus, instrument_token: int, *, timeout_seconds: float = EXPLANATION_SECONDS
) -> Explanation:
    """Ask how an option's Greeks came about.

    Args:
        bus: The connection.
        instrument_token: Of the option.
        timeout_seconds: How long to wait.

    Raises:
        ServiceRefusedError: No instrument has that token, or it is no option.
        ServiceBusyError: Nobody owns its shard now, or its owner is still rebuilding it.
        NoResponderError: No greeks worker runs.
        RequestTimeoutError: No answer in time.
        BusUnavailableError: The connection is down; nothing was sent.
        DecodeError: The answer is no ExplainReply.
    """
    request = ExplainRequest(instrument_token=instrument_token)
    answer = await bus.request(subjects.RPC_EXPLAIN, codec.to_json(request), timeout_seconds)
    reply = codec.from_json(ExplainReply, answer.payload)
    if reply.error is not None:
        raise _raised(subjects.RPC_EXPLAIN, reply.error)
    if reply.explanation is None:
        raise codec.DecodeError(
            message_type=ExplainReply.__name__, reason="neither explanation nor error"
        )
    return reply.explanation


async def _whole(
    subject: str, answers: AsyncIterator[BusMessage], kind: type[P]
) -> AsyncIterator[P]:
    expected = 0
    async for message in answers:
        part = codec.from_json(kind, message.payload)
        # Before the numbers: a process that stops does not know how many parts went before.
        if part.error is not None:
            raise _raised(subject, part.error)
        if part.part != expected:
            raise IncompleteAnswerError(subject, expected=expected, came=part.part)
        expected += 1
        yield part


def _raised(subject: str, error: RpcError) -> ServiceBusyError | ServiceRefusedError:
    if error.code in _REJECTIONS:
        return ServiceRefusedError(
            subject, code=error.code, reason=error.message, field=error.field
        )
    return ServiceBusyError(
        subject,
        code=error.code,
        reason=error.message,
        retry_after_seconds=error.retry_after_seconds,
    )


class _Ending(msgspec.Struct):
    last: bool


_ENDINGS = msgspec.json.Decoder(_Ending)


def _is_last(message: BusMessage) -> bool:
    """Whether the iteration ends here; what cannot be read ends it, its reader says why."""
    try:
        return _ENDINGS.decode(message.payload).last
    except (msgspec.DecodeError, ValueError, RecursionError):
        return True
