"""Commands, contracts and contexts for the tests of the checks."""

from datetime import date, datetime
from typing import Any

import msgspec

from libs.common.contracts.orders import (
    CancelOrder,
    Exchange,
    ModifyOrder,
    OrderType,
    PlaceOrder,
    Product,
    Side,
)
from libs.common.domain.clock import IST, ns_of
from libs.common.domain.instruments import Instrument, Kind, OptionType
from services.orders.domain.check_context import CheckContext, TargetOrder

SECOND = 1_000_000_000


def at(hour: int, minute: int = 0, day: int = 25) -> int:
    """A moment of November 2026 in India; the 25th is a Wednesday, the 24th a holiday."""
    return ns_of(datetime(2026, 11, day, hour, minute, tzinfo=IST))


NOON = at(12)
OPTION = Instrument(
    instrument_token=12_345_602,
    exchange_token=48_225,
    tradingsymbol="NIFTY26DEC26000CE",
    name="NIFTY",
    exchange="NFO",
    segment="NFO-OPT",
    underlying="NIFTY",
    kind=Kind.OPTION,
    strike=26_000.0,
    expiry=date(2026, 12, 29),
    option_type=OptionType.CALL,
    lot_size=65,
    tick_size=0.05,
)
SHARE = Instrument(
    instrument_token=408_065,
    exchange_token=1_594,
    tradingsymbol="INFY",
    name="INFOSYS",
    exchange="NSE",
    segment="NSE",
    underlying="INFY",
    kind=Kind.EQUITY,
    lot_size=1,
    tick_size=0.1,
)
INDEX = Instrument(
    instrument_token=256_265,
    exchange_token=1_001,
    tradingsymbol="NIFTY 50",
    name="NIFTY 50",
    exchange="NSE",
    segment="INDICES",
    underlying="NIFTY",
    kind=Kind.INDEX,
    lot_size=0,
    tick_size=0.0,
)


def placing(**fields: Any) -> PlaceOrder:
    """An order for one lot of the option, with some fields as given."""
    values: dict[str, Any] = {
        "account": "AB1234",
        "task_id": "task-1",
        "user": "desk",
        "created_at_ns": NOON,
        "exchange": Exchange.NFO,
        "tradingsymbol": OPTION.tradingsymbol,
        "transaction_type": Side.BUY,
        "quantity": 65,
        "product": Product.NRML,
        "order_type": OrderType.LIMIT,
        "price": 100.0,
        **fields,
    }
    return PlaceOrder(**values)


def share(**fields: Any) -> PlaceOrder:
    """An order for ten shares, with some fields as given."""
    values: dict[str, Any] = {
        "exchange": Exchange.NSE,
        "tradingsymbol": "INFY",
        "quantity": 10,
        "product": Product.CNC,
        "price": 1500.0,
        **fields,
    }
    return placing(**values)


def modifying(**fields: Any) -> ModifyOrder:
    """A change of order 1, with the fields given."""
    values: dict[str, Any] = {
        "account": "AB1234",
        "task_id": "task-2",
        "user": "desk",
        "created_at_ns": NOON,
        "order_id": "1",
        **fields,
    }
    return ModifyOrder(**values)


def cancelling(**fields: Any) -> CancelOrder:
    """A cancellation of order 1, with some fields as given."""
    values: dict[str, Any] = {
        "account": "AB1234",
        "task_id": "task-3",
        "created_at_ns": NOON,
        "order_id": "1",
        **fields,
    }
    return CancelOrder(**values)


def knowing(**fields: Any) -> CheckContext:
    """A quiet noon of a trading day at a live account, with some fields as given."""
    values: dict[str, Any] = {
        "now_ns": NOON,
        "market_now_ns": NOON,
        "instrument": OPTION,
        "is_live": True,
        **fields,
    }
    return CheckContext(**values)


def standing(**fields: Any) -> TargetOrder:
    """An open order of the option, with some fields as given."""
    target = TargetOrder(
        order_id="1",
        status="OPEN",
        exchange="NFO",
        tradingsymbol=OPTION.tradingsymbol,
        transaction_type="BUY",
        product="NRML",
        order_type="LIMIT",
        quantity=130,
        price=100.0,
    )
    return msgspec.structs.replace(target, **fields)
