"""The simulator stands in while every exchange is closed, and goes at the open; no restarts."""

import asyncio
import contextlib
from collections import Counter
from datetime import datetime
from typing import Any

import pytest
from pydantic import SecretStr

from libs.common.bus.connection import Bus
from libs.common.bus.kv import Mirror
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import Source
from libs.common.database import Database
from libs.common.domain.clock import IST
from libs.common.kite.login import KiteTokenDesk, TotpSessionMinter
from libs.common.seal import Seal
from libs.common.settings import Variables
from services.control import schema
from services.control.account_sources import AccountSources
from services.control.account_store import AccountStore
from services.control.leader import Leader
from services.control.planning import Mirrors
from services.control.sessions import Sessions
from services.control.stand_in import StandInAccounts, as_simulated
from tests.fakes.service_process import ServiceProcess
from tests.fakes.simulator import SimulatorProcess
from tests.integration.conftest import settings_for
from tests.integration.control_rig import control_settings, until, variables_of
from tests.integration.gateway_rig import running_postgres

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

OPEN = datetime(2026, 11, 18, 11, 0, tzinfo=IST)
CLOSED = datetime(2026, 11, 18, 16, 5, tzinfo=IST)
PRE_OPEN = datetime(2026, 11, 19, 9, 1, tzinfo=IST)


class Desk:
    """A leader with a wall clock of the test's own, and one real ingest process."""

    def __init__(self, leader: Leader, plans: Mirror) -> None:
        self.now = OPEN
        self.leader = leader
        self.frames: Counter[str] = Counter()
        self._plans = plans

    @property
    def planned(self) -> set[str]:
        """The accounts that have a plan entry."""
        return {subjects.unescape(key) for key in self._plans}

    async def until_frames(self, source: Source, count: int = 20) -> None:
        """Wait until so many more frames of a source have come."""
        goal = self.frames[source] + count
        await until(lambda: self.frames[source] >= goal, lambda: (self.frames, self.planned))


@pytest.fixture(scope="module")
def simulators(tmp_path_factory):
    found = [
        SimulatorProcess(tmp_path_factory.mktemp(name), SIM_RATE_LIMITS="false")
        for name in ("exchange", "stand_in")
    ]
    for simulator in found:
        simulator.start()
    yield found
    for simulator in found:
        simulator.stop()


@contextlib.asynccontextmanager
async def desk(tmp_path, nats_server, exchange: SimulatorProcess, mock_url: str):
    """Run it from the beginning of the block to its end."""
    account = exchange.account(1)
    settings = control_settings(
        exchange,
        tmp_path,
        feed_source=Source.LIVE,
        kite_accounts="live1",
        mock_accounts="mock1",
        mock_url=mock_url,
        underlyings=("NIFTY",),
        option_expiry_window=1,
        otm_levels=2,
        plan_interval_seconds=1.0,
    )
    variables = Variables(variables_of(account, "live1") | variables_of(account, "mock1"))
    stop = asyncio.Event()
    async with (
        running_postgres(tmp_path / "postgres") as postgres,
        Bus.open(settings_for(nats_server), name="test") as bus,
    ):
        settings = settings.model_copy(update={"database_url": SecretStr(postgres.url)})
        async with Database.opened(settings) as database:
            await ensure(bus, streams.STREAMS, streams.BUCKETS)
            assert await schema.migrate(settings, database, stop)
            mirrors = Mirrors(
                plans=Mirror(bus, streams.PLAN.name),
                status=Mirror(bus, streams.STATUS.name),
                leases=Mirror(bus, streams.LEASES_ACCOUNTS.name),
                coverage=Mirror(bus, streams.COVERAGE.name),
            )
            states = Mirror(bus, streams.ACCOUNTS.name)
            store = AccountStore(database, Seal(settings.account_encryption_key))

            def sessions(told: Any, sources: Any) -> Sessions:
                roots = {"login_root": told.kite_login_url, "api_root": told.kite_api_url}
                return Sessions(
                    bus,
                    told,
                    TotpSessionMinter(**roots),
                    KiteTokenDesk(**roots),
                    sources,
                    states=states,
                    is_leading=lambda: True,
                )

            held: list[Desk] = []
            leader = Leader(
                bus,
                database,
                sessions(settings, AccountSources(settings, store, variables)),
                settings,
                mirrors=mirrors,
                stand_in=sessions(as_simulated(settings), StandInAccounts(settings, variables)),
                wall_clock=lambda: held[0].now,
            )
            found = Desk(leader, mirrors.plans)
            held.append(found)

            def count(message: Any) -> None:
                found.frames[message.headers[codec.HEADER_SOURCE]] += 1

            await bus.subscribe(f"{subjects.FRAME_PREFIX}.*.live1", count)
            await bus.subscribe(f"{subjects.FRAME_PREFIX}.*.mock1", count)
            async with asyncio.TaskGroup() as group:
                for mirror in (
                    mirrors.plans,
                    mirrors.status,
                    mirrors.leases,
                    mirrors.coverage,
                    states,
                ):
                    group.create_task(mirror.run(stop))
                    await mirror.ready()
                group.create_task(leader.run(stop))
                group.create_task(leader.planning.run(stop))
                key = settings.account_encryption_key.get_secret_value()
                feeder = ServiceProcess(
                    tmp_path,
                    "ingest",
                    "ingest-1",
                    NATS_URL=nats_server.url,
                    ACCOUNT_ENCRYPTION_KEY=key,
                )
                feeder.launch()
                try:
                    yield found
                    assert feeder.stop() == 0, feeder.text[-3000:]
                finally:
                    feeder.kill()
                    stop.set()


def _sockets(simulator: SimulatorProcess) -> int:
    return sum(account["connections"] for account in simulator.state()["accounts"].values())


async def test_feed_turns_to_the_simulator_at_the_close_and_back_at_the_open(
    tmp_path, nats_server, simulators
):
    exchange, stand_in = simulators
    async with desk(tmp_path, nats_server, exchange, stand_in.url) as found:
        await found.until_frames(Source.LIVE)
        assert found.planned == {"live1"}
        assert found.frames[Source.SIM] == 0

        found.now = CLOSED
        await found.until_frames(Source.SIM)
        assert found.planned == {"mock1"}
        await until(lambda: (_sockets(exchange), _sockets(stand_in)) == (0, 1))

        found.now = PRE_OPEN
        await found.until_frames(Source.LIVE)
        assert found.planned == {"live1"}
        await until(lambda: (_sockets(exchange), _sockets(stand_in)) == (1, 0))


async def test_unreachable_simulator_leaves_the_live_feed_where_it_was(
    tmp_path, nats_server, simulators
):
    exchange, _ = simulators
    async with desk(tmp_path, nats_server, exchange, "http://127.0.0.1:1") as found:
        await found.until_frames(Source.LIVE)

        found.now = CLOSED
        # The stand-in was tried, and the live feed goes on.
        tried = found.leader.stand_in_words
        await until(lambda: "logging_in" in tried().get("mock1", ""), tried)
        await found.until_frames(Source.LIVE)
        assert found.planned == {"live1"}
