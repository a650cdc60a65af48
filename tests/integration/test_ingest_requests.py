"""Candles and quotes over the bus: real NATS, a real simulator, real ingest."""

import asyncio
import csv
import json
import signal
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta

import msgspec
import pytest
from kiteconnect import KiteConnect

from libs.common.bus import market_requests
from libs.common.bus.errors import NoResponderError, ServiceBusyError, ServiceRefusedError
from libs.common.contracts import codec, subjects
from libs.common.contracts.messages import (
    Candle,
    CandleInterval,
    HistoryPart,
    HistoryRequest,
    QuoteReply,
    QuoteRequest,
    Source,
)
from libs.common.domain.clock import IST
from services.fleet.errors import FleetCannotAnswerError
from services.fleet.history import print_history
from services.ingest import metrics
from tests.fakes.simulator import SimulatorProcess
from tests.integration.conftest import until
from tests.integration.ingest_rig import IngestRig, end

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

NIFTY = 256265
HISTORY_PATH = "/instruments/historical"


@pytest.fixture(scope="module")
def simulator(tmp_path_factory):
    """One simulator with Kite's rate limits; each test heals it."""
    process = SimulatorProcess(tmp_path_factory.mktemp("simulator"), SIM_RATE_LIMITS="true")
    process.start()
    yield process
    process.kill()


@pytest.fixture
async def rig(bus, nats_server, simulator, tmp_path):
    simulator.heal()
    rig = IngestRig(bus, nats_server, simulator, tmp_path)
    await rig.prepare()
    yield rig
    simulator.heal()


@asynccontextmanager
async def one_ingest(rig, *accounts, **settings):
    """One ingest process that holds these accounts, logged in."""
    await rig.plan(*accounts)
    await rig.log_in(*accounts)
    async with rig.ingest(**settings):
        await rig.until_served(*accounts)
        yield


@asynccontextmanager
async def two_ingests(rig, first=1, second=2, **settings):
    """Two of them in this process, one account each; gives the worker's name by account."""
    await rig.plan(first, second)
    await rig.log_in(first, second)
    async with rig.ingest("one", **settings), rig.ingest("two", **settings):
        await rig.until_served(first, second)
        holders: dict[int, str] = {}
        async with asyncio.timeout(30):
            while len(set(holders.values())) < 2:
                for account in (first, second):
                    status = await rig.status(account)
                    if status is not None:
                        holders[account] = status.worker
                await asyncio.sleep(0.05)
        yield holders


def epoch(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=IST).timestamp())


def wanted(start="2026-11-17T09:15", end="2026-11-17T15:29:59", **changes):
    values = {"instrument_token": NIFTY, "interval": CandleInterval.MINUTE, **changes}
    return HistoryRequest(start=epoch(start), end=epoch(end), **values)


async def parts_of(bus, request, **options):
    async with market_requests.history(bus, request, timeout_seconds=60, **options) as parts:
        return [part async for part in parts]


async def candles_of(bus, request, **options):
    return [candle for part in await parts_of(bus, request, **options) for candle in part.candles]


async def stock(simulator, request, *, account=4):
    """The same candles by the stock client, piece by piece, on another account's limits."""
    client = KiteConnect(
        api_key=simulator.account(account).api_key,
        access_token=await simulator.token(account),
        root=simulator.url,
        timeout=60,
    )
    found = []
    at = datetime.fromtimestamp(request.start, IST).replace(tzinfo=None)
    end = datetime.fromtimestamp(request.end, IST).replace(tzinfo=None)
    while at <= end:
        last = min(at + timedelta(days=20) - timedelta(seconds=1), end)
        rows = await asyncio.to_thread(
            client.historical_data,
            request.instrument_token,
            at,
            last,
            request.interval.value,
            False,
            request.oi,
        )
        found += [
            Candle(
                int(row["date"].timestamp()),
                row["open"],
                row["high"],
                row["low"],
                row["close"],
                row["volume"],
                row.get("oi"),
            )
            for row in rows
        ]
        at = last + timedelta(seconds=1)
        await asyncio.sleep(0.4)
    return found


def count(metric, **labels):
    return metric.labels(**labels)._value.get()


