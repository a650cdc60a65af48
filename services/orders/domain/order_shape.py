"""Which fields of a command belong together, before anything is known of the market."""

import math
from typing import Final

from libs.common.contracts.orders import (
    CancelOrder,
    Exchange,
    ModifyOrder,
    OrderType,
    PlaceOrder,
    Side,
    Validity,
    Variety,
)
from services.orders.errors import OrderRefusedError

__all__ = [
    "PROTECTED",
    "check_prices",
    "check_shape_of_cancel",
    "check_shape_of_modify",
    "check_shape_of_place",
    "protection_of",
]

PROTECTED: Final = frozenset({OrderType.MARKET, OrderType.SL_M})
"""Order types that Kite takes only with market protection since April 2026."""

_PRICED: Final = frozenset({OrderType.LIMIT, OrderType.SL})
_TRIGGERED: Final = frozenset({OrderType.SL, OrderType.SL_M})
_AUTOMATIC: Final = -1.0
_CHANGES: Final = (
    "quantity",
    "order_type",
    "price",
    "trigger_price",
    "validity",
    "disclosed_quantity",
    "market_protection",
)


def check_shape_of_place(command: PlaceOrder) -> None:
    """Refuse an order whose fields contradict each other.

    Raises:
        OrderRefusedError: Names the field and what would be right.
    """
    _check_numbers(command)
    if command.variety is Variety.AUCTION:
        raise OrderRefusedError(
            "variety_not_supported",
            "variety auction needs an auction number, which orders here do not carry: place it in "
            "Kite itself",
            "variety",
        )
    check_prices(
        command.order_type,
        command.transaction_type,
        price=command.price,
        trigger_price=command.trigger_price,
        needs_trigger=command.variety is Variety.CO,
    )
    _check_validity(command)
    _check_iceberg(command)
    _check_disclosed(command.disclosed_quantity, command.quantity)


def check_shape_of_modify(command: ModifyOrder) -> None:
    """Refuse a change that names no order, two orders, or nothing to change.

    Raises:
        OrderRefusedError: Names the field and what would be right.
    """
    _check_numbers(command)
    _check_target(command)
    if all(getattr(command, name) is None for name in _CHANGES):
        raise OrderRefusedError(
            "nothing_to_change", f"give at least one of {', '.join(_CHANGES)}", "quantity"
        )
    if command.validity is Validity.TTL:
        raise OrderRefusedError(
            "ttl_missing",
            "an order cannot be changed to validity TTL, which needs validity_ttl: cancel it and "
            "place a new one",
            "validity",
        )


def check_shape_of_cancel(command: CancelOrder) -> None:
    """Refuse a cancellation that names no order, or two.

    Raises:
        OrderRefusedError: Names the field and what would be right.
    """
    _check_target(command)


def check_prices(
    order_type: OrderType,
    side: Side | None,
    *,
    price: float | None,
    trigger_price: float | None,
    needs_trigger: bool = False,
) -> None:
    """Refuse prices that the order type does not go with; 0 counts as left out.

    Args:
        order_type: How the price is found.
        side: None when nobody knows it: the order of the two prices is then not checked.
        price: Rupees.
        trigger_price: Rupees.
        needs_trigger: Whether a trigger is needed whatever the type: a cover order's.

    Raises:
        OrderRefusedError: Names the field and what would be right.
    """
    if order_type in _PRICED and not price:
        raise OrderRefusedError("price_missing", f"{order_type} needs a price above 0", "price")
    if order_type not in _PRICED and price:
        raise OrderRefusedError(
            "price_not_wanted",
            f"{order_type} takes no price: leave price out, or order with LIMIT or SL",
            "price",
        )
    if (order_type in _TRIGGERED or needs_trigger) and not trigger_price:
        what = "a cover order" if needs_trigger else order_type
        raise OrderRefusedError(
            "trigger_missing", f"{what} needs a trigger_price above 0", "trigger_price"
        )
    if order_type not in _TRIGGERED and not needs_trigger and trigger_price:
        raise OrderRefusedError(
            "trigger_not_wanted",
            f"{order_type} takes no trigger_price: leave it out, or order with SL or SL-M",
            "trigger_price",
        )
    if order_type is not OrderType.SL or not price or not trigger_price:
        return
    if side is Side.BUY and trigger_price > price:
        raise OrderRefusedError(
            "trigger_beyond_price",
            f"a buying SL is triggered at or below its price: trigger_price {trigger_price:g} is "
            f"above price {price:g}",
            "trigger_price",
        )
    if side is Side.SELL and trigger_price < price:
        raise OrderRefusedError(
            "trigger_beyond_price",
            f"a selling SL is triggered at or above its price: trigger_price {trigger_price:g} is "
            f"below price {price:g}",
            "trigger_price",
        )


