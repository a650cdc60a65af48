"""The gateway before the real orders worker: from the request to the broker and back."""

import asyncio
import hashlib

import pytest

from libs.common.bus.connection import Bus
from tests.fakes.order_counter import unclear
from tests.integration.conftest import settings_for
from tests.integration.gateway_rig import running_gateway, token
from tests.integration.orders_rig import SECRET, SYMBOLS, running_rig, shared_ledger

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


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


@pytest.fixture
async def gateway(nats_server, ledger_url, rig):
    async with running_gateway(nats_server.url, ledger_url) as gateway:
        yield gateway


def body(rig, **changes):
    return {
        "account": rig.main,
        "exchange": "NFO",
        "tradingsymbol": SYMBOLS[0],
        "transaction_type": "BUY",
        "quantity": 65,
        "product": "NRML",
        "order_type": "LIMIT",
        "price": 100,
        **changes,
    }


async def test_order_asked_for_many_times_reaches_the_broker_once(gateway, rig):
    async with rig.worker():
        answers = await asyncio.gather(
            *(
                gateway.send(
                    "POST", "/orders/place?wait=30000", body(rig), **{"Idempotency-Key": "many"}
                )
                for _ in range(8)
            )
        )
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.json()["task"]["order_ids"][0] for answer in answers}) == 1
        assert list(rig.counter.accepted.values()) == [1]

        refused = await gateway.send("POST", "/orders/place?wait=30000", body(rig, quantity=7))
        task = refused.json()["task"]
        assert (refused.status_code, task["state"], task["code"]) == (200, "rejected", "off_lot")
        assert list(rig.counter.accepted.values()) == [1]

        limits = await gateway.get(f"/accounts/{rig.main}/limits")
        assert (limits.status_code, limits.json()["breaker"]) == (200, "closed")


async def test_postback_of_the_broker_completes_the_order_and_a_forged_one_does_not(gateway, rig):
    async with rig.worker(), gateway.client(token(orders="*")) as peer:
        await peer.say(action="subscribe_orders", accounts=[rig.main])
        await peer.next("orders_subscribed")
        placed = await gateway.send("POST", "/orders/place?wait=30000", body(rig))
        task = placed.json()["task"]
        order_id = task["order_ids"][0]
        [row] = rig.counter.rows(order_id=order_id)
        row = {**row, "status": "COMPLETE", "filled_quantity": 65, "average_price": 99.5}
        stamp = str(row["order_timestamp"])

        def posted(secret):
            text = f"{order_id}{stamp}{secret}"
            checksum = hashlib.sha256(text.encode()).hexdigest()
            user = f"U{rig.main.upper()}"
            return {**row, "order_timestamp": stamp, "user_id": user, "checksum": checksum}

        forged = await gateway.send("POST", "/postback", posted("another-secret"))
        assert forged.status_code == 403
        genuine = await gateway.send("POST", "/postback", posted(SECRET))
        assert (genuine.status_code, genuine.json()) == (200, {"accepted": True})
        while (event := (await peer.next("order"))["data"])["state"] != "complete":
            assert event["task_id"] == task["task_id"]
        assert event["filled_quantity"] == 65


async def test_unknown_outcome_is_decided_over_rest(gateway, rig):
    rig.counter.script.append(unclear(accepts=False))
    async with rig.worker():
        placed = await gateway.send("POST", "/orders/place?wait=30000", body(rig))
        task = placed.json()["task"]
        assert (placed.status_code, task["state"]) == (200, "absent")
        assert task["predecessor_state"] == "RUNNING"
        path = f"/orders/{task['task_id']}"
        [item] = (await gateway.get(f"/orders/unknown?account={rig.main}")).json()["items"]
        assert (item["task_id"], item["state"]) == (task["task_id"], "absent")
        decided = await gateway.send(
            "POST", f"{path}/resolve", {"resolution": "absent", "reason": "looked", "by": "asha"}
        )
        assert decided.status_code == 200, decided.text
        shown = (await gateway.get(path)).json()
        assert shown["events"][-1]["kind"] == "resolved"
        assert (await gateway.get("/orders/unknown")).json()["items"] == []
