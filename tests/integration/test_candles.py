"""Candles with Greeks over the bus: real NATS, real PostgreSQL, real greeks; ingest is played."""

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, date, datetime, timedelta

import asyncpg
import msgspec
import pytest
from pydantic import SecretStr
from vollib.black.implied_volatility import implied_volatility

from libs.common.bus import market_requests
from libs.common.bus.errors import ServiceBusyError, ServiceRefusedError
from libs.common.bus.kv import Bucket
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import (
    CandleInterval,
    CandlesPart,
    CandlesRequest,
    Convention,
    Forward,
    ForwardSource,
    IvStatus,
    RpcError,
    Source,
)
from libs.common.database import Database
from libs.common.domain.instruments import OptionType
from libs.common.domain.market_calendar import CALENDAR
from libs.common.settings import DatabaseSettings
from services.greeks import metrics
from services.greeks.candle_store import CandleStore
from tests.fakes.history_desk import HistoryDesk
from tests.fakes.kite_frames import FakeMarket
from tests.integration.candles_rig import NOW, CandlesRig, epoch, greeks_of, shown
from tests.integration.conftest import until
from tests.integration.gateway_rig import NOWHERE, running_postgres
from tests.integration.test_greeks_service import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

YEAR_SECONDS = 365 * 86_400


def count(name, **labels):
    return getattr(metrics, name).labels(**labels)._value.get()


@pytest.fixture
async def rig(bus, nats_server):
    market = FakeMarket(strikes_each_side=2)
    desk = HistoryDesk(bus, market, now=NOW)
    rig = CandlesRig(bus, nats_server, market, desk)
    await rig.prepare()
    async with desk.serving():
        yield rig


@pytest.fixture
async def database_url(tmp_path):
    async with running_postgres(tmp_path / "postgres") as server:
        yield server.url


async def rows_of(database_url, query="SELECT * FROM candle_days"):
    connection = await asyncpg.connect(database_url)
    try:
        return await connection.fetch(query)
    finally:
        await connection.close()


async def test_option_is_priced_at_every_candle_with_the_future_of_that_moment(rig):
    option = rig.option()
    async with rig.greeks():
        parts = await rig.parts(option, "2026-11-19T09:15", "2026-11-19T15:39")
    found = shown(parts)
    assert [part.part for part in parts] == list(range(len(parts)))
    assert (parts[0].convention, parts[0].source) == (Convention(), Source.SIM)
    assert rig.desk.symbols() == [option.tradingsymbol, "NIFTY26NOVFUT"]
    future, own = (
        rig.desk.candles(item, CandleInterval.MINUTE_15, epoch("2026-11-19"), epoch("2026-11-20"))
        for item in (rig.market.instruments[1], option)
    )
    assert [c.close for c in found] == [c.close for c in own]
    assert [c.oi for c in found] == [c.oi for c in own]
    assert [greeks_of(c).forward for c in found] == [c.close for c in future]
    assert {greeks_of(c).forward_source for c in found} == {ForwardSource.FUTURE}
    assert found[0].date == "2026-11-19T09:15:00+05:30"
    dies = CALENDAR.expiry_instant("NFO", option.expiry).timestamp()
    session = CALENDAR.session("NFO", date(2026, 11, 19))
    assert session is not None
    closes = session.close.timestamp()
    for candle in found:
        start = datetime.fromisoformat(candle.date).timestamp()
        tte = (dies - min(start + 900, closes)) / YEAR_SECONDS
        assert greeks_of(candle).tte == pytest.approx(tte)
        expected = implied_volatility(
            candle.close, greeks_of(candle).forward, option.strike, 0.0, tte, "c"
        )
        assert greeks_of(candle).iv == pytest.approx(expected, rel=1e-9)


