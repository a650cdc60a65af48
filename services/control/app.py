"""The flow of a control process: wait for the lease, then lead."""

import asyncio
import os
from collections.abc import Callable

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.kv import Mirror
from libs.common.bus.lease import Lease, LeaseHolder
from libs.common.bus.provision import ensure
from libs.common.contracts import streams
from libs.common.database import Database
from libs.common.health import Health
from libs.common.kite.login import TotpSessionMinter
from libs.common.lifecycle import Lifecycle
from services.control import metrics, schema
from services.control.domain import accounts
from services.control.leader import Leader
from services.control.planning import Mirrors
from services.control.sessions import Sessions
from services.control.settings import ControlSettings

LEADERSHIP = "leader"

log = logs.get_logger(__name__)


async def serve(settings: ControlSettings, life: Lifecycle) -> None:
    """Stand by or lead until the process stops."""
    found = accounts.from_environment(settings.kite_accounts, os.environ)
    for problem in found.problems:
        log.warning("account.skipped", problem=problem)

    health = Health(life)
    async with (
        health.served(settings),
        Database.opened(settings) as database,
        Bus.open(settings, name=settings.worker_id) as bus,
    ):
        health.add("nats", lambda: None if bus.is_connected else "not connected")
        health.add("accounts", lambda: None if found.accounts else "no usable account")
        # Others read the tables as soon as this process is ready.
        migrated = asyncio.Event()
        health.add("schema", lambda: None if migrated.is_set() else "waiting for PostgreSQL")
        await ensure(bus, streams.STREAMS, streams.BUCKETS)
        if not await schema.migrate(settings, database, life.stop):
            return
        migrated.set()
        mirrors = Mirrors(
            plans=Mirror(bus, streams.PLAN.name),
            status=Mirror(bus, streams.STATUS.name),
            leases=Mirror(bus, streams.LEASES_ACCOUNTS.name),
            coverage=Mirror(bus, streams.COVERAGE.name),
        )
        for mirror in (mirrors.plans, mirrors.status, mirrors.leases, mirrors.coverage):
            life.spawn(mirror.run(life.stop), name=f"mirror-{mirror.bucket}")
            await mirror.ready()

        minter = TotpSessionMinter(
            login_root=settings.kite_login_url, api_root=settings.kite_api_url
        )

        def new_term() -> Leader:
            sessions = Sessions(bus, settings, minter, found.accounts)
            return Leader(bus, database, sessions, settings, mirrors=mirrors)

        terms = Terms(new_term, worker=settings.worker_id, life=life)
        leases = LeaseHolder(
            bus,
            streams.LEASES_CONTROL.name,
            member=settings.worker_id,
            resources=lambda: [LEADERSHIP],
            ttl_seconds=streams.LEASES_CONTROL.ttl_seconds or 5,
            on_acquired=terms.begin,
            on_lost=terms.end,
        )
        life.spawn(leases.run(life.stop), name="leases")
        await life.until_stopped()


class Terms:
    """Starts a leader when the lease comes and ends it when the lease goes.

    Args:
        new_leader: Makes the leader of a new term, with nothing left over from an earlier one.
        worker: Name of this process.
        life: Owns the leader's tasks.
    """

    def __init__(self, new_leader: Callable[[], Leader], *, worker: str, life: Lifecycle) -> None:
        self._new_leader = new_leader
        self._worker = worker
        self._life = life
        self._stop: asyncio.Event | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self, lease: Lease) -> None:
        """Lead from now on."""
        log.info("leader.elected", epoch=lease.epoch)
        metrics.LEADER.set(1)
        stop = self._stop = asyncio.Event()
        leader = self._new_leader()
        self._tasks = [
            self._life.spawn(leader.run(stop), name="leader", may_end=True),
            self._life.spawn(leader.planning.run(stop), name="planning", may_end=True),
            self._life.spawn(leader.report(self._worker, stop), name="status", may_end=True),
        ]

    async def end(self, lease: Lease) -> None:
        """Stop leading; what is under way is cancelled, since another process leads now."""
        log.info("leader.retired", epoch=lease.epoch)
        metrics.LEADER.set(0)
        if self._stop is not None:
            self._stop.set()
        if self._tasks:
            _, pending = await asyncio.wait(self._tasks, timeout=0.5)
            for task in pending:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
