"""Implied volatility and Greeks of one row in plain floats: the path of `pricing.compute` for few.

The algorithm of `iv_batch` and `black`, line for line, on Python floats: below about forty rows
the fixed cost of numpy's calls exceeds the work. Formulas and sources are documented there.
"""

from __future__ import annotations

from math import erfc, exp, expm1, log, log1p, nan, pi, sqrt
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
    intrinsic = flag * (forward - strike)
    # df = 0 has no quotient in Python; the row is bad input whatever the time value.
    time_value = (price / df if df else nan) - max(intrinsic, 0.0)
    status = classify_row(flag, price, time_value, forward, strike, tte, df, spot)
    if status is not Status.OK:
        return _VALUELESS[status]
    low, high = (forward, strike) if forward < strike else (strike, forward)
    x_abs = log1p((high - low) / low)
    ratio = sqrt(low / high)
    root = sqrt(low * high)
    sinh_half = 0.5 * (high - low) / root
    s = _total_volatility(time_value / root, x_abs, ratio, sinh_half)

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


def _first_guess(beta: float, x_abs: float, ratio: float, sinh_half: float) -> tuple[float, bool]:
    """Guess the total volatility (`iv_batch.first_guess`)."""
    bend = expm1(-POLYA * x_abs)
    decay = 1.0 + bend
    sinh_bend = -0.5 * (bend + bend / decay)
    cosh_bend = 0.5 * (decay + 1.0 / decay)
    cosh_half = 0.5 * (ratio + 1.0 / ratio)
    sinh_rest = sinh_half * cosh_bend - cosh_half * sinh_bend
    cosh_rest = cosh_half * cosh_bend - sinh_half * sinh_bend
    u = beta * (beta + 2.0 * sinh_half)
    linear = 2.0 * (sinh_half * sinh_bend + u * cosh_rest)
    constant = u * max(1.0 - u, ROUNDING)
    discriminant = linear * linear + 4.0 * sinh_rest * sinh_rest * constant
    gamma = (-0.5 * pi) * log(4.0 * constant / (linear + sqrt(discriminant)))
    total = sqrt(gamma + x_abs) + sqrt(max(gamma - x_abs, 0.0))
    polya_ratio = ratio * decay
    inflection = 0.5 * sqrt(1.0 - polya_ratio * polya_ratio) / ratio - sinh_half
    least = LEAST_VOLATILITY * beta
    if beta < inflection:
        return max(2.0 * x_abs / total, least), True
    return max(total, least), False


def _normalised_value(
    s: float, x_abs: float, ratio: float, sinh_half: float
) -> tuple[float, float, float]:
    """Value the out-of-the-money option (`black.normalised_value`)."""
    h = -x_abs / s
    t = 0.5 * s
    slope = INV_SQRT_2PI * exp(-0.5 * (h * h + t * t))
    lower_tail = erfc((h - t) * -SQRT_HALF)
    if t >= SMALL_T:
        return 0.5 * (ratio * erfc((h + t) * -SQRT_HALF) - lower_tail / ratio), slope, h
    v = 0.25 * x_abs * x_abs
    w = 0.25 * s * s
    series = w * (1 / 15 + v / 210 + w / 105)
    series += 1 / 3 + v * (1 / 30 + v / 840)
    series *= w
    series += 1.0 + v * (1 / 6 + v * (1 / 120 + v * (1 / 5040 + v / 362880)))
    return ratio * slope * s * series - sinh_half * lower_tail, slope, h


def _total_volatility(beta: float, x_abs: float, ratio: float, sinh_half: float) -> float:
    """Solve b(x, s) = beta (`iv_batch.total_volatility`)."""
    s, below = _first_guess(beta, x_abs, ratio, sinh_half)
    above = not below and beta > 0.5 * ratio
    for _ in range(2):
        b, slope, h = _normalised_value(s, x_abs, ratio, sinh_half)
        curl = h / s
        halley = h * curl - 0.25 * s
        third = halley * halley - 3.0 * curl * curl - 0.25
        if below:
            log_b = log(b)
            log_beta = log(beta)
            inverse = 1.0 / log_b
            weight = slope / b
            newton = (log_beta - log_b) * log_b / (log_beta * weight)
            bent = weight * (1.0 + 2.0 * inverse)
            third += 2.0 * weight * weight * (1.0 + 3.0 * inverse * (1.0 + inverse))
            third -= 3.0 * halley * bent
            halley -= bent
        elif above:
            room_b = ratio - b
            gain = slope / room_b
            newton = log(room_b / (ratio - beta)) / gain
            third += gain * (2.0 * gain + 3.0 * halley)
            halley += gain
        else:
            newton = (beta - b) / slope
        step = newton * (1.0 + 0.5 * halley * newton)
        step /= 1.0 + newton * (halley + third * newton / 6.0)
        s += max(step, -0.5 * s)
    return s
