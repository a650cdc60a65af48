"""Shows orders to a person: tasks, requests, events, trades, positions and limits as tables."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeAlias

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from libs.common.domain.clock import IST

Row: TypeAlias = Mapping[str, Any]

NOTHING: Final = "-"
_NANOSECONDS: Final = 1_000_000_000
_COLOURS: Final = {
    "complete": "green",
    "open": "green",
    "acked": "green",
    "cancelled": "dim",
    "rejected": "red",
    "failed": "red",
    "dead_letter": "red",
    "unknown": "bold yellow",
    "absent": "bold yellow",
}


def show_task(task: Row, console: Console) -> None:
    """Print one task: what was asked, how it stands, its requests and its history."""
    console.print(
        f"{_state(task['state'])}  {escape(asked(task))}  account {escape(task['account'])}, "
        f"key {escape(task['task_id'])}",
        highlight=False,
    )
    if task["message"]:
        console.print(f"{task['message']} ({task['code']})", highlight=False, markup=False)
    if task["filled_quantity"]:
        console.print(
            f"filled {task['filled_quantity']} at {_price(task['average_price'])}",
            highlight=False,
            markup=False,
        )
    if task["requests"]:
        console.print()
        console.print(_requests(task["requests"]))
    if task.get("events"):
        console.print()
        console.print(_events(task["events"]))


def show_tasks(items: Sequence[Row], console: Console) -> None:
    """Print a list of tasks."""
    table = _table("time", "account", "key", "state", "order", ("filled", True), "order id", "why")
    for task in items:
        table.add_row(
            _time(task["accepted_at"]),
            escape(task["account"]),
            escape(task["task_id"]),
            _state(task["state"]),
            escape(asked(task)),
            _fills(task),
            escape(" ".join(task["order_ids"]) or NOTHING),
            escape(task["message"] or task["code"]),
        )
    console.print(table)


def show_unknown(items: Sequence[Row], console: Console) -> None:
    """Print requests whose outcome nobody knows."""
    table = _table("sent", "account", "key", ("leg", True), "state", "tag", "what was seen")
    for item in items:
        last = item["last_event"] or {}
        table.add_row(
            _time(item["sent_at"]),
            escape(item["account"]),
            escape(item["task_id"]),
            str(item["leg"]),
            _state(item["state"]),
            item["tag"],
            escape(last.get("message") or item["message"] or NOTHING),
        )
    console.print(table)


def show_dead(items: Sequence[Row], console: Console) -> None:
    """Print commands that were not executed."""
    table = _table("time", "account", "key", "what", "field", "why")
    for item in items:
        table.add_row(
            _time(item["at"]),
            escape(item["account"]),
            escape(item["task_id"]),
            item["kind"],
            escape(item["field"] or NOTHING),
            escape(f"{item['message']} ({item['code']})"),
        )
    console.print(table)


def show_trades(items: Sequence[Row], console: Console) -> None:
    """Print trades."""
    table = _table(
        "time", "account", "side", ("quantity", True), "symbol", ("price", True), "order id"
    )
    for trade in items:
        table.add_row(
            _time(trade["at"]),
            escape(trade["account"]),
            escape(str(trade.get("transaction_type", NOTHING))),
            _number(trade.get("quantity")),
            escape(str(trade.get("tradingsymbol", NOTHING))),
            _price(trade.get("average_price")),
            escape(str(trade.get("order_id", NOTHING))),
        )
    console.print(table)


def show_positions(items: Sequence[Row], console: Console) -> None:
    """Print the net positions of every account."""
    table = _table(
        "account",
        "symbol",
        "product",
        ("quantity", True),
        ("average", True),
        ("last", True),
        ("p&l", True),
    )
    for snapshot in items:
        for row in snapshot["positions"].get("net", ()):
            table.add_row(
                escape(snapshot["account"]),
                escape(f"{row.get('exchange')}:{row.get('tradingsymbol')}"),
                escape(str(row.get("product", NOTHING))),
                _number(row.get("quantity")),
                _price(row.get("average_price")),
                _price(row.get("last_price")),
                _price(row.get("pnl")),
            )
    console.print(table)
    for snapshot in items:
        console.print(
            f"{snapshot['account']}: as of {_time(snapshot['taken_at'])}",
            style="dim",
            highlight=False,
            markup=False,
        )


def show_fields(fields: Row, console: Console, *, before: str = "") -> None:
    """Print an answer without a shape of its own, a line for each value."""
    for name, value in fields.items():
        if isinstance(value, Mapping):
            show_fields(value, console, before=f"{before}{name}.")
        else:
            shown = NOTHING if value is None else value
            console.print(f"{before}{name}: {shown}", highlight=False, markup=False)


def asked(task: Row) -> str:
    """What a task asks for, in a few words."""
    command = task["command"]
    if task["verb"] == "place":
        price = command.get("price")
        at = "" if price is None else f" at {_price(price)}"
        return (
            f"{command['transaction_type']} {command['quantity']} {command['tradingsymbol']} "
            f"{command['order_type']}{at}"
        )
    target = command.get("order_id") or command.get("target_task_id")
    if task["verb"] == "cancel":
        return f"cancel {target}"
    changes = ("quantity", "order_type", "price", "trigger_price", "validity")
    told = ", ".join(f"{name} {command[name]}" for name in changes if command.get(name) is not None)
    return f"modify {target}: {told}"


def _requests(requests: Iterable[Row]) -> Table:
    table = _table(
        ("leg", True), "state", "tag", "order id", "status", ("filled", True), "sent", "why"
    )
    for request in requests:
        table.add_row(
            str(request["leg"]),
            _state(request["state"]),
            request["tag"],
            escape(request["order_id"] or NOTHING),
            escape(request["status"] or NOTHING),
            _fills(request),
            _time(request["sent_at"]),
            escape(request["message"] or request["status_message"] or ""),
        )
    return table


def _events(events: Iterable[Row]) -> Table:
    table = _table(("", True), "time", "event", "state", ("leg", True), "what")
    for event in events:
        table.add_row(
            str(event["seq"]),
            _moment(datetime.fromtimestamp(event["at_ns"] / _NANOSECONDS, IST)),
            escape(event["kind"]),
            _state(event["state"]),
            NOTHING if event.get("leg") is None else str(event["leg"]),
            escape(event.get("message") or event.get("code") or event.get("order_id") or ""),
        )
    return table


def _table(*columns: str | tuple[str, bool]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        name, is_number = (column, False) if isinstance(column, str) else column
        folds = name in {"why", "what", "what was seen"}
        table.add_column(
            name,
            justify="right" if is_number else "left",
            no_wrap=not folds,
            # Words fold, but not letter by letter.
            min_width=24 if folds else None,
            overflow="fold",
        )
    return table


def _state(state: str) -> str:
    colour = _COLOURS.get(state)
    return escape(state) if colour is None else f"[{colour}]{escape(state)}[/]"


def _fills(row: Row) -> str:
    if not row["filled_quantity"]:
        return NOTHING
    return f"{row['filled_quantity']} at {_price(row['average_price'])}"


def _price(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.2f}"


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:g}"


def _time(text: str | None) -> str:
    return NOTHING if text is None else _moment(datetime.fromisoformat(text).astimezone(IST))


def _moment(at: datetime) -> str:
    return at.isoformat(sep=" ", timespec="milliseconds").partition("+")[0]
