"""Reads the parameters of `GET /history`."""

from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from typing import Final

from libs.common.contracts.messages import CandleInterval, CandlesRequest
from libs.common.domain.candle_spans import LAST_SECOND
from libs.common.domain.clock import IST
from services.gateway.domain.parameters import read_choice, refuse_unknown
from services.gateway.errors import BadParameterError, BadSpanError

PARAMETERS: Final = (
    "instrument_token",
    "from_ts",
    "to_ts",
    "interval",
    "oi",
    "greeks",
    "continuous",
)
FIELD_OF: Final = {"start": "from_ts", "end": "to_ts"}
"""Parameters by the field of a request that they became."""

_TOKEN_MAX: Final = 2**32 - 1
_FLAGS: Final = {"true": True, "1": True, "false": False, "0": False}
_EXAMPLES: Final = "such as 1795405500, 2026-11-24, or 2026-11-24T09:15:00+05:30"


def read_candle_query(items: Sequence[tuple[str, str]]) -> CandlesRequest:
    """Read the parameters of a request for candles.

    Args:
        items: Names and values, as often as they were given.

    Raises:
        BadParameterError: One is unknown, given twice, missing or unreadable; names it.
        BadSpanError: `to_ts` is not after `from_ts`.
    """
    refuse_unknown((name for name, _ in items), PARAMETERS)
    given: dict[str, str] = {}
    for name, text in items:
        if name in given:
            raise BadParameterError(name, "is given more than once")
        given[name] = text
    start = read_moment("from_ts", given.get("from_ts"))
    end = read_moment("to_ts", given.get("to_ts"), is_end=True)
    request = CandlesRequest(
        instrument_token=_token(given.get("instrument_token")),
        interval=_interval(given.get("interval")),
        start=start,
        end=end,
        oi=_flag("oi", given.get("oi")) or False,
        greeks=_flag("greeks", given.get("greeks")),
        continuous=_flag("continuous", given.get("continuous")) or False,
    )
    if end <= start:
        raise BadSpanError("to_ts", "must be after from_ts")
    return request


def read_moment(field: str, text: str | None, *, is_end: bool = False) -> int:
    """Read epoch seconds, a date or a time; Indian time unless it names a zone.

    Args:
        field: The parameter.
        text: Its value; None if it is missing.
        is_end: Whether a bare date means its last second instead of its first.

    Raises:
        BadParameterError: It is missing, unreadable, or outside the years 1970 to 2999.
    """
    if text is None:
        raise BadParameterError(field, f"is required, {_EXAMPLES}")
    second = _second(text, is_end=is_end)
    if second is None:
        # A plus in an address stands for a space: the usual way to lose a zone.
        hint = " (in an address, write the plus of a zone as %2B)" if " " in text else ""
        raise BadParameterError(field, f"must be epoch seconds or ISO 8601, {_EXAMPLES}{hint}")
    if not 0 <= second <= LAST_SECOND:
        raise BadParameterError(
            field, "must lie in the years 1970 to 2999; epoch seconds, not milliseconds"
        )
    return second


def _second(text: str, *, is_end: bool) -> int | None:
    if text.isascii() and text.isdigit():
        # A day in its basic form, 20261124, has as many digits as a second of 1970.
        return int(text) if len(text) <= 16 else LAST_SECOND + 1
    try:
        if len(text) == 10:
            day = datetime.combine(date.fromisoformat(text), time.min, tzinfo=IST)
            return int((day + timedelta(days=is_end)).timestamp()) - is_end
        at = datetime.fromisoformat(text)
        return int((at if at.tzinfo else at.replace(tzinfo=IST)).timestamp())
    except (ValueError, OverflowError):
        return None


def _token(text: str | None) -> int:
    if text is None:
        raise BadParameterError("instrument_token", "is required, such as 256265")
    digits = text.isascii() and text.isdigit() and len(text) <= 10
    if not digits or int(text) > _TOKEN_MAX:
        raise BadParameterError(
            "instrument_token", f"must be a whole number from 0 to {_TOKEN_MAX}"
        )
    return int(text)


def _interval(text: str | None) -> CandleInterval:
    choices = tuple(interval.value for interval in CandleInterval)
    return CandleInterval(read_choice("interval", text, choices) or CandleInterval.MINUTE)


def _flag(field: str, text: str | None) -> bool | None:
    if text is None:
        return None
    if text not in _FLAGS:
        raise BadParameterError(field, "must be true or false")
    return _FLAGS[text]
