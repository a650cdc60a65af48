"""What goes wrong around the gateway: NATS away, clients that do not read, other ASGI servers."""

import asyncio
import os
import re
import socket
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import websockets
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from libs.common.bus.connection import Bus
from services.gateway.settings import GatewaySettings
from tests.fakes.nats_server import NatsServer, free_port
from tests.integration.conftest import settings_for
from tests.integration.gateway_rig import (
    NOWHERE,
    SECRET,
    Gateway,
    Market,
    Peer,
    running_gateway,
    token,
    until_ready,
)

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def anyio_backend():
    return ("asyncio", {"use_uvloop": True})


@pytest.fixture
def market() -> Market:
    return Market(strikes=41)


@pytest.fixture
async def bus(nats_server: NatsServer):
    async with Bus.open(settings_for(nats_server), name="market") as bus:
        yield bus


@asynccontextmanager
async def gateway_process(nats_url: str, **environment: str):
    """Run the gateway as its own process; gives it and its id."""
    port = free_port()
    known = {
        "PATH": os.environ.get("PATH", ""),
        "ENVIRONMENT": "test",
        "NATS_URL": nats_url,
        "DATABASE_URL": NOWHERE,
        "GATEWAY_PORT": str(port),
        "JWT_SECRET": SECRET,
        "API_KEY_ENABLED": "false",
        "LOG_LEVEL": "info",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services.gateway", cwd=ROOT, env={**known, **environment}
    )
    settings = GatewaySettings(gateway_port=port, jwt_secret=SECRET, api_key_enabled=False)
    gateway = Gateway(settings)
    try:
        await until_ready(gateway)
        yield gateway, process
    finally:
        if process.returncode is None:
            process.terminate()
        async with asyncio.timeout(20):
            await process.wait()


def rss_bytes(pid: int) -> int:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


async def metric(gateway: Gateway, name: str) -> float:
    """Read one sample from `/metrics`."""
    text = (await gateway.get("/metrics")).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0.0


async def until_unready(gateway: Gateway) -> None:
    """Wait until `/readyz` says no."""
    async with asyncio.timeout(20):
        while (await gateway.get("/readyz")).status_code == 200:
            pass


class StalledClient:
    """A client that subscribes and then never reads, on a socket with a small window."""

    def __init__(self, gateway: Gateway, tokens: list[int]) -> None:
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self.socket.settimeout(10)
        self.socket.connect(("127.0.0.1", gateway.settings.gateway_port))
        address = f"{gateway.ws_url}?token={token('stalled')}"
        protocol = ClientProtocol(parse_uri(address))
        protocol.send_request(protocol.connect())
        self.socket.sendall(b"".join(protocol.data_to_send()))
        protocol.receive_data(self.socket.recv(4096))
        listed = ",".join(map(str, tokens))
        protocol.send_text(f'{{"action":"subscribe","tokens":[{listed}]}}'.encode())
        self.protocol = protocol
        self.socket.sendall(b"".join(protocol.data_to_send()))

    def was_reset(self) -> bool:
        """Read to the end; says whether that is a reset, not a close."""
        with self.socket:
            try:
                while self.socket.recv(65_536):
                    pass
            except ConnectionResetError:
                return True
        return False


async def test_ticks_flow_again_after_nats_was_restarted(nats_server, bus, market):
    async with running_gateway(nats_server.url) as gateway, gateway.client() as peer:
        index = market.index
        await peer.subscribe(index.instrument_token)
        await market.publish(bus, [index])
        await peer.next("tick")

        await asyncio.to_thread(nats_server.stop)
        await until_unready(gateway)
        body = (await gateway.get("/health")).json()
        assert body["dependencies"]["nats"].startswith("error")
        await peer.say(action="ping")
        assert (await peer.receive())["type"] == "pong"

        await asyncio.to_thread(nats_server.start)
        await until_ready(gateway)
        until = market.seq + 1
        ticks = asyncio.create_task(peer.next("tick"))
        async with asyncio.timeout(20):
            while not ticks.done():
                await market.publish(bus, [index])
                await asyncio.wait([ticks], timeout=0.2)
        assert ticks.result()["data"]["seq"] >= until


