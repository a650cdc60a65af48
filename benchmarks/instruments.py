"""From a dump's bytes to a swapped registry, 100 000 rows, beside the stock parser in the same run.

Run `python -m benchmarks.instruments`. Ratios count, times do not: both parsers run interleaved.
The longest stall is how late the event loop was, at worst, for something that was due meanwhile:
parsing runs in a thread, which shares the interpreter with it.
"""

import asyncio
import contextlib
import itertools
import statistics
import tempfile
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import date, datetime, timedelta
from pathlib import Path

import msgspec
import structlog
from pydantic import SecretStr

from libs.common.bus.connection import Bus
from libs.common.bus.provision import ensure
from libs.common.contracts import streams
from libs.common.contracts.messages import Source
from libs.common.database import Database
from libs.common.domain.clock import IST
from libs.common.domain.instruments import Instrument, Kind, OptionType, parse_dump, to_dump_csv
from libs.common.kite.rest import KiteRest
from libs.common.settings import DatabaseSettings, NatsSettings
from services.control import schema
from services.control.instrument_loader import InstrumentLoader
from services.control.settings import ControlSettings
from services.fleet.loopback import free_ports
from services.fleet.postgres_server import PostgresServer, usable_identity
from services.fleet.supervisor import running
from tests.fakes.nats_server import NatsServer

ROWS = 100_000
ROUNDS = 5
DAY = date(2026, 11, 24)
STRIKES, EXPIRIES = 49, 5
UNDERLYINGS = 200


def dumps() -> dict[str, bytes]:
    """A day's dumps by exchange: as many options as the NFO has, and shares for the rest."""
    tokens = itertools.count(1)
    rows: list[Instrument] = []
    expiries = [DAY + timedelta(days=7 * week) for week in range(EXPIRIES)]
    for number, expiry, strike, right in itertools.product(
        range(UNDERLYINGS), expiries, range(1000, 1000 + 50 * STRIKES, 50), OptionType
    ):
        exchange_token = next(tokens)
        rows.append(
            Instrument(
                instrument_token=exchange_token << 8 | 2,
                exchange_token=exchange_token,
                tradingsymbol=f"STOCK{number}{expiry:%y%b}{strike}{right.value}".upper(),
                name=f"STOCK{number}",
                exchange="NFO",
                segment="NFO-OPT",
                underlying=f"STOCK{number}",
                kind=Kind.OPTION,
                strike=float(strike),
                expiry=expiry,
                option_type=right,
                lot_size=75,
                tick_size=0.05,
            )
        )
    while len(rows) < ROWS:
        exchange_token = next(tokens)
        rows.append(
            Instrument(
                instrument_token=exchange_token << 8 | 1,
                exchange_token=exchange_token,
                tradingsymbol=f"SHARE{exchange_token}",
                name=f"COMPANY {exchange_token} LIMITED",
                exchange="NSE",
                segment="NSE",
                underlying=f"SHARE{exchange_token}",
                kind=Kind.EQUITY,
                lot_size=1,
                tick_size=0.05,
            )
        )
    return {
        name: to_dump_csv(row for row in rows if row.exchange == name) for name in ("NFO", "NSE")
    }


def changed(raw: bytes) -> bytes:
    """The dump of a day on which one contract in ten is another one."""
    rows = parse_dump(raw).instruments
    return to_dump_csv(
        msgspec.structs.replace(row, lot_size=row.lot_size + 1) if number % 10 == 0 else row
        for number, row in enumerate(rows)
    )


class FromMemory(KiteRest):
    """An origin whose downloads take no time."""

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(api_key="key", access_token="token", root="http://127.0.0.1:9")
        self.files = files

    async def instruments_csv(self, exchange: str | None = None) -> bytes:
        """The file of an exchange."""
        return self.files[exchange or ""]


