"""The checks that an order passes before it is sent: one order, each with a code and a fix."""

from typing import Any, Final

import msgspec

from libs.common.contracts.orders import (
    CancelOrder,
    ModifyOrder,
    OrderCommand,
    OrderType,
    PlaceOrder,
    Side,
    Variety,
)
from libs.common.domain.clock import ist_datetime
from libs.common.domain.instruments import Instrument
from libs.common.domain.market_calendar import CALENDAR, MarketCalendar
from services.orders.domain.check_context import (
    CheckContext,
    CheckedChange,
    CheckedOrder,
    CheckRules,
    RecentOrder,
    TargetOrder,
)
from services.orders.domain.freeze_quantities import freeze_quantity, slices_of
from services.orders.domain.market_rules import check_hours, check_product
from services.orders.domain.order_limits import refuse_above
from services.orders.domain.order_shape import (
    PROTECTED,
    check_prices,
    check_shape_of_cancel,
    check_shape_of_modify,
    check_shape_of_place,
    protection_of,
)
from services.orders.domain.price_grid import check_band, check_lot, on_tick
from services.orders.errors import OrderRefusedError

__all__ = ["check_cancel", "check_modify", "check_place", "recent_of", "valid_until_ns"]

_NS_PER_SECOND: Final = 1_000_000_000
_SLICED: Final = frozenset({Variety.REGULAR, Variety.AMO})


def check_place(
    command: PlaceOrder, context: CheckContext, calendar: MarketCalendar = CALENDAR
) -> CheckedOrder:
    """Check an order just before it is sent.

    In this order, the first that fails counts: the fields' combination, the kill switch, a made-up
    feed, the contract, its product and hours, lot, tick, freeze quantity, price band, market
    protection, the limits of the account and of the user, a double, the age.

    Raises:
        OrderRefusedError: With a code, a sentence that says what would be right, and the field.
    """
    check_shape_of_place(command)
    _refuse_switched_off(context)
    _refuse_made_up(context)
    instrument = _instrument(command.exchange, command.tradingsymbol, context)
    check_product(command, instrument)
    if context.market_now_ns is not None:
        check_hours(command, instrument, context.market_now_ns, calendar)
    check_lot(command.quantity, instrument)
    price = _ticked(command.price, instrument, "price")
    trigger_price = _ticked(command.trigger_price, instrument, "trigger_price")
    slices = _slices(command, instrument, context)
    if context.band is not None and price is not None:
        check_band(price, context.band)
    protection = protection_of(command.order_type, command.market_protection)
    _refuse_beyond_limits(
        context,
        account=command.account,
        user=command.user,
        exchange=command.exchange,
        product=command.product,
        quantity=command.quantity,
        price=price or context.last_price or trigger_price,
        new_orders=len(slices),
    )
    _refuse_double(command, context)
    until_ns = valid_until_ns(command, context.rules)
    _refuse_old(until_ns, context)
    common = {
        "variety": command.variety.value,
        "exchange": command.exchange.value,
        "tradingsymbol": command.tradingsymbol,
        "transaction_type": command.transaction_type.value,
        "product": command.product.value,
        "order_type": command.order_type.value,
        "price": price,
        "trigger_price": trigger_price,
        "validity": command.validity.value,
        "validity_ttl": command.validity_ttl,
        "market_protection": protection,
        "iceberg_legs": command.iceberg_legs,
        "iceberg_quantity": command.iceberg_quantity,
    }
    return CheckedOrder(
        slices=slices,
        parameters=tuple(
            _given(
                {
                    **common,
                    "quantity": units,
                    "disclosed_quantity": _at_most(command.disclosed_quantity, units),
                }
            )
            for units in slices
        ),
        day_units=command.iceberg_legs or 1,
        valid_until_ns=until_ns,
    )


def check_modify(command: ModifyOrder, target: TargetOrder, context: CheckContext) -> CheckedChange:
    """Check a change just before it is sent, against the order as it stands.

    The checks of `check_place` that can fail for a change; hours and product are the order's own
    and not asked again, and a change is no new order for the limits that count orders.

    Args:
        command: The change.
        target: The order.
        context: `instrument` may be None when the order was placed elsewhere in a contract that
            the dump lacks: lot and tick are then the broker's to check.

    Raises:
        OrderRefusedError: With a code, a sentence that says what would be right, and the field.
    """
    check_shape_of_modify(command)
    order_type = command.order_type or _order_type(target.order_type)
    if order_type is not None:
        _check_changed_prices(command, target, order_type)
    _refuse_switched_off(context)
    _refuse_made_up(context)
    _refuse_settled(target)
    quantity = command.quantity or target.quantity
    _check_changed_quantity(command, target, context)
    price, trigger_price = command.price or None, command.trigger_price or None
    if context.instrument is not None:
        price = _ticked(price, context.instrument, "price")
        trigger_price = _ticked(trigger_price, context.instrument, "trigger_price")
    if context.band is not None and price is not None:
        check_band(price, context.band)
    protection = command.market_protection
    if order_type is not None:
        protection = protection_of(order_type, protection)
    _refuse_beyond_limits(
        context,
        account=command.account,
        user=command.user,
        exchange=target.exchange,
        product=target.product,
        quantity=quantity,
        price=_value_price(order_type, price, trigger_price, target, context),
        new_orders=0,
    )
    until_ns = valid_until_ns(command, context.rules)
    _refuse_old(until_ns, context)
    return CheckedChange(
        parameters=_given(
            {
                "variety": target.variety,
                "order_id": target.order_id,
                "parent_order_id": target.parent_order_id,
                "quantity": command.quantity,
                "order_type": None if command.order_type is None else command.order_type.value,
                "price": price,
                "trigger_price": trigger_price,
                "validity": None if command.validity is None else command.validity.value,
                "disclosed_quantity": command.disclosed_quantity,
                "market_protection": protection,
            }
        ),
        quantity=command.quantity,
        valid_until_ns=until_ns,
    )


