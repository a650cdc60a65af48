"""Where the broker's book and the ledger tell different things about the same orders."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any, Final

from libs.common.contracts.orders import OrderState
from libs.common.domain.order_answers import BrokerOrder

_OUR_TAG: Final = re.compile(r"tf[a-z2-7]{14}")
_WORKING: Final = "working"
_BROKER_ENDS: Final[Mapping[str, str]] = {
    "COMPLETE": OrderState.COMPLETE.value,
    "CANCELLED": OrderState.CANCELLED.value,
    "LAPSED": OrderState.CANCELLED.value,
    "REJECTED": OrderState.REJECTED.value,
}
# Kite's set of statuses is open: what is not one of its last words is still at work.
_LEDGER_WORKING: Final = frozenset({OrderState.ACKED, OrderState.OPEN})


class DifferenceCode(StrEnum):
    """What does not fit.

    `unknown_tag`: the broker has an order with a tag of ours that the ledger does not know: another
    deployment trades on this account, or the ledger was restored from an old copy.
    `placed_twice`: two orders carry one tag; the guarantee is broken, or somebody copied a tag.
    `order_id`, `instrument`, `side`, `quantity`, `fills`, `state`: both know the order and say
    different things. `missing`: the ledger calls it open and the broker does not have it.
    """

    UNKNOWN_TAG = "unknown_tag"
    PLACED_TWICE = "placed_twice"
    ORDER_ID = "order_id"
    INSTRUMENT = "instrument"
    SIDE = "side"
    QUANTITY = "quantity"
    FILLS = "fills"
    STATE = "state"
    MISSING = "missing"


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerOrder:
    """What the ledger says of one request that places an order.

    Attributes:
        task_id: Whose request.
        leg: Which slice of the task.
        tag: The tag it went out with.
        state: Where it stands.
        exchange: Where.
        tradingsymbol: Of what.
        transaction_type: BUY or SELL.
        quantities: Units it may have at the broker: those it was placed with and those that sent
            changes of it asked for.
        order_id: The broker's number, once known.
        filled_quantity: Units.
    """

    task_id: str
    leg: int
    tag: str
    state: OrderState
    exchange: str
    tradingsymbol: str
    transaction_type: str
    quantities: frozenset[int]
    order_id: str | None
    filled_quantity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing on which the broker and the ledger differ.

    Attributes:
        code: What kind.
        tag: Of the order; None when neither side has one.
        order_id: The broker's number, where one is known.
        task_id: The ledger's task, where it knows one.
        leg: Its slice.
        ledger: What the ledger says.
        broker: What the broker says.
    """

    code: DifferenceCode
    tag: str | None
    order_id: str | None
    task_id: str | None = None
    leg: int | None = None
    ledger: str
    broker: str

    @property
    def key(self) -> tuple[str, str | None, str | None]:
        """What is reported once a day, whatever its figures."""
        return (self.code.value, self.tag, self.order_id)

    @property
    def message(self) -> str:
        """A sentence for people."""
        order = f"order {self.order_id or 'without a number'}"
        of_task = f" of task {self.task_id}" if self.task_id else ""
        if self.code is DifferenceCode.UNKNOWN_TAG:
            return f"{order} carries our tag {self.tag}, which the ledger does not know"
        if self.code is DifferenceCode.PLACED_TWICE:
            return f"tag {self.tag}{of_task} is on several orders of the broker: {self.broker}"
        if self.code is DifferenceCode.MISSING:
            return f"{order}{of_task} is {self.ledger} in the ledger and not in the broker's book"
        return (
            f"{order}{of_task}: the {self.code.value} is {self.broker} at the broker "
            f"and {self.ledger} in the ledger"
        )

    @property
    def evidence(self) -> dict[str, Any]:
        """What was seen, for the record."""
        seen = {
            "order_id": self.order_id,
            "tag": self.tag,
            "task_id": self.task_id,
            "leg": self.leg,
            "ledger": self.ledger,
            "broker": self.broker,
        }
        return {name: value for name, value in seen.items() if value is not None}


def our_tags(row: BrokerOrder) -> tuple[str, ...]:
    """The tags of a broker's order that have the form of ours, in order, each once."""
    carried = dict.fromkeys((row.tag, *row.tags))
    return tuple(tag for tag in carried if tag is not None and _OUR_TAG.fullmatch(tag))


