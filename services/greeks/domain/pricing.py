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

from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from services.greeks.domain.black import Moneyness, greeks_into, moneyness, normalised_value
from services.greeks.domain.iv_batch import total_volatility
from services.greeks.domain.iv_scalar import compute_row, volatility_row
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
    "Quoted",
    "Status",
    "compute",
    "compute_quotes",
    "greeks_at",
    "implied_volatility",
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
    if np.ndim(price) != 1:
        raise ValueError(f"price: expected shape (n,), got {np.shape(price)}")
    out, _, status = _compute(
        flag, rows_of_prices(price), forward, strike, tte, df,
        model=model, spot=spot, tick=tick, out=out,
    )  # fmt: skip
    return out, status


class Quoted(NamedTuple):
    """k prices of each of n options solved, and the Greeks of the first of them."""

    values: FloatArray
    """float64[6, n] with rows `VALUES`, of the first price."""
    iv: FloatArray
    """float64[k, n], volatilities per year of all prices."""
    status: NDArray[np.uint8]
    """uint8[k, n] of `Status` codes; only the first row can be `LOW_VEGA`, which takes a Greek."""


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
    """Solve several prices of the same options in one call: last, bid and ask.

    Does what `compute` does with the first price of each option and `implied_volatility` with the
    others, in little more time than `compute` takes for one batch: the fixed cost of numpy's calls
    is paid once, and what depends on the option alone is computed once.

    Args:
        flag: as for `compute`, like all but the price.
        price: option prices in rupees [k, n], k ≥ 1; NaN or 0 where there is none.
        forward: [n] or scalar.
        strike: [n] or scalar.
        tte: [n] or scalar.
        df: [n] or scalar.
        model: "black76" or "bsm".
        spot: [n] or scalar.
        tick: [n] or scalar.

    Raises:
        ValueError: a shape, a type or the model does not fit; the message names the argument.
    """
    shape = np.shape(price)
    if len(shape) != 2 or not shape[0]:
        raise ValueError(f"price: expected shape (k, n) with k ≥ 1, got {shape}")
    return _compute(
        flag, rows_of_prices(price), forward, strike, tte, df, model=model, spot=spot, tick=tick
    )


def implied_volatility(
    flag: ArrayLike,
    price: ArrayLike,
    forward: ArrayLike,
    strike: ArrayLike,
    tte: ArrayLike,
    df: ArrayLike,
) -> tuple[FloatArray, NDArray[np.uint8]]:
    """Solve the implied volatility alone: for prices whose Greeks nobody reads.

    The volatilities are those of `compute`, bit for bit where both take the same path, and the
    same for both models.

    Args:
        flag: 1 for calls, -1 for puts; signed integers [n].
        price: option prices in rupees, [n] or [k, n]; NaN or 0 where there is none.
        forward: forwards to each option's expiry in rupees [n] or scalar.
        strike: strikes in rupees [n] or scalar.
        tte: time to expiry in ACT/365 years [n] or scalar.
        df: discount factors to expiry [n] or scalar.

    Returns:
        Volatilities per year, float64 in the shape of `price`, NaN where there is none; and the
        `Status` codes, uint8 in the same shape. `LOW_VEGA` is never among them: it takes a Greek.

    Raises:
        ValueError: a shape or a type does not fit; the message names the argument.
    """
    prices = rows_of_prices(price)
    n = prices.shape[-1]
    terms = terms_of(n, flag=flag, forward=forward, strike=strike, tte=tte, df=df)
    if prices.size < BATCH_ROWS:
        return volatility_few(terms, prices)
    with np.errstate(all="ignore"):
        status, _, s = _solve(terms, prices)
        s /= np.sqrt(terms.tte)
    np.copyto(s, np.nan, where=status != Status.OK)
    return s, status


def rows_of_prices(price: ArrayLike) -> FloatArray:
    """Return prices as contiguous float64 of the same shape, without a copy if they are that.

    Raises:
        ValueError: They are no numbers, or their shape is neither [n] nor [k, n].
    """
    shape = np.shape(price)
    if len(shape) not in {1, 2}:
        raise ValueError(f"price: expected shape (n,) or (k, n), got {shape}")
    if shape[1:]:
        return np.asarray(column("price", np.ravel(price), shape[0] * shape[1])).reshape(shape)
    return np.asarray(column("price", price, shape[0]))