def check_cancel(command: CancelOrder, target: TargetOrder, context: CheckContext) -> CheckedChange:
    """Check a cancellation just before it is sent.

    Neither the kill switch nor a made-up feed nor any limit holds it up: less is at risk after it.

    Raises:
        OrderRefusedError: `which_order`, `order_settled` or `expired`.
    """
    check_shape_of_cancel(command)
    _refuse_settled(target)
    until_ns = valid_until_ns(command, context.rules)
    _refuse_old(until_ns, context)
    return CheckedChange(
        parameters=_given(
            {
                "variety": target.variety,
                "order_id": target.order_id,
                "parent_order_id": target.parent_order_id,
            }
        ),
        valid_until_ns=until_ns,
    )


def valid_until_ns(command: OrderCommand, rules: CheckRules) -> int | None:
    """After which moment a command is not sent any more.

    Args:
        command: Any.
        rules: With the default of market orders.

    Returns:
        Epoch ns: the command's own end; else the default's for one that trades at whatever price
        it meets; else None.
    """
    if command.valid_until_ns is not None:
        return command.valid_until_ns
    trades_at_any_price = not isinstance(command, CancelOrder) and command.order_type in PROTECTED
    if not trades_at_any_price or rules.market_valid_seconds is None:
        return None
    return command.created_at_ns + round(rules.market_valid_seconds * _NS_PER_SECOND)


def recent_of(command: PlaceOrder, at_ns: int) -> RecentOrder:
    """What the guard against doubles remembers of an order that was taken at `at_ns`."""
    return RecentOrder(
        task_id=command.task_id,
        user=command.user,
        exchange=command.exchange,
        tradingsymbol=command.tradingsymbol,
        transaction_type=command.transaction_type,
        quantity=command.quantity,
        product=command.product,
        order_type=command.order_type,
        price=command.price or None,
        trigger_price=command.trigger_price or None,
        at_ns=at_ns,
    )


def _refuse_switched_off(context: CheckContext) -> None:
    if context.kill_switch:
        reason = f" ({context.kill_reason})" if context.kill_reason else ""
        raise OrderRefusedError(
            "kill_switch",
            f"the kill switch of the account is on{reason}: nothing but cancellations leaves until "
            "somebody switches it off",
        )


def _refuse_made_up(context: CheckContext) -> None:
    if context.is_live and context.feed_is_simulated:
        raise OrderRefusedError(
            "feed_simulated",
            "the account is live and the prices shown for it are simulated: order when its feed is "
            "live again",
        )


def _instrument(exchange: str, tradingsymbol: str, context: CheckContext) -> Instrument:
    if context.instrument is None:
        raise OrderRefusedError(
            "unknown_instrument",
            f"{exchange}:{tradingsymbol} is not in today's dump of instruments: check the symbol "
            "and the exchange",
            "tradingsymbol",
        )
    return context.instrument


def _ticked(price: float | None, instrument: Instrument, field: str) -> float | None:
    return on_tick(price, instrument, field) if price else None


def _freeze(instrument: Instrument, context: CheckContext) -> int | None:
    day = ist_datetime(context.market_now_ns or context.now_ns).date()
    return freeze_quantity(instrument.exchange, instrument.underlying, instrument.lot_size, day)


def _slices(command: PlaceOrder, instrument: Instrument, context: CheckContext) -> tuple[int, ...]:
    freeze = _freeze(instrument, context)
    if command.variety in _SLICED:
        return slices_of(command.quantity, freeze, context.rules.max_slices)
    piece = command.iceberg_quantity or command.quantity
    if command.iceberg_quantity is not None:
        check_lot(command.iceberg_quantity, instrument, "iceberg_quantity")
    if freeze is not None and piece > freeze:
        is_iceberg = command.iceberg_quantity is not None
        raise OrderRefusedError(
            "above_freeze",
            f"the exchange takes at most {freeze} units of {instrument.underlying} in one order, "
            f"not {piece}, and variety {command.variety} is not cut into several",
            "iceberg_quantity" if is_iceberg else "quantity",
        )
    return (command.quantity,)


