"""Orders and trades as the REST API, the WebSocket and the postback show them."""

import hashlib
from typing import Any

import msgspec

from libs.common.domain.clock import ist_datetime
from services.simulator.domain.accounts import Account
from services.simulator.domain.orders.order import Order, Snapshot, Status, Trade
from services.simulator.domain.orders.ticket import Variety


def encoded_row(order: Order, account: Account) -> msgspec.Raw:
    """Give an order's row as JSON; the same bytes again until the order changes."""
    if order.row is None:
        order.row = msgspec.json.encode(order_row(order, order.history[-1], account))
    return msgspec.Raw(order.row)


def order_row(order: Order, snapshot: Snapshot, account: Account) -> dict[str, Any]:
    """Give an order as it was at one moment of its history.

    Args:
        order: What does not change about it.
        snapshot: What does.
        account: Whose it is.
    """
    contract, ticket = order.contract, order.ticket
    on_exchange = snapshot.exchange_update_ns > 0
    row: dict[str, Any] = {
        "account_id": account.user_id,
        "placed_by": account.user_id,
        "order_id": order.order_id,
        "exchange_order_id": order.exchange_order_id if on_exchange else None,
        "parent_order_id": order.parent_order_id,
        "status": snapshot.status,
        "status_message": snapshot.status_message,
        "status_message_raw": _raw_message(snapshot),
        "order_timestamp": wall_clock(snapshot.at_ns),
        "exchange_update_timestamp": (
            wall_clock(snapshot.exchange_update_ns) if on_exchange else None
        ),
        "exchange_timestamp": wall_clock(order.exchange_ns) if on_exchange else None,
        "variety": order.variety,
        "modified": snapshot.modified,
        "exchange": contract.exchange,
        "tradingsymbol": contract.tradingsymbol,
        "instrument_token": contract.token,
        "order_type": snapshot.order_type,
        "transaction_type": ticket.side,
        "validity": snapshot.validity,
        "validity_ttl": snapshot.validity_ttl,
        "product": ticket.product,
        "quantity": snapshot.quantity,
        "disclosed_quantity": snapshot.disclosed,
        "price": snapshot.price / 100,
        "trigger_price": snapshot.trigger / 100,
        "average_price": average_rupees(snapshot.value, snapshot.filled),
        "filled_quantity": snapshot.filled,
        # A cancelled order goes on showing what was left of it as pending.
        "pending_quantity": (
            0 if snapshot.status is Status.REJECTED else snapshot.quantity - snapshot.filled
        ),
        "cancelled_quantity": snapshot.cancelled,
        "market_protection": snapshot.market_protection,
        "meta": order.meta,
        "tag": ticket.tag,
        "guid": None,
    }
    if order.tags:
        row["tags"] = order.tags
    if order.variety is Variety.AUCTION:
        row["auction_number"] = ticket.auction_number
    return row


def update_body(order: Order, account: Account, status: str) -> dict[str, Any]:
    """Give the body of a postback, which is also the `data` of an order update.

    Args:
        order: As it is now.
        account: Whose it is; its secret makes the checksum.
        status: The row's, or `UPDATE` for a modification or a partial fill.
    """
    snapshot = order.history[-1]
    row = order_row(order, snapshot, account)
    row.pop("tags", None)
    del row["modified"]
    text = order.order_id + row["order_timestamp"] + account.api_secret
    return {
        **row,
        "status": status,
        "user_id": account.user_id,
        "app_id": app_id(account),
        "unfilled_quantity": snapshot.quantity - snapshot.filled - snapshot.cancelled,
        "checksum": hashlib.sha256(text.encode()).hexdigest(),
    }


def app_id(account: Account) -> int:
    """Give the number of an account's app: made of its key, as the simulator has no register."""
    return int.from_bytes(hashlib.sha256(account.api_key.encode()).digest()[:3], "big")


def trade_row(order: Order, trade: Trade) -> dict[str, Any]:
    """Give a fill."""
    contract = order.contract
    at = wall_clock(trade.at_ns)
    return {
        "trade_id": trade.trade_id,
        "order_id": order.order_id,
        "exchange_order_id": order.exchange_order_id,
        "exchange": contract.exchange,
        "tradingsymbol": contract.tradingsymbol,
        "instrument_token": contract.token,
        "product": order.ticket.product,
        "average_price": trade.price / 100,
        "quantity": trade.quantity,
        "transaction_type": order.ticket.side,
        "fill_timestamp": at,
        # Only the time of day: so Kite has it, and so its client leaves it a string.
        "order_timestamp": wall_clock(order.placed_ns)[11:],
        "exchange_timestamp": at,
    }


def average_rupees(value: int, quantity: int) -> float:
    """Give the average price of fills, to the hundredth of a paisa."""
    return round(value / quantity / 100, 4) if quantity else 0.0


def wall_clock(at_ns: int) -> str:
    """Give a moment as Kite writes it: Indian time, no zone."""
    return ist_datetime(at_ns).strftime("%Y-%m-%d %H:%M:%S")


def _raw_message(snapshot: Snapshot) -> str | None:
    if snapshot.status is Status.REJECTED and snapshot.status_message:
        return f"RMS: {snapshot.status_message}"
    return None
