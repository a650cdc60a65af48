"""`GET /history` on a real gateway: what it answers, streams, refuses, and leaves behind."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from libs.common.bus.connection import Bus, BusMessage
from libs.common.contracts import codec, subjects
from libs.common.contracts.messages import (
    CandlesPart,
    CandlesRequest,
    Convention,
    RpcError,
    Source,
)
from services.gateway import metrics
from tests.fakes.history_desk import HistoryDesk
from tests.fakes.kite_frames import FakeMarket
from tests.integration.candles_rig import NOW, CandlesRig, epoch
from tests.integration.conftest import until
from tests.integration.gateway_rig import running_gateway

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

DAY = "from_ts=2026-11-19&to_ts=2026-11-19"


class GreeksDesk:
    """Plays greeks: answers `rpc.candles.v1` with what a test says, and keeps the requests."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.asked: list[CandlesRequest] = []
        self.headers: list[dict[str, str]] = []
        self.parts: list[CandlesPart] = []
        self.error: RpcError | None = None
        # Errors come with the second piece where one is to come late.
        self.fails_from_piece = 0
        # From this piece on, answers wait for the gate.
        self.waits_from_piece = 0
        self.gate = asyncio.Event()
        self.gate.set()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator["GreeksDesk"]:
        """Answer until the block ends."""
        subscription = await self._bus.subscribe(subjects.RPC_CANDLES, self._answer, "greeks")
        await self._bus.client.flush()
        yield self
        await subscription.unsubscribe()

    async def _answer(self, message: BusMessage) -> None:
        self.asked.append(codec.from_json(CandlesRequest, message.payload))
        self.headers.append(dict(message.headers or {}))
        if len(self.asked) > self.waits_from_piece:
            await self.gate.wait()
        if self.error is not None and len(self.asked) > self.fails_from_piece:
            nothing = msgspec.Raw(b"[]")
            answers = [CandlesPart(candles=nothing, part=0, last=True, error=self.error)]
        else:
            answers = self.parts
        for answer in answers:
            assert message.reply
            await self._bus.publish(message.reply, codec.to_json(answer))


def part(number: int, *candles: dict[str, Any], last: bool = True, **changes: Any) -> CandlesPart:
    return CandlesPart(
        candles=msgspec.Raw(json.dumps(candles).encode()),
        part=number,
        last=last,
        **{"source": Source.SIM, **changes},
    )


def outcomes(outcome: str) -> float:
    return float(metrics.HISTORY_REQUESTS_TOTAL.labels(outcome=outcome)._value.get())


@pytest.fixture
async def desk(bus):
    async with GreeksDesk(bus).serving() as desk:
        yield desk


async def test_parts_become_one_json_object(nats_server, desk):
    desk.parts = [
        part(0, {"n": 1}, {"n": 2}, last=False, convention=Convention(rate=0.065)),
        part(1, last=False),
        part(2, {"n": 3}),
    ]
    async with running_gateway(nats_server.url) as gateway:
        answer = await gateway.get(f"/history?instrument_token=7&{DAY}&oi=1&interval=5minute")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["cache-control"] == "no-store"
    body = answer.json()
    convention = body.pop("convention")
    assert (convention["rate"], convention["model"]) == (0.065, "black76")
    assert body == {
        "instrument_token": 7,
        "interval": "5minute",
        "source": "sim",
        "candles": [{"n": 1}, {"n": 2}, {"n": 3}],
        "complete": True,
    }
    (request,) = desk.asked
    assert (request.oi, request.greeks, request.continuous) == (True, None, False)
    assert (request.start, request.end) == (epoch("2026-11-19"), epoch("2026-11-20") - 1)
    assert float(desk.headers[0][codec.HEADER_TIMEOUT_SECONDS]) == 45


async def test_no_candles_are_an_empty_list(nats_server, desk):
    desk.parts = [part(0, source=None)]
    async with running_gateway(nats_server.url) as gateway:
        body = (await gateway.get(f"/history?instrument_token=7&{DAY}")).json()
    assert body == {
        "instrument_token": 7,
        "interval": "minute",
        "source": None,
        "convention": None,
        "candles": [],
        "complete": True,
    }


async def test_long_span_is_asked_for_piece_by_piece(nats_server, desk):
    desk.parts = [part(0, {"n": 1})]
    query = "instrument_token=7&from_ts=2026-01-01&to_ts=2026-06-30&interval=minute"
    async with running_gateway(nats_server.url) as gateway:
        body = (await gateway.get(f"/history?{query}")).json()
    spans = [(request.start, request.end) for request in desk.asked]
    assert len(spans) == 4
    assert [end + 1 for _, end in spans[:-1]] == [start for start, _ in spans[1:]]
    assert (spans[0][0], spans[-1][1]) == (epoch("2026-01-01"), epoch("2026-07-01") - 1)
    assert body["candles"] == [{"n": 1}] * 4


