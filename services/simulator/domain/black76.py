"""Black-76 prices of many European options in one vectorised call."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr


def price(
    flag: ArrayLike, forward: ArrayLike, strike: ArrayLike, years: ArrayLike, sigma: ArrayLike
) -> NDArray[np.float64]:
    """Price options on a forward, undiscounted (Black 1976, with a discount factor of 1).

    The fleet's default rate is 0 and the carry lies in the forward, so no discount factor appears.

    Args:
        flag: +1 for a call, -1 for a put; broadcasts with all others.
        forward: Forward price for the expiry, > 0.
        strike: Strike, > 0.
        years: Time to expiry in years; at or below 0 the price is the intrinsic value.
        sigma: Volatility per year as a fraction, > 0.

    Returns:
        Prices in the unit of `forward`, never below the intrinsic value.
    """
    sign, f, k = np.asarray(flag, np.float64), np.asarray(forward), np.asarray(strike)
    deviation = np.asarray(sigma) * np.sqrt(np.maximum(np.asarray(years), 0.0))
    # A tiny deviation instead of 0 keeps the formula free of branches: d1 becomes +-infinity-like.
    safe = np.maximum(deviation, 1e-9)
    d1 = np.log(f / k) / safe + 0.5 * safe
    value = sign * (f * ndtr(sign * d1) - k * ndtr(sign * (d1 - safe)))
    return np.asarray(np.maximum(value, np.maximum(sign * (f - k), 0.0)), dtype=np.float64)
