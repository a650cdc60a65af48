"""What the broker holds, in the real PostgreSQL: kept whole, compared, and told once."""

import asyncio
import json
from datetime import UTC, date, datetime
from typing import Any

import asyncpg
import pytest
from pydantic import SecretStr

from libs.common.contracts.orders import AccountEvent
from libs.common.database import Database
from libs.common.domain.clock import IST, VirtualClock, ns_of
from libs.common.domain.order_answers import CallFailure, read_order_row
from libs.common.kite.orders import OrderCallError
from libs.common.resilience.calendar_limiter import CalendarLimiter
from libs.common.settings import DatabaseSettings
from services.orders import metrics
from services.orders.broker_sync import BrokerSync
from services.orders.broker_tables import BrokerTables
from services.orders.domain.tags import tag_of
from tests.integration.conftest import running, until
from tests.integration.gateway_rig import running_postgres

pytestmark = pytest.mark.integration

NOW = datetime(2026, 11, 24, 11, 0, tzinfo=IST)
TAG = tag_of("main", "task-1", 0)


class Book:
    """A broker that shows what a test wrote into it; it takes no orders.

    Attributes:
        failing: Raised by every read while it is set.
        reads: Names of the reads, in order.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.fills: list[dict[str, Any]] = []
        self.failing: CallFailure | None = None
        self.reads: list[str] = []

    async def _read(self, name):
        self.reads.append(name)
        if self.failing is not None:
            raise OrderCallError(name, self.failing)

    async def orders(self):
        """The order book."""
        await self._read("orders")
        return [read_order_row(row) for row in self.rows]

    async def trades(self):
        """The fills."""
        await self._read("trades")
        return [dict(fill) for fill in self.fills]

    async def positions(self):
        """One position."""
        await self._read("positions")
        return {"net": [{"tradingsymbol": "NIFTY26DEC26000CE", "quantity": 65}], "day": []}

    async def holdings(self):
        """One holding."""
        await self._read("holdings")
        return [{"tradingsymbol": "INFY", "quantity": 10}]

    async def margins(self):
        """The funds."""
        await self._read("margins")
        return {"equity": {"net": 1e9}, "commodity": {"net": 0.0}}


def row(order_id="1" * 18, **changes):
    return {
        "order_id": order_id,
        "status": "OPEN",
        "tag": TAG,
        "tags": [TAG],
        "exchange": "NFO",
        "tradingsymbol": "NIFTY26DEC26000CE",
        "transaction_type": "BUY",
        "quantity": 65,
        "filled_quantity": 0,
        "parent_order_id": None,
        "order_timestamp": datetime(2026, 11, 24, 10, 59),  # noqa: DTZ001  # As kiteconnect gives it.
        **changes,
    }


def fill(trade_id="T1", order_id="1" * 18):
    return {
        "trade_id": trade_id,
        "order_id": order_id,
        "quantity": 65,
        "fill_timestamp": datetime(2026, 11, 24, 10, 59, 30),  # noqa: DTZ001  # As kiteconnect gives it.
    }


class Rig:
    """A BrokerSync of account `main` with everything around it."""

    def __init__(self, database: Database, url: str) -> None:
        self.url = url
        self.book = Book()
        self.session: Book | None = self.book
        self.owned = True
        self.told: list[AccountEvent] = []
        self.clock = VirtualClock(ns_of(NOW), rate=0)
        self.sync = self.another(database)

    def another(self, database, **changes) -> BrokerSync:
        """A BrokerSync of the same account, as another process has it."""
        return BrokerSync(
            "main",
            lambda: self.session,
            BrokerTables(database, "main"),
            report=self.report,
            clock=self.clock,
            book_seconds=changes.pop("book_seconds", 3600),
            funds_seconds=changes.pop("funds_seconds", 3600),
            reads=CalendarLimiter(1000),
            owns=lambda: self.owned,
            **changes,
        )

    def report(self, event: AccountEvent):
        """What people are told."""
        self.told.append(event)

    async def rows(self, query, *arguments):
        """Ask the database."""
        connection = await asyncpg.connect(self.url)
        try:
            return [dict(found) for found in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()

    async def write_ledger(self, *, state="open", quantity=65, task_id="task-1", **intent):
        """A task with one request, as the worker leaves them."""
        await self.rows(
            "INSERT INTO order_tasks (account, task_id, verb, user_name, command, fingerprint,"
            " state, stream_sequence, created_at)"
            " VALUES ('main', $1, $3, 'asha', '{}', 'f', $2, 1, now()) ON CONFLICT DO NOTHING",
            task_id,
            state,
            intent.get("verb", "place"),
        )
        values = {
            "tag": tag_of("main", task_id, 0),
            "leg": 0,
            "verb": "place",
            "order_id": "1" * 18,
            **intent,
        }
        await self.rows(
            "INSERT INTO order_intents (tag, account, task_id, leg, verb, state, exchange,"
            " tradingsymbol, parameters, quantity, order_id, sent_at)"
            " VALUES ($1, 'main', $2, $3, $4, $5, 'NFO', 'NIFTY26DEC26000CE', $6, $7, $8, now())",
            values["tag"],
            task_id,
            values["leg"],
            values["verb"],
            state,
            json.dumps({"transaction_type": "BUY", "quantity": quantity}),
            quantity,
            values["order_id"],
        )


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
async def postgres(tmp_path_factory):
    async with running_postgres(tmp_path_factory.mktemp("pg")) as server:
        yield server


@pytest.fixture
async def rig(postgres):
    settings = DatabaseSettings(database_url=SecretStr(postgres.url))
    async with Database.opened(settings) as database:
        made = Rig(database, postgres.url)
        await made.rows(
            "TRUNCATE order_events, order_intents, order_tasks,"
            " broker_orders, broker_trades, broker_snapshots"
        )
        yield made


async def test_all_that_the_broker_shows_is_kept_and_a_repetition_changes_nothing(rig):
    await rig.write_ledger()
    rig.book.rows = [row(), row("2" * 18, tag=None, tags=[], status="COMPLETE")]
    rig.book.fills = [fill()]

    synced = await rig.sync.sync()
    kept = await rig.rows("SELECT * FROM broker_orders ORDER BY order_id")
    again = await rig.sync.sync()

    assert synced == {"stored": True, "orders": 2, "trades": 1, "differences": []}
    assert again == synced
    assert [(r["account"], r["order_id"], r["day"], r["status"], r["tag"]) for r in kept] == [
        ("main", "1" * 18, date(2026, 11, 24), "OPEN", TAG),
        ("main", "2" * 18, date(2026, 11, 24), "COMPLETE", None),
    ]
    assert json.loads(kept[0]["body"])["order_timestamp"].startswith("2026-11-24")
    (trade,) = await rig.rows("SELECT * FROM broker_trades")
    assert (trade["trade_id"], trade["order_id"]) == ("T1", "1" * 18)
    assert trade["at"] == datetime(2026, 11, 24, 5, 29, 30, tzinfo=UTC)
    snapshots = await rig.rows("SELECT kind, body, taken_at FROM broker_snapshots ORDER BY kind")
    assert [s["kind"] for s in snapshots] == ["holdings", "margins", "positions"]
    assert json.loads(snapshots[1]["body"])["equity"] == {"net": 1e9}
    assert {s["taken_at"] for s in snapshots} == {NOW}
    assert await rig.rows("SELECT * FROM broker_orders ORDER BY order_id") == kept


async def test_order_in_an_end_state_is_not_put_back_by_an_older_book(rig):
    rig.book.rows = [row(status="COMPLETE", filled_quantity=65)]
    await rig.sync.sync()
    async with Database.opened(DatabaseSettings(database_url=SecretStr(rig.url))) as database:
        rig.book.rows = [row(status="OPEN")]
        await rig.another(database).sync()

    (kept,) = await rig.rows("SELECT status FROM broker_orders")
    assert kept["status"] == "COMPLETE"


async def test_nothing_is_stored_once_the_account_is_anothers(rig):
    rig.book.rows, rig.book.fills = [row()], [fill()]
    rig.owned = False
    before = failures("book", "lost")

    async with running(rig.sync.run):
        await until(lambda: failures("book", "lost") > before, 30)

    assert await rig.rows("SELECT 1 FROM broker_orders") == []
    assert await rig.rows("SELECT 1 FROM broker_snapshots") == []


async def test_difference_is_told_once_after_two_looks(rig):
    await rig.write_ledger(state="open")
    rig.book.rows = [row(quantity=130, status="COMPLETE", filled_quantity=0)]

    for _ in range(4):
        await rig.sync.sync()

    assert [(event.kind, event.code) for event in rig.told] == [
        ("difference", "quantity"),
        ("difference", "state"),
    ]
    assert all(event.account == "main" for event in rig.told)
    assert rig.told[0].evidence["task_id"] == "task-1"
    assert rig.told[0].evidence["broker"] == "130"


async def test_quantity_of_a_change_that_left_us_is_no_difference(rig):
    await rig.write_ledger(state="open")
    await rig.write_ledger(
        state="complete", quantity=130, task_id="task-2", verb="modify", tag="tfmodification0000"
    )
    rig.book.rows = [row(quantity=130)]

    assert (await rig.sync.sync())["differences"] == []


async def test_open_order_that_the_broker_does_not_have_is_missing(rig):
    await rig.write_ledger(state="acked")

    synced = await rig.sync.sync()

    assert [d["code"] for d in synced["differences"]] == ["missing"]


async def test_trade_without_its_number_is_counted_and_the_others_are_kept(rig):
    rig.book.fills = [fill(trade_id=None), fill("T2")]
    counted = sample("SYNC_BAD_ROWS_TOTAL", account="main")

    await rig.sync.sync()

    assert sample("SYNC_BAD_ROWS_TOTAL", account="main") == counted + 1
    assert [r["trade_id"] for r in await rig.rows("SELECT * FROM broker_trades")] == ["T2"]


async def test_reads_go_on_after_a_failure_of_the_broker(rig):
    rig.book.rows = [row()]
    rig.book.failing = CallFailure("ReadTimeout", None, "no answer", request_sent=True)
    before = failures("book", "network")

    async with running(rig.sync.run):
        await until(lambda: failures("book", "network") > before, 30)
        rig.book.failing = None
        await until_async(lambda: rig.rows("SELECT 1 FROM broker_snapshots WHERE kind = 'margins'"))

    assert await rig.rows("SELECT order_id FROM broker_orders") == [{"order_id": "1" * 18}]


async def test_event_makes_the_book_be_read_and_not_the_funds(rig):
    async with running(rig.sync.run):
        await until(lambda: "margins" in rig.book.reads, 30)
        await until_async(lambda: rig.rows("SELECT 1 FROM broker_snapshots WHERE kind = 'margins'"))
        before = len(rig.book.reads)
        for _ in range(50):
            rig.sync.order_happened()
        await until(lambda: len(rig.book.reads) >= before + 3, 30)

    assert rig.book.reads[before:] == ["orders", "trades", "positions"]


async def test_without_a_session_nothing_is_read_and_with_one_all_is(rig):
    rig.session = None
    assert (await rig.sync.sync())["stored"] is False

    async with running(rig.sync.run):
        await asyncio.sleep(0)
        assert rig.book.reads == []
        rig.session = rig.book
        await until(lambda: "margins" in rig.book.reads, 30)


def sample(name, **labels):
    return getattr(metrics, name).labels(**labels)._value.get()


def failures(reading, reason):
    return sample("SYNC_FAILURES_TOTAL", account="main", reading=reading, reason=reason)


async def until_async(condition, seconds=30.0):
    """Wait for a condition that has to be asked of a server."""
    async with asyncio.timeout(seconds):
        while not await condition():  # noqa: ASYNC110  # Servers have no event.
            await asyncio.sleep(0.02)
