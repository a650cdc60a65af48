"""What a desk reads from the strikes of an expiry: ATM and 25-delta volatilities, max pain.

All of it for many expiries at once: matrices have one row per expiry, one column per strike,
ascending, and NaN (or -1 for open interest) where nothing is known or a shorter ladder is padded.
"""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

ATM_REACH: Final = 3
"""The volatility at the forward is interpolated between strikes at most so many places away on
either side: from further out it would be a guess that looks like a measurement."""
WING_DELTA: Final = 0.25


class Wings(NamedTuple):
    """Volatilities at a quarter delta of m expiries, per year; NaN unless strikes bracket it.

    Attributes:
        call: At a call delta of 0.25 [m].
        put: At a put delta of -0.25 [m].
    """

    call: Floats
    put: Floats


def atm_volatility(strikes: Floats, smile: Floats, forward: Floats, atm: Ints) -> Floats:
    """Volatility at the forward, linear in log-moneyness between the strikes on its two sides.

    Where one side has none near by, it is the volatility of the strike nearest the forward, if
    that has one and the next strike is further from it than the forward is: beyond the ladder
    nobody knows.

    Args:
        strikes: Rupees [m, w].
        smile: Volatility of each, per year [m, w].
        forward: Rupees [m].
        atm: Position of the strike nearest the forward [m].

    Returns:
        [m]; NaN where neither is known.
    """
    m, w = strikes.shape
    rows = np.arange(m)
    known = np.isfinite(smile)
    not_above, not_below = strikes <= forward[:, None], strikes >= forward[:, None]
    lower = w - 1 - (known & not_above)[:, ::-1].argmax(axis=1)
    upper = (known & not_below).argmax(axis=1)
    first_above = not_above.sum(axis=1)
    near = (lower >= first_above - ATM_REACH) & (upper < first_above + ATM_REACH)
    # Without any strike on a side argmax names one that is not on it.
    found = (known & not_above)[rows, lower] & (known & not_below)[rows, upper]
    with np.errstate(all="ignore"):
        reach = np.log(strikes[rows, upper] / strikes[rows, lower])
        share = np.log(forward / strikes[rows, lower]) / np.where(reach > 0.0, reach, 1.0)
        between = smile[rows, lower] + share * (smile[rows, upper] - smile[rows, lower])
    gaps = np.full((m, w + 1), np.nan)
    gaps[:, 1:-1] = np.diff(strikes, axis=1)
    gap = np.fmax(gaps[rows, atm], gaps[rows, atm + 1])
    close = np.abs(strikes[rows, atm] - forward) <= gap
    return np.where(found & near, between, np.where(close, smile[rows, atm], np.nan))


def wing_volatilities(strikes: Floats, smile: Floats, forward: Floats, tte: Floats) -> Wings:
    """Volatilities at call and put deltas of 0.25 and -0.25, of the discounted forward.

    Linear in delta between the two strikes next to each other, of those that have a volatility,
    whose deltas enclose it. Of several such pairs, as bad quotes can make, the one nearest the
    money.

    Args:
        strikes: Rupees [m, w].
        smile: Volatility of each, per year [m, w].
        forward: Rupees [m].
        tte: Years [m]; none left gives NaN.
    """
    with np.errstate(all="ignore"):
        total = smile * np.sqrt(tte)[:, None]
        total = np.where(total > 0.0, total, np.nan)
        delta = ndtr(np.log(forward[:, None] / strikes) / total + 0.5 * total)
    below = strikes < forward[:, None]
    # Seen from the other end of the ladder, a put's delta is what a call's is from this one.
    down = np.s_[:, ::-1]
    return Wings(
        call=_crossing(smile, delta, ~below, WING_DELTA),
        put=_crossing(smile[down], 1.0 - delta[down], below[down], WING_DELTA),
    )


def _crossing(smile: Floats, delta: Floats, is_outer: Bools, at: float) -> Floats:
    """Volatility [m] where the delta first falls to a value, from column to column.

    Args:
        smile: [m, w].
        delta: [m, w]; strikes without one are passed over.
        is_outer: Which strikes may lie beyond the value [m, w].
        at: The value; NaN is given where it is nowhere crossed.
    """
    m, w = delta.shape
    newest = np.maximum.accumulate(np.where(np.isfinite(delta), np.arange(w), -1), axis=1)
    before = np.hstack((np.full((m, 1), -1), newest[:, :-1]))
    inner_delta = np.take_along_axis(delta, np.maximum(before, 0), axis=1)
    crosses = is_outer & (before >= 0) & (delta <= at) & (inner_delta > at)
    rows, outer = np.arange(m), crosses.argmax(axis=1)
    inner = before[rows, outer]
    with np.errstate(all="ignore"):
        share = (at - delta[rows, outer]) / (inner_delta[rows, outer] - delta[rows, outer])
        found = smile[rows, outer] + share * (smile[rows, inner] - smile[rows, outer])
    return np.where(crosses[rows, outer], found, np.nan)


def total_open_interest(oi: Ints) -> Ints:
    """Sum of the known open interests of each expiry [m], units; -1 where none is known.

    Args:
        oi: Units [m, w], -1 for unknown.
    """
    known = oi >= 0
    total: Ints = np.where(known, oi, 0).sum(axis=1)
    return np.where(known.any(axis=1), total, -1)


def max_pain(strikes: Floats, call_oi: Ints, put_oi: Ints) -> Floats:
    """The strike at which holders would be paid least, the lowest of several, rupees [m].

    From one strike to the next the payout grows by the open interest of the calls at or below the
    first and falls by that of the puts above it, for each rupee. It is least where it stops
    falling: whole numbers decide it, so that rounding cannot.

    Args:
        strikes: Rupees [m, w].
        call_oi: Units [m, w], -1 for unknown.
        put_oi: Likewise.

    Returns:
        [m]; NaN without open interest.
    """
    calls = np.cumsum(np.maximum(call_oi, 0), axis=1)
    puts = np.cumsum(np.maximum(put_oi, 0), axis=1)
    stops = calls + puts >= puts[:, -1:]
    found: Floats = strikes[np.arange(strikes.shape[0]), stops.argmax(axis=1)]
    return np.where(calls[:, -1] + puts[:, -1] > 0, found, np.nan)
