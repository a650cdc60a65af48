"""The flow of a control process: wait for the lease, then lead."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.kv import Mirror
from libs.common.bus.lease import Lease, LeaseHolder
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams
from libs.common.contracts.messages import AccountCondition, AccountState
from libs.common.database import Database
from libs.common.health import Health
from libs.common.kite.login import KiteTokenDesk, TotpSessionMinter
from libs.common.lifecycle import Lifecycle
from libs.common.seal import Seal
from services.control import metrics, schema
from services.control.account_commands import AccountCommands
from services.control.account_sources import AccountSources
from services.control.account_store import AccountStore
from services.control.leader import Leader
from services.control.planning import Mirrors
from services.control.sessions import Sessions
from services.control.settings import ControlSettings
from services.control.stand_in import StandInAccounts, as_simulated

LEADERSHIP = "leader"
_ACCOUNTS_NAMED_MAX = 10

log = logs.get_logger(__name__)


async def serve(settings: ControlSettings, life: Lifecycle) -> None:
    """Stand by or lead until the process stops."""
    health = Health(life)
    async with (
        health.served(settings),
        Database.opened(settings) as database,
        Bus.open(settings, name=settings.worker_id) as bus,
    ):
        health.add("nats", lambda: None if bus.is_connected else "not connected")
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
        states = Mirror(bus, streams.ACCOUNTS.name)
        health.add("accounts", lambda: account_trouble(states))
        for mirror in (
            mirrors.plans,
            mirrors.status,
            mirrors.leases,
            mirrors.coverage,
            states,
        ):
            life.spawn(mirror.run(life.stop), name=f"mirror-{mirror.bucket}")
            await mirror.ready()

        store = AccountStore(database, Seal(settings.account_encryption_key))

        def sessions_of(
            told: ControlSettings, sources: AccountSources | StandInAccounts, lease: Lease
        ) -> Sessions:
            roots = {"login_root": told.kite_login_url, "api_root": told.kite_api_url}
            return Sessions(
                bus,
                told,
                TotpSessionMinter(**roots),
                KiteTokenDesk(**roots),
                sources,
                states=states,
                is_leading=lease.is_valid,
            )

        def new_term(lease: Lease) -> Term:
            sessions = sessions_of(settings, AccountSources(settings, store), lease)
            stand_in = None
            if settings.may_stand_in:
                stand_in = sessions_of(as_simulated(settings), StandInAccounts(settings), lease)
            return Term(
                leader=Leader(
                    bus, database, sessions, settings, mirrors=mirrors, stand_in=stand_in
                ),
                commands=AccountCommands(bus, store, sessions),
            )

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """What a leader does in one term."""

    leader: Leader
    commands: AccountCommands


def account_trouble(states: Mirror) -> str | None:
    """Why there is nothing to stream with, for `/readyz`; None when an account can be counted on.

    Args:
        states: Mirror of the bucket `accounts`; what a standby knows too.
    """
    if not states.is_ready:
        return "the accounts have not been read yet"
    found = []
    for value in states.items().values():
        try:
            state = codec.from_json(AccountState, value)
        except codec.DecodeError:
            continue
        if state.condition in {AccountCondition.READY, AccountCondition.LOGGING_IN}:
            return None
        found.append(f"{state.account} is {state.condition.value}")
    if found:
        return f"no usable account: {', '.join(sorted(found)[:_ACCOUNTS_NAMED_MAX])}"
    return (
        "no account: set KITE_ACCOUNTS, KITE_ACCOUNTS_FILE or KITE_API_KEY, or add one with "
        "tickfleet accounts add"
    )


class Terms:
    """Starts a leader when the lease comes and ends it when the lease goes.

    Args:
        new_term: Makes what a new term needs, with nothing left over from an earlier one.
        worker: Name of this process.
        life: Owns the leader's tasks.
    """

    def __init__(self, new_term: Callable[[Lease], Term], *, worker: str, life: Lifecycle) -> None:
        self._new_term = new_term
        self._worker = worker
        self._life = life
        self._stop: asyncio.Event | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def begin(self, lease: Lease) -> None:
        """Lead from now on."""
        log.info("leader.elected", epoch=lease.epoch)
        metrics.LEADER.set(1)
        stop = self._stop = asyncio.Event()
        term = self._new_term(lease)
        self._tasks = [
            self._life.spawn(term.leader.run(stop), name="leader", may_end=True),
            self._life.spawn(term.leader.planning.run(stop), name="planning", may_end=True),
            self._life.spawn(term.leader.report(self._worker, stop), name="status", may_end=True),
            self._life.spawn(term.commands.run(stop), name="account-commands", may_end=True),
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
