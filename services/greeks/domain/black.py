"""Black-76 and Black-Scholes-Merton at a known volatility: normalised value and the five Greeks.

Everything is computed for the out-of-the-money side in Jaeckel's normalised coordinates
(P. Jaeckel, "Let's be rational", 2013): with x = -|ln(F/K)| and total volatility s = vol·√T,
an option's time value is √(FK)·b(x, s), for calls and puts alike.
"""

from __future__ import annotations

from math import pi, sqrt
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from scipy.special import erfc

from services.greeks.domain.terms import constant

if TYPE_CHECKING:
    from typing import Self

    from services.greeks.domain.terms import Column, FloatArray, Terms

SQRT_HALF: Final = sqrt(0.5)
INV_SQRT_2PI: Final = 1.0 / sqrt(2.0 * pi)
DAYS_PER_YEAR: Final = 365.0
SMALL_T: Final = 0.01
"""Half total volatility s/2 below which the difference of two erfc loses digits to the series."""


_HALF: Final = constant(0.5)
_MINUS_HALF: Final = constant(-0.5)
_QUARTER: Final = constant(0.25)
_A: Final = constant(SQRT_HALF)
_C: Final = constant(0.5 * SQRT_HALF)
_SIDE: Final = constant(-SQRT_HALF)
_DENSITY: Final = constant(INV_SQRT_2PI)
_SMALL: Final = constant(2.0 * SMALL_T)
_LAST_TERM: Final = constant(1 / 105)
_PERCENT: Final = constant(0.01)


class Moneyness(NamedTuple):
    """Where the strike lies against the forward; every field has shape [n] or is a float."""

    x_abs: FloatArray
    """|ln(F/K)|, exact to rounding also next to the money."""
    half_ratio: FloatArray
    """½·√(min(F,K)/max(F,K)) = ½·e^(-|x|/2): half the largest normalised time value."""
    half_inverse: FloatArray
    """½·e^(|x|/2)."""
    sinh_half: FloatArray
    """sinh(|x|/2) without cancellation: half the normalised intrinsic value."""
    root: FloatArray
    """√(FK) in rupees: the unit of normalised values."""


class SmallT(NamedTuple):
    """What the series in small t = s/2 takes from the moneyness alone; every field has shape [n].

    The series is one + w·(third + w·(fifteenth + w/105)) with w = t², and its coefficients are
    Taylor polynomials in v = (ht)² = x²/4.
    """

    one: FloatArray
    third: FloatArray
    fifteenth: FloatArray

    @classmethod
    def of(cls, m: Moneyness) -> Self:
        """Its coefficients at this moneyness."""
        v = 0.25 * m.x_abs * m.x_abs
        return cls(
            1.0 + v * (1 / 6 + v * (1 / 120 + v * (1 / 5040 + v * (1 / 362880)))),
            1 / 3 + v * (1 / 30 + v * (1 / 840)),
            1 / 15 + v * (1 / 210),
        )


def moneyness(forward: Column, strike: Column) -> Moneyness:
    """Normalise forward and strike (rupees, positive, shape [n] or scalar)."""
    low = np.minimum(forward, strike)
    high = np.maximum(forward, strike)
    gap = high - low
    root = np.sqrt(low * high)
    half_ratio = _HALF * np.sqrt(low / high)
    return Moneyness(
        np.log1p(gap / low), half_ratio, _QUARTER / half_ratio, _HALF * gap / root, root
    )


