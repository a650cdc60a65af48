"""The commands `tickfleet orders …`: send, look at, and decide about orders."""

import asyncio
import sys
from collections.abc import Coroutine
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console

from libs.common.contracts.orders import (
    Exchange,
    OrderState,
    OrderType,
    Product,
    Resolution,
    Side,
    Validity,
    Variety,
)
from libs.common.domain.order_states import predecessor_state
from libs.common.settings import load
from services.fleet import order_tables
from services.fleet.data_directory import DataDirectory
from services.fleet.orders import GatewayClient, gateway_client, new_key, path_of
from services.fleet.settings import FleetSettings, GatewayAccess

EXIT_UNWELL = 3
WIDTH_MIN = 140
_NOT_EXECUTED = frozenset({"FAILED", "DEAD_LETTER"})
T = TypeVar("T")

group = typer.Typer(
    help="Orders through the gateway of the running fleet, or of --gateway (API_KEY).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class Switch(StrEnum):
    """A kill switch's two positions."""

    ON = "on"
    OFF = "off"


class Verb(StrEnum):
    """What a task does."""

    PLACE = "place"
    MODIFY = "modify"
    CANCEL = "cancel"


Account = Annotated[str, typer.Option(help="Whose order it is.")]
AnyAccount = Annotated[str | None, typer.Option(help="Of this account alone.")]
AccountName = Annotated[str, typer.Argument(help="Its name.", show_default=False)]
TaskKey = Annotated[str, typer.Argument(help="The task's key.", show_default=False)]
Gateway = Annotated[
    str | None, typer.Option(help="Root of another gateway, such as https://ticks.example.org.")
]
DataDir = Annotated[
    Path | None, typer.Option(help="Of the running fleet (FLEET_DATA_DIR, else .data).")
]
Json = Annotated[bool, typer.Option("--json", help="For machines.")]
Key = Annotated[
    str | None,
    typer.Option(help="Idempotency key: repeat a command with it and it is still one order."),
]
User = Annotated[str | None, typer.Option(help="Who asks; limits go by this name.")]
Wait = Annotated[
    float, typer.Option(min=0, max=30, help="Seconds to wait for the outcome; 0 for not at all.")
]
Price = Annotated[float | None, typer.Option(min=0, help="With LIMIT and SL.")]
Trigger = Annotated[float | None, typer.Option(min=0, help="With SL and SL-M.")]
Task = Annotated[
    str | None, typer.Option(help="The key of the task that placed the order; or --order-id.")
]
OrderId = Annotated[str | None, typer.Option(help="The broker's number of the order.")]
Limit = Annotated[int, typer.Option(min=1, max=1000, help="Rows at most.")]


@group.command()
def place(
    side: Annotated[Side, typer.Argument(case_sensitive=False, show_default=False)],
    quantity: Annotated[int, typer.Argument(min=1, help="Units, not lots.", show_default=False)],
    symbol: Annotated[str, typer.Argument(help="Kite's tradingsymbol, such as NIFTY26DEC26000CE.")],
    *,
    account: Account,
    price: Price = None,
    trigger_price: Trigger = None,
    order_type: Annotated[
        OrderType | None,
        typer.Option("--type", case_sensitive=False, help="LIMIT with a price, else MARKET."),
    ] = None,
    exchange: Annotated[Exchange, typer.Option(case_sensitive=False)] = Exchange.NFO,
    product: Annotated[Product, typer.Option(case_sensitive=False)] = Product.NRML,
    variety: Annotated[Variety, typer.Option(case_sensitive=False)] = Variety.REGULAR,
    validity: Annotated[Validity, typer.Option(case_sensitive=False)] = Validity.DAY,
    validity_ttl: Annotated[int | None, typer.Option(min=1, help="Minutes, with TTL.")] = None,
    disclosed_quantity: Annotated[int | None, typer.Option(min=0)] = None,
    market_protection: Annotated[
        float | None, typer.Option(help="Percent, or -1 for the broker's own.")
    ] = None,
    allow_duplicate: Annotated[
        bool, typer.Option("--allow-duplicate", help="Although it looks like the one before.")
    ] = False,
    user: User = None,
    key: Key = None,
    wait: Wait = 10.0,
    as_json: Json = False,
    gateway: Gateway = None,
    data_dir: DataDir = None,
) -> None:
    """Place an order; exit status 3 when it was not executed."""
    kind = order_type or (OrderType.MARKET if price is None else OrderType.LIMIT)
    body = {
        "account": account,
        "exchange": exchange.value,
        "tradingsymbol": symbol,
        "transaction_type": side.value,
        "quantity": quantity,
        "product": product.value,
        "order_type": kind.value,
        "variety": variety.value,
        "price": price,
        "trigger_price": trigger_price,
        "validity": validity.value,
        "validity_ttl": validity_ttl,
        "disclosed_quantity": disclosed_quantity,
        "market_protection": market_protection,
        "allow_duplicate": allow_duplicate or None,
        "user": user,
    }
    _command("place", body, key=key, wait=wait, as_json=as_json, to=_client(gateway, data_dir))


@group.command()
def modify(
    *,
    account: Account,
    task: Task = None,
    order_id: OrderId = None,
    leg: Annotated[int | None, typer.Option(min=0, max=9, help="Which slice.")] = None,
    quantity: Annotated[int | None, typer.Option(min=1, help="The new total.")] = None,
    price: Price = None,
    trigger_price: Trigger = None,
    order_type: Annotated[OrderType | None, typer.Option("--type", case_sensitive=False)] = None,
    validity: Annotated[Validity | None, typer.Option(case_sensitive=False)] = None,
    user: User = None,
    key: Key = None,
    wait: Wait = 10.0,
    as_json: Json = False,
    gateway: Gateway = None,
    data_dir: DataDir = None,
) -> None:
    """Change an open order; what is left out stays as it is."""
    body = {
        **_target(account, task, order_id, leg),
        "quantity": quantity,
        "price": price,
        "trigger_price": trigger_price,
        "order_type": None if order_type is None else order_type.value,
        "validity": None if validity is None else validity.value,
        "user": user,
    }
    _command("modify", body, key=key, wait=wait, as_json=as_json, to=_client(gateway, data_dir))


@group.command()
def cancel(
    *,
    account: Account,
    task: Task = None,
    order_id: OrderId = None,
    leg: Annotated[
        int | None, typer.Option(min=0, max=9, help="Which slice; all when left out.")
    ] = None,
    user: User = None,
    key: Key = None,
    wait: Wait = 10.0,
    as_json: Json = False,
    gateway: Gateway = None,
    data_dir: DataDir = None,
) -> None:
    """Cancel an open order."""
    body = {**_target(account, task, order_id, leg), "user": user}
    _command("cancel", body, key=key, wait=wait, as_json=as_json, to=_client(gateway, data_dir))


@group.command("list")
def list_tasks(
    *,
    account: AnyAccount = None,
    user: User = None,
    state: Annotated[OrderState | None, typer.Option(help="Where they stand.")] = None,
    verb: Annotated[Verb | None, typer.Option(help="What they do.")] = None,
    symbol: Annotated[str | None, typer.Option(help="Kite's tradingsymbol.")] = None,
    since: Annotated[str | None, typer.Option(help="Date or time, Indian.")] = None,
    until: Annotated[str | None, typer.Option(help="Likewise.")] = None,
    limit: Limit = 50,
    as_json: Json = False,
    gateway: Gateway = None,
    data_dir: DataDir = None,
) -> None:
    """List tasks, newest first."""
    wanted = {
        "account": account,
        "user": user,
        "state": None if state is None else state.value,
        "verb": None if verb is None else verb.value,
        "tradingsymbol": symbol,
        "since": since,
        "until": until,
        "limit": limit,
    }
    found = _run(_client(gateway, data_dir).get("/orders", wanted))
    if as_json:
        _print_json(found)
        return
    if not found["items"]:
        print("no order matches")
        return
    order_tables.show_tasks(found["items"], _console())
    if found["next_cursor"] is not None:
        print(f"more than {limit}: narrow it down, or raise --limit")


@group.command()
def show(
    key: TaskKey,
    *,
    account: AnyAccount = None,
    as_json: Json = False,
    gateway: Gateway = None,
    data_dir: DataDir = None,
) -> None:
    """Show one task, its requests and everything that happened to it."""
    found = _run(_client(gateway, data_dir).get(path_of("orders", key), {"account": account}))
    if as_json:
        _print_json(found)
    else:
        order_tables.show_task(found, _console())


@group.command()
def unknown(
    *,
    account: AnyAccount = None,
    limit: Limit = 100,
    as_json: Json = False,
    gateway: Gateway = None,
    data_dir: DataDir = None,
) -> None:
    """Show requests whose outcome nobody knows; exit status 3 when there are any."""
    found = _run(
        _client(gateway, data_dir).get("/orders/unknown", {"account": account, "limit": limit})
    )
    if as_json:
        _print_json(found)
    elif found["items"]:
        order_tables.show_unknown(found["items"], _console())
        print("decide with: tickfleet orders resolve KEY adopt|absent|resend --reason …")
    else:
        print("the outcome of every request is known")
    if found["items"]:
        raise typer.Exit(EXIT_UNWELL)


@group.command()
def resolve(
    key: TaskKey,
    resolution: Annotated[
        Resolution,
        typer.Argument(
            help="adopt the broker's order (--order-id), absent: there is none, or resend: there "
            "is none, send it again.",
            show_default=False,
        ),
    ],
    *,
    reason: Annotated[str, typer.Option(help="Why, for the record.")],
    order_id: OrderId = None,
    leg: Annotated[int, typer.Option(min=0, max=99, help="Which slice.")] = 0,
    account: AnyAccount = None,
    by: Annotated[str, typer.Option(help="Who decides.")] = "default",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    as_json: Json = False,
    gateway: Gateway = None,
    data_dir: DataDir = None,
) -> None:
    """Decide about a request whose outcome nobody knows."""
    if resolution is Resolution.RESEND and not yes:
        typer.confirm(
            f"Send {key} again? If the broker has the first one after all, there will be two",
            abort=True,
        )
    client = _client(gateway, data_dir)
    path = path_of("orders", key, "resolve")
    body = {
        "resolution": resolution.value,
        "order_id": order_id,
        "leg": leg,
        "reason": reason,
        "by": by,
    }
    found = _run(client.post(path, body, {"account": account}))
    if as_json:
        _print_json(found)
    else:
        order_tables.show_fields(found, _console())


@group.command()
def dead(
    *,
    account: AnyAccount = None,
    limit: Limit = 100,
    as_json: Json = False,
    gateway: Gateway = None,
    data_dir: DataDir = None,
) -> None:
    """Show commands that were not and will not be executed."""
    found = _run(
        _client(gateway, data_dir).get("/orders/dead", {"account": account, "limit": limit})
    )
    if as_json:
        _print_json(found)
    elif found["items"]:
        order_tables.show_dead(found["items"], _console())
    else:
        print("no command is dead")


@group.command("kill-switch")
def kill_switch(
    account: AccountName,
    position: Annotated[
        Switch | None, typer.Argument(help="Left out: say how it stands.", show_default=False)
    ] = None,
    *,
    reason: Annotated[str, typer.Option(help="Why, for people.")] = "",
    by: Annotated[str, typer.Option(help="Who.")] = "default",
    cancel_open_orders: Annotated[
        bool, typer.Option("--cancel-open-orders", help="Also cancel what may be open.")
    ] = False,
    as_json: Json = False,
    gateway: Gateway = None,
    data_dir: DataDir = None,
) -> None:
    """Let nothing but cancels leave for the broker, or let orders leave again."""
    client = _client(gateway, data_dir)
    path = path_of("accounts", account, "kill-switch")
    if position is None:
        found = _run(client.get(path))
    else:
        body = {
            "on": position is Switch.ON,
            "reason": reason,
            "by": by,
            "cancel_open_orders": cancel_open_orders,
        }
        found = _run(client.post(path, body))
    if as_json:
        _print_json(found)
    else:
        stands = "ON: nothing but cancels leaves" if found["kill_switch"] else "off"
        why = f" ({found['reason']})" if found["reason"] else ""
        print(f"kill switch of {account}: {stands}{why}")
        for item in found.get("cancels", ()):
            problem = "" if item["error"] is None else f": {item['error']['message']}"
            print(f"  cancel {item['task_id']}{problem}")
    if found.get("cancel_error") is not None:
        print(f"tickfleet: {found['cancel_error']['message']}", file=sys.stderr)
    if found.get("cancel_error") or any(i["error"] for i in found.get("cancels", ())):
        raise typer.Exit(EXIT_UNWELL)


@group.command()
def limits(
    account: AccountName,
    *,
    as_json: Json = False,
    gateway: Gateway = None,
    data_dir: DataDir = None,
) -> None:
    """Show the limits of an account and how much of them is used."""
    found = _run(_client(gateway, data_dir).get(path_of("accounts", account, "limits")))
    if as_json:
        _print_json(found)
    else:
        order_tables.show_fields(found, _console())


@group.command()
def trades(
    *,
    account: AnyAccount = None,
    day: Annotated[str | None, typer.Option(help="A date such as 2026-11-24.")] = None,
    order_id: OrderId = None,
    limit: Limit = 100,
    as_json: Json = False,
    gateway: Gateway = None,
    data_dir: DataDir = None,
) -> None:
    """Show trades as the broker told them, newest first."""
    wanted = {"account": account, "day": day, "order_id": order_id, "limit": limit}
    found = _run(_client(gateway, data_dir).get("/trades", wanted))
    if as_json:
        _print_json(found)
    elif found["items"]:
        order_tables.show_trades(found["items"], _console())
    else:
        print("no trade matches")


@group.command()
def positions(
    *,
    account: AnyAccount = None,
    as_json: Json = False,
    gateway: Gateway = None,
    data_dir: DataDir = None,
) -> None:
    """Show the positions as the broker told them last."""
    found = _run(_client(gateway, data_dir).get("/positions", {"account": account}))
    if as_json:
        _print_json(found)
    elif found["items"]:
        order_tables.show_positions(found["items"], _console())
    else:
        print("the broker has told of no positions yet")


def _command(
    verb: str,
    body: dict[str, Any],
    *,
    key: str | None,
    wait: float,
    as_json: bool,
    to: GatewayClient,
) -> None:
    # One of our own, so that it is known even when no answer comes.
    found = _run(to.command(verb, body, key=key or new_key(), wait_seconds=wait))
    if as_json:
        _print_json(found)
    else:
        order_tables.show_task(found["task"], _console())
        if found["outcome"] == "known":
            print("this key was used before with the same command: nothing new was sent")
    if predecessor_state(found["task"]["state"]) in _NOT_EXECUTED:
        raise typer.Exit(EXIT_UNWELL)


def _target(
    account: str, task: str | None, order_id: str | None, leg: int | None
) -> dict[str, object]:
    if (task is None) == (order_id is None):
        raise typer.BadParameter("give either --task, the key, or --order-id, the broker's number")
    return {"account": account, "target_task_id": task, "order_id": order_id, "leg": leg}


def _client(gateway: str | None, data_dir: Path | None) -> GatewayClient:
    given = {"fleet_data_dir": data_dir} if data_dir is not None else {}
    settings = load(FleetSettings, **given)
    directory = DataDirectory(settings.fleet_data_dir.resolve())
    return gateway_client(directory, gateway, load(GatewayAccess))


def _run(asking: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asking)


def _console() -> Console:
    # In a narrower window lines wrap, but no key loses its end.
    return Console(width=max(Console().width, WIDTH_MIN))


def _print_json(found: object) -> None:
    print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
