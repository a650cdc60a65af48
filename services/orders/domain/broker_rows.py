"""Turns what the broker sends about an account into rows of the `broker_*` tables."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Final

from libs.common.domain.clock import IST
from libs.common.domain.order_answers import BrokerOrder

_TRADE_TIMES: Final = ("fill_timestamp", "exchange_timestamp", "order_timestamp")


@dataclass(frozen=True, slots=True)
class OrderRow:
    """A row of `broker_orders`, without the account.

    Attributes:
        order_id: The broker's number.
        day: The exchange's date: numbers are unique within it.
        status: As the broker spells it.
        tag: Of the order, where it has one.
        body: The broker's row, with every time made aware.
    """

    order_id: str
    day: date
    status: str
    tag: str | None
    body: dict[str, Any]


@dataclass(frozen=True, slots=True)
class TradeRow:
    """A row of `broker_trades`, without the account.

    Attributes:
        trade_id: The exchange's number.
        day: The exchange's date: numbers are unique within it.
        order_id: Whose fill.
        body: The broker's row, with every time made aware.
        at: When it was filled; the reading's moment when the broker does not say.
    """

    trade_id: str
    day: date
    order_id: str
    body: dict[str, Any]
    at: datetime


def order_rows(book: Iterable[BrokerOrder], now: datetime) -> list[OrderRow]:
    """The rows of an order book; of two with one number the later one counts.

    Args:
        book: What the broker shows.
        now: Aware; its day counts for orders that carry no time.
    """
    rows: dict[tuple[date, str], OrderRow] = {}
    for order in book:
        body = zoned(order.raw)
        day = (order.order_timestamp or now).astimezone(IST).date()
        rows[day, order.order_id] = OrderRow(order.order_id, day, order.status, order.tag, body)
    return list(rows.values())


def trade_rows(trades: Iterable[Mapping[str, Any]], now: datetime) -> tuple[list[TradeRow], int]:
    """The rows of the day's trades, and how many came without the numbers that identify them.

    Args:
        trades: What the broker shows.
        now: Aware; stands in for trades that carry no date.
    """
    rows: dict[tuple[date, str], TradeRow] = {}
    unusable = 0
    for trade in trades:
        trade_id, order_id = trade.get("trade_id"), trade.get("order_id")
        if not trade_id or not order_id:
            unusable += 1
            continue
        body = zoned(trade)
        moments = (_moment(body.get(name)) for name in _TRADE_TIMES)
        at = next((moment for moment in moments if moment is not None), now.astimezone(IST))
        day = at.date()
        rows[day, str(trade_id)] = TradeRow(str(trade_id), day, str(order_id), body, at)
    return list(rows.values()), unusable


def zoned(row: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a row in which every naive time is Indian time, as the broker means it."""
    return {name: _zoned(value) for name, value in row.items()}


def _zoned(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.replace(tzinfo=IST) if value.tzinfo is None else value
    if isinstance(value, Mapping):
        return zoned(value)
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_zoned(item) for item in value]
    return value


def _moment(value: Any) -> datetime | None:
    """An aware moment of the broker's time; None for what names no date."""
    if isinstance(value, datetime):
        return value.astimezone(IST)
    if not isinstance(value, str):
        return None
    try:
        read = datetime.fromisoformat(value)
    except ValueError:
        return None
    return read.replace(tzinfo=IST) if read.tzinfo is None else read.astimezone(IST)
