"""Orders over REST on the real NATS and PostgreSQL: each key once, whatever is repeated or lost."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from libs.common.bus.connection import Bus
from libs.common.bus.durable import publish_once
from libs.common.bus.kv import Bucket
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import (
    AccountCondition,
    AccountSource,
    AccountState,
    RpcError,
)
from libs.common.contracts.orders import (
    CancelOrder,
    OrderAction,
    OrderControls,
    OrderReply,
    OrdersStatus,
    OrderState,
    PlaceOrder,
    Postback,
    Resolution,
)
from tests.fakes.orders_worker import OrdersWorker, add_event, insert_task, set_intent
from tests.integration.conftest import settings_for
from tests.integration.gateway_rig import (
    DEADLINE_SECONDS,
    NOWHERE,
    running_gateway,
    running_postgres,
    token,
)

pytestmark = pytest.mark.integration

ORDER: dict[str, Any] = {
    "account": "main",
    "exchange": "NFO",
    "tradingsymbol": "NIFTY26DEC26000CE",
    "transaction_type": "BUY",
    "quantity": 75,
    "product": "NRML",
    "order_type": "LIMIT",
    "price": 101.5,
}
WAIT = "?wait=30000"


@pytest.fixture(scope="module")
def anyio_backend():
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture(scope="module")
async def server(tmp_path_factory):
    async with running_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
async def postgres(server):
    connection = await asyncpg.connect(server.url)
    await connection.execute(
        "TRUNCATE order_tasks, order_intents, order_events, order_dead_letters, broker_orders, "
        "broker_trades, broker_snapshots"
    )
    yield connection
    await connection.close()


@pytest.fixture
async def bus(nats_server):
    async with Bus.open(settings_for(nats_server), name="test") as bus:
        await ensure(
            bus,
            [streams.ORDER_COMMANDS, streams.ORDER_EVENTS],
            [streams.ACCOUNTS, streams.ORDER_CONTROLS, streams.STATUS],
        )
        for account in ("main", "hedge"):
            await announce(bus, account)
        yield bus


async def announce(bus, account):
    state = AccountState(
        account=account,
        source=AccountSource.DATABASE,
        condition=AccountCondition.READY,
        connections=1,
        tokens_per_connection=100,
        at_ns=time.time_ns(),
    )
    await Bucket(bus, streams.ACCOUNTS.name).put(subjects.escape(account), codec.to_json(state))


@pytest.fixture
async def gateway(nats_server, bus, server, postgres):
    async with running_gateway(nats_server.url, server.url) as gateway:
        yield gateway


@pytest.fixture
async def worker(bus, server, gateway):
    async with OrdersWorker(bus, server.url, "main").running() as worker:
        yield worker


def keyed(key):
    return {"Idempotency-Key": key}


async def stored(bus):
    """The commands that the stream holds, by subject."""
    info = await bus.jetstream.stream_info(streams.ORDER_COMMANDS.name, subjects_filter=">")
    return sorted(info.state.subjects or ())


async def ask(gateway, path):
    answer = await gateway.get(path)
    assert answer.status_code == 200, answer.text
    return answer.json()


async def until_state(gateway, task_id, state):
    """Wait until the ledger has a task in a state; gives the task."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            answer = await gateway.get(f"/orders/{task_id}?account=main")
            if answer.status_code == 200 and answer.json()["state"] == state:
                return answer.json()
            await asyncio.sleep(0.02)


# -- accepting -----------------------------------------------------------------------------------


async def test_order_is_accepted_once_it_is_stored_and_the_key_comes_back(gateway, bus):
    answer = await gateway.send("POST", "/orders/place", ORDER, **keyed("spread-1"))
    assert answer.status_code == 202
    assert answer.headers["idempotency-key"] == "spread-1"
    body = answer.json()
    assert (body["idempotency_key"], body["outcome"]) == ("spread-1", "accepted")
    task = body["task"]
    assert (task["task_id"], task["state"], task["predecessor_state"]) == (
        "spread-1",
        "pending",
        "PENDING",
    )
    held = await bus.jetstream.get_msg(
        streams.ORDER_COMMANDS.name, subject=subjects.order_command("main", "spread-1")
    )
    command = codec.from_json(PlaceOrder, held.data)
    assert (command.quantity, command.price, command.user) == (75, 101.5, "default")


async def test_key_is_made_for_a_caller_who_gives_none(gateway, bus):
    answers = [await gateway.send("POST", "/orders/place", ORDER) for _ in range(2)]
    keys = [answer.headers["idempotency-key"] for answer in answers]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert len(set(keys)) == 2
    assert all(len(key) == 26 for key in keys)
    assert [answer.json()["idempotency_key"] for answer in answers] == keys
    assert len(await stored(bus)) == 2