@asynccontextmanager
async def servers(folder: Path) -> AsyncIterator[tuple[Bus, Database, str]]:
    """NATS and PostgreSQL of this run, migrated."""
    nats = NatsServer(folder)
    nats.start()
    postgres = PostgresServer(
        directory=folder / "pg",
        port=free_ports(1)[0],
        identity=await usable_identity(),
        durable=False,
    )
    await postgres.prepare()
    try:
        async with (
            running(postgres.child()),
            Database.opened(DatabaseSettings(database_url=SecretStr(postgres.url))) as database,
            Bus.open(NatsSettings(nats_url=nats.url), name="bench") as bus,
        ):
            await asyncio.to_thread(schema.upgrade, postgres.url)
            await ensure(bus, (), streams.BUCKETS)
            yield bus, database, postgres.url
    finally:
        nats.kill()


async def timed(work: Callable[[], Awaitable[object]]) -> tuple[float, float]:
    """Seconds that work takes, and by how many milliseconds the event loop was late at worst."""
    worst = 0.0

    async def watch() -> None:
        nonlocal worst
        while True:
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - before - 0.001)

    watching = asyncio.create_task(watch())
    await asyncio.sleep(0.05)
    worst, started = 0.0, time.perf_counter()
    await work()
    seconds = time.perf_counter() - started
    await asyncio.sleep(0.002)
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    return seconds, worst * 1000


async def swap(files: dict[str, bytes]) -> None:
    """Load day after day into real servers and print medians."""
    other = {name: changed(raw) for name, raw in files.items()}
    with tempfile.TemporaryDirectory() as folder:
        async with servers(Path(folder)) as (bus, database, url):
            settings = ControlSettings(
                kite_accounts="bench",
                database_url=SecretStr(url),
                account_encryption_key=SecretStr("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="),
                instrument_exchanges=("NFO", "NSE"),
            )
            loader = InstrumentLoader(bus, database, settings)
            day = datetime(2026, 11, 24, 9, tzinfo=IST)
            results = []
            for number in range(ROUNDS + 1):
                origin = FromMemory((files, other)[number % 2])

                async def load(day: datetime = day, origin: FromMemory = origin) -> None:
                    await loader.refresh(now=day, source=Source.LIVE, origin=lambda: origin)

                results.append(await timed(load))
                day += timedelta(days=1)
            assert len(loader.instruments) == ROWS
            takeover = InstrumentLoader(bus, database, settings)

            async def adopt() -> None:
                now = day - timedelta(days=1)
                await takeover.refresh(now=now, source=Source.LIVE, origin=lambda: origin)

            adopted = await timed(adopt)
    seconds = statistics.median(s for s, _ in results[1:])
    print(
        f"bytes -> swapped registry {seconds:8.2f} s   stall {max(m for _, m in results):5.0f} ms"
    )
    print(f"a new leader takes it over{adopted[0]:8.2f} s   stall {adopted[1]:5.0f} ms")


def parsers(files: dict[str, bytes]) -> None:
    """Print medians of interleaved rounds, and the ratio to the stock parser."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from kiteconnect import KiteConnect  # noqa: PLC0415  # It brings Twisted along.
    stock = KiteConnect("key")
    works: dict[str, Callable[[bytes], object]] = {
        "stock": stock._parse_instruments,
        "parse_dump": parse_dump,
    }
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            started = time.process_time()
            for raw in files.values():
                work(raw)
            times[name].append(time.process_time() - started)
    median = {name: statistics.median(values) for name, values in times.items()}
    ratio = median["stock"] / median["parse_dump"]
    print(f"stock parser              {median['stock']:8.2f} s")
    print(f"parse_dump                {median['parse_dump']:8.2f} s   ({ratio:.1f}x)")


def main() -> None:
    """Print everything."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(40))
    files = dumps()
    size = sum(map(len, files.values())) / 1e6
    print(f"{ROWS} rows, {size:.1f} MB, median of {ROUNDS} rounds")
    parsers(files)
    asyncio.run(swap(files))


if __name__ == "__main__":
    main()