async def option_token(simulator):
    """A token with open interest: any option of the dump."""
    async with await simulator.client(4) as client:
        dump = (await client.get("/instruments/NFO")).text
    row = next(line.split(",") for line in dump.splitlines() if ",CE," in line)
    return int(row[0])


async def test_minutes_of_150_days_equal_those_of_the_stock_client(rig, bus, simulator):
    request = wanted("2026-06-21T10:00", "2026-11-17T15:29:59")
    async with one_ingest(rig, 1):
        parts = await parts_of(bus, request)
    candles = [candle for part in parts for candle in part.candles]
    assert candles == await stock(simulator, request)
    assert len(candles) > 30_000
    assert [candle.start for candle in candles] == sorted({c.start for c in candles})
    assert [part.part for part in parts] == list(range(len(parts)))
    assert [part.last for part in parts] == [False] * (len(parts) - 1) + [True]
    assert {part.account for part in parts} == {"sim1"}
    assert max(len(part.candles) for part in parts) <= 5_000


@pytest.mark.parametrize("interval", [CandleInterval.MINUTE_15, CandleInterval.DAY])
async def test_open_interest_comes_when_asked_for(rig, bus, simulator, interval):
    token = await option_token(simulator)
    request = wanted("2026-11-10", "2026-11-17T23:59:59", interval=interval, instrument_token=token)
    async with one_ingest(rig, 1):
        plain = await candles_of(bus, request)
        with_oi = await candles_of(bus, msgspec.structs.replace(request, oi=True))
    assert {candle.oi for candle in plain} == {None}
    assert all(candle.oi is not None and candle.oi > 0 for candle in with_oi)
    assert with_oi == await stock(simulator, msgspec.structs.replace(request, oi=True))


async def test_both_ends_are_inclusive_to_the_second(rig, bus):
    async with one_ingest(rig, 1):
        both = await candles_of(bus, wanted("2026-11-17T10:00", "2026-11-17T10:02"))
        inner = await candles_of(bus, wanted("2026-11-17T10:00:01", "2026-11-17T10:01:59"))
        none = await parts_of(bus, wanted("2026-11-15T10:00", "2026-11-15T11:00"))
    minutes = [epoch(f"2026-11-17T10:0{minute}") for minute in range(3)]
    assert [candle.start for candle in both] == minutes
    assert [candle.start for candle in inner] == minutes[1:2]
    # A Sunday: one part, empty, and the last.
    assert [(part.candles, part.last, part.error) for part in none] == [((), True, None)]


async def test_quotes_are_kites_own_with_zoned_times_and_unknown_ones_are_absent(rig, bus):
    names = ("NSE:NIFTY 50", "NSE:NO SUCH THING", str(NIFTY))
    async with one_ingest(rig, 1):
        reply = await market_requests.quotes(bus, QuoteRequest(instruments=names))
    assert set(reply.quotes) == {"NSE:NIFTY 50", str(NIFTY)}
    assert reply.account == "sim1"
    quote = msgspec.json.decode(reply.quotes["NSE:NIFTY 50"])
    assert quote["instrument_token"] == NIFTY
    assert quote["timestamp"].endswith("+05:30")
    assert datetime.fromisoformat(quote["timestamp"]).date().isoformat() == "2026-11-18"
    assert len(quote["depth"]["buy"]) == 5


async def test_many_quotes_are_fetched_in_chunks(rig, bus, simulator):
    async with await simulator.client(4) as client:
        dump = (await client.get("/instruments")).text
    tokens = [line.split(",")[0] for line in dump.splitlines()[1:400]]
    async with one_ingest(rig, 1):
        reply = await market_requests.quotes(bus, QuoteRequest(instruments=tuple(tokens)))
    assert set(reply.quotes) == set(tokens)


async def test_callers_share_the_limits_of_a_key(rig, bus):
    """Kite, which counts on a clock of its own, hardly ever has to refuse."""

    def calls(outcome):
        return sum(
            count(metrics.KITE_CALLS_TOTAL, account="sim1", call=call, outcome=outcome)
            for call in ("history", "quote")
        )

    done, refused = calls("ok"), calls("limited")
    async with one_ingest(rig, 1):
        replies, histories = await asyncio.gather(
            asyncio.gather(
                *(
                    market_requests.quotes(bus, QuoteRequest(instruments=("NSE:NIFTY 50",)))
                    for _ in range(4)
                )
            ),
            asyncio.gather(*(candles_of(bus, wanted()) for _ in range(8))),
        )
    assert [reply.account for reply in replies] == ["sim1"] * 4
    assert {len(candles) for candles in histories} == {375}
    assert calls("ok") - done == 12
    # Not sharing, the first second alone would see eight refusals.
    assert calls("limited") - refused <= 3


