"""Implied volatility of many rows at once: the numpy path of `pricing.compute`.

A closed-form first guess (D. Stefanica and R. Radoicic, "An explicit implied volatility formula",
2017) is at most 10 % off wherever strikes are listed; two third-order Householder steps on the
objectives of P. Jaeckel, "Let's be rational" (2013), then reach the rounding limit. `iv_scalar` is
the same algorithm for few rows; the tests hold the two together.
"""

from __future__ import annotations

from math import pi, sqrt
from typing import TYPE_CHECKING, Final

import numpy as np

from services.greeks.domain.black import SMALL_T, SmallT, normalised_value
from services.greeks.domain.terms import constant

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.greeks.domain.black import Moneyness
    from services.greeks.domain.terms import FloatArray

POLYA: Final = 2.0 / pi - 0.5
"""Exponent left over when Polya's e^(2|x|/π) is written as e^(|x|/2)·e^(POLYA·|x|)."""
ROUNDING: Final = 2.0**-53
LEAST_VOLATILITY: Final = sqrt(2.0 * pi)
"""Least total volatility over normalised value: the slope of b(x, ·) is at most 1/√(2π)."""

_ONE: Final = constant(1.0)
_TWO: Final = constant(2.0)
_THREE: Final = constant(3.0)
_SIX: Final = constant(6.0)
_TWELFTH: Final = constant(1.0 / 12.0)
_HALF: Final = constant(0.5)
_MINUS_HALF: Final = constant(-0.5)
_QUARTER: Final = constant(0.25)
_ZERO: Final = constant(0.0)
_MINUS_HALF_PI: Final = constant(-0.5 * pi)
_POLYA: Final = constant(POLYA)
_REST: Final = constant(0.5 - POLYA)
_INFLECTION: Final = constant(-4.0 / pi)
_ROUNDING: Final = constant(ROUNDING)
_LEAST_VOLATILITY: Final = constant(LEAST_VOLATILITY)
_SMALL: Final = constant(2.5 * SMALL_T)


def first_guess(m: Moneyness, beta: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Guess the total volatility from Polya's approximation of the normal distribution.

    The published formula, rewritten for the out-of-the-money side in terms of
    u = beta·(beta + 2·sinh(|x|/2)), so that its quadratic keeps its digits next to the money.

    Args:
        m: moneyness [n].
        beta: normalised time value, [n] or [k, n], 0 < beta < 2·m.half_ratio; NaN gives NaN.

    Returns:
        The guess, and which rows lie below the inflection point of b(x, ·); shapes as beta.
    """
    x, sinh_half = m.x_abs, m.sinh_half
    # Of the moneyness alone: computed once however many prices an option has.
    polya = sinh_half * np.sinh(_POLYA * x)
    rest = np.sinh(_REST * x)
    rest *= rest
    cosh_rest = np.sqrt(_ONE + rest)
    inflection = np.sqrt(-np.expm1(_INFLECTION * x))
    inflection *= m.half_inverse
    inflection -= sinh_half
    # Of the price.
    u = beta + (sinh_half + sinh_half)
    u *= beta
    linear = u * cosh_rest
    linear += polya
    kept = _ONE - u
    np.maximum(kept, _ROUNDING, out=kept)
    kept *= u
    root = linear * linear
    root += rest * kept
    np.sqrt(root, out=root)
    root += linear
    kept += kept
    kept /= root
    gamma = np.log(kept, out=kept)
    gamma *= _MINUS_HALF_PI
    total = np.sqrt(gamma + x)
    gamma -= x
    np.maximum(gamma, _ZERO, out=gamma)
    total += np.sqrt(gamma, out=gamma)
    below = beta < inflection
    np.divide(x + x, total, out=total, where=below)
    # At the money 1 - u rounds to 1 for prices below 1e-8 of the forward, and the guess to 0.
    np.maximum(total, _LEAST_VOLATILITY * beta, out=total)
    return total, below


def total_volatility(m: Moneyness, beta: FloatArray) -> FloatArray:
    """Solve b(x, s) = beta for the total volatility s = vol·√T.

    Objectives by region: 1/ln b below the inflection point, b above it, and ln(b_max - b) where
    beta exceeds half of its maximum. All rows take all formulas and keep their own.

    A step needs H and Q, the second and third derivative of the objective over its first. For b
    they are G = h²/s - s/4 and G² - 3G/s - 1. With w = b'/b for 1/ln b, and -b'/(b_max - b) for
    ln(b_max - b), they become H = G - c, where c = w·(1 + 2/ln b) or w, and, for all objectives
    alike (c = w = 0 for b itself), Q = (3H² + w² - G·(G + 6/s))/2 - 1.

    Args:
        m: moneyness [n].
        beta: normalised time value, [n] or [k, n], 1e-9 ≲ beta/(2·m.half_ratio) < 1; NaN gives NaN.

    Returns:
        s in the shape of beta, to the rounding limit of beta.
    """
    s, below = first_guess(m, beta)
    above = (beta > m.half_ratio) > below
    any_above = bool(above.any())  # No row of an index chain is; stocks years out may be.
    share_below = below.astype(np.float64)
    inverse_log_beta = np.reciprocal(np.log(beta))
    # A guess is at most 10 % off, so a row that needs the series is seen here, or makes its own.
    small_t = SmallT.of(m) if (s < _SMALL).any() else None
    for _ in range(2):
        b, slope, half_square = normalised_value(m, s, small_t)
        halley = half_square
        halley += halley
        halley /= s
        halley -= _QUARTER * s
        weight = slope / b
        log_b = np.log(b)
        newton = np.multiply(log_b, inverse_log_beta)
        np.subtract(_ONE, newton, out=newton)
        newton *= log_b
        newton /= weight
        np.subtract(beta, b, out=b)
        b /= slope
        newton = np.where(below, newton, b)
        weight *= share_below
        bent = weight / log_b
        bent += bent
        bent += weight
        if any_above:
            room = 2.0 * m.half_ratio - beta
            room_b = room + b * slope
            np.divide(slope, room_b, out=weight, where=above)
            np.copyto(newton, np.log(room_b / room) / weight, where=above)
            np.negative(weight, out=weight, where=above)
            np.copyto(bent, weight, where=above)
        step = _householder(newton, halley, bent, weight, s)
        # Never more than halve: a wild step must not leave the positive axis.
        s += np.maximum(step, _MINUS_HALF * s)
    return s


def _householder(
    newton: FloatArray, halley: FloatArray, bent: FloatArray, weight: FloatArray, s: FloatArray
) -> FloatArray:
    """Return the steps from the Newton steps, G, c and w (`total_volatility`); consumes them."""
    third = _SIX / s
    third += halley
    third *= halley
    halley -= bent
    weight *= weight
    np.multiply(halley, halley, out=bent)
    bent *= _THREE
    bent += weight
    np.subtract(bent, third, out=third)
    third -= _TWO
    # The step is newton·(1 + ½·H·newton) / (1 + newton·(H + Q·newton/6)).
    third *= newton
    third *= _TWELFTH
    third += halley
    third *= newton
    third += _ONE
    halley *= newton
    halley *= _HALF
    halley += _ONE
    halley *= newton
    halley /= third
    return halley
