"""The WebSocket protocol, message by message, on a real NATS server."""

import asyncio
import json
import time
from typing import Any

import jwt
import pytest
import websockets

from libs.common.bus.connection import Bus
from tests.fakes.nats_server import NatsServer
from tests.integration.conftest import settings_for
from tests.integration.gateway_rig import SECRET, Gateway, Market, Peer, running_gateway, token

pytestmark = pytest.mark.integration

UNKNOWN = 4_000_000_000


@pytest.fixture(scope="module")
def anyio_backend():
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture
def market() -> Market:
    return Market(strikes=11)


@pytest.fixture
async def bus(nats_server: NatsServer):
    async with Bus.open(settings_for(nats_server), name="market") as bus:
        yield bus


@pytest.fixture
async def gateway(nats_server: NatsServer, bus: Bus, market: Market):
    async with running_gateway(nats_server.url, auth_deadline_seconds=0.5) as gateway:
        await market.announce(bus)
        # The mirror has the instruments once it calls an unknown token unknown.
        async with gateway.client() as peer, asyncio.timeout(10):
            while True:
                await peer.say(action="subscribe", tokens=[UNKNOWN])
                answer = await peer.receive()
                if answer["type"] == "error":
                    break
                await asyncio.sleep(0.05)
        yield gateway


async def test_greeting_names_connection_user_and_features(gateway):
    async with gateway.client(token("u7")) as peer:
        assert set(peer.greeting) == {"type", "connection_id", "user", "features", "source"}
        assert peer.greeting["user"] == {
            "user_id": "u7",
            "email": "u7@example.org",
            "name": "Tess Ter",
        }
        assert peer.greeting["features"] == ["snapshot", "batch", "renew", "orders"]


async def test_subscriber_gets_each_tick_as_it_was_published(gateway, bus, market):
    option = market.options[0]
    async with gateway.client() as peer:
        answer = await peer.subscribe(option.instrument_token, market.index.instrument_token)
        assert answer == {
            "type": "subscribed",
            "tokens": [option.instrument_token, market.index.instrument_token],
            "total": 2,
        }
        await market.publish(bus)
        ticks: dict[int, dict[str, Any]] = {}
        while len(ticks) < 2:
            data = (await peer.next("tick"))["data"]
            ticks[data["instrument_token"]] = data
    data = ticks[option.instrument_token]
    assert data["strike"] == option.strike
    assert data["delta"] is not None
    assert data["source"] == "sim"
    assert next(iter(data)) == "instrument_token"


async def test_nothing_arrives_unasked(gateway, bus, market):
    async with gateway.client() as peer:
        await market.publish(bus)
        await peer.say(action="ping")
        assert await peer.receive() == {"type": "pong"}


async def test_no_tick_follows_unsubscribed(gateway, bus, market):
    kept, dropped = market.options[:2]
    async with gateway.client() as peer:
        await peer.subscribe(kept.instrument_token, dropped.instrument_token)
        await market.publish(bus, [kept, dropped])
        await peer.say(action="unsubscribe", tokens=[dropped.instrument_token, 5])
        answer = await peer.next("unsubscribed")
        assert answer == {
            "type": "unsubscribed",
            "tokens": [dropped.instrument_token],
            "total": 1,
        }
        await market.publish(bus, [dropped, kept])
        assert (await peer.receive())["data"]["instrument_token"] == kept.instrument_token


async def test_last_known_tick_follows_subscribed_at_once(gateway, bus, market):
    option = market.options[3]
    async with gateway.client() as first:
        await first.subscribe(option.instrument_token)
        await market.publish(bus, [option])
        seen = await first.next("tick")
    async with gateway.client() as second:
        await second.subscribe(option.instrument_token)
        assert await second.receive() == seen
        # Once only: a token that is subscribed already is not new.
        await second.subscribe(option.instrument_token)
        await second.say(action="ping")
        assert (await second.receive())["type"] == "pong"


async def test_snapshot_can_be_left_out(gateway, bus, market):
    option = market.options[3]
    async with gateway.client() as peer:
        await peer.subscribe(option.instrument_token)
        await market.publish(bus, [option])
        await peer.next("tick")
    async with gateway.client() as peer:
        await peer.subscribe(option.instrument_token, snapshot=False)
        await peer.say(action="ping")
        await asyncio.sleep(0.05)  # Longer than a flush: a snapshot would be on its way.
        assert (await peer.receive())["type"] == "pong"
        await peer.say(action="ping")
        assert (await peer.receive())["type"] == "pong"