async def test_limit_of_one_account_is_relieved_by_the_next_process(rig, bus):
    """With two keys four quotes need two seconds of calls, not four: both must have served."""
    async with two_ingests(rig):
        replies = await asyncio.gather(
            *(
                market_requests.quotes(bus, QuoteRequest(instruments=("NSE:NIFTY 50",)))
                for _ in range(6)
            )
        )
    served = Counter(reply.account for reply in replies)
    assert set(served) == {"sim1", "sim2"}


@pytest.mark.parametrize("processes", [1, 2])
async def test_candles_say_whose_market_they_are_of_and_can_be_asked_of_one_alone(
    rig, bus, processes
):
    """While the simulator stands in, live accounts stay logged in; their tokens mean others."""
    await rig.plan(1, 2)
    await rig.log_in(1, source=Source.LIVE)
    await rig.log_in(2)
    async with AsyncExitStack() as stack:
        for number in range(processes):
            await stack.enter_async_context(rig.ingest(f"worker{number}"))
        await rig.until_served(1, 2)
        for source, account in ((Source.LIVE, "sim1"), (Source.SIM, "sim2")):
            # Four in a row, so that each process and each account gets its turn.
            for _ in range(4):
                parts = await parts_of(bus, wanted(source=source))
                assert {(part.source, part.account) for part in parts} == {(source, account)}
        parts = [part for _ in range(4) for part in await parts_of(bus, wanted())]
        assert all((part.source is Source.LIVE) is (part.account == "sim1") for part in parts)


async def test_market_that_no_account_is_of_is_no_account(rig, bus):
    async with one_ingest(rig, 1):
        with pytest.raises(ServiceBusyError) as raised:
            await parts_of(bus, wanted(source=Source.LIVE))
    assert raised.value.code == "no_account"
    assert "other_market" in raised.value.reason


async def test_429_of_kite_fails_over_to_another_account(rig, bus, simulator):
    key = simulator.account(1).api_key
    async with two_ingests(rig):
        simulator.fault(kind="error_replies", api_key=key, path=HISTORY_PATH, status=429)
        for _ in range(3):
            parts = await parts_of(bus, wanted())
            assert {part.account for part in parts} == {"sim2"}
            assert sum(len(part.candles) for part in parts) == 375


async def test_429_for_the_only_account_is_waited_for(rig, bus, simulator):
    async with one_ingest(rig, 1):
        simulator.fault(kind="error_replies", path=HISTORY_PATH, status=429, count=2, html=True)
        assert len(await candles_of(bus, wanted())) == 375
        assert simulator.active_faults() == []


async def test_403_fails_over_and_the_session_is_reported_refused(rig, bus, simulator):
    key = simulator.account(1).api_key
    async with two_ingests(rig):
        fault = {"kind": "error_replies", "path": HISTORY_PATH, "status": 403}
        simulator.fault(api_key=key, error_type="TokenException", **fault)
        # Whichever process gets a request; the first one that asks the dead account sees the 403.
        before = count(metrics.FAILOVERS_TOTAL, call="history", cause="session_refused")
        async with asyncio.timeout(60):
            while count(metrics.FAILOVERS_TOTAL, call="history", cause="session_refused") == before:
                assert {part.account for part in await parts_of(bus, wanted())} == {"sim2"}
        await rig.until_interest(subjects.rpc_history_of("sim1"), expected=False)
        status = await rig.until_status(1, lambda status: status.session_refused)
        assert status.session_minted_at_ns is not None
        simulator.heal()
        with pytest.raises(NoResponderError):
            await parts_of(bus, wanted(), account="sim1")
        # A session that was minted later is used at once.
        await rig.log_in(1)
        await rig.until_served(1)
        assert {part.account for part in await parts_of(bus, wanted(), account="sim1")} == {"sim1"}


