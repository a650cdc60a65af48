"""Subscriptions over REST on the real PostgreSQL and NATS: claims, lists, and every bad input."""

import asyncio
import random
from collections import Counter
from typing import Any

import asyncpg
import pytest

from libs.common.bus.connection import Bus
from libs.common.bus.kv import Bucket
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import AccountPlan
from libs.common.database import Database
from libs.common.settings import DatabaseSettings
from services.control.domain.subscriptions import Condition, State
from services.control.subscription_states import SubscriptionStates
from tests.integration.conftest import settings_for, until
from tests.integration.gateway_rig import (
    NOWHERE,
    Gateway,
    Market,
    running_gateway,
    running_postgres,
)

pytestmark = pytest.mark.integration

FIELDS = {
    "instrument_token",
    "tradingsymbol",
    "exchange",
    "segment",
    "status",
    "state",
    "state_reason",
    "state_at",
    "requested_mode",
    "streamed_mode",
    "account_id",
    "pinned_account_id",
    "home_account_id",
    "underlying",
    "kind",
    "expiry",
    "strike",
    "option_type",
    "origin",
    "claims",
    "created_at",
    "updated_at",
    "planned_at",
}
MANY = 9000


@pytest.fixture(scope="module")
def anyio_backend():
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture
def market() -> Market:
    return Market(strikes=11)


@pytest.fixture(scope="module")
async def server(tmp_path_factory):
    async with running_postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture
async def postgres(server, market):
    await execute(
        server,
        "TRUNCATE instrument_dumps, instrument_dump_exchanges, instrument_rows,"
        " instrument_subscriptions,"
        " subscription_claims, plan_entries",
    )
    await market.fill(server.url)
    await execute(server, "DELETE FROM plan_entries")
    return server


@pytest.fixture
async def gateway(nats_server, postgres):
    async with running_gateway(nats_server.url, postgres.url) as gateway:
        yield gateway


async def execute(postgres, statement: str, *values: Any) -> list[asyncpg.Record]:
    connection = await asyncpg.connect(postgres.url)
    try:
        return await connection.fetch(statement, *values)
    finally:
        await connection.close()


