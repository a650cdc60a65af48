"""Searching instruments over REST on a real PostgreSQL, against the same search in Python."""

import itertools
from collections.abc import Callable
from datetime import date, timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from pydantic import SecretStr

from libs.common.contracts.messages import Source
from libs.common.database import Database
from libs.common.domain.instruments import Instrument, Kind, OptionType
from libs.common.settings import DatabaseSettings
from services.control import registry
from tests.integration.gateway_rig import Gateway, running_gateway, running_postgres

pytestmark = pytest.mark.integration

MONDAY, TUESDAY = date(2026, 11, 23), date(2026, 11, 24)
NEAR, FAR = date(2026, 11, 24), date(2026, 12, 29)


def share(token: int, symbol: str, name: str, exchange: str = "NSE") -> Instrument:
    return Instrument(
        instrument_token=token,
        exchange_token=token >> 8,
        tradingsymbol=symbol,
        name=name,
        exchange=exchange,
        segment=exchange,
        underlying=symbol,
        kind=Kind.EQUITY,
        lot_size=1,
        tick_size=0.05,
    )


def derivatives(first: int, underlying: str, strikes: range, exchange: str) -> list[Instrument]:
    tokens = itertools.count(first)
    found = []
    for expiry in (NEAR, FAR):
        stem = f"{underlying}{expiry:%y%b}".upper()
        common: dict[str, Any] = {
            "exchange_token": 1,
            "name": underlying,
            "exchange": exchange,
            "underlying": underlying,
            "expiry": expiry,
            "lot_size": 65,
            "tick_size": 0.05,
        }
        found.append(
            Instrument(
                instrument_token=next(tokens),
                tradingsymbol=f"{stem}FUT",
                segment=f"{exchange}-FUT",
                kind=Kind.FUTURE,
                **common,
            )
        )
        found += [
            Instrument(
                instrument_token=next(tokens),
                tradingsymbol=f"{stem}{strike}{right.value}",
                segment=f"{exchange}-OPT",
                kind=Kind.OPTION,
                strike=float(strike),
                option_type=right,
                **common,
            )
            for strike in strikes
            for right in OptionType
        ]
    return found


INSTRUMENTS = [
    share(1, "RELIANCE", "RELIANCE INDUSTRIES"),
    share(2, "RELIANCE", "RELIANCE INDUSTRIES LTD", "BSE"),
    share(3, "M&M", "MAHINDRA & MAHINDRA"),
    share(4, "50%_OFF", "A strange 100% name_with\\specials"),
    share(5, "500OFF", "Another"),
    share(6, "NIFTYBEES", "Nippon ETF Nifty 50"),
    *derivatives(1000, "NIFTY", range(25_900, 26_150, 50), "NFO"),
    *derivatives(2000, "NIFTYNXT50", range(68_000, 68_300, 100), "NFO"),
    *derivatives(3000, "SENSEX", range(84_000, 84_300, 100), "BFO"),
]
PLANNED = [1001, 1002, 3]
YESTERDAY = [share(1, "RELIANCE", "RELIANCE INDUSTRIES"), share(9, "GONE", "GONE LTD")]
REUSED = {1005: "NFO:NIFTY26OCT26000PE"}


@pytest.fixture(scope="module")
def anyio_backend():
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture(scope="module")
async def database_url(tmp_path_factory):
    """A database that two days have been loaded into, for the tests of this module."""
    async with running_postgres(tmp_path_factory.mktemp("pg")) as server:
        settings = DatabaseSettings(database_url=SecretStr(server.url))
        async with Database.opened(settings) as database:
            await registry.store(
                database, YESTERDAY, market_date=MONDAY, source=Source.SIM, skipped=0
            )
            await registry.store(
                database,
                INSTRUMENTS,
                market_date=TUESDAY,
                source=Source.SIM,
                skipped=0,
                reused_from=REUSED,
            )
            async with database.acquire() as connection:
                await connection.executemany(
                    "INSERT INTO plan_entries VALUES ($1, 'acc', 0, 'full', 'window', 1)",
                    [(token,) for token in PLANNED],
                )
        yield server.url


