"""What the broker checks: at the door (HTTP 400) and in its risk system (a row with REJECTED)."""

from typing import Final

import msgspec

from libs.common.domain.instruments import Kind
from services.simulator.domain.orders.contract import Contract, Touch
from services.simulator.domain.orders.hours import Hours
from services.simulator.domain.orders.order import Order, Status, paise
from services.simulator.domain.orders.ticket import (
    Change,
    OrderType,
    Product,
    Side,
    Ticket,
    Validity,
    Variety,
)
from services.simulator.errors import InputError, KiteError, OrderError

MODIFICATIONS_AT_MOST: Final = 25
SLICES_AT_MOST: Final = 10
UNKNOWN_INSTRUMENT: Final = (
    "The instrument you are placing an order for has either expired or does not exist."
)
UNKNOWN_ORDER: Final = "Couldn't find that `order_id`."

_EXCHANGES: Final = frozenset({"NSE", "BSE", "NFO", "BFO", "CDS", "BCD", "MCX", "NCO"})
_CASH_PRODUCTS: Final = frozenset({Product.CNC, Product.MIS, Product.MTF, Product.CO})
_DERIVATIVE_PRODUCTS: Final = frozenset({Product.NRML, Product.MIS, Product.CO})
_AT_MARKET: Final = frozenset({OrderType.MARKET, OrderType.SL_M})
_ICEBERG_LEGS: Final = (2, 50)
_WITHOUT_PROTECTION: Final = (
    "Market orders without market protection are not allowed via API. "
    "Please set market protection or use a Limit order."
)
_BEING_PROCESSED: Final = "Order cannot be {verb} as it is being processed. Try later."


def check_exchange(exchange: str) -> None:
    """Refuse an exchange that does not exist.

    Raises:
        InputError: Not one of Kite's.
    """
    if exchange not in _EXCHANGES:
        raise InputError(f"Invalid `exchange`. It is one of {', '.join(sorted(_EXCHANGES))}.")


def check_ticket(ticket: Ticket, contract: Contract, touch: Touch, now: Hours) -> None:
    """Check a request to place an order as the broker's door does.

    Args:
        ticket: The request.
        contract: Of what.
        touch: Its market.
        now: Whether the exchange is open.

    Raises:
        InputError: The first thing that is wrong.
    """
    _check_hours(ticket, now)
    check_product(ticket.product, contract)
    _check_variety(ticket, contract)
    _check_validity(ticket.validity, ticket.validity_ttl)
    leg = ticket.iceberg_quantity if ticket.variety is Variety.ICEBERG else ticket.quantity
    _check_quantity(ticket.quantity, contract)
    if ticket.autoslice and ticket.variety in {Variety.REGULAR, Variety.AMO}:
        _check_slices(ticket.quantity, contract)
    else:
        check_freeze(leg, contract)
    if ticket.disclosed_quantity > ticket.quantity:
        raise InputError("Invalid `disclosed_quantity`. It cannot be more than the quantity.")
    check_prices(
        ticket.order_type, ticket.price, ticket.trigger_price, ticket.market_protection, contract
    )
    if ticket.order_type in {OrderType.SL, OrderType.SL_M}:
        _check_trigger(ticket.order_type, ticket.side, ticket.price, ticket.trigger_price, touch)
    if ticket.variety is Variety.CO:
        # The stop-loss that follows lies on the other side.
        _check_trigger(OrderType.SL_M, ticket.side.other, 0.0, ticket.trigger_price, touch)


def check_change(order: Order, change: Change, touch: Touch) -> None:
    """Check a request to modify an order as the broker's door does.

    Raises:
        OrderError: The order has ended, is being processed, or was modified too often.
        InputError: A new value is wrong.
    """
    check_working(order, "modified")
    if order.modifications >= MODIFICATIONS_AT_MOST:
        raise OrderError(
            "Maximum allowed order modifications exceeded. "
            f"An order can be modified {MODIFICATIONS_AT_MOST} times; cancel it and place another."
        )
    wanted = merged(order, change)
    if wanted.quantity <= order.filled:
        raise InputError(
            f"Invalid `quantity`. {order.filled} have been filled already; give more than that."
        )
    _check_quantity(wanted.quantity, order.contract)
    check_freeze(wanted.quantity, order.contract)
    _check_validity(wanted.validity, wanted.validity_ttl)
    # A market order stands in the book as a limit order: its protection was used up on the way.
    protection = change.market_protection if change.market_protection is not None else 0.0
    if change.order_type is None and order.order_type is OrderType.SL_M:
        protection = order.market_protection
    check_prices(wanted.order_type, wanted.price, wanted.trigger_price, protection, order.contract)
    waits = not order.triggered or not order.live
    if wanted.order_type in {OrderType.SL, OrderType.SL_M} and waits:
        _check_trigger(
            wanted.order_type, order.ticket.side, wanted.price, wanted.trigger_price, touch
        )


