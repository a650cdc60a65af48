"""The plan on the real PostgreSQL and NATS: entries by difference, homes, states only on change."""

from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from libs.common.bus.kv import Bucket, Mirror
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams
from libs.common.contracts.messages import AccountPlan, FeedCoverage, StreamMode
from libs.common.database import Database, DatabaseUnavailableError
from libs.common.settings import DatabaseSettings
from services.control.domain import planner
from services.control.domain.planner import Capacity
from services.control.domain.subscriptions import Condition, State
from services.control.domain.windows import Wanted
from services.control.plan_store import PlanStore
from services.control.subscription_states import CoverageBook, SubscriptionStates
from tests.integration.conftest import running, until
from tests.integration.gateway_rig import running_postgres

pytestmark = pytest.mark.integration


@pytest.fixture
async def database(tmp_path):
    async with running_postgres(tmp_path / "pg") as server:
        settings = DatabaseSettings(database_url=SecretStr(server.url))
        async with Database.opened(settings) as database:
            yield database


@pytest.fixture
async def mirror(bus):
    await ensure(bus, (), streams.BUCKETS)
    mirror = Mirror(bus, streams.PLAN.name)
    async with running(mirror.run):
        await mirror.ready()
        yield mirror


def wants(count, **changes):
    values = {"underlying": "NIFTY", "mode": StreamMode.FULL, "reason": "window", **changes}
    return [Wanted(instrument_token=token, **values) for token in range(1, count + 1)]


def capacities(*names):
    return [Capacity(account=name, connections=1, tokens_per_connection=100) for name in names]


async def fetch(database, query):
    async with database.acquire() as connection:
        return await connection.fetch(query)


async def test_plan_is_written_by_difference_and_copied_for_people(bus, mirror, database):
    store = PlanStore(bus, database, mirror)
    assert store.revision == 0
    outcome = planner.plan(wants(119), capacities("a", "b"), store.slots)
    assert await store.write(outcome, ["a", "b"], planned_at_ns=1)
    again = planner.plan(wants(119), capacities("a", "b"), store.slots)
    assert not await store.write(again, ["a", "b"], planned_at_ns=2)
    assert store.revision == 1
    assert await store.save_for_people()
    assert not await store.save_for_people()
    rows = await fetch(database, "SELECT * FROM plan_entries")
    assert {row["instrument_token"] for row in rows} == set(range(1, 120))

    fewer = planner.plan(wants(50), capacities("a"), store.slots)
    assert await store.write(fewer, ["a"], planned_at_ns=3)
    assert await Bucket(bus, streams.PLAN.name).get("b") is None
    assert await store.save_for_people()
    rows = await fetch(database, "SELECT * FROM plan_entries")
    assert {row["instrument_token"] for row in rows} == set(range(1, 51))


async def test_copy_touches_only_rows_that_differ(bus, mirror, database):
    store = PlanStore(bus, database, mirror)
    await store.write(planner.plan(wants(10), capacities("a"), store.slots), ["a"], planned_at_ns=1)
    await store.save_for_people()
    before = await fetch(database, "SELECT instrument_token, xmin FROM plan_entries")
    await store.write(planner.plan(wants(11), capacities("a"), store.slots), ["a"], planned_at_ns=2)
    await store.save_for_people()
    after = await fetch(
        database, "SELECT instrument_token, plan_revision FROM plan_entries ORDER BY 1"
    )
    assert len(before) == 10
    assert [row["plan_revision"] for row in after] == [1] * 10 + [2]


async def test_homes_survive_in_the_plan_and_show_in_the_table(bus, mirror, database):
    store = PlanStore(bus, database, mirror)
    await store.write(
        planner.plan(wants(60), capacities("a", "b"), store.slots), ["a", "b"], planned_at_ns=1
    )
    was = {token for token, slot in store.slots.items() if slot.account == "b"}
    moved = planner.plan(wants(60), capacities("a"), store.slots, lost={"b"})
    assert await store.write(moved, ["a", "b"], planned_at_ns=2)
    await store.save_for_people()
    rows = await fetch(database, "SELECT instrument_token, home_account_id FROM plan_entries")
    assert {r["instrument_token"] for r in rows if r["home_account_id"] == "b"} == was

    # The lost account keeps an empty entry, by which ingest knows that it exists.
    entry = await Bucket(bus, streams.PLAN.name).get("b")
    assert entry is not None
    assert codec.from_json(AccountPlan, entry.value).total == 0

    # Another leader reads the homes from the bucket, not from memory.
    await until(lambda: mirror.get("b") == entry.value)
    successor = PlanStore(bus, database, mirror)
    assert successor.slots == moved.slots
    home = planner.plan(wants(60), capacities("a", "b"), successor.slots)
    assert home.returned == len(was)
    await successor.write(home, ["a", "b"], planned_at_ns=3)
    assert {t for t, slot in successor.slots.items() if slot.account == "b"} == was