async def test_refused_account_that_is_asked_alone_says_that_it_has_no_session(rig, bus, simulator):
    async with one_ingest(rig, 1, 2):
        simulator.fault(
            kind="error_replies",
            api_key=simulator.account(1).api_key,
            path=HISTORY_PATH,
            status=403,
            error_type="TokenException",
        )
        with pytest.raises(ServiceBusyError, match="sim1: session_refused") as caught:
            await parts_of(bus, wanted(), account="sim1")
        assert caught.value.code == "no_account"


async def test_pieces_are_not_fetched_for_a_caller_who_has_left(rig, bus):
    request = wanted("2018-01-01", "2026-11-17")
    abandoned = metrics.REQUESTS_TOTAL.labels(call="history", outcome="abandoned")
    before = abandoned._value.get()
    async with one_ingest(rig, 1):
        async with market_requests.history(bus, request, timeout_seconds=60) as parts:
            await anext(parts)
        # Fifty-five pieces would take eighteen seconds of Kite's limit, and much longer here.
        await until(lambda: abandoned._value.get() == before + 1, seconds=60)


async def test_token_that_died_at_kite_is_refused_once_and_then_left_alone(rig, bus, simulator):
    async with one_ingest(rig, 3):
        simulator.fault(kind="dead_token", api_key=simulator.account(3).api_key)
        with pytest.raises(ServiceBusyError) as caught:
            await parts_of(bus, wanted())
        assert caught.value.code == "no_account"
        await rig.until_interest(subjects.RPC_HISTORY, expected=False)
        with pytest.raises(NoResponderError):
            await parts_of(bus, wanted())


async def test_app_without_permission_keeps_its_session_and_is_asked_once(rig, bus, simulator):
    async with one_ingest(rig, 1):
        simulator.fault(
            kind="error_replies",
            path=HISTORY_PATH,
            status=403,
            error_type="PermissionException",
            count=1,
        )
        for _ in range(2):
            with pytest.raises(ServiceBusyError, match="not_permitted") as caught:
                await parts_of(bus, wanted())
            assert caught.value.code == "no_account"
        # Quotes are another permission, and the session lives.
        reply = await market_requests.quotes(bus, QuoteRequest(instruments=("NSE:NIFTY 50",)))
        assert reply.account == "sim1"


async def test_killed_holder_is_failed_over(rig, bus):
    await rig.plan(1, 2)
    await rig.log_in(1, 2)
    processes = {name: rig.launch(name) for name in ("one", "two")}
    try:
        await rig.until_served(1, 2)
        holders: dict[str, int] = {}
        async with asyncio.timeout(60):
            while len(holders) < 2:
                for number in (1, 2):
                    status = await rig.status(number)
                    if status is not None:
                        holders[status.worker] = number
                await asyncio.sleep(0.05)
        doomed, left = holders["one"], holders["two"]
        end(processes["one"], signal.SIGKILL)
        # Nobody serves the dead one's account now; the other one's process asks and goes on.
        for _ in range(3):
            parts = await parts_of(bus, wanted())
            assert {part.account for part in parts} <= {f"sim{left}", f"sim{doomed}"}
            assert sum(len(part.candles) for part in parts) == 375
        # And its account is served again once its lease has passed on.
        await rig.until_served(doomed)
        assert len(await candles_of(bus, wanted(), account=f"sim{doomed}")) == 375
    finally:
        for process in processes.values():
            end(process)


async def test_fault_of_kite_fails_over_and_for_all_accounts_is_unavailable(rig, bus, simulator):
    key = simulator.account(1).api_key
    async with one_ingest(rig, 1, 2):
        simulator.fault(kind="error_replies", api_key=key, path=HISTORY_PATH, status=502, html=True)
        for _ in range(2):
            assert {part.account for part in await parts_of(bus, wanted())} == {"sim2"}
        simulator.fault(kind="error_replies", path=HISTORY_PATH, status=504, html=True)
        with pytest.raises(ServiceBusyError) as caught:
            await parts_of(bus, wanted())
        assert caught.value.code == "unavailable"
        # One account alone does not fail over.
        with pytest.raises(ServiceBusyError, match="sim1: unavailable"):
            await parts_of(bus, wanted(), account="sim1")