async def test_change_and_cancellation_are_commands_too(gateway, bus):
    change = {"account": "main", "target_task_id": "spread-1", "price": 99}
    answer = await gateway.send("POST", "/orders/modify", change, **keyed("m-1"))
    assert (answer.status_code, answer.json()["task"]["verb"]) == (202, "modify")
    cancel = {"account": "main", "order_id": "261124000001"}
    answer = await gateway.send("POST", "/orders/cancel", cancel, **keyed("c-1"))
    assert (answer.status_code, answer.json()["task"]["verb"]) == (202, "cancel")
    assert await stored(bus) == ["order.command.v1.main.c-1", "order.command.v1.main.m-1"]


async def test_repetition_gives_the_same_task_and_another_body_a_conflict(gateway, bus):
    first = await gateway.send("POST", "/orders/place", ORDER, **keyed("k"))
    again = await gateway.send(
        "POST", "/orders/place", {**dict(reversed(ORDER.items())), "validity": "DAY"}, **keyed("k")
    )
    assert (again.status_code, again.json()["outcome"]) == (202, "known")
    assert again.json()["task"] == first.json()["task"]

    other = await gateway.send("POST", "/orders/place", {**ORDER, "quantity": 150}, **keyed("k"))
    assert other.status_code == 409
    assert other.headers["idempotency-key"] == "k"
    error = other.json()["error"]
    assert (error["code"], error["field"]) == ("conflict", "Idempotency-Key")
    cancel = await gateway.send(
        "POST", "/orders/cancel", {"account": "main", "order_id": "1"}, **keyed("k")
    )
    assert cancel.status_code == 409

    # A key belongs to an account.
    hedge = await gateway.send("POST", "/orders/place", {**ORDER, "account": "hedge"}, **keyed("k"))
    assert (hedge.status_code, hedge.json()["outcome"]) == (202, "accepted")
    assert len(await stored(bus)) == 2


async def test_many_at_once_with_one_key_store_one_command(gateway, bus):
    answers = await asyncio.gather(
        *(gateway.send("POST", "/orders/place", ORDER, **keyed("race")) for _ in range(20))
    )
    assert {answer.status_code for answer in answers} == {202}
    outcomes = sorted(answer.json()["outcome"] for answer in answers)
    assert outcomes == ["accepted"] + ["known"] * 19
    assert await stored(bus) == ["order.command.v1.main.race"]


async def test_ledger_knows_a_key_that_the_stream_has_forgotten(gateway, bus, postgres):
    command = PlaceOrder(task_id="old", created_at_ns=1, **ORDER)
    await insert_task(postgres, command)
    await set_intent(postgres, command, OrderState.COMPLETE, order_id="77")
    await add_event(postgres, command, "updated", OrderState.COMPLETE, order_id="77")

    again = await gateway.send("POST", "/orders/place", ORDER, **keyed("old"))
    assert (again.status_code, again.json()["outcome"]) == (200, "known")
    assert again.json()["task"]["order_ids"] == ["77"]
    assert "fingerprint" not in again.json()["task"]
    other = await gateway.send("POST", "/orders/place", {**ORDER, "quantity": 1}, **keyed("old"))
    assert other.status_code == 409
    assert await stored(bus) == []


async def test_wait_gives_the_outcome_and_a_repetition_gives_it_again(gateway, worker):
    answer = await gateway.send("POST", f"/orders/place{WAIT}", ORDER, **keyed("w"))
    assert answer.status_code == 200, answer.text
    task = answer.json()["task"]
    assert task["state"] in {"acked", "open"}
    assert task["predecessor_state"] == "COMPLETED"
    assert len(task["order_ids"]) == 1
    again = await gateway.send("POST", f"/orders/place{WAIT}", ORDER, **keyed("w"))
    assert (again.status_code, again.json()["outcome"]) == (200, "known")
    assert again.json()["task"]["order_ids"] == task["order_ids"]


async def test_wait_that_ends_before_the_outcome_is_answered_as_accepted(gateway, worker):
    worker.steps = lambda _: (OrderState.SENDING, OrderState.UNKNOWN)
    answer = await gateway.send("POST", "/orders/place?wait=300", ORDER, **keyed("u"))
    assert answer.status_code == 202
    task = await until_state(gateway, "u", "unknown")
    assert task["predecessor_state"] == "RUNNING"
    again = await gateway.send("POST", "/orders/place", ORDER, **keyed("u"))
    assert (again.status_code, again.json()["task"]["state"]) == (202, "unknown")


