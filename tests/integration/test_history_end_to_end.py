"""Candles with Greeks through everything: simulator, ingest, PostgreSQL, greeks, gateway."""

import csv
import math
from datetime import date, datetime

import pytest
from vollib.black.implied_volatility import implied_volatility

from libs.common.contracts.messages import CandleInterval, CandlesRequest, Source
from libs.common.domain.clock import IST
from libs.common.domain.instruments import Kind, OptionType, parse_dump
from libs.common.domain.market_calendar import CALENDAR
from services.control import registry
from services.fleet.history import print_priced_history
from services.ingest import metrics as ingest_metrics
from tests.fakes.history_desk import HistoryDesk
from tests.fakes.kite_frames import FakeMarket
from tests.fakes.simulator import SimulatorProcess
from tests.integration.candles_rig import NOW, CandlesRig, epoch
from tests.integration.gateway_rig import running_gateway, running_postgres
from tests.integration.ingest_rig import IngestRig

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

TODAY = date(2026, 11, 18)


@pytest.fixture(scope="module")
def simulator(tmp_path_factory):
    process = SimulatorProcess(tmp_path_factory.mktemp("simulator"), SIM_RATE_LIMITS="true")
    process.start()
    yield process
    process.kill()


async def instruments_of(simulator):
    async with await simulator.client(4) as client:
        dump = await client.get("/instruments")
    return parse_dump(dump.content).instruments


def calls_to_kite() -> float:
    """Of both accounts, whatever came of them."""
    samples = next(iter(ingest_metrics.KITE_CALLS_TOTAL.collect())).samples
    return sum(
        s.value for s in samples if s.name.endswith("_total") and s.labels["call"] == "history"
    )


async def test_option_history_is_priced_kept_and_printed(bus, nats_server, simulator, tmp_path):
    rig = IngestRig(bus, nats_server, simulator, tmp_path)
    await rig.prepare()
    listed = await instruments_of(simulator)
    await registry.publish(bus, listed, revision=1, market_date=TODAY)
    market = FakeMarket(strikes_each_side=0)
    fleet = CandlesRig(bus, nats_server, market, HistoryDesk(bus, market, now=NOW))
    await fleet.say_control(Source.SIM, TODAY)

    nifty = [i for i in listed if i.underlying == "NIFTY"]
    future = min((i for i in nifty if i.kind is Kind.FUTURE), key=lambda i: i.expiry or TODAY)
    options = [i for i in nifty if i.kind is Kind.OPTION and i.expiry == future.expiry]
    option = sorted(options, key=lambda i: i.strike or 0)[len(options) // 2]
    query = (
        f"/history?instrument_token={option.instrument_token}&interval=30minute&oi=true"
        "&from_ts=2026-11-12&to_ts=2026-11-17"
    )

    await rig.plan(1, 2)
    await rig.log_in(1, 2)
    async with (
        running_postgres(tmp_path / "postgres") as postgres,
        rig.ingest(),
        fleet.greeks(postgres.url),
        running_gateway(nats_server.url, postgres.url) as gateway,
    ):
        await rig.until_served(1, 2)
        before = calls_to_kite()
        body = (await gateway.get(query)).json()
        fetched = calls_to_kite() - before
        again = (await gateway.get(query)).json()
        assert fetched == 2
        assert calls_to_kite() - before == fetched
        assert again == body
        today = query.partition("&from_ts")[0] + "&from_ts=2026-11-18&to_ts=2026-11-18"
        running = (await gateway.get(today)).json()
        unknown = await gateway.get("/history?instrument_token=1&from_ts=100&to_ts=200")
        lines: list[str] = []
        count = await print_priced_history(
            nats_server.url,
            CandlesRequest(
                instrument_token=option.instrument_token,
                interval=CandleInterval.MINUTE_30,
                start=epoch("2026-11-17"),
                end=epoch("2026-11-18") - 1,
                greeks=True,
            ),
            write=lines.append,
        )
        own = await kite_candles(simulator, option.instrument_token)
        forwards = await kite_candles(simulator, future.instrument_token)

    assert (body["complete"], body["source"]) == (True, "sim")
    assert unknown.status_code == 404
    # The clock of the simulator stands between eleven and some minutes later.
    assert running["candles"][-1]["date"] == "2026-11-18T10:45:00+05:30"
    assert running["complete"] is True
    days = {candle["date"][:10] for candle in body["candles"]}
    assert days == {f"2026-11-{day}" for day in (12, 13, 16, 17)}
    # What the simulator itself gives, candle by candle.
    assert [(c["close"], c["volume"], c["oi"]) for c in body["candles"]] == [
        (row[4], row[5], row[6]) for row in own
    ]
    assert [c["greeks"]["forward"] for c in body["candles"]] == [row[4] for row in forwards]
    dies = CALENDAR.expiry_instant("NFO", option.expiry or TODAY).timestamp()
    side = "c" if option.option_type is OptionType.CALL else "p"
    compared = 0
    for candle in body["candles"]:
        greeks = candle["greeks"]
        assert greeks["forward_source"] == "future"
        assert candle["oi"] > 0
        begins = datetime.fromisoformat(candle["date"])
        session = CALENDAR.session("NFO", begins.astimezone(IST).date())
        assert session is not None
        ends = min(begins.timestamp() + 1_800, session.close.timestamp())
        assert math.isclose(greeks["tte"], (dies - ends) / (365 * 86_400), rel_tol=1e-12)
        if greeks["iv_status"] == "ok":
            terms = (greeks["forward"], option.strike, 0.0, greeks["tte"], side)
            expected = implied_volatility(candle["close"], *terms)
            assert math.isclose(greeks["iv"], expected, rel_tol=1e-8)
            compared += 1
    assert compared > 40

    rows = list(csv.DictReader("".join(lines).splitlines()))
    assert len(rows) == count == sum(c["date"].startswith("2026-11-17") for c in body["candles"])
    last = body["candles"][-1]
    assert (rows[-1]["time"], float(rows[-1]["iv"])) == (last["date"], last["greeks"]["iv"])
    assert (rows[-1]["forward_source"], "oi" in rows[-1]) == ("future", False)


async def kite_candles(simulator, token):
    async with await simulator.client(4) as client:
        answer = await client.get(
            f"/instruments/historical/{token}/30minute",
            params={"from": "2026-11-12 00:00:00", "to": "2026-11-17 23:59:59", "oi": "1"},
        )
    return answer.json()["data"]["candles"]