async def test_what_was_missed_while_nats_was_away_comes_from_the_stored_last_values(
    nats_server, market
):
    async with running_gateway(nats_server.url) as gateway, gateway.client() as peer:
        index = market.index
        await peer.subscribe(index.instrument_token)
        async with Bus.open(settings_for(nats_server), name="market") as bus:
            live = market.tick(index)
            await market.store_last(bus, [live])
        # The stream alone has it: nothing was published on md.tick.v1.
        await asyncio.to_thread(nats_server.restart)
        assert (await peer.next("tick"))["data"]["seq"] == live.seq


async def test_client_that_never_reads_is_reset_and_disturbs_nobody(nats_server, bus, market):
    async with (
        gateway_process(nats_server.url, STALL_SECONDS="2") as (gateway, process),
        gateway.client(token("good")) as good,
    ):
        await good.subscribe(*market.tokens)
        stalled = [await asyncio.to_thread(StalledClient, gateway, market.tokens) for _ in range(3)]
        published = asyncio.Event()

        async def publish_until_reset() -> None:
            ended = 'tickfleet_gateway_connections_ended_total{reason="stalled"}'
            async with asyncio.timeout(60):
                while await metric(gateway, ended) < len(stalled):
                    for _ in range(20):
                        await market.publish(bus)
                        await asyncio.sleep(0.005)
            published.set()
            await market.publish(bus)  # So that the reader below is not left waiting.

        await market.publish(bus)
        await good.next("tick")
        before = rss_bytes(process.pid)
        publishing = asyncio.create_task(publish_until_reset())
        newest: dict[int, int] = {}
        received = 0
        while not published.is_set():
            data = (await good.next("tick"))["data"]
            assert data["seq"] > newest.get(data["instrument_token"], 0)
            newest[data["instrument_token"]] = data["seq"]
            received += 1
            if publishing.done():
                publishing.result()
        after = rss_bytes(process.pid)

        await publishing
        await market.publish(bus)
        last = market.seq
        while newest.get(market.options[-1].instrument_token) != last:
            data = (await good.next("tick"))["data"]
            newest[data["instrument_token"]] = data["seq"]
        assert set(newest) == set(market.tokens)
        assert received > 10 * len(market.tokens)
        print(
            f"resident memory grew by {(after - before) / MIB:.1f} MiB, {received} ticks received"
        )
        assert after - before < 8 * MIB
        for client in stalled:
            assert await asyncio.to_thread(client.was_reset)
        await good.say(action="ping")
        await good.next("pong")


async def test_stalled_clients_do_not_hold_up_the_stop(nats_server, bus, market):
    async with gateway_process(nats_server.url, STALL_SECONDS="300") as (gateway, process):
        stalled = await asyncio.to_thread(StalledClient, gateway, market.tokens)
        async with gateway.client() as good:
            await good.subscribe(market.index.instrument_token)
            for _ in range(200):  # Some 10 MB: far more than any buffer on the way.
                await market.publish(bus)
            while (await good.next("tick"))["data"]["seq"] < market.seq - len(market.tokens):
                pass
        process.terminate()
        async with asyncio.timeout(20):
            assert await process.wait() == 0
        stalled.socket.close()


async def test_client_that_asks_without_reading_is_reset(nats_server, market, monkeypatch):
    monkeypatch.setattr("services.gateway.client.CONTROL_BYTES_MAX", 64 * 1024)
    async with running_gateway(nats_server.url, messages_per_second_max=10_000) as gateway:
        stalled = await asyncio.to_thread(StalledClient, gateway, list(range(3000)))
        again = f'{{"action":"subscribe","tokens":{list(range(3000))}}}'.encode()

        def ask() -> bool:
            try:
                for _ in range(2000):
                    stalled.protocol.send_text(again)
                    stalled.socket.sendall(b"".join(stalled.protocol.data_to_send()))
            except (ConnectionResetError, BrokenPipeError):
                stalled.socket.close()
                return True
            return stalled.was_reset()

        assert await asyncio.to_thread(ask)


