"""What the checks of an order know of the world, and what they give back."""

from typing import Any, Self

import msgspec

from libs.common.contracts.orders import OrderType, Product, Side
from libs.common.domain.instruments import Instrument
from libs.common.domain.order_answers import BrokerOrder
from services.orders.domain.freeze_quantities import MAX_SLICES
from services.orders.domain.intent import Intent
from services.orders.domain.order_limits import NO_LIMITS, OrderLimits, OrderUse

__all__ = [
    "CheckContext",
    "CheckRules",
    "CheckedChange",
    "CheckedOrder",
    "PriceBand",
    "RecentOrder",
    "TargetOrder",
]


class CheckRules(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of the checks.

    Attributes:
        market_valid_seconds: A MARKET or SL-M order that names no end of its own is not sent when
            it is older: the market it was meant for is gone. None for no end.
        duplicate_seconds: An order that looks like one of the last so many seconds is refused; 0
            switches the guard off.
        max_slices: Orders into which one above the freeze quantity is cut.
    """

    market_valid_seconds: float | None = 30.0
    duplicate_seconds: float = 3.0
    max_slices: int = MAX_SLICES


class PriceBand(msgspec.Struct, frozen=True, kw_only=True):
    """Between which prices the exchange takes orders today (Kite's circuit limits).

    Attributes:
        lower: Rupees.
        upper: Rupees.
    """

    lower: float
    upper: float


class RecentOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An order that was taken a moment ago, for the guard against doubles.

    Attributes:
        task_id: Its key.
        user: Who asked.
        exchange: Where.
        tradingsymbol: Kite's symbol.
        transaction_type: Buy or sell.
        quantity: Units of the whole command.
        product: How it is carried.
        order_type: How the price is found.
        price: Rupees; None without.
        trigger_price: Rupees; None without.
        at_ns: When it was taken, epoch ns.
    """

    task_id: str
    user: str
    exchange: str
    tradingsymbol: str
    transaction_type: Side
    quantity: int
    product: Product
    order_type: OrderType
    price: float | None
    trigger_price: float | None
    at_ns: int


class CheckContext(msgspec.Struct, frozen=True, kw_only=True):
    """What is known at the moment at which an order would be sent.

    Attributes:
        now_ns: Epoch ns.
        market_now_ns: Epoch ns of the market's own clock; None where the market keeps hours that
            no calendar knows (a simulator's), and hours are then not checked.
        instrument: From today's dump; None when it is not in there.
        last_price: Rupees; None when nobody knows it.
        band: None when nobody knows it.
        kill_switch: Whether nothing but cancellations may leave.
        kill_reason: Why, as whoever switched it said.
        is_live: Whether the account is at the real broker.
        feed_is_simulated: Whether what the account's clients see is made up.
        account_limits: Of the account.
        account_use: What is used of them.
        user_limits: Of the user.
        user_use: What is used of them.
        recent: The last orders of the account, this one excepted.
        rules: The figures.
    """

    now_ns: int
    market_now_ns: int | None = None
    instrument: Instrument | None = None
    last_price: float | None = None
    band: PriceBand | None = None
    kill_switch: bool = False
    kill_reason: str = ""
    is_live: bool = False
    feed_is_simulated: bool = False
    account_limits: OrderLimits = NO_LIMITS
    account_use: OrderUse = OrderUse()
    user_limits: OrderLimits = NO_LIMITS
    user_use: OrderUse = OrderUse()
    recent: tuple[RecentOrder, ...] = ()
    rules: CheckRules = CheckRules()


class TargetOrder(msgspec.Struct, frozen=True, kw_only=True):
    """The order that a change or a cancellation is about, as it stands.

    Attributes:
        order_id: The broker's number.
        status: The broker's last word; "" without any.
        variety: Kite's counter; changes go to the one that the order went to.
        exchange: Where.
        tradingsymbol: Kite's symbol.
        transaction_type: `BUY` or `SELL`.
        product: How it is carried.
        order_type: How the price is found.
        quantity: Units ordered.
        filled_quantity: Units traded.
        price: Rupees; None without.
        trigger_price: Rupees; None without.
        is_final: Whether nothing happens to it any more.
        parent_order_id: Kite wants it with some varieties; None without.
    """

    order_id: str
    status: str = ""
    variety: str = "regular"
    exchange: str = ""
    tradingsymbol: str = ""
    transaction_type: str = ""
    product: str = ""
    order_type: str = ""
    quantity: int = 0
    filled_quantity: int = 0
    price: float | None = None
    trigger_price: float | None = None
    is_final: bool = False
    parent_order_id: str | None = None

    @classmethod
    def of_row(cls, order: BrokerOrder) -> Self:
        """The order as the broker shows it."""
        return cls(
            order_id=order.order_id,
            status=order.status,
            variety=order.variety or "regular",
            exchange=order.exchange,
            tradingsymbol=order.tradingsymbol,
            transaction_type=order.transaction_type,
            product=order.product,
            order_type=order.order_type,
            quantity=order.quantity,
            filled_quantity=order.filled_quantity,
            price=order.price or None,
            trigger_price=order.trigger_price or None,
            is_final=order.is_final,
            parent_order_id=order.parent_order_id,
        )

    @classmethod
    def of_intent(cls, intent: Intent) -> Self:
        """The order as it was sent, for as long as the broker has shown nothing.

        Raises:
            ValueError: The broker has not given it a number.
        """
        if intent.order_id is None:
            raise ValueError(f"request {intent.tag} has no order number yet")
        sent = intent.parameters
        return cls(
            order_id=intent.order_id,
            status=intent.status or "",
            variety=sent.get("variety", "regular"),
            exchange=sent.get("exchange", ""),
            tradingsymbol=sent.get("tradingsymbol", ""),
            transaction_type=sent.get("transaction_type", ""),
            product=sent.get("product", ""),
            order_type=sent.get("order_type", ""),
            quantity=sent.get("quantity", 0),
            filled_quantity=intent.filled_quantity,
            price=sent.get("price"),
            trigger_price=sent.get("trigger_price"),
            is_final=intent.has_final_word,
        )


class CheckedOrder(msgspec.Struct, frozen=True, kw_only=True):
    """An order that may be sent.

    Attributes:
        slices: Units of each request, in the order in which to send them.
        parameters: kiteconnect's arguments of each, without the tag.
        day_units: What each counts for the day's cap: an iceberg its legs, any other order one.
        valid_until_ns: Not sent after this; None for no end.
    """

    slices: tuple[int, ...]
    parameters: tuple[dict[str, Any], ...]
    day_units: int = 1
    valid_until_ns: int | None = None


class CheckedChange(msgspec.Struct, frozen=True, kw_only=True):
    """A change or a cancellation that may be sent.

    Attributes:
        parameters: kiteconnect's arguments, `variety` and `order_id` included.
        quantity: The new total; None when it stays.
        valid_until_ns: Not sent after this; None for no end.
    """

    parameters: dict[str, Any]
    quantity: int | None = None
    valid_until_ns: int | None = None