@pytest.fixture
async def gateway(nats_server, database_url):
    async with running_gateway(nats_server.url, database_url) as gateway:
        yield gateway


def text(word: str) -> Callable[[Instrument], bool]:
    word = word.lower()
    return lambda i: word in i.tradingsymbol.lower() or word in i.name.lower()


FILTERS: dict[tuple[str, str], Callable[[Instrument], bool]] = {
    ("symbol", "reliance"): lambda i: i.tradingsymbol == "RELIANCE",
    ("symbol_prefix", "nifty26"): lambda i: i.tradingsymbol.startswith("NIFTY26"),
    ("symbol_prefix", "50%_"): lambda i: i.tradingsymbol.startswith("50%_"),
    ("name", "ma"): lambda i: "ma" in i.name.lower(),
    ("q", "nifty"): text("nifty"),
    ("q", "nifty 26000 ce"): lambda i: all(text(w)(i) for w in ("nifty", "26000", "ce")),
    ("q", "%"): text("%"),
    ("q", "h\\s"): text("h\\s"),
    ("underlying", "NIFTY"): lambda i: i.underlying == "NIFTY",
    ("underlying", "M&M"): lambda i: i.underlying == "M&M",
    ("exchange", "nfo"): lambda i: i.exchange == "NFO",
    ("segment", "BFO-OPT"): lambda i: i.segment == "BFO-OPT",
    ("kind", "option"): lambda i: i.kind is Kind.OPTION,
    ("expiry", str(FAR)): lambda i: i.expiry == FAR,
    ("strike", "26000"): lambda i: i.strike == 26_000,
    ("strike_min", "26050"): lambda i: i.strike is not None and i.strike >= 26_050,
    ("strike_max", "68000"): lambda i: i.strike is not None and i.strike <= 68_000,
    ("option_type", "PE"): lambda i: i.option_type is OptionType.PUT,
    ("planned", "true"): lambda i: i.instrument_token in PLANNED,
    ("planned", "false"): lambda i: i.instrument_token not in PLANNED,
    ("reused", "true"): lambda i: i.instrument_token in REUSED,
    ("instrument_token", "1,1001,3005,77"): lambda i: i.instrument_token in {1, 1001, 3005},
}


def place(item: Instrument) -> tuple[object, ...]:
    """The order of the answers."""
    return (
        item.underlying,
        item.expiry or date.min,
        item.strike is None,
        item.strike or 0.0,
        item.instrument_token,
    )


async def tokens(gateway: Gateway, *parameters: tuple[str, str]) -> tuple[list[int], int]:
    answer = await gateway.get(f"/instruments?{urlencode([*parameters, ('limit', '1000')])}")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return [item["instrument_token"] for item in body["items"]], body["total"]


async def test_every_pair_of_filters_finds_what_python_finds(gateway):
    everything, found_something = sorted(INSTRUMENTS, key=place), 0
    pairs = [
        pair
        for pair in itertools.combinations_with_replacement(FILTERS, 2)
        if pair[0] == pair[1] or pair[0][0] != pair[1][0]
    ]
    for pair in pairs:
        chosen = dict.fromkeys(pair)
        expected = [
            i.instrument_token for i in everything if all(FILTERS[name](i) for name in chosen)
        ]
        assert await tokens(gateway, *chosen) == (expected, len(expected)), chosen
        found_something += bool(expected)
    assert found_something > len(pairs) / 3


async def test_pages_are_stable_and_cut_the_whole_list(gateway):
    whole, total = await tokens(gateway)
    assert (sorted(whole), total) == (
        sorted(i.instrument_token for i in INSTRUMENTS),
        len(INSTRUMENTS),
    )
    pages: list[int] = []
    for offset in range(0, total, 7):
        body = (await gateway.get(f"/instruments?limit=7&offset={offset}")).json()
        assert body["total"] == total
        pages += [item["instrument_token"] for item in body["items"]]
    assert pages == whole