async def test_same_protocol_over_a_server_without_the_extension(
    nats_server, bus, market, monkeypatch
):
    """The original protocol class stands for any other ASGI server."""
    monkeypatch.setattr("services.gateway.app.GatewayProtocol", WebSocketsSansIOProtocol)
    async with running_gateway(nats_server.url, connections_max=2) as gateway:
        async with gateway.client() as peer:
            await peer.subscribe(market.index.instrument_token)
            await market.publish(bus)
            assert (await peer.next("tick"))["data"]["kind"] == "index"
            await peer.subscribe(*market.tokens, mode="batch", interval_ms=20)
            seen: set[int] = set()
            while len(seen) < len(market.tokens):
                await market.publish(bus)
                seen |= {d["instrument_token"] for d in (await peer.next("ticks"))["data"]}
            await peer.socket.send("garbage")
            assert (await peer.next("error"))["code"] == "invalid_json"
        async with websockets.connect(f"{gateway.ws_url}?token=bad") as connection:
            bad = Peer(connection)
            assert (await bad.receive())["code"] == "invalid_token"
            assert await bad.closed() == 4401
        # Every place was given back.
        async with gateway.client(), gateway.client():
            pass


async def test_lines_that_are_no_ticks_are_counted_and_the_others_delivered(
    nats_server, bus, market
):
    async with gateway_process(nats_server.url) as (gateway, _), gateway.client() as peer:
        await peer.subscribe(market.index.instrument_token)
        await bus.publish("md.tick.v1.NIFTY", b"garbage\n{}\n\xff\xfe\n")
        await market.publish(bus)
        await peer.next("tick")
        assert await metric(gateway, "tickfleet_gateway_bad_lines_total") == 3


async def test_undecodable_bucket_entries_are_survived(nats_server, bus, market):
    async with running_gateway(nats_server.url) as gateway:
        for bucket, key in (("instruments", "X"), ("plan", "x"), ("status", "feed-x")):
            await bus.jetstream.publish(f"$KV.{bucket}.{key}", b"\xc1garbage")
        await market.announce(bus)
        async with asyncio.timeout(20):
            while not (await gateway.get("/health")).json()["ticker"]["active_subscriptions"]:
                pass


async def test_taken_port_is_named_and_ends_the_process(nats_server):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.gateway",
            cwd=ROOT,
            env={
                "NATS_URL": nats_server.url,
                "DATABASE_URL": NOWHERE,
                "JWT_SECRET": SECRET,
                "API_KEY_ENABLED": "false",
                "GATEWAY_PORT": str(taken.getsockname()[1]),
            },
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
    assert process.returncode == 1
    assert b"GATEWAY_PORT" in said


async def test_token_is_never_logged(nats_server, tmp_path):
    port = free_port()
    secret_token = token("somebody")
    log_file = tmp_path / "log"
    with log_file.open("wb") as out:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services.gateway",
            cwd=ROOT,
            env={
                "NATS_URL": nats_server.url,
                "DATABASE_URL": NOWHERE,
                "JWT_SECRET": SECRET,
                "API_KEY_ENABLED": "false",
                "GATEWAY_PORT": str(port),
                "LOG_LEVEL": "debug",
            },
            stderr=out,
        )
    settings = GatewaySettings(gateway_port=port, jwt_secret=SECRET, api_key_enabled=False)
    gateway = Gateway(settings)
    await until_ready(gateway)
    async with gateway.client(secret_token):
        pass
    async with websockets.connect(f"{gateway.ws_url}?token={secret_token}x") as bad:
        await Peer(bad).closed()
    process.terminate()
    await process.wait()
    text = log_file.read_text(encoding="utf-8")
    assert "client.connected" in text
    assert secret_token.split(".")[1] not in text
    assert secret_token.split(".")[2] not in text
    assert SECRET not in text
