"""What can be asked of the instruments: read from parameters, told in SQL."""

from collections.abc import Iterable, Mapping
from datetime import date
from enum import StrEnum
from typing import Any, Final

import msgspec

from libs.common.domain.instruments import MAX_TOKEN, Kind, OptionType
from services.gateway.domain.parameters import (
    LIMIT_DEFAULT,
    LIMIT_MAX,
    NAME_LENGTH_MAX,
    OFFSET_MAX,
    read_amount,
    read_choice,
    read_date,
    read_flag,
    read_name,
    read_whole,
)
from services.gateway.errors import BadParameterError

TOKENS_MAX: Final = 500
WORDS_MAX: Final = 8


class Day(StrEnum):
    """Days that have a name.

    Attributes:
        CURRENT: The dump in force.
        PREVIOUS: The newest one of an earlier day of the same market.
    """

    CURRENT = "current"
    PREVIOUS = "previous"


class InstrumentQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which instruments are wanted; None and () mean any, and all that is given must hold.

    Attributes:
        tokens: Any of these.
        symbol: The whole tradingsymbol, in any case.
        symbol_prefix: How the tradingsymbol begins, in any case.
        name: Part of the name, in any case.
        words: Each is part of the tradingsymbol or of the name, in any case.
        underlying: Exact name.
        exchange: Such as NFO.
        segment: Such as NFO-OPT.
        kind: `option`, `future`, `index` or `equity`.
        expiry: Exact day.
        strike: Exact, rupees.
        strike_min: Lowest strike, rupees; with it or `strike_max` only options are left.
        strike_max: Highest strike, rupees.
        option_type: `CE` or `PE`.
        planned: Only instruments that are (or are not) in the plan.
        reused: Only those whose token meant (or did not mean) another contract the day before.
        day: Of which dump; without meaning when `market_date` is given.
        market_date: Of the newest dump of this day.
        limit: Rows at most.
        offset: Rows to skip.
    """

    tokens: tuple[int, ...] = ()
    symbol: str | None = None
    symbol_prefix: str | None = None
    name: str | None = None
    words: tuple[str, ...] = ()
    underlying: str | None = None
    exchange: str | None = None
    segment: str | None = None
    kind: str | None = None
    expiry: date | None = None
    strike: float | None = None
    strike_min: float | None = None
    strike_max: float | None = None
    option_type: str | None = None
    planned: bool | None = None
    reused: bool | None = None
    day: Day = Day.CURRENT
    market_date: date | None = None
    limit: int = LIMIT_DEFAULT
    offset: int = 0


_TOKENS: Final = "instrument_token"
_NAMES: Final = ("symbol", "symbol_prefix", "name", "underlying", "exchange", "segment", "q")
_AMOUNTS: Final = ("strike", "strike_min", "strike_max")
_OF_A_DAY: Final = frozenset({"day", "market_date"})
PARAMETERS: Final = (
    frozenset(
        {
            *(_TOKENS, *_NAMES, *_AMOUNTS),
            *("kind", "expiry", "option_type", "planned", "reused", "limit", "offset"),
        }
    )
    | _OF_A_DAY
)


def read_query(parameters: Iterable[tuple[str, str]]) -> InstrumentQuery:
    """Read the parameters of a search.

    Args:
        parameters: Name and value, in the order in which they were given.

    Raises:
        BadParameterError: Names the parameter that is unknown, wrong, or given twice.
    """
    given, tokens = _collect(parameters, PARAMETERS)
    names: dict[str, Any] = {field: read_name(field, given.get(field)) for field in _NAMES}
    words = tuple((names.pop("q") or "").split())
    if len(words) > WORDS_MAX or ("q" in given and not words):
        raise BadParameterError("q", f"must be 1 to {WORDS_MAX} words")
    for field in ("exchange", "segment"):
        name = names[field]
        names[field] = None if name is None else name.upper()
    amounts: dict[str, Any] = {field: read_amount(field, given.get(field)) for field in _AMOUNTS}
    low, high = amounts["strike_min"], amounts["strike_max"]
    if low is not None and high is not None and low > high:
        raise BadParameterError("strike_min", "must not be above strike_max")
    return InstrumentQuery(
        tokens=tokens,
        **names,
        words=words,
        kind=read_choice("kind", given.get("kind"), tuple(Kind)),
        expiry=read_date("expiry", given.get("expiry")),
        **amounts,
        option_type=read_choice("option_type", given.get("option_type"), tuple(OptionType)),
        planned=read_flag("planned", given.get("planned")),
        reused=read_flag("reused", given.get("reused")),
        **_read_day(given),
        limit=read_whole("limit", given.get("limit"), default=LIMIT_DEFAULT, low=1, high=LIMIT_MAX),
        offset=read_whole("offset", given.get("offset"), default=0, low=0, high=OFFSET_MAX),
    )


def read_lookup(token: str, parameters: Iterable[tuple[str, str]]) -> InstrumentQuery:
    """Read the question for one instrument.

    Args:
        token: What stands in the path.
        parameters: Only those that name a day.

    Raises:
        BadParameterError: Names what is wrong.
    """
    given, _ = _collect(parameters, _OF_A_DAY)
    return InstrumentQuery(tokens=(read_token(token),), limit=1, **_read_day(given))


def _collect(
    parameters: Iterable[tuple[str, str]], allowed: frozenset[str]
) -> tuple[dict[str, str], tuple[int, ...]]:
    given: dict[str, str] = {}
    tokens: dict[int, None] = {}
    for field, text in parameters:
        # A misspelt filter that is ignored gives wrong data with status 200, and of a filter
        # that is given twice one would be ignored.
        if field not in allowed:
            known = ", ".join(sorted(allowed))
            raise BadParameterError(field[:NAME_LENGTH_MAX], f"unknown parameter; known: {known}")
        if field == _TOKENS:
            tokens |= dict.fromkeys(read_token(part) for part in text.split(",", TOKENS_MAX))
        elif field in given:
            raise BadParameterError(field, "is given twice")
        else:
            given[field] = text
    if len(tokens) > TOKENS_MAX:
        raise BadParameterError(_TOKENS, f"must be at most {TOKENS_MAX} tokens")
    return given, tuple(tokens)


def read_token(text: str) -> int:
    """Read an instrument token.

    Raises:
        BadParameterError: It is none.
    """
    token = read_whole(_TOKENS, text.strip(), default=0, low=0, high=MAX_TOKEN)
    if not token:
        raise BadParameterError(_TOKENS, f"must be a whole number from 1 to {MAX_TOKEN}")
    return token


def _read_day(given: Mapping[str, str]) -> dict[str, Any]:
    if given.keys() >= _OF_A_DAY:
        raise BadParameterError("market_date", "give day or market_date, not both")
    day = read_choice("day", given.get("day"), tuple(Day))
    return {
        "day": Day(day) if day is not None else Day.CURRENT,
        "market_date": read_date("market_date", given.get("market_date")),
    }


# Field → condition on `instrument_rows i`; {} is the place of its value.
_CONDITIONS: Final[Mapping[str, str]] = {
    "symbol": "upper(i.tradingsymbol) = upper({}::text)",
    "underlying": "i.underlying = {}",
    "exchange": "i.exchange = {}",
    "segment": "i.segment = {}",
    "kind": "i.kind = {}",
    "expiry": "i.expiry = {}",
    "strike": "i.strike = {}",
    "strike_min": "i.strike >= {}",
    "strike_max": "i.strike <= {}",
    "option_type": "i.option_type = {}",
}
_TEXT: Final = (
    "(upper(i.tradingsymbol) LIKE upper({0}::text) OR upper(i.name) LIKE upper({0}::text))"
)


def conditions(query: InstrumentQuery, first: int = 1) -> tuple[list[str], list[Any]]:
    """Tell a query in SQL, as conditions on `instrument_rows i` and `plan_entries p`.

    Args:
        query: What is wanted.
        first: Number of the first parameter.

    Returns:
        Conditions that must all hold, and the values of their parameters. The conditions are made
        of constants of this module and of numbers alone; whatever a client sent is a value.
    """
    clauses: list[str] = []
    values: list[Any] = []

    def add(condition: str, value: Any) -> None:
        clauses.append(condition.format(f"${first + len(values)}"))
        values.append(value)

    if query.tokens:
        add("i.instrument_token = ANY({}::bigint[])", list(query.tokens))
    for field, condition in _CONDITIONS.items():
        value = getattr(query, field)
        if value is not None:
            add(condition, value)
    if query.symbol_prefix is not None:
        pattern = f"{_escaped(query.symbol_prefix)}%"
        add("upper(i.tradingsymbol) LIKE upper({}::text)", pattern)
    if query.name is not None:
        add("upper(i.name) LIKE upper({}::text)", f"%{_escaped(query.name)}%")
    for word in query.words:
        add(_TEXT, f"%{_escaped(word)}%")
    for column, flag in (("p.account_id", query.planned), ("i.reused_from", query.reused)):
        if flag is not None:
            clauses.append(f"{column} IS {'NOT ' if flag else ''}NULL")
    return clauses, values


def _escaped(text: str) -> str:
    """A text that LIKE takes literally."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
