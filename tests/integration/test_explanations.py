"""Explanations on a real NATS server: any worker is asked, the owner of the shard answers."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from libs.common.bus.connection import Bus
from libs.common.bus.errors import NoResponderError
from libs.common.bus.kv import Bucket
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import ExplainReply, ExplainRequest, Explanation, RpcError
from libs.common.settings import NatsSettings
from services.fleet.errors import FleetCannotAnswerError, UnknownSymbolError
from services.fleet.explain import explanation_of
from services.gateway.errors import GreeksUnavailableError
from services.gateway.explanations import ExplanationDesk
from services.greeks.explanations import Explanations
from services.greeks.instrument_index import InstrumentIndex
from tests.fakes.kite_frames import FakeMarket
from tests.integration.gateway_rig import running_gateway
from tests.integration.test_greeks_service import (
    SHARDS,
    Feeder,
    Process,
    eventually,
    listening,
    running,
    settings_of,
)

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120)]

KEY = "a-key-of-sixteen-or-more"
SHARD = subjects.shard_of("NIFTY", SHARDS)


@pytest.fixture
def market() -> FakeMarket:
    return FakeMarket(strikes_each_side=4)


@pytest.fixture
async def feeder(bus, market) -> Feeder:
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    feeder = Feeder(bus, market)
    await feeder.provide()
    return feeder


async def ask(bus: Bus, token: int, subject: str = subjects.RPC_EXPLAIN) -> ExplainReply | None:
    """One answer; None while nobody serves the subject."""
    try:
        answer = await bus.request(
            subject, codec.to_json(ExplainRequest(instrument_token=token)), timeout_seconds=10
        )
    except NoResponderError:
        return None
    return codec.from_json(ExplainReply, answer.payload)


async def explained(bus: Bus, token: int) -> Explanation | None:
    reply = await ask(bus, token)
    return None if reply is None else reply.explanation


async def refusal(bus: Bus, token: int, subject: str = subjects.RPC_EXPLAIN) -> RpcError | None:
    reply = await ask(bus, token, subject)
    return None if reply is None else reply.error


@asynccontextmanager
async def asking_worker(
    bus: Bus, nats_server, market: FakeMarket, workers: dict[int, Any] | None = None
) -> AsyncIterator[None]:
    """A worker's part that takes requests, by default one that holds no shard."""
    packed = codec.to_msgpack(market.instrument_set())
    index = InstrumentIndex({"NIFTY": packed}.get)
    index.note("NIFTY")
    held: Mapping[int, Any] = workers or {}
    part = Explanations(bus, settings_of(nats_server, "asker"), index, held)
    stop = asyncio.Event()
    task = asyncio.create_task(part.run(stop))
    try:
        yield
    finally:
        stop.set()
        part.poke()
        await task


async def test_whoever_is_asked_the_owner_of_the_shard_answers(nats_server, bus, feeder, market):
    call = market.options[9]
    other = FakeMarket(underlying="BANKNIFTY", first_token=70_000, strikes_each_side=1)
    await Feeder(bus, other).provide()
    async with (
        listening(bus) as listener,
        running(settings_of(nats_server, "g1")),
        running(settings_of(nats_server, "g2")),
    ):
        never = await eventually(lambda: explained(bus, call.instrument_token))
        assert isinstance(never, Explanation)
        assert (never.seq, never.views[0].iv) == (0, None)

        async def ticked() -> bool:
            await feeder.send(market.frame())
            return any(t.instrument_token == call.instrument_token for t in listener.ticks)

        await eventually(ticked)

        # Each of these may come to the worker that holds the shard, or to the other one.
        async def whole() -> list[Explanation]:
            found = [await explained(bus, call.instrument_token) for _ in range(20)]
            return [each for each in found if each is not None and each.seq]

        found = await eventually(lambda: _all_twenty(whole))
        stranger = await eventually(lambda: explained(bus, other.options[0].instrument_token))
    assert isinstance(found, list)
    tick = next(t for t in reversed(listener.ticks) if t.instrument_token == call.instrument_token)
    for each in found:
        assert (each.shard, each.tradingsymbol) == (SHARD, call.tradingsymbol)
        assert each.views[0].iv == pytest.approx(tick.iv, rel=1e-9)
        assert each.views[0].delta == pytest.approx(tick.delta, rel=1e-9)
        assert each.source == "sim"
    assert isinstance(stranger, Explanation)
    assert stranger.shard == subjects.shard_of("BANKNIFTY", SHARDS)


async def _all_twenty(whole: Any) -> list[Explanation]:
    found: list[Explanation] = await whole()
    return found if len(found) == 20 else []


async def test_what_cannot_be_explained_is_answered_by_its_kind(nats_server, bus, feeder, market):
    async with running(settings_of(nats_server)):
        await eventually(lambda: explained(bus, market.options[0].instrument_token))
        unknown = await refusal(bus, 1)
        index = await refusal(bus, market.index.instrument_token)
        garbage = await bus.request(subjects.RPC_EXPLAIN, b"{}", 10)
    assert unknown is not None
    assert (unknown.code, unknown.field) == ("not_found", "instrument_token")
    assert index is not None
    assert (index.code, index.field) == ("bad_request", "instrument_token")
    assert "NIFTY is of kind index" in index.message
    error = codec.from_json(ExplainReply, garbage.payload).error
    assert error is not None
    assert error.code == "bad_request"
    assert "instrument_token" in error.message


