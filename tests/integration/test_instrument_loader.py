"""Loading instruments from the real simulator into the real PostgreSQL and NATS, fault by fault."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.common.bus import api
from libs.common.bus.connection import Bus
from libs.common.bus.kv import Mirror
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import InstrumentSet, Source
from libs.common.database import Database, DatabaseUnavailableError
from libs.common.domain.clock import IST
from libs.common.domain.instruments import Instrument
from libs.common.kite.rest import KiteRest
from libs.common.settings import DatabaseSettings
from services.control import registry
from services.control.errors import DumpUnusableError
from services.control.instrument_loader import InstrumentLoader
from services.control.settings import ControlSettings
from services.simulator.domain.dump_faults import another_contract
from tests.fakes.simulator import SimulatorProcess
from tests.integration.conftest import running, until
from tests.integration.test_control_registry import migrated

pytestmark = pytest.mark.integration

TODAY = datetime(2026, 11, 18, 11, tzinfo=IST)
TOMORROW = TODAY + timedelta(days=1)
EXCHANGES = ("NSE", "NFO", "BSE", "BFO")
FERNET = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


@pytest.fixture(scope="module")
def shared_simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    """One simulator for the module; its day never ends."""
    process = SimulatorProcess(tmp_path_factory.mktemp("simulator"), SIM_STRIKES_PER_SIDE="3")
    process.start()
    yield process
    process.kill()


@pytest.fixture
def simulator(shared_simulator: SimulatorProcess) -> Iterator[SimulatorProcess]:
    """The module's simulator, without faults."""
    shared_simulator.heal()
    yield shared_simulator
    shared_simulator.heal()


class Rig:
    """A loader with its servers, and a clock that a test moves."""

    def __init__(
        self, bus: Bus, database: Database, url: str, rest: KiteRest, exchanges: str | None
    ) -> None:
        self.bus = bus
        self.database = database
        self.rest = rest
        self.seconds = 0.0
        self.died: list[KiteRest] = []
        values: dict[str, Any] = {} if exchanges is None else {"instrument_exchanges": exchanges}
        self.settings = ControlSettings(
            kite_accounts="main", database_url=url, account_encryption_key=FERNET, **values
        )
        self.loader = self.new_loader()

    def new_loader(self) -> InstrumentLoader:
        """What a new leader would have."""
        return InstrumentLoader(
            self.bus,
            self.database,
            self.settings,
            token_died=self.died.append,
            monotonic_seconds=lambda: self.seconds,
        )

    async def refresh(self, now: datetime = TODAY, source: Source = Source.SIM) -> bool:
        """One round of the leader."""
        return await self.loader.refresh(now=now, source=source, origin=lambda: self.rest)

    async def entries(self) -> dict[str, registry.ExchangeEntry]:
        """What people are told of the revision in force."""
        dump = await registry.current_dump(self.database)
        assert dump is not None
        found = await registry.exchange_entries(self.database, dump.revision)
        return {entry.exchange: entry for entry in found}

    async def in_force(self) -> dict[int, Instrument]:
        """Memory, PostgreSQL and the bus, which must agree."""
        stored = await registry.fetch_all(self.database)
        assert {item.instrument_token: item for item in stored} == self.loader.instruments
        mirror = Mirror(self.bus, streams.INSTRUMENTS.name)
        async with running(mirror.run):
            await mirror.ready()
            sets = [codec.from_msgpack(InstrumentSet, value) for value in mirror.items().values()]
        assert sorted(i.instrument_token for s in sets for i in s.instruments) == sorted(
            self.loader.instruments
        )
        assert all(
            self.loader.instruments[i.instrument_token] == i for s in sets for i in s.instruments
        )
        return dict(self.loader.instruments)


@asynccontextmanager
async def rig(
    bus: Bus, simulator: SimulatorProcess, directory: Path, exchanges: str | None = None
) -> AsyncIterator[Rig]:
    await ensure(bus, [streams.MD_LAST], streams.BUCKETS)
    rest = KiteRest(
        api_key=simulator.account().api_key,
        access_token=await simulator.token(),
        root=simulator.url,
    )
    async with migrated(directory / "pg") as (database, settings):
        assert isinstance(settings, DatabaseSettings)
        url = settings.database_url.get_secret_value()
        yield Rig(bus, database, url, rest, exchanges)


def by_exchange(instruments: dict[int, Instrument]) -> dict[str, set[Instrument]]:
    found: dict[str, set[Instrument]] = {}
    for item in instruments.values():
        found.setdefault(item.exchange, set()).add(item)
    return found