async def test_error_after_the_first_part_ends_the_json_validly(nats_server, desk):
    desk.parts = [part(0, {"n": 1})]
    desk.error = RpcError(code="rate_limited", message="later", retry_after_seconds=2)
    desk.fails_from_piece = 1
    query = "instrument_token=7&from_ts=2026-01-01&to_ts=2026-06-30"
    async with running_gateway(nats_server.url) as gateway:
        answer = await gateway.get(f"/history?{query}")
    assert answer.status_code == 200
    body = answer.json()
    assert body["candles"] == [{"n": 1}]
    assert body["complete"] is False
    assert body["error"] == {"code": "rate_limited", "message": "later", "field": None}


async def test_market_that_turns_between_pieces_ends_the_answer(nats_server, desk):
    desk.parts = [part(0, {"n": 1}, last=False), part(1, {"n": 2}, source=Source.LIVE)]
    async with running_gateway(nats_server.url) as gateway:
        body = (await gateway.get(f"/history?instrument_token=7&{DAY}")).json()
    assert (body["candles"], body["complete"]) == ([{"n": 1}], False)
    assert body["error"]["code"] == "unavailable"


async def test_lost_part_is_never_taken_for_the_whole(nats_server, desk):
    desk.parts = [part(0, {"n": 1}, last=False), part(2, {"n": 3})]
    async with running_gateway(nats_server.url) as gateway:
        body = (await gateway.get(f"/history?instrument_token=7&{DAY}")).json()
    assert (body["candles"], body["complete"]) == ([{"n": 1}], False)


@pytest.mark.parametrize(
    ("error", "status", "field", "retry"),
    [
        (
            RpcError(code="not_found", message="-", field="end"),
            404,
            "to_ts",
            None,
        ),
        (RpcError(code="bad_request", message="-", field="greeks"), 422, "greeks", None),
        (RpcError(code="bad_request", message="-", field="start"), 422, "from_ts", None),
        (RpcError(code="rate_limited", message="-", retry_after_seconds=3.2), 429, None, "3"),
        (RpcError(code="unavailable", message="-"), 503, None, "2"),
        (RpcError(code="no_account", message="-"), 503, None, "2"),
        (RpcError(code="timeout", message="-"), 504, None, None),
    ],
)
async def test_error_before_the_first_part_decides_the_status(
    nats_server, desk, error, status, field, retry
):
    desk.error = error
    async with running_gateway(nats_server.url) as gateway:
        answer = await gateway.get(f"/history?instrument_token=7&{DAY}")
    assert (answer.status_code, answer.headers.get("retry-after")) == (status, retry)
    assert answer.json() == {"error": {"code": error.code, "message": "-", "field": field}}


async def test_without_greeks_it_says_so_and_when_to_come_again(nats_server):
    async with running_gateway(nats_server.url) as gateway:
        answer = await gateway.get(f"/history?instrument_token=7&{DAY}")
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "2"
    assert answer.json()["error"]["code"] == "no_worker"


async def test_greeks_that_does_not_answer_in_time_is_a_504(nats_server, desk):
    desk.gate.clear()
    async with running_gateway(nats_server.url, history_piece_seconds=0.1) as gateway:
        answer = await gateway.get(f"/history?instrument_token=7&{DAY}")
        desk.gate.set()
    assert answer.status_code == 504
    assert answer.json()["error"]["code"] == "timeout"


@pytest.mark.parametrize(
    ("query", "status", "field"),
    [
        (DAY, 422, "instrument_token"),
        (f"instrument_token=&{DAY}", 422, "instrument_token"),
        (f"instrument_token=-1&{DAY}", 422, "instrument_token"),
        (f"instrument_token=4294967296&{DAY}", 422, "instrument_token"),
        ("instrument_token=7&to_ts=2026-11-19", 422, "from_ts"),
        ("instrument_token=7&from_ts=2026-11-19", 422, "to_ts"),
        ("instrument_token=7&from_ts=yesterday&to_ts=2026-11-19", 422, "from_ts"),
        ("instrument_token=7&from_ts=2026-02-30&to_ts=2026-11-19", 422, "from_ts"),
        ("instrument_token=7&from_ts=1795405500000&to_ts=1795405501000", 422, "from_ts"),
        ("instrument_token=7&from_ts=2026-11-20&to_ts=2026-11-19", 400, "to_ts"),
        ("instrument_token=7&from_ts=100&to_ts=100", 400, "to_ts"),
        (f"instrument_token=7&{DAY}&interval=2minute", 422, "interval"),
        (f"instrument_token=7&{DAY}&oi=maybe", 422, "oi"),
        (f"instrument_token=7&{DAY}&greeks=2", 422, "greeks"),
        (f"instrument_token=7&{DAY}&continuous=yes", 422, "continuous"),
        (f"instrument_token=7&{DAY}&account=sim1", 422, "account"),
        (f"instrument_token=7&instrument_token=8&{DAY}", 422, "instrument_token"),
    ],
)
async def test_wrong_parameter_is_named_and_asks_nobody(nats_server, desk, query, status, field):
    async with running_gateway(nats_server.url) as gateway:
        answer = await gateway.get(f"/history?{query}")
    assert (answer.status_code, answer.json()["error"]["field"]) == (status, field)
    assert desk.asked == []


