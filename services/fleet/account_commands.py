"""The commands `tickfleet accounts …` and `tickfleet login`."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console as RichConsole
from rich.table import Table

from libs.common.contracts.messages import (
    AccountCommand,
    AccountCondition,
    AccountReply,
    AccountState,
    AccountVerb,
)
from libs.common.settings import NatsSettings, load
from services.fleet import accounts
from services.fleet.data_directory import DataDirectory
from services.fleet.domain import secret_fields
from services.fleet.errors import AccountCommandFailedError, SecretInputError
from services.fleet.settings import FleetSettings

STDIN = "-"
_SECRET_BYTES_MAX = 64 * 1024
_COLOURS = {
    AccountCondition.READY: "green",
    AccountCondition.LOGGING_IN: "yellow",
    AccountCondition.WAITING: "yellow",
    AccountCondition.DISABLED: "dim",
}

group = typer.Typer(
    help="The Kite accounts of a fleet: those of the embedded one, or of NATS_URL.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

DataDir = Annotated[
    Path | None, typer.Option(help="Of the running fleet (FLEET_DATA_DIR, else .data).")
]
Account = Annotated[str, typer.Argument(help="Its name.", show_default=False)]
Secrets = Annotated[
    str | None,
    typer.Option(
        "--secrets",
        metavar="FILE",
        help="Read them from a file, or - for standard input: a JSON object or lines "
        f"field=value with {', '.join(secret_fields.FIELDS)}. Without it you are asked.",
    ),
]
Connections = Annotated[
    int | None, typer.Option(min=1, max=3, help="WebSocket connections it may open.")
]
TokensPerConnection = Annotated[
    int | None, typer.Option(min=1, max=3000, help="Instruments on each.")
]


@group.command("list")
def list_accounts(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Show every account, where it is described, and what it can be counted on for."""
    found = asyncio.run(accounts.listing(_bus(data_dir)))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode([_public(s) for s in found])).decode())
        return
    if not found:
        print("there is no account; add one with: tickfleet accounts add NAME")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("account", "condition", "source", "user", "capacity"):
        table.add_column(column, no_wrap=True)
    table.add_column("reason", overflow="fold")
    for state in found:
        colour = _COLOURS.get(state.condition, "red")
        table.add_row(
            state.account,
            f"[{colour}]{state.condition.value}[/]",
            state.source.value,
            state.user_id or "-",
            f"{state.connections} x {state.tokens_per_connection}",
            state.reason,
        )
    RichConsole().print(table)


@group.command()
def add(
    account: Account,
    *,
    secrets: Secrets = None,
    connections: Connections = None,
    tokens_per_connection: TokensPerConnection = None,
    data_dir: DataDir = None,
) -> None:
    """Add an account to the database; its secrets are stored encrypted."""
    fields = _secrets(secrets) if secrets is not None else _prompted()
    _change(
        AccountVerb.ADD,
        account,
        data_dir,
        connections=connections,
        tokens_per_connection=tokens_per_connection,
        **fields,
    )


@group.command()
def rotate(
    account: Account,
    *,
    secrets: Secrets = None,
    connections: Connections = None,
    tokens_per_connection: TokensPerConnection = None,
    data_dir: DataDir = None,
) -> None:
    """Replace secrets or capacity of an account of the database; what is left out stays."""
    limits = {"connections": connections, "tokens_per_connection": tokens_per_connection}
    if secrets is not None:
        fields = _secrets(secrets)
    else:
        fields = {} if any(limits.values()) else _prompted(optional=True)
    _change(AccountVerb.ROTATE, account, data_dir, **limits, **fields)


@group.command()
def enable(account: Account, *, data_dir: DataDir = None) -> None:
    """Use an account again, wherever it is described."""
    _change(AccountVerb.ENABLE, account, data_dir)


@group.command()
def disable(account: Account, *, data_dir: DataDir = None) -> None:
    """Stop using an account, wherever it is described; others take its instruments."""
    _change(AccountVerb.DISABLE, account, data_dir)