@pytest.mark.parametrize("exchanges", [None, "all"])
async def test_day_is_loaded_once_and_taken_over_by_the_next_leader(
    bus, simulator, tmp_path, exchanges
):
    async with rig(bus, simulator, tmp_path, exchanges) as r:
        assert await r.refresh()
        first = await r.in_force()
        assert set(by_exchange(first)) == set(EXCHANGES)
        entries = await r.entries()
        assert {e.market_date for e in entries.values()} == {TODAY.date()}
        assert {e.outcome for e in entries.values()} == {"loaded"}
        simulator.fault(kind="empty_dump")
        assert not await r.refresh(), "a second round downloads nothing"
        r.loader = r.new_loader()
        assert await r.refresh()
        assert await r.in_force() == first
        assert r.loader.dump is not None
        assert r.loader.dump.revision == 1
        [fault] = simulator.active_faults()
        assert fault["fired"] == 0


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        ({"kind": "error_replies", "path": "/instruments/NFO"}, "unavailable"),
        ({"kind": "truncated_dump", "exchange": "NFO"}, "truncated"),
        ({"kind": "empty_dump", "exchange": "NFO"}, "empty"),
        ({"kind": "shrunken_dump", "exchange": "NFO"}, "shrunken"),
        (
            {
                "kind": "error_replies",
                "path": "/instruments/NFO",
                "status": 403,
                "error_type": "TokenException",
            },
            "refused",
        ),
    ],
)
async def test_exchange_that_fails_keeps_yesterdays_rows_and_is_tried_again_later(
    bus, simulator, tmp_path, fault, outcome
):
    async with rig(bus, simulator, tmp_path) as r:
        await r.refresh()
        before = by_exchange(await r.in_force())
        simulator.fault(**fault)
        # The others differ on the next day, which shows that they were renewed.
        simulator.fault(kind="reused_token", exchange="BFO")
        assert await r.refresh(TOMORROW)
        after = by_exchange(await r.in_force())
        assert after["NFO"] == before["NFO"]
        assert after["BFO"] != before["BFO"]
        entries = await r.entries()
        assert {n: (e.market_date, e.outcome) for n, e in entries.items()} == {
            "NFO": (TODAY.date(), outcome),
            "NSE": (TOMORROW.date(), "loaded"),
            "BSE": (TOMORROW.date(), "loaded"),
            "BFO": (TOMORROW.date(), "loaded"),
        }
        assert entries["NFO"].reason
        assert r.died == ([r.rest] if outcome == "refused" else [])

        simulator.heal()
        assert not await r.refresh(TOMORROW), "not before its pause is over"
        assert (await r.entries())["NFO"].market_date == TODAY.date()
        r.seconds += 3600
        await r.refresh(TOMORROW)
        entry = (await r.entries())["NFO"]
        assert (entry.market_date, entry.outcome, entry.reason) == (TOMORROW.date(), "loaded", "")


async def test_dump_of_all_that_fails_keeps_every_exchange(bus, simulator, tmp_path):
    async with rig(bus, simulator, tmp_path, "all") as r:
        await r.refresh()
        before = await r.in_force()
        simulator.fault(kind="truncated_dump")
        assert not await r.refresh(TOMORROW)
        assert await r.in_force() == before
        assert {e.outcome for e in (await r.entries()).values()} == {"truncated"}
        simulator.heal()
        simulator.fault(kind="empty_dump", exchange="BSE")
        r.seconds += 3600
        assert await r.refresh(TOMORROW)
        assert await r.in_force() == before
        days = {n: e.market_date for n, e in (await r.entries()).items()}
        assert days.pop("BSE") == TODAY.date()
        assert set(days.values()) == {TOMORROW.date()}


async def test_duplicate_token_is_kept_once(bus, simulator, tmp_path):
    async with rig(bus, simulator, tmp_path) as r:
        await r.refresh()
        before = await r.in_force()
        simulator.fault(kind="duplicate_token", exchange="NFO")
        assert await r.refresh(TOMORROW)
        assert await r.in_force() == before


async def test_reused_token_is_marked_for_its_day(bus, simulator, tmp_path):
    async with rig(bus, simulator, tmp_path) as r:
        await r.refresh()
        before = await r.in_force()
        for item in before.values():
            await bus.publish(subjects.last(item.underlying, item.instrument_token), b"a tick")
        simulator.fault(kind="reused_token", exchange="NFO")
        await r.refresh(TOMORROW)
        after = await r.in_force()
        left = await api.call(
            bus, f"STREAM.INFO.{streams.MD_LAST.name}", {"subjects_filter": subjects.ALL_LAST}
        )
        [token] = [t for t, item in after.items() if before[t] != item]
        assert after[token] == another_contract(before[token])
        marked = {token: before[token].key}
        kept = {subjects.last(i.underlying, t) for t, i in before.items() if t != token}
        assert left["state"]["subjects"].keys() == kept, "its last value is gone, alone"
        assert await registry.fetch_registry(r.database) == (
            sorted(after.values(), key=lambda item: item.instrument_token),
            marked,
        )
        # A new leader that loads the same day again still knows.
        r.loader = r.new_loader()
        await r.refresh(TOMORROW + timedelta(hours=12, minutes=30))
        assert (await registry.fetch_registry(r.database))[1] == marked


