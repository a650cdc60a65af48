"""A fleet of real processes for order runs: servers, simulator, control, orders, gateway."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
import httpx
from cryptography.fernet import Fernet

from services.fleet.child import Child, LineSink
from services.fleet.domain.credentials import DemoAccount, demo_accounts
from services.fleet.domain.plan import (
    NATS,
    POSTGRES,
    SIMULATOR,
    FleetShape,
    ProcessSpec,
    SharedSettings,
    Wiring,
    inherited,
    plan,
)
from services.fleet.loopback import free_ports, http_probe
from services.fleet.nats_server import NatsServer
from services.fleet.postgres_server import PostgresServer, usable_identity
from services.fleet.supervisor import Policy, Supervisor, running

START_SECONDS = 120.0
# What is not part of an order's way is left out, or kept as small as it can be.
_LEFT_OUT = frozenset({"greeks"})
_SMALL = {
    "UNDERLYINGS": "NIFTY",
    "OPTION_EXPIRY_WINDOW": "1",
    "OTM_LEVELS": "1",
    "INSTRUMENT_EXCHANGES": "NFO,NSE",
    "SIM_STRIKES_PER_SIDE": "10",
    "SIM_TICK_INTERVAL_SECONDS": "0.5",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LabShape:
    """What runs.

    Attributes:
        accounts: Simulated accounts.
        workers: Orders workers.
        ingests: Processes that bring the broker's order updates; the other accounts live from
            postbacks and from reading the book.
        durable: Whether PostgreSQL syncs to disk; only a crash of the machine shows it.
        seed: Of market, accounts and delays.
    """

    accounts: int = 4
    workers: int = 2
    ingests: int = 1
    durable: bool = False
    seed: int = 7


@dataclass(slots=True)
class Lab:
    """The running fleet, with handles to look at it and to hurt it.

    Attributes:
        nats: The bus.
        postgres: The ledger's server.
        specs: The service processes.
        accounts: Who trades.
        encryption_key: Opens the stored sessions.
        log: What all processes wrote.
        supervisor: Starts again what dies.
    """

    nats: NatsServer
    postgres: PostgresServer
    specs: list[ProcessSpec]
    accounts: tuple[DemoAccount, ...]
    encryption_key: str
    log: Path
    supervisor: Supervisor | None = None
    kills: dict[str, int] = field(default_factory=dict)

    @property
    def gateway_url(self) -> str:
        """Root of the gateway."""
        return next(spec.url for spec in self.specs if spec.service == "gateway")

    @property
    def simulator_url(self) -> str:
        """Root of the simulator."""
        return next(spec.url for spec in self.specs if spec.service == SIMULATOR)

    @property
    def database_url(self) -> str:
        """Of the ledger."""
        return self.postgres.url

    def names(self, service: str) -> list[str]:
        """The processes of a service."""
        return [spec.name for spec in self.specs if spec.service == service]

    def account_of(self, api_key: str) -> str:
        """What the fleet calls the account of an app."""
        return next(account.name for account in self.accounts if account.api_key == api_key)

    def signal(self, name: str, number: signal.Signals) -> bool:
        """Signal a process by name; False when it is between two lives."""
        assert self.supervisor is not None
        pid = self.supervisor.status[name].pid
        if pid is None:
            return False
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            return False
        key = f"{name.partition('-')[0]} {number.name}"
        self.kills[key] = self.kills.get(key, 0) + 1
        return True

    def log_tail(self, lines: int = 40) -> str:
        """The end of what all processes wrote."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    async def fault(self, **order: object) -> None:
        """Order a fault of the simulator."""
        async with httpx.AsyncClient(timeout=30) as client:
            answer = await client.post(f"{self.simulator_url}/sim/faults", json=order)
        assert answer.is_success, answer.text

    async def lift_faults(self) -> Counter[str]:
        """End all faults; gives how often each kind struck."""
        async with httpx.AsyncClient(timeout=30) as client:
            (await client.delete(f"{self.simulator_url}/sim/faults")).raise_for_status()
            answer = await client.get(f"{self.simulator_url}/metrics")
        struck = re.findall(r'^sim_faults_total\{kind="(\w+)"\} (\S+)$', answer.text, re.MULTILINE)
        return Counter({kind: int(float(count)) for kind, count in struck})

    async def books(self) -> dict[str, dict[str, Any]]:
        """The simulator's books by account, what it hides from its users included."""
        async with httpx.AsyncClient(timeout=60) as client:
            answer = await client.get(f"{self.simulator_url}/sim/orders")
        answer.raise_for_status()
        return {self.account_of(key): book for key, book in answer.json()["accounts"].items()}

    async def query(self, text: str, *arguments: object) -> list[asyncpg.Record]:
        """Ask the database; waits while it is away."""
        async with asyncio.timeout(START_SECONDS):
            while True:
                try:
                    connection = await asyncpg.connect(self.database_url, timeout=5)
                    try:
                        return await connection.fetch(text, *arguments)
                    finally:
                        await connection.close(timeout=5)
                except (OSError, asyncpg.PostgresConnectionError, asyncpg.CannotConnectNowError):
                    await asyncio.sleep(0.2)