def compare(book: Sequence[BrokerOrder], ledger: Iterable[LedgerOrder]) -> list[Difference]:
    """Hold the broker's book of a day against the ledger.

    An order of the broker belongs to a request when it carries its tag, or has the order number
    that the ledger has for it; nothing else counts. Orders that others placed are no difference.

    Args:
        book: Every order of the account that the broker shows.
        ledger: The account's requests that place orders: at least those whose tag is in the book
            and those that are acked or open.

    Returns:
        The differences, those of the ledger's orders first, in its order. One moment's look: what
        is on its way between the two shows here, too, so report only what `Confirmation` lets
        through.
    """
    by_tag: dict[str, list[BrokerOrder]] = {}
    by_id: dict[str, BrokerOrder] = {}
    for row in book:
        by_id[row.order_id] = row
        for tag in our_tags(row):
            by_tag.setdefault(tag, []).append(row)
    found: list[Difference] = []
    known: set[str] = set()
    for order in ledger:
        known.add(order.tag)
        rows = _parents(by_tag.get(order.tag, []))
        if len(rows) > 1:
            found.append(_twice(order, rows))
        shown = _row_of(order, rows, by_id)
        if shown is not None:
            found.extend(_between(order, shown))
        elif order.state in _LEDGER_WORKING:
            found.append(_difference(DifferenceCode.MISSING, order, order.state.value, "nothing"))
    for tag, rows in by_tag.items():
        if tag not in known:
            found.extend(_unknown(tag, row) for row in _parents(rows))
    return found


class Confirmation:
    """Lets a difference through once it was seen in two looks in a row, and only once a day.

    Order updates, a ledger transaction and a book that is being read pass each other all the time;
    what is still the same at the next look is a difference. What it remembers is bounded by the
    orders of one day.
    """

    __slots__ = ("_before", "_day", "_reported")

    def __init__(self) -> None:
        self._day: date | None = None
        self._before: frozenset[Difference] = frozenset()
        self._reported: set[tuple[str, str | None, str | None]] = set()

    def confirmed(self, day: date, seen: Sequence[Difference]) -> list[Difference]:
        """Give what is to be reported after this look.

        Args:
            day: The exchange's date; a new one begins anew.
            seen: What `compare` found.
        """
        if day != self._day:
            self._day, self._before = day, frozenset()
            self._reported.clear()
        news = {
            difference.key: difference
            for difference in seen
            if difference in self._before and difference.key not in self._reported
        }
        self._before = frozenset(seen)
        self._reported.update(news)
        return list(news.values())


def _parents(rows: list[BrokerOrder]) -> list[BrokerOrder]:
    """Leave out slices that the broker itself made of an order that is here, too."""
    ids = {row.order_id for row in rows}
    return [row for row in rows if row.parent_order_id not in ids]


def _row_of(
    order: LedgerOrder, rows: list[BrokerOrder], by_id: Mapping[str, BrokerOrder]
) -> BrokerOrder | None:
    for row in rows:
        if row.order_id == order.order_id:
            return row
    if rows:
        return rows[0]
    # One that a person adopted by its number carries no tag of ours.
    return by_id.get(order.order_id) if order.order_id is not None else None


def _between(order: LedgerOrder, row: BrokerOrder) -> Iterable[Difference]:
    code = DifferenceCode
    if order.order_id is not None and order.order_id != row.order_id:
        yield _difference(code.ORDER_ID, order, order.order_id, row.order_id)
    ours, theirs = (
        f"{order.exchange}:{order.tradingsymbol}",
        f"{row.exchange}:{row.tradingsymbol}",
    )
    if ours != theirs:
        yield _difference(code.INSTRUMENT, order, ours, theirs)
    if order.transaction_type != row.transaction_type:
        yield _difference(code.SIDE, order, order.transaction_type, row.transaction_type)
    if row.quantity not in order.quantities:
        allowed = " or ".join(str(quantity) for quantity in sorted(order.quantities))
        yield _difference(code.QUANTITY, order, allowed, str(row.quantity))
    if order.filled_quantity != row.filled_quantity:
        yield _difference(code.FILLS, order, str(order.filled_quantity), str(row.filled_quantity))
    at_broker = _BROKER_ENDS.get(row.status, _WORKING)
    in_ledger = _WORKING if order.state in _LEDGER_WORKING else order.state.value
    if at_broker != in_ledger:
        yield _difference(code.STATE, order, order.state.value, row.status)


def _twice(order: LedgerOrder, rows: list[BrokerOrder]) -> Difference:
    numbers = ", ".join(sorted(row.order_id for row in rows))
    return _difference(DifferenceCode.PLACED_TWICE, order, order.order_id or "none", numbers)


def _unknown(tag: str, row: BrokerOrder) -> Difference:
    return Difference(
        code=DifferenceCode.UNKNOWN_TAG,
        tag=tag,
        order_id=row.order_id,
        ledger="nothing",
        broker=f"{row.transaction_type} {row.quantity} {row.exchange}:{row.tradingsymbol}, "
        f"{row.status}",
    )


def _difference(code: DifferenceCode, order: LedgerOrder, ledger: str, broker: str) -> Difference:
    return Difference(
        code=code,
        tag=order.tag,
        order_id=order.order_id,
        task_id=order.task_id,
        leg=order.leg,
        ledger=ledger,
        broker=broker,
    )
