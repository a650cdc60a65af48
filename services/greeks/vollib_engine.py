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
from services.greeks.domain.pricing import (
    DEFAULT_TICK,
    VALUES,
    Model,
    Quoted,
    listed,
    rows_of_prices,
)
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
    if np.ndim(price) != 1:
        raise ValueError(f"price: expected shape (n,), got {np.shape(price)}")
    prices = rows_of_prices(price)
    n = prices.size
    terms = terms_of(
        n, flag=flag, forward=forward, strike=strike, tte=tte, df=df, model=model, spot=spot
    )
    ticks = listed(column("tick", tick, n), n)
    out = output(out, len(VALUES), n)
    status = np.empty(n, dtype=np.uint8)
    q, f, k, t, d, s = (listed(values, n) for values in terms)
    library = load(model)
    with np.errstate(all="ignore"):
        for index, row in enumerate(zip(q, prices.tolist(), f, k, t, d, s, ticks, strict=True)):
            status[index], out[:, index] = _compute_row(library, *row)
    return out, status


def compute_quotes(
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
) -> Quoted:
    """Do what `services.greeks.domain.pricing.compute_quotes` does, with vollib."""
    shape = np.shape(price)
    if len(shape) != 2 or not shape[0]:
        raise ValueError(f"price: expected shape (k, n) with k ≥ 1, got {shape}")
    prices = rows_of_prices(price)
    values, status = compute(
        flag, prices[0], forward, strike, tte, df, model=model, spot=spot, tick=tick
    )
    iv, others = implied_volatility(
        flag, prices[1:], forward, strike, tte, df, model=model, spot=spot
    )
    return Quoted(values, np.vstack((values[:1], iv)), np.vstack((status, others)))


def implied_volatility(
    flag: ArrayLike,
    price: ArrayLike,
    forward: ArrayLike,
    strike: ArrayLike,
    tte: ArrayLike,
    df: ArrayLike,
    *,
    model: Model = "black76",
    spot: ArrayLike | None = None,
) -> tuple[FloatArray, NDArray[np.uint8]]:
    """Do what `services.greeks.domain.pricing.implied_volatility` does, with vollib.

    Args:
        flag: as there, like the price and the terms.
        price: [n] or [k, n].
        forward: [n] or scalar.
        strike: [n] or scalar.
        tte: [n] or scalar.
        df: [n] or scalar.
        model: which of vollib's models solves; the volatility is the same but for rounding.
        spot: as for `compute`.

    Returns:
        Volatilities and statuses in the shape of `price`.
    """
    prices = rows_of_prices(price)
    n = prices.shape[-1]
    terms = terms_of(
        n, flag=flag, forward=forward, strike=strike, tte=tte, df=df, model=model, spot=spot
    )
    library = load(model)
    count = prices.size // n if n else 0
    columns = (listed(values, n) * count for values in terms)
    found = []
    with np.errstate(all="ignore"):
        for quote, *option in zip(prices.ravel().tolist(), *columns, strict=True):
            iv = _volatility(library, quote, *option)
            found.append((nan, iv) if isinstance(iv, Status) else (iv, Status.OK))
    table = np.array(found, dtype=np.float64).reshape(prices.size, 2)
    ivs, status = table[:, 0].copy(), table[:, 1].astype(np.uint8)
    return ivs.reshape(prices.shape), status.reshape(prices.shape)


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
    iv = _volatility(library, price, flag, forward, strike, tte, df, spot)
    if isinstance(iv, Status):
        return iv, _BLANK
    letter, rate = _FLAGS[flag], -log(df) / tte
    unit = forward if spot is None else spot
    yields = _yields(rate, forward, tte, spot)
    greeks = (greek(letter, unit, strike, tte, rate, iv, *yields) for greek in library.greeks)
    values = (iv, *map(float, greeks))
    return (Status.LOW_VEGA if values[4] < 0.5 * tick else Status.OK), values


def _volatility(
    library: _Library,
    price: float,
    flag: float,
    forward: float,
    strike: float,
    tte: float,
    df: float,
    spot: float | None,
) -> float | Status:
    """Solve one option's volatility, or say why it has none."""
    time_value = (price / df if df else nan) - max(flag * (forward - strike), 0.0)
    status = classify_row(flag, price, time_value, forward, strike, tte, df, spot)
    if status is not Status.OK:
        return status
    letter, rate = _FLAGS[flag], -log(df) / tte
    if spot is None:
        return _solve(library, price, forward, strike, rate, tte, letter)
    yields = _yields(rate, forward, tte, spot)
    return _solve(library, price, spot, strike, tte, rate, *yields, letter)


def _yields(rate: float, forward: float, tte: float, spot: float | None) -> tuple[float, ...]:
    """Return what Black-Scholes-Merton is told beside the rate: the dividend yield."""
    return () if spot is None else (rate - log(forward / spot) / tte,)


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
