"""Prices options: implied volatility and five Greeks for whole columns of rows in one call.

Conventions. Black-76 on a forward, or Black-Scholes-Merton (BSM) on the spot that goes with it.
Time is ACT/365 in years. Units are those of vollib:

| value | unit |
|---|---|
| iv | per year, 0.15 = 15 % |
| delta, gamma | per rupee of forward, discount factor included (Black-76); of spot (BSM) |
| theta | rupees per calendar day |
| vega | rupees per vol point (0.01 of volatility) |
| rho | rupees per 1 % of rate |

For BSM, `forward` stays the forward and `df` the discount factor; the keyword `spot` adds the one
number they leave open. Rate and dividend yield follow: r = -ln(df)/T and q = r - ln(F/S)/T. Without
`spot` there are no dividends: S = F·df.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from services.greeks.domain.black import (
    AT_MONEY,
    Moneyness,
    greeks_into,
    moneyness,
    normalised_value,
)
from services.greeks.domain.iv_batch import total_volatility
from services.greeks.domain.iv_scalar import compute_row
from services.greeks.domain.iv_status import WIRE_NAMES, Status, classify
from services.greeks.domain.terms import MODELS, Model, column, output, row_count, terms_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike, NDArray

    from services.greeks.domain.terms import Column, FloatArray, Terms

__all__ = [
    "BATCH_ROWS",
    "DEFAULT_TICK",
    "GREEKS",
    "MODELS",
    "VALUES",
    "WIRE_NAMES",
    "Model",
    "Status",
    "compute",
    "greeks_at",
    "price",
]

VALUES: Final = ("iv", "delta", "gamma", "theta", "vega", "rho")
"""Names of the rows of `compute`'s first result."""
GREEKS: Final = VALUES[1:]
"""Names of the rows of `greeks_at`'s result."""
BATCH_ROWS: Final = 40
"""From this many rows on numpy beats a loop over plain floats (benchmarks/pricing.py)."""
DEFAULT_TICK: Final = 0.05
"""Price step of NSE and BSE options, in rupees."""


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
    """Solve the implied volatility of every row and its Greeks at that volatility.

    Data never raises, and no row affects another: a row without a value is NaN in all six values
    and says why in its status. Contiguous float64 columns are used without a copy and none is
    changed. Every column but `price` may be a scalar.

    Args:
        flag: 1 for calls, -1 for puts; signed integers [n].
        price: option prices in rupees [n]; NaN or 0 where there is none.
        forward: forwards to each row's expiry in rupees [n] or scalar.
        strike: strikes in rupees [n] or scalar.
        tte: time to expiry in ACT/365 years [n] or scalar.
        df: discount factors to expiry [n] or scalar.
        model: "black76" or "bsm"; decides the Greeks (the volatility is the same).
        spot: spots in rupees [n] or scalar for "bsm"; not accepted for "black76".
        tick: price step in rupees [n] or scalar; `LOW_VEGA` marks rows whose price moves by less
            than half of it per vol point.
        out: float64[6, n] to fill instead of a new array.

    Returns:
        `out` float64[6, n] with rows `VALUES`, and the `Status` codes uint8[n].

    Raises:
        ValueError: a shape, a type or the model does not fit; the message names the argument.
    """
    shape = np.shape(price)
    if len(shape) != 1:
        raise ValueError(f"price: expected shape (n,), got {shape}")
    n = shape[0]
    prices = np.asarray(column("price", price, n))
    terms = terms_of(
        n, flag=flag, forward=forward, strike=strike, tte=tte, df=df, model=model, spot=spot
    )
    ticks = column("tick", tick, n)
    out = output(out, len(VALUES), n)
    path = compute_few if n < BATCH_ROWS else compute_many
    return out, path(terms, prices, ticks, out)


def compute_few(
    terms: Terms, prices: FloatArray, ticks: Column, out: FloatArray
) -> NDArray[np.uint8]:
    """Fill `out` [6, n] row by row in plain floats; returns the status codes [n]."""
    n = prices.shape[0]
    flag, forward, strike, tte, df, spot = (listed(values, n) for values in terms)
    tick = listed(ticks, n)
    rows = map(compute_row, flag, prices.tolist(), forward, strike, tte, df, spot, tick)
    table = np.array(list(rows), dtype=np.float64).reshape(n, 1 + len(VALUES)).T
    out[:] = table[1:]
    status: NDArray[np.uint8] = table[0].astype(np.uint8)
    return status


def compute_many(
    terms: Terms, prices: FloatArray, ticks: Column, out: FloatArray
) -> NDArray[np.uint8]:
    """Fill `out` [6, n] with whole-column operations; returns the status codes [n]."""
    flag, forward, strike, tte, df, _ = terms
    with np.errstate(all="ignore"):
        time_value = prices / df - np.maximum(flag * (forward - strike), 0.0)
        status = classify(terms, prices, time_value)
        m = moneyness(forward, strike)
        beta = time_value / m.root
        blank = status != Status.OK
        any_blank = bool(blank.any())
        if any_blank:
            # Rows without a solution run through it as harmless ones and are blanked after.
            beta[blank] = 0.04
            m = Moneyness(
                *(np.where(blank, at_money, f) for at_money, f in zip(AT_MONEY, m, strict=True))
            )
        s = total_volatility(m, beta)
        np.divide(s, np.sqrt(tte), out=out[0])
        greeks_into(out[1:], terms, m, s, prices)
        low_vega = out[4] < 0.5 * np.asarray(ticks)
    if any_blank:
        np.copyto(out, np.nan, where=blank)
        low_vega &= ~blank
    np.copyto(status, np.uint8(Status.LOW_VEGA), where=low_vega)
    return status