def protection_of(order_type: OrderType, market_protection: float | None) -> float | None:
    """The market protection to send.

    Args:
        order_type: How the price is found.
        market_protection: As asked for: percent, -1 for Kite's own, or None.

    Returns:
        -1 for a MARKET or SL-M that names none; None for the other types.

    Raises:
        OrderRefusedError: `protection_off`, `protection_not_wanted` or `protection_range`.
    """
    if order_type not in PROTECTED:
        # Kite's rows show 0 for orders without it, and people send back what they were shown.
        if market_protection:
            raise OrderRefusedError(
                "protection_not_wanted",
                f"{order_type} takes no market_protection: leave it out",
                "market_protection",
            )
        return None
    if market_protection is None:
        return _AUTOMATIC
    if market_protection == 0:
        raise OrderRefusedError(
            "protection_off",
            f"{order_type} is not taken without market protection since April 2026: leave "
            "market_protection out for Kite's own, or give the percent",
            "market_protection",
        )
    if market_protection != _AUTOMATIC and not 0 < market_protection <= 100:
        raise OrderRefusedError(
            "protection_range",
            f"market_protection is -1 or above 0 to 100 percent, not {market_protection:g}",
            "market_protection",
        )
    return market_protection


def _check_numbers(command: PlaceOrder | ModifyOrder) -> None:
    for name in ("price", "trigger_price", "market_protection"):
        value: float | None = getattr(command, name)
        if value is not None and not math.isfinite(value):
            raise OrderRefusedError("not_a_number", f"{name} is {value}, not a number", name)


def _check_target(command: ModifyOrder | CancelOrder) -> None:
    if (command.order_id is None) == (command.target_task_id is None):
        raise OrderRefusedError(
            "which_order",
            "name the order by exactly one of order_id and target_task_id",
            "order_id",
        )


def _check_validity(command: PlaceOrder) -> None:
    if command.validity is Validity.TTL and command.validity_ttl is None:
        raise OrderRefusedError(
            "ttl_missing", "validity TTL needs validity_ttl, in minutes", "validity_ttl"
        )
    if command.validity is not Validity.TTL and command.validity_ttl is not None:
        raise OrderRefusedError(
            "ttl_not_wanted",
            f"validity {command.validity} takes no validity_ttl: leave it out, or ask for TTL",
            "validity_ttl",
        )
    if command.validity is Validity.IOC and command.exchange is Exchange.MCX:
        raise OrderRefusedError(
            "validity_not_for_exchange",
            "MCX takes no IOC orders from programs: ask for DAY or TTL",
            "validity",
        )


def _check_iceberg(command: PlaceOrder) -> None:
    legs, per_leg = command.iceberg_legs, command.iceberg_quantity
    if command.variety is not Variety.ICEBERG:
        if legs is not None or per_leg is not None:
            raise OrderRefusedError(
                "iceberg_not_wanted",
                f"variety {command.variety} takes no iceberg_legs and no iceberg_quantity: leave "
                "them out, or ask for variety iceberg",
                "iceberg_legs" if legs is not None else "iceberg_quantity",
            )
        return
    if legs is None or per_leg is None:
        raise OrderRefusedError(
            "iceberg_missing",
            "variety iceberg needs iceberg_legs and iceberg_quantity",
            "iceberg_legs" if legs is None else "iceberg_quantity",
        )
    if not (legs - 1) * per_leg < command.quantity <= legs * per_leg:
        raise OrderRefusedError(
            "iceberg_sum",
            f"{legs} legs of at most {per_leg} cannot make {command.quantity}: the quantity is "
            f"above {(legs - 1) * per_leg} and at most {legs * per_leg}",
            "iceberg_quantity",
        )


def _check_disclosed(disclosed: int | None, quantity: int) -> None:
    if disclosed is not None and disclosed > quantity:
        raise OrderRefusedError(
            "disclosed_above_quantity",
            f"disclosed_quantity {disclosed} is above the quantity of {quantity}",
            "disclosed_quantity",
        )