async def test_call_that_hangs_ends_by_its_deadline_and_fails_over(rig, bus, simulator):
    key = simulator.account(1).api_key
    async with one_ingest(rig, 1, 2, broker_call_seconds=0.7):
        simulator.fault(kind="slow_replies", api_key=key, path=HISTORY_PATH, milliseconds=600_000)
        for _ in range(2):
            parts = await parts_of(bus, wanted("2026-11-17T10:00", "2026-11-17T10:05"))
            assert {part.account for part in parts} == {"sim2"}


async def test_request_beyond_the_callers_patience_is_told_when_to_come_back(rig, bus):
    async with one_ingest(rig, 1):
        headers = {codec.HEADER_TIMEOUT_SECONDS: "0.2"}
        request = QuoteRequest(instruments=("NSE:NIFTY 50",))
        results = await asyncio.gather(
            *(market_requests.quotes(bus, request, headers=headers) for _ in range(5)),
            return_exceptions=True,
        )
    errors = [result for result in results if isinstance(result, ServiceBusyError)]
    assert errors
    assert {error.code for error in errors} <= {"rate_limited", "unavailable"}
    limited = [error for error in errors if error.code == "rate_limited"]
    assert limited
    assert all(error.retry_after_seconds and error.retry_after_seconds > 0 for error in limited)


async def test_waiting_line_is_bounded(rig, bus):
    full = metrics.WAITS_TOTAL.labels(call="quote", outcome="full")
    before = full._value.get()
    async with one_ingest(rig, 1, requests_waiting=1):
        request = QuoteRequest(instruments=("NSE:NIFTY 50",))
        results = await asyncio.gather(
            *(market_requests.quotes(bus, request) for _ in range(8)), return_exceptions=True
        )
    served = [result for result in results if isinstance(result, QuoteReply)]
    errors = [result for result in results if isinstance(result, ServiceBusyError)]
    assert len(served) + len(errors) == 8
    assert served
    assert {error.code for error in errors} == {"rate_limited"}
    assert full._value.get() - before == len(errors)


async def test_concurrency_is_bounded_and_the_excess_is_refused_at_once(rig, bus, simulator):
    async with one_ingest(rig, 1, request_concurrency=2, broker_call_seconds=30):
        simulator.fault(kind="slow_replies", path=HISTORY_PATH, milliseconds=5_000)
        running = [asyncio.create_task(candles_of(bus, wanted())) for _ in range(2)]
        await until(lambda: bus_running() == 2, seconds=30)
        with pytest.raises(ServiceBusyError, match="too many requests") as caught:
            await candles_of(bus, wanted())
        assert caught.value.code == "unavailable"
        assert [len(candles) for candles in await asyncio.gather(*running)] == [375, 375]


def bus_running():
    from libs.common.bus import metrics as bus_metrics

    return bus_metrics.SERVICE_RUNNING.labels(service="tickfleet-ingest")._value.get()


async def test_request_that_runs_is_finished_when_the_process_stops(rig, bus, simulator):
    await rig.plan(1)
    await rig.log_in(1)
    async with rig.ingest(request_stop_seconds=5) as life:
        await rig.until_served(1)
        simulator.fault(kind="slow_replies", path=HISTORY_PATH, milliseconds=1_000)
        asking = asyncio.create_task(candles_of(bus, wanted()))
        await until(lambda: bus_running() == 1, seconds=30)
        life.request_stop("test")
        assert len(await asking) == 375