def check_working(order: Order, verb: str) -> None:
    """Refuse to touch an order that has ended or is on its way.

    Args:
        order: Which one.
        verb: `modified` or `cancelled`, for the text.

    Raises:
        OrderError: It cannot be touched.
    """
    if order.is_terminal:
        raise OrderError(f"Order cannot be {verb} as it is already {order.status.lower()}.")
    if order.status not in {Status.OPEN, Status.TRIGGER_PENDING, Status.AMO_RECEIVED}:
        raise OrderError(_BEING_PROCESSED.format(verb=verb))


class Wanted(msgspec.Struct, frozen=True):
    """What an order would be after a modification; prices in rupees."""

    quantity: int
    order_type: OrderType
    price: float
    trigger_price: float
    validity: Validity
    validity_ttl: int


def merged(order: Order, change: Change) -> Wanted:
    """Lay a modification over an order."""

    def either(new: float | None, old: float) -> float:
        return old if new is None else new

    return Wanted(
        quantity=order.quantity if change.quantity is None else change.quantity,
        order_type=change.order_type or order.order_type,
        price=either(change.price, order.price / 100),
        trigger_price=either(change.trigger_price, order.trigger / 100),
        validity=change.validity or order.validity,
        validity_ttl=order.validity_ttl if change.validity_ttl is None else change.validity_ttl,
    )


def check_freeze(quantity: int, contract: Contract) -> None:
    """Refuse more than the exchange takes in one order.

    Raises:
        InputError: Its text carries the number.
    """
    most = contract.freeze_quantity
    if most is not None and quantity > most:
        raise InputError(
            f"Quantity {quantity} is above the freeze quantity: at most {most} of "
            f"{contract.tradingsymbol} can be placed in one order."
        )


def check_prices(
    order_type: OrderType, price: float, trigger: float, protection: float, contract: Contract
) -> None:
    """Check that the prices an order type needs are there, and on the grid.

    Raises:
        InputError: One is missing or off the grid.
    """
    if order_type in _AT_MARKET and protection == 0:
        raise InputError(_WITHOUT_PROTECTION)
    if order_type in {OrderType.LIMIT, OrderType.SL}:
        if price <= 0:
            raise InputError(f"Missing or empty field `price`: a {order_type} order needs one.")
        _check_tick(price, "price", contract)
    if order_type in {OrderType.SL, OrderType.SL_M}:
        if trigger <= 0:
            raise InputError(
                f"Missing or empty field `trigger_price`: a {order_type} order needs one."
            )
        _check_tick(trigger, "trigger_price", contract)


def risk_reason(order: Order, touch: Touch, available: int, required: int) -> str | None:
    """Give why the risk system rejects an order that the door let in; None when it does not.

    Args:
        order: Which one.
        touch: Its market.
        available: Free funds, paise.
        required: What the order needs, paise.
    """
    if required > available:
        return (
            f"Insufficient funds. Required margin is {required / 100:.2f} but available margin "
            f"is {max(available, 0) / 100:.2f}. Check the orderbook for open orders."
        )
    return _circuit_reason(order.price, order.trigger, touch)


def change_reason(order: Order, touch: Touch) -> str | None:
    """Give why the exchange rejects the modification that has reached it; None when it does not.

    Args:
        order: With its `change`.
        touch: The market of its instrument.
    """
    if order.change is None:
        return None
    wanted = merged(order, order.change)
    if wanted.quantity <= order.filled:
        return f"{order.filled} had been filled before the modification came."
    priced = wanted.order_type in {OrderType.LIMIT, OrderType.SL}
    stops = wanted.order_type in {OrderType.SL, OrderType.SL_M}
    return _circuit_reason(
        paise(wanted.price) if priced else 0, paise(wanted.trigger_price) if stops else 0, touch
    )


def _circuit_reason(price: int, trigger: int, touch: Touch) -> str | None:
    for name, value in (("price", price), ("trigger price", trigger)):
        if value and not touch.lower_circuit <= value <= touch.upper_circuit:
            return (
                f"Order {name} is out of the circuit limits: it must lie between "
                f"{touch.lower_circuit / 100:.2f} and {touch.upper_circuit / 100:.2f}."
            )
    return None


def _check_hours(ticket: Ticket, now: Hours) -> None:
    if ticket.variety is Variety.AMO:
        if now is not Hours.AFTER_MARKET:
            raise InputError(
                "After market orders (AMO) are not taken while the market is open or about to; "
                "place a regular order."
            )
    elif now is Hours.SHUT or (now is Hours.AFTER_MARKET and ticket.variety is not Variety.REGULAR):
        raise InputError(
            "Markets are closed right now, and your order could not be converted to an "
            "After Market Order (AMO)."
        )
    if now is Hours.AFTER_MARKET and ticket.validity is not Validity.DAY:
        raise InputError("Invalid `validity`. After market orders can only be DAY.")