def _refuse_beyond_limits(
    context: CheckContext,
    *,
    account: str,
    user: str,
    exchange: str,
    product: str,
    quantity: int,
    price: float | None,
    new_orders: int,
) -> None:
    for limits, use, whose in (
        (context.account_limits, context.account_use, f"account {account}"),
        (context.user_limits, context.user_use, f"user {user}"),
    ):
        refuse_above(
            limits,
            use,
            whose=whose,
            exchange=exchange,
            product=product,
            quantity=quantity,
            price=price,
            new_orders=new_orders,
        )


def _refuse_double(command: PlaceOrder, context: CheckContext) -> None:
    if command.allow_duplicate:
        return
    this = recent_of(command, 0)
    since_ns = context.now_ns - round(context.rules.duplicate_seconds * _NS_PER_SECOND)
    for other in context.recent:
        is_other = other.task_id != command.task_id
        if is_other and other.at_ns > since_ns and _looks_like(this, other):
            raise OrderRefusedError(
                "looks_duplicate",
                f"task {other.task_id} ordered the same less than "
                f"{context.rules.duplicate_seconds:g} s ago: send allow_duplicate true if both are "
                "meant",
                "allow_duplicate",
            )


def _looks_like(one: RecentOrder, other: RecentOrder) -> bool:
    return msgspec.structs.replace(other, task_id=one.task_id, at_ns=one.at_ns) == one


def _refuse_old(until_ns: int | None, context: CheckContext) -> None:
    if until_ns is not None and context.now_ns > until_ns:
        late = (context.now_ns - until_ns) / _NS_PER_SECOND
        raise OrderRefusedError(
            "expired",
            f"it was valid until {late:.1f} s ago and was not sent: send it again with a new key "
            "if it is still wanted, or with a later valid_until_ns",
            "valid_until_ns",
        )


def _refuse_settled(target: TargetOrder) -> None:
    if target.is_final:
        raise OrderRefusedError(
            "order_settled",
            f"order {target.order_id} is {target.status or 'at its end'}: nothing of it is left to "
            "change or cancel",
            "order_id",
        )


def _order_type(text: str) -> OrderType | None:
    try:
        return OrderType(text)
    except ValueError:
        return None


def _check_changed_prices(command: ModifyOrder, target: TargetOrder, order_type: OrderType) -> None:
    keeps_type = command.order_type is None
    # Prices of the order's old type do not bind the new one: a LIMIT that becomes MARKET drops
    # its price, and need not say so.
    price, trigger_price = command.price, command.trigger_price
    if price is None and (keeps_type or order_type in {OrderType.LIMIT, OrderType.SL}):
        price = target.price
    if trigger_price is None and (keeps_type or order_type in {OrderType.SL, OrderType.SL_M}):
        trigger_price = target.trigger_price
    has_both = target.transaction_type in {Side.BUY.value, Side.SELL.value}
    check_prices(
        order_type,
        Side(target.transaction_type) if has_both else None,
        price=price,
        trigger_price=trigger_price,
        needs_trigger=target.variety == Variety.CO,
    )


def _check_changed_quantity(
    command: ModifyOrder, target: TargetOrder, context: CheckContext
) -> None:
    quantity = command.quantity
    if quantity is not None:
        if quantity <= target.filled_quantity:
            raise OrderRefusedError(
                "below_filled",
                f"{target.filled_quantity} units are traded already: give a total above that, or "
                "cancel the rest",
                "quantity",
            )
        if context.instrument is not None:
            check_lot(quantity, context.instrument)
            freeze = _freeze(context.instrument, context)
            if freeze is not None and quantity > freeze:
                raise OrderRefusedError(
                    "above_freeze",
                    f"the exchange takes at most {freeze} units in one order, not {quantity}: "
                    "place another order for the rest",
                    "quantity",
                )
    total = quantity or target.quantity
    if command.disclosed_quantity is not None and total and command.disclosed_quantity > total:
        raise OrderRefusedError(
            "disclosed_above_quantity",
            f"disclosed_quantity {command.disclosed_quantity} is above the quantity of {total}",
            "disclosed_quantity",
        )


def _value_price(
    order_type: OrderType | None,
    price: float | None,
    trigger_price: float | None,
    target: TargetOrder,
    context: CheckContext,
) -> float | None:
    if price is not None:
        return price
    if order_type in PROTECTED:
        return context.last_price or trigger_price or target.trigger_price
    return target.price or context.last_price


def _at_most(units: int | None, limit: int) -> int | None:
    return None if units is None else min(units, limit)


def _given(parameters: dict[str, Any]) -> dict[str, Any]:
    """Without what is left out, as kiteconnect itself leaves it out of the form."""
    return {name: value for name, value in parameters.items() if value is not None}