async def test_caller_who_waits_is_answered_when_the_gateway_stops(
    nats_server, bus, server, postgres
):
    async with running_gateway(nats_server.url, server.url) as gateway:
        waiting = asyncio.create_task(
            gateway.send("POST", f"/orders/place{WAIT}", ORDER, **keyed("stop"))
        )
        async with asyncio.timeout(DEADLINE_SECONDS):
            while await stored(bus) == []:  # noqa: ASYNC110  # The stream has no event for us.
                await asyncio.sleep(0.01)
        gateway.life.request_stop("the test wants it")
        answer = await waiting
        assert (answer.status_code, answer.headers["idempotency-key"]) == (202, "stop")


async def test_callers_beyond_the_bound_do_not_wait(nats_server, bus, server, postgres):
    async with running_gateway(nats_server.url, server.url, order_waits_max=0) as gateway:
        answer = await gateway.send("POST", f"/orders/place{WAIT}", ORDER)
        assert answer.status_code == 202


async def test_orders_are_accepted_without_the_database(nats_server, bus):
    async with running_gateway(nats_server.url, NOWHERE) as gateway:
        first = await gateway.send("POST", "/orders/place", ORDER, **keyed("k"))
        again = await gateway.send("POST", "/orders/place", ORDER, **keyed("k"))
        other = await gateway.send("POST", "/orders/place", {**ORDER, "price": 1}, **keyed("k"))
        assert [a.status_code for a in (first, again, other)] == [202, 202, 409]
        assert again.json()["task"] == first.json()["task"]
        listing = await gateway.get("/orders")
        assert (listing.status_code, listing.json()["error"]["code"]) == (
            503,
            "database_unavailable",
        )
        waiting = await gateway.get("/orders/k?account=main")
        assert waiting.status_code == 503


async def test_ledger_that_hangs_holds_no_order_up(gateway, bus, postgres):
    await gateway.send("POST", "/orders/place", ORDER, **keyed("before"))
    async with postgres.transaction():
        # Every reader of the table waits for the end of this.
        await postgres.execute("LOCK TABLE order_tasks IN ACCESS EXCLUSIVE MODE")
        fresh = await gateway.send("POST", "/orders/place", ORDER, **keyed("during"))
        again = await gateway.send("POST", "/orders/place", ORDER, **keyed("before"))
        other = {**ORDER, "quantity": 1}
        conflict = await gateway.send("POST", "/orders/place", other, **keyed("before"))
    assert [a.status_code for a in (fresh, again, conflict)] == [202, 202, 409]
    assert again.json()["outcome"] == "known"
    assert len(await stored(bus)) == 2


# -- refusing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"quantity": -5}, "quantity"),
        ({"quantity": 0}, "quantity"),
        ({"quantity": 1.5}, "quantity"),
        ({"quantity": "75"}, "quantity"),
        ({"price": -1}, "price"),
        ({"price": 1e300}, "price"),
        ({"transaction_type": "HOLD"}, "transaction_type"),
        ({"exchange": "NYSE"}, "exchange"),
        ({"product": None}, "product"),
        ({"surprise": 1}, "surprise"),
        ({"task_id": "mine"}, "task_id"),
        ({"created_at_ns": 1}, "created_at_ns"),
        ({"verb": "cancel"}, "verb"),
        ({"account": ""}, "account"),
    ],
)
async def test_wrong_field_is_named_and_nothing_is_stored(gateway, bus, change, field):
    answer = await gateway.send("POST", "/orders/place", {**ORDER, **change})
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["field"] == field
    assert await stored(bus) == []


async def test_missing_fields_and_bodies_that_are_no_orders_are_refused(gateway, bus):
    for body, status, field in (
        ({"account": "main"}, 422, "exchange"),
        ([], 422, "body"),
        ("null", 422, "body"),
        ('{"account": NaN}', 400, None),
        ("no json", 400, None),
        ("", 400, None),
        ({"pad": "x" * 1024 * 1024}, 413, None),
    ):
        answer = await gateway.send("POST", "/orders/place", body)
        assert (answer.status_code, answer.json()["error"]["field"]) == (status, field), answer.text
    for body in ({"account": "main"}, {"account": "main", "order_id": "1", "target_task_id": "t"}):
        for verb in ("modify", "cancel"):
            answer = await gateway.send("POST", f"/orders/{verb}", body)
            assert (answer.status_code, answer.json()["error"]["field"]) == (422, "order_id")
    for wait in ("-1", "30001", "soon"):
        answer = await gateway.send("POST", f"/orders/place?wait={wait}", ORDER)
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, "wait")
    assert await stored(bus) == []