async def test_gateway_that_starts_late_knows_the_stored_last_values(nats_server, bus, market):
    async with running_gateway(nats_server.url):
        pass  # Provisions the stream.
    ticks = [market.tick(i) for i in market.options[:5]]
    await market.store_last(bus, ticks)
    async with running_gateway(nats_server.url) as gateway, gateway.client() as peer:
        await peer.subscribe(*(t.instrument_token for t in ticks))
        got = [(await peer.next("tick"))["data"]["seq"] for _ in ticks]
        assert got == [t.seq for t in ticks]
        async with gateway.client() as late:
            assert late.greeting["source"] == "sim"


async def test_batch_mode_sends_several_ticks_in_one_message(gateway, bus, market):
    tokens = [i.instrument_token for i in market.options[:8]]
    async with gateway.client() as peer:
        await peer.subscribe(*tokens, mode="batch", interval_ms=200)
        for _ in range(3):
            await market.publish(bus, market.options[:8])
        seen: set[int] = set()
        conflated = 0
        while len(seen) < 8 or conflated + len(seen) < 16:
            message = await peer.next("ticks")
            assert len({d["instrument_token"] for d in message["data"]}) == len(message["data"])
            seen |= {d["instrument_token"] for d in message["data"]}
            conflated += message.get("conflated", 0) + len(message["data"]) - 8
            if message["data"][-1]["seq"] >= market.seq:
                break
        assert seen == set(tokens)
        assert not [m for m in peer.skipped if m["type"] == "tick"]
        await peer.subscribe(mode="tick")
        await market.publish(bus, market.options[:1])
        assert (await peer.next("tick"))["data"]["instrument_token"] == tokens[0]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        ("not json", "invalid_json"),
        ("", "invalid_json"),
        ('{"action":"buy"}', "unknown_action"),
        ('{"action":"subscribe","tokens":"all"}', "invalid_message"),
        ('{"action":"subscribe","tokens":["1"]}', "invalid_message"),
        ("[1]", "invalid_message"),
        (b"\xff\xfe", "invalid_json"),
        (json.dumps({"action": "subscribe", "tokens": list(range(10_000))}), "too_many_tokens"),
        (
            json.dumps({"action": "subscribe", "tokens": [UNKNOWN + n for n in range(10_000)]}),
            "too_many_tokens",
        ),
    ],
)
async def test_wrong_message_is_answered_and_disturbs_nobody(gateway, bus, market, sent, code):
    option = market.options[0]
    async with gateway.client() as bad, gateway.client() as good:
        await good.subscribe(option.instrument_token)
        await bad.socket.send(sent)
        error = await bad.receive()
        assert error["type"] == "error"
        assert error["code"] == code
        assert error["message"]
        await market.publish(bus, [option])
        await good.next("tick")
        assert good.skipped == []
        await bad.say(action="ping")
        assert (await bad.receive())["type"] == "pong"


async def test_unknown_tokens_are_named_and_known_ones_subscribed(gateway, market):
    known = market.options[0].instrument_token
    async with gateway.client() as peer:
        await peer.say(action="subscribe", tokens=[UNKNOWN, known, *range(1, 40)])
        error = await peer.next("error")
        assert error["code"] == "unknown_token"
        assert error["tokens"] == [UNKNOWN, *range(1, 20)]
        answer = await peer.next("subscribed")
        assert (answer["tokens"], answer["total"]) == ([known], 1)


async def test_three_thousand_instruments_are_the_most(nats_server):
    async with running_gateway(nats_server.url) as gateway, gateway.client() as peer:
        assert (await peer.subscribe(*range(3000)))["total"] == 3000
        await peer.say(action="subscribe", tokens=[5000])
        assert (await peer.next("error"))["code"] == "too_many_tokens"
        assert (await peer.subscribe(5, 6))["total"] == 3000


async def test_message_beyond_the_bound_ends_only_its_sender(gateway):
    async with gateway.client() as bad, gateway.client() as good:
        await bad.socket.send("x" * 300_000)
        assert (await bad.next("error"))["code"] == "message_too_big"
        assert await bad.closed() == 1009
        await good.say(action="ping")
        assert (await good.receive())["type"] == "pong"


async def test_flood_of_messages_ends_only_its_sender(nats_server):
    async with (
        running_gateway(nats_server.url, messages_per_second_max=5) as gateway,
        gateway.client() as bad,
        gateway.client() as good,
    ):
        for _ in range(40):
            await bad.say(action="ping")
        assert (await bad.next("error"))["code"] == "rate_limited"
        assert await bad.closed() == 1008
        await good.say(action="ping")
        assert (await good.receive())["type"] == "pong"


