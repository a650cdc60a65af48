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

from services.greeks.domain.black import Moneyness, normalised_value

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.greeks.domain.terms import FloatArray

POLYA: Final = 2.0 / pi - 0.5
"""Exponent left over when Polya's e^(2|x|/π) is written as e^(|x|/2)·e^(POLYA·|x|)."""
ROUNDING: Final = 2.0**-53
LEAST_VOLATILITY: Final = sqrt(2.0 * pi)
"""Least total volatility over normalised value: the slope of b(x, ·) is at most 1/√(2π)."""


def first_guess(m: Moneyness, beta: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Guess the total volatility from Polya's approximation of the normal distribution.

    The published formula, rewritten for the out-of-the-money side in terms of
    u = beta·(beta + 2·sinh(|x|/2)), so that its quadratic keeps its digits next to the money.

    Args:
        m: moneyness [n].
        beta: normalised time value [n], 0 < beta < m.ratio.

    Returns:
        The guess [n], and which rows [n] lie below the inflection point of b(x, ·).
    """
    bend = np.expm1(-POLYA * m.x_abs)
    decay = 1.0 + bend
    sinh_bend = -0.5 * (bend + bend / decay)
    cosh_bend = 0.5 * (decay + 1.0 / decay)
    cosh_half = 0.5 * (m.ratio + 1.0 / m.ratio)
    sinh_rest = m.sinh_half * cosh_bend - cosh_half * sinh_bend
    cosh_rest = cosh_half * cosh_bend - m.sinh_half * sinh_bend
    u = beta * (beta + 2.0 * m.sinh_half)
    linear = 2.0 * (m.sinh_half * sinh_bend + u * cosh_rest)
    constant = u * np.maximum(1.0 - u, ROUNDING)
    discriminant = linear * linear + 4.0 * sinh_rest * sinh_rest * constant
    gamma = (-0.5 * pi) * np.log(4.0 * constant / (linear + np.sqrt(discriminant)))
    outer = np.sqrt(gamma + m.x_abs)
    inner = np.sqrt(np.maximum(gamma - m.x_abs, 0.0))
    polya_ratio = m.ratio * decay
    inflection = 0.5 * np.sqrt(1.0 - polya_ratio * polya_ratio) / m.ratio - m.sinh_half
    below = beta < inflection
    total = outer + inner
    guess = np.where(below, 2.0 * m.x_abs / total, total)
    # At the money 1 - u rounds to 1 for prices below 1e-8 of the forward, and the guess to 0.
    return np.maximum(guess, LEAST_VOLATILITY * beta), below


def total_volatility(m: Moneyness, beta: FloatArray) -> FloatArray:
    """Solve b(x, s) = beta for the total volatility s = vol·√T.

    Objectives by region: 1/ln b below the inflection point, b above it, and ln(b_max - b) where
    beta exceeds half of its maximum. All rows take all formulas and keep their own.

    Args:
        m: moneyness [n].
        beta: normalised time value [n], 1e-9·m.ratio ≲ beta < m.ratio.

    Returns:
        s [n], to the rounding limit of beta.
    """
    s, below = first_guess(m, beta)
    above = (beta > 0.5 * m.ratio) & ~below
    any_above = bool(above.any())  # No row of an index chain is; stocks years out may be.
    log_beta = np.log(beta)
    room = m.ratio - beta
    for _ in range(2):
        b, slope, a = normalised_value(m, s)
        # Second and third derivative of b over the first: halley = h²/s - s/4.
        square = 2.0 * a * a
        halley = square / s
        halley -= 0.25 * s
        third = halley * halley
        third -= 3.0 * square / (s * s)
        third -= 0.25
        # Those of 1/ln b, for the rows below.
        log_b = np.log(b)
        inverse = 1.0 / log_b
        slope_log = slope / b
        newton = log_b * (1.0 - log_b / log_beta)
        newton /= slope_log
        newton = np.where(below, newton, (beta - b) / slope)
        weight = below * slope_log
        bent = weight * (1.0 + 2.0 * inverse)
        third += 2.0 * weight * weight * (1.0 + 3.0 * inverse * (1.0 + inverse))
        third -= 3.0 * halley * bent
        if any_above:
            room_b = m.ratio - b
            gain = slope / room_b
            np.copyto(newton, np.log(room_b / room) / gain, where=above)
            np.copyto(third, third + gain * (2.0 * gain + 3.0 * halley), where=above)
            np.copyto(bent, -gain, where=above)
        halley -= bent
        third *= newton
        third *= 1.0 / 6.0
        third += halley
        halley *= 0.5 * newton
        halley += 1.0
        step = newton * halley
        step /= 1.0 + newton * third
        # Never more than halve: a wild step must not leave the positive axis.
        s += np.maximum(step, -0.5 * s)
    return s