async def test_request_that_outlasts_the_stop_is_told_so(rig, bus, simulator):
    await rig.plan(1)
    await rig.log_in(1)
    async with rig.ingest(request_stop_seconds=0.1, broker_call_seconds=60) as life:
        await rig.until_served(1)
        simulator.fault(kind="slow_replies", path=HISTORY_PATH, milliseconds=600_000)
        asking = asyncio.create_task(candles_of(bus, wanted()))
        await until(lambda: bus_running() == 1, seconds=30)
        life.request_stop("test")
        with pytest.raises(ServiceBusyError, match="stopping"):
            await asking


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (b"", None),
        (b"\xff\x00", None),
        (b"[]", None),
        (b'{"instrument_token": 1, "interval": "minute", "end": 2}', "start"),
        (b'{"instrument_token": 1, "interval": "2minute", "start": 1, "end": 2}', "interval"),
        (b'{"instrument_token": 1, "interval": "day", "start": 2, "end": 1}', "end"),
        (b'{"instrument_token": 1, "interval": "day", "start": 1, "end": 1e19}', "end"),
        (b'{"instrument_token": 1, "interval": "day", "start": 1, "end": 1795410000000}', "end"),
        (b'{"instrument_token": 1, "interval": "minute", "start": 1, "end": 1795410000}', "start"),
        (
            b'{"instrument_token": 1, "interval": "minute", "start": 1, "end": 2, "continuous": 1}',
            "continuous",
        ),
        (
            b'{"instrument_token":1,"interval":"minute","start":1,"end":2,"continuous":true}',
            "continuous",
        ),
    ],
)
async def test_malformed_history_request_names_the_field(rig, bus, payload, field):
    async with one_ingest(rig, 1):
        answer = await bus.request(subjects.RPC_HISTORY, payload, 10.0)
    part = codec.from_json(HistoryPart, answer.payload)
    assert part.last
    assert part.error is not None
    assert (part.error.code, part.error.field) == ("bad_request", field)


async def test_malformed_quote_requests_and_headers_name_the_field(rig, bus):
    cases = [
        (b"{}", None, "instruments"),
        (b'{"instruments": []}', None, "instruments"),
        (json.dumps({"instruments": ["NSE:A"] * 501}).encode(), None, "instruments"),
        (b'{"instruments": ["NSE:A", "nonsense"]}', None, "instruments[1]"),
        (
            b'{"instruments": ["NSE:NIFTY 50"]}',
            {codec.HEADER_TIMEOUT_SECONDS: "soon"},
            codec.HEADER_TIMEOUT_SECONDS,
        ),
    ]
    async with one_ingest(rig, 1):
        for payload, headers, field in cases:
            answer = await bus.request(subjects.RPC_QUOTE, payload, 10.0, headers)
            reply = codec.from_json(QuoteReply, answer.payload)
            assert reply.error is not None
            assert (reply.error.code, reply.error.field) == ("bad_request", field)


async def test_unknown_token_is_not_found_without_failover(rig, bus):
    failovers = metrics.FAILOVERS_TOTAL.labels(call="history", cause="unavailable")
    before = failovers._value.get()
    async with one_ingest(rig, 1, 2):
        with pytest.raises(ServiceRefusedError) as caught:
            await parts_of(bus, wanted(instrument_token=999_999_999))
    assert (caught.value.code, caught.value.field) == ("not_found", "instrument_token")
    assert failovers._value.get() == before


async def test_account_without_session_serves_nothing_until_it_has_one(rig, bus):
    await rig.plan(1)
    async with rig.ingest():
        await rig.until_status(1, lambda _: True)
        with pytest.raises(NoResponderError):
            await parts_of(bus, wanted())
        await rig.log_in(1)
        await rig.until_interest(subjects.RPC_HISTORY)
        assert len(await candles_of(bus, wanted())) == 375


async def test_requests_are_served_again_after_a_restart_of_nats(rig, bus, nats_server):
    async with one_ingest(rig, 1):
        nats_server.restart()
        await until(lambda: bus.is_connected, seconds=30)
        await rig.until_served(1)
        assert len(await candles_of(bus, wanted())) == 375


async def test_history_prints_csv_lines_for_a_person(rig, bus, nats_server):
    del bus
    lines: list[str] = []
    request = wanted("2026-11-17T10:00", "2026-11-17T10:02", oi=True)
    async with one_ingest(rig, 1):
        count = await print_history(nats_server.url, request, account=None, write=lines.append)
    rows = list(csv.DictReader(lines))
    assert count == len(rows) == 3
    assert [row["time"] for row in rows] == [
        f"2026-11-17T10:0{minute}:00+05:30" for minute in range(3)
    ]
    assert all(float(row["low"]) <= float(row["close"]) <= float(row["high"]) for row in rows)
    assert all(row["oi"].isdecimal() for row in rows)
    with pytest.raises(FleetCannotAnswerError, match="no ingest process holds an account"):
        await print_history(nats_server.url, request, account=None, write=lines.append)
    with pytest.raises(FleetCannotAnswerError, match="account sim9"):
        await print_history(nats_server.url, request, account="sim9", write=lines.append)
