"""Control's registry on the real PostgreSQL and NATS: migrations, the swap, the bus."""

import asyncio
import contextlib
import importlib
import sys
from datetime import date, timedelta

import msgspec
import pytest
from pydantic import SecretStr

from libs.common.bus.kv import Bucket
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import InstrumentSet, Source
from libs.common.database import Database, DatabaseUnavailableError
from libs.common.domain.instruments import Instrument, Kind
from libs.common.settings import DatabaseSettings
from services.control import registry, schema
from services.fleet.loopback import free_ports
from services.fleet.postgres_server import PostgresServer, usable_identity
from services.fleet.supervisor import running as running_children

pytestmark = pytest.mark.integration

DAY = date(2026, 11, 23)


def instruments(count, *, underlying="NIFTY", first=1):
    return [
        Instrument(
            instrument_token=token,
            exchange_token=token >> 8,
            tradingsymbol=f"{underlying}{token}",
            name=underlying,
            exchange="NSE",
            segment="NSE",
            underlying=underlying,
            kind=Kind.EQUITY,
            lot_size=1,
            tick_size=0.05,
        )
        for token in range(first, first + count)
    ]


@contextlib.asynccontextmanager
async def postgres(directory):
    server = PostgresServer(
        directory=directory,
        port=free_ports(1)[0],
        identity=await usable_identity(),
        durable=False,
    )
    await server.prepare()
    async with running_children(server.child()):
        yield server


@contextlib.asynccontextmanager
async def migrated(directory):
    async with postgres(directory) as server:
        settings = DatabaseSettings(database_url=SecretStr(server.url))
        async with Database.opened(settings) as database:
            assert await schema.migrate(settings, database, asyncio.Event())
            yield database, settings


async def test_two_processes_migrate_at_once_and_again(tmp_path):
    program = "import sys; from services.control.schema import upgrade; upgrade(sys.argv[1])"
    async with postgres(tmp_path / "pg") as server:
        # alembic is not made for two threads of one process; the fleet has two processes.
        processes = [
            await asyncio.create_subprocess_exec(sys.executable, "-c", program, server.url)
            for _ in range(2)
        ]
        assert [await process.wait() for process in processes] == [0, 0]
        settings = DatabaseSettings(database_url=SecretStr(server.url))
        async with Database.opened(settings) as database:
            assert await schema.migrate(settings, database, asyncio.Event())
            assert await registry.current_dump(database) is None


async def test_dump_is_swapped_whole_and_the_one_before_stays(tmp_path):
    async with migrated(tmp_path / "pg") as (database, _):
        for count in (3, 5, 4):
            stored = await registry.store(
                database, instruments(count), market_date=DAY, source=Source.SIM, skipped=0
            )
            assert await registry.current_dump(database) == stored
            assert await registry.fetch_all(database) == instruments(count)
        async with database.acquire() as connection:
            kept = await connection.fetch(
                "SELECT revision, count(*) FROM instrument_rows GROUP BY 1 ORDER BY 1"
            )
        assert [row["count"] for row in kept] == [5, 4]


async def test_exchanges_of_a_revision_are_told_and_noted(tmp_path):
    async with migrated(tmp_path / "pg") as (database, _):
        stored = await registry.store(
            database, instruments(3), market_date=DAY, source=Source.SIM, skipped=0
        )
        (entry,) = await registry.exchange_entries(database, stored.revision)
        assert (entry.exchange, entry.market_date, entry.row_count) == ("NSE", DAY, 3)
        failed = registry.ExchangeEntry(
            exchange="NFO",
            market_date=None,
            fetched_at=None,
            row_count=0,
            outcome="empty",
            reason="it has no rows",
        )
        late = msgspec.structs.replace(entry, outcome="truncated", reason="it ends")
        await registry.note_exchanges(database, stored.revision, [failed, late])
        assert await registry.exchange_entries(database, stored.revision) == [failed, late]


async def test_set_that_says_the_same_on_the_same_day_is_not_written_again(bus):
    await ensure(bus, (), streams.BUCKETS)
    first = instruments(3) + instruments(2, underlying="M&M", first=100)
    await registry.publish(bus, first, revision=1, market_date=DAY)
    changed = [*first, *instruments(1, underlying="M&M", first=200)]
    assert await registry.publish(bus, changed, revision=2, market_date=DAY) == 1
    next_day = DAY + timedelta(days=1)
    assert await registry.publish(bus, changed, revision=3, market_date=next_day) == 2


async def test_migration_does_without_an_extension_that_cannot_be_had(tmp_path):
    migration = importlib.import_module("migrations.versions.0003_instrument_history")
    script = migration.TRIGRAMS.replace("pg_trgm", "no_such_extension")
    async with migrated(tmp_path / "pg") as (database, _), database.acquire() as connection:
        await connection.execute("DROP INDEX instrument_rows_text")
        await connection.execute(script)
        assert await connection.fetchval("SELECT to_regclass('instrument_rows_text')") is None
        await connection.execute(migration.TRIGRAMS)
        assert await connection.fetchval("SELECT to_regclass('instrument_rows_text')")


async def test_rows_of_before_the_migration_get_their_exchanges(tmp_path):
    migration = importlib.import_module("migrations.versions.0003_instrument_history")
    async with migrated(tmp_path / "pg") as (database, _):
        stored = await registry.store(
            database, instruments(3), market_date=DAY, source=Source.SIM, skipped=0
        )
        async with database.acquire() as connection:
            await connection.execute(migration.DOWNGRADE)
            assert await connection.fetchval("SELECT count(*) FROM instruments") == 3
            await connection.execute(migration.UPGRADE)
        (entry,) = await registry.exchange_entries(database, stored.revision)
        assert (entry.exchange, entry.market_date, entry.row_count) == ("NSE", DAY, 3)
        assert await registry.fetch_all(database) == instruments(3)


async def test_failed_load_leaves_the_old_dump_in_force(tmp_path):
    async with migrated(tmp_path / "pg") as (database, _):
        await registry.store(
            database, instruments(3), market_date=DAY, source=Source.SIM, skipped=0
        )
        twice = instruments(2) + instruments(1)
        with pytest.raises(Exception, match="duplicate key"):
            await registry.store(database, twice, market_date=DAY, source=Source.SIM, skipped=0)
        assert len(await registry.fetch_all(database)) == 3


async def test_database_that_is_away_is_a_retryable_error_and_comes_back(tmp_path):
    port = free_ports(1)[0]
    settings = DatabaseSettings(database_url=SecretStr(f"postgresql://x:y@127.0.0.1:{port}/z"))
    async with Database.opened(settings) as database:
        with pytest.raises(DatabaseUnavailableError):
            await registry.current_dump(database)
        assert await database.probe() is not None
        stop = asyncio.Event()
        stop.set()
        assert not await database.until_available(stop)


async def test_instruments_on_the_bus_follow_the_dump(bus):
    await ensure(bus, (), streams.BUCKETS)
    first = instruments(3) + instruments(2, underlying="M&M", first=100)
    assert await registry.publish(bus, first, revision=1, market_date=DAY) == 2
    assert await registry.publish(bus, first, revision=1, market_date=DAY) == 0
    bucket = Bucket(bus, streams.INSTRUMENTS.name)
    entry = await bucket.get(subjects.escape("M&M"))
    assert entry is not None
    held = codec.from_msgpack(InstrumentSet, entry.value)
    assert held.instruments == tuple(instruments(2, underlying="M&M", first=100))
    await registry.publish(bus, instruments(3), revision=2, market_date=DAY)
    assert await bucket.get(subjects.escape("M&M")) is None
