"""The orders of one account on one day: placing, changing, the way to the exchange, and fills."""

import random
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from services.simulator.domain.accounts import Account
from services.simulator.domain.orders import matching, rows, rules
from services.simulator.domain.orders.contract import Contract, Touch
from services.simulator.domain.orders.funds import Funds
from services.simulator.domain.orders.hours import Hours
from services.simulator.domain.orders.order import Order, Status, Trade
from services.simulator.domain.orders.ticket import (
    Change,
    OrderType,
    Ticket,
    Validity,
    Variety,
)
from services.simulator.errors import DayCapError, KiteError, MarginError, OrderError

NS_PER_MINUTE: Final = 60_000_000_000
FILLS_AT_MOST: Final = 1_000
"""Of one order in small parts; what is left then is filled at once."""

_WITHOUT_A_LOOK: Final = {
    Status.RECEIVED: Status.VALIDATION_PENDING,
    Status.MODIFY_VALIDATION_PENDING: Status.MODIFY_PENDING,
}

UPDATE: Final = "UPDATE"
"""The status that an update bears after a modification or a partial fill."""


class Numbers:
    """Numbers of orders and trades, never given twice, by any process either.

    Args:
        real_now_ns: Real epoch nanoseconds at the start: later processes begin higher.
    """

    def __init__(self, real_now_ns: int) -> None:
        milliseconds = real_now_ns // 1_000_000
        self._order = milliseconds << 22
        # A process that begins a millisecond later begins a thousand numbers higher.
        self._exchange = milliseconds % 10**10 * 1_000

    def order_id(self) -> str:
        """Give the broker's next number: 19 digits."""
        self._order += 1
        return str(self._order)

    def exchange_order_id(self) -> str:
        """Give the exchange's next number of an order: 16 digits."""
        return f"11{self._next():014d}"

    def trade_id(self) -> str:
        """Give the exchange's next number of a trade."""
        return str(self._next())

    def _next(self) -> int:
        self._exchange += 1
        return self._exchange


class Placement(msgspec.Struct, frozen=True):
    """What became of a request to place an order.

    Attributes:
        order: The order; the first slice of several.
        children: The further slices, or why there is none; empty unless it was cut.
    """

    order: Order
    children: tuple[Order | KiteError, ...] = ()

    def reply(self, *, autoslice: bool) -> dict[str, Any]:
        """Give the `data` of the answer.

        Args:
            autoslice: Whether the client asked for slices, and so gets `children`.
        """
        data: dict[str, Any] = {"order_id": self.order.order_id}
        if autoslice:
            data["children"] = [
                {"order_id": child.order_id}
                if isinstance(child, Order)
                else {"error": rules.refusal_row(child)}
                for child in self.children
            ]
        return data


class TagUse(msgspec.Struct):
    """What a tag was used for.

    Attributes:
        accepted: How many requests with it were taken in.
        order_ids: The orders they made: several when one was cut into slices or legs.
    """

    accepted: int = 0
    order_ids: list[str] = msgspec.field(default_factory=list)


class News(msgspec.Struct, frozen=True):
    """Something the account is told about an order.

    Attributes:
        order: Which one, as it is now.
        body: The update's data, as it was when it happened.
    """

    order: Order
    body: dict[str, Any]