async def subscribe(gateway: Gateway, **body: Any) -> dict[str, Any]:
    answer = await gateway.send("POST", "/subscriptions", body)
    assert answer.status_code in {200, 201}, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def withdraw(gateway: Gateway, token: int, query: str = "") -> dict[str, Any]:
    answer = await gateway.send("DELETE", f"/subscriptions/{token}{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def listed(gateway: Gateway, query: str) -> set[int]:
    answer = await gateway.get(f"/subscriptions?limit=1000&{query}")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["total"] == len(body["items"])
    return {item["instrument_token"] for item in body["items"]}


# -- claims ----------------------------------------------------------------------------------------


async def test_claim_is_created_once_and_repeating_it_changes_nothing(gateway, postgres, market):
    token = market.options[0].instrument_token
    answer = await gateway.send("POST", "/subscriptions", {"instrument_token": token})
    assert answer.status_code == 201
    body = answer.json()
    assert body["outcome"] == "subscribed"
    row = body["subscription"]
    assert set(row) == FIELDS
    assert (row["status"], row["state"], row["requested_mode"]) == ("active", "pending", "FULL")
    assert row["claims"] == {"FULL": 1, "QUOTE": 0, "LTP": 0}
    assert (row["account_id"], row["origin"], row["underlying"]) == (None, "explicit", "NIFTY")

    before = await execute(postgres, "SELECT *, xmin FROM instrument_subscriptions")
    again = await gateway.send("POST", "/subscriptions", {"instrument_token": token})
    assert (again.status_code, again.json()["outcome"]) == (200, "unchanged")
    assert again.json()["subscription"] == row
    after = await execute(postgres, "SELECT *, xmin FROM instrument_subscriptions")
    assert [dict(r) for r in before] == [dict(r) for r in after]


async def test_instrument_may_be_named_by_symbol_and_exchange(gateway, market):
    option = market.options[3]
    found = await subscribe(
        gateway, tradingsymbol=option.tradingsymbol, exchange="NFO", requested_mode="LTP"
    )
    assert found["subscription"]["instrument_token"] == option.instrument_token


async def test_highest_mode_that_anybody_claims_is_the_one_requested(gateway, market):
    token = market.options[0].instrument_token

    async def row() -> tuple[str, str, dict[str, int]]:
        found = (await gateway.get(f"/subscriptions/{token}")).json()
        return found["status"], found["requested_mode"], found["claims"]

    await subscribe(gateway, instrument_token=token, requested_mode="LTP", subscriber="a")
    await subscribe(gateway, instrument_token=token, requested_mode="FULL", subscriber="b")
    await subscribe(gateway, instrument_token=token, requested_mode="QUOTE", subscriber="a")
    assert await row() == ("active", "FULL", {"FULL": 1, "QUOTE": 1, "LTP": 1})
    assert (await withdraw(gateway, token, "?subscriber=b"))["outcome"] == "unsubscribed"
    assert await row() == ("active", "QUOTE", {"FULL": 0, "QUOTE": 1, "LTP": 1})
    await withdraw(gateway, token, "?subscriber=a&mode=QUOTE")
    assert await row() == ("active", "LTP", {"FULL": 0, "QUOTE": 0, "LTP": 1})
    assert (await withdraw(gateway, token, "?subscriber=b"))["outcome"] == "unchanged"
    await withdraw(gateway, token, "?subscriber=a")
    assert await row() == ("inactive", "LTP", {"FULL": 0, "QUOTE": 0, "LTP": 0})


async def test_withdrawing_what_nobody_claims_is_no_error(gateway, market):
    token = market.index.instrument_token
    assert await withdraw(gateway, token) == {"outcome": "unchanged", "subscription": None}
    await subscribe(gateway, instrument_token=token)
    assert (await withdraw(gateway, token))["outcome"] == "unsubscribed"
    assert (await withdraw(gateway, token))["outcome"] == "unchanged"


async def test_everybodys_claims_are_withdrawn_by_a_star(gateway, market):
    token = market.index.instrument_token
    for subscriber in ("a", "b"):
        await subscribe(gateway, instrument_token=token, subscriber=subscriber)
    found = await withdraw(gateway, token, "?subscriber=*")
    assert found["subscription"]["status"] == "inactive"


async def test_subscription_that_was_withdrawn_starts_anew_as_pending(gateway, postgres, market):
    token = market.index.instrument_token
    await subscribe(gateway, instrument_token=token)
    await execute(
        postgres, "UPDATE instrument_subscriptions SET state = 'no_data', state_reason = 'x'"
    )
    # Another claim of a subscription that stands does not touch its state.
    found = await subscribe(gateway, instrument_token=token, subscriber="b")
    assert found["subscription"]["state"] == "no_data"
    await withdraw(gateway, token, "?subscriber=*")
    found = await subscribe(gateway, instrument_token=token)
    assert (found["subscription"]["state"], found["subscription"]["state_reason"]) == (
        "pending",
        None,
    )


async def test_pin_belongs_to_its_subscriber_and_ends_with_the_claim(gateway, nats_server, market):
    token = market.options[0].instrument_token
    async with Bus.open(settings_for(nats_server), name="market") as bus:
        await announce_accounts(bus, "acc1", "acc2")
        await until_accounts(gateway)
        pinned = {"instrument_token": token, "account_id": "acc1", "subscriber": "a"}
        found = await subscribe(gateway, **pinned)
        assert found["subscription"]["pinned_account_id"] == "acc1"
        # Another subscriber may want it too, but not elsewhere.
        found = await subscribe(gateway, instrument_token=token, subscriber="b")
        assert found["subscription"]["pinned_account_id"] == "acc1"
        answer = await gateway.send(
            "POST",
            "/subscriptions",
            {"instrument_token": token, "account_id": "acc2", "subscriber": "b"},
        )
        assert answer.status_code == 422
        assert answer.json()["error"]["code"] == "pinned_elsewhere"
        assert "subscriber a" in answer.json()["error"]["message"]
        # The subscriber itself may change its mind.
        found = await subscribe(gateway, **(pinned | {"account_id": "acc2"}))
        assert (found["outcome"], found["subscription"]["account_id"]) == ("updated", "acc2")
        found = await subscribe(gateway, instrument_token=token, subscriber="a")
        assert found["subscription"]["account_id"] is None


async def announce_accounts(bus: Bus, *names: str) -> None:
    for name in names:
        plan = AccountPlan(account=name, revision=1, connections=(), planned_at_ns=1)
        await Bucket(bus, streams.PLAN.name).put(subjects.escape(name), codec.to_json(plan))


async def until_accounts(gateway: Gateway) -> None:
    """Wait until the gateway knows the accounts: then a wrong one is refused."""
    body = {"instrument_token": 256265, "account_id": "no-such-account"}
    async with asyncio.timeout(20):
        while (await gateway.send("POST", "/subscriptions", body)).status_code != 422:
            await gateway.send("DELETE", "/subscriptions/256265?subscriber=*")
            await asyncio.sleep(0.05)


async def test_claims_on_an_expired_contract_do_not_pass_to_the_one_that_got_its_token(
    gateway, postgres, market
):
    token = market.options[0].instrument_token
    await subscribe(gateway, instrument_token=token, subscriber="old")
    await execute(postgres, "UPDATE instrument_subscriptions SET tradingsymbol = 'OLD26NOV1CE'")
    found = await subscribe(gateway, instrument_token=token, requested_mode="LTP", subscriber="new")
    assert found["subscription"]["claims"] == {"FULL": 0, "QUOTE": 0, "LTP": 1}
    assert found["subscription"]["tradingsymbol"] == market.options[0].tradingsymbol


async def test_what_left_the_instruments_can_still_be_withdrawn(gateway, postgres, market):
    token = market.options[0].instrument_token
    await subscribe(gateway, instrument_token=token)
    await execute(postgres, "DELETE FROM instrument_rows WHERE instrument_token = $1", token)
    found = await withdraw(gateway, token)
    assert found["outcome"] == "unsubscribed"
    assert found["subscription"]["status"] == "inactive"


# -- a wake-up -------------------------------------------------------------------------------------


async def test_control_is_woken_by_a_change_and_only_by_a_change(gateway, nats_server, market):
    heard: list[str] = []
    async with Bus.open(settings_for(nats_server), name="control") as bus:
        await bus.subscribe(subjects.WAKE_CONTROL, lambda message: heard.append(message.subject))
        await bus.client.flush()
        token = market.index.instrument_token
        await subscribe(gateway, instrument_token=token)
        await until(lambda: len(heard) == 1)
        await subscribe(gateway, instrument_token=token)
        await gateway.send("POST", "/subscriptions", {"instrument_token": 1})
        await withdraw(gateway, token)
        await until(lambda: len(heard) == 2)
        await withdraw(gateway, token)
        await gateway.send(
            "POST", "/subscriptions/bulk", {"instruments": [{"instrument_token": token}]}
        )
        await until(lambda: len(heard) == 3)
    assert heard == [subjects.WAKE_CONTROL] * 3


# -- many at once ----------------------------------------------------------------------------------


async def fill_many(postgres, count: int) -> list[int]:
    """Instruments beside the market's, into the same dump."""
    tokens = list(range(20_000_000, 20_000_000 + count))
    await execute(
        postgres,
        "INSERT INTO instrument_rows SELECT d.revision, t, t / 256, 'MANY' || t, 'MANY', 'NFO',"
        " 'NFO-OPT', 'MANY', 'option', t, current_date + 9, 'CE', 75, 0.05"
        " FROM instrument_dumps d, unnest($1::bigint[]) t WHERE d.is_current",
        tokens,
    )
    return tokens


async def test_nine_thousand_instruments_in_one_request_and_out_again(gateway, postgres):
    tokens = await fill_many(postgres, MANY)
    items = [{"instrument_token": token, "subscriber": "desk"} for token in tokens]
    answer = await gateway.send("POST", "/subscriptions/bulk", {"instruments": items})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["total"], body["counts"]) == (MANY, {"subscribed": MANY})
    assert body["items"][17] == {
        "index": 17,
        "instrument_token": tokens[17],
        "tradingsymbol": f"MANY{tokens[17]}",
        "outcome": "subscribed",
        "error": None,
    }
    found = (await gateway.get("/subscriptions?subscriber=desk&limit=1")).json()
    assert found["total"] == MANY
    again = await gateway.send("POST", "/subscriptions/bulk", {"instruments": items})
    assert again.json()["counts"] == {"unchanged": MANY}

    for method, path in (("DELETE", "/subscriptions/bulk"), ("POST", "/subscriptions/bulk/delete")):
        out = await gateway.send(method, path, {"instruments": items})
        assert out.status_code == 200, out.text
        assert out.json()["counts"] == (
            {"unsubscribed": MANY} if method == "DELETE" else {"unchanged": MANY}
        )
    assert (await gateway.get("/subscriptions?subscriber=desk")).json()["total"] == 0
    assert (await gateway.get("/subscriptions?status=inactive")).json()["total"] == MANY


