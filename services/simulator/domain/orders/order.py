"""One order from its arrival to its end: a state machine that keeps what it has been through."""

from enum import StrEnum
from typing import Any, Final

import msgspec

from services.simulator.domain.orders.contract import Contract
from services.simulator.domain.orders.ticket import (
    Change,
    OrderType,
    Side,
    Ticket,
    Validity,
    Variety,
)

SNAPSHOTS_AT_MOST: Final = 200
"""Of one order's history; beyond, fills that follow one another share a snapshot."""


class Status(StrEnum):
    """Kite's words for where an order stands."""

    RECEIVED = "PUT ORDER REQ RECEIVED"
    AMO_RECEIVED = "AMO REQ RECEIVED"
    VALIDATION_PENDING = "VALIDATION PENDING"
    OPEN_PENDING = "OPEN PENDING"
    TRIGGER_PENDING = "TRIGGER PENDING"
    OPEN = "OPEN"
    MODIFY_VALIDATION_PENDING = "MODIFY VALIDATION PENDING"
    MODIFY_PENDING = "MODIFY PENDING"
    MODIFIED = "MODIFIED"
    CANCEL_PENDING = "CANCEL PENDING"
    COMPLETE = "COMPLETE"
    CANCELLED = "CANCELLED"
    REJECTED = "REJECTED"


TERMINAL: Final = frozenset({Status.COMPLETE, Status.CANCELLED, Status.REJECTED})
"""After these an order never changes again."""

WORKING: Final = frozenset({Status.OPEN, Status.TRIGGER_PENDING, Status.AMO_RECEIVED})
"""Only in these can an order be modified or cancelled; in the others it is being processed."""

_ENDS_AT_EXCHANGE: Final = frozenset({Status.COMPLETE, Status.CANCELLED})
_FOLLOWERS: Final[dict[Status, frozenset[Status]]] = {
    Status.RECEIVED: frozenset({Status.VALIDATION_PENDING}),
    Status.AMO_RECEIVED: frozenset(
        {Status.RECEIVED, Status.CANCEL_PENDING, Status.MODIFY_VALIDATION_PENDING}
    ),
    Status.VALIDATION_PENDING: frozenset({Status.OPEN_PENDING, Status.REJECTED}),
    Status.OPEN_PENDING: frozenset({Status.OPEN, Status.TRIGGER_PENDING}),
    Status.TRIGGER_PENDING: frozenset(
        {
            Status.OPEN,
            Status.CANCELLED,
            Status.MODIFY_VALIDATION_PENDING,
            Status.CANCEL_PENDING,
        }
    ),
    Status.OPEN: _ENDS_AT_EXCHANGE | {Status.MODIFY_VALIDATION_PENDING, Status.CANCEL_PENDING},
    # An order stays at the exchange while its modification or cancellation is on the way there.
    Status.MODIFY_VALIDATION_PENDING: _ENDS_AT_EXCHANGE | {Status.MODIFY_PENDING},
    Status.MODIFY_PENDING: _ENDS_AT_EXCHANGE | {Status.MODIFIED, *WORKING},
    Status.MODIFIED: _ENDS_AT_EXCHANGE | WORKING,
    Status.CANCEL_PENDING: _ENDS_AT_EXCHANGE | {Status.OPEN},
}


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """What changes about an order, at one moment; prices in paise, times in virtual epoch ns."""

    status: Status
    status_message: str | None
    at_ns: int
    exchange_update_ns: int
    quantity: int
    filled: int
    cancelled: int
    value: int
    price: int
    trigger: int
    order_type: OrderType
    validity: Validity
    validity_ttl: int
    disclosed: int
    market_protection: float
    modified: bool