async def test_api_key_is_wanted_as_elsewhere(nats_server, desk):
    desk.parts = [part(0)]
    async with running_gateway(
        nats_server.url, api_key_enabled=True, api_key="a-key-of-sixteen-characters"
    ) as gateway:
        refused = await gateway.get(f"/history?instrument_token=7&{DAY}")
        served = await gateway.get(
            f"/history?instrument_token=7&{DAY}", **{"X-API-Key": "a-key-of-sixteen-characters"}
        )
    assert (refused.status_code, served.status_code) == (401, 200)


async def test_one_request_too_many_is_told_to_come_again(nats_server, desk):
    desk.gate.clear()
    desk.parts = [part(0)]
    path = f"/history?instrument_token=7&{DAY}"
    async with running_gateway(nats_server.url, history_concurrency=1) as gateway:
        first = asyncio.create_task(gateway.get(path))
        await until(lambda: desk.asked)
        refused = await gateway.get(path)
        desk.gate.set()
        assert (await first).status_code == 200
        again = await gateway.get(path)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "busy")
    assert again.status_code == 200


@pytest.mark.parametrize("pieces_before", [0, 1])
async def test_client_that_leaves_ends_the_request_behind_it(nats_server, desk, pieces_before):
    left = outcomes("left")
    desk.parts = [part(0, {"n": 1})]
    desk.waits_from_piece = pieces_before
    desk.gate.clear()
    query = "instrument_token=7&from_ts=2026-01-01&to_ts=2026-06-30"
    async with running_gateway(nats_server.url) as gateway:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.settings.gateway_port)
        writer.write(f"GET /history?{query} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        await until(lambda: len(desk.asked) == pieces_before + 1)
        if pieces_before:
            assert (await reader.read(15)).startswith(b"HTTP/1.1 200 OK")
        writer.close()
        await until(lambda: outcomes("left") > left)
        assert metrics.HISTORY_RUNNING._value.get() == 0
        desk.gate.set()
    assert len(desk.asked) == pieces_before + 1


async def test_slow_client_holds_one_piece_and_a_dead_one_is_given_up(nats_server, desk):
    stalled = outcomes("stalled")
    fat = {"text": "x" * 900_000}
    desk.parts = [part(n, fat, last=n == 9) for n in range(10)]
    query = "instrument_token=7&from_ts=2020-01-01&to_ts=2026-03-31"
    async with running_gateway(nats_server.url, stall_seconds=0.5) as gateway:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", gateway.settings.gateway_port, limit=1024
        )
        writer.write(f"GET /history?{query} HTTP/1.1\r\nHost: here\r\n\r\n".encode())
        await until(lambda: outcomes("stalled") > stalled, 60)
        # Of 38 pieces; the system's own buffers take some megabytes.
        assert len(desk.asked) < 5
        await until(lambda: metrics.HISTORY_RUNNING._value.get() == 0)
        assert (await reader.read(15)).startswith(b"HTTP/1.1 200 OK")
        writer.close()


async def test_gateway_greeks_and_played_ingest_together(nats_server, bus):
    market = FakeMarket(strikes_each_side=1)
    rig = CandlesRig(bus, nats_server, market, HistoryDesk(bus, market, now=NOW))
    await rig.prepare()
    option = rig.option()
    query = (
        f"instrument_token={option.instrument_token}&from_ts=2026-11-19T09:15"
        "&to_ts=2026-11-19T10:00:00%2B05:30&interval=15minute&oi=true"
    )
    async with rig.desk.serving(), rig.greeks(), running_gateway(nats_server.url) as gateway:
        body = (await gateway.get(f"/history?{query}")).json()
        index = market.index.instrument_token
        plain = await gateway.get(f"/history?instrument_token={index}&{DAY}&interval=15minute")
        refused = await gateway.get(
            f"/history?instrument_token={index}&{DAY}&interval=15minute&greeks=true"
        )
    assert [c["date"][11:16] for c in body["candles"]] == ["09:15", "09:30", "09:45", "10:00"]
    assert {c["greeks"]["forward_source"] for c in body["candles"]} == {"future"}
    assert body["convention"]["clock"] == "act365"
    assert plain.json()["candles"][0]["greeks"] is None
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "greeks")
