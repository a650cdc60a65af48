"""What exists nearest to what was asked for, to be named beside a refusal."""

from collections.abc import Collection, Iterable
from datetime import date
from difflib import get_close_matches
from typing import Final

NAMES_MAX: Final = 3


def missing(
    what: str, underlying: str, expiry: date | None, held: Iterable[tuple[str, date]]
) -> str:
    """Say what is missing and what is there instead.

    Args:
        what: In words, such as `chain`.
        underlying: The name that was asked for.
        expiry: The day that was asked for; None for any.
        held: Underlyings and expiries that there are.
    """
    every = list(held)
    days = [day for name, day in every if name == underlying]
    if days and expiry is not None:
        day = min(days, key=lambda found: (abs(found - expiry), found))
        return f"there is no {what} of {underlying} for {expiry}; the nearest is {day}"
    names = like(underlying, {name for name, _ in every})
    hint = f"; there is one of {', '.join(names)}" if names else ""
    return f"there is no {what} of {underlying}{hint}"


def like(name: str, names: Collection[str]) -> list[str]:
    """Names spelled like one, the most alike first; some others when none is."""
    by_capitals = {known.upper(): known for known in sorted(names)}
    found = get_close_matches(name.upper(), by_capitals, NAMES_MAX)
    return [by_capitals[capitals] for capitals in found or list(by_capitals)[:NAMES_MAX]]
