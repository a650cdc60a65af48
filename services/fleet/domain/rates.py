"""Turns two readings of a process's counters into rates worth showing."""

from collections.abc import Mapping


def rates_per_second(
    before: Mapping[str, float], after: Mapping[str, float], seconds: float
) -> dict[str, float]:
    """Give the growth of every counter, per second.

    A counter that went down belongs to a process that was started anew in between: it has counted
    from zero.

    Raises:
        ValueError: No time has passed.
    """
    if seconds <= 0:
        raise ValueError("rates need two readings at different times")
    return {
        name: (value if value < before.get(name, 0.0) else value - before.get(name, 0.0)) / seconds
        for name, value in after.items()
    }


def headline(rates: Mapping[str, float], service: str, most: int = 3) -> str:
    """Give the busiest counters of a process as one short text."""
    busy = sorted(
        ((rate, name) for name, rate in rates.items() if rate > 0), key=lambda item: -item[0]
    )
    return ", ".join(f"{_short(name, service)} {_number(rate)}/s" for rate, name in busy[:most])


def _short(name: str, service: str) -> str:
    short = name.removeprefix("tickfleet_").removeprefix(f"{service}_").removesuffix("_total")
    return short.replace("_", " ")


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.1f}"
