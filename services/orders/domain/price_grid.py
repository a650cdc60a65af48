"""Quantities in whole lots, prices on the tick and within the day's band."""

from decimal import Decimal
from typing import Final

from libs.common.domain.instruments import Instrument
from services.orders.domain.check_context import PriceBand
from services.orders.errors import OrderRefusedError

__all__ = ["check_band", "check_lot", "on_tick"]

# How far, in ticks, a price may lie beside one: what adding and multiplying floats leaves behind.
_NOISE: Final = Decimal("1e-6")


def check_lot(quantity: int, instrument: Instrument, field: str = "quantity") -> None:
    """Refuse a quantity that is not a whole number of lots.

    Raises:
        OrderRefusedError: `off_lot`, with the nearest quantities.
    """
    lot = max(instrument.lot_size, 1)
    if quantity % lot:
        below = quantity - quantity % lot
        nearest = f"{below} or {below + lot}" if below else str(lot)
        raise OrderRefusedError(
            "off_lot",
            f"{field} {quantity} is not a multiple of the lot of {lot} of "
            f"{instrument.tradingsymbol}: nearest is {nearest}",
            field,
        )


def on_tick(price: float, instrument: Instrument, field: str = "price") -> float:
    """The price as the exchange spells it.

    Decimal arithmetic on the shortest spelling of both numbers: 100.1 is a multiple of 0.05,
    although `100.1 % 0.05` is not 0.

    Args:
        price: Rupees, finite, above 0; may carry the noise of float arithmetic.
        instrument: With its tick size; 0 for none.
        field: For the message.

    Returns:
        The nearest multiple of the tick.

    Raises:
        OrderRefusedError: `off_tick`, with the nearest prices.
    """
    tick = Decimal(repr(instrument.tick_size))
    if tick <= 0:
        return price
    exact = Decimal(repr(price))
    ticks = (exact / tick).to_integral_value()
    nearest = ticks * tick
    if abs(exact - nearest) <= tick * _NOISE and nearest > 0:
        return float(nearest)
    below = (exact // tick) * tick
    above = below + tick
    choice = f"{below.normalize():f} or {above.normalize():f}" if below else f"{above:f}"
    raise OrderRefusedError(
        "off_tick",
        f"{field} {price!r} is not a multiple of the tick of {tick} of "
        f"{instrument.tradingsymbol}: nearest is {choice}",
        field,
    )


def check_band(price: float, band: PriceBand, field: str = "price") -> None:
    """Refuse a price at which the exchange takes no order today.

    Raises:
        OrderRefusedError: `outside_band`.
    """
    if not band.lower <= price <= band.upper:
        raise OrderRefusedError(
            "outside_band",
            f"{field} {price:g} is outside today's band: {band.lower:g} to {band.upper:g}",
            field,
        )
