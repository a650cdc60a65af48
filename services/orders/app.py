"""The flow of an orders process: leases decide whose orders it carries out."""

import asyncio

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusUnavailableError
from libs.common.bus.kv import Bucket, Mirror
from libs.common.bus.lease import Lease, LeaseHolder
from libs.common.bus.provision import ensure
from libs.common.bus.service import RequestService
from libs.common.contracts import codec, streams, subjects
from libs.common.database import Database
from libs.common.domain.clock import SystemClock
from libs.common.health import Health
from libs.common.kite.sessions import SessionSeal, SessionSealError
from libs.common.lifecycle import Lifecycle, sleep_unless
from services.orders.account_session import BrokerMaker, kite_broker
from services.orders.account_worker import AccountWorker, Edges
from services.orders.broker_sync import BrokerSync
from services.orders.broker_tables import BrokerTables
from services.orders.checkpoint import Checkpoint, crash_at, pass_by
from services.orders.dead_letters import Undertaker
from services.orders.ledger import Ledger
from services.orders.limits_file import read_limits
from services.orders.price_bands import PriceBands
from services.orders.settings import OrdersSettings
from services.orders.strays import RESOURCE, Strays
from services.orders.surroundings import InstrumentBook, MarketWatch, Surroundings, Switches

STATUS_INTERVAL_SECONDS = 2.0
SERVICE_NAME = "tickfleet-orders"
_CONCURRENCY = 64

log = logs.get_logger(__name__)


async def serve(
    settings: OrdersSettings, life: Lifecycle, *, make_broker: BrokerMaker | None = None
) -> None:
    """Carry out the orders of the leased accounts until the process stops.

    Args:
        settings: Of the process.
        life: Of the process.
        make_broker: Makes the broker of a session; Kite's unless said.
    """
    limits = read_limits(settings.orders_limits_file)
    health = Health(life)
    async with (
        health.served(settings),
        Database.opened(settings) as database,
        Bus.open(settings, name=settings.worker_id) as bus,
        RequestService.opened(
            bus,
            name=SERVICE_NAME,
            version="1.0.0",
            description="Decisions about orders, limits in force, and the broker's postbacks",
            queue_group="orders",
            concurrency=_CONCURRENCY,
            stop_seconds=1.0,
            metadata={"worker": settings.worker_id},
        ) as service,
    ):
        await ensure(bus, streams.STREAMS, streams.BUCKETS)
        switches = Switches(bus)
        surroundings = Surroundings(
            instruments=InstrumentBook(bus),
            market=MarketWatch(bus),
            switches=switches,
            limits=limits,
            bands=PriceBands(bus, wait_seconds=settings.orders_band_wait_seconds),
        )
        edges = Edges(
            bus=bus,
            database=database,
            service=service,
            surroundings=surroundings,
            settings=settings,
            checkpoint=_checkpoint(settings),
            make_broker=make_broker or kite_broker(settings.orders_call_seconds),
            make_companions=lambda worker: (broker_sync(worker, database, settings),),
        )
        workers = WorkerSet(edges, life)
        switches.on_change = workers.controls_changed
        leases = LeaseHolder(
            bus,
            streams.LEASES_ORDERS.name,
            member=settings.worker_id,
            resources=workers.resources,
            ttl_seconds=streams.LEASES_ORDERS.ttl_seconds or 5,
            on_acquired=workers.start,
            on_lost=workers.end,
        )
        health.add("nats", lambda: None if bus.is_connected else "not connected")
        health.add("database", lambda: database.last_error)
        health.add("accounts", workers.unready)

        mirrors = {
            **surroundings.mirrors,
            "accounts": workers.accounts_mirror,
            "sessions": workers.sessions,
        }
        for name, mirror in mirrors.items():
            life.spawn(mirror.run(life.stop), name=name)
        life.spawn(surroundings.bands.run(life.stop), name="price-bands")
        life.spawn(probe(database, life.stop), name="database-probe")
        for mirror in mirrors.values():
            await mirror.ready()
        life.spawn(leases.run(life.stop), name="leases")
        life.spawn(workers.report(life.stop), name="status")
        await life.until_stopped()


def broker_sync(worker: AccountWorker, database: Database, settings: OrdersSettings) -> BrokerSync:
    """What keeps the broker's view of an account in PostgreSQL while a worker has it."""
    return BrokerSync(
        worker.account,
        lambda: worker.session.broker,
        BrokerTables(database, worker.account),
        report=worker.report,
        clock=SystemClock(),
        book_seconds=settings.orders_sync_seconds,
        funds_seconds=settings.orders_funds_seconds,
        owns=worker.lease.is_valid,
    )