def price(
    flag: ArrayLike,
    forward: ArrayLike,
    strike: ArrayLike,
    tte: ArrayLike,
    vol: ArrayLike,
    df: ArrayLike = 1.0,
) -> FloatArray:
    """Price options at a given volatility (both models: the forward carries the difference).

    Args:
        flag: 1 for calls, -1 for puts; signed integers [n] or scalar.
        forward: forwards in rupees [n] or scalar.
        strike: strikes in rupees [n] or scalar.
        tte: years to expiry [n] or scalar; 0 gives the discounted intrinsic value.
        vol: volatility per year [n] or scalar; 0 gives the discounted intrinsic value.
        df: discount factors [n] or scalar.

    Returns:
        Discounted prices in rupees, float64[n] (n = 1 for scalars only); NaN where an input is
        NaN, negative, infinite, or a flag is not ±1.

    Raises:
        ValueError: a shape or a type does not fit; the message names the argument.
    """
    n = row_count(flag=flag, forward=forward, strike=strike, tte=tte, vol=vol, df=df)
    terms = terms_of(n, flag=flag, forward=forward, strike=strike, tte=tte, df=df)
    vols = column("vol", vol, n)
    with np.errstate(all="ignore"):
        s = np.broadcast_to(vols * np.sqrt(terms.tte), (n,))
        value = _discounted_value(terms, moneyness(terms.forward, terms.strike), s)
        known = _positive(terms.forward) & _positive(terms.strike) & _positive(terms.df)
        known = known & (np.abs(terms.flag) == 1.0) & np.isfinite(value + s)
        known = known & (terms.tte >= 0.0) & (vols >= 0.0)
    return np.where(known, value, np.nan)


def greeks_at(
    flag: ArrayLike,
    forward: ArrayLike,
    strike: ArrayLike,
    tte: ArrayLike,
    df: ArrayLike,
    vol: ArrayLike,
    *,
    model: Model = "black76",
    spot: ArrayLike | None = None,
    out: FloatArray | None = None,
) -> FloatArray:
    """Compute the Greeks at a given volatility, such as a strike's `smile_iv`.

    Args:
        flag: 1 for calls, -1 for puts; signed integers [n] or scalar.
        forward: forwards in rupees [n] or scalar.
        strike: strikes in rupees [n] or scalar.
        tte: years to expiry [n] or scalar.
        df: discount factors [n] or scalar.
        vol: volatility per year [n] or scalar.
        model: "black76" or "bsm".
        spot: as for `compute`.
        out: float64[5, n] to fill instead of a new array.

    Returns:
        float64[5, n] with rows `GREEKS`; NaN columns where an input is NaN, not positive,
        infinite, or a flag is not ±1.

    Raises:
        ValueError: a shape, a type or the model does not fit; the message names the argument.
    """
    n = row_count(flag=flag, forward=forward, strike=strike, tte=tte, df=df, vol=vol, spot=spot)
    terms = terms_of(
        n, flag=flag, forward=forward, strike=strike, tte=tte, df=df, model=model, spot=spot
    )
    vols = column("vol", vol, n)
    out = output(out, len(GREEKS), n)
    with np.errstate(all="ignore"):
        s = np.broadcast_to(vols * np.sqrt(terms.tte), (n,))
        m = moneyness(terms.forward, terms.strike)
        greeks_into(out, terms, m, s, _discounted_value(terms, m, s))
        known = np.abs(terms.flag) == 1.0
        for values in (*terms[1:], vols):
            if values is not None:
                known = known & _positive(values)
    np.copyto(out, np.nan, where=np.logical_not(known))
    return out


def _discounted_value(terms: Terms, m: Moneyness, s: FloatArray) -> FloatArray:
    """Return the option values in rupees [n] at total volatility s ≥ 0 [n]."""
    b, _, _ = normalised_value(m, np.where(s > 0.0, s, 1.0))
    intrinsic = np.maximum(terms.flag * (terms.forward - terms.strike), 0.0)
    return np.asarray(terms.df * (intrinsic + m.root * np.where(s > 0.0, np.maximum(b, 0.0), 0.0)))


def listed(values: Column | None, n: int) -> list[Any]:
    """Return n Python floats (or None), which plain arithmetic handles faster than numpy's."""
    if isinstance(values, np.ndarray):
        floats: list[Any] = values.tolist()
        return floats
    return [None if values is None else float(values)] * n


def _positive(values: Column) -> NDArray[np.bool_]:
    """Tell which values are positive and finite (False for NaN)."""
    return np.asarray((values > 0.0) & (values < np.inf))