async def test_legs_are_fetched_only_where_the_future_lacks_candles(rig):
    option, put = rig.option(), rig.option(kind=OptionType.PUT)
    lacking = (epoch("2026-11-18"), epoch("2026-11-19"))

    def lacks(item, start):
        if item.tradingsymbol == "NIFTY26NOVFUT":
            return lacking[0] <= start < lacking[1]
        return item == put and start == epoch("2026-11-18T12:00")

    rig.desk.lacks = lacks
    async with rig.greeks():
        found = await rig.candles(option, "2026-11-17T09:15", "2026-11-19T15:39")
    index = rig.market.index.tradingsymbol
    assert rig.desk.symbols() == [
        option.tradingsymbol,
        "NIFTY26NOVFUT",
        put.tradingsymbol,
        index,
    ]
    sources = {c.date: greeks_of(c).forward_source for c in found}
    assert sources["2026-11-17T12:00:00+05:30"] is ForwardSource.FUTURE
    assert sources["2026-11-18T11:45:00+05:30"] is ForwardSource.SYNTHETIC
    assert sources["2026-11-18T12:00:00+05:30"] is ForwardSource.SPOT
    spans = dict(zip(rig.desk.symbols(), rig.desk.asked, strict=True))
    for symbol in (put.tradingsymbol, index):
        assert spans[symbol].start >= lacking[0]
        assert spans[symbol].end <= lacking[1]
    assert not spans[index].oi
    assert spans[put.tradingsymbol].oi


async def test_second_request_does_not_reach_ingest(rig, database_url):
    option = rig.option()
    wanted = ("2026-11-16T10:00", "2026-11-20T14:59")
    async with rig.greeks(database_url):
        first = await rig.candles(option, *wanted)
        asked = len(rig.desk.asked)
        again = await rig.candles(option, *wanted)
        narrower = await rig.candles(option, "2026-11-17T11:00", "2026-11-18T11:00", oi=False)
    # Another worker, after a restart.
    async with rig.greeks(database_url, "g2"):
        elsewhere = await rig.candles(option, *wanted)
    assert asked == 2
    assert len(rig.desk.asked) == asked
    assert again == elsewhere == first
    assert [(c.oi, c.greeks) for c in narrower] == [(None, None)] * len(narrower)
    assert [c.close for c in narrower] == [
        c.close
        for c in first
        if "2026-11-17T11:00:00+05:30" <= c.date <= "2026-11-18T11:00:00+05:30"
    ]
    rows = await rows_of(database_url)
    days = {row["day"] for row in rows if row["tradingsymbol"] == option.tradingsymbol}
    assert days == {date(2026, 11, 16) + timedelta(days=n) for n in range(5)}
    assert {row["source"] for row in rows} == {"sim"}


async def test_only_what_is_missing_is_fetched_in_one_call_and_empty_days_are_remembered(
    rig, database_url
):
    future = rig.market.instruments[1]
    async with rig.greeks(database_url):
        await rig.candles(future, "2026-11-12T00:00", "2026-11-13T23:59:59")
        rig.desk.asked.clear()
        whole = await rig.candles(future, "2026-11-09T00:00", "2026-11-16T23:59:59")
        (request,) = rig.desk.asked
        assert (request.start, request.end) == (epoch("2026-11-09"), epoch("2026-11-17") - 1)
        rig.desk.asked.clear()
        # Saturday and Sunday alone: known to be empty.
        assert await rig.candles(future, "2026-11-14T00:00", "2026-11-15T23:59:59") == []
        assert rig.desk.asked == []
    expected = rig.desk.candles(
        future, CandleInterval.MINUTE_15, epoch("2026-11-09"), epoch("2026-11-17") - 1
    )
    assert [c.close for c in whole] == [c.close for c in expected]


async def test_present_day_is_asked_for_every_time_and_never_kept(rig, database_url):
    future = rig.market.instruments[1]
    async with rig.greeks(database_url):
        for _ in range(2):
            await rig.candles(future, "2026-11-20T09:15", "2026-11-23T12:00")
    first, second = rig.desk.asked
    assert (first.start, first.end) == (epoch("2026-11-20"), epoch("2026-11-23T12:00"))
    assert (second.start, second.end) == (epoch("2026-11-23"), epoch("2026-11-23T12:00"))
    assert max(row["day"] for row in await rows_of(database_url)) == date(2026, 11, 22)


