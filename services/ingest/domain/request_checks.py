"""What is wrong with a request for quotes, how it is cut, and what Kite's refusals mean."""

import re
from collections.abc import Iterator, Sequence
from typing import Final

from libs.common.contracts.messages import QuoteRequest, RpcError
from libs.common.contracts.request_checks import bad

CANDLES_PER_PART: Final = 5_000
"""In one message: about 0.4 MB."""

_INSTRUMENT: Final = re.compile(r"[A-Z]{2,8}:[!-~][ -~]{0,63}|[0-9]{1,10}")


def quote_problem(request: QuoteRequest) -> RpcError | None:
    """Say what is wrong with a request for quotes, or None."""
    for place, name in enumerate(request.instruments):
        if not _INSTRUMENT.fullmatch(name):
            return bad(
                f"instruments[{place}]",
                f"must be EXCHANGE:SYMBOL or a token, not {name[:40]!r}",
            )
    return None


def chunks(instruments: Sequence[str], at_once: int) -> Iterator[tuple[str, ...]]:
    """Cut instruments into calls; one that is named twice is asked for once."""
    names = tuple(dict.fromkeys(instruments))
    for first in range(0, len(names), at_once):
        yield names[first : first + at_once]


def refused_by_kite(reason: str) -> RpcError:
    """What Kite's refusal of the parameters means; an unknown token is told apart by its text."""
    if "invalid token" in reason.lower():
        return RpcError(
            code="not_found", message=f"Kite knows no such token: {reason}", field=_TOKEN
        )
    return RpcError(code="bad_request", message=f"Kite refused the request: {reason}")


_TOKEN: Final = "instrument_token"  # noqa: S105  # The name of a field.