def _compute(
    flag: ArrayLike,
    prices: FloatArray,
    forward: ArrayLike,
    strike: ArrayLike,
    tte: ArrayLike,
    df: ArrayLike,
    *,
    model: Model,
    spot: ArrayLike | None,
    tick: ArrayLike,
    out: FloatArray | None = None,
) -> Quoted:
    """Check the arguments and take the path that suits the number of prices, [n] or [k, n]."""
    n = prices.shape[-1]
    terms = terms_of(
        n, flag=flag, forward=forward, strike=strike, tte=tte, df=df, model=model, spot=spot
    )
    ticks = column("tick", tick, n)
    out = output(out, len(VALUES), n)
    path = compute_few if prices.size < BATCH_ROWS else compute_many
    return path(terms, prices, ticks, out)


def compute_few(terms: Terms, prices: FloatArray, ticks: Column, out: FloatArray) -> Quoted:
    """Fill `out` [6, n] for the first of the prices, [n] or [k, n], row by row in plain floats."""
    n = prices.shape[-1]
    flag, forward, strike, tte, df, spot = (listed(values, n) for values in terms)
    tick = listed(ticks, n)
    first = prices.ravel()[:n].tolist()
    rows = map(compute_row, flag, first, forward, strike, tte, df, spot, tick)
    table = np.array(list(rows), dtype=np.float64).reshape(n, 1 + len(VALUES)).T
    out[:] = table[1:]
    status: NDArray[np.uint8] = table[0].astype(np.uint8)
    if prices.ndim == 1:
        return Quoted(out, out[0], status)
    other_iv, other_status = volatility_few(terms, prices[1:])
    return Quoted(out, np.vstack((out[:1], other_iv)), np.vstack((status, other_status)))


def compute_many(terms: Terms, prices: FloatArray, ticks: Column, out: FloatArray) -> Quoted:
    """Fill `out` [6, n] for the first of the prices, [n] or [k, n], by whole-column operations."""
    first = 0 if prices.ndim > 1 else slice(None)
    with np.errstate(all="ignore"):
        status, m, s = _solve(terms, prices)
        iv = s / np.sqrt(terms.tte)
        out[0] = iv[first]
        greeks_into(out[1:], terms, m, s[first], prices[first])
        low_vega = out[4] < 0.5 * np.asarray(ticks)
    blank = status != Status.OK
    if blank.any():
        np.copyto(iv, np.nan, where=blank)
        np.copyto(out, np.nan, where=blank[first])
        low_vega &= ~blank[first]
    np.copyto(status[first], np.uint8(Status.LOW_VEGA), where=low_vega)
    return Quoted(out, iv, status)


def volatility_few(terms: Terms, prices: FloatArray) -> tuple[FloatArray, NDArray[np.uint8]]:
    """Return volatilities and statuses of prices, [n] or [k, n], one by one in plain floats."""
    n = prices.shape[-1]
    count = prices.size // n if n else 0
    options = (listed(values, n) * count for values in terms)
    rows = map(volatility_row, prices.ravel().tolist(), *options)
    table = np.array(list(rows), dtype=np.float64).reshape(prices.size, 2)
    iv, status = table[:, 0].copy(), table[:, 1].astype(np.uint8)
    return iv.reshape(prices.shape), status.reshape(prices.shape)


def _solve(terms: Terms, prices: FloatArray) -> tuple[NDArray[np.uint8], Moneyness, FloatArray]:
    """Return the statuses before Greeks, the moneyness [n], and the total volatilities.

    Statuses and volatilities have the shape of the prices, [n] or [k, n]; a volatility has no
    meaning where the status is not `OK`.
    """
    flag, forward, strike, _, df, _ = terms
    time_value = prices / df
    time_value -= np.maximum(flag * (forward - strike), 0.0)
    status = classify(terms, prices, time_value)
    m = moneyness(forward, strike)
    time_value /= m.root
    # Rows without a solution run through as NaN, which chooses no formula for the others.
    np.copyto(time_value, np.nan, where=status != Status.OK)
    return status, m, total_volatility(m, time_value)


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