async def test_candles_of_the_other_market_are_not_used(rig, database_url):
    future = rig.market.instruments[1]
    wanted = ("2026-11-19T09:15", "2026-11-20T15:00")
    async with rig.greeks(database_url):
        await rig.candles(future, *wanted)
    await rig.say_control(Source.LIVE)
    rig.desk.source = Source.LIVE
    async with rig.greeks(database_url):
        parts = await rig.parts(future, *wanted)
        assert rig.desk.asked[-1].source is Source.LIVE
        assert {part.source for part in parts} == {Source.LIVE}
        assert len(rig.desk.asked) == 2
        rig.desk.source = Source.SIM
        with pytest.raises(ServiceBusyError, match="turned from live to sim"):
            await rig.parts(future, "2026-11-17T09:15", "2026-11-17T15:00")
    rows = await rows_of(database_url)
    assert {(row["source"], row["day"].day) for row in rows} == {
        (source, day) for source in ("sim", "live") for day in (19, 20)
    }


async def test_reused_token_does_not_bring_the_dead_contract_back(rig, database_url):
    option = rig.option()
    wanted = ("2026-11-19T09:15", "2026-11-19T15:00")
    async with rig.greeks(database_url):
        await rig.candles(option, *wanted, greeks=False)
        place = rig.market.instruments.index(option)
        rig.market.instruments[place] = msgspec.structs.replace(option, tradingsymbol="ANOTHER")
        changed = rig.market.instrument_set(revision=2)
        await Bucket(rig.bus, streams.INSTRUMENTS.name).put("NIFTY", codec.to_msgpack(changed))

        async def is_fetched_anew():
            await rig.candles(option, *wanted, greeks=False)
            return len(rig.desk.asked) > 1

        await eventually(is_fetched_anew)
    symbols = {row["tradingsymbol"] for row in await rows_of(database_url)}
    assert symbols == {option.tradingsymbol, "ANOTHER"}


async def test_nothing_is_kept_while_nobody_says_which_market_is_in_force(rig, database_url):
    await Bucket(rig.bus, streams.STATUS.name).delete("control")
    async with rig.greeks(database_url):
        for _ in range(2):
            parts = await rig.parts(rig.option(), "2026-11-19T09:15", "2026-11-19T15:00")
            assert {part.source for part in parts} == {Source.SIM}
    assert len(rig.desk.asked) == 4
    assert await rows_of(database_url) == []


@pytest.mark.parametrize("url", [None, NOWHERE])
async def test_requests_are_served_without_a_database(rig, url):
    failures = count("CANDLE_STORE_FAILURES_TOTAL", step="read")
    async with rig.greeks(url):
        for _ in range(2):
            found = await rig.candles(rig.option(), "2026-11-19T09:15", "2026-11-19T15:00")
            assert len(found) == 24
    assert len(rig.desk.asked) == 4
    assert (count("CANDLE_STORE_FAILURES_TOTAL", step="read") > failures) is (url is not None)


async def test_damaged_row_is_fetched_again_and_mended(rig, database_url):
    future = rig.market.instruments[1]
    wanted = ("2026-11-19T09:15", "2026-11-19T15:00")
    async with rig.greeks(database_url):
        first = await rig.candles(future, *wanted)
        await rows_of(database_url, "UPDATE candle_days SET candles = '\\x01ff'")
        assert await rig.candles(future, *wanted) == first
        assert await rig.candles(future, *wanted) == first
    assert len(rig.desk.asked) == 2


async def test_old_rows_are_deleted_and_young_ones_stay(rig, database_url):
    future = rig.market.instruments[1]
    async with rig.greeks(database_url):
        await rig.candles(future, "2026-11-16T09:15", "2026-11-20T15:00")
    await rows_of(
        database_url,
        "UPDATE candle_days SET fetched_at = now() - interval '31 days' WHERE day < '2026-11-19'",
    )
    settings = DatabaseSettings(database_url=SecretStr(database_url))
    async with Database.opened(settings) as database:
        await CandleStore(database, kept_days=30).sweep_once(asyncio.Event())
    assert {row["day"].day for row in await rows_of(database_url)} == {19, 20}