@group.command()
def remove(
    account: Account,
    *,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Remove an account from the database, its secrets and its session."""
    if not yes:
        typer.confirm(f"Remove account {account} and its secrets?", abort=True)
    _change(AccountVerb.REMOVE, account, data_dir)


def login(
    account: Account,
    *,
    request_token: Annotated[
        str | None,
        typer.Option(
            metavar="TOKEN|-", help="From the address that Kite redirects to; - reads it."
        ),
    ] = None,
    access_token: Annotated[
        str | None,
        typer.Option(
            metavar="FILE|-", help="A file, or - for standard input, with a token made elsewhere."
        ),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Log an account in: by itself, with a request token, or with an access token.

    Without a token an account with a TOTP secret is logged in at once; for any other one the
    address is printed where a person logs in.
    """
    if request_token is not None and access_token is not None:
        raise typer.BadParameter("give --request-token or --access-token, not both")
    fields: dict[str, str] = {}
    if request_token is not None:
        given = _text_of(STDIN, "--request-token") if request_token == STDIN else request_token
        fields["request_token"] = given.strip()
    if access_token is not None:
        fields["access_token"] = _text_of(access_token, "--access-token").strip()
    reply = _ask(AccountVerb.LOGIN, account, data_dir, **fields)
    if reply.error is not None and reply.login_url is not None and not fields:
        print(
            f"log in here, then give the request_token of the address you are sent to:\n"
            f"  {reply.login_url}\n"
            f"  tickfleet login {account} --request-token TOKEN",
        )
    _say(reply, account, AccountVerb.LOGIN)


def _change(verb: AccountVerb, account: str, data_dir: Path | None, **fields: Any) -> None:
    _say(_ask(verb, account, data_dir, **fields), account, verb)


def _ask(verb: AccountVerb, account: str, data_dir: Path | None, **fields: Any) -> AccountReply:
    given = {name: value for name, value in fields.items() if value is not None}
    return asyncio.run(
        accounts.ask(_bus(data_dir), AccountCommand(verb=verb, account=account, **given))
    )


def _say(reply: AccountReply, account: str, verb: AccountVerb) -> None:
    if reply.error is not None:
        raise AccountCommandFailedError(reply.error.message)
    state = reply.state
    if state is None:
        print(f"account {account}: {verb.value} done")
        return
    reason = f" ({state.reason})" if state.reason else ""
    print(f"account {account}: {state.condition.value}{reason}")


def _bus(data_dir: Path | None) -> NatsSettings:
    given = {"fleet_data_dir": data_dir} if data_dir is not None else {}
    settings = load(FleetSettings, **given)
    return accounts.bus_settings(DataDirectory(settings.fleet_data_dir.resolve()))


def _public(state: AccountState) -> dict[str, object]:
    fields: dict[str, object] = msgspec.to_builtins(state)
    del fields["refused_fingerprint"]
    return fields


def _secrets(origin: str) -> dict[str, str]:
    """Read secrets from a file or standard input; they never stand in the process list."""
    try:
        return secret_fields.parse(_text_of(origin, "--secrets"))
    except ValueError as error:
        raise SecretInputError(f"--secrets {origin}", str(error)) from None


def _text_of(origin: str, option: str) -> str:
    try:
        if origin == STDIN:
            content = sys.stdin.buffer.read(_SECRET_BYTES_MAX + 1)
        else:
            with Path(origin).open("rb") as stream:
                content = stream.read(_SECRET_BYTES_MAX + 1)
        if len(content) > _SECRET_BYTES_MAX:
            raise SecretInputError(option, f"more than {_SECRET_BYTES_MAX} bytes")
        return content.decode("utf-8")
    except OSError as error:
        # The path is left out: a token given in its place would be repeated here.
        reason = f"cannot be read: {error.strerror}; give the path of a file, or -"
        raise SecretInputError(option, reason) from None
    except UnicodeDecodeError:
        raise SecretInputError(option, "no UTF-8 text") from None


def _prompted(*, optional: bool = False) -> dict[str, str]:
    """Ask for each field; empty answers are left out where that is allowed."""
    fields: dict[str, str] = {}
    for name in secret_fields.FIELDS:
        needed = not optional and name in {"api_key", "api_secret"}
        label = name.replace("_", " ") + ("" if needed else " (empty: none)")
        hidden = name not in {"api_key", "user_id"}
        answer: str = (
            typer.prompt(label, hide_input=hidden)
            if needed
            else typer.prompt(label, default="", show_default=False, hide_input=hidden)
        )
        if answer.strip():
            fields[name] = answer.strip()
    return fields