async def test_bulk_request_answers_item_by_item(gateway, market):
    index, option = market.index.instrument_token, market.options[0]
    items = [
        {"instrument_token": index},
        {"instrument_token": 4_000_000_000},
        {"tradingsymbol": option.tradingsymbol, "exchange": "NFO", "requested_mode": "QUOTE"},
        {"tradingsymbol": "NOSUCH", "exchange": "NFO"},
        {"instrument_token": index},
        {"instrument_token": index, "requested_mode": "LTP"},
    ]
    body = (await gateway.send("POST", "/subscriptions/bulk", {"instruments": items})).json()
    assert [item["outcome"] for item in body["items"]] == [
        "subscribed",
        "rejected",
        "subscribed",
        "rejected",
        "unchanged",
        "subscribed",
    ]
    assert body["counts"] == {"subscribed": 3, "unchanged": 1, "rejected": 2}
    errors = [item["error"] for item in body["items"] if item["error"]]
    assert [(e["code"], e["field"]) for e in errors] == [
        ("unknown_instrument", "instrument_token"),
        ("unknown_instrument", "tradingsymbol"),
    ]
    assert "4000000000" in errors[0]["message"]
    assert "NFO:NOSUCH" in errors[1]["message"]
    assert await listed(gateway, "subscriber=default") == {index, option.instrument_token}


