"""What is wrong with a request over the bus, as its caller is told."""

import math
import re
from collections.abc import Mapping
from typing import Final

from libs.common.contracts import codec
from libs.common.contracts.messages import CandleInterval, CandlesRequest, HistoryRequest, RpcError
from libs.common.domain import candle_spans

PIECES_AT_MOST: Final = 100
"""Of one request for candles: sixteen years of minutes, more than Kite has."""

_PATH: Final = re.compile(r" - at `\$\.?([^`]*)`$")
_MISSING: Final = re.compile(r"missing required field `([^`]*)`")


def bad(field: str, problem: str) -> RpcError:
    """A request that is wrong in one field."""
    return RpcError(code="bad_request", message=f"{field} {problem}", field=field)


def unreadable(error: codec.DecodeError) -> RpcError:
    """Say what is wrong with bytes that are no request, and name the field where there is one."""
    path, missing = _PATH.search(error.reason), _MISSING.search(error.reason)
    field = ".".join(part for part in (path and path[1], missing and missing[1]) if part)
    return RpcError(code="bad_request", message=str(error), field=field or None)


def candles_problem(request: HistoryRequest | CandlesRequest) -> RpcError | None:
    """Say what is wrong with the span of a request for candles, or None."""
    for field in ("start", "end"):
        if getattr(request, field) > candle_spans.LAST_SECOND:
            return bad(field, "must be epoch seconds, not milliseconds")
    if request.end < request.start:
        return bad("end", "must not be before start")
    if request.continuous and request.interval is not CandleInterval.DAY:
        return bad("continuous", "exists for day candles only")
    count = candle_spans.pieces(request.start, request.end, request.interval.value)
    if count > PIECES_AT_MOST:
        days = PIECES_AT_MOST * candle_spans.DAYS_AT_ONCE[request.interval.value]
        return bad("start", f"lies more than {days} days of {request.interval} before end")
    return None


def patience_seconds(headers: Mapping[str, str], usual: float) -> float | RpcError:
    """How long the caller waits for an answer: what its header says, but not more than usual."""
    text = headers.get(codec.HEADER_TIMEOUT_SECONDS)
    if text is None:
        return usual
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        return bad(codec.HEADER_TIMEOUT_SECONDS, "must be a number of seconds above 0")
    return min(seconds, usual)