async def test_previous_day_is_found_by_name_and_by_date(gateway):
    for query in ("day=previous", f"market_date={MONDAY}"):
        body = (await gateway.get(f"/instruments?{query}")).json()
        assert sorted(i["instrument_token"] for i in body["items"]) == [1, 9]
        assert body["dump"]["market_date"] == MONDAY.isoformat()
        assert (await gateway.get(f"/instruments/9?{query}")).json()["item"]["name"] == "GONE LTD"
    for query in ("day=current", f"market_date={TUESDAY}", "limit=1"):
        body = (await gateway.get(f"/instruments?{query}")).json()
        assert (body["total"], body["dump"]["market_date"]) == (
            len(INSTRUMENTS),
            TUESDAY.isoformat(),
        )


async def test_day_that_is_not_kept_is_not_found_and_those_that_are_are_named(gateway):
    for path in ("/instruments", "/instruments/1"):
        answer = await gateway.get(f"{path}?market_date={MONDAY - timedelta(days=1)}")
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["field"]) == (
            404,
            "not_found",
            "market_date",
        )
        assert f"{MONDAY}, {TUESDAY}" in error["message"]


async def test_answer_tells_of_which_day_each_exchange_is(gateway):
    dump = (await gateway.get("/instruments?limit=1")).json()["dump"]
    assert {"revision", "market_date", "source", "loaded_at", "exchanges"} == set(dump)
    assert dump["source"] == "sim"
    assert [(e["exchange"], e["rows"], e["outcome"]) for e in dump["exchanges"]] == [
        ("BFO", 14, "loaded"),
        ("BSE", 1, "loaded"),
        ("NFO", 36, "loaded"),
        ("NSE", 5, "loaded"),
    ]
    assert {e["market_date"] for e in dump["exchanges"]} == {TUESDAY.isoformat()}


async def test_one_instrument_is_given_with_what_its_token_meant_before(gateway):
    body = (await gateway.get("/instruments/1005")).json()
    assert body["item"]["reused_from"] == "NFO:NIFTY26OCT26000PE"
    assert body["item"]["tradingsymbol"] == INSTRUMENTS[11].tradingsymbol
    assert body["dump"]["market_date"] == TUESDAY.isoformat()
    assert (await gateway.get("/instruments/1")).json()["item"]["reused_from"] is None


@pytest.mark.parametrize(
    ("path", "status", "field"),
    [
        ("/instruments/77", 404, "instrument_token"),
        ("/instruments/9", 404, "instrument_token"),
        ("/instruments/NIFTY", 422, "instrument_token"),
        ("/instruments/0", 422, "instrument_token"),
        ("/instruments/1?kind=option", 422, "kind"),
        ("/instruments?symbol=A&symbol=B", 422, "symbol"),
        ("/instruments?day=previous&market_date=2026-11-23", 422, "market_date"),
        ("/instruments?strike_min=2&strike_max=1", 422, "strike_min"),
    ],
)
async def test_wrong_question_is_answered_by_name(gateway, path, status, field):
    answer = await gateway.get(path)
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)


async def test_before_the_first_dump_there_is_nothing(nats_server, tmp_path):
    async with (
        running_postgres(tmp_path) as server,
        running_gateway(nats_server.url, server.url) as gateway,
    ):
        body = (await gateway.get("/instruments")).json()
        assert body == {"items": [], "total": 0, "dump": None}
        for path in ("/instruments/1", "/instruments?day=previous"):
            answer = await gateway.get(path)
            assert answer.status_code == 404, path


async def test_search_needs_no_trigrams(nats_server, database_url):
    async with Database.opened(DatabaseSettings(database_url=SecretStr(database_url))) as database:
        async with database.acquire() as connection:
            assert await connection.fetchval(
                "SELECT count(*) FROM pg_indexes WHERE indexname = 'instrument_rows_text'"
            )
            await connection.execute("DROP INDEX instrument_rows_text")
        async with running_gateway(nats_server.url, database_url) as gateway:
            found, _ = await tokens(gateway, ("q", "mahindra"))
        assert found == [3]
