"""Where instruments live: PostgreSQL for people and REST, a bucket for the data plane."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Coroutine, Iterable, Mapping, Sequence
from datetime import date, datetime, time
from itertools import islice

import msgspec

from libs.common import logs
from libs.common.bus import api
from libs.common.bus.connection import Bus
from libs.common.bus.errors import RefusedError
from libs.common.bus.kv import Bucket, snapshot
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import InstrumentSet, Source
from libs.common.database import Database
from libs.common.domain.clock import IST
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
    "reused_from",
)
# The current revision and the one before, and of each market the last revision of its newest two
# days: yesterday stays queryable however often today's dump is loaded.
_KEPT_REVISIONS = 2
_KEPT_DAYS = 2
_FORGET = """
DELETE FROM instrument_dumps WHERE revision NOT IN (
    SELECT revision FROM (SELECT revision FROM instrument_dumps ORDER BY revision DESC LIMIT $1) a
    UNION
    SELECT revision FROM (
        SELECT max(revision) AS revision,
               row_number() OVER (PARTITION BY source ORDER BY market_date DESC) AS place
        FROM instrument_dumps GROUP BY source, market_date
    ) b WHERE place <= $2
)
"""
# Rows between two looks of the event loop at other things: some 5 ms.
_ROWS_AT_ONCE = 2_000
# Sets on their way to the bucket at once: far below what the connection may hold.
_WRITES_AT_ONCE = 32

log = logs.get_logger(__name__)


class CurrentDump(msgspec.Struct, frozen=True, kw_only=True):
    """Which dump is in force."""

    revision: int
    market_date: date
    row_count: int
    source: Source


class ExchangeEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Where the rows of one exchange in a revision come from.

    Attributes:
        exchange: Such as "NFO".
        market_date: The market's day on which they were downloaded; None if they never were.
        fetched_at: The market's time of the download; None likewise.
        row_count: How many.
        outcome: What the last attempt to renew them came to.
        reason: Why they could not be renewed; empty if they could.
    """

    exchange: str
    market_date: date | None
    fetched_at: datetime | None
    row_count: int
    outcome: str = "loaded"
    reason: str = ""


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


async def exchange_entries(database: Database, revision: int) -> list[ExchangeEntry]:
    """Where the rows of a revision come from, by exchange.

    Raises:
        DatabaseUnavailableError: If PostgreSQL is away.
    """
    async with database.acquire() as connection:
        rows = await connection.fetch(
            "SELECT exchange, market_date, fetched_at, row_count, outcome, reason"
            " FROM instrument_dump_exchanges WHERE revision = $1 ORDER BY exchange",
            revision,
        )
    return [msgspec.convert(dict(row), ExchangeEntry) for row in rows]


async def store(
    database: Database,
    instruments: Sequence[Instrument],
    *,
    market_date: date,
    source: Source,
    skipped: int,
    exchanges: Sequence[ExchangeEntry] | None = None,
    reused_from: Mapping[int, str] | None = None,
) -> CurrentDump:
    """Load a dump beside the current one and swap, in one transaction.

    Readers see the old dump until the commit and the new one after it, never a part.

    Args:
        database: PostgreSQL.
        instruments: All rows, each token once.
        market_date: The day they are in force for.
        source: Whose market they are of.
        skipped: Rows that could not be read.
        exchanges: Where they come from; None if all were downloaded on that day.
        reused_from: Token → `EXCHANGE:tradingsymbol` that it meant on the day before.

    Raises:
        DatabaseUnavailableError: If PostgreSQL is away; the old dump stays in force.
    """
    if exchanges is None:
        exchanges = _all_of_one_day(instruments, market_date)
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
            "instrument_rows",
            records=_records(revision, instruments, reused_from or {}),
            columns=_COLUMNS,
        )
        await connection.executemany(
            "INSERT INTO instrument_dump_exchanges VALUES ($1, $2, $3, $4, $5, $6, $7)",
            [(revision, *msgspec.structs.astuple(entry)) for entry in exchanges],
        )
        # No statistics know the new revision yet; searches would be planned for a single row.
        await connection.execute("ANALYZE instrument_rows")
        await connection.execute("UPDATE instrument_dumps SET is_current = false WHERE is_current")
        await connection.execute(
            "UPDATE instrument_dumps SET is_current = true WHERE revision = $1", revision
        )
        await connection.execute(_FORGET, _KEPT_REVISIONS, _KEPT_DAYS)
    return CurrentDump(
        revision=revision, market_date=market_date, row_count=len(instruments), source=source
    )


async def note_exchanges(
    database: Database, revision: int, exchanges: Iterable[ExchangeEntry]
) -> None:
    """Write down how the exchanges of a stored revision fare, without a new one.

    Raises:
        DatabaseUnavailableError: If PostgreSQL is away.
    """
    async with database.acquire() as connection:
        await connection.executemany(
            "INSERT INTO instrument_dump_exchanges VALUES ($1, $2, $3, $4, $5, $6, $7)"
            " ON CONFLICT (revision, exchange) DO UPDATE SET"
            " (market_date, fetched_at, row_count, outcome, reason) = ($3, $4, $5, $6, $7)",
            [(revision, *msgspec.structs.astuple(entry)) for entry in exchanges],
        )