async def test_an_owner_without_a_valid_lease_does_not_answer(nats_server, bus, feeder, market):
    stale = SimpleNamespace(knows_market=False, shard=SHARD)
    token = market.options[0].instrument_token
    async with asking_worker(bus, nats_server, market, {SHARD: stale}):
        for subject in (subjects.RPC_EXPLAIN, subjects.rpc_explain_of(SHARD)):
            error = await eventually(partial(refusal, bus, token, subject))
            assert isinstance(error, RpcError)
            assert error.code == "unavailable"
            assert error.retry_after_seconds == 1


async def test_a_killed_owner_makes_the_option_unavailable_until_another_has_the_shard(
    nats_server, bus, feeder, market
):
    token = market.options[9].instrument_token
    workers = [Process(nats_server, "p1")]
    try:
        async with asking_worker(bus, nats_server, market):
            await eventually(lambda: explained(bus, token), seconds=60)
            await feeder.send(market.frame())

            async def ticked() -> bool:
                found = await explained(bus, token)
                return found is not None and found.seq > 0

            await eventually(ticked)
            checkpoints = Bucket(bus, streams.CHECKPOINTS.name)
            await eventually(lambda: checkpoints.get(str(SHARD)))
            await asyncio.to_thread(workers[0].end, signal.SIGKILL)
            error = await eventually(lambda: refusal(bus, token))
            assert isinstance(error, RpcError)
            assert error.code == "unavailable"
            assert f"shard {SHARD} of NIFTY" in error.message
            assert error.retry_after_seconds
            workers.append(Process(nats_server, "p2", REBUILD_SECONDS="300"))
            again = await eventually(lambda: explained(bus, token), seconds=60)
            # Not before the market is known again, although no frame has come since.
            assert isinstance(again, Explanation)
            assert again.seq > 0
            assert again.views[0].iv is not None
    finally:
        for worker in workers:
            worker.end(signal.SIGKILL)


async def test_the_gateway_answers_with_the_explanation_or_says_why_not(
    nats_server, bus, feeder, market
):
    call = market.options[9]
    path = f"/explain/{call.instrument_token}"
    async with running_gateway(nats_server.url, api_key_enabled=True, api_key=KEY) as gateway:

        async def get(path: str) -> Any:
            return await gateway.get(path, **{"X-API-Key": KEY})

        assert (await gateway.get(path)).status_code == 401
        nobody = await get(path)
        assert (nobody.status_code, nobody.json()["error"]["code"]) == (503, "unavailable")
        assert int(nobody.headers["retry-after"]) >= 1
        async with running(settings_of(nats_server)):
            await eventually(lambda: explained(bus, call.instrument_token))
            found = await get(path)
            statuses = {
                each: (await get(f"/explain/{each}")).status_code
                for each in (1, market.index.instrument_token, "NIFTY", 0, 2**32, -1)
            }
            assert (await get(f"{path}?sort=up")).status_code == 422
    assert found.status_code == 200
    assert found.headers["content-type"] == "application/json"
    assert found.headers["cache-control"] == "no-store"
    body = codec.from_json(Explanation, found.content)
    assert (body.tradingsymbol, body.shard) == (call.tradingsymbol, SHARD)
    assert json.loads(found.content)["views"][0]["iv"] is None
    assert statuses == {
        1: 404, market.index.instrument_token: 422, "NIFTY": 422, 0: 422, 2**32: 422, -1: 422,
    }  # fmt: skip


async def test_a_silent_worker_is_a_timeout_for_the_gateway(bus):
    silent = await bus.subscribe(subjects.RPC_EXPLAIN, lambda _: None)
    with pytest.raises(GreeksUnavailableError) as caught:
        await ExplanationDesk(bus, answer_seconds=0.2).ask(1)
    assert caught.value.code == "timeout"
    await silent.unsubscribe()


async def test_the_command_line_finds_an_option_by_token_and_by_symbol(
    nats_server, bus, feeder, market, tmp_path, monkeypatch
):
    settings = NatsSettings(nats_url=nats_server.url)
    call = market.options[9]
    with pytest.raises(FleetCannotAnswerError, match="no greeks worker runs"):
        await explanation_of(settings, str(call.instrument_token))
    with pytest.raises(UnknownSymbolError, match="no such instrument"):
        await explanation_of(settings, "NIFTY26N2499999CE")
    with pytest.raises(UnknownSymbolError, match="no instruments of SENSEX"):
        await explanation_of(settings, "SENSEX26NOV80000CE")
    with pytest.raises(UnknownSymbolError, match="not spelled"):
        await explanation_of(settings, "gold")
    async with running(settings_of(nats_server)):
        await eventually(lambda: explained(bus, call.instrument_token))
        found = await explanation_of(settings, call.tradingsymbol.lower())
        monkeypatch.setenv("NATS_URL", nats_server.url)
        outputs = [
            await asyncio.to_thread(_command, "explain", str(call.instrument_token), *more)
            for more in (("--json",), ())
        ]
    assert found.instrument_token == call.instrument_token
    assert json.loads(outputs[0])["tradingsymbol"] == call.tradingsymbol
    assert call.tradingsymbol in outputs[1]
    for name in ("tickfleet", "nse", "sensibull", "spot_bsm", "no_forward"):
        assert name in outputs[1]


def _command(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "services.fleet", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_a_set_that_leaves_the_bucket_is_asked_for_in_vain(nats_server, bus, feeder, market):
    token = market.options[0].instrument_token
    async with running(settings_of(nats_server)):
        await eventually(lambda: explained(bus, token))
        await Bucket(bus, streams.INSTRUMENTS.name).delete("NIFTY")

        async def unknown() -> bool:
            error = await refusal(bus, token)
            return error is not None and error.code == "not_found"

        await eventually(unknown)
