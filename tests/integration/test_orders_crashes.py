"""Orders workers that die, pause, lose PostgreSQL or NATS: nothing is lost, nothing is doubled."""

import asyncio
import contextlib
import functools
import signal

import asyncpg
import pytest

from libs.common.bus.connection import Bus
from services.orders.checkpoint import Step
from tests.fakes.order_counter import Behaviour, unclear
from tests.integration.conftest import settings_for
from tests.integration.gateway_rig import running_postgres
from tests.integration.orders_rig import (
    PATIENCE_SECONDS,
    SYMBOLS,
    running_rig,
    shared_ledger,
    until,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def ledger_url(tmp_path_factory):
    with shared_ledger(tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture
async def rig(nats_server, ledger_url, tmp_path):
    async with (
        Bus.open(settings_for(nats_server), name="test") as bus,
        running_rig(bus, nats_server, ledger_url, tmp_path) as rig,
    ):
        yield rig


@contextlib.asynccontextmanager
async def process_of(rig, name, **settings):
    """A worker as a process, from the beginning of the block to its end at the latest."""
    process = rig.process(name, **settings)
    for attempt in range(3):
        process.launch()
        await until(functools.partial(_has_begun, process))
        if process.text.count("Address already in use") <= attempt:
            break
        # Somebody else on this machine was faster to take the port for the health page.
        process = rig.process(name, **settings)
    try:
        yield process
    finally:
        process.kill()


def _has_begun(process):
    ended = process.process.poll() is not None
    return ended or process.text.count("bus.connected") > 0


# The orders that each step needs, and what the broker does with the first of them.
_SCRIPTS = {
    Step.SENT_NOT_ANSWERED: Behaviour(delay_seconds=2.0, visible_after_seconds=4.0),
    Step.UNKNOWN_NOT_LOOKED: unclear(accepts=True),
    Step.SEEN_NOT_COMMITTED: unclear(accepts=True),
}


@pytest.mark.parametrize("step", [step for step in Step if step is not Step.BURIED_NOT_ACKED])
async def test_worker_that_dies_between_two_effects_loses_and_doubles_nothing(rig, step):
    if step in _SCRIPTS:
        rig.counter.script.append(_SCRIPTS[step])
    orders = [
        rig.place(rig.main),
        rig.place(rig.main, price=101.0),
        rig.place(rig.main, tradingsymbol=SYMBOLS[1]),
    ]
    async with process_of(rig, "first", orders_crash_at=step.value) as first:
        await rig.send(*orders)
        status = await asyncio.to_thread(first.process.wait, PATIENCE_SECONDS)
        assert status == -signal.SIGKILL, first.text[-2000:]
    await rig.expire_leases()
    # Longer than the broker takes to show what it has accepted.
    window = 6.0 if step is Step.SENT_NOT_ANSWERED else 1.0
    async with process_of(rig, "second", orders_unknown_window_seconds=window) as second:
        ends = [await rig.until_state(order, "open", "absent") for order in orders]
        intents = [(await rig.intents(order))[0] for order in orders]
        # What was committed before the death is told by the successor.
        for order in orders:
            await until(functools.partial(_is_told, rig, order))
        assert second.process.poll() is None
    assert not rig.counter.doubled
    assert len(intents) == len(orders)
    for end, intent in zip(ends, intents, strict=True):
        # Absent exactly when the request never left, which nobody but the test can know.
        assert (rig.counter.accepted[intent["tag"]] == 1) is (end == "open"), step
    # The two instruments are sent side by side: of both one request may just have left or not.
    assert ends.count("open") >= (1 if step is Step.SENDING_NOT_SENT else 2)
    assert ("absent" in ends) or step is not Step.SENDING_NOT_SENT


async def _is_told(rig, order):
    events = await rig.events(order)
    (row,) = await rig.rows(
        "SELECT event_count FROM order_tasks WHERE account = $1 AND task_id = $2",
        order.account,
        order.task_id,
    )
    return [e.seq for e in events] == list(range(1, row["event_count"] + 1))


async def test_worker_that_dies_after_burying_a_command_buries_it_once(rig):
    async with process_of(rig, "first", orders_crash_at=Step.BURIED_NOT_ACKED.value) as first:
        await rig.send_bytes(rig.main, "bad", b"[]")
        await asyncio.to_thread(first.process.wait, PATIENCE_SECONDS)
    await rig.expire_leases()
    async with process_of(rig, "second"):
        order = rig.place(rig.main)
        await rig.send(order)
        await rig.until_state(order, "open")
    assert len(await rig.dead_letters(rig.main)) == 1
    assert len(await rig.rows("SELECT 1 FROM order_dead_letters WHERE account = $1", rig.main)) == 1


async def test_command_that_kills_every_worker_is_given_up_in_the_end(rig):
    deadly = rig.place(rig.main)
    await rig.send(deadly)
    settings = {"orders_crash_at": Step.DELIVERED_NOT_ACCEPTED.value, "orders_max_deliveries": 2}
    for attempt in range(2):
        async with process_of(rig, f"victim-{attempt}", **settings) as victim:
            assert await asyncio.to_thread(victim.process.wait, PATIENCE_SECONDS) == -signal.SIGKILL
        await rig.expire_leases()
    async with process_of(rig, "survivor", orders_max_deliveries=2):
        await until(lambda: rig.dead_letters(rig.main))
        order = rig.place(rig.main, price=102.0)
        await rig.send(order)
        await rig.until_state(order, "open")
    (row,) = await rig.rows("SELECT * FROM order_dead_letters WHERE account = $1", rig.main)
    assert row["code"] == "undeliverable"
    assert deadly.tradingsymbol in row["command"]
    assert len(rig.counter.requests) == 1


async def test_stopped_worker_ends_its_calls_and_hands_over_at_once(rig):
    rig.counter.script.append(Behaviour(delay_seconds=1.0))
    first, second = rig.place(rig.main), rig.place(rig.main, price=101.0)
    async with process_of(rig, "first") as one, process_of(rig, "second") as two:
        # Whoever of the two holds the account sends; the other one goes on.
        await rig.until_status(rig.main, lambda s: s.ready)
        status = await rig.status(rig.main)
        await rig.send(first)
        await until(lambda: rig.counter.requests)
        await rig.send(second)
        holder = one if status.worker == "first" else two
        assert await asyncio.to_thread(holder.stop) == 0, holder.text[-2000:]
        (intent,) = await rig.intents(first)
        # Its answer was waited for: nothing is unknown.
        assert intent["order_id"] is not None
        await rig.until_state(second, "open")
    assert not rig.counter.doubled
    assert len(rig.counter.requests) == 2


async def test_paused_worker_that_wakes_without_its_lease_sends_nothing_twice(rig):
    orders = [rig.place(rig.main, price=100.0 + n) for n in range(12)]
    async with process_of(rig, "first", orders_per_second=4, orders_spare_per_second=0) as first:
        await rig.until_status(rig.main, lambda s: s.ready and s.worker == "first")
        await rig.send(*orders)
        await until(lambda: len(rig.counter.requests) >= 2)
        first.signal(signal.SIGSTOP)
        try:
            async with process_of(rig, "second"):
                await rig.until_status(rig.main, lambda s: s.ready and s.worker == "second")
                first.signal(signal.SIGCONT)
                for order in orders:
                    await rig.until_state(order, "open", "absent")
        finally:
            first.signal(signal.SIGCONT)
    assert not rig.counter.doubled
    tags = [form["tag"] for _, _, form in rig.counter.requests]
    assert len(tags) == len(set(tags))


async def test_killed_server_of_the_bus_loses_and_doubles_nothing(rig, nats_server):
    rig.counter.usual = Behaviour(delay_seconds=0.05)
    orders = [rig.place(rig.main, price=100.0 + n, tradingsymbol=SYMBOLS[n % 3]) for n in range(30)]
    async with process_of(rig, "first", orders_per_second=20):
        await rig.until_status(rig.main, lambda s: s.ready)
        await rig.send(*orders)
        await until(lambda: len(rig.counter.requests) >= 5)
        nats_server.kill()
        await until(lambda: not rig.bus.is_connected)
        nats_server.start()
        await until(lambda: rig.bus.is_connected)
        for order in orders:
            await rig.until_state(order, "open")
        for order in orders:
            await until(functools.partial(_is_told, rig, order))
    assert not rig.counter.doubled
    assert len(rig.counter.accepted) == 30


async def test_connections_to_postgresql_that_break_lose_and_double_nothing(nats_server, tmp_path):
    folder = tmp_path / "postgres"
    async with Bus.open(settings_for(nats_server), name="test") as bus:
        async with (
            running_postgres(folder) as postgres,
            running_rig(bus, nats_server, postgres.url, tmp_path) as rig,
            process_of(rig, "only"),
        ):
            order = rig.place(rig.main)
            await rig.send(order)
            await rig.until_state(order, "open")
            later = [rig.place(rig.main, price=100.0 + n) for n in range(1, 6)]
            await _break(postgres.url)
            await rig.send(*later)
            for command in later:
                await rig.until_state(command, "open")
        assert not rig.counter.doubled
        assert len(rig.counter.requests) == 6


async def _break(url):
    """Cut every connection to the database but one's own."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid()"
            " AND datname = current_database()"
        )
    finally:
        await connection.close()


async def test_orders_wait_while_postgresql_is_down_and_leave_when_it_is_back(
    nats_server, tmp_path
):
    folder = tmp_path / "postgres"
    async with (
        Bus.open(settings_for(nats_server), name="test") as bus,
        contextlib.AsyncExitStack() as stack,
    ):
        async with running_postgres(folder) as postgres:
            url = postgres.url
            rig = await stack.enter_async_context(running_rig(bus, nats_server, url, tmp_path))
            process = await stack.enter_async_context(process_of(rig, "only"))
            order = rig.place(rig.main)
            await rig.send(order)
            await rig.until_state(order, "open")
        later = [rig.place(rig.main, price=100.0 + n) for n in range(1, 4)]
        await rig.send(*later)
        # It says so itself, and waits.
        await until(lambda: "intake.waits" in process.text)
        assert len(rig.counter.requests) == 1
        port = int(url.rpartition(":")[2].split("/")[0])
        async with running_postgres(folder, port=port):
            for command in later:
                await rig.until_state(command, "open")
            process.kill()
        assert len(rig.counter.requests) == 4
        assert not rig.counter.doubled
