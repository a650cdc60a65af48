"""Chains, curves and forwards over REST: the newest bytes, what a refusal names, NATS away."""

import asyncio
from datetime import date
from pathlib import Path
from urllib.parse import quote

import msgspec
import pytest

from libs.common import contracts
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import Chain, Forward, Message, VolCurve
from tests.integration.gateway_rig import DEADLINE_SECONDS, Gateway, running_gateway

pytestmark = pytest.mark.integration

EXAMPLES = Path(contracts.__file__).parent / "examples"
NEAR, FAR = date(2026, 12, 29), date(2027, 1, 26)
KEY = "a-key-of-sixteen-or-more"
PATHS = (f"/chains/NIFTY/{NEAR}", f"/vol/NIFTY/{NEAR}", "/forwards/NIFTY")
SUBJECTS = {Chain: subjects.chain, VolCurve: subjects.vol_curve, Forward: subjects.forward}


@pytest.fixture(scope="module")
def anyio_backend():
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture
async def gateway(nats_server, bus):
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    async with running_gateway(nats_server.url) as gateway:
        yield gateway


async def keep(bus, kind: type[Message], underlying: str, expiry: date, **changes) -> bytes:
    """Publish one message and wait until the stream has it; gives its bytes."""
    example = codec.from_json(kind, (EXAMPLES / f"{kind.__name__}.json").read_bytes())
    fields = {"underlying": underlying, "expiry": expiry, **changes}
    payload = codec.to_json(msgspec.structs.replace(example, **fields))
    await bus.jetstream.publish(SUBJECTS[kind](underlying, expiry), payload)
    return payload


@pytest.mark.parametrize(("kind", "path"), [(Chain, "chains"), (VolCurve, "vol")])
async def test_the_newest_is_given_byte_for_byte(gateway, bus, kind, path):
    await keep(bus, kind, "NIFTY", NEAR, forward=26_000.0)
    far = await keep(bus, kind, "NIFTY", FAR)
    near = await keep(bus, kind, "NIFTY", NEAR, forward=26_001.5)
    for day, expected in ((NEAR, near), (FAR, far)):
        answer = await gateway.get(f"/{path}/NIFTY/{day}")
        assert (answer.status_code, answer.content) == (200, expected)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["cache-control"] == "no-store"


async def test_forwards_of_all_expiries_are_one_list_nearest_first(gateway, bus):
    far = await keep(bus, Forward, "NIFTY", FAR)
    near = await keep(bus, Forward, "NIFTY", NEAR, forward=26_001.5)
    await keep(bus, Forward, "NIFTYNXT50", NEAR)
    answer = await gateway.get("/forwards/NIFTY")
    assert answer.status_code == 200
    assert answer.content == b'{"items":[' + near + b"," + far + b'],"total":2}'


@pytest.mark.parametrize("name", ["M&M", "BAJAJ-AUTO", "L&TFH", "NIFTY 50"])
async def test_any_name_of_the_market_is_found(gateway, bus, name):
    chain = await keep(bus, Chain, name, NEAR)
    curve = await keep(bus, VolCurve, name, NEAR)
    forward = await keep(bus, Forward, name, NEAR)
    spelled = quote(name, safe="")
    assert (await gateway.get(f"/chains/{spelled}/{NEAR}")).content == chain
    assert (await gateway.get(f"/vol/{spelled}/{NEAR}")).content == curve
    assert forward in (await gateway.get(f"/forwards/{spelled}")).content
    # An ampersand is no special character in the path of an address.
    assert (await gateway.get(f"/chains/{name}/{NEAR}")).content == chain


async def refusal(gateway: Gateway, path: str, status: int) -> tuple[str, str, str]:
    answer = await gateway.get(path)
    assert answer.status_code == status
    error = answer.json()["error"]
    return error["code"], error["field"], error["message"]


async def test_what_is_not_there_is_a_404_that_names_what_is(gateway, bus):
    assert await refusal(gateway, PATHS[0], 404) == (
        "not_found",
        "underlying",
        "underlying: there is no chain of NIFTY",
    )
    await keep(bus, Chain, "NIFTY", FAR)
    await keep(bus, Chain, "BANKNIFTY", NEAR)
    await keep(bus, Forward, "NIFTY", NEAR)
    assert await refusal(gateway, PATHS[0], 404) == (
        "not_found",
        "expiry",
        f"expiry: there is no chain of NIFTY for {NEAR}; the nearest is {FAR}",
    )
    assert await refusal(gateway, f"/chains/NIFTTY/{NEAR}", 404) == (
        "not_found",
        "underlying",
        "underlying: there is no chain of NIFTTY; there is one of NIFTY, BANKNIFTY",
    )
    # Of chains there are some, of curves none.
    assert (await refusal(gateway, PATHS[1], 404))[2] == (
        "underlying: there is no volatility curve of NIFTY"
    )
    assert (await refusal(gateway, "/forwards/Nifty", 404))[2] == (
        "underlying: there is no forward of Nifty; there is one of NIFTY"
    )


@pytest.mark.parametrize(
    ("path", "field"),
    [
        ("/chains/NIFTY/tomorrow", "expiry"),
        ("/chains/NIFTY/2026-02-30", "expiry"),
        (f"/vol/%00/{NEAR}", "underlying"),
        (f"/vol/{'x' * 65}/{NEAR}", "underlying"),
        (f"/chains/NIFTY/{NEAR}?strikes=5", "strikes"),
        ("/forwards/NIFTY?expiry=2026-12-29", "expiry"),
    ],
)
async def test_a_wrong_parameter_is_named(gateway, path, field):
    code, named, message = await refusal(gateway, path, 422)
    assert (code, named) == ("bad_parameter", field)
    assert message.startswith(field)


@pytest.mark.parametrize("path", PATHS)
async def test_the_key_is_wanted(nats_server, bus, path):
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    await keep(bus, Chain, "NIFTY", NEAR)
    await keep(bus, VolCurve, "NIFTY", NEAR)
    await keep(bus, Forward, "NIFTY", NEAR)
    async with running_gateway(nats_server.url, api_key_enabled=True, api_key=KEY) as gateway:
        assert (await gateway.get(path)).status_code == 401
        assert (await gateway.get(path, **{"X-API-Key": "another-key-of-some-length"})).is_error
        assert (await gateway.get(path, **{"X-API-Key": KEY})).status_code == 200


async def test_while_nats_is_away_the_answer_is_503_and_then_the_newest_again(
    gateway, bus, nats_server
):
    payload = await keep(bus, Chain, "NIFTY", NEAR)
    await keep(bus, VolCurve, "NIFTY", NEAR)
    await keep(bus, Forward, "NIFTY", NEAR)
    await asyncio.to_thread(nats_server.stop)
    for path in PATHS:
        answer = await gateway.get(path)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "nats_unavailable"
        assert answer.headers["retry-after"] == "2"
    nats_server.start()
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            answer = await gateway.get(PATHS[0])
            if answer.status_code != 503:
                break
            await asyncio.sleep(0.05)
    assert (answer.status_code, answer.content) == (200, payload)