def normalised_value(
    m: Moneyness, s: FloatArray, small_t: SmallT | None = None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Value the out-of-the-money option at total volatility s.

    The textbook difference of two normal distributions loses relative digits as s/2 falls (1e-12
    at 15 % and one minute to go), so rows with s/2 < `SMALL_T` take a series in s/2 instead.

    Args:
        m: moneyness of the rows.
        s: total volatility vol·√T > 0, shape [n] or [k, n].
        small_t: `SmallT.of(m)` if the caller has it.

    Returns:
        b in units of √(FK), its slope db/ds, and ½h² = ½x²/s², each in the shape of s.
    """
    a = (_A * m.x_abs) / s
    c = _C * s
    tails = np.empty((2, *s.shape))  # erfc of -(h + t)/√2 and of -(h - t)/√2, with t = s/2.
    upper, lower = tails
    np.subtract(a, c, out=upper)
    np.add(a, c, out=lower)
    erfc(tails, out=tails)
    a *= a
    c *= c
    c += a
    slope = np.exp(np.negative(c, out=c), out=c)
    slope *= _DENSITY
    small = s < _SMALL
    is_small = bool(small.any())
    if is_small:
        small_b = _small_t_value(m, s, slope, lower, small_t or SmallT.of(m))
    upper *= m.half_ratio
    lower *= m.half_inverse
    upper -= lower
    if is_small:
        np.copyto(upper, small_b, where=small)
    return upper, slope, a


def _small_t_value(
    m: Moneyness, s: FloatArray, slope: FloatArray, lower_tail: FloatArray, terms: SmallT
) -> FloatArray:
    """Value rows of small t = s/2 as e^(-|x|/2)·[Φ(h+t) - Φ(h-t)] - 2·sinh(|x|/2)·Φ(h-t).

    The bracket is its Taylor series about h, slope·s·Σ cₖ(v)·wᵏ with v = (ht)² = x²/4 and w = t²;
    these terms reach the rounding limit for t < `SMALL_T` and |h| < 7.
    """
    w = _QUARTER * s
    w *= s
    series = w * _LAST_TERM
    series += terms.fifteenth
    series *= w
    series += terms.third
    series *= w
    series += terms.one
    series *= s
    series *= slope
    series *= m.half_ratio + m.half_ratio
    series -= m.sinh_half * lower_tail
    return series


def greeks_into(
    out: FloatArray, terms: Terms, m: Moneyness, s: FloatArray, value: FloatArray
) -> None:
    """Fill delta, gamma, theta, vega, rho at total volatility s.

    Formulas: Haug, "The Complete Guide to Option Pricing Formulas", chapters 1 and 2; units are
    those of vollib (see `services.greeks.domain.pricing`).

    Args:
        out: float64[5, n], overwritten.
        terms: the n options; a spot selects the Greeks of Black-Scholes-Merton.
        m: their moneyness.
        s: total volatility [n].
        value: discounted option value at s, in rupees [n]; theta and rho use it instead of a
            difference of two normal distributions, which has few digits in the wings.
    """
    flag, forward, strike, tte, df, spot = terms
    h = np.copysign(m.x_abs, np.subtract(forward, strike))
    h /= s
    t = _HALF * s
    # Signed discounted Φ(±d1), from the tail that keeps relative accuracy.
    side = _SIDE * flag
    half_df = (_HALF * df) * flag
    hedge = h + t
    hedge *= side
    erfc(hedge, out=hedge)
    hedge *= half_df
    density = h * h
    density += t * t
    density *= _MINUS_HALF
    np.exp(density, out=density)
    density *= _DENSITY * df * m.root
    decay = density * s
    decay *= _MINUS_HALF / tte
    decay -= (np.log(df) / tte) * value
    if spot is None:
        unit = forward
        np.copyto(out[0], hedge)
        np.multiply(value, -0.01 * tte, out=out[4])
    else:
        unit = spot
        carry = np.log1p((forward - spot) / spot) / tte
        decay -= carry * (hedge * forward)
        np.multiply(hedge, forward / spot, out=out[0])
        bond = h
        bond -= t
        bond *= side
        erfc(bond, out=bond)
        bond *= half_df
        np.multiply(bond, 0.01 * tte * strike, out=out[4])
    np.divide(density, unit * unit * s, out=out[1])
    np.divide(decay, DAYS_PER_YEAR, out=out[2])
    np.multiply(density, _PERCENT * np.sqrt(tte), out=out[3])