async def test_concurrent_requests_never_lose_a_claim(gateway, postgres, market):
    """Thirty subscribers come and go in any order; the table is what the last word of each says."""
    tokens = market.tokens
    rng = random.Random(7)
    final: dict[str, set[int]] = {}

    async def one(subscriber: str) -> None:
        held: set[int] = set()
        for _ in range(6):
            chosen = rng.sample(tokens, rng.randint(1, len(tokens)))
            items = [{"instrument_token": t, "subscriber": subscriber} for t in chosen]
            add = rng.random() < 0.6
            verb = "POST" if add else "DELETE"
            answer = await gateway.send(verb, "/subscriptions/bulk", {"instruments": items})
            # Thirty at once on a busy machine may wait too long for a connection; who repeats a
            # request changes nothing that was done already.
            while answer.status_code == 503:
                answer = await gateway.send(verb, "/subscriptions/bulk", {"instruments": items})
            assert answer.status_code == 200, answer.text
            held = held | set(chosen) if add else held - set(chosen)
        final[subscriber] = held

    await asyncio.gather(*(one(f"desk-{number}") for number in range(30)))
    claims = await execute(postgres, "SELECT instrument_token, subscriber FROM subscription_claims")
    found: dict[str, set[int]] = {name: set() for name in final}
    for row in claims:
        found[row["subscriber"]].add(row["instrument_token"])
    assert found == final
    counts = Counter(row["instrument_token"] for row in claims)
    rows = await execute(postgres, "SELECT instrument_token, status FROM instrument_subscriptions")
    assert {r["instrument_token"] for r in rows if r["status"] == "active"} == set(counts)