def check_product(product: Product, contract: Contract) -> None:
    """Refuse a product in which an instrument cannot be carried.

    Raises:
        InputError: Names those in which it can.
    """
    cash = contract.kind is Kind.EQUITY
    allowed = _CASH_PRODUCTS if cash else _DERIVATIVE_PRODUCTS
    if product not in allowed:
        names = ", ".join(sorted(allowed))
        raise InputError(
            f"Invalid `product`. {product} cannot be used on {contract.exchange}; use {names}."
        )


def _check_variety(ticket: Ticket, contract: Contract) -> None:
    match ticket.variety:
        case Variety.CO:
            _check_cover(ticket, contract)
        case Variety.ICEBERG:
            _check_iceberg(ticket, contract)
        case Variety.AUCTION:
            _check_auction(ticket, contract)
        case Variety.REGULAR | Variety.AMO:
            pass


def _check_cover(ticket: Ticket, contract: Contract) -> None:
    if ticket.order_type not in {OrderType.MARKET, OrderType.LIMIT}:
        raise InputError("Invalid `order_type`. A cover order is MARKET or LIMIT.")
    if ticket.trigger_price <= 0:
        raise InputError("Missing or empty field `trigger_price`: a cover order needs one.")
    _check_tick(ticket.trigger_price, "trigger_price", contract)
    if ticket.product not in {Product.MIS, Product.CO}:
        raise InputError("Invalid `product`. A cover order is MIS.")


def _check_iceberg(ticket: Ticket, contract: Contract) -> None:
    lowest, highest = _ICEBERG_LEGS
    if not lowest <= ticket.iceberg_legs <= highest:
        raise InputError(f"Invalid `iceberg_legs`. It must be {lowest} to {highest}.")
    if ticket.iceberg_quantity < 1:
        raise InputError("Missing or empty field `iceberg_quantity`.")
    if ticket.order_type not in {OrderType.MARKET, OrderType.LIMIT}:
        raise InputError("Invalid `order_type`. An iceberg order is MARKET or LIMIT.")
    if ticket.validity is Validity.IOC:
        raise InputError("Invalid `validity`. An iceberg order cannot be IOC.")
    _check_quantity(ticket.iceberg_quantity, contract)
    legs = -(-ticket.quantity // ticket.iceberg_quantity)
    if legs != ticket.iceberg_legs:
        raise InputError(
            f"Invalid `iceberg_quantity`. {ticket.quantity} in legs of "
            f"{ticket.iceberg_quantity} makes {legs} legs, not {ticket.iceberg_legs}."
        )


def _check_auction(ticket: Ticket, contract: Contract) -> None:
    if not ticket.auction_number:
        raise InputError("Missing or empty field `auction_number`.")
    if contract.kind is not Kind.EQUITY or ticket.side is not Side.SELL:
        raise InputError("Invalid auction: only shares can be offered, with SELL.")
    if ticket.order_type is not OrderType.LIMIT:
        raise InputError("Invalid `order_type`. An auction order is LIMIT.")


def _check_validity(validity: Validity, ttl: int) -> None:
    if validity is Validity.TTL and ttl < 1:
        raise InputError("Missing or empty field `validity_ttl`: TTL needs its minutes.")


def _check_quantity(quantity: int, contract: Contract) -> None:
    if quantity % contract.lot:
        raise InputError(
            f"Invalid `quantity`. Quantity should be in multiples of lot size {contract.lot}."
        )


def _check_slices(quantity: int, contract: Contract) -> None:
    most = contract.freeze_quantity
    if most is not None and quantity > most * SLICES_AT_MOST:
        raise InputError(
            f"Quantity {quantity} is above {SLICES_AT_MOST} slices of the freeze quantity {most}."
        )


def _check_tick(price: float, name: str, contract: Contract) -> None:
    amount = paise(price)
    off_paise = abs(price * 100 - amount) > 1e-6
    if off_paise or amount % contract.tick_paise:
        raise InputError(
            f"Invalid `{name}`. Tick size for this script is {contract.tick_paise / 100:.2f}. "
            "Kindly enter price in the multiple of tick size for this script."
        )


def _check_trigger(
    order_type: OrderType, side: Side, price: float, trigger: float, touch: Touch
) -> None:
    buying = side is Side.BUY
    if order_type is OrderType.SL and (price < trigger if buying else price > trigger):
        raise InputError(
            "Invalid `trigger_price`. Trigger price of a stoploss "
            f"{'buy order cannot be above' if buying else 'sell order cannot be below'} its price."
        )
    if paise(trigger) <= touch.last if buying else paise(trigger) >= touch.last:
        raise InputError(
            f"Invalid `trigger_price`. Trigger price for stoploss "
            f"{'buy orders should be higher' if buying else 'sell orders should be lower'} "
            f"than the last traded price ({touch.last / 100:.2f})."
        )


def refusal_row(error: KiteError) -> dict[str, object]:
    """Give the `error` of a slice that was refused."""
    return {
        "code": error.status,
        "error_type": error.error_type,
        "message": error.message,
        "data": None,
    }
