"""What the broker pushes: order updates over the feed, and postbacks that must be genuine."""

import hashlib
import time

import msgspec
import pytest

from libs.common.bus.connection import Bus
from libs.common.bus.errors import NoResponderError
from libs.common.contracts import codec, subjects
from libs.common.contracts.messages import OrderUpdate
from libs.common.contracts.orders import OrderReply, Postback
from tests.fakes.order_counter import unclear
from tests.integration.conftest import settings_for
from tests.integration.orders_rig import SECRET, running_rig, shared_ledger, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

STAMP = "2026-11-25 10:00:00"


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


def quiet():
    """Settings of a worker that learns nothing by polling."""
    return {"orders_poll_seconds": 30.0, "orders_quiet_poll_seconds": 30.0}


async def push(rig, row):
    update = OrderUpdate(
        account=rig.main, received_at_ns=time.time_ns(), data=msgspec.Raw(msgspec.json.encode(row))
    )
    await rig.bus.publish(subjects.order_update(rig.main), codec.to_json(update))


async def post(rig, row, *, secret=SECRET, **changes):
    body = {
        **row,
        "order_timestamp": STAMP,
        "checksum": hashlib.sha256(f"{row['order_id']}{STAMP}{secret}".encode()).hexdigest(),
        **changes,
    }
    payload = Postback(body=msgspec.Raw(msgspec.json.encode(body)), received_at_ns=time.time_ns())
    subject = subjects.rpc_postback_of(f"U{rig.main.upper()}")
    answer = await rig.bus.request(subject, codec.to_json(payload), 20.0)
    return codec.from_json(OrderReply, answer.payload)


async def until_served(rig):
    """Wait until postbacks are taken."""

    async def served():
        try:
            await rig.bus.request(subjects.rpc_postback_of(f"U{rig.main.upper()}"), b"", 5.0)
        except NoResponderError:
            return False
        return True

    await until(served)


async def acked(rig):
    """An order that the broker has, and its row."""
    order = rig.place(rig.main)
    await rig.send(order)
    await rig.until_state(order, "acked")
    (intent,) = await rig.intents(order)
    return order, intent["order_id"]


async def test_update_over_the_feed_moves_an_order_without_any_poll(rig):
    async with rig.worker(**quiet()):
        order, order_id = await acked(rig)
        await push(rig, rig.counter.set(order_id, status="OPEN"))
        await rig.until_state(order, "open")
        complete = rig.counter.set(
            order_id, status="COMPLETE", filled_quantity=65, average_price=101.5
        )
        await push(rig, complete)
        await rig.until_state(order, "complete")
        # Late and repeated ones change nothing.
        reads = rig.counter.reads
        await push(rig, {**complete, "status": "OPEN", "filled_quantity": 0})
        await push(rig, complete)
        marker, _ = await acked(rig)
        await push(rig, {"nonsense": True})
        await push(rig, [])
        assert await rig.state(order) == "complete"
        (intent,) = await rig.intents(order)
        assert marker is not None
    assert intent["filled_quantity"] == 65
    assert rig.counter.reads <= reads + 1


async def test_update_settles_an_order_of_unknown_outcome(rig):
    rig.counter.script.append(unclear(accepts=True, visible_after_seconds=600))
    order = rig.place(rig.main)
    async with rig.worker(orders_unknown_window_seconds=600):
        await rig.send(order)
        await rig.until_state(order, "unknown")
        (row,) = rig.counter.rows()
        await push(rig, row)
        await rig.until_state(order, "open")
    assert len(rig.counter.requests) == 1


async def test_genuine_postback_moves_an_order_and_a_forged_one_is_refused(rig):
    async with rig.worker(**quiet()):
        order, order_id = await acked(rig)
        await until_served(rig)
        row = rig.counter.set(order_id, status="CANCELLED")
        for forged in (
            await post(rig, row, secret="guess"),
            await post(rig, row, checksum=""),
            await post(rig, row, checksum=None),
            await post(rig, row, checksum="ä"),
            await post(rig, row, order_id="999"),
        ):
            assert forged.error is not None
            assert forged.error.code == "forbidden"
            assert SECRET not in forged.error.message
        assert await rig.state(order) == "acked"
        genuine = await post(rig, row)
        assert genuine.error is None
        await rig.until_state(order, "cancelled")


async def test_postback_cannot_be_checked_without_the_secret(rig):
    await rig.log_in(rig.main, api_secret=None)
    async with rig.worker(**quiet()):
        _, order_id = await acked(rig)
        await until_served(rig)
        reply = await post(rig, rig.counter.set(order_id, status="CANCELLED"))
    assert reply.error is not None
    assert reply.error.code == "unavailable"


async def test_order_that_the_broker_shows_after_it_was_given_up_counts(rig):
    rig.counter.script.append(unclear(accepts=True, visible_after_seconds=600))
    order = rig.place(rig.main)
    async with rig.worker():
        await rig.send(order)
        await rig.until_state(order, "absent")
        (row,) = rig.counter.rows()
        await push(rig, row)
        await rig.until_state(order, "open")
    assert not rig.counter.doubled
