"""The `tickfleet` command."""

import asyncio
import os
import sys
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import typer
from rich.console import Console as RichConsole
from rich.markup import escape
from rich.table import Table

from libs.common import logs
from libs.common.contracts.messages import CandleInterval, CandlesRequest, HistoryRequest
from libs.common.errors import TickfleetError
from libs.common.settings import BaseServiceSettings, NatsSettings, load
from services.fleet import account_commands, explanation_tables, order_commands
from services.fleet.accounts import bus_settings
from services.fleet.app import run_fleet
from services.fleet.chain import read_chain
from services.fleet.data_directory import DataDirectory
from services.fleet.domain.chain_report import CALL_COLUMNS, ChainReport
from services.fleet.domain.ownership import summary
from services.fleet.domain.plan_report import AccountReport, PlanReport
from services.fleet.domain.rates import headline
from services.fleet.errors import NoFleetError
from services.fleet.explain import explanation_of
from services.fleet.history import moment, print_history, print_priced_history
from services.fleet.plan_buckets import read_plan
from services.fleet.settings import FleetSettings, TokenSettings
from services.fleet.status import StatusReport
from services.fleet.status import status as ask
from services.fleet.tokens import TokenKey, development_token

EXIT_FAILED = 1
EXIT_UNWELL = 3
CHAIN_WIDTH = 110
S = TypeVar("S", bound=BaseServiceSettings)

command = typer.Typer(
    name="tickfleet",
    help="Live option Greeks from Kite market data: runs a whole fleet on this machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


command.add_typer(account_commands.group, name="accounts")
command.command("login")(account_commands.login)
command.add_typer(order_commands.group, name="orders")


@command.callback()
def _quiet() -> None:
    # Log lines of the libraries must not mix with what a script reads; `up` sets its own.
    logs.configure(service="fleet", worker_id="tickfleet", level="warning", style="console")


DataDir = Annotated[
    Path | None,
    typer.Option(help="Holds databases, keys and fleet.json (FLEET_DATA_DIR, else .data)."),
]


@command.command()
def up(
    *,
    accounts: Annotated[
        int | None,
        typer.Option(
            min=1, max=16, help="Simulated Kite accounts of different capacity (default 3)."
        ),
    ] = None,
    greeks: Annotated[
        int | None, typer.Option(min=1, max=16, help="Greeks workers (default 2).")
    ] = None,
    gateways: Annotated[
        int | None, typer.Option(min=1, max=16, help="Gateways, on ports from --port (default 1).")
    ] = None,
    controls: Annotated[
        int | None, typer.Option(min=1, max=4, help="Control: a leader and standbys (default 1).")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_000, help="Of the gateway; 0: any (default 8080).")
    ] = None,
    data_dir: DataDir = None,
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the simulated market (default 1).")
    ] = None,
) -> None:
    """Run the fleet until Ctrl-C: embedded NATS and PostgreSQL, the simulator, all services."""
    settings = _load(
        FleetSettings,
        fleet_accounts=accounts,
        fleet_greeks=greeks,
        fleet_gateways=gateways,
        fleet_controls=controls,
        fleet_port=port,
        fleet_data_dir=data_dir,
        sim_seed=seed,
    )
    run_fleet(settings, sys.stdout)


