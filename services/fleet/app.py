"""The whole fleet on one screen: own the data, prepare the servers, plan, supervise, announce."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TextIO

from libs.common import logs
from libs.common.lifecycle import sleep_unless
from services.fleet.child import Child
from services.fleet.console import Console
from services.fleet.data_directory import DataDirectory, FleetState, ProcessState, Secrets
from services.fleet.domain.credentials import demo_accounts
from services.fleet.domain.plan import (
    NATS,
    POSTGRES,
    SIMULATOR,
    ProcessSpec,
    SharedSettings,
    Wiring,
    inherited,
    plan,
)
from services.fleet.errors import NotReadyError, PortTakenError, UnsupportedPlatformError
from services.fleet.guard import guarded
from services.fleet.loopback import HOST, claim_port, fetch, free_ports, http_probe
from services.fleet.nats_server import NatsServer
from services.fleet.postgres_server import PostgresServer, usable_identity
from services.fleet.settings import FleetSettings
from services.fleet.supervisor import Policy, Supervisor
from services.fleet.tokens import TokenKey, development_token

EXIT_SECOND_SIGNAL = 130
_HEALTH_POLL_SECONDS = 0.2
_TOKEN_HOURS = 24.0
log = logs.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """Everything that is decided before the first process starts.

    Attributes:
        nats: The embedded NATS.
        postgres: The embedded PostgreSQL.
        specs: The service processes, in starting order.
        token_key: What WebSocket tokens are signed with.
        started_at_seconds: Epoch time.
    """

    nats: NatsServer
    postgres: PostgresServer
    specs: list[ProcessSpec]
    token_key: TokenKey
    started_at_seconds: int

    @property
    def gateway_urls(self) -> list[str]:
        """Roots of the gateways."""
        return [spec.url for spec in self.specs if spec.service == "gateway"]

    def names(self) -> list[str]:
        """All processes, in starting order."""
        return [NATS, POSTGRES, *(spec.name for spec in self.specs)]

    def children(self) -> list[Child]:
        """What the supervisor runs."""
        environment = inherited(os.environ)
        return [
            self.nats.child(NATS),
            self.postgres.child(POSTGRES),
            *(
                Child(
                    name=spec.name,
                    argv=spec.argv(sys.executable),
                    environment={**environment, **spec.environment},
                    requires=spec.requires,
                    probe=http_probe(spec.ready_url),
                )
                for spec in self.specs
            ),
        ]

    def state(self, supervisor: Supervisor, *, up: bool) -> FleetState:
        """Describe the fleet for `tickfleet status` and `token`."""
        urls = {spec.name: spec.url for spec in self.specs}
        services = {spec.name: spec.service for spec in self.specs}
        return FleetState(
            pid=os.getpid(),
            started_at_seconds=self.started_at_seconds,
            up=up,
            gateway_urls=tuple(self.gateway_urls),
            simulator_url=urls[SIMULATOR],
            nats_url=self.nats.url,
            nats_monitor_url=self.nats.monitor_url,
            database_url=self.postgres.url,
            jwt_secret=self.token_key.secret,
            jwt_issuer=self.token_key.issuer,
            jwt_audience=self.token_key.audience,
            processes=tuple(
                ProcessState(
                    name=name,
                    service=services.get(name, name),
                    state=status.state.value,
                    pid=status.pid,
                    restarts=status.restarts,
                    url=urls.get(name),
                )
                for name, status in supervisor.status.items()
            ),
        )


def run_fleet(settings: FleetSettings, output: TextIO) -> None:
    """Run a fleet until it is told to stop; blocks the calling (main) thread.

    Raises:
        FatalError: The fleet cannot start; the message says what to do about it.
    """
    if sys.platform == "win32":
        raise UnsupportedPlatformError(
            "tickfleet up runs on Linux and macOS; on Windows run it inside WSL or a container"
        )
    directory = DataDirectory(settings.fleet_data_dir.resolve())
    # A little longer than the guardian of a killed predecessor may take.
    patience_seconds = settings.fleet_stop_deadline_seconds + 5.0
    with (
        directory.owned(patience_seconds) as lock,
        contextlib.closing(asyncio.Runner()) as runner,
    ):
        runner.run(_serve(settings, directory, lock, output))


async def _serve(
    settings: FleetSettings, directory: DataDirectory, lock: int, output: TextIO
) -> None:
    stop = asyncio.Event()
    with _signals(stop) as on_second_signal:
        fleet = await _prepare(settings, directory)
        if stop.is_set():
            return
        with (
            Console(output, ["fleet", *fleet.names()]).open() as console,
            _own_lines(console, settings),
            guarded(settings.fleet_stop_deadline_seconds, lock) as guard,
        ):
            up = False
            supervisor = Supervisor(
                fleet.children(),
                sink=console.line,
                policy=Policy(stop_deadline_seconds=settings.fleet_stop_deadline_seconds),
                guard=guard,
                on_change=lambda: directory.write_state(fleet.state(supervisor, up=up)),
            )
            on_second_signal.append(supervisor.kill_now)
            running = asyncio.create_task(supervisor.run(stop), name="supervisor")
            try:
                await _until_up(fleet, supervisor, settings.fleet_start_deadline_seconds, stop)
                up = not stop.is_set()
                if up:
                    directory.write_state(fleet.state(supervisor, up=True))
                    console.text(_announcement(fleet, settings))
                await stop.wait()
            finally:
                stop.set()
                await running
                directory.remove_state()


async def _prepare(settings: FleetSettings, directory: DataDirectory) -> Fleet:
    """Choose ports, make keys and folders, and draw up the plan."""
    kept = directory.secrets()
    shape = settings.shape
    ports = _choose_ports(settings)
    nats_port, monitor_port, postgres_port = free_ports(3)
    nats = NatsServer(directory=directory.nats, port=nats_port, monitor_port=monitor_port)
    postgres = PostgresServer(
        directory=directory.postgres, port=postgres_port, identity=await usable_identity()
    )
    await nats.prepare()
    await postgres.prepare()
    key = _token_key(settings, kept)
    specs = plan(
        shape,
        Wiring(
            ports=ports,
            nats_url=nats.url,
            database_url=postgres.url,
            host=HOST,
            gateway_host=settings.gateway_host,
        ),
        SharedSettings(
            environment=settings.environment.value,
            log_level=settings.log_level,
            log_format=settings.log_format,
            encryption_key=(
                settings.account_encryption_key.get_secret_value()
                if settings.account_encryption_key
                else kept.account_encryption_key
            ),
            jwt_secret=key.secret,
            jwt_issuer=key.issuer,
            jwt_audience=key.audience,
            api_key_enabled=settings.api_key_enabled,
            seed=settings.sim_seed,
        ),
        demo_accounts(shape.accounts, settings.sim_seed),
    )
    return Fleet(
        nats=nats,
        postgres=postgres,
        specs=specs,
        token_key=key,
        started_at_seconds=int(time.time()),
    )


def _choose_ports(settings: FleetSettings) -> dict[str, int]:
    """Give every service process its HTTP port.

    Raises:
        PortTakenError: One that was asked for by number is taken.
    """
    names = settings.shape.names()
    gateways = [name for name in names if name.startswith("gateway-")]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    if settings.fleet_port:
        for offset, name in enumerate(gateways):
            ports[name] = claim_port(settings.fleet_port + offset, "--port")
    if settings.sim_port:
        ports[SIMULATOR] = claim_port(settings.sim_port, "SIM_PORT")
    if len(set(ports.values())) < len(ports):
        # A free port came out equal to one asked for by number.
        taken = next(port for port in ports.values() if list(ports.values()).count(port) > 1)
        raise PortTakenError(taken, "--port")
    return ports


def _token_key(settings: FleetSettings, kept: Secrets) -> TokenKey:
    given = settings.jwt_secret
    return TokenKey(
        secret=given.get_secret_value() if given else kept.jwt_secret,
        issuer=settings.jwt_issuer,
        audience=settings.jwt_audience,
    )


async def _until_up(
    fleet: Fleet, supervisor: Supervisor, deadline_seconds: float, stop: asyncio.Event
) -> None:
    """Wait until all processes were ready and the gateway's `/health` says ok, or the stop.

    Raises:
        NotReadyError: That did not happen in time.
    """
    deadline = time.monotonic() + deadline_seconds
    try:
        await supervisor.ready(deadline_seconds)
    except NotReadyError:
        if stop.is_set():
            return
        raise
    said = "nothing"
    while not stop.is_set():
        response = await fetch(f"{fleet.gateway_urls[0]}/health")
        if response is not None:
            with contextlib.suppress(ValueError):
                body = response.json()
                said = str(body.get("status")) if isinstance(body, dict) else response.text
            if said == "ok":
                return
        if time.monotonic() > deadline:
            raise NotReadyError(
                [f"GET /health of the gateway, which says {said}"], deadline_seconds
            )
        await sleep_unless(stop, _HEALTH_POLL_SECONDS)


def _announcement(fleet: Fleet, settings: FleetSettings) -> str:
    """Tell the person where everything is."""
    token = development_token(
        fleet.token_key,
        user="developer",
        now_seconds=int(time.time()),
        hours=_TOKEN_HOURS,
    )
    root = fleet.gateway_urls[0]
    socket = f"{root.replace('http', 'ws', 1)}/ws/ticks?token={token}"
    others = "".join(f"  gateway    {url}\n" for url in fleet.gateway_urls[1:])
    return (
        f"\ntickfleet is up\n"
        f"  dashboard  {root}/\n{others}"
        f"  token      {token}\n"
        f"  try        {sys.executable} -m websockets '{socket}'\n"
        '             then type {"action": "subscribe", "tokens": [256265]}\n'
        f"  bus        {fleet.nats.url}\n"
        f"  data       {settings.fleet_data_dir}\n"
        f"  stop       Ctrl-C (twice: at once)\n\n"
    )


@contextlib.contextmanager
def _signals(stop: asyncio.Event) -> Iterator[list[Callable[[], None]]]:
    """Set `stop` at the first signal; at the second one call what the list holds, and leave."""
    loop = asyncio.get_running_loop()
    at_once: list[Callable[[], None]] = []

    def on_signal(number: signal.Signals) -> None:
        if stop.is_set():
            for call in at_once:
                call()
            os._exit(EXIT_SECOND_SIGNAL)
        log.info("fleet.stopping", reason=number.name)
        stop.set()

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield at_once
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


class _ConsoleStream:
    """Lets our own log lines go the way of the children's, under the name `fleet`."""

    def __init__(self, console: Console) -> None:
        self._console = console

    def write(self, text: str) -> int:
        for line in text.splitlines():
            self._console.line("fleet", line)
        return len(text)

    def flush(self) -> None:
        """Nothing is held back here."""


@contextlib.contextmanager
def _own_lines(console: Console, settings: FleetSettings) -> Iterator[None]:
    logs.configure(
        service="fleet",
        worker_id="fleet",
        level=settings.log_level,
        style=settings.log_format,
    )
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler)
    ]
    streams = [handler.setStream(_ConsoleStream(console)) for handler in handlers]
    try:
        yield
    finally:
        for handler, stream in zip(handlers, streams, strict=True):
            handler.setStream(stream or sys.stderr)
