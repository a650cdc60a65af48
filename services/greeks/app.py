"""The flow of a greeks process: leases decide which shards it works."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import get_args

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusClosedError
from libs.common.bus.kv import Bucket, Mirror
from libs.common.bus.lease import Lease, LeaseHolder
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import (
    Convention,
    GreeksStatus,
    InstrumentSet,
    PricingModel,
    YearClock,
)
from libs.common.database import Database
from libs.common.domain.market_calendar import CALENDAR
from libs.common.errors import RetryableError
from libs.common.health import Health
from libs.common.lifecycle import Lifecycle, sleep_unless
from services.greeks import metrics, vollib_engine
from services.greeks.candle_store import CandleStore
from services.greeks.candles import Candles
from services.greeks.convention_file import read_conventions
from services.greeks.domain import pricing
from services.greeks.domain.budget import SharedBudget
from services.greeks.domain.chain_pricer import Engine
from services.greeks.domain.policy import Policy
from services.greeks.domain.shard import Shard
from services.greeks.domain.terms import Model
from services.greeks.explanations import Explanations
from services.greeks.instrument_index import InstrumentIndex
from services.greeks.market_in_force import MarketInForce
from services.greeks.settings import GreeksSettings
from services.greeks.shard_worker import ShardWorker
from services.greeks.turns import Turns

STATUS_INTERVAL_SECONDS = 2.0

log = logs.get_logger(__name__)


async def serve(settings: GreeksSettings, life: Lifecycle) -> None:
    """Work the leased shards until the process stops."""
    engine, policy = engine_of(settings), policy_of(settings)
    health = Health(life)
    async with (
        health.served(settings),
        _database(settings) as database,
        Bus.open(settings, name=settings.worker_id) as bus,
    ):
        await ensure(bus, streams.STREAMS, streams.BUCKETS)
        workers = WorkerSet(bus, settings, life, policy, engine)
        leases = LeaseHolder(
            bus,
            streams.LEASES_SHARDS.name,
            member=settings.worker_id,
            resources=workers.shards,
            ttl_seconds=streams.LEASES_SHARDS.ttl_seconds or 3,
            on_acquired=workers.begin,
            on_lost=workers.end,
        )
        market = MarketInForce(bus)
        store = CandleStore(database, kept_days=settings.candles_kept_days)
        candles = Candles(
            bus,
            settings,
            index=workers.index,
            market=market,
            store=store,
            convention_of=policy.of,
        )
        health.add("nats", lambda: None if bus.is_connected else "not connected")
        health.add("shards", workers.unready)

        life.spawn(workers.instruments.run(life.stop), name="instruments")
        await workers.instruments.ready()
        life.spawn(leases.run(life.stop), name="leases")
        life.spawn(workers.explanations.run(life.stop), name="explanations")
        life.spawn(workers.report(life.stop), name="status")
        life.spawn(market.run(life.stop), name="market")
        life.spawn(candles.run(life.stop), name="candles")
        life.spawn(store.sweep(life.stop), name="candle-sweep")
        await life.until_stopped()


@asynccontextmanager
async def _database(settings: GreeksSettings) -> AsyncIterator[Database | None]:
    """The database if one is set; it is only a store of candles, and nothing waits for it."""
    if settings.database is None:
        yield None
        return
    async with Database.opened(settings.database) as database:
        yield database


def engine_of(settings: GreeksSettings) -> Engine:
    """The engine that the settings name, loaded."""
    if settings.greeks_engine == "vollib":
        for model in get_args(Model):
            vollib_engine.load(model)
        return vollib_engine.compute_quotes
    return pricing.compute_quotes


def policy_of(settings: GreeksSettings) -> Policy:
    """What pure code needs of the settings.

    Raises:
        SettingsError: The file of conventions cannot be used.
    """
    convention = Convention(
        model=PricingModel(settings.greeks_model),
        rate=settings.greeks_rate,
        dividend_yield=settings.greeks_dividend_yield,
        clock=YearClock(settings.greeks_clock),
        future_max_age_seconds=settings.future_max_age_seconds,
        quote_max_age_seconds=settings.quote_max_age_seconds,
        spot_max_age_seconds=settings.spot_max_age_seconds,
        smile_max_age_seconds=settings.smile_max_age_seconds,
    )
    return Policy(
        convention=convention,
        conventions=read_conventions(settings.greeks_conventions_file, convention),
        chain_strikes=settings.chain_strikes,
        reprice_interval_seconds=settings.reprice_interval_seconds,
        bar_grace_seconds=settings.bar_grace_seconds,
        bar_late_seconds=settings.bar_late_seconds,
    )


class WorkerSet:
    """The workers of the shards that this process holds.

    Args:
        bus: The connection.
        settings: Settings of the process.
        life: Owns the workers' tasks.
        policy: Conventions.
        engine: What solves volatilities.

    Attributes:
        instruments: Mirror of the bucket of instrument sets.
        index: Finds any instrument of the fleet by its token.
        explanations: What is asked about the options of the held shards, and of all others.
    """

    def __init__(
        self,
        bus: Bus,
        settings: GreeksSettings,
        life: Lifecycle,
        policy: Policy,
        engine: Engine,
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._life = life
        self._policy = policy
        self._engine = engine
        self._reprice_budget = SharedBudget(settings.reprice_ticks_per_second)
        self._last_value_budget = SharedBudget(settings.last_values_per_second)
        self._turns = Turns()
        self._status = Bucket(bus, streams.STATUS.name)
        self._workers: dict[int, ShardWorker] = {}
        # Counts of terms that have ended.
        self._ticks_before = 0
        self._conflated_before = 0
        self.instruments = Mirror(bus, streams.INSTRUMENTS.name, self._set_changed)
        self.index = InstrumentIndex(self.instruments.get)
        self.explanations = Explanations(bus, settings, self.index, self._workers)

    def shards(self) -> list[str]:
        """All shards of the deployment; what the leases are about."""
        return [str(shard) for shard in range(self._settings.shards)]

    def unready(self) -> str | None:
        """Why the held shards are not served, or None; a worker without shards is ready."""
        idle = [shard for shard, worker in self._workers.items() if not worker.is_reading]
        return f"not reading shards {sorted(idle)}" if idle else None

    async def begin(self, lease: Lease) -> None:
        """A shard was leased: learn its instruments, then read its frames."""
        shard = int(lease.resource)
        state = Shard(
            epoch=lease.epoch,
            calendar=CALENDAR,
            policy=self._policy,
            engine=self._engine,
            now_ns=time.time_ns,
        )
        worker = ShardWorker(
            self._bus,
            lease,
            state,
            self._settings,
            self._life,
            reprices=self._reprice_budget,
            last_values=self._last_value_budget,
            turns=self._turns,
        )
        # Known before its instruments are read, so that a change meanwhile reaches it.
        self._workers[shard] = worker
        for key in self.instruments:
            if self._shard_of(key) == shard:
                _give(worker, key, self.instruments.get(key))
                # Large sets take milliseconds; leases are refreshed in between.
                await asyncio.sleep(0)
        worker.start()
        self.explanations.poke()
        self._show_shards()
        log.info("shard.leased", shard=shard, epoch=lease.epoch, instruments=len(state.table))

    async def end(self, lease: Lease) -> None:
        """A shard's lease ended: stop before anybody else starts."""
        worker = self._workers.pop(int(lease.resource), None)
        if worker is None:
            return
        self.explanations.poke()
        await worker.end()
        self._ticks_before += worker.totals.ticks
        self._conflated_before += worker.totals.conflated
        self._show_shards()
        log.info("shard.released", shard=worker.shard, epoch=lease.epoch, cause=lease.end)

    def status(self) -> GreeksStatus:
        """How this process fares."""
        workers = self._workers.values()
        return GreeksStatus(
            worker=self._settings.worker_id,
            shards=tuple(sorted(self._workers)),
            instruments=sum(len(w.state.table) for w in workers),
            ticks_total=self._ticks_before + sum(w.totals.ticks for w in workers),
            conflated_total=self._conflated_before + sum(w.totals.conflated for w in workers),
            lag_messages=sum(w.lag_frames for w in workers),
            at_ns=time.time_ns(),
        )

    async def report(self, stop: asyncio.Event) -> None:
        """Say every two seconds how this process fares."""
        key = f"greeks-{subjects.escape(self._settings.worker_id)}"
        while not await sleep_unless(stop, STATUS_INTERVAL_SECONDS):
            status = self.status()
            metrics.LAG_FRAMES.set(status.lag_messages)
            metrics.REPRICE_DUE.set(self._reprice_budget.waiting)
            metrics.LAST_VALUES_DUE.set(self._last_value_budget.waiting)
            self._show_shards()
            try:
                await self._status.put(key, codec.to_json(status))
            except (RetryableError, BusClosedError) as error:
                log.warning("status.unsent", reason=str(error))

    def _show_shards(self) -> None:
        metrics.SHARDS_OWNED.set(len(self._workers))
        metrics.INSTRUMENTS_KNOWN.set(sum(len(w.state.table) for w in self._workers.values()))

    def _shard_of(self, key: str) -> int:
        return subjects.shard_of(subjects.unescape(key), self._settings.shards)

    def _set_changed(self, key: str, value: bytes | None) -> None:
        self.index.note(key)
        worker = self._workers.get(self._shard_of(key))
        if worker is not None:
            _give(worker, key, value)


def _give(worker: ShardWorker, key: str, value: bytes | None) -> None:
    """Hand a worker one instrument set; an unreadable one is counted, the one before stays."""
    if value is None:
        worker.state.forget_instruments(subjects.unescape(key))
        return
    try:
        update = codec.from_msgpack(InstrumentSet, value)
    except codec.DecodeError as error:
        metrics.BAD_SETS_TOTAL.inc()
        log.error("instruments.unreadable", underlying=key, reason=error.reason)
        return
    worker.use_instruments(update)