@command.command()
def token(
    *,
    user: Annotated[str, typer.Option(help="Becomes sub, user_id and name.")] = "developer",
    email: Annotated[str | None, typer.Option(help="Left out when not given.")] = None,
    hours: Annotated[float, typer.Option(help="How long it is valid.")] = 24.0,
    data_dir: DataDir = None,
) -> None:
    """Print a WebSocket token for development; it is the last word of the output."""
    settings = _load(FleetSettings, fleet_data_dir=data_dir)
    try:
        text = development_token(
            _token_key(settings),
            user=user,
            now_seconds=int(time.time()),
            hours=hours,
            email=email,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    print(text)


@command.command()
def status(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    interval: Annotated[
        float, typer.Option(min=0.1, max=60, help="Seconds between two readings of the counters.")
    ] = 1.0,
    data_dir: DataDir = None,
) -> None:
    """Show who is alive, who owns what, and how fast it works; exit status 3 when unwell."""
    directory = _directory(_load(FleetSettings, fleet_data_dir=data_dir))
    state = directory.running_state()
    if state is None:
        raise NoFleetError(directory.path, "none runs; start one with: tickfleet up")
    report = asyncio.run(ask(state, interval))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        _show(report)
    if not report.is_well:
        raise typer.Exit(EXIT_UNWELL)


async def _print_history(
    nats_url: str, request: HistoryRequest, *, greeks: bool, account: str | None
) -> None:
    if not greeks:
        await print_history(nats_url, request, account=account, write=sys.stdout.write)
        return
    priced = CandlesRequest(
        instrument_token=request.instrument_token,
        interval=request.interval,
        start=request.start,
        end=request.end,
        oi=request.oi,
        greeks=True,
        continuous=request.continuous,
    )
    await print_priced_history(nats_url, priced, write=sys.stdout.write)


@command.command()
def history(
    token: Annotated[
        int, typer.Argument(min=0, max=0xFFFFFFFF, help="Kite's instrument_token, such as 256265.")
    ],
    *,
    interval: Annotated[
        CandleInterval, typer.Option(help="Length of a candle.")
    ] = CandleInterval.MINUTE,
    start: Annotated[
        str, typer.Option("--from", help="Date or time, Indian unless it names a zone.")
    ],
    end: Annotated[
        str | None,
        typer.Option("--to", help="Likewise; a bare date is meant whole (default: now)."),
    ] = None,
    oi: Annotated[bool, typer.Option("--oi", help="With open interest.")] = False,
    greeks: Annotated[
        bool, typer.Option("--greeks", help="Of an option: with volatility and Greeks.")
    ] = False,
    continuous: Annotated[
        bool, typer.Option("--continuous", help="Day candles of expired futures, too.")
    ] = False,
    account: Annotated[str | None, typer.Option(help="Through this account alone.")] = None,
    data_dir: DataDir = None,
) -> None:
    """Print candles as CSV, from Kite by way of the running fleet."""
    if greeks and account is not None:
        raise typer.BadParameter("--account: with --greeks any account serves; leave it out")
    try:
        request = HistoryRequest(
            instrument_token=token,
            interval=interval,
            start=moment(start, is_end=False),
            end=int(time.time()) if end is None else moment(end, is_end=True),
            oi=oi,
            continuous=continuous,
        )
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    directory = _directory(_load(FleetSettings, fleet_data_dir=data_dir))
    state = directory.running_state()
    if state is None:
        raise NoFleetError(directory.path, "none runs; start one with: tickfleet up")
    try:
        asyncio.run(_print_history(state.nats_url, request, greeks=greeks, account=account))
        sys.stdout.flush()
    except BrokenPipeError:
        # `tickfleet history … | head` has seen enough; what Python flushes at exit goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@command.command()
def explain(
    option: Annotated[
        str,
        typer.Argument(
            help="Kite's instrument_token or tradingsymbol, such as NIFTY26NOV24500CE.",
            show_default=False,
        ),
    ],
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    data_dir: DataDir = None,
) -> None:
    """Show what an option's Greeks are made of, and why NSE and Sensibull have others."""
    directory = _directory(_load(FleetSettings, fleet_data_dir=data_dir))
    found = asyncio.run(explanation_of(bus_settings(directory), option))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    else:
        explanation_tables.show(found, RichConsole())


@command.command()
def plan(
    *,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    nats_url: Annotated[
        str | None,
        typer.Option(help="Another NATS than this machine's fleet has; NATS_USER, NATS_PASSWORD."),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Hold the subscription plan against what streams; exit status 3 when they differ."""
    report = asyncio.run(read_plan(_bus_settings(nats_url, data_dir)))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        _show_plan(report)
    if not report.is_well:
        raise typer.Exit(EXIT_UNWELL)


@command.command()
def chain(
    underlying: Annotated[str, typer.Argument(help="Such as NIFTY, or 'M&M' in quotes.")],
    *,
    expiry: Annotated[
        str | None, typer.Option(help="A date such as 2026-12-29 (default: the nearest).")
    ] = None,
    strikes: Annotated[
        int, typer.Option(min=0, max=200, help="On each side of the money, at most.")
    ] = 15,
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
    nats_url: Annotated[
        str | None,
        typer.Option(help="Another NATS than this machine's fleet has; NATS_USER, NATS_PASSWORD."),
    ] = None,
    data_dir: DataDir = None,
) -> None:
    """Show the newest option chain of an expiry and what its volatilities say."""
    try:
        day = None if expiry is None else date.fromisoformat(expiry)
    except ValueError as error:
        raise typer.BadParameter(f"{expiry!r} is no date such as 2026-12-29") from error
    settings = _bus_settings(nats_url, data_dir)
    report = asyncio.run(read_chain(settings, underlying, day, each_side=strikes))
    if as_json:
        print(msgspec.json.format(msgspec.json.encode(report), indent=2).decode())
    else:
        _show_chain(report)


def _bus_settings(nats_url: str | None, data_dir: Path | None) -> NatsSettings:
    """How to reach the bus that is named, or that of the fleet that runs here.

    Raises:
        NoFleetError: None is named and none runs.
    """
    if nats_url is None:
        directory = _directory(_load(FleetSettings, fleet_data_dir=data_dir))
        state = directory.running_state()
        if state is None:
            raise NoFleetError(directory.path, "none runs; start one with: tickfleet up")
        nats_url = state.nats_url
    return _load(NatsSettings, nats_url=nats_url, nats_connect_deadline_seconds=3.0)


def _load(kind: type[S], **given: Any) -> S:
    return load(kind, **{name: value for name, value in given.items() if value is not None})


def _directory(settings: FleetSettings) -> DataDirectory:
    return DataDirectory(settings.fleet_data_dir.resolve())


def _token_key(settings: FleetSettings) -> TokenKey:
    """Find the key: JWT_SECRET, else that of the running fleet, else the kept one.

    Raises:
        NoFleetError: There is none.
    """
    if settings.jwt_secret is not None:
        return _key(settings, settings.jwt_secret.get_secret_value())
    directory = _directory(settings)
    state = directory.running_state()
    if state is not None:
        return TokenKey(
            secret=state.jwt_secret, issuer=state.jwt_issuer, audience=state.jwt_audience
        )
    kept = directory.kept_secrets()
    if kept is None:
        remedy = "none has ever run here; start one with: tickfleet up, or set JWT_SECRET"
        raise NoFleetError(directory.path, remedy)
    return _key(settings, kept.jwt_secret)


def _key(settings: TokenSettings, secret: str) -> TokenKey:
    return TokenKey(secret=secret, issuer=settings.jwt_issuer, audience=settings.jwt_audience)


def _show(report: StatusReport) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("process", no_wrap=True)
    table.add_column("pid", justify="right", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("restarts", justify="right")
    for column in ("owns", "rates"):
        table.add_column(column, overflow="fold")
    for process in report.processes:
        reasons = "; ".join(f"{check}: {reason}" for check, reason in process.reasons.items())
        table.add_row(
            process.name,
            str(process.pid or "-"),
            "[green]ready[/]" if process.ready else f"[red]{process.state}[/]",
            str(process.restarts),
            summary(process.owns),
            headline(process.rates, process.service) if process.ready else reasons,
        )
    console = RichConsole()
    console.print(
        f"fleet {report.pid}, {report.uptime_seconds} s, health {report.health or 'no answer'}, "
        f"{report.dashboard}",
        highlight=False,
    )
    console.print(table)
    if not report.bus_reachable:
        console.print("the bus does not answer: who owns what is unknown", style="red")
    for member, owned in report.unowned.items():
        console.print(f"{member}, which is no process of this fleet, holds {summary(owned)}")


def _show_plan(report: PlanReport) -> None:
    console = RichConsole()
    console.print(
        f"plan {report.revision} of {report.leader or 'nobody: no control process speaks'}: "
        f"{report.planned} instruments, {report.away} away from home, {report.unplaced} unplaced",
        highlight=False,
    )
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("account", no_wrap=True)
    for column in ("planned", "subscribed", "pending", "no data", "stale"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for account in report.accounts:
        lines = account.connections
        words = [
            f"[red]{escape(account.condition)}[/]" if account.lost else escape(account.condition),
            f"{account.feed} on {account.worker}" if account.feed else "[red]no feed[/]",
            *(f"{count} for {home}" for home, count in account.visitors.items()),
        ]
        table.add_row(
            account.account,
            str(account.planned),
            str(account.subscribed),
            *_silent(
                account,
                sum(line.pending for line in lines),
                sum(line.no_data for line in lines),
                sum(line.stale for line in lines),
            ),
            ", ".join(words),
        )
        for line in lines:
            table.add_row(
                f"  connection {line.number}",
                str(line.planned),
                "",
                *_silent(account, line.pending, line.no_data, line.stale),
                escape(f"{_counts(line.modes)}: {_counts(line.underlyings)}"),
            )
    console.print(table)
    for name, reason in report.unplaced_names.items():
        console.print(f"unplaced: {name}: {reason}", highlight=False, markup=False)
    more = report.unplaced - len(report.unplaced_names)
    if more > 0:
        console.print(f"and {more} more without a place")


def _show_chain(report: ChainReport) -> None:
    # In a narrower window lines wrap, but no number loses its digits.
    console = RichConsole(width=max(RichConsole().width, CHAIN_WIDTH))
    console.print(report.headline, highlight=False, markup=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in (*CALL_COLUMNS, "strike", *reversed(CALL_COLUMNS)):
        table.add_column(column, justify="right", no_wrap=True)
    for row in report.rows:
        strike = f"[reverse]{row.strike}[/]" if row.offset == 0 else f"[bold]{row.strike}[/]"
        table.add_row(*row.call, strike, *row.put)
    console.print(table)
    if report.curve is not None:
        console.print(report.curve, highlight=False, markup=False)


def _silent(account: AccountReport, *numbers: int) -> list[str]:
    """Numbers of silent instruments, if the feed tells them."""
    return [str(number) if account.coverage_known else "?" for number in numbers]


def _counts(counts: Mapping[str, int]) -> str:
    return " ".join(f"{name} {count}" for name, count in counts.items())


def main() -> None:
    """Run the command; an error of ours is one line on standard error and exit status 1."""
    try:
        command()
    except TickfleetError as error:
        print(f"tickfleet: {error}", file=sys.stderr)
        sys.exit(EXIT_FAILED)


if __name__ == "__main__":
    main()
