"""What is wrong with a request, before anybody is bothered with it."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from libs.common.contracts import codec
from libs.common.contracts.messages import CandleInterval, HistoryRequest, QuoteRequest, RpcError
from libs.common.domain import candle_spans

PIECES_AT_MOST: Final = 100
"""Of one request: sixteen years of minutes, more than Kite has."""
CANDLES_PER_PART: Final = 5_000
"""In one message: about 0.4 MB."""

_INSTRUMENT: Final = re.compile(r"[A-Z]{2,8}:[!-~][ -~]{0,63}|[0-9]{1,10}")
_PATH: Final = re.compile(r" - at `\$\.?([^`]*)`$")
_MISSING: Final = re.compile(r"missing required field `([^`]*)`")


def unreadable(error: codec.DecodeError) -> RpcError:
    """Say what is wrong with bytes that are no request, and name the field where there is one."""
    path, missing = _PATH.search(error.reason), _MISSING.search(error.reason)
    field = ".".join(part for part in (path and path[1], missing and missing[1]) if part)
    return RpcError(code="bad_request", message=str(error), field=field or None)


def history_problem(request: HistoryRequest) -> RpcError | None:
    """Say what is wrong with a request for candles, or None."""
    for field in ("start", "end"):
        if getattr(request, field) > candle_spans.LAST_SECOND:
            return _bad(field, "must be epoch seconds, not milliseconds")
    if request.end < request.start:
        return _bad("end", "must not be before start")
    if request.continuous and request.interval is not CandleInterval.DAY:
        return _bad("continuous", "exists for day candles only")
    count = candle_spans.pieces(request.start, request.end, request.interval.value)
    if count > PIECES_AT_MOST:
        days = PIECES_AT_MOST * candle_spans.DAYS_AT_ONCE[request.interval.value]
        return _bad("start", f"lies more than {days} days of {request.interval} before end")
    return None


def quote_problem(request: QuoteRequest) -> RpcError | None:
    """Say what is wrong with a request for quotes, or None."""
    for place, name in enumerate(request.instruments):
        if not _INSTRUMENT.fullmatch(name):
            return _bad(
                f"instruments[{place}]",
                f"must be EXCHANGE:SYMBOL or a token, not {name[:40]!r}",
            )
    return None


def chunks(instruments: Sequence[str], at_once: int) -> Iterator[tuple[str, ...]]:
    """Cut instruments into calls; one that is named twice is asked for once."""
    names = tuple(dict.fromkeys(instruments))
    for first in range(0, len(names), at_once):
        yield names[first : first + at_once]


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
        return _bad(codec.HEADER_TIMEOUT_SECONDS, "must be a number of seconds above 0")
    return min(seconds, usual)


def refused_by_kite(reason: str) -> RpcError:
    """What Kite's refusal of the parameters means; an unknown token is told apart by its text."""
    if "invalid token" in reason.lower():
        return RpcError(
            code="not_found", message=f"Kite knows no such token: {reason}", field=_TOKEN
        )
    return RpcError(code="bad_request", message=f"Kite refused the request: {reason}")


_TOKEN: Final = "instrument_token"  # noqa: S105  # The name of a field.


def _bad(field: str, problem: str) -> RpcError:
    return RpcError(code="bad_request", message=f"{field} {problem}", field=field)
