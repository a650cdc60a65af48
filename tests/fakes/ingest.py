"""Real ingest processes of a test's own, and the control plane's part played by hand."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

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
from tests.fakes.nats_server import NatsServer
from tests.fakes.service_process import ServiceProcess
from tests.fakes.simulator import SimulatorProcess

KEY = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


class IngestProcess(ServiceProcess):
    """`python -m services.ingest`.

    Args:
        folder: Where its log goes.
        name: Its worker id.
        nats: The server.
        environment: Further variables.
    """

    def __init__(self, folder: Path, name: str, nats: NatsServer, **environment: str) -> None:
        super().__init__(
            folder,
            "ingest",
            name,
            **{
                "NATS_URL": nats.url,
                "ACCOUNT_ENCRYPTION_KEY": KEY,
                "SHARDS": "4",
                **environment,
            },
        )

    def start(self) -> "IngestProcess":
        """Start it; does not wait."""
        self.launch()
        return self


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
