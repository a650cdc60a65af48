"""Where instruments live: PostgreSQL for people and REST, a bucket for the data plane."""

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import date

import msgspec

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.kv import Bucket, Mirror
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import InstrumentSet, Source
from libs.common.database import Database
from libs.common.domain.instruments import Instrument

_COLUMNS = (
    "revision",
    "instrument_token",
    "exchange_token",
    "tradingsymbol",
    "name",
    "exchange",
    "segment",
    "underlying",
    "kind",
    "strike",
    "expiry",
    "option_type",
    "lot_size",
    "tick_size",
)
# The current revision and the one before: yesterday stays queryable.
_KEPT_REVISIONS = 2

log = logs.get_logger(__name__)


class CurrentDump(msgspec.Struct, frozen=True, kw_only=True):
    """Which dump is in force."""

    revision: int
    market_date: date
    row_count: int
    source: Source


async def current_dump(database: Database) -> CurrentDump | None:
    """The dump in force, or None before the first.

    Raises:
        DatabaseUnavailableError: If PostgreSQL is away.
    """
    async with database.acquire() as connection:
        row = await connection.fetchrow(
            "SELECT revision, market_date, row_count, source FROM instrument_dumps WHERE is_current"
        )
    if row is None:
        return None
    return CurrentDump(
        revision=row["revision"],
        market_date=row["market_date"],
        row_count=row["row_count"],
        source=Source(row["source"]),
    )


async def store(
    database: Database,
    instruments: Sequence[Instrument],
    *,
    market_date: date,
    source: Source,
    skipped: int,
) -> CurrentDump:
    """Load a dump beside the current one and swap, in one transaction.

    Readers see the old dump until the commit and the new one after it, never a part.

    Raises:
        DatabaseUnavailableError: If PostgreSQL is away; the old dump stays in force.
    """
    async with database.acquire() as connection, connection.transaction():
        revision: int = await connection.fetchval(
            "INSERT INTO instrument_dumps (market_date, source, row_count, skipped_count)"
            " VALUES ($1, $2, $3, $4) RETURNING revision",
            market_date,
            source.value,
            len(instruments),
            skipped,
        )
        await connection.copy_records_to_table(
            "instrument_rows", records=_records(revision, instruments), columns=_COLUMNS
        )
        await connection.execute("UPDATE instrument_dumps SET is_current = false WHERE is_current")
        await connection.execute(
            "UPDATE instrument_dumps SET is_current = true WHERE revision = $1", revision
        )
        await connection.execute(
            "DELETE FROM instrument_dumps WHERE revision NOT IN"
            " (SELECT revision FROM instrument_dumps ORDER BY revision DESC LIMIT $1)",
            _KEPT_REVISIONS,
        )
    return CurrentDump(
        revision=revision, market_date=market_date, row_count=len(instruments), source=source
    )


def _records(revision: int, instruments: Iterable[Instrument]) -> Iterable[tuple[object, ...]]:
    for item in instruments:
        yield (
            revision,
            item.instrument_token,
            item.exchange_token,
            item.tradingsymbol,
            item.name,
            item.exchange,
            item.segment,
            item.underlying,
            item.kind.value,
            item.strike,
            item.expiry,
            item.option_type.value if item.option_type else None,
            item.lot_size,
            item.tick_size,
        )


async def fetch_all(database: Database) -> list[Instrument]:
    """Read all current instruments, by token.

    Raises:
        DatabaseUnavailableError: If PostgreSQL is away.
    """
    async with database.acquire() as connection:
        rows = await connection.fetch("SELECT * FROM instruments ORDER BY instrument_token")
    return await asyncio.to_thread(lambda: [msgspec.convert(dict(row), Instrument) for row in rows])


async def publish(
    bus: Bus, instruments: Sequence[Instrument], *, revision: int, market_date: date
) -> int:
    """Write one InstrumentSet per underlying that differs from what is there; gives how many.

    Underlyings that left the dump are removed, so that nobody prices what no longer trades.
    """
    grouped: dict[str, list[Instrument]] = defaultdict(list)
    for item in instruments:
        grouped[item.underlying].append(item)
    bucket = Bucket(bus, streams.INSTRUMENTS.name)
    held = await _snapshot(bus, streams.INSTRUMENTS.name)
    written = 0
    for underlying, members in grouped.items():
        key = subjects.escape(underlying)
        members.sort(key=lambda item: item.instrument_token)
        value = codec.to_msgpack(
            InstrumentSet(
                underlying=underlying,
                revision=revision,
                market_date=market_date,
                instruments=tuple(members),
            )
        )
        # A leader that takes over finds everything in place: writing it again would make every
        # worker read it again.
        if held.pop(key, None) != value:
            await bucket.put(key, value)
            written += 1
    for key in held:
        await bucket.delete(key)
    log.info("instruments.published", underlyings=written, removed=len(held), revision=revision)
    return written


async def _snapshot(bus: Bus, bucket: str) -> dict[str, bytes]:
    """Read a whole bucket once."""
    mirror = Mirror(bus, bucket)
    stop = asyncio.Event()
    reading = asyncio.create_task(mirror.run(stop), name="bucket-snapshot")
    try:
        await mirror.ready()
        return mirror.items()
    finally:
        stop.set()
        await asyncio.gather(reading, return_exceptions=True)