async def test_running_candle_is_priced_for_the_present_moment(rig):
    option = rig.option()
    now = epoch("2026-11-23T11:05")
    forward = Forward(
        underlying="NIFTY",
        expiry=option.expiry,
        forward=24_500.0,
        source=ForwardSource.FUTURE,
        tte=0.01,
        exchange_ts=now * 1_000_000_000,
        greeks_ts=0,
        feed=Source.SIM,
    )
    await rig.bus.jetstream.publish(
        subjects.forward("NIFTY", option.expiry), codec.to_json(forward)
    )
    async with rig.greeks():
        found = await rig.candles(option, "2026-11-23T09:15", "2026-11-23T15:39")
    dies = CALENDAR.expiry_instant("NFO", option.expiry).timestamp()
    assert found[-1].date == "2026-11-23T11:00:00+05:30"
    assert greeks_of(found[-1]).tte == pytest.approx((dies - now) / YEAR_SECONDS)
    assert greeks_of(found[-2]).tte == pytest.approx(
        (dies - epoch("2026-11-23T11:00")) / YEAR_SECONDS
    )


async def test_long_span_is_stitched_without_gaps_or_repetitions(rig):
    option = rig.option(expiry=1)
    interval = CandleInterval.HOUR
    async with rig.greeks():
        parts = await rig.parts(
            option, "2024-11-01T00:00", "2026-11-20T23:59:59", interval=interval
        )
    found = shown(parts)
    expected = rig.desk.candles(option, interval, epoch("2024-11-01"), epoch("2026-11-20T23:59:59"))
    stamps = [int(datetime.fromisoformat(c.date).timestamp()) for c in found]
    assert stamps == [c.start for c in expected]
    assert [c.close for c in found] == [c.close for c in expected]
    # No future of that expiry is listed; both legs trade.
    assert {greeks_of(c).forward_source for c in found} == {ForwardSource.SYNTHETIC}
    assert [part.last for part in parts].index(True) == len(parts) - 1
    assert (
        rig.desk.symbols()
        == [option.tradingsymbol, rig.option(0, OptionType.PUT, 1).tradingsymbol] * 2
    )


async def test_conventions_of_the_worker_are_used_and_told(rig):
    option = rig.option()
    changes = {"greeks_model": "bsm", "greeks_rate": 0.065, "greeks_clock": "trading252"}
    async with rig.greeks(**changes):
        parts = await rig.parts(option, "2026-11-19T09:15", "2026-11-19T11:00")
    convention = parts[0].convention
    assert convention is not None
    assert convention.name == "bsm trading252 r=0.065"
    found = shown(parts)
    assert {greeks_of(c).forward_source for c in found} == {ForwardSource.SPOT}
    assert rig.desk.symbols() == [option.tradingsymbol, rig.market.index.tradingsymbol]
    # From 11:00: 280 of 385 minutes, then Friday and Monday; Tuesday the 24th is a holiday.
    assert greeks_of(found[6]).tte == pytest.approx((280 / 385 + 2) / 252)


