"""Reads single query parameters; what is wrong with one is said by its name."""

import re
from collections.abc import Collection, Iterable
from datetime import date
from typing import Final

from services.gateway.errors import BadParameterError

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1000
OFFSET_MAX: Final = 2**31
NAME_LENGTH_MAX: Final = 64

_AMOUNT: Final = re.compile(r"\d{1,9}(\.\d{1,4})?", re.ASCII)


def refuse_unknown(names: Iterable[str], allowed: Collection[str] = ()) -> None:
    """Refuse a query that holds a parameter which is not allowed.

    Raises:
        BadParameterError: Names it. A misspelt filter that is ignored gives wrong data with
            status 200, and a secret in an address is logged by every proxy.
    """
    for name in names:
        if name not in allowed:
            known = ", ".join(sorted(allowed)) or "none"
            raise BadParameterError(name[:NAME_LENGTH_MAX], f"unknown parameter; known: {known}")


def read_name(field: str, text: str | None) -> str | None:
    """Read a text that is part of a name.

    Raises:
        BadParameterError: It is empty, too long or holds control characters.
    """
    if text is not None and not (0 < len(text) <= NAME_LENGTH_MAX and text.isprintable()):
        raise BadParameterError(field, f"must be a name of 1 to {NAME_LENGTH_MAX} letters")
    return text


def read_choice(field: str, text: str | None, choices: tuple[str, ...]) -> str | None:
    """Read one of some words.

    Raises:
        BadParameterError: It is none of them.
    """
    if text is not None and text not in choices:
        raise BadParameterError(field, f"must be one of {', '.join(choices)}")
    return text


def read_flag(field: str, text: str | None) -> bool | None:
    """Read `true` or `false`.

    Raises:
        BadParameterError: It is neither.
    """
    if text not in {None, "true", "false"}:
        raise BadParameterError(field, "must be true or false")
    return None if text is None else text == "true"


def read_date(field: str, text: str | None) -> date | None:
    """Read a day.

    Raises:
        BadParameterError: There is no such day.
    """
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise BadParameterError(field, "must be a date such as 2026-12-31") from error


def read_amount(field: str, text: str | None) -> float | None:
    """Read rupees.

    Raises:
        BadParameterError: It is no plain decimal number of up to nine digits and four places.
    """
    if text is None:
        return None
    if not _AMOUNT.fullmatch(text):
        raise BadParameterError(field, "must be an amount in rupees such as 26000 or 102.5")
    return float(text)


def read_whole(field: str, text: str | None, *, default: int, low: int, high: int) -> int:
    """Read a whole number.

    Raises:
        BadParameterError: It is none, or outside the bounds.
    """
    if text is None:
        return default
    digits = text if text.isascii() and text.isdigit() and len(text) <= 10 else None
    if digits is None or not low <= int(digits) <= high:
        raise BadParameterError(field, f"must be a whole number from {low} to {high}")
    return int(digits)
