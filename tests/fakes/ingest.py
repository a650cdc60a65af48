"""Real ingest processes of a test's own, and the control plane's part played by hand."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import httpx
from pydantic import SecretStr

from libs.common.bus.connection import Bus
from libs.common.bus.kv import Bucket, Mirror
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import (
    AccountPlan,
    FeedCoverage,
    FeedStatus,
    KiteSession,
    PlannedConnection,
    PlannedGroup,
    Source,
    StreamMode,
)
from libs.common.kite.sessions import SessionSeal
from tests.fakes.nats_server import NatsServer, free_port
from tests.fakes.simulator import SimulatorProcess

KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="
_STOP_DEADLINE_SECONDS = 20.0


class IngestProcess:
    """`python -m services.ingest`.

    Args:
        folder: Where its log goes.
        name: Its worker id.
        nats: The server.
        environment: Further variables.
    """

    def __init__(self, folder: Path, name: str, nats: NatsServer, **environment: str) -> None:
        self.name = name
        self.log = folder / f"{name}.log"
        self.health_port = free_port()
        self._environment = os.environ | {
            "WORKER_ID": name,
            "NATS_URL": nats.url,
            "ACCOUNT_ENCRYPTION_KEY": KEY,
            "HEALTH_PORT": str(self.health_port),
            "SHARDS": "4",
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> "IngestProcess":
        """Start it; does not wait."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.ingest"],
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        return self

    @property
    def pid(self) -> int:
        """Its process id."""
        assert self.process is not None
        return self.process.pid

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """End it with SIGTERM and give its exit status."""
        self.signal(signal.SIGTERM)
        assert self.process is not None
        return self.process.wait(_STOP_DEADLINE_SECONDS)

    def kill(self) -> None:
        """End it at once, if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(_STOP_DEADLINE_SECONDS)

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        text = httpx.get(f"http://127.0.0.1:{self.health_port}/metrics", timeout=5).text
        total = 0.0
        for line in text.splitlines():
            if line.startswith((f"{name} ", f"{name}{{")) and all(
                f'{key}="{value}"' in line for key, value in labels.items()
            ):
                total += float(line.rsplit(" ", 1)[1])
        return total


class ControlPart:
    """Writes what control would write, and reads what ingest says.

    Args:
        bus: A connection; the buckets must exist.
        simulator: The broker.
    """

    def __init__(self, bus: Bus, simulator: SimulatorProcess) -> None:
        self.bus = bus
        self.simulator = simulator
        self.status = Mirror(bus, streams.STATUS.name)
        self.coverage = Mirror(bus, streams.COVERAGE.name)
        self._revision = 0
        self._seal = SessionSeal(SecretStr(KEY))

    async def plan(
        self,
        account: str,
        connections: Sequence[Iterable[int]],
        mode: StreamMode = StreamMode.FULL,
    ) -> AccountPlan:
        """Write a plan entry: the tokens of each connection, spread over some underlyings."""
        self._revision += 1
        plan = AccountPlan(
            account=account,
            revision=self._revision,
            connections=tuple(
                PlannedConnection(
                    groups=tuple(
                        PlannedGroup(
                            underlying=f"NAME{number}",
                            mode=mode,
                            tokens=tuple(token for token in tokens if token % 5 == number),
                        )
                        for number in range(5)
                    )
                )
                for tokens in map(sorted, connections)
            ),
            planned_at_ns=time.time_ns(),
        )
        await Bucket(self.bus, streams.PLAN.name).put(subjects.escape(account), codec.to_json(plan))
        return plan

    async def session(self, account: str, number: int = 1, **changes: object) -> KiteSession:
        """Write a session of one of the simulator's accounts, minted now."""
        values: dict[str, object] = {
            "account": account,
            "api_key": self.simulator.account(number).api_key,
            "access_token": await self.simulator.mint(number),
            "user_id": "AB1234",
            "ws_url": self.simulator.ws_url,
            "source": Source.SIM,
            "minted_at_ns": time.time_ns(),
            **changes,
        }
        session = KiteSession(**values)  # type: ignore[arg-type]  # By name, as the caller says.
        await Bucket(self.bus, streams.KITE_SESSIONS.name).put(
            subjects.escape(account), self._seal.seal(session)
        )
        return session

    def feed(self, account: str) -> FeedStatus | None:
        """What ingest last said of a feed."""
        value = self.status.get(f"feed-{subjects.escape(account)}")
        return None if value is None else codec.from_json(FeedStatus, value)

    def silent(self, account: str) -> FeedCoverage | None:
        """What ingest last said of silent instruments."""
        value = self.coverage.get(subjects.escape(account))
        return None if value is None else codec.from_msgpack(FeedCoverage, value)

    def open_sockets(self, number: int = 1) -> int:
        """How many connections the simulator counts for one of its accounts."""
        accounts = self.simulator.state()["accounts"]
        return int(accounts[self.simulator.account(number).api_key]["connections"])
