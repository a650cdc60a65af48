"""Implied volatility and Greeks of one row in plain floats: the path of `pricing.compute` for few.

The algorithm of `iv_batch` and `black`, line for line, on Python floats: below about forty rows
the fixed cost of numpy's calls exceeds the work. Formulas and sources are documented there.
"""

from __future__ import annotations

from math import erfc, exp, expm1, log, log1p, nan, pi, sinh, sqrt
from typing import Final

from services.greeks.domain.black import DAYS_PER_YEAR, INV_SQRT_2PI, SMALL_T, SQRT_HALF
from services.greeks.domain.iv_batch import LEAST_VOLATILITY, POLYA, ROUNDING
from services.greeks.domain.iv_status import Status, classify_row

Row = tuple[int, float, float, float, float, float, float]
"""Status code, iv, delta, gamma, theta, vega, rho."""

_VALUELESS: Final[dict[Status, Row]] = {
    status: (int(status), nan, nan, nan, nan, nan, nan) for status in Status
}
_OK: Final = int(Status.OK)
_LOW_VEGA: Final = int(Status.LOW_VEGA)


def volatility_row(
    price: float,
    flag: float,
    forward: float,
    strike: float,
    tte: float,
    df: float,
    spot: float | None,
) -> tuple[float, int]:
    """Solve the volatility of one option alone: what `pricing.implied_volatility` does for each.

    Args:
        price: option price in rupees; the others as for `compute_row`.
        flag: 1 for a call, -1 for a put.
        forward: forward in rupees.
        strike: strike in rupees.
        tte: years to expiry.
        df: discount factor to expiry.
        spot: None for Black-76; for Black-Scholes-Merton a bad one makes the row bad input.

    Returns:
        The volatility per year, NaN without one, and the status.
    """
    time_value = _time_value(flag, price, forward, strike, df)
    status = classify_row(flag, price, time_value, forward, strike, tte, df, spot)
    if status is not Status.OK:
        return nan, int(status)
    x_abs, half_ratio, sinh_half, root = _moneyness(forward, strike)
    s = _total_volatility(time_value / root, x_abs, half_ratio, sinh_half)
    return s / sqrt(tte), _OK


def compute_row(
    flag: float,
    price: float,
    forward: float,
    strike: float,
    tte: float,
    df: float,
    spot: float | None,
    tick: float,
) -> Row:
    """Price one option: what `pricing.compute` does for each of its rows; never raises.

    Args:
        flag: 1 for a call, -1 for a put.
        price: option price in rupees.
        forward: forward in rupees.
        strike: strike in rupees.
        tte: years to expiry.
        df: discount factor to expiry.
        spot: None for Black-76, else the spot in rupees for Black-Scholes-Merton.
        tick: price step in rupees.

    Returns:
        Status and the six values in the units of `pricing.compute`, NaN without a value.
    """
    time_value = _time_value(flag, price, forward, strike, df)
    status = classify_row(flag, price, time_value, forward, strike, tte, df, spot)
    if status is not Status.OK:
        return _VALUELESS[status]
    x_abs, half_ratio, sinh_half, root = _moneyness(forward, strike)
    s = _total_volatility(time_value / root, x_abs, half_ratio, sinh_half)

    h = (-x_abs if forward < strike else x_abs) / s
    t = 0.5 * s
    side = -SQRT_HALF * flag
    hedge = 0.5 * df * flag * erfc((h + t) * side)
    density = INV_SQRT_2PI * df * root * exp(-0.5 * (h * h + t * t))
    root_tte = sqrt(tte)
    vega = 0.01 * density * root_tte
    rate = -log(df) / tte
    decay = -0.5 * density * s / tte + rate * price
    if spot is None:
        unit, delta = forward, hedge
        rho = -0.01 * tte * price
    else:
        unit, delta = spot, hedge * (forward / spot)
        decay -= log1p((forward - spot) / spot) / tte * (hedge * forward)
        rho = 0.5 * df * flag * erfc((h - t) * side) * (0.01 * tte * strike)
    gamma = density / (unit * unit * s)
    theta = decay / DAYS_PER_YEAR
    code = _LOW_VEGA if vega < 0.5 * tick else _OK
    return code, s / root_tte, delta, gamma, theta, vega, rho