# -- who it is -------------------------------------------------------------------------------------


async def refused(gateway: Gateway, address: str, **options) -> tuple[str, int]:
    """Connect, and give the error's code and the close code."""
    async with websockets.connect(address, **options) as socket:
        peer = Peer(socket)
        error = await peer.receive()
        assert error["type"] == "error"
        return error["code"], await peer.closed()


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (lambda: token(seconds=-5), "token_expired"),
        (lambda: token(secret="another-secret-of-more-than-32-characters"), "invalid_token"),
        (lambda: token(aud="somebody"), "invalid_token"),
        (lambda: token(iss=None), "invalid_token"),
        (lambda: jwt.encode({"sub": "u"}, SECRET, "HS256"), "invalid_token"),
        (lambda: "garbage", "invalid_token"),
        (lambda: "", "invalid_token"),
    ],
)
async def test_wrong_token_is_told_and_closed_with_4401(gateway, bad, code):
    assert await refused(gateway, f"{gateway.ws_url}?token={bad()}") == (code, 4401)


async def test_connection_ends_when_its_token_expires(gateway):
    async with gateway.client(token(seconds=2)) as peer:
        assert (await peer.next("error"))["code"] == "token_expired"
        assert await peer.closed() == 4401


async def test_renewed_token_keeps_the_connection(gateway):
    async with gateway.client(token("u", exp=int(time.time()) + 2)) as peer:
        await peer.say(action="auth", token=token("u"))
        answer = await peer.next("authenticated")
        assert answer["expires_at"] > time.time() + 60
        await asyncio.sleep(2.2)  # Past the end of the first token.
        await peer.say(action="ping")
        assert (await peer.receive())["type"] == "pong"


async def test_renewal_with_another_user_is_forbidden(gateway):
    async with gateway.client(token("u")) as peer:
        await peer.say(action="auth", token=token("v"))
        assert (await peer.next("error"))["code"] == "forbidden"
        assert await peer.closed() == 4403


async def test_token_may_come_as_header(gateway):
    headers = {"Authorization": f"Bearer {token('h')}"}
    async with websockets.connect(gateway.ws_url, additional_headers=headers) as socket:
        assert (await Peer(socket).receive())["user"]["user_id"] == "h"


async def test_token_may_come_as_subprotocol(gateway):
    offered = [websockets.Subprotocol(p) for p in ("ticker.v1", f"bearer.{token('s')}")]
    async with websockets.connect(gateway.ws_url, subprotocols=offered) as socket:
        assert socket.subprotocol == "ticker.v1"
        assert (await Peer(socket).receive())["user"]["user_id"] == "s"


async def test_token_may_come_as_first_message(gateway):
    async with websockets.connect(gateway.ws_url) as socket:
        peer = Peer(socket)
        await peer.say(action="auth", token=token("f"))
        assert (await peer.receive())["user"]["user_id"] == "f"


async def test_first_message_without_token_is_refused(gateway):
    async with websockets.connect(gateway.ws_url) as socket:
        peer = Peer(socket)
        await peer.say(action="subscribe", tokens=[1])
        assert (await peer.receive())["code"] == "auth_required"
        assert await peer.closed() == 4401


async def test_client_that_never_says_who_it_is_is_closed(gateway):
    assert await refused(gateway, gateway.ws_url) == ("auth_deadline", 4408)


async def test_one_user_cannot_take_all_places(nats_server):
    async with (
        running_gateway(nats_server.url, connections_per_user_max=2) as gateway,
        gateway.client(token("u")) as first,
        gateway.client(token("u")),
    ):
        address = f"{gateway.ws_url}?token={token('u')}"
        assert await refused(gateway, address) == ("too_many_connections", 4429)
        async with gateway.client(token("v")):
            pass
        await first.socket.close()
        async with gateway.client(token("u")):
            pass


async def test_full_process_refuses_before_accepting(nats_server):
    async with (
        running_gateway(nats_server.url, connections_max=1) as gateway,
        gateway.client() as only,
    ):
        with pytest.raises(websockets.InvalidStatus) as caught:
            await websockets.connect(f"{gateway.ws_url}?token={token()}")
        assert caught.value.response.status_code == 503
        assert caught.value.response.headers["Retry-After"]
        await only.say(action="ping")
        assert (await only.receive())["type"] == "pong"


async def test_stopping_tells_clients_to_come_back(nats_server):
    async with running_gateway(nats_server.url) as gateway, gateway.client() as peer:
        gateway.life.request_stop("test")
        assert await peer.closed() == 1012