@pytest.mark.parametrize("key", ["", "a b", "x" * 65, "umläut".encode("latin-1"), "a.b", "a*"])
async def test_key_that_is_none_is_refused_by_name(gateway, bus, key):
    answer = await gateway.send("POST", "/orders/place", ORDER, **{"Idempotency-Key": key})
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert (error["code"], error["field"]) == ("bad_idempotency_key", "Idempotency-Key")
    assert await stored(bus) == []


async def test_unknown_account_is_not_found_and_an_unread_one_unavailable(
    nats_server, server, postgres, gateway
):
    answer = await gateway.send("POST", "/orders/place", {**ORDER, "account": "nobody"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_account")
    for path in ("limits", "kill-switch"):
        assert (await gateway.get(f"/accounts/nobody/{path}")).status_code == 404


async def test_key_is_wanted_for_everything_but_the_postback(nats_server, bus):
    async with running_gateway(
        nats_server.url, NOWHERE, api_key_enabled=True, api_key="k" * 20
    ) as gateway:
        for method, path in (
            ("POST", "/orders/place"),
            ("POST", "/orders/batch"),
            ("GET", "/orders"),
            ("GET", "/orders/unknown"),
            ("GET", "/orders/dead"),
            ("GET", "/orders/x"),
            ("POST", "/orders/x/resolve"),
            ("GET", "/trades"),
            ("GET", "/positions"),
            ("GET", "/accounts/main/limits"),
            ("GET", "/accounts/main/kill-switch"),
            ("POST", "/accounts/main/kill-switch"),
        ):
            answer = await gateway.send(method, path, ORDER if method == "POST" else None)
            assert answer.status_code == 401, path
        assert (await gateway.send("POST", "/postback", {})).status_code == 400
        placed = await gateway.send("POST", "/orders/place", ORDER, **{"X-API-Key": "k" * 20})
        assert placed.status_code == 202


# -- batches -------------------------------------------------------------------------------------


async def test_batch_is_stored_in_order_with_an_answer_for_each(gateway, bus):
    orders = [
        {"verb": "place", **ORDER},
        {"verb": "place", **ORDER, "transaction_type": "SELL"},
        {"verb": "cancel", "account": "main", "target_task_id": "b-0"},
    ]
    answer = await gateway.send("POST", "/orders/batch", {"orders": orders}, **keyed("b"))
    assert answer.status_code == 202, answer.text
    items = answer.json()["items"]
    assert [(i["index"], i["task_id"], i["status"]) for i in items] == [
        (0, "b-0", 202),
        (1, "b-1", 202),
        (2, "b-2", 202),
    ]
    sequences = [
        (await bus.jetstream.get_msg(streams.ORDER_COMMANDS.name, subject=s)).seq
        for s in (subjects.order_command("main", f"b-{n}") for n in range(3))
    ]
    assert sequences == sorted(sequences)

    orders[1] = {**orders[1], "quantity": 150}
    again = await gateway.send("POST", "/orders/batch", {"orders": orders}, **keyed("b"))
    assert again.status_code == 207
    assert [i["status"] for i in again.json()["items"]] == [202, 409, 202]
    assert [i["outcome"] for i in again.json()["items"]] == ["known", None, "known"]


async def test_batch_with_one_wrong_order_stores_none(gateway, bus):
    for wrong, field in (
        ({"verb": "place", **ORDER, "quantity": -1}, "orders[1].quantity"),
        ({"verb": "steal", **ORDER}, "orders[1].verb"),
        ({**ORDER}, "orders[1].verb"),
        ({"verb": "cancel", "account": "main"}, "orders[1].order_id"),
        ({"verb": "place", **ORDER, "task_id": "x"}, "orders[1].task_id"),
    ):
        body = {"orders": [{"verb": "place", **ORDER}, wrong]}
        answer = await gateway.send("POST", "/orders/batch", body)
        assert answer.status_code == 422, answer.text
        assert answer.json()["error"]["field"] == field
    many = {"orders": [{"verb": "place", **ORDER}] * 101}
    assert (await gateway.send("POST", "/orders/batch", many)).status_code == 422
    assert (await gateway.send("POST", "/orders/batch", {"orders": []})).status_code == 422
    long = await gateway.send(
        "POST", "/orders/batch", {"orders": [{"verb": "place", **ORDER}]}, **keyed("x" * 62)
    )
    assert long.status_code == 400
    assert await stored(bus) == []


# -- the ledger ----------------------------------------------------------------------------------


async def test_task_shows_its_requests_and_its_whole_history(gateway, worker):
    await gateway.send("POST", f"/orders/place{WAIT}", ORDER, **keyed("t"))
    task = await until_state(gateway, "t", "open")
    assert [event["kind"] for event in task["events"]] == ["accepted", "sending", "acked", "open"]
    assert [event["seq"] for event in task["events"]] == [1, 2, 3, 4]
    [request] = task["requests"]
    assert (request["leg"], request["order_id"]) == (0, task["order_ids"][0])
    assert task["command"]["tradingsymbol"] == ORDER["tradingsymbol"]
    missing = await gateway.get("/orders/nothing")
    assert (missing.status_code, missing.json()["error"]["field"]) == (404, "task_id")
    assert (await gateway.get("/orders/a.b")).status_code == 422


async def test_task_that_is_only_in_the_stream_is_shown_and_one_of_two_accounts_is_ambiguous(
    gateway, postgres
):
    await gateway.send("POST", "/orders/place", ORDER, **keyed("s"))
    shown = await ask(gateway, "/orders/s?account=main")
    assert (shown["state"], shown["accepted_at"], shown["events"]) == ("pending", None, [])
    for account in ("main", "hedge"):
        fields = {**ORDER, "account": account}
        await insert_task(postgres, PlaceOrder(task_id="two", created_at_ns=1, **fields))
    both = await gateway.get("/orders/two")
    assert (both.status_code, both.json()["error"]["code"]) == (409, "ambiguous")
    assert (await ask(gateway, "/orders/two?account=hedge"))["account"] == "hedge"


async def test_list_pages_by_cursor_without_losing_or_repeating_a_task(gateway, postgres):
    start = datetime(2026, 11, 24, 4, 0, tzinfo=UTC)
    for number in range(25):
        command = PlaceOrder(task_id=f"t-{number:02d}", created_at_ns=1, **ORDER)
        # Several share a moment: the cursor must tell them apart.
        await insert_task(postgres, command, accepted_at=start + timedelta(seconds=number // 3))
    seen, cursor = [], ""
    while True:
        page = await ask(gateway, f"/orders?limit=7{cursor}")
        seen += [item["task_id"] for item in page["items"]]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
        if len(seen) == 7:
            # One that comes meanwhile is on no later page.
            await insert_task(postgres, PlaceOrder(task_id="new", created_at_ns=1, **ORDER))
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == 25
    assert len(set(seen)) == 25


async def test_list_filters_by_every_field(gateway, postgres):
    at = datetime(2026, 11, 24, 4, 0, tzinfo=UTC)
    place = PlaceOrder(task_id="p", user="asha", created_at_ns=1, **ORDER)
    cancel = CancelOrder(account="hedge", task_id="c", target_task_id="p", created_at_ns=1)
    await insert_task(postgres, place, accepted_at=at)
    await set_intent(postgres, place, OrderState.OPEN, order_id="5")
    await add_event(postgres, place, "updated", OrderState.OPEN)
    await insert_task(postgres, cancel, accepted_at=at + timedelta(hours=1))
    for query, expected in (
        ("", ["c", "p"]),
        ("account=main", ["p"]),
        ("user=asha", ["p"]),
        ("state=open", ["p"]),
        ("state=pending", ["c"]),
        ("verb=cancel", ["c"]),
        ("tradingsymbol=NIFTY26DEC26000CE", ["p"]),
        ("tradingsymbol=NIFTY26DEC26000C", []),
        ("since=2026-11-24T09:30:00", ["c", "p"]),
        ("since=2026-11-24T09:30:01", ["c"]),
        ("until=2026-11-24T09:30:00", ["p"]),
        ("since=2026-11-24&until=2026-11-24", ["c", "p"]),
    ):
        page = await ask(gateway, f"/orders?{query}")
        assert [item["task_id"] for item in page["items"]] == expected, query
    for query in ("state=done", "limit=0", "cursor=x", "verb=buy", "since=now", "colour=red"):
        answer = await gateway.get(f"/orders?{query}")
        assert (answer.status_code, answer.json()["error"]["field"]) == (
            422,
            query.partition("=")[0],
        )


async def test_unknown_and_dead_are_shown_with_what_is_known_of_them(gateway, postgres):
    command = PlaceOrder(task_id="lost", created_at_ns=1, **ORDER)
    await insert_task(postgres, command)
    await set_intent(postgres, command, OrderState.UNKNOWN)
    await add_event(postgres, command, "unknown", OrderState.UNKNOWN, evidence={"looked": 3})
    await postgres.execute(
        "INSERT INTO order_dead_letters (account, task_id, stream_sequence, code, message, field, "
        "command) VALUES ('main', 'bad', 9, 'bad_command', 'no', 'quantity', '{\"x\":1}')"
    )
    [item] = (await ask(gateway, "/orders/unknown"))["items"]
    assert (item["task_id"], item["state"], item["last_event"]["evidence"]) == (
        "lost",
        "unknown",
        {"looked": 3},
    )
    assert (await ask(gateway, "/orders/unknown?account=hedge"))["items"] == []
    dead = await ask(gateway, "/orders/dead")
    assert dead["total"] == 1
    assert (dead["items"][0]["kind"], dead["items"][0]["field"]) == ("command", "quantity")


async def test_brokers_word_is_shown_as_it_was_told(gateway, postgres):
    await postgres.execute(
        "INSERT INTO broker_trades (account, trade_id, day, order_id, body, at) VALUES "
        "('main', '1', '2026-11-24', '77', '{\"trade_id\":\"1\",\"quantity\":75}', now())"
    )
    await postgres.execute(
        "INSERT INTO broker_snapshots (account, kind, body, taken_at) VALUES "
        "('main', 'positions', '{\"net\":[],\"day\":[]}', now())"
    )
    [trade] = (await ask(gateway, "/trades?account=main&day=2026-11-24&order_id=77"))["items"]
    assert (trade["trade_id"], trade["quantity"], trade["account"]) == ("1", 75, "main")
    assert (await ask(gateway, "/trades?day=2026-11-23"))["items"] == []
    [row] = (await ask(gateway, "/positions"))["items"]
    assert row["positions"] == {"net": [], "day": []}
    assert (await ask(gateway, "/holdings"))["items"] == []
    assert (await ask(gateway, "/margins?account=main"))["total"] == 0


# -- people's decisions --------------------------------------------------------------------------


async def test_resolution_reaches_the_worker_and_its_refusal_the_caller(gateway, worker, postgres):
    await insert_task(postgres, PlaceOrder(task_id="lost", created_at_ns=1, **ORDER))
    body = {"resolution": "adopt", "order_id": "77", "reason": "seen at the broker", "by": "asha"}
    answer = await gateway.send("POST", "/orders/lost/resolve", body)
    assert (answer.status_code, answer.json()["done"]) == (200, True)
    [asked] = worker.asked
    assert (asked.action, asked.task_id, asked.resolution, asked.order_id, asked.by) == (
        OrderAction.RESOLVE,
        "lost",
        Resolution.ADOPT,
        "77",
        "asha",
    )
    worker.answer = OrderReply(error=RpcError(code="conflict", message="it is open"))
    refused = await gateway.send("POST", "/orders/lost/resolve", body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "conflict")
    for wrong, field in (
        ({"resolution": "adopt", "reason": "x"}, "order_id"),
        ({"resolution": "absent", "order_id": "7", "reason": "x"}, "order_id"),
        ({"resolution": "absent"}, "reason"),
        ({"resolution": "forget", "reason": "x"}, "resolution"),
    ):
        answer = await gateway.send("POST", "/orders/lost/resolve", wrong)
        assert (answer.status_code, answer.json()["error"]["field"]) == (422, field)
    assert (await gateway.send("POST", "/orders/none/resolve", body)).status_code == 404


async def test_limits_come_from_the_worker_and_without_one_are_unavailable(gateway, bus, server):
    answer = await gateway.get("/accounts/main/limits")
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_worker")
    worker = OrdersWorker(bus, server.url, "main")
    worker.answer = OrderReply(result={"per_second": {"limit": 9, "used": 1}})
    async with worker.running():
        assert (await ask(gateway, "/accounts/main/limits"))["per_second"]["used"] == 1


async def test_kill_switch_works_without_a_worker_and_keeps_what_others_wrote(gateway, bus):
    assert (await ask(gateway, "/accounts/main/kill-switch"))["kill_switch"] is False
    body = {"on": True, "reason": "runaway", "by": "asha"}
    answer = await gateway.send("POST", "/accounts/main/kill-switch", body)
    assert (answer.status_code, answer.json()["kill_switch"]) == (200, True)
    entry = await Bucket(bus, streams.ORDER_CONTROLS.name).get("main")
    assert entry is not None
    controls = codec.from_json(OrderControls, entry.value)
    assert (controls.kill_switch, controls.reason, controls.by) == (True, "runaway", "asha")
    await gateway.send("POST", "/accounts/main/kill-switch", {"on": False})
    assert (await ask(gateway, "/accounts/main/kill-switch"))["kill_switch"] is False
    wrong = await gateway.send(
        "POST", "/accounts/main/kill-switch", {"on": False, "cancel_open_orders": True}
    )
    assert (wrong.status_code, wrong.json()["error"]["field"]) == (422, "cancel_open_orders")
    answers = await asyncio.gather(
        *(gateway.send("POST", "/accounts/main/kill-switch", body) for _ in range(3))
    )
    assert {answer.status_code for answer in answers} == {200}


async def test_kill_switch_asks_for_the_cancellation_of_every_order_that_may_be_open(
    gateway, bus, postgres
):
    for name, state in (
        ("open", OrderState.OPEN),
        ("lost", OrderState.UNKNOWN),
        ("done", OrderState.COMPLETE),
    ):
        command = PlaceOrder(task_id=name, created_at_ns=1, **ORDER)
        await insert_task(postgres, command)
        await add_event(postgres, command, "updated", state)
    answer = await gateway.send(
        "POST", "/accounts/main/kill-switch", {"on": True, "cancel_open_orders": True}
    )
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["cancels"]) == 2
    held = [
        codec.from_json(
            CancelOrder,
            (await bus.jetstream.get_msg(streams.ORDER_COMMANDS.name, subject=subject)).data,
        )
        for subject in await stored(bus)
    ]
    assert {command.target_task_id for command in held} == {"open", "lost"}


async def test_kill_switch_is_set_even_where_the_ledger_cannot_be_read(nats_server, bus):
    async with running_gateway(nats_server.url, NOWHERE) as gateway:
        answer = await gateway.send(
            "POST", "/accounts/main/kill-switch", {"on": True, "cancel_open_orders": True}
        )
        assert answer.status_code == 207
        assert answer.json()["kill_switch"] is True
        assert answer.json()["cancel_error"]["code"] == "database_unavailable"


async def test_accounts_tell_how_their_orders_fare(gateway, bus):
    status = OrdersStatus(
        account="main", worker="orders-1", ready=True, breaker="open", at_ns=time.time_ns()
    )
    await Bucket(bus, streams.STATUS.name).put("orders-main", codec.to_json(status))
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            rows = {row["account"]: row for row in (await ask(gateway, "/accounts"))["items"]}
            if rows["main"]["orders"] is not None:
                break
            await asyncio.sleep(0.02)
    assert rows["main"]["orders"]["breaker"] == "open"
    assert rows["hedge"]["orders"] is None


# -- the broker ----------------------------------------------------------------------------------

POSTBACK = {
    "user_id": "AB1234",
    "order_id": "77",
    "order_timestamp": "2026-11-24 09:30:00",
    "checksum": "a" * 64,
    "status": "COMPLETE",
}


async def test_postback_reaches_whoever_holds_the_users_orders_untouched(gateway, bus):
    alone = await gateway.send("POST", "/postback", POSTBACK)
    assert (alone.status_code, alone.json()["error"]["code"]) == (503, "no_worker")
    taken, reply = [], OrderReply()

    async def answer(message):
        taken.append(codec.from_json(Postback, message.payload))
        await bus.publish(message.reply, codec.to_json(reply))

    await bus.subscribe(subjects.rpc_postback_of("AB1234"), answer)
    await bus.client.flush()
    raw = json.dumps(POSTBACK, indent=1)
    async with httpx.AsyncClient() as client:
        # The broker names no type worth relying on.
        accepted = await client.post(f"{gateway.url}/postback", content=raw)
    assert (accepted.status_code, accepted.json()) == (200, {"accepted": True})
    assert bytes(taken[0].body).decode() == raw
    for code, status, told in (
        ("forbidden", 403, "checksum"),
        ("bad_request", 400, "bad_request"),
        ("unavailable", 503, "no_worker"),
    ):
        reply = OrderReply(error=RpcError(code=code, message="why"))
        refused = await gateway.send("POST", "/postback", POSTBACK)
        assert (refused.status_code, refused.json()["error"]["code"]) == (status, told)


async def test_postback_that_is_none_is_refused_and_too_many_are_not_passed_on(nats_server, bus):
    async with running_gateway(nats_server.url, NOWHERE, postbacks_per_second_max=0.001) as gateway:
        large = await gateway.send("POST", "/postback", {**POSTBACK, "pad": "x" * 70_000})
        assert large.status_code == 413
        answer = await gateway.send("POST", "/postback", {**POSTBACK, "user_id": "a.*"})
        assert answer.status_code == 400
        assert (await gateway.send("POST", "/postback", POSTBACK)).status_code == 429


# -- WebSocket -----------------------------------------------------------------------------------


async def test_client_is_told_of_the_orders_that_its_token_opens(gateway, worker):
    async with (
        gateway.client(token(orders=["main"])) as main,
        gateway.client(token(orders="*")) as everything,
        gateway.client(token()) as nobody,
    ):
        await main.say(action="subscribe_orders", accounts=["main"])
        assert (await main.next("orders_subscribed"))["accounts"] == ["main"]
        await main.say(action="subscribe_orders", accounts=["hedge"])
        assert (await main.next("error"))["code"] == "forbidden"
        await everything.say(action="subscribe_orders", accounts=["*", "main"])
        assert (await everything.next("orders_subscribed"))["accounts"] == ["*", "main"]
        await nobody.say(action="subscribe_orders", accounts=["*"])
        error = await nobody.next("error")
        assert (error["code"], error["field"]) == ("forbidden", "accounts")

        await gateway.send("POST", "/orders/place", ORDER, **keyed("ws"))
        for peer in (main, everything):
            told = [(await peer.next("order"))["data"] for _ in range(4)]
            assert [event["seq"] for event in told] == [1, 2, 3, 4]
            assert told[-1]["state"] == "open"
            assert {event["task_id"] for event in told} == {"ws"}

        await main.say(action="unsubscribe_orders", accounts=["main"])
        assert (await main.next("orders_subscribed"))["accounts"] == []
        await gateway.send("POST", "/orders/place", ORDER, **keyed("ws2"))
        await until_state(gateway, "ws2", "open")
        await main.say(action="ping")
        assert (await main.receive())["type"] == "pong"


async def test_renewed_token_that_opens_less_ends_what_it_does_not_open(gateway, worker):
    async with gateway.client(token(orders=["main", "hedge"])) as peer:
        await peer.say(action="subscribe_orders", accounts=["main", "hedge"])
        await peer.next("orders_subscribed")
        await peer.say(action="auth", token=token(orders=["hedge"]))
        assert (await peer.next("orders_subscribed"))["accounts"] == ["hedge"]
        await peer.next("authenticated")


# -- NATS away -----------------------------------------------------------------------------------


async def test_command_is_not_accepted_while_nats_is_away_and_the_answer_says_so(
    nats_server, bus, server, postgres
):
    async with running_gateway(nats_server.url, server.url) as gateway:
        nats_server.kill()
        async with asyncio.timeout(DEADLINE_SECONDS):
            while True:
                answer = await gateway.send("POST", "/orders/place", ORDER, **keyed("away"))
                if answer.status_code == 503:
                    break
                # Until the gateway has noticed, nobody knows: 504, and the key makes it safe.
                assert answer.status_code == 504, answer.text
                assert "away" in answer.json()["error"]["message"]
        assert "nothing was accepted" in answer.json()["error"]["message"]
        assert answer.headers["idempotency-key"] == "away"
        nats_server.start()
        async with asyncio.timeout(DEADLINE_SECONDS):
            while answer.status_code != 202:
                await asyncio.sleep(0.1)
                answer = await gateway.send("POST", "/orders/place", ORDER, **keyed("away"))
    async with Bus.open(settings_for(nats_server), name="after") as after:
        assert await stored(after) == ["order.command.v1.main.away"]


async def test_lost_acknowledgement_is_answered_with_504_and_the_repetition_finds_the_command(
    nats_server, bus, gateway
):
    nats_server.pause()
    lost = await gateway.send("POST", "/orders/place", ORDER, **keyed("lost"))
    assert lost.status_code == 504
    error = lost.json()["error"]
    assert (error["code"], error["field"]) == ("uncertain", "Idempotency-Key")
    assert lost.headers["idempotency-key"] == "lost"
    nats_server.resume()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            again = await gateway.send("POST", "/orders/place", ORDER, **keyed("lost"))
            if again.status_code == 202:
                break
            await asyncio.sleep(0.1)
    held = await bus.jetstream.get_msg(
        streams.ORDER_COMMANDS.name, subject=subjects.order_command("main", "lost")
    )
    command = codec.from_json(PlaceOrder, held.data)
    assert command.task_id == "lost"
    assert len(await stored(bus)) == 1


async def test_full_stream_accepts_nothing_and_says_so(nats_server, bus, gateway):
    payload = codec.to_json(PlaceOrder(task_id="first", created_at_ns=1, **ORDER))
    await publish_once(
        bus, streams.ORDER_COMMANDS.name, subjects.order_command("main", "first"), payload
    )
    config = (await bus.jetstream.stream_info(streams.ORDER_COMMANDS.name)).config
    config.max_bytes = 600
    await bus.jetstream.update_stream(config)
    answer = await gateway.send("POST", "/orders/place", ORDER, **keyed("second"))
    assert answer.status_code == 503
    assert "nothing was accepted" in answer.json()["error"]["message"]
    batch = {"orders": [{"verb": "place", **ORDER}] * 2}
    answer = await gateway.send("POST", "/orders/batch", batch)
    assert (answer.status_code, [i["error"]["code"] for i in answer.json()["items"]]) == (
        207,
        ["unavailable", "not_attempted"],
    )
