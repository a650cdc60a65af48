"""The pricing engine `vollib`: `pricing.compute` on the reference library, one row at a time.

For comparison in production and as a fallback; it takes about 50 µs per option. vollib is imported
on first use, because it brings pandas along and takes a second.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from math import isfinite, log, nan
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from services.greeks.domain.iv_status import Status, classify_row
from services.greeks.domain.pricing import DEFAULT_TICK, VALUES, Model, listed
from services.greeks.domain.terms import column, output, terms_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import ArrayLike, NDArray

    from services.greeks.domain.terms import FloatArray

_BLANK: Final = (nan,) * len(VALUES)
_FLAGS: Final = {1.0: "c", -1.0: "p"}


class _Library(NamedTuple):
    """What is used of vollib for one model."""

    implied_volatility: Callable[..., float]
    greeks: tuple[Callable[..., float], ...]
    above_maximum: tuple[type[Exception], ...]
    below_intrinsic: tuple[type[Exception], ...]


@cache
def load(model: Model = "black76") -> _Library:
    """Import vollib (about one second, once); call it at start so that no batch waits for it.

    Raises:
        ImportError: vollib is not installed; it comes with the extra `greeks`.
    """
    package = {"black76": "vollib.black", "bsm": "vollib.black_scholes_merton"}[model]
    analytical: Any = import_module(f"{package}.greeks.analytical")
    solver: Any = import_module(f"{package}.implied_volatility")
    own: Any = import_module("vollib.helpers.exceptions")
    core: Any = import_module("vollib.lets_be_rational")
    return _Library(
        solver.implied_volatility,
        tuple(getattr(analytical, name) for name in VALUES[1:]),
        # The solver raises the core's classes, its wrapper those of vollib.
        (core.AboveMaximumException, own.PriceIsAboveMaximum),
        (core.BelowIntrinsicException, own.PriceIsBelowIntrinsic),
    )


def compute(
    flag: ArrayLike,
    price: ArrayLike,
    forward: ArrayLike,
    strike: ArrayLike,
    tte: ArrayLike,
    df: ArrayLike,
    *,
    model: Model = "black76",
    spot: ArrayLike | None = None,
    tick: ArrayLike = DEFAULT_TICK,
    out: FloatArray | None = None,
) -> tuple[FloatArray, NDArray[np.uint8]]:
    """Do what `services.greeks.domain.pricing.compute` does, with vollib.

    Arguments, units, statuses and errors are the same. Where vollib raises, or answers with 0.0,
    infinity or NaN, the row is NaN and its status says why.
    """
    shape = np.shape(price)
    if len(shape) != 1:
        raise ValueError(f"price: expected shape (n,), got {shape}")
    n = shape[0]
    prices = listed(column("price", price, n), n)
    terms = terms_of(
        n, flag=flag, forward=forward, strike=strike, tte=tte, df=df, model=model, spot=spot
    )
    ticks = listed(column("tick", tick, n), n)
    out = output(out, len(VALUES), n)
    status = np.empty(n, dtype=np.uint8)
    q, f, k, t, d, s = (listed(values, n) for values in terms)
    library = load(model)
    with np.errstate(all="ignore"):
        for index, row in enumerate(zip(q, prices, f, k, t, d, s, ticks, strict=True)):
            status[index], out[:, index] = _compute_row(library, *row)
    return out, status


def _compute_row(
    library: _Library,
    flag: float,
    price: float,
    forward: float,
    strike: float,
    tte: float,
    df: float,
    spot: float | None,
    tick: float,
) -> tuple[Status, tuple[float, ...]]:
    """Price one option; every trap of vollib ends as a status."""
    time_value = (price / df if df else nan) - max(flag * (forward - strike), 0.0)
    status = classify_row(flag, price, time_value, forward, strike, tte, df, spot)
    if status is not Status.OK:
        return status, _BLANK
    letter, rate = _FLAGS[flag], -log(df) / tte
    yields: tuple[float, ...] = ()
    if spot is None:
        unit = forward
        iv = _solve(library, price, forward, strike, rate, tte, letter)
    else:
        unit = spot
        yields = (rate - log(forward / spot) / tte,)
        iv = _solve(library, price, spot, strike, tte, rate, *yields, letter)
    if isinstance(iv, Status):
        return iv, _BLANK
    greeks = (greek(letter, unit, strike, tte, rate, iv, *yields) for greek in library.greeks)
    values = (iv, *map(float, greeks))
    return (Status.LOW_VEGA if values[4] < 0.5 * tick else Status.OK), values


def _solve(library: _Library, *quote: float | str) -> float | Status:
    """Ask vollib for a volatility; what it raises becomes the status that it means."""
    try:
        iv = float(library.implied_volatility(*quote))
    except library.below_intrinsic:
        return Status.BELOW_INTRINSIC
    except library.above_maximum:
        return Status.ABOVE_MAX
    except (ArithmeticError, ValueError):
        return Status.BAD_INPUT
    if not isfinite(iv):
        return Status.BAD_INPUT
    # 0.0 is its answer to a price that equals intrinsic after its own rounding.
    return iv if iv > 0.0 else Status.BELOW_INTRINSIC
