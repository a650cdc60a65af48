"""Why an option row has, or has not, an implied volatility: the status codes and who gets which."""

from __future__ import annotations

from enum import IntEnum
from math import inf
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from services.greeks.domain.terms import FloatArray, Terms

SECONDS_PER_YEAR: Final = 365 * 86_400
"""ACT/365: the year of every `tte` in this service."""

EXPIRING_YEARS: Final = 60 / SECONDS_PER_YEAR
"""Below one minute a tick is worth several vol points: only price and intrinsic mean anything."""

TIME_VALUE_FLOOR: Final = 1e-9
"""Share of the forward at or below which a time value says nothing about volatility."""
TIME_VALUE_CEILING: Final = 1.0 - 1e-12
"""Share of its maximum from which on rounding leaves a time value no digits of volatility."""

# A market lives far inside these bounds. Rows outside are `bad_input`; inside them no intermediate
# of the solver can overflow, underflow or become denormal.
PRICE_RANGE: Final = (1e-6, 1e12)
"""Accepted forward, strike and spot, in rupees."""
DISCOUNT_RANGE: Final = (1e-3, 1e3)
"""Accepted discount factor (above 1 for negative rates)."""
TTE_MAX_YEARS: Final = 1e3
"""Longest accepted time to expiry, in years."""


class Status(IntEnum):
    """Outcome of one row. The wire name is the lower-case member name (`wire_name`).

    `compute` gives every status but `STALE_FORWARD` and `CROSSED`: these need the quote's book and
    the age of the forward, which only its caller knows.
    """

    OK = 0
    LOW_VEGA = 1
    """Half a tick is worth more than one vol point: the values are kept, and are coarse."""
    BAD_INPUT = 2
    """A flag that is not ±1, or a number that is negative, infinite, NaN or not of this world."""
    NO_PRICE = 3
    """The price is zero or NaN: never traded, or an empty book."""
    BELOW_INTRINSIC = 4
    """The time value is at most 1e-9 of the forward, or negative."""
    ABOVE_MAX = 5
    """The undiscounted price reaches the forward (call) or the strike (put), within 1e-12."""
    EXPIRED = 6
    """No time is left (`tte` ≤ 0)."""
    EXPIRING = 7
    """Less than 60 s are left."""
    STALE_FORWARD = 8
    """Given by the caller: the forward is too old to price with."""
    CROSSED = 9
    """Given by the caller: the bid exceeds the ask."""

    @property
    def wire_name(self) -> str:
        """The name in payloads and metric labels, such as `below_intrinsic`."""
        return self.name.lower()

    @property
    def has_values(self) -> bool:
        """Whether `compute` fills the row; all other rows are NaN (null on the wire)."""
        return self in {Status.OK, Status.LOW_VEGA}


WIRE_NAMES: Final[tuple[str, ...]] = tuple(status.wire_name for status in Status)
"""Wire names by status code: `WIRE_NAMES[code]` for a whole status array at once."""

_BAD_INPUT, _NO_PRICE, _BELOW_INTRINSIC, _ABOVE_MAX, _EXPIRED, _EXPIRING = (
    np.uint8(status) for status in list(Status)[Status.BAD_INPUT : Status.STALE_FORWARD]
)


def classify(terms: Terms, price: FloatArray, time_value: FloatArray) -> NDArray[np.uint8]:
    """Give every row its status before the solve (`OK` means: solve it).

    Args:
        terms: the n options.
        price: option prices in rupees, [n] or [k, n].
        time_value: undiscounted price less undiscounted intrinsic value, in rupees, as `price`.

    Returns:
        uint8 `Status` codes in the shape of `price`. Of several reasons the most fundamental is
        named: bad input, then expired, expiring, no price, below intrinsic, above maximum.
    """
    flag, forward, strike, tte, df, spot = terms
    least = np.minimum(forward, strike)
    # Comparisons with NaN are false, so each test asks for what is right and is then negated.
    inside = (least >= PRICE_RANGE[0]) & (np.maximum(forward, strike) <= PRICE_RANGE[1])
    inside = inside & (df >= DISCOUNT_RANGE[0]) & (df <= DISCOUNT_RANGE[1])
    inside = inside & (tte <= TTE_MAX_YEARS) & (np.abs(flag) == 1.0)
    inside = inside & np.logical_not((price < 0.0) | (price == inf))  # NaN: no price.
    if spot is not None:
        inside = inside & (spot >= PRICE_RANGE[0]) & (spot <= PRICE_RANGE[1])
    status = np.zeros(price.shape, dtype=np.uint8)
    for code, mask in (
        (_ABOVE_MAX, time_value >= TIME_VALUE_CEILING * least),
        (_BELOW_INTRINSIC, time_value <= TIME_VALUE_FLOOR * forward),
        (_NO_PRICE, np.logical_not(price > 0.0)),
        (_EXPIRING, tte < EXPIRING_YEARS),
        (_EXPIRED, tte <= 0.0),
        (_BAD_INPUT, np.logical_not(inside)),
    ):
        np.copyto(status, code, where=mask)
    return status


def classify_row(
    flag: float,
    price: float,
    time_value: float,
    forward: float,
    strike: float,
    tte: float,
    df: float,
    spot: float | None,
) -> Status:
    """Say of one row what `classify` says of many: the same arguments, rules and order."""
    low, high = PRICE_RANGE
    if (
        not (low <= forward <= high and low <= strike <= high)
        or (spot is not None and not low <= spot <= high)
        or not (DISCOUNT_RANGE[0] <= df <= DISCOUNT_RANGE[1] and tte <= TTE_MAX_YEARS)
        or flag not in {1.0, -1.0}
        or price < 0.0
        or price == inf
    ):
        return Status.BAD_INPUT
    if tte < EXPIRING_YEARS:
        return Status.EXPIRED if tte <= 0.0 else Status.EXPIRING
    if not price > 0.0:
        return Status.NO_PRICE
    if time_value <= TIME_VALUE_FLOOR * forward:
        return Status.BELOW_INTRINSIC
    least = min(forward, strike)
    return Status.ABOVE_MAX if time_value >= TIME_VALUE_CEILING * least else Status.OK
