"""The largest order that an exchange takes in one piece, as dated data, and the slices of more."""

from collections.abc import Mapping
from datetime import date
from types import MappingProxyType
from typing import Final

import msgspec

from services.orders.errors import OrderRefusedError

__all__ = ["FREEZE_QUANTITIES", "MAX_SLICES", "FreezeQuantity", "freeze_quantity", "slices_of"]

MAX_SLICES: Final = 10
"""Orders into which one may be cut (SEBI's framework for retail algorithms, Kite's own limit)."""


class FreezeQuantity(msgspec.Struct, frozen=True, kw_only=True):
    """The freeze quantity of an underlying's contracts from a day on.

    Attributes:
        effective_from: First day of it.
        units: An order above it is frozen by the exchange.
    """

    effective_from: date
    units: int


_AUGUST_2026: Final = date(2026, 8, 1)


def _since_august(units: int) -> tuple[FreezeQuantity, ...]:
    return (FreezeQuantity(effective_from=_AUGUST_2026, units=units),)


# The exchanges' monthly circulars as of August 2026. A change is a new row, never an edit. Kite has
# no call that tells them, and those of shares change monthly and are not listed: there the broker's
# own refusal names the quantity.
FREEZE_QUANTITIES: Final[Mapping[tuple[str, str], tuple[FreezeQuantity, ...]]] = MappingProxyType(
    {
        ("NFO", "NIFTY"): _since_august(1800),
        ("NFO", "BANKNIFTY"): _since_august(600),
        ("NFO", "FINNIFTY"): _since_august(1800),
        ("NFO", "MIDCPNIFTY"): _since_august(2800),
        ("NFO", "NIFTYNXT50"): _since_august(600),
        ("BFO", "SENSEX"): _since_august(1000),
        ("BFO", "BANKEX"): _since_august(900),
    }
)
"""By (exchange, underlying), rows ascending by day."""


def freeze_quantity(exchange: str, underlying: str, lot_size: int, day: date) -> int | None:
    """The largest order in whole lots.

    Args:
        exchange: Kite's spelling.
        underlying: As the dump names it.
        lot_size: Units per lot.
        day: The trading day.

    Returns:
        Units, a multiple of the lot (NIFTY: 1800 -> 1755), or None where it is not known. A day
        before the first row is taken for the first row's: a limit that is known beats none.
    """
    rows = FREEZE_QUANTITIES.get((exchange, underlying))
    if rows is None:
        return None
    row = next((row for row in reversed(rows) if row.effective_from <= day), rows[0])
    lots = row.units // max(lot_size, 1)
    # A lot above the freeze quantity would leave nothing: then the table is older than the lot.
    return lots * max(lot_size, 1) or None


def slices_of(quantity: int, at_most: int | None, max_slices: int = MAX_SLICES) -> tuple[int, ...]:
    """Cut an order into pieces that the exchange takes.

    Args:
        quantity: Units, whole lots.
        at_most: Units per piece, whole lots; None for no limit.
        max_slices: Pieces.

    Returns:
        Full pieces and the rest; their sum is `quantity`.

    Raises:
        OrderRefusedError: `above_freeze`: it takes more pieces than allowed.
    """
    if at_most is None or quantity <= at_most:
        return (quantity,)
    full, rest = divmod(quantity, at_most)
    if full + bool(rest) > max_slices:
        raise OrderRefusedError(
            "above_freeze",
            f"quantity {quantity} needs {full + bool(rest)} orders of at most {at_most}, and "
            f"{max_slices} are allowed: order at most {max_slices * at_most} at once",
            "quantity",
        )
    return (at_most,) * full + ((rest,) if rest else ())
