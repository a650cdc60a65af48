"""Real ingest on real servers for tests: accounts of a simulator, as one process or several."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from cryptography.fernet import Fernet
from pydantic import SecretStr

from libs.common.bus.connection import Bus
from libs.common.bus.errors import NoResponderError, RequestTimeoutError
from libs.common.bus.kv import Bucket
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import (
    AccountPlan,
    FeedStatus,
    KiteSession,
    PlannedConnection,
    PlannedGroup,
    Source,
    StreamMode,
)
from libs.common.kite.sessions import SessionSeal
from libs.common.lifecycle import Lifecycle
from libs.common.settings import load
from services.ingest import app
from services.ingest.settings import IngestSettings
from tests.fakes.nats_server import NatsServer, free_port
from tests.fakes.simulator import SimulatorProcess

KEY = Fernet.generate_key().decode()
DEADLINE_SECONDS = 45.0


class IngestRig:
    """What ingest reads, written as control does, and ways to start it.

    Args:
        bus: A connection of the test's own.
        nats_server: Where ingest connects.
        simulator: Where its accounts are.
        folder: For the logs of processes.
    """

    def __init__(
        self, bus: Bus, nats_server: NatsServer, simulator: SimulatorProcess, folder: Path
    ) -> None:
        self.bus = bus
        self._nats = nats_server
        self._simulator = simulator
        self._folder = folder
        self._seal = SessionSeal(SecretStr(KEY))
        self._revision = 0

    async def prepare(self) -> None:
        """Make the streams and buckets."""
        await ensure(self.bus, streams.STREAMS, streams.BUCKETS)

    async def plan(self, *accounts: int, tokens: Iterable[int] = ()) -> None:
        """Plan accounts of the simulator, by number; without tokens they only answer requests."""
        self._revision += 1
        wanted = tuple(sorted(tokens))
        group = PlannedGroup(underlying="NIFTY", mode=StreamMode.FULL, tokens=wanted)
        connections = (PlannedConnection(groups=(group,)),) if wanted else ()
        for number in accounts:
            entry = AccountPlan(
                account=f"sim{number}",
                revision=self._revision,
                connections=connections,
                planned_at_ns=time.time_ns(),
            )
            await Bucket(self.bus, streams.PLAN.name).put(
                subjects.escape(entry.account), codec.to_json(entry)
            )

    async def log_in(self, *accounts: int, **changes: Any) -> None:
        """Mint a session for each account and store it."""
        for number in accounts:
            values: dict[str, Any] = {
                "account": f"sim{number}",
                "api_key": self._simulator.account(number).api_key,
                "access_token": await self._simulator.mint(number),
                "user_id": self._simulator.account(number).user_id,
                "ws_url": self._simulator.ws_url,
                "api_url": self._simulator.url,
                "source": Source.SIM,
                "minted_at_ns": time.time_ns(),
                **changes,
            }
            session = KiteSession(**values)
            await Bucket(self.bus, streams.KITE_SESSIONS.name).put(
                subjects.escape(session.account), self._seal.seal(session)
            )

    @asynccontextmanager
    async def ingest(self, worker: str = "one", **settings: Any) -> AsyncIterator[Lifecycle]:
        """Run ingest in this process until the block ends."""
        life = Lifecycle()
        given = {
            "nats_url": self._nats.url,
            "account_encryption_key": SecretStr(KEY),
            "worker_id": worker,
            "health_port": free_port(),
            **settings,
        }
        task = asyncio.create_task(app.serve(load(IngestSettings, **given), life))
        try:
            yield life
        finally:
            life.request_stop("end of the test")
            await task
        if life.failure is not None:
            raise life.failure

    def launch(self, worker: str, **environment: str) -> "subprocess.Popen[bytes]":
        """Start `python -m services.ingest`."""
        values = {
            **os.environ,
            "NATS_URL": self._nats.url,
            "ACCOUNT_ENCRYPTION_KEY": KEY,
            "WORKER_ID": worker,
            "HEALTH_PORT": str(free_port()),
            **environment,
        }
        with (self._folder / f"ingest-{worker}.log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "services.ingest"], env=values, stdout=log, stderr=log
            )

    async def until_served(self, *accounts: int) -> None:
        """Wait until every account answers requests, alone and as one of all."""
        for number in accounts:
            for subject in (subjects.rpc_history_of, subjects.rpc_quote_of):
                await self.until_interest(subject(f"sim{number}"))
        for subject_of_all in (subjects.RPC_HISTORY, subjects.RPC_QUOTE):
            await self.until_interest(subject_of_all)

    async def until_interest(self, subject: str, *, expected: bool = True) -> None:
        """Wait until a subject is served, or not any more; asks with what everybody refuses."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await self._is_served(subject) is not expected:  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def _is_served(self, subject: str) -> bool:
        try:
            await self.bus.request(subject, b"", 5.0)
        except (NoResponderError, RequestTimeoutError):
            return False
        return True

    async def status(self, account: int) -> FeedStatus | None:
        """What the holder of an account says."""
        entry = await Bucket(self.bus, streams.STATUS.name).get(f"feed-sim{account}")
        return None if entry is None else codec.from_json(FeedStatus, entry.value)

    async def until_status(
        self, account: int, condition: Callable[[FeedStatus], bool]
    ) -> FeedStatus:
        """Wait until the holder of an account says something."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                status = await self.status(account)
                if status is not None and condition(status):
                    return status
                await asyncio.sleep(0.05)


def end(process: "subprocess.Popen[bytes]", number: signal.Signals = signal.SIGTERM) -> int:
    """End a process and give its exit status."""
    if process.poll() is None:
        process.send_signal(number)
    return process.wait(DEADLINE_SECONDS)
