"""Says what is wrong with a line of the wire: what any reader of prices and Greeks relies on."""

import json
from collections.abc import Iterator
from math import isfinite
from typing import Any

VOLATILITIES = ("iv", "bid_iv", "ask_iv", "smile_iv", "atm_iv")
GREEKS = ("delta", "gamma", "theta", "vega", "rho")
PRICES = ("last_price", "bid", "ask", "forward", "strike", "atm_strike", "straddle", "spot")
WITH_VOLATILITY = frozenset({"ok", "low_vega", "crossed", "stale_forward"})
MAY_BORROW = frozenset({"no_price", "below_intrinsic", "above_max"})
"""Statuses whose rows may take their Greeks from the strike's other leg."""

_SIDES = ("calls", "puts")


def problems_of(line: bytes) -> list[str]:
    """List what a line of NDJSON says that no line may say; empty for a good one.

    Understands every message of the market data: ticks, forwards, chains (column by column),
    curves. What it does not know by name must still be finite.
    """
    constants: list[str] = []
    told = json.loads(line, parse_constant=constants.append)
    problems = [f"{name} is no JSON" for name in constants]
    problems += [f"{path} is {value}" for path, value in _numbers(told) if not isfinite(value)]
    for row in _rows(told):
        problems += _problems_of_row(row)
    return problems


def _numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    """Every number of a message with the place where it stands."""
    if isinstance(value, float):
        yield path, value
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from _numbers(part, f"{path}.{name}")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            yield from _numbers(part, f"{path}[{index}]")


def _rows(told: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The message itself, and the entries of each side where it is a chain."""
    yield {name: value for name, value in told.items() if not isinstance(value, (list, dict))}
    for side in _SIDES:
        columns = told.get(side)
        if isinstance(columns, dict):
            for entry in zip(*columns.values(), strict=True):
                yield dict(zip(columns, entry, strict=True))


def _problems_of_row(row: dict[str, Any]) -> list[str]:
    """What is wrong with one instrument's values."""
    known = {name: value for name, value in row.items() if value is not None}
    problems = [
        f"{name} is {known[name]}: null is meant"
        for name in (*VOLATILITIES, *PRICES)
        if name in known and not known[name] > 0
    ]
    problems += [
        f"{name} is 0: null is meant" for name in GREEKS if name in known and known[name] == 0
    ]
    if "iv_status" not in row:
        return problems
    greeks = [name for name in GREEKS if name in known]
    status, origin = row["iv_status"], row["greeks_from"]
    told = f"status {status}, greeks_from {origin}"
    if len(greeks) not in {0, len(GREEKS)}:
        problems.append(f"of the Greeks only {greeks}")
    if bool(greeks) != (origin is not None):
        problems.append(f"{told} with {len(greeks)} Greeks")
    if ("iv" in known) != (status in WITH_VOLATILITY):
        problems.append(f"{told} with iv {row['iv']}")
    if origin == "iv" and "iv" not in known:
        problems.append(f"{told} without iv")
    if origin == "smile_iv" and status not in MAY_BORROW:
        problems.append(f"{told}: only {sorted(MAY_BORROW)} borrow")
    if "kind" in row:
        if (row["kind"] == "option") != (status is not None):
            problems.append(f"{told} of kind {row['kind']}")
    elif status is not None and row.get("instrument_token") is None:
        problems.append(f"{told} of a contract that is not listed")
    return problems
