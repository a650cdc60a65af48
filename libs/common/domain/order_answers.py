"""What the broker answers about orders, as plain values: how a call failed, and an order's row."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from libs.common.domain.clock import IST
from libs.common.errors import RejectedError

__all__ = [
    "FINAL_STATUSES",
    "WORKING_STATUSES",
    "BrokerOrder",
    "CallFailure",
    "OrderRowError",
    "read_order_row",
]

FINAL_STATUSES: Final = frozenset({"COMPLETE", "CANCELLED", "REJECTED", "LAPSED"})
"""Nothing happens to an order any more; LAPSED is named by Kite's list of statuses alone."""

WORKING_STATUSES: Final = frozenset({"OPEN", "TRIGGER PENDING"})
"""The exchange (or the broker's trigger) has it. The set of statuses is open-ended by Kite's
documentation: whatever is in neither set is on its way, and never final."""

_STAMP: Final = "%Y-%m-%d %H:%M:%S"


class CallFailure(msgspec.Struct, frozen=True):
    """A call to the broker's order counter did not succeed.

    Attributes:
        exception: The class that was raised, without its module: `InputException`, `ReadTimeout`.
        code: The HTTP status as kiteconnect tells it, which says 502 for every answer that is
            neither JSON nor CSV; None without an answer.
        message: The broker's words, or the exception's.
        request_sent: False only when it is proven that no byte of the request left: connection
            refused, no such host, time-out while connecting, failed TLS handshake, or given up
            before a thread took the call. True in every other case.
    """

    exception: str
    code: int | None
    message: str
    request_sent: bool


class OrderRowError(RejectedError):
    """A row of the broker's order book cannot be read.

    A book with such a row has not been read in full: it proves no order's absence.

    Attributes:
        field: The key at fault, or `row`.
        reason: What is wrong with it, in words.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field = field
        self.reason = reason

    def __str__(self) -> str:
        """The key and what is wrong with it."""
        return f"{self.field} of an order row {self.reason}"


class BrokerOrder(msgspec.Struct, frozen=True, kw_only=True):
    """One order as the broker tells it: a row of `GET /orders`, an order update or a postback.

    Attributes:
        order_id: The broker's number.
        status: Kite's word in capitals, such as `OPEN` or `TRIGGER PENDING`; "" when left out.
        tag: What the sender gave; None without.
        tags: The same and the broker's own; empty in postbacks.
        exchange: Kite's spelling.
        tradingsymbol: Kite's symbol.
        transaction_type: `BUY` or `SELL`.
        quantity: Units ordered.
        filled_quantity: Units traded; the only figure of fills to be believed.
        pending_quantity: Units not traded; Kite leaves it above 0 in cancelled rows.
        average_price: Rupees, of the fills; None without any.
        price: Rupees; 0 in market orders.
        trigger_price: Rupees; 0 without a trigger.
        order_type: A protected market order may read LIMIT.
        product: How it is carried.
        variety: Kite's counter.
        validity: How long the exchange keeps it; "" when left out.
        status_message: The broker's reason; None without one.
        order_timestamp: When the broker took it, aware, in Indian time; None when left out.
        parent_order_id: Of a child; None without.
        raw: The row as it came, with times as text: evidence.
    """

    order_id: str
    status: str = ""
    tag: str | None = None
    tags: tuple[str, ...] = ()
    exchange: str = ""
    tradingsymbol: str = ""
    transaction_type: str = ""
    quantity: int = 0
    filled_quantity: int = 0
    pending_quantity: int = 0
    average_price: float | None = None
    price: float = 0.0
    trigger_price: float = 0.0
    order_type: str = ""
    product: str = ""
    variety: str = ""
    validity: str = ""
    status_message: str | None = None
    order_timestamp: datetime | None = None
    parent_order_id: str | None = None
    raw: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def is_final(self) -> bool:
        """Whether nothing happens to it any more."""
        return self.status in FINAL_STATUSES

    @property
    def is_working(self) -> bool:
        """Whether it waits at the exchange or for its trigger."""
        return self.status in WORKING_STATUSES

    def carries(self, tag: str) -> bool:
        """Whether it was sent with this tag; the broker may list it among tags of its own."""
        return self.tag == tag or tag in self.tags


def read_order_row(row: object) -> BrokerOrder:
    """Read one order as kiteconnect, an order update or a postback gives it.

    Only the number is indispensable. Numbers may be int, float, text or null, times may be text or
    naive datetimes in Indian time; one that cannot be read counts as left out, since a strange
    price must not hide an order that carries our tag.

    Args:
        row: The decoded object.

    Raises:
        OrderRowError: It is no object, or has no order number.
    """
    if not isinstance(row, Mapping):
        raise OrderRowError("row", f"is {type(row).__name__}, not an object")
    order_id = row.get("order_id")
    if isinstance(order_id, bool) or not isinstance(order_id, str | int) or not str(order_id):
        raise OrderRowError("order_id", f"is {order_id!r}, not a number or text")
    filled = _whole(row.get("filled_quantity"))
    average = _amount(row.get("average_price"))
    return BrokerOrder(
        order_id=str(order_id),
        status=_text(row.get("status")).upper(),
        tag=_text(row.get("tag")) or None,
        tags=_texts(row.get("tags")),
        exchange=_text(row.get("exchange")),
        tradingsymbol=_text(row.get("tradingsymbol")),
        transaction_type=_text(row.get("transaction_type")),
        quantity=_whole(row.get("quantity")),
        filled_quantity=filled,
        pending_quantity=_whole(row.get("pending_quantity")),
        average_price=average if filled and average else None,
        price=_amount(row.get("price")),
        trigger_price=_amount(row.get("trigger_price")),
        order_type=_text(row.get("order_type")),
        product=_text(row.get("product")),
        variety=_text(row.get("variety")),
        validity=_text(row.get("validity")),
        status_message=_text(row.get("status_message")) or None,
        order_timestamp=_moment(row.get("order_timestamp")),
        parent_order_id=_text(row.get("parent_order_id")) or None,
        raw={str(key): _plain(value) for key, value in row.items()},
    )


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _texts(value: object) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        return ()
    return tuple(item.strip() for item in value if isinstance(item, str))


def _amount(value: object) -> float:
    if not isinstance(value, int | float | str):
        return 0.0
    try:
        amount = float(value)
    except (ValueError, OverflowError):
        return 0.0
    # NaN fails both comparisons.
    return amount if 0 <= amount < float("inf") else 0.0


def _whole(value: object) -> int:
    return int(_amount(value))


def _moment(value: object) -> datetime | None:
    if isinstance(value, str):
        try:
            value = datetime.strptime(value, _STAMP).replace(tzinfo=IST)
        except ValueError:
            return None
    if not isinstance(value, datetime):
        return None
    return value.replace(tzinfo=IST) if value.tzinfo is None else value.astimezone(IST)


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.strftime(_STAMP)
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | int | bool):
        return value
    # JSON has no NaN, and evidence must be storable as JSON whatever the broker sends.
    if isinstance(value, float) and value - value == 0:
        return value
    return str(value)