@contextlib.asynccontextmanager
async def running_lab(
    folder: Path,
    shape: LabShape,
    variables: Mapping[str, str] | None = None,
    *,
    on_made: Callable[["Lab"], None] = lambda _: None,
) -> AsyncIterator[Lab]:
    """Start a fleet for orders, wait until all of it is ready, and stop it.

    Must be called in the main thread.

    Args:
        folder: For data and the log.
        shape: What runs.
        variables: Settings for all processes, over the lab's own.
        on_made: Told where everything will be, before anything runs.
    """
    folder.mkdir(parents=True, exist_ok=True)  # noqa: ASYNC240  # Before anything runs.
    lab = await _prepared(folder, shape, dict(variables or {}))
    on_made(lab)
    with lab.log.open("w", encoding="utf-8") as log:

        def sink(name: str, line: str) -> None:
            log.write(f"{name} | {line}\n")
            log.flush()

        async with _supervised(lab, variables or {}, sink):
            yield lab


@contextlib.asynccontextmanager
async def _supervised(
    lab: Lab, variables: Mapping[str, str], sink: LineSink
) -> AsyncIterator[None]:
    environment = inherited(os.environ)
    children = [
        lab.nats.child(NATS),
        lab.postgres.child(POSTGRES),
        *(
            Child(
                name=spec.name,
                argv=spec.argv(sys.executable),
                environment={
                    **environment,
                    "PYTHONPATH": str(Path(__file__).parents[2]),
                    **_SMALL,
                    **spec.environment,
                    **variables,
                },
                requires=tuple(name for name in spec.requires if not name.startswith("greeks")),
                probe=http_probe(spec.ready_url),
            )
            for spec in lab.specs
        ),
    ]
    policy = Policy(
        first_backoff_seconds=0.2,
        backoff_ceiling_seconds=2.0,
        healthy_seconds=2.0,
        stop_deadline_seconds=20.0,
    )
    async with running(*children, sink=sink, policy=policy, ready_seconds=START_SECONDS) as found:
        lab.supervisor = found
        yield


async def _prepared(folder: Path, shape: LabShape, variables: Mapping[str, str]) -> Lab:
    accounts = demo_accounts(shape.accounts, shape.seed)
    sizes = FleetShape(accounts=shape.ingests, greeks=1, orders=shape.workers)
    names = sizes.names()
    nats_port, monitor_port, postgres_port, *ports = free_ports(3 + len(names))
    nats = NatsServer(directory=folder / "nats", port=nats_port, monitor_port=monitor_port)
    postgres = PostgresServer(
        directory=folder / "postgres",
        port=postgres_port,
        identity=await usable_identity(),
        durable=shape.durable,
    )
    await nats.prepare()
    await postgres.prepare()
    encryption_key = variables.get("ACCOUNT_ENCRYPTION_KEY", Fernet.generate_key().decode())
    specs = plan(
        sizes,
        Wiring(
            ports=dict(zip(names, ports, strict=True)),
            nats_url=nats.url,
            database_url=postgres.url,
        ),
        SharedSettings(
            environment="test",
            log_level="info",
            log_format="json",
            encryption_key=encryption_key,
            jwt_secret="a-secret-of-the-order-runs",
            jwt_issuer="tickfleet",
            jwt_audience="tickfleet-ws",
            api_key_enabled=False,
            seed=shape.seed,
        ),
        accounts,
    )
    return Lab(
        nats=nats,
        postgres=postgres,
        specs=[spec for spec in specs if spec.service not in _LEFT_OUT],
        accounts=accounts,
        encryption_key=encryption_key,
        log=folder / "lab.log",
    )