def _time_value(flag: float, price: float, forward: float, strike: float, df: float) -> float:
    """Return the undiscounted price less the undiscounted intrinsic value, in rupees."""
    # df = 0 has no quotient in Python; the row is bad input whatever the time value.
    return (price / df if df else nan) - max(flag * (forward - strike), 0.0)


def _moneyness(forward: float, strike: float) -> tuple[float, float, float, float]:
    """Return |ln(F/K)|, ½·e^(-|x|/2), sinh(|x|/2) and √(FK) (`black.moneyness`)."""
    low, high = (forward, strike) if forward < strike else (strike, forward)
    root = sqrt(low * high)
    return log1p((high - low) / low), 0.5 * sqrt(low / high), 0.5 * (high - low) / root, root


def _first_guess(
    beta: float, x_abs: float, half_ratio: float, sinh_half: float
) -> tuple[float, bool]:
    """Guess the total volatility (`iv_batch.first_guess`)."""
    rest = sinh((0.5 - POLYA) * x_abs)
    rest *= rest
    u = beta * (beta + 2.0 * sinh_half)
    linear = sinh_half * sinh(POLYA * x_abs) + u * sqrt(1.0 + rest)
    constant = u * max(1.0 - u, ROUNDING)
    gamma = (-0.5 * pi) * log(2.0 * constant / (linear + sqrt(linear * linear + rest * constant)))
    total = sqrt(gamma + x_abs) + sqrt(max(gamma - x_abs, 0.0))
    least = LEAST_VOLATILITY * beta
    if beta < sqrt(-expm1((-4.0 / pi) * x_abs)) * (0.25 / half_ratio) - sinh_half:
        return max(2.0 * x_abs / total, least), True
    return max(total, least), False


def _normalised_value(
    s: float, x_abs: float, half_ratio: float, sinh_half: float
) -> tuple[float, float, float]:
    """Value the out-of-the-money option (`black.normalised_value`)."""
    a = SQRT_HALF * x_abs / s
    c = 0.5 * SQRT_HALF * s
    square = a * a
    slope = INV_SQRT_2PI * exp(-(square + c * c))
    lower = erfc(a + c)
    if s >= 2.0 * SMALL_T:
        return half_ratio * erfc(a - c) - 0.25 / half_ratio * lower, slope, square
    v = 0.25 * x_abs * x_abs
    w = 0.25 * s * s
    series = w * (1 / 15 + v / 210 + w / 105)
    series += 1 / 3 + v * (1 / 30 + v / 840)
    series *= w
    series += 1.0 + v * (1 / 6 + v * (1 / 120 + v * (1 / 5040 + v / 362880)))
    return 2.0 * half_ratio * slope * s * series - sinh_half * lower, slope, square


def _total_volatility(beta: float, x_abs: float, half_ratio: float, sinh_half: float) -> float:
    """Solve b(x, s) = beta (`iv_batch.total_volatility`)."""
    s, below = _first_guess(beta, x_abs, half_ratio, sinh_half)
    above = not below and beta > half_ratio
    for _ in range(2):
        b, slope, half_square = _normalised_value(s, x_abs, half_ratio, sinh_half)
        halley = 2.0 * half_square / s - 0.25 * s
        third = halley * (halley + 6.0 / s) + 2.0
        if below:
            log_b = log(b)
            weight = slope / b
            newton = log_b * (1.0 - log_b / log(beta)) / weight
            halley -= weight * (1.0 + 2.0 / log_b)
        elif above:
            room_b = 2.0 * half_ratio - b
            weight = slope / room_b
            newton = log(room_b / (2.0 * half_ratio - beta)) / weight
            halley += weight
        else:
            weight = 0.0
            newton = (beta - b) / slope
        third = 3.0 * halley * halley + weight * weight - third
        step = newton * (1.0 + 0.5 * halley * newton)
        step /= 1.0 + newton * (halley + third * newton / 12.0)
        s += max(step, -0.5 * s)
    return s