def _all_of_one_day(instruments: Iterable[Instrument], day: date) -> list[ExchangeEntry]:
    midnight = datetime.combine(day, time(), tzinfo=IST)
    return [
        ExchangeEntry(exchange=name, market_date=day, fetched_at=midnight, row_count=count)
        for name, count in sorted(Counter(item.exchange for item in instruments).items())
    ]


async def _records(
    revision: int, instruments: Iterable[Instrument], reused_from: Mapping[int, str]
) -> AsyncIterator[tuple[object, ...]]:
    for number, item in enumerate(instruments):
        if number % _ROWS_AT_ONCE == 0:
            # The copy itself awaits nothing while the socket takes what it is given.
            await asyncio.sleep(0)
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
            reused_from.get(item.instrument_token),
        )


async def fetch_all(database: Database) -> list[Instrument]:
    """Read all current instruments, by token.

    Raises:
        DatabaseUnavailableError: If PostgreSQL is away.
    """
    instruments, _ = await fetch_registry(database)
    return instruments


async def fetch_registry(database: Database) -> tuple[list[Instrument], dict[int, str]]:
    """Read all current instruments, by token, and what reused tokens meant before.

    Raises:
        DatabaseUnavailableError: If PostgreSQL is away.
    """
    instruments: list[Instrument] = []
    reused_from: dict[int, str] = {}
    async with database.acquire() as connection, connection.transaction(readonly=True):
        cursor = await connection.cursor("SELECT * FROM instruments ORDER BY instrument_token")
        while rows := await cursor.fetch(_ROWS_AT_ONCE):
            # In pieces: 100 000 rows at once keep the event loop for a tenth of a second.
            for row in rows:
                values = dict(row)
                before = values.pop("reused_from")
                if before is not None:
                    reused_from[values["instrument_token"]] = before
                instruments.append(msgspec.convert(values, Instrument))
            await asyncio.sleep(0)
    return instruments, reused_from


async def publish(
    bus: Bus, instruments: Iterable[Instrument], *, revision: int, market_date: date
) -> int:
    """Write one InstrumentSet per underlying that differs from what is there; gives how many.

    Underlyings that left the dump are removed, so that nobody prices what no longer trades. A set
    whose instruments are the same on the same day keeps the revision it came with: a dump that
    is loaded again during the session disturbs only those whose contracts changed.
    """
    grouped = await asyncio.to_thread(_by_underlying, instruments)
    bucket = Bucket(bus, streams.INSTRUMENTS.name)
    held = await snapshot(bus, streams.INSTRUMENTS.name) or {}
    changed: dict[str, tuple[Instrument, ...]] = {}
    for underlying, members in grouped.items():
        # A set of an index has thousands of members: milliseconds, and then the others' turn.
        await asyncio.sleep(0)
        if not _is_same(held.pop(subjects.escape(underlying), None), members, market_date):
            changed[underlying] = members
    writes = (
        bucket.put(
            subjects.escape(underlying),
            codec.to_msgpack(
                InstrumentSet(
                    underlying=underlying,
                    revision=revision,
                    market_date=market_date,
                    instruments=members,
                )
            ),
        )
        for underlying, members in changed.items()
    )
    await _some_at_a_time(writes)
    await _some_at_a_time(bucket.delete(key) for key in held)
    log.info(
        "instruments.published", underlyings=len(changed), removed=len(held), revision=revision
    )
    return len(changed)


async def forget_last_values(bus: Bus, instruments: Iterable[Instrument]) -> None:
    """Remove what MD_LAST holds of contracts whose token means another one now.

    Else a client that subscribes the token would be given the dead contract's last tick.

    Raises:
        BusUnavailableError: NATS is away; what was removed stays removed.
    """
    await _some_at_a_time(_forget_last_value(bus, item) for item in instruments)


async def _forget_last_value(bus: Bus, item: Instrument) -> None:
    subject = subjects.last(item.underlying, item.instrument_token)
    try:
        await api.call(bus, f"STREAM.PURGE.{streams.MD_LAST.name}", {"filter": subject})
    except RefusedError as error:
        log.warning("last_value.kept", subject=subject, reason=error.reason)


async def _some_at_a_time(writes: Iterable[Coroutine[None, None, object]]) -> None:
    """Do writes side by side, a few at a time: every share is a set, and each write waits.

    Raises:
        BusUnavailableError: When one could not be done, after those begun with it have ended.
    """
    pending = iter(writes)
    while batch := list(islice(pending, _WRITES_AT_ONCE)):
        for outcome in await asyncio.gather(*batch, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome


def _by_underlying(instruments: Iterable[Instrument]) -> dict[str, tuple[Instrument, ...]]:
    grouped: dict[str, list[Instrument]] = defaultdict(list)
    for item in instruments:
        grouped[item.underlying].append(item)
    return {
        underlying: tuple(sorted(members, key=lambda item: item.instrument_token))
        for underlying, members in grouped.items()
    }


def _is_same(value: bytes | None, members: tuple[Instrument, ...], market_date: date) -> bool:
    """Whether a set that lies in the bucket says the same; what cannot be read does not."""
    if value is None:
        return False
    try:
        held = codec.from_msgpack(InstrumentSet, value)
    except codec.DecodeError:
        return False
    return held.market_date == market_date and held.instruments == members