class Trade(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A fill.

    Attributes:
        trade_id: The exchange's number.
        order_id: Of the order it fills.
        quantity: Units, at least 1.
        price: Paise.
        at_ns: Virtual epoch nanoseconds.
    """

    trade_id: str
    order_id: str
    quantity: int
    price: int
    at_ns: int


class Order:
    """An order at the broker; prices in paise, times in virtual epoch nanoseconds.

    Args:
        order_id: The broker's number, 19 digits.
        ticket: What was asked for.
        contract: Of what.
        quantity: Units of this order; less than the ticket's in a slice or a leg.
        at_ns: When it arrived.
        parent_order_id: The order it belongs to, if any.
        system_tags: What the broker adds to `tags`.
        is_amo: Whether it waits for the next session.

    Attributes:
        status: Where it stands.
        live: Whether it is at the exchange and can be filled.
        triggered: Whether its trigger price has been reached; true without one.
        limit: The worst price at which it may be filled, paise; 0 before it is known.
        trades: Its fills.
        history: Its snapshots, oldest first; the last one is the present.
        change: A modification on its way to the exchange.
        modifications: How many were asked for.
        meta: The row's `meta`.
        blocked: Paise of the account's funds that it holds.
        expires_ns: End of a TTL order, 0 without one.
        row: The encoded row, kept until the order changes.
    """

    def __init__(
        self,
        *,
        order_id: str,
        ticket: Ticket,
        contract: Contract,
        quantity: int,
        at_ns: int,
        parent_order_id: str | None = None,
        system_tags: tuple[str, ...] = (),
        is_amo: bool = False,
    ) -> None:
        self.order_id = order_id
        self.exchange_order_id: str | None = None
        self.parent_order_id = parent_order_id
        self.ticket = ticket
        self.contract = contract
        self.variety = Variety.AMO if is_amo else ticket.variety
        self.tags = (*((ticket.tag,) if ticket.tag else ()), *system_tags)
        self.quantity = quantity
        self.order_type = ticket.order_type
        # What an order type has no use for is not shown either.
        priced = ticket.order_type in {OrderType.LIMIT, OrderType.SL}
        self.price = paise(ticket.price) if priced else 0
        stops = self.has_trigger or ticket.variety is Variety.CO
        self.trigger = paise(ticket.trigger_price) if stops else 0
        self.validity = ticket.validity
        self.validity_ttl = ticket.validity_ttl
        self.disclosed = ticket.disclosed_quantity
        self.market_protection = ticket.market_protection
        self.filled = 0
        self.cancelled = 0
        self.value = 0
        self.placed_ns = at_ns
        self.exchange_ns = 0
        self.exchange_update_ns = 0
        self.expires_ns = 0
        self.live = False
        self.triggered = not self.has_trigger
        self.limit = 0
        self.trades: list[Trade] = []
        self.history: list[Snapshot] = []
        self.change: Change | None = None
        self.modifications = 0
        self.meta: dict[str, Any] = {}
        self.blocked = 0
        self.status_message: str | None = None
        self.row: bytes | None = None
        self.status = Status.AMO_RECEIVED if is_amo else Status.RECEIVED
        self._record(at_ns)

    @property
    def has_trigger(self) -> bool:
        """Whether it is a stop-loss order."""
        return self.order_type in {OrderType.SL, OrderType.SL_M}

    @property
    def is_terminal(self) -> bool:
        """Whether it has ended."""
        return self.status in TERMINAL

    @property
    def open_quantity(self) -> int:
        """Units that can still be filled."""
        return 0 if self.is_terminal else self.quantity - self.filled

    @property
    def working_status(self) -> Status:
        """What its status is while nothing is on the way."""
        if not self.live:
            return Status.AMO_RECEIVED
        return Status.OPEN if self.triggered else Status.TRIGGER_PENDING

    def is_reached(self, last: int, bid: int, ask: int) -> bool:
        """Say whether the market may trigger or fill it; prices in paise, 0 for none."""
        buying = self.ticket.side is Side.BUY
        if not self.triggered:
            return last >= self.trigger if buying else last <= self.trigger
        return 0 < ask <= self.limit if buying else 0 < bid >= self.limit

    def enter(self, status: Status, at_ns: int, message: str | None = None) -> None:
        """Go on to another status.

        Args:
            status: Where to.
            at_ns: When.
            message: The row's `status_message`.

        Raises:
            ValueError: That status cannot follow the present one.
        """
        if status not in _FOLLOWERS.get(self.status, frozenset()):
            raise ValueError(f"{self.order_id}: {status} cannot follow {self.status}")
        self.status = status
        self.status_message = message
        if status in TERMINAL:
            self.live = False
            self.change = None
            if status is Status.CANCELLED:
                self.cancelled = self.quantity - self.filled
        self._record(at_ns)

    def reach_exchange(self, exchange_order_id: str, at_ns: int) -> None:
        """Give it the exchange's number; from now on it can be filled."""
        self.exchange_order_id = exchange_order_id
        self.exchange_ns = at_ns
        self.live = True

    def fill(self, trade_id: str, quantity: int, price: int, at_ns: int) -> Trade:
        """Fill a part, or the rest, which completes it.

        Raises:
            ValueError: It is not at the exchange, or has less left.
        """
        if not self.live or not 0 < quantity <= self.open_quantity:
            raise ValueError(
                f"{self.order_id}: {quantity} of {self.open_quantity} cannot be filled"
            )
        trade = Trade(
            trade_id=trade_id,
            order_id=self.order_id,
            quantity=quantity,
            price=price,
            at_ns=at_ns,
        )
        self.trades.append(trade)
        self.filled += quantity
        self.value += quantity * price
        if self.filled == self.quantity:
            self.enter(Status.COMPLETE, at_ns)
        else:
            self._record(at_ns)
        return trade

    def apply_change(self) -> None:
        """Let the modification on its way take effect.

        Raises:
            ValueError: There is none.
        """
        change, self.change = self.change, None
        if change is None:
            raise ValueError(f"{self.order_id}: no modification is on its way")
        if change.quantity is not None:
            self.quantity = change.quantity
        if change.order_type is not None:
            self.order_type = change.order_type
        if change.price is not None:
            self.price = paise(change.price)
        if change.trigger_price is not None:
            self.trigger = paise(change.trigger_price)
        if change.validity is not None:
            self.validity = change.validity
        if change.validity_ttl is not None:
            self.validity_ttl = change.validity_ttl
        if change.disclosed_quantity is not None:
            self.disclosed = change.disclosed_quantity
        if change.market_protection is not None:
            self.market_protection = change.market_protection

    def _record(self, at_ns: int) -> None:
        if self.live or self.exchange_ns:
            self.exchange_update_ns = at_ns
        self.row = None
        snapshot = Snapshot(
            status=self.status,
            status_message=self.status_message,
            at_ns=at_ns,
            exchange_update_ns=self.exchange_update_ns,
            quantity=self.quantity,
            filled=self.filled,
            cancelled=self.cancelled,
            value=self.value,
            price=self.price,
            trigger=self.trigger,
            order_type=self.order_type,
            validity=self.validity,
            validity_ttl=self.validity_ttl,
            disclosed=self.disclosed,
            market_protection=self.market_protection,
            modified=self.modifications > 0,
        )
        crowded = len(self.history) >= SNAPSHOTS_AT_MOST
        if crowded and self.history[-1].status is self.status:
            self.history[-1] = snapshot
        else:
            self.history.append(snapshot)


def paise(rupees: float) -> int:
    """Give whole paise; a price that is none is refused before it comes here."""
    return round(rupees * 100)
