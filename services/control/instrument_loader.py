"""Keeps the registry of instruments current: due, download, parse, judge, merge, store, publish."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime

import msgspec

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.contracts.messages import Source
from libs.common.database import Database, DatabaseUnavailableError
from libs.common.domain.clock import IST
from libs.common.domain.instruments import Dump, DumpEmptyError, DumpError, Instrument, parse_dump
from libs.common.errors import RejectedError, RetryableError
from libs.common.kite.errors import KiteInputError, KiteTokenError, KiteTruncatedError
from libs.common.kite.rest import KiteRest
from services.control import metrics, registry
from services.control.domain import dumps
from services.control.domain.dump_schedule import DumpSchedule
from services.control.domain.dumps import ALL_EXCHANGES, Failure, Outcome, Registry, Renewal
from services.control.errors import DumpUnusableError
from services.control.settings import ControlSettings

# Kite allows ten of these calls a second and key; two are left for others.
_DOWNLOAD_SPACING_SECONDS = 0.125
# What is wrong with single rows is told by example; the counters have the sum.
_EXAMPLES = 5

log = logs.get_logger(__name__)


class InstrumentLoader:
    """Has the market day's instruments in memory, in PostgreSQL and on the bus.

    Each exchange fails alone: it keeps the rows it had, which stay marked with their day, and is
    tried again with growing pauses while the others are renewed.

    Args:
        bus: The connection.
        database: PostgreSQL.
        settings: Which exchanges, and how often.
        token_died: Told whose session Kite refused.
        monotonic_seconds: Real time.

    Attributes:
        source: Whose market `instruments` belong to; None before the first refresh.
        dump: The revision in force; None before the first.
        instruments: Its rows by token.
    """

    def __init__(
        self,
        bus: Bus,
        database: Database,
        settings: ControlSettings,
        *,
        token_died: Callable[[KiteRest], None] = lambda _: None,
        monotonic_seconds: Callable[[], float] = time.monotonic,
    ) -> None:
        self._bus = bus
        self._database = database
        self._settings = settings
        self._token_died = token_died
        self._monotonic_seconds = monotonic_seconds
        self._schedule = self._new_schedule()
        self._registry: Registry | None = None
        self.source: Source | None = None
        self._failures: dict[str, Failure] = {}
        self._is_published = True
        # Contracts that lost their token, and whose last values still lie in the stream.
        self._dead: list[Instrument] = []
        self.dump: registry.CurrentDump | None = None
        self.instruments: Mapping[int, Instrument] = {}

    def _new_schedule(self) -> DumpSchedule:
        return DumpSchedule(
            self._settings.instrument_exchanges,
            refresh_hours=self._settings.instrument_refresh_hours,
        )

    @property
    def _wanted(self) -> tuple[str, ...] | None:
        names = self._settings.instrument_exchanges
        return None if names == (ALL_EXCHANGES,) else names

    async def refresh(
        self, *, now: datetime, source: Source, origin: Callable[[], KiteRest]
    ) -> bool:
        """Do what is due, nearly always nothing; says whether `instruments` changed.

        Args:
            now: The market's time.
            source: Whose market it is; instruments of another one are not mixed with it.
            origin: Gives the place to download from, called only if something is due.

        Raises:
            DatabaseUnavailableError: PostgreSQL is away; what is in force stays.
            BusUnavailableError: NATS is away; the next call publishes.
            DumpUnusableError: Nothing was in force and nothing could be loaded.
            RetryableError: What `origin` raises.
        """
        is_changed = False
        if self.source is not source:
            is_changed = await self._adopt(source, now)
        due = self._schedule.due(now, self._monotonic_seconds())
        if due:
            try:
                is_changed |= await self._renew(due, now, origin())
            finally:
                self._show_ages(now)
        await self._publish()
        if due and self.dump is None:
            reasons = "; ".join(f"{name}: {f.reason}" for name, f in self._failures.items())
            raise DumpUnusableError(reason=reasons)
        return is_changed

    # -- what an earlier leader left -----------------------------------------------------------

    async def _adopt(self, source: Source, now: datetime) -> bool:
        """Take over what is stored, of whatever day; says whether there was anything."""
        held = await registry.current_dump(self._database)
        found, entries = None, []
        # Another market's rows are no yesterday of this one.
        if held is not None and held.source is source:
            instruments, reused_from = await registry.fetch_registry(self._database)
            entries = await registry.exchange_entries(self._database, held.revision)
            found = await asyncio.to_thread(_registry_of, held, entries, instruments, reused_from)
        self._schedule = self._new_schedule()
        self.source, self._failures = source, {}
        self.dump, self._registry, self.instruments = None, None, {}
        if held is None or found is None:
            return False
        for name, fetched in found.exchanges.items():
            self._schedule.adopt(name, fetched.fetched_at)
        if found.exchanges:
            oldest = min(fetched.fetched_at for fetched in found.exchanges.values())
            self._schedule.adopt(ALL_EXCHANGES, oldest)
        self._take(held, found)
        if self._wanted is not None and not set(found.exchanges) <= set(self._wanted):
            # An exchange that is no longer configured leaves at once, not with the next download.
            await self._put_into_force({}, {}, now, skipped=0)
        return True

    # -- a round of downloads --------------------------------------------------------------------

    async def _renew(self, due: Sequence[str], now: datetime, origin: KiteRest) -> bool:
        async with asyncio.TaskGroup() as group:
            tasks = {
                name: group.create_task(
                    self._fetch(name, origin, delay_seconds=place * _DOWNLOAD_SPACING_SECONDS),
                    name=f"dump-{name}",
                )
                for place, name in enumerate(due)
            }
        fresh: dict[str, list[Instrument]] = {}
        failures: dict[str, Failure] = {}
        skipped = 0
        held = self._registry.exchanges if self._registry is not None else {}
        for name, task in tasks.items():
            came = task.result()
            if isinstance(came, Failure):
                names = [name] if name != ALL_EXCHANGES else sorted(held) or [name]
                failures |= dict.fromkeys(names, came)
                continue
            self._note_rows(name, came)
            skipped += len(came.skipped)
            good, bad = dumps.exchanges_of(
                name, came, held, max_shrinkage=self._settings.instrument_max_shrinkage
            )
            fresh |= good
            failures |= bad
        # What waits for its next attempt has still failed; one download of all is the last word.
        waiting = {} if ALL_EXCHANGES in due else self._failures
        standing = {n: f for n, f in waiting.items() if n not in fresh} | failures
        is_changed, unsaved = await self._put_into_force(fresh, standing, now, skipped=skipped)
        self._failures = standing | unsaved
        for name in due:
            self._reschedule(name, fresh, failures | unsaved, now)
        return is_changed

    async def _fetch(self, name: str, origin: KiteRest, *, delay_seconds: float) -> Dump | Failure:
        """Download and parse one file; what goes wrong is a value, so that others go on."""
        await asyncio.sleep(delay_seconds)
        try:
            raw = await origin.instruments_csv(None if name == ALL_EXCHANGES else name)
            return await asyncio.to_thread(parse_dump, raw)
        except (RetryableError, RejectedError) as error:
            if isinstance(error, KiteTokenError):
                self._token_died(origin)
            return Failure(outcome=_outcome_of(error), reason=str(error))

    async def _put_into_force(
        self,
        fresh: Mapping[str, Sequence[Instrument]],
        failures: Mapping[str, Failure],
        now: datetime,
        *,
        skipped: int,
    ) -> tuple[bool, dict[str, Failure]]:
        """Merge and store; gives whether instruments changed, and what could not be saved."""
        renewal = await asyncio.to_thread(
            dumps.renew, self._registry, fresh, failed=failures, wanted=self._wanted, now=now
        )
        try:
            if renewal is None:
                await self._note(self._registry, failures)
            elif renewal.is_changed or self.dump is None:
                await self._store(renewal, skipped=skipped, failures=failures)
                return True, {}
            else:
                self._registry = renewal.registry
                await self._note(self._registry, failures)
        except DatabaseUnavailableError as error:
            log.warning("instruments.unsaved", reason=error.reason)
            if renewal is not None and renewal.is_changed:
                unsaved = Failure(outcome=Outcome.UNSAVED, reason=error.reason)
                return False, dict.fromkeys(fresh, unsaved)
        return False, {}

    async def _store(
        self, renewal: Renewal, *, skipped: int, failures: Mapping[str, Failure]
    ) -> None:
        found = renewal.registry
        stored = await registry.store(
            self._database,
            list(found.instruments.values()),
            market_date=found.market_date,
            source=self.source or Source.LIVE,
            skipped=skipped,
            exchanges=_entries_of(found, failures),
            reused_from=found.reused_from,
        )
        self._take(stored, found)
        self._dead += [reuse.before for reuse in renewal.reused]
        _note_renewal(renewal, stored.revision)

    async def _note(self, found: Registry | None, failures: Mapping[str, Failure]) -> None:
        """Write down for people how the exchanges fare; the rows in force are not touched."""
        if self.dump is not None and found is not None:
            entries = _entries_of(found, failures)
            await registry.note_exchanges(self._database, self.dump.revision, entries)

    def _take(self, dump: registry.CurrentDump, found: Registry) -> None:
        self.dump, self._registry = dump, found
        self.instruments = found.instruments
        self._is_published = False
        metrics.INSTRUMENTS.set(len(found.instruments))

    async def _publish(self) -> None:
        if self._is_published or self.dump is None:
            return
        await registry.publish(
            self._bus,
            self.instruments.values(),
            revision=self.dump.revision,
            market_date=self.dump.market_date,
        )
        # Afterwards: until then a greeks worker might write one of them once more.
        await registry.forget_last_values(self._bus, self._dead)
        self._dead.clear()
        self._is_published = True
        log.info(
            "instruments.loaded",
            count=len(self.instruments),
            revision=self.dump.revision,
            market_date=self.dump.market_date.isoformat(),
        )

    # -- what is told ----------------------------------------------------------------------------

    def _reschedule(
        self,
        name: str,
        fresh: Mapping[str, object],
        failures: Mapping[str, Failure],
        now: datetime,
    ) -> None:
        is_all = name == ALL_EXCHANGES
        concerned = [n for n in sorted(failures) if is_all or n == name]
        for exchange in fresh:
            if (is_all or exchange == name) and exchange not in failures:
                metrics.DUMPS_TOTAL.labels(exchange=exchange, outcome=Outcome.LOADED.value).inc()
        if not concerned:
            self._schedule.succeeded(name, now)
            return
        pause_seconds = self._schedule.failed(name, now, self._monotonic_seconds())
        held = self._registry.exchanges if self._registry is not None else {}
        for exchange in concerned:
            failure = failures[exchange]
            metrics.DUMPS_TOTAL.labels(exchange=exchange, outcome=failure.outcome.value).inc()
            kept = held.get(exchange)
            log.warning(
                "dump.not_taken",
                exchange=exchange,
                outcome=failure.outcome.value,
                reason=failure.reason,
                kept_rows=len(kept.instruments) if kept is not None else 0,
                kept_date=kept.market_date.isoformat() if kept is not None else None,
                retry_in_seconds=round(pause_seconds, 1),
            )

    def _note_rows(self, name: str, dump: Dump) -> None:
        metrics.DUMP_ROWS_SKIPPED.labels(exchange=name).set(len(dump.skipped))
        for row in dump.skipped[:_EXAMPLES]:
            log.warning(
                "dump.row_skipped", dump=name, line=row.line, field=row.field, reason=row.reason
            )
        if dump.duplicates:
            metrics.DUPLICATE_TOKENS_TOTAL.labels(exchange=name).inc(len(dump.duplicates))
        for pair in dump.duplicates[:_EXAMPLES]:
            log.warning("dump.duplicate_token", dump=name, **msgspec.structs.asdict(pair))

    def _show_ages(self, now: datetime) -> None:
        if self._registry is None:
            return
        metrics.DUMP_AGE_DAYS.clear()
        for name, dump in self._registry.exchanges.items():
            days = (now.astimezone(IST).date() - dump.market_date).days
            metrics.DUMP_AGE_DAYS.labels(exchange=name).set(max(0, days))


def _outcome_of(error: RetryableError | RejectedError) -> Outcome:
    match error:
        case KiteTokenError() | KiteInputError():
            return Outcome.REFUSED
        case KiteTruncatedError():
            return Outcome.TRUNCATED
        case DumpEmptyError():
            return Outcome.EMPTY
        case DumpError():
            return Outcome.UNREADABLE
    return Outcome.UNAVAILABLE


def _registry_of(
    held: registry.CurrentDump,
    entries: Iterable[registry.ExchangeEntry],
    instruments: Sequence[Instrument],
    reused_from: Mapping[int, str],
) -> Registry:
    """The stored revision as the judgements see it."""
    rows = dumps.rows_by_exchange(instruments)
    return Registry(
        market_date=held.market_date,
        exchanges={
            entry.exchange: dumps.ExchangeDump(
                exchange=entry.exchange,
                market_date=entry.market_date,
                fetched_at=entry.fetched_at,
                instruments=rows.get(entry.exchange, ()),
            )
            for entry in entries
            if entry.market_date is not None and entry.fetched_at is not None
        },
        instruments={item.instrument_token: item for item in instruments},
        reused_from=reused_from,
    )


def _entries_of(found: Registry, failures: Mapping[str, Failure]) -> list[registry.ExchangeEntry]:
    """How every exchange fares, those that never came included."""
    entries = []
    for name in sorted({*found.exchanges, *failures} - {ALL_EXCHANGES}):
        dump, failure = found.exchanges.get(name), failures.get(name)
        entries.append(
            registry.ExchangeEntry(
                exchange=name,
                market_date=dump.market_date if dump is not None else None,
                fetched_at=dump.fetched_at if dump is not None else None,
                row_count=len(dump.instruments) if dump is not None else 0,
                outcome=(failure.outcome if failure is not None else Outcome.LOADED).value,
                reason=failure.reason if failure is not None else "",
            )
        )
    return entries


def _note_renewal(renewal: Renewal, revision: int) -> None:
    if renewal.removed:
        log.info("dump.exchanges_removed", exchanges=renewal.removed, revision=revision)
    for name, count in Counter(pair.dropped.exchange for pair in renewal.conflicts).items():
        metrics.TOKEN_CONFLICTS_TOTAL.labels(exchange=name).inc(count)
    for pair in renewal.conflicts[:_EXAMPLES]:
        log.warning(
            "dump.token_conflict",
            instrument_token=pair.kept.instrument_token,
            kept=pair.kept.key,
            dropped=pair.dropped.key,
        )
    for name, count in Counter(reuse.after.exchange for reuse in renewal.reused).items():
        metrics.REUSED_TOKENS_TOTAL.labels(exchange=name).inc(count)
    if renewal.reused:
        log.info(
            "instruments.tokens_reused",
            count=len(renewal.reused),
            revision=revision,
            examples=[
                f"{r.after.instrument_token}: {r.before.key} -> {r.after.key}"
                for r in renewal.reused[:_EXAMPLES]
            ],
        )
