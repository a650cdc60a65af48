"""Keeps candles of days that are over in PostgreSQL; without it, everything is fetched anew."""

import asyncio
import time
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NamedTuple

import asyncpg

from libs.common import logs
from libs.common.contracts.messages import CandleInterval, Source
from libs.common.database import Database, DatabaseUnavailableError
from libs.common.domain.instruments import Instrument
from libs.common.lifecycle import sleep_unless
from services.greeks import metrics
from services.greeks.domain.candle_columns import (
    Columns,
    StoredDayError,
    day_number,
    day_of,
    pack,
    unpack,
)

# A request has better things to do than to wait for a cache.
_PATIENCE_SECONDS = 3.0
_PAUSE_SECONDS = 5.0
_SWEEP_INTERVAL_SECONDS = 3_600.0
_SWEEP_ROWS = 1_000

_READ = """
SELECT day, candles FROM candle_days
WHERE source = $1 AND exchange = $2 AND tradingsymbol = $3 AND candle_interval = $4
  AND day BETWEEN $5 AND $6
"""
_WRITE = """
INSERT INTO candle_days (source, exchange, tradingsymbol, candle_interval, day, candles)
SELECT $1, $2, $3, $4, d.day, d.candles FROM unnest($5::date[], $6::bytea[]) AS d (day, candles)
ON CONFLICT (source, exchange, tradingsymbol, candle_interval, day)
DO UPDATE SET candles = excluded.candles, fetched_at = now()
"""
# Workers sweep side by side: none waits for another's rows.
_SWEEP = """
DELETE FROM candle_days WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM candle_days WHERE fetched_at < now() - $1::interval
    ORDER BY fetched_at LIMIT $2 FOR UPDATE SKIP LOCKED))
"""

log = logs.get_logger(__name__)


class Series(NamedTuple):
    """What a row belongs to, besides its day.

    Attributes:
        source: Live and simulated candles never mix.
        instrument: Known by exchange and symbol; its token may be another contract's tomorrow.
        interval: Length of a candle.
    """

    source: Source
    instrument: Instrument
    interval: CandleInterval

    @property
    def key(self) -> tuple[str, str, str, str]:
        """The columns it is stored under."""
        return (
            self.source.value,
            self.instrument.exchange,
            self.instrument.tradingsymbol,
            self.interval.value,
        )


class CandleStore:
    """The table `candle_days`. Nothing here raises: what cannot be read is not there.

    After a failure it is left alone for a few seconds, so that a database that is away costs each
    request nothing.

    Args:
        database: None for no cache at all.
        kept_days: Rows that were fetched longer ago are deleted.
    """

    def __init__(self, database: Database | None, *, kept_days: float) -> None:
        self._database = database
        self._kept = timedelta(days=kept_days)
        self._paused_until = 0.0

    async def read(self, series: Series, days: Collection[int]) -> dict[int, Columns]:
        """The days that are kept, by number; one without candles is there without candles.

        Args:
            series: Of what.
            days: Which, by number.
        """
        database = self._database
        if database is None or not days or self._is_paused:
            return {}
        wanted = set(days)
        rows: list[asyncpg.Record] = []
        with self._tolerated("read"):
            async with asyncio.timeout(_PATIENCE_SECONDS), database.acquire() as connection:
                rows = await connection.fetch(
                    _READ, *series.key, day_of(min(wanted)), day_of(max(wanted))
                )
        packed = {day_number(row["day"]): row["candles"] for row in rows}
        found = await asyncio.to_thread(
            _unpacked, {day: value for day, value in packed.items() if day in wanted}
        )
        metrics.CANDLE_DAYS_TOTAL.labels(outcome="hit").inc(len(found))
        metrics.CANDLE_DAYS_TOTAL.labels(outcome="miss").inc(len(wanted) - len(found))
        return found

    async def write(self, series: Series, days: Iterable[tuple[int, Columns]]) -> None:
        """Keep whole days that are over, with or without candles."""
        database = self._database
        if database is None or self._is_paused:
            return
        kept = list(days)
        if not kept:
            return
        packed = await asyncio.to_thread(lambda: [pack(columns) for _, columns in kept])
        with self._tolerated("write"):
            async with asyncio.timeout(_PATIENCE_SECONDS), database.acquire() as connection:
                await connection.execute(
                    _WRITE, *series.key, [day_of(day) for day, _ in kept], packed
                )
                metrics.CANDLE_DAYS_TOTAL.labels(outcome="stored").inc(len(kept))

    async def sweep(self, stop: asyncio.Event) -> None:
        """Delete what was fetched too long ago, once an hour until `stop` is set."""
        while not await sleep_unless(stop, _SWEEP_INTERVAL_SECONDS):
            await self.sweep_once(stop)

    async def sweep_once(self, stop: asyncio.Event) -> None:
        """Delete what was fetched too long ago, a thousand rows at a time."""
        database = self._database
        deleted = _SWEEP_ROWS
        while database is not None and deleted == _SWEEP_ROWS and not stop.is_set():
            deleted = 0
            with self._tolerated("sweep"):
                async with database.acquire() as connection:
                    status = await connection.execute(_SWEEP, self._kept, _SWEEP_ROWS)
                deleted = int(status.rpartition(" ")[2])
                metrics.CANDLE_DAYS_TOTAL.labels(outcome="deleted").inc(deleted)

    @property
    def _is_paused(self) -> bool:
        return time.monotonic() < self._paused_until

    @contextmanager
    def _tolerated(self, step: str) -> Iterator[None]:
        """Count and log what goes wrong in the block, and leave the database alone for a while."""
        try:
            yield
        except DatabaseUnavailableError as error:
            reason = error.reason
        except TimeoutError:
            reason = f"no answer within {_PATIENCE_SECONDS:g} s"
        except asyncpg.PostgresError as error:
            # Such as a table that control has not made yet, or a full disk.
            reason = f"{type(error).__name__}: {error}"
        else:
            return
        self._paused_until = time.monotonic() + _PAUSE_SECONDS
        metrics.CANDLE_STORE_FAILURES_TOTAL.labels(step=step).inc()
        log.warning("candles.store_failed", step=step, reason=reason)


def _unpacked(packed: dict[int, bytes]) -> dict[int, Columns]:
    found = {}
    for day, value in packed.items():
        try:
            found[day] = unpack(value)
        except StoredDayError as error:
            # Fetched again, and then written over.
            log.warning("candles.stored_day_unreadable", day=str(day_of(day)), reason=str(error))
            metrics.CANDLE_STORE_FAILURES_TOTAL.labels(step="decode").inc()
    return found