async def test_other_instruments_have_candles_without_greeks(rig):
    async with rig.greeks():
        parts = await rig.parts(rig.market.index, "2026-11-19T09:15", "2026-11-19T11:00")
        assert parts[0].convention is None
        assert {(c.oi, c.greeks) for c in shown(parts)} == {(None, None)}
        plain = await rig.candles(
            rig.option(), "2026-11-19T09:15", "2026-11-19T11:00", greeks=False
        )
        assert all(c.greeks is None and c.oi is not None for c in plain)
        asked = await rig.candles(
            rig.option(), "2026-11-19T09:15", "2026-11-19T11:00", oi=False, greeks=True
        )
        assert all(greeks_of(c).iv_status is IvStatus.OK and c.oi is None for c in asked)


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"item": 999_999}, "not_found", "instrument_token"),
        ({"item": "index", "greeks": True}, "bad_request", "greeks"),
        ({"item": "future", "greeks": True}, "bad_request", "greeks"),
        ({"end": "2026-11-18T09:15"}, "bad_request", "end"),
        ({"continuous": True}, "bad_request", "continuous"),
        (
            {"item": "option", "continuous": True, "interval": CandleInterval.DAY},
            "bad_request",
            "continuous",
        ),
        ({"start": "1990-01-01", "interval": CandleInterval.MINUTE}, "bad_request", "start"),
    ],
)
async def test_wrong_request_is_refused_with_its_field_and_asks_nobody(rig, changes, code, field):
    named = {
        "index": rig.market.index,
        "future": rig.market.instruments[1],
        "option": rig.option(),
    }
    values = {"item": "option", "start": "2026-11-19", "end": "2026-11-20", **changes}
    item = values.pop("item")
    async with rig.greeks():
        with pytest.raises(ServiceRefusedError) as raised:
            await rig.parts(named.get(item, item), **values)
    assert (raised.value.code, raised.value.field) == (code, field)
    assert rig.desk.asked == []


@pytest.mark.parametrize("code", ["rate_limited", "unavailable", "no_account"])
async def test_errors_of_ingest_are_passed_on(rig, code):
    rig.desk.error = RpcError(code=code, message="not now", retry_after_seconds=1.5)
    async with rig.greeks():
        with pytest.raises(ServiceBusyError) as raised:
            await rig.parts(rig.option(), "2026-11-19T09:15", "2026-11-19T11:00")
    assert (raised.value.code, raised.value.retry_after_seconds) == (code, 1.5)


async def test_without_ingest_it_says_so(bus, nats_server):
    market = FakeMarket(strikes_each_side=1)
    rig = CandlesRig(bus, nats_server, market, HistoryDesk(bus, market, now=NOW))
    await rig.prepare()
    async with rig.greeks():
        with pytest.raises(ServiceBusyError) as raised:
            await rig.parts(rig.option(), "2026-11-19T09:15", "2026-11-19T11:00")
    assert raised.value.code == "no_account"


async def test_caller_who_has_left_costs_no_further_call(rig):
    abandoned = count("CANDLE_REQUESTS_TOTAL", outcome="abandoned")
    rig.desk.gate.clear()
    request = CandlesRequest(
        instrument_token=rig.market.index.instrument_token,
        interval=CandleInterval.HOUR,
        start=epoch("2020-01-01"),
        end=epoch("2026-01-01"),
    )
    async with rig.greeks():
        async with market_requests.candles(rig.bus, request):
            await until(lambda: rig.desk.asked)
        rig.desk.gate.set()
        await until(lambda: count("CANDLE_REQUESTS_TOTAL", outcome="abandoned") > abandoned)
    # Of six pieces; the second may be on its way when the server reports that nobody listens.
    assert len(rig.desk.asked) <= 2


async def test_patience_of_the_caller_ends_the_request(rig):
    rig.desk.gate.clear()
    request = CandlesRequest(
        instrument_token=rig.market.index.instrument_token,
        interval=CandleInterval.HOUR,
        start=epoch("2026-11-19"),
        end=epoch("2026-11-20"),
    )
    async with rig.greeks():
        answer = await rig.bus.request(
            subjects.RPC_CANDLES,
            codec.to_json(request),
            30.0,
            {codec.HEADER_TIMEOUT_SECONDS: "0.2"},
        )
        rig.desk.gate.set()
    part = codec.from_json(CandlesPart, answer.payload)
    assert part.error is not None
    assert (part.error.code, part.last) == ("timeout", True)


async def test_any_of_several_workers_answers(rig):
    async with AsyncExitStack() as stack:
        for worker in ("g1", "g2"):
            await stack.enter_async_context(rig.greeks(worker=worker))
        results = await asyncio.gather(
            *(rig.candles(rig.option(), "2026-11-19T09:15", "2026-11-19T11:00") for _ in range(6))
        )
    assert all(result == results[0] for result in results)
    assert all(greeks_of(c).delta is not None for c in results[0])
    assert datetime.fromisoformat(results[0][0].date).astimezone(UTC).hour == 3