async def test_claims_and_states_are_written_at_once_without_a_deadlock(gateway, postgres, market):
    """Control writes states in bulk while requests lock the same rows."""
    tokens = market.tokens
    done = asyncio.Event()

    async def write_states() -> int:
        settings = DatabaseSettings(database_url=postgres.url)
        async with Database.opened(settings) as database:
            states, rounds = SubscriptionStates(database), 0
            while not done.is_set():
                await states.read()
                state = State.LIVE if rounds % 2 else State.NO_DATA
                wanted = dict.fromkeys(sorted(tokens, reverse=bool(rounds % 3)), Condition(state))
                await states.write(wanted, {})
                rounds += 1
            return rounds

    writer = asyncio.create_task(write_states())
    rng = random.Random(3)
    for _ in range(40):
        shuffled = rng.sample(tokens, len(tokens))
        items = [{"instrument_token": token} for token in shuffled]
        method = rng.choice(("POST", "DELETE"))
        answer = await gateway.send(method, "/subscriptions/bulk", {"instruments": items})
        assert answer.status_code == 200, answer.text
    done.set()
    assert await writer > 0


# -- lists -----------------------------------------------------------------------------------------


async def test_list_holds_what_streams_and_what_was_subscribed(gateway, postgres, market):
    option, index = market.options[0].instrument_token, market.index.instrument_token
    away = market.options[1].instrument_token
    await execute(
        postgres,
        "INSERT INTO plan_entries (instrument_token, account_id, connection, mode, reason,"
        " plan_revision, home_account_id, state) VALUES ($1, 'acc1', 0, 'full', 'window', 1, NULL,"
        " 'live'), ($2, 'acc2', 0, 'full', 'window', 1, 'acc1', 'no_data'),"
        " ($3, 'acc1', 0, 'full', 'priced_with', 1, NULL, 'live')",
        option,
        away,
        index,
    )
    await subscribe(gateway, instrument_token=index, requested_mode="LTP")
    await subscribe(gateway, instrument_token=market.options[2].instrument_token)
    waiting = market.options[2].instrument_token
    items = {
        item["instrument_token"]: item
        for item in (await gateway.get("/subscriptions?limit=1000")).json()["items"]
    }
    assert items.keys() == {option, away, index, waiting}
    assert all(set(item) == FIELDS for item in items.values())
    assert (items[option]["origin"], items[option]["state"]) == ("window", "live")
    assert items[away]["home_account_id"] == "acc1"
    # The window streams it in full although the subscription asks for less.
    assert (items[index]["requested_mode"], items[index]["streamed_mode"]) == ("LTP", "FULL")
    assert (items[index]["origin"], items[index]["state"]) == ("explicit", "pending")
    assert (items[waiting]["account_id"], items[waiting]["planned_at"]) == (None, None)

    assert await listed(gateway, "origin=window") == {option, away}
    assert await listed(gateway, "state=no_data") == {away}
    assert await listed(gateway, "account=acc2") == {away}
    assert await listed(gateway, "kind=index") == {index}
    assert await listed(gateway, "mode=LTP") == {index}
    assert await listed(gateway, "segment=NFO-OPT") == {option, away, waiting}
    assert await listed(gateway, f"expiry={market.expiry}&state=live") == {option}
    assert await listed(gateway, "underlying=NIFTY") == {option, away, index, waiting}
    assert await listed(gateway, "subscriber=default") == {index, waiting}
    assert await listed(gateway, "subscriber=nobody") == set()
    assert await listed(gateway, "status=inactive") == set()

    await withdraw(gateway, waiting)
    await withdraw(gateway, index)
    assert await listed(gateway, "status=inactive") == {waiting}
    assert await listed(gateway, "status=any") == {option, away, index, waiting}
    # It streams on for the window, under that name.
    assert (await gateway.get(f"/subscriptions/{index}")).json()["origin"] == "priced_with"


async def test_pages_cut_the_same_list(gateway, market):
    items = [{"instrument_token": token} for token in market.tokens]
    await gateway.send("POST", "/subscriptions/bulk", {"instruments": items})
    everything = (await gateway.get("/subscriptions?limit=1000")).json()
    pages = [
        (await gateway.get(f"/subscriptions?limit=7&offset={offset}")).json()
        for offset in range(0, 35, 7)
    ]
    assert [item for page in pages for item in page["items"]] == everything["items"]
    assert {page["total"] for page in pages} == {len(market.tokens)}


