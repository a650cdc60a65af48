"""REST on a real PostgreSQL: pages, filters, keys, errors, and a database that goes away."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from libs.common.bus.connection import Bus
from libs.common.contracts.messages import FeedState
from libs.common.settings import Environment
from tests.integration.conftest import settings_for
from tests.integration.gateway_rig import (
    NOWHERE,
    Gateway,
    Market,
    running_gateway,
    running_postgres,
    until_health,
)

pytestmark = pytest.mark.integration

KEY = "a-key-of-sixteen-or-more"
INSTRUMENT_FIELDS = {
    "instrument_token",
    "exchange_token",
    "tradingsymbol",
    "name",
    "exchange",
    "segment",
    "underlying",
    "kind",
    "strike",
    "expiry",
    "option_type",
    "lot_size",
    "tick_size",
    "reused_from",
}


@pytest.fixture(scope="module")
def anyio_backend():
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture
def market() -> Market:
    return Market(strikes=11)


@pytest.fixture
async def postgres(tmp_path, market):
    async with running_postgres(tmp_path) as server:
        await market.fill(server.url)
        yield server


@pytest.fixture
async def gateway(nats_server, postgres):
    async with running_gateway(nats_server.url, postgres.url) as gateway:
        yield gateway


async def test_instruments_are_listed_with_all_their_fields(gateway, market):
    answer = await gateway.get("/instruments")
    assert answer.status_code == 200
    body = answer.json()
    assert set(body) == {"items", "total", "dump"}
    assert body["total"] == len(body["items"]) == len(market.instruments)
    assert all(set(item) == INSTRUMENT_FIELDS for item in body["items"])
    option = market.options[0]
    [found] = [i for i in body["items"] if i["instrument_token"] == option.instrument_token]
    assert found["expiry"] == market.expiry.isoformat()
    assert (found["strike"], found["option_type"]) == (option.strike, option.option_type)


async def test_filters_and_pages_cut_the_same_list(gateway, market):
    async def tokens(query: str) -> tuple[list[int], int]:
        body = (await gateway.get(f"/instruments?{query}")).json()
        return [item["instrument_token"] for item in body["items"]], body["total"]

    everything, total = await tokens("kind=option&underlying=NIFTY")
    assert total == len(everything) == len(market.options)
    pages = [
        await tokens(f"kind=option&underlying=NIFTY&limit=5&offset={n}") for n in range(0, 25, 5)
    ]
    assert [token for page, _ in pages for token in page] == everything
    assert {count for _, count in pages} == {total}
    assert await tokens("kind=index") == ([market.index.instrument_token], 1)
    assert (await tokens(f"expiry={market.expiry}"))[1] == total
    assert await tokens(f"expiry={market.expiry + timedelta(days=1)}") == ([], 0)
    assert await tokens("underlying=NOSUCH") == ([], 0)
    assert await tokens("kind=option&offset=100000") == ([], total)
    assert (await tokens("planned=true"))[1] == len(market.instruments)
    assert (await tokens("planned=false"))[1] == 0


async def test_chains_tell_what_can_be_shown(gateway, market):
    assert (await gateway.get("/chains")).json() == {
        "items": [
            {
                "underlying": "NIFTY",
                "expiry": market.expiry.isoformat(),
                "options": 22,
                "planned": 22,
            }
        ],
        "total": 1,
    }


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("kind=warrant", "kind"),
        ("expiry=tomorrow", "expiry"),
        ("expiry=2026-02-30", "expiry"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=ten", "limit"),
        ("limit=-1", "limit"),
        ("limit=1e3", "limit"),
        ("offset=-1", "offset"),
        ("offset=99999999999999999999", "offset"),
        ("underlying=", "underlying"),
        ("underlying=" + "x" * 100, "underlying"),
        ("underlying=%00", "underlying"),
        ("planned=maybe", "planned"),
        ("underlyng=NIFTY", "underlyng"),
    ],
)
async def test_bad_parameter_is_named(nats_server, query, field):
    async with running_gateway(nats_server.url) as gateway:
        answer = await gateway.get(f"/instruments?{query}")
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert (error["code"], error["field"]) == ("bad_parameter", field)
    assert field in error["message"]


async def test_key_is_wanted_where_it_is_enabled(nats_server):
    async with running_gateway(nats_server.url, api_key_enabled=True, api_key=KEY) as gateway:
        for path in ("/health", "/instruments", "/subscriptions", "/chains"):
            for headers in ({}, {"X-API-Key": "wrong"}, {"X-API-Key": KEY + "x"}):
                answer = await gateway.get(path, **headers)
                assert answer.status_code == 401, path
                assert answer.json()["error"]["code"] == "api_key"
        assert (await gateway.get("/health", **{"X-API-Key": KEY})).status_code == 200
        assert (await gateway.get("/instruments", **{"X-API-Key": KEY})).status_code == 503
        for path in ("/livez", "/readyz", "/metrics", "/"):
            assert (await gateway.get(path)).status_code == 200, path


async def test_health_is_open_on_a_developers_machine(nats_server):
    async with running_gateway(
        nats_server.url, environment=Environment.DEV, api_key_enabled=True, api_key=KEY
    ) as gateway:
        assert (await gateway.get("/health")).status_code == 200
        assert (await gateway.get("/instruments")).status_code == 401


async def test_token_for_development_works_and_exists_nowhere_else(nats_server):
    async with running_gateway(
        nats_server.url, environment=Environment.DEV, dev_token_enabled=True
    ) as gateway:
        made = (await gateway.get("/dev-token")).json()["token"]
        async with gateway.client(made) as peer:
            assert peer.greeting["user"]["user_id"] == "dev"
    for settings in (
        {"environment": Environment.DEV},
        {"environment": Environment.TEST, "dev_token_enabled": True},
    ):
        async with running_gateway(nats_server.url, **settings) as gateway:
            assert (await gateway.get("/dev-token")).status_code == 404


async def test_errors_have_one_shape(nats_server):
    async with running_gateway(nats_server.url) as gateway:
        missing = await gateway.get("/nope")
        assert missing.status_code == 404
        assert set(missing.json()["error"]) == {"code", "message", "field"}


async def test_page_brings_everything_it_needs_and_forbids_the_rest(nats_server):
    async with running_gateway(nats_server.url) as gateway:
        page = await gateway.get("/")
        assert page.headers["content-type"].startswith("text/html")
        assert "default-src 'none'" in page.headers["content-security-policy"]
        assert page.headers["referrer-policy"] == "no-referrer"
        for name in ("app.js", "chain.js", "feed.js", "format.js", "access.js", "style.css"):
            asset = await gateway.get(f"/static/{name}")
            assert asset.status_code == 200
            assert "http://" not in asset.text.replace("http://www.w3.org", "")
            again = await gateway.get(f"/static/{name}", **{"If-None-Match": asset.headers["etag"]})
            assert again.status_code == 304
        assert (await gateway.get("/static/../settings.py")).status_code == 404


async def test_health_is_ok_only_while_everything_flows(nats_server, tmp_path, market):
    async with (
        running_postgres(tmp_path) as postgres,
        running_gateway(nats_server.url, postgres.url, tick_patience_seconds=2) as gateway,
        Bus.open(settings_for(nats_server), name="market") as bus,
    ):
        await until_health(gateway, "degraded")
        await market.announce(bus)
        body = await until_health(gateway, "degraded")
        assert any("ticks" in reason for reason in body["reasons"])

        enough = asyncio.Event()

        async def flow() -> None:
            # Ended by a flag: the client may swallow a cancellation on Python 3.11.
            while not enough.is_set():
                await market.publish(bus)
                await market.report(bus, FeedState.STREAMING)
                await asyncio.sleep(0.2)

        flowing = asyncio.create_task(flow())
        body = await until_health(gateway, "ok")
        assert body["ticker"]["running"] is True
        assert body["ticker"]["active_subscriptions"] == len(market.instruments)
        assert body["ticker"]["source"] == "sim"
        assert body["dependencies"]["nats"] == "ok"
        assert body["dependencies"]["database"] == "ok"
        registry = body["dependencies"]["instrument_registry"]
        assert (registry["status"], registry["cached_instruments"]) == ("ok", 23)
        assert registry["last_refresh"]

        enough.set()
        await flowing
        await market.report(bus, FeedState.PARKED)
        body = await until_health(gateway, "degraded")
        assert body["ticker"]["accounts"]["acc1"]["planned"] == 23


async def test_stopped_database_is_a_503_and_comes_back_by_itself(nats_server, tmp_path, market):
    async with running_postgres(tmp_path) as postgres:
        await market.fill(postgres.url)
        port = postgres.port
    async with (
        running_gateway(nats_server.url, postgres.url) as gateway,
        Bus.open(settings_for(nats_server), name="market") as bus,
        gateway.client() as peer,
    ):
        for _ in range(2):
            assert (await gateway.get("/instruments")).status_code == 503
            body = await until_database(gateway, "error")
            assert body["status"] == "degraded"
            await peer.subscribe(market.index.instrument_token)
            await market.publish(bus)
            await peer.next("tick")

            async with running_postgres(tmp_path, port=port):
                await until_database(gateway, "ok")
                assert (await gateway.get("/instruments")).status_code == 200


async def until_database(gateway: Gateway, state: str) -> dict[str, Any]:
    """Wait until `/health` says this of the database."""
    async with asyncio.timeout(20):
        while True:
            body: dict[str, Any] = (await gateway.get("/health")).json()
            if body["dependencies"]["database"].startswith(state):
                return body
            await asyncio.sleep(0.05)


async def test_database_that_was_never_there_is_a_503_and_stops_no_ticks(nats_server, market):
    async with (
        running_gateway(nats_server.url, NOWHERE) as gateway,
        Bus.open(settings_for(nats_server), name="market") as bus,
        gateway.client() as peer,
    ):
        for path in ("/instruments", "/subscriptions", "/chains"):
            answer = await gateway.get(path)
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "database_unavailable"
            assert answer.headers["retry-after"]
        body = (await gateway.get("/health")).json()
        assert body["dependencies"]["database"].startswith("error: ")
        await peer.subscribe(market.index.instrument_token)
        await market.publish(bus)
        await peer.next("tick")