class OrderBook:
    """The orders of one account.

    Args:
        account: Whose.
        numbers: Gives numbers.
        funds: Rupees the day begins with.
        orders_per_day: Most orders of a day.
        partial_fills: Chance that a fill of several lots takes only a part of them.
        seed: For that chance.
        reject_in_reply: Whether what the risk system finds is said in the reply (HTTP 400)
            instead of in a row with REJECTED.
    """

    def __init__(
        self,
        account: Account,
        numbers: Numbers,
        *,
        funds: float,
        orders_per_day: int,
        partial_fills: float,
        seed: int,
        reject_in_reply: bool = False,
    ) -> None:
        self.account = account
        self.placed_today = 0
        self.tags: dict[str, TagUse] = {}
        self._numbers = numbers
        self._total = round(funds * 100)
        self._orders_per_day = orders_per_day
        self._partial_fills = partial_fills
        self._reject_in_reply = reject_in_reply
        self._luck = random.Random(f"{seed}:{account.api_key}")
        self._orders: dict[str, Order] = {}
        self._fresh: list[Order] = []
        self._news: list[News] = []
        self.funds = Funds(self._total)

    def __len__(self) -> int:
        return len(self._orders)

    def __iter__(self) -> Iterator[Order]:
        return iter(list(self._orders.values()))

    def holds(self, order: Order) -> bool:
        """Say whether an order is one of today's."""
        return order.order_id in self._orders

    def get(self, order_id: str) -> Order:
        """Find an order of today.

        Raises:
            OrderError: There is none of that number.
        """
        order = self._orders.get(order_id)
        if order is None:
            raise OrderError(rules.UNKNOWN_ORDER)
        return order

    def trades(self) -> list[tuple[Order, Trade]]:
        """Give today's fills, oldest first."""
        pairs = [(order, trade) for order in self._orders.values() for trade in order.trades]
        return sorted(pairs, key=lambda pair: (pair[1].at_ns, int(pair[1].trade_id)))

    def drain(self) -> tuple[list[Order], list[News]]:
        """Give, once, the orders that are new and what the account is to be told."""
        fresh, self._fresh = self._fresh, []
        news, self._news = self._news, []
        return fresh, news

    def place(
        self, ticket: Ticket, contract: Contract, touch: Touch, *, now: Hours, at_ns: int
    ) -> Placement:
        """Take an order in; from here on it exists.

        Args:
            ticket: What is asked for.
            contract: Of what.
            touch: Its market.
            now: Whether its exchange is open.
            at_ns: Virtual epoch nanoseconds.

        Raises:
            KiteError: It is refused at the door; nothing exists then.
        """
        # An order that the door refuses counts as well.
        self._count(1)
        rules.check_ticket(ticket, contract, touch, now)
        most = contract.freeze_quantity
        is_amo = now is Hours.AFTER_MARKET
        if ticket.variety is Variety.ICEBERG:
            placement = Placement(self._place_leg(ticket, contract, 1, None, at_ns))
        elif ticket.autoslice and most is not None and ticket.quantity > most:
            placement = self._place_slices(ticket, contract, touch, at_ns, is_amo=is_amo)
        else:
            order = self._new(ticket, contract, ticket.quantity, at_ns, is_amo=is_amo)
            self._refuse_in_reply(order, touch)
            placement = Placement(self._accept(order))
        if ticket.tag:
            self._tag_use(ticket.tag).accepted += 1
        return placement

    def modify(self, order: Order, change: Change, touch: Touch, at_ns: int) -> None:
        """Send a modification on its way.

        Raises:
            KiteError: It is refused.
        """
        rules.check_change(order, change, touch)
        order.modifications += 1
        order.change = change
        order.enter(Status.MODIFY_VALIDATION_PENDING, at_ns)

    def cancel(self, order: Order, at_ns: int) -> None:
        """Send a cancellation on its way.

        Raises:
            OrderError: It is refused.
        """
        rules.check_working(order, "cancelled")
        order.enter(Status.CANCEL_PENDING, at_ns)

    def advance(self, order: Order, touch: Touch | None, at_ns: int) -> bool:
        """Take an order's next step on its own.

        Args:
            order: Which one.
            touch: The market of its instrument; None when it is no longer listed.
            at_ns: Virtual epoch nanoseconds.

        Returns:
            Whether another step is to follow.
        """
        if touch is None:
            self._reject_unlisted(order, at_ns)
            return False
        following = _WITHOUT_A_LOOK.get(order.status)
        if following is not None:
            order.enter(following, at_ns)
            return True
        match order.status:
            case Status.VALIDATION_PENDING:
                return self._validate(order, touch, at_ns)
            case Status.MODIFY_PENDING:
                return self._change(order, touch, at_ns)
            case Status.OPEN_PENDING:
                self._open(order, touch, at_ns)
            case Status.MODIFIED:
                order.enter(order.working_status, at_ns)
                self._tell(order, UPDATE)
                self.match(order, touch, at_ns)
            case Status.CANCEL_PENDING:
                self._cancelled(order, touch, at_ns)
        return False

    def match(self, order: Order, touch: Touch, at_ns: int) -> None:
        """Trigger and fill an order as far as the market goes."""
        if not order.live or order.variety is Variety.AUCTION:
            return
        if not order.triggered:
            if not matching.is_triggered(order.ticket.side, order.trigger, touch.last):
                return
            self._trigger(order, touch, at_ns)
        levels = touch.against(order.ticket.side)
        if len(order.trades) >= FILLS_AT_MOST:
            levels = tuple((price, order.open_quantity) for price, _ in levels[:1])
        for units, price in matching.fills(
            order.ticket.side,
            order.limit,
            order.open_quantity,
            levels,
            lot=order.contract.lot,
            share=self._share(order),
        ):
            self._fill(order, units, price, touch, at_ns)
        if order.validity is Validity.IOC and not order.is_terminal:
            self._end(order, Status.CANCELLED, at_ns)

    def expire(self, order: Order, at_ns: int, *, closed: bool) -> None:
        """End an order whose time is over: its minutes, or its exchange's session.

        Args:
            order: Which one.
            at_ns: Virtual epoch nanoseconds.
            closed: Whether its exchange has closed.
        """
        over = closed or (order.expires_ns and at_ns >= order.expires_ns)
        if over and order.live:
            self._end(order, Status.CANCELLED, at_ns)

    def release_amo(self, exchange: str, at_ns: int) -> list[Order]:
        """Send the orders that waited for an exchange's open on their way, and give them."""
        waiting = [
            order
            for order in self._orders.values()
            if order.status is Status.AMO_RECEIVED and order.contract.exchange == exchange
        ]
        for order in waiting:
            order.enter(Status.RECEIVED, at_ns)
        return waiting

    def turn_day(self) -> None:
        """Forget the day; only what waits for the next open stays."""
        self._orders = {
            number: order
            for number, order in self._orders.items()
            if order.status is Status.AMO_RECEIVED
        }
        self._fresh.clear()
        self._news.clear()
        self.tags.clear()
        self.funds = Funds(self._total)
        self.placed_today = len(self._orders)
        waiting, self._orders = self._orders, {}
        for order in waiting.values():
            self._accept(order)
            if order.ticket.tag:
                self._tag_use(order.ticket.tag).accepted += 1
        self._fresh.clear()

    def _count(self, orders: int) -> None:
        if self.placed_today + orders > self._orders_per_day:
            raise DayCapError
        self.placed_today += orders

    def _new(
        self,
        ticket: Ticket,
        contract: Contract,
        quantity: int,
        at_ns: int,
        *,
        is_amo: bool = False,
        parent: str | None = None,
        system_tags: tuple[str, ...] = (),
    ) -> Order:
        if ticket.order_type is OrderType.MARKET:
            percent = ticket.market_protection
            system_tags = (*system_tags, "mktp", *((f"mktp:{percent:.2f}",) if percent > 0 else ()))
        return Order(
            order_id=self._numbers.order_id(),
            ticket=ticket,
            contract=contract,
            quantity=quantity,
            at_ns=at_ns,
            parent_order_id=parent,
            system_tags=system_tags,
            is_amo=is_amo,
        )

    def _accept(self, order: Order) -> Order:
        self._orders[order.order_id] = order
        self._fresh.append(order)
        if order.ticket.tag:
            self._tag_use(order.ticket.tag).order_ids.append(order.order_id)
        return order

    def _tag_use(self, tag: str) -> TagUse:
        return self.tags.setdefault(tag, TagUse())

    def _refuse_in_reply(self, order: Order, touch: Touch) -> None:
        if not self._reject_in_reply:
            return
        limit = self._limit(order, touch)
        required = self.funds.required(order, limit, touch)
        reason = rules.risk_reason(order, touch, self.funds.available, required)
        if reason is not None:
            raise MarginError(reason) if required > self.funds.available else OrderError(reason)

    def _place_slices(
        self, ticket: Ticket, contract: Contract, touch: Touch, at_ns: int, *, is_amo: bool
    ) -> Placement:
        """Cut an order at the freeze quantity; the first slice is the parent of the others."""
        most = contract.freeze_quantity or ticket.quantity
        first: Order | None = None
        children: list[Order | KiteError] = []
        for done in range(0, ticket.quantity, most):
            try:
                if first is not None:
                    self._count(1)
                order = self._new(
                    ticket,
                    contract,
                    min(most, ticket.quantity - done),
                    at_ns,
                    is_amo=is_amo,
                    parent=first.order_id if first else None,
                    system_tags=("autoslice", f"autoslice:{first.order_id}") if first else (),
                )
                self._refuse_in_reply(order, touch)
            except KiteError as error:
                if first is None:
                    raise
                children.append(error)
                continue
            if first is None:
                first = order
                order.tags = (*order.tags, "autoslice", f"autoslice:{order.order_id}")
            else:
                children.append(order)
            self._accept(order)
        assert first is not None  # noqa: S101  # A ticket has at least one unit.
        return Placement(first, tuple(children))

    def _place_leg(
        self, ticket: Ticket, contract: Contract, leg: int, parent: str | None, at_ns: int
    ) -> Order:
        before = (leg - 1) * ticket.iceberg_quantity
        quantity = min(ticket.iceberg_quantity, ticket.quantity - before)
        order = self._new(ticket, contract, quantity, at_ns, parent=parent)
        order.meta = {
            "iceberg": {
                "leg": leg,
                "legs": ticket.iceberg_legs,
                "leg_quantity": ticket.iceberg_quantity,
                "total_quantity": ticket.quantity,
                "remaining_quantity": ticket.quantity - before - quantity,
            }
        }
        return self._accept(order)

    def _reject_unlisted(self, order: Order, at_ns: int) -> None:
        """End an order that waited overnight for a contract which has died."""
        if order.status is Status.RECEIVED:
            order.enter(Status.VALIDATION_PENDING, at_ns)
            self._end(order, Status.REJECTED, at_ns, rules.UNKNOWN_INSTRUMENT)

    def _validate(self, order: Order, touch: Touch, at_ns: int) -> bool:
        order.limit = self._limit(order, touch)
        required = self.funds.required(order, order.limit, touch)
        reason = rules.risk_reason(order, touch, self.funds.available, required)
        if reason is not None:
            self._end(order, Status.REJECTED, at_ns, reason)
            return False
        self.funds.block(order, required)
        order.enter(Status.OPEN_PENDING, at_ns)
        return True

    def _open(self, order: Order, touch: Touch, at_ns: int) -> None:
        self._price(order, touch)
        if order.validity is Validity.TTL:
            order.expires_ns = at_ns + order.validity_ttl * NS_PER_MINUTE
        order.reach_exchange(self._numbers.exchange_order_id(), at_ns)
        order.enter(order.working_status, at_ns)
        self._tell(order, order.status)
        self.match(order, touch, at_ns)

    def _change(self, order: Order, touch: Touch, at_ns: int) -> bool:
        reason = rules.change_reason(order, touch)
        if reason is not None:
            order.change = None
            order.enter(order.working_status, at_ns, f"Order modification was rejected: {reason}")
            self._tell(order, UPDATE)
            return False
        was_trigger = order.has_trigger
        order.apply_change()
        if order.has_trigger != was_trigger:
            order.triggered = not order.has_trigger
        if order.live:
            self._price(order, touch)
            self.funds.block(order, self.funds.required(order, order.limit, touch))
            ttl = order.validity is Validity.TTL
            order.expires_ns = at_ns + order.validity_ttl * NS_PER_MINUTE if ttl else 0
        order.enter(Status.MODIFIED, at_ns)
        return True

    def _cancelled(self, order: Order, touch: Touch, at_ns: int) -> None:
        if order.variety is Variety.CO and order.parent_order_id and not order.triggered:
            # The second leg of a cover order is not taken away: it exits at the market.
            self._trigger(order, touch, at_ns)
            order.enter(Status.OPEN, at_ns)
            self._tell(order, order.status)
            self.match(order, touch, at_ns)
            return
        self._end(order, Status.CANCELLED, at_ns)

    def _price(self, order: Order, touch: Touch) -> None:
        """Fix the worst price; a market order becomes a limit order here."""
        order.limit = self._limit(order, touch)
        if order.order_type is OrderType.MARKET:
            order.order_type = OrderType.LIMIT
            order.price = order.limit

    def _limit(self, order: Order, touch: Touch) -> int:
        match order.order_type:
            case OrderType.LIMIT | OrderType.SL:
                return order.price
            case OrderType.SL_M if not order.triggered:
                # Not before it is triggered will anybody know: for the funds, around its trigger.
                touch = msgspec.structs.replace(touch, last=order.trigger)
        percent = matching.protection_percent(order.contract, touch.last, order.market_protection)
        return matching.protection_price(order.contract, touch, order.ticket.side, percent)

    def _trigger(self, order: Order, touch: Touch, at_ns: int) -> None:
        order.triggered = True
        if order.order_type is OrderType.SL_M:
            order.limit = self._limit(order, touch)
            order.order_type = OrderType.LIMIT
            order.price = order.limit
        if order.status is Status.TRIGGER_PENDING:
            order.enter(Status.OPEN, at_ns)
            self._tell(order, order.status)

    def _fill(self, order: Order, units: int, price: int, touch: Touch, at_ns: int) -> None:
        before = order.open_quantity
        order.fill(self._numbers.trade_id(), units, price, at_ns)
        self.funds.block(order, order.blocked * order.open_quantity // before)
        self.funds.book(order, units, price, touch)
        if order.is_terminal:
            self._tell(order, order.status)
            self._follow(order, at_ns)
        else:
            self._tell(order, UPDATE)

    def _end(self, order: Order, status: Status, at_ns: int, message: str | None = None) -> None:
        order.enter(status, at_ns, message)
        self.funds.block(order, 0)
        self._tell(order, order.status)
        if order.filled and order.variety is Variety.CO:
            self._follow(order, at_ns)

    def _follow(self, order: Order, at_ns: int) -> None:
        """Place what comes after an order that was filled: a stop-loss, or the next leg."""
        ticket = order.ticket
        if order.variety is Variety.CO and order.parent_order_id is None:
            stop = msgspec.structs.replace(
                ticket,
                side=ticket.side.other,
                order_type=OrderType.SL_M,
                quantity=order.filled,
                price=0.0,
                market_protection=-1.0,
                tag=None,
                validity=Validity.DAY,
            )
            self._accept(
                self._new(stop, order.contract, order.filled, at_ns, parent=order.order_id)
            )
        elif order.variety is Variety.ICEBERG and order.meta["iceberg"]["remaining_quantity"]:
            if self.placed_today >= self._orders_per_day:
                return
            self._count(1)
            parent = order.parent_order_id or order.order_id
            leg = order.meta["iceberg"]["leg"] + 1
            self._place_leg(ticket, order.contract, leg, parent, at_ns)

    def _share(self, order: Order) -> float:
        if order.open_quantity <= order.contract.lot:
            return 1.0
        if self._luck.random() >= self._partial_fills:
            return 1.0
        return self._luck.uniform(0.2, 0.8)

    def _tell(self, order: Order, status: str) -> None:
        self._news.append(News(order, rows.update_body(order, self.account, status)))