def _checkpoint(settings: OrdersSettings) -> Checkpoint:
    return crash_at(settings.orders_crash_at) if settings.orders_crash_at else pass_by


async def probe(database: Database, stop: asyncio.Event) -> None:
    """Ask PostgreSQL for a sign of life now and then, so that readiness is true when idle."""
    while not stop.is_set():
        await database.probe()
        await sleep_unless(stop, STATUS_INTERVAL_SECONDS)


class WorkerSet:
    """The accounts that this process holds, and the stray commands when it holds those.

    Args:
        edges: What all accounts share.
        life: Owns the workers' tasks.
    """

    def __init__(self, edges: Edges, life: Lifecycle) -> None:
        self._edges = edges
        self._life = life
        self._bus = edges.bus
        self._settings = edges.settings
        self._seal = SessionSeal(edges.settings.account_encryption_key)
        self._status = Bucket(edges.bus, streams.STATUS.name)
        self._workers: dict[str, AccountWorker] = {}
        self._strays: tuple[asyncio.Event, asyncio.Task[None]] | None = None
        self.accounts_mirror = Mirror(edges.bus, streams.ACCOUNTS.name)
        self.sessions = Mirror(edges.bus, streams.KITE_SESSIONS.name, self._session_changed)

    def accounts(self) -> set[str]:
        """The accounts that exist: those that control knows, else those that are logged in."""
        keys = list(self.accounts_mirror) or list(self.sessions)
        return {subjects.unescape(key) for key in keys}

    def resources(self) -> list[str]:
        """What the leases are about."""
        return [*sorted(self.accounts()), RESOURCE]

    def unready(self) -> str | None:
        """Why this process cannot work, or None; a standby without accounts is ready."""
        return None if self.accounts_mirror.is_ready else "the accounts have not been read yet"

    def controls_changed(self, account: str) -> None:
        """Somebody set a kill switch."""
        worker = self._workers.get(account)
        if worker is not None:
            worker.note_controls()

    def _session_changed(self, key: str, value: bytes | None) -> None:
        del value
        worker = self._workers.get(subjects.unescape(key))
        if worker is not None:
            self._give_session(worker)

    def _give_session(self, worker: AccountWorker) -> None:
        sealed = self.sessions.get(subjects.escape(worker.account))
        if sealed is None:
            worker.use_session(None)
            return
        try:
            worker.use_session(self._seal.open(sealed))
        except SessionSealError as error:
            log.error("session.unreadable", account=worker.account, reason=error.reason)

    async def start(self, lease: Lease) -> None:
        """An account was leased: begin to carry out its orders."""
        if lease.resource == RESOURCE:
            self._start_strays()
            return
        worker = AccountWorker(lease, self._edges)
        self._give_session(worker)
        self._workers[lease.resource] = worker
        self._life.spawn(worker.run(), name="orders-account", may_end=True)
        log.info("account.leased", account=lease.resource, epoch=lease.epoch)

    async def end(self, lease: Lease) -> None:
        """An account's lease ended: finish what is under way before anybody else begins."""
        if lease.resource == RESOURCE:
            await self._end_strays()
            return
        worker = self._workers.pop(lease.resource, None)
        if worker is None:
            return
        worker.request_stop()
        await worker.stopped()
        log.info("account.released", account=lease.resource, epoch=lease.epoch)

    def _start_strays(self) -> None:
        ledger = Ledger(self._edges.database)
        strays = Strays(
            self._bus,
            ledger,
            Undertaker(self._bus, ledger, self._edges.checkpoint),
            self.accounts,
            wait_seconds=self._settings.orders_stray_seconds,
        )
        stop = asyncio.Event()
        task = self._life.spawn(strays.run(stop), name="orders-strays", may_end=True)
        self._strays = (stop, task)

    async def _end_strays(self) -> None:
        if self._strays is None:
            return
        stop, task = self._strays
        self._strays = None
        stop.set()
        await asyncio.wait({task})

    async def report(self, stop: asyncio.Event) -> None:
        """Say every two seconds how each account fares."""
        while not stop.is_set():
            for account, worker in list(self._workers.items()):
                status = worker.status(self._settings.worker_id)
                try:
                    await self._status.put(
                        f"orders-{subjects.escape(account)}", codec.to_json(status)
                    )
                except BusUnavailableError as error:
                    log.warning("status.unsent", account=account, reason=str(error))
            await sleep_unless(stop, STATUS_INTERVAL_SECONDS)