async def test_one_subscription_is_found_by_its_token_or_a_clear_404(gateway, market):
    token = market.index.instrument_token
    answer = await gateway.get(f"/subscriptions/{token}")
    assert answer.status_code == 404
    assert str(token) in answer.json()["error"]["message"]
    await subscribe(gateway, instrument_token=token)
    assert (await gateway.get(f"/subscriptions/{token}")).json()["tradingsymbol"] == "NIFTY 50"


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ("{not json", 400, "invalid_json", None),
        ("", 400, "invalid_json", None),
        (b"\xff\xfe", 400, "invalid_json", None),
        ("[" * 100_000, 413, "body_too_large", None),
        ("[" * 9_000, 400, "invalid_json", None),
        ([], 422, "bad_parameter", "body"),
        ({}, 422, "bad_parameter", "body"),
        ({"instrument_token": -1}, 422, "bad_parameter", "instrument_token"),
        ({"instrument_token": 0}, 422, "bad_parameter", "instrument_token"),
        ({"instrument_token": 2**32}, 422, "bad_parameter", "instrument_token"),
        ({"instrument_token": "256265"}, 422, "bad_parameter", "instrument_token"),
        ({"instrument_token": 1.5}, 422, "bad_parameter", "instrument_token"),
        ({"instrument_token": True}, 422, "bad_parameter", "instrument_token"),
        ({"instrument_token": 77}, 422, "unknown_instrument", "instrument_token"),
        ({"tradingsymbol": "NIFTY 50"}, 422, "bad_parameter", "body"),
        (
            {"instrument_token": 256265, "tradingsymbol": "X", "exchange": "NSE"},
            422,
            "bad_parameter",
            "body",
        ),
        ({"tradingsymbol": "X", "exchange": "NSE"}, 422, "unknown_instrument", "tradingsymbol"),
        (
            {"instrument_token": 256265, "requested_mode": "full"},
            422,
            "bad_parameter",
            "requested_mode",
        ),
        ({"instrument_token": 256265, "mode": "FULL"}, 422, "bad_parameter", "mode"),
        ({"instrument_token": 256265, "subscriber": ""}, 422, "bad_parameter", "subscriber"),
        ({"instrument_token": 256265, "subscriber": "*"}, 422, "bad_parameter", "subscriber"),
        ({"instrument_token": 256265, "subscriber": "a" * 65}, 422, "bad_parameter", "subscriber"),
        ({"instrument_token": 256265, "account_id": ""}, 422, "bad_parameter", "account_id"),
        ({"instruments": []}, 422, "bad_parameter", "instruments"),
    ],
)
async def test_bad_request_is_told_what_is_wrong(gateway, postgres, body, status, code, field):
    answer = await gateway.send("POST", "/subscriptions", body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert (error["code"], error["field"]) == (code, field)
    assert error["message"]
    assert await execute(postgres, "SELECT * FROM instrument_subscriptions") == []


@pytest.mark.parametrize(
    ("items", "field"),
    [
        ([], "instruments"),
        ([{"instrument_token": 256265}] * (MANY + 1), "instruments"),
        (
            [{"instrument_token": 256265}, {"instrument_token": -5}],
            "instruments[1].instrument_token",
        ),
        ([{"instrument_token": 256265}, {"token": 5}], "instruments[1].token"),
        ([{"instrument_token": 1}] * 3 + ["x"], "instruments[3]"),
        ([{"instrument_token": 256265, "requested_mode": "MAX"}], "instruments[0].requested_mode"),
        ([{}], "instruments[0]"),
        ("x", "instruments"),
    ],
)
async def test_bad_bulk_request_names_index_and_field_and_changes_nothing(
    gateway, postgres, items, field
):
    for method, path in (("POST", "/subscriptions/bulk"), ("DELETE", "/subscriptions/bulk")):
        answer = await gateway.send(method, path, {"instruments": items})
        assert answer.status_code == 422, answer.text
        error = answer.json()["error"]
        assert (error["code"], error["field"]) == ("bad_parameter", field)
    assert await execute(postgres, "SELECT * FROM instrument_subscriptions") == []


async def test_pin_to_an_unknown_account_is_refused(gateway, nats_server, postgres, market):
    async with Bus.open(settings_for(nats_server), name="market") as bus:
        await announce_accounts(bus, "acc1")
        await until_accounts(gateway)
    token = market.index.instrument_token
    body = {"instrument_token": token, "account_id": "acc9"}
    answer = await gateway.send("POST", "/subscriptions", body)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["field"]) == ("unknown_account", "account_id")
    assert "acc9" in error["message"]
    many = await gateway.send("POST", "/subscriptions/bulk", {"instruments": [body]})
    assert many.json()["items"][0]["error"]["code"] == "unknown_account"
    assert await execute(postgres, "SELECT * FROM subscription_claims") == []