async def test_since_tells_with_which_revision_an_instrument_came_to_its_account(
    bus, mirror, database
):
    store = PlanStore(bus, database, mirror)
    await store.write(planner.plan(wants(2), capacities("a"), store.slots), ["a"], planned_at_ns=1)
    await store.write(planner.plan(wants(3), capacities("a"), store.slots), ["a"], planned_at_ns=2)
    assert store.since == {1: 1, 2: 1, 3: 2}
    moved = planner.plan(wants(3), capacities("b"), store.slots, lost={"a"})
    await store.write(moved, ["a", "b"], planned_at_ns=3)
    assert set(store.since.values()) == {3}


INSERT = (
    "INSERT INTO instrument_subscriptions (instrument_token, tradingsymbol, segment, "
    "requested_mode, status) VALUES (1, 'ONE', 'NSE', 'QUOTE', 'active'), "
    "(2, 'TWO', 'NSE', 'FULL', 'active'), (3, 'OFF', 'NSE', 'FULL', 'inactive')"
)


async def test_states_are_written_in_bulk_and_only_where_they_changed(bus, mirror, database):
    async with database.acquire() as connection:
        await connection.execute(INSERT)
    store = PlanStore(bus, database, mirror)
    await store.write(planner.plan(wants(2), capacities("a"), store.slots), ["a"], planned_at_ns=1)
    await store.save_for_people()
    states = SubscriptionStates(database)
    assert await states.read()
    live, waiting = Condition(State.LIVE), Condition(State.PENDING, "no tick yet")
    asked = {1: live, 2: waiting, 3: live}
    # Two subscriptions and one plan entry differ from the tables; the inactive one is left alone.
    assert await states.write(asked, {1: live, 2: Condition(State.PENDING)}) == 3
    rows = {
        row["instrument_token"]: row
        for row in await fetch(database, "SELECT *, xmin FROM instrument_subscriptions")
    }
    assert {t: (r["state"], r["state_reason"]) for t, r in rows.items()} == {
        1: ("live", ""),
        2: ("pending", "no tick yet"),
        3: ("pending", ""),
    }
    assert await states.write(asked, {1: live, 2: Condition(State.PENDING)}) == 0
    assert await states.write(asked | {2: live}, {}) == 1
    after = {
        row["instrument_token"]: row
        for row in await fetch(database, "SELECT *, xmin FROM instrument_subscriptions")
    }
    assert after[1]["xmin"] == rows[1]["xmin"]
    assert after[2]["state"] == "live"
    assert after[2]["state_at"] > rows[2]["state_at"]


async def test_a_state_keeps_its_time_when_only_the_reason_changes(database):
    async with database.acquire() as connection:
        await connection.execute(INSERT)
    states = SubscriptionStates(database)
    await states.read()
    long_ago = datetime.now(UTC) - timedelta(hours=1)
    async with database.acquire() as connection:
        await connection.execute("UPDATE instrument_subscriptions SET state_at = $1", long_ago)
    await states.write({1: Condition(State.PENDING, "no tick yet")}, {})
    [row] = await fetch(
        database, "SELECT * FROM instrument_subscriptions WHERE instrument_token = 1"
    )
    assert (row["state_reason"], row["state_at"]) == ("no tick yet", long_ago)


async def test_subscriptions_survive_the_database(tmp_path):
    async with running_postgres(tmp_path / "pg") as server:
        settings = DatabaseSettings(database_url=SecretStr(server.url))
        async with Database.opened(settings) as database:
            async with database.acquire() as connection:
                await connection.execute(INSERT)
            states = SubscriptionStates(database)
            assert await states.read()
            wanted = [(row.instrument_token, row.mode) for row in states.rows]
            assert sorted(wanted) == [(1, StreamMode.QUOTE), (2, StreamMode.FULL)]
            # The pool must not hold a connection while the server stops.
            await database.close()
    # The server is gone now, and the last known subscriptions hold.
    assert not await states.read()
    assert [(row.instrument_token, row.mode) for row in states.rows] == wanted
    with pytest.raises(DatabaseUnavailableError):
        await states.write({1: Condition(State.LIVE)}, {})


async def test_coverage_is_decoded_when_it_changes_and_forgotten_when_it_ends(bus):
    await ensure(bus, (), [streams.COVERAGE])
    mirror = Mirror(bus, streams.COVERAGE.name)
    bucket = Bucket(bus, streams.COVERAGE.name)
    async with running(mirror.run):
        await mirror.ready()
        book = CoverageBook(mirror)
        assert not book.refresh()
        message = FeedCoverage(
            account="acc1", plan_revision=3, pending=(), no_data=(7,), stale=(8,), at_ns=1
        )
        revision = await bucket.put("acc1", codec.to_msgpack(message))
        await until(lambda: "acc1" in mirror)
        assert book.refresh()
        assert book.by_account()["acc1"].no_data == {7}
        assert not book.refresh()
        # The same once more, a few seconds later: nothing has changed.
        await bucket.put("acc1", codec.to_msgpack(message))
        await until(lambda: (entry := mirror.entry("acc1")) and entry.revision > revision)
        assert not book.refresh()
        await bucket.put("acc1", b"not a message")
        await until(lambda: mirror.get("acc1") == b"not a message")
        assert not book.refresh()
        assert book.by_account()["acc1"].no_data == {7}
        await bucket.delete("acc1")
        await until(lambda: "acc1" not in mirror)
        assert book.refresh()
        assert book.by_account() == {}