async def test_nothing_at_all_is_an_error_that_names_every_exchange(bus, simulator, tmp_path):
    async with rig(bus, simulator, tmp_path, "NSE,NFO,XYZ") as r:
        simulator.fault(kind="error_replies", path="/instruments")
        with pytest.raises(DumpUnusableError) as caught:
            await r.refresh()
        assert all(name in str(caught.value) for name in ("NSE", "NFO", "XYZ"))
        assert not await r.refresh(), "not before the pause is over"
        simulator.heal()
        r.seconds += 3600
        assert await r.refresh()
        assert set(by_exchange(await r.in_force())) == {"NSE", "NFO"}
        entries = await r.entries()
        assert (entries["XYZ"].row_count, entries["XYZ"].outcome) == (0, "refused")
        assert entries["XYZ"].market_date is None
        r.loader = r.new_loader()
        await r.refresh()
        assert set(by_exchange(await r.in_force())) == {"NSE", "NFO"}


async def test_exchange_that_is_no_longer_configured_leaves(bus, simulator, tmp_path):
    async with rig(bus, simulator, tmp_path) as r:
        await r.refresh()
        r.settings = r.settings.model_copy(update={"instrument_exchanges": ("NSE", "NFO")})
        r.loader = r.new_loader()
        assert await r.refresh()
        assert set(by_exchange(await r.in_force())) == {"NSE", "NFO"}


async def test_instruments_of_another_market_are_no_yesterday(bus, simulator, tmp_path):
    async with rig(bus, simulator, tmp_path) as r:
        await r.refresh()
        simulator.fault(kind="empty_dump", exchange="NFO")
        assert await r.refresh(source=Source.LIVE)
        assert set(by_exchange(await r.in_force())) == {"NSE", "BSE", "BFO"}


async def test_previous_day_is_kept_however_often_today_is_loaded(bus, simulator, tmp_path):
    async with rig(bus, simulator, tmp_path) as r:
        await r.refresh()
        for hours in range(1, 4):
            simulator.heal()
            if hours % 2:
                simulator.fault(kind="reused_token", exchange="NFO")
            assert await r.refresh(TOMORROW)
            r.loader = r.new_loader()
            async with r.database.acquire() as connection:
                await connection.execute(
                    "UPDATE instrument_dump_exchanges"
                    " SET fetched_at = fetched_at - interval '1 day'"
                    " WHERE revision = (SELECT max(revision) FROM instrument_dumps)"
                )
        async with r.database.acquire() as connection:
            kept = await connection.fetch(
                "SELECT revision, market_date FROM instrument_dumps ORDER BY revision"
            )
        assert [(row["revision"], row["market_date"]) for row in kept] == [
            (1, TODAY.date()),
            (3, TOMORROW.date()),
            (4, TOMORROW.date()),
        ]


async def test_readers_see_one_dump_or_the_other_while_they_are_swapped(bus, simulator, tmp_path):
    async with rig(bus, simulator, tmp_path) as r:
        await r.refresh()
        simulator.fault(kind="shrunken_dump")
        r.settings = r.settings.model_copy(update={"instrument_max_shrinkage": 1.0})
        r.loader = r.new_loader()
        whole, seen = len(await registry.fetch_all(r.database)), set()

        async def read(stop: asyncio.Event) -> None:
            while not stop.is_set():
                async with r.database.acquire() as connection:
                    row = await connection.fetchrow(
                        "SELECT count(*) AS rows, (SELECT row_count FROM instrument_dumps"
                        " WHERE is_current) AS told FROM instruments"
                    )
                assert row is not None
                assert row["rows"] == row["told"]
                seen.add(row["rows"])

        async with running(read, read):
            await until(lambda: whole in seen)
            assert await r.refresh(TOMORROW)
            await until(lambda: len(seen) > 1)
        assert seen == {whole, len(r.loader.instruments)}


async def test_database_that_is_away_costs_a_pause_and_nothing_else(
    bus, simulator, tmp_path, monkeypatch
):
    async with rig(bus, simulator, tmp_path) as r:
        await r.refresh()
        before = await r.in_force()

        async def refuse(*_: object, **__: object) -> None:
            raise DatabaseUnavailableError("it restarts")

        simulator.fault(kind="reused_token", exchange="NFO", count=2)
        with monkeypatch.context() as patched:
            patched.setattr(registry, "store", refuse)
            assert not await r.refresh(TOMORROW)
            assert not await r.refresh(TOMORROW), "no download while it waits"
        [fault] = simulator.active_faults()
        assert fault["fired"] == 1
        assert await r.in_force() == before
        r.seconds += 3600
        assert await r.refresh(TOMORROW)
        assert await r.in_force() != before


async def test_what_could_not_be_published_is_published_with_the_next_round(
    bus, nats_server, simulator, tmp_path, monkeypatch
):
    async with rig(bus, simulator, tmp_path) as r:

        async def refuse(*_: object, **__: object) -> None:
            raise DatabaseUnavailableError("as if NATS were away")

        with monkeypatch.context() as patched:
            patched.setattr(registry, "publish", refuse)
            with pytest.raises(DatabaseUnavailableError):
                await r.refresh()
        await r.refresh()
        assert len(await r.in_force()) > 100