async def test_body_over_the_limit_is_refused_whether_or_not_it_says_its_length(gateway):
    big = b'{"instruments": [' + b" " * (9 * 1024 * 1024) + b"]}"
    answer = await gateway.send("POST", "/subscriptions/bulk", big)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_large")

    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.settings.gateway_port)
    writer.write(
        b"POST /subscriptions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n" + b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    )
    async with asyncio.timeout(20):
        head = await reader.readuntil(b"\r\n")
    assert b" 413 " in head
    writer.close()


async def test_other_content_types_are_refused(gateway, postgres, market):
    body = '{"instrument_token": %d}' % market.index.instrument_token  # noqa: UP031
    for kind in ("text/plain", "application/x-www-form-urlencoded", ""):
        answer = await gateway.send("POST", "/subscriptions", body, **{"Content-Type": kind})
        assert answer.status_code == 415
        assert "application/json" in answer.json()["error"]["message"]
    assert await execute(postgres, "SELECT * FROM instrument_subscriptions") == []


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/subscriptions/-1", "token"),
        ("/subscriptions/0", "token"),
        ("/subscriptions/4294967296", "token"),
        ("/subscriptions/NIFTY", "token"),
        ("/subscriptions/256265?mode=full", "mode"),
        ("/subscriptions/256265?subscriber=", "subscriber"),
        ("/subscriptions/256265?subscriber=a%20b", "subscriber"),
        ("/subscriptions/256265?force=true", "force"),
    ],
)
async def test_bad_withdrawal_names_its_parameter(gateway, path, field):
    answer = await gateway.send("DELETE", path)
    assert answer.status_code == 422, answer.text
    assert answer.json()["error"]["field"] == field


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("state=dead", "state"),
        ("status=gone", "status"),
        ("mode=full", "mode"),
        ("origin=magic", "origin"),
        ("kind=warrant", "kind"),
        ("expiry=soon", "expiry"),
        ("account=", "account"),
        ("segment=%00", "segment"),
        ("subscriber=" + "x" * 65, "subscriber"),
        ("limit=1001", "limit"),
        ("planned=true", "planned"),
    ],
)
async def test_bad_filter_is_named(gateway, query, field):
    answer = await gateway.get(f"/subscriptions?{query}")
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field


async def test_key_is_wanted_for_every_change(nats_server):
    async with running_gateway(
        nats_server.url, api_key_enabled=True, api_key="a-key-of-sixteen-or-more"
    ) as gateway:
        for method, path in (
            ("POST", "/subscriptions"),
            ("POST", "/subscriptions/bulk"),
            ("DELETE", "/subscriptions/bulk"),
            ("POST", "/subscriptions/bulk/delete"),
            ("DELETE", "/subscriptions/256265"),
        ):
            answer = await gateway.send(method, path, {"instrument_token": 256265})
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "api_key"), path


async def test_without_a_database_or_without_instruments_the_answer_is_to_come_back(
    nats_server, tmp_path
):
    body = {"instrument_token": 256265}
    async with running_gateway(nats_server.url, NOWHERE) as gateway:
        for method, path in (
            ("POST", "/subscriptions"),
            ("DELETE", "/subscriptions/256265"),
            ("GET", "/subscriptions/256265"),
        ):
            answer = await gateway.send(method, path, body if method == "POST" else None)
            assert answer.status_code == 503
            assert answer.headers["retry-after"]
            assert answer.json()["error"]["code"] == "database_unavailable"
    async with (
        running_postgres(tmp_path) as postgres,
        running_gateway(nats_server.url, postgres.url) as gateway,
    ):
        answer = await gateway.send("POST", "/subscriptions", body)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "no_instruments")
        assert answer.headers["retry-after"]
