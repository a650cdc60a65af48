"""What an account, and a user, may order: quantity, value, orders per day, where and how."""

from collections.abc import Mapping

import msgspec

from libs.common.contracts.orders import Exchange, Product
from services.orders.errors import OrderRefusedError

__all__ = ["NO_LIMITS", "LimitsTable", "OrderLimits", "OrderUse", "refuse_above"]


class OrderLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of an account or of a user; None means no limit.

    Attributes:
        max_quantity: Units of one command.
        max_value: Rupees of one command: quantity times price, the last price without one.
        max_orders_per_day: Orders of an Indian day, every slice counted.
        max_open_orders: Orders that are not at their end, every slice counted.
        exchanges: Where; None for everywhere.
        products: How; None for every way.
    """

    max_quantity: int | None = None
    max_value: float | None = None
    max_orders_per_day: int | None = None
    max_open_orders: int | None = None
    exchanges: frozenset[Exchange] | None = None
    products: frozenset[Product] | None = None


NO_LIMITS = OrderLimits()


class OrderUse(msgspec.Struct, frozen=True, kw_only=True):
    """What is used of the limits that count.

    Attributes:
        orders_today: Orders of this Indian day that were sent or may be yet.
        open_orders: Of them, those that are not at their end.
    """

    orders_today: int = 0
    open_orders: int = 0


class LimitsTable(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of everybody; a name without a table of its own has the default.

    Attributes:
        accounts: By account.
        users: By user.
        default_account: Of every other account.
        default_user: Of every other user.
    """

    accounts: Mapping[str, OrderLimits] = msgspec.field(default_factory=dict)
    users: Mapping[str, OrderLimits] = msgspec.field(default_factory=dict)
    default_account: OrderLimits = NO_LIMITS
    default_user: OrderLimits = NO_LIMITS

    def of_account(self, account: str) -> OrderLimits:
        """The limits of an account."""
        return self.accounts.get(account, self.default_account)

    def of_user(self, user: str) -> OrderLimits:
        """The limits of a user, whichever account they order for."""
        return self.users.get(user, self.default_user)


def refuse_above(
    limits: OrderLimits,
    use: OrderUse,
    *,
    whose: str,
    exchange: str,
    product: str,
    quantity: int,
    price: float | None,
    new_orders: int,
) -> None:
    """Refuse an order that is beyond a limit.

    Args:
        limits: Of an account or a user.
        use: What is used of them.
        whose: For the message: "account AB1234", "user desk".
        exchange: Where.
        product: How.
        quantity: Units, of the whole command.
        price: Rupees: the limit, or the last price; None when nobody knows it.
        new_orders: How many orders it would add; 0 for a change.

    Raises:
        OrderRefusedError: A code that begins with `limit_`.
    """
    is_change = new_orders == 0
    if limits.exchanges is not None and exchange not in limits.exchanges:
        allowed = ", ".join(sorted(limits.exchanges)) or "none"
        message = f"{whose} may not order at {exchange}; allowed: {allowed}"
        raise _refused("exchange", message, None if is_change else "exchange")
    if limits.products is not None and product not in limits.products:
        allowed = ", ".join(sorted(limits.products)) or "none"
        message = f"{whose} may not order {product}; allowed: {allowed}"
        raise _refused("product", message, None if is_change else "product")
    if limits.max_quantity is not None and quantity > limits.max_quantity:
        message = f"{whose} may order {limits.max_quantity} units at once, not {quantity}"
        raise _refused("quantity", message, "quantity")
    if limits.max_value is not None:
        _refuse_value(limits.max_value, whose, quantity, price)
    _refuse_count(
        "orders_per_day",
        "orders a day",
        whose,
        limits.max_orders_per_day,
        use.orders_today,
        new_orders,
    )
    _refuse_count(
        "open_orders", "open orders", whose, limits.max_open_orders, use.open_orders, new_orders
    )


def _refuse_value(max_value: float, whose: str, quantity: int, price: float | None) -> None:
    if price is None:
        raise OrderRefusedError(
            "limit_value",
            f"{whose} may order for {max_value:,.0f} rupees at once, and no price of the "
            "instrument is known to hold against it: order with a limit price",
            "price",
        )
    value = quantity * price
    if value > max_value:
        raise _refused(
            "value",
            f"{whose} may order for {max_value:,.0f} rupees at once, not {value:,.0f}: order "
            f"at most {int(max_value / price)} units at {price:g}",
            "quantity",
        )


def _refuse_count(
    code: str, what: str, whose: str, at_most: int | None, used: int, new: int
) -> None:
    if at_most is not None and new and used + new > at_most:
        raise OrderRefusedError(
            f"limit_{code}",
            f"{whose} may have {at_most} {what}, has {used}, and this would add {new}",
        )


def _refused(code: str, message: str, field: str | None) -> OrderRefusedError:
    return OrderRefusedError(f"limit_{code}", message, field)
