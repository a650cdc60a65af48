"""The simulator's WebSocket over real sockets: handshake, commands, frames, limits."""

import asyncio
import contextlib
import json
import socket
from collections.abc import Iterator
from datetime import date

import pytest
import websockets.asyncio.client as ws_client
from websockets.exceptions import InvalidStatus

from libs.common.domain.clock import NS_PER_SECOND, ist_datetime
from libs.common.domain.instruments import Kind, parse_dump
from libs.common.kite.frames import Mode, decode, is_heartbeat
from tests.fakes.simulator import SimulatorProcess, until

pytestmark = pytest.mark.integration
NIFTY = 256265


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    """One simulator for the module."""
    process = SimulatorProcess(tmp_path_factory.mktemp("simulator"))
    process.start()
    yield process
    process.kill()


@pytest.fixture
async def instruments(simulator):
    """The day's dump."""
    async with await simulator.client() as client:
        return parse_dump((await client.get("/instruments")).content).instruments


async def connections(simulator: SimulatorProcess, number: int = 1) -> int:
    account = simulator.account(number).api_key
    state = await asyncio.to_thread(simulator.state)
    return int(state["accounts"][account]["connections"])


async def refused_status(url: str) -> int:
    with pytest.raises(InvalidStatus) as caught:
        await ws_client.connect(url, compression=None)
    return caught.value.response.status_code


@pytest.mark.parametrize("query", ["", "?api_key=sim1key", "?api_key=sim1key&access_token=wrong"])
async def test_a_handshake_without_a_valid_token_gets_403(simulator, query):
    assert await refused_status(simulator.ws_url + "/" + query) == 403


async def test_most_connections_at_once_are_remembered_until_the_next_look(simulator):
    async def peak() -> int:
        state = await asyncio.to_thread(simulator.state)
        return int(state["accounts"][simulator.account(3).api_key]["connections_peak"])

    async def gone() -> bool:
        return await connections(simulator, 3) == 0

    assert await peak() == 0
    async with simulator.stream(3), simulator.stream(3):
        pass
    assert await peak() == 2
    await until(gone, "both are closed")
    await peak()
    assert await peak() == 0


async def test_the_fourth_connection_of_a_key_gets_429_and_the_others_stay(simulator):
    async with contextlib.AsyncExitStack() as stack:
        streams = [await stack.enter_async_context(simulator.stream(2)) for _ in range(3)]
        url = simulator.stream_url(2, await simulator.token(2))
        assert await refused_status(url) == 429
        for stream in streams:
            await stream.command("subscribe", [NIFTY])
            assert (await stream.packets())[0].instrument_token == NIFTY
        async with simulator.stream(3):
            pass
    await until(lambda: _none_of(simulator, 2), "all connections are forgotten")
    async with simulator.stream(2) as stream:
        await stream.command("subscribe", [NIFTY])
        await stream.frame()


async def _none_of(simulator: SimulatorProcess, number: int) -> bool:
    return await connections(simulator, number) == 0


async def test_the_first_frame_is_a_snapshot_of_everything_subscribed(simulator, instruments):
    tokens = [item.instrument_token for item in instruments[:500]]
    async with simulator.stream() as stream:
        await stream.command("subscribe", tokens)
        seen: list[int] = []
        for _ in range(2):
            seen += [packet.instrument_token for packet in await stream.packets()]
        assert sorted(seen) == sorted(tokens)


async def test_modes_decide_the_packets_and_quote_is_the_default(simulator, instruments):
    future = next(i.instrument_token for i in instruments if i.kind is Kind.FUTURE)
    async with simulator.stream() as stream:
        await stream.command("subscribe", [NIFTY, future])
        assert {p.mode for p in await stream.packets()} == {Mode.QUOTE}
        for mode in (Mode.FULL, Mode.LTP, Mode.QUOTE):
            await stream.command("mode", [mode, [NIFTY, future]])
            while True:
                packets = await stream.packets()
                if {p.mode for p in packets} == {mode} and len(packets) == 2:
                    break
            by_token = {packet.instrument_token: packet for packet in packets}
            assert not by_token[NIFTY].tradable
            assert by_token[future].tradable
            assert (len(by_token[future].depth_buy) == 5) == (mode is Mode.FULL)


async def test_frame_timestamps_are_virtual_time(simulator):
    async with simulator.stream() as stream:
        await stream.command("subscribe", [NIFTY])
        await stream.command("mode", ["full", [NIFTY]])
        while True:
            packet = (await stream.packets())[0]
            if packet.exchange_timestamp_s:
                break
    shown = ist_datetime(packet.exchange_timestamp_s * NS_PER_SECOND)
    assert shown.date() == date(2026, 11, 18)
    assert 11 <= shown.hour < 15


async def test_an_unsubscribed_instrument_falls_silent(simulator, instruments):
    other = instruments[5].instrument_token
    async with simulator.stream() as stream:
        await stream.command("subscribe", [NIFTY, other])
        await stream.packets()
        await stream.command("unsubscribe", [NIFTY])
        await stream.command("dance", [])
        await stream.text()
        for _ in range(5):
            assert NIFTY not in [p.instrument_token for p in await stream.packets()]


async def test_unknown_tokens_are_ignored(simulator):
    async with simulator.stream() as stream:
        await stream.command("subscribe", [1, 2, 3, NIFTY])
        assert [p.instrument_token for p in await stream.packets()] == [NIFTY]


async def test_tokens_beyond_3000_are_refused_and_the_connection_stays(simulator, instruments):
    known = [item.instrument_token for item in instruments]
    async with simulator.stream() as stream:
        await stream.command("subscribe", [NIFTY, *range(10_000_000, 10_009_999)])
        error = await stream.text()
        assert error["type"] == "error"
        assert "7000 ignored" in error["data"]
        await stream.command("subscribe", [known[-1]])
        assert (await stream.text())["type"] == "error"
        assert (await stream.packets())[0].instrument_token == NIFTY


@pytest.mark.parametrize(
    "text", ["nonsense", "[]", '{"a":"fly","v":[1]}', '{"a":"mode","v":[{},[1]]}', "\u0000"]
)
async def test_bad_commands_get_an_error_and_change_nothing(simulator, text):
    async with simulator.stream() as stream:
        await stream.command("subscribe", [NIFTY])
        await stream.socket.send(text)
        assert (await stream.text())["type"] == "error"
        await stream.socket.send(b"\x00\x01")
        assert (await stream.packets())[0].instrument_token == NIFTY


async def test_an_idle_connection_gets_one_byte_heartbeats(simulator):
    async with simulator.stream() as stream:
        for _ in range(3):
            message = await stream.message()
            assert isinstance(message, bytes)
            assert is_heartbeat(message)


async def test_pings_are_answered_and_none_is_sent(simulator):
    async with simulator.stream() as stream:
        pong = await stream.socket.ping(b"once")
        async with asyncio.timeout(10):
            await pong


async def test_the_raw_socket_carries_no_ping_and_no_pong(simulator):
    """Byte by byte: the server's frames are binary or text, whatever the client does not ask."""
    key, token = simulator.account(4).api_key, await simulator.token(4)
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    writer.write(
        f"GET /?api_key={key}&access_token={token} HTTP/1.1\r\nHost: x\r\nUpgrade: WebSocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 101 " in head.split(b"\r\n")[0]
    assert b"permessage-deflate" not in head
    for _ in range(5):
        first, length = await reader.readexactly(2)
        assert first in {0x81, 0x82}
        await reader.readexactly(length)
    writer.close()
    await writer.wait_closed()


async def test_a_reader_that_stalls_costs_bounded_memory_and_loses_the_oldest(tmp_path):
    simulator = SimulatorProcess(
        tmp_path,
        SIM_OUTBOX_FRAMES="8",
        SIM_TICK_INTERVAL_SECONDS="0.02",
        SIM_TICK_PROBABILITY="4",
    )
    try:
        simulator.start()
        token = await simulator.token()
        key = simulator.account().api_key
        dump = parse_dump((await _dump(simulator)).encode()).instruments
        tokens = [item.instrument_token for item in dump[:2_900]]
        raw = socket.socket()
        # A small window, so that the kernel does not read for the client.
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        raw.connect(("127.0.0.1", simulator.port))
        url = simulator.stream_url(1, token)
        async with ws_client.connect(
            url, sock=raw, compression=None, ping_interval=None, max_queue=1
        ) as stalled:
            await stalled.send(json.dumps({"a": "subscribe", "v": tokens}))
            await stalled.send(json.dumps({"a": "mode", "v": ["full", tokens]}))

            def dropped() -> bool:
                row = simulator.state()["accounts"][key]
                assert row["frames_waiting"] <= 8
                return bool(row["frames_dropped"] > 100)

            await until(lambda: asyncio.to_thread(dropped), "frames are dropped and counted")
            async with simulator.stream(2) as healthy:
                await healthy.command("subscribe", [NIFTY])
                for _ in range(20):
                    await healthy.frame()
            # Its close frame cannot get through either; the slot is freed all the same.
            simulator.fault(kind="dropped_socket", api_key=key)
            await until(lambda: _none_of(simulator, 1), "the stalled connection is forgotten")
    finally:
        simulator.kill()


async def _dump(simulator: SimulatorProcess) -> str:
    async with await simulator.client() as client:
        return (await client.get("/instruments")).text


async def test_a_closed_market_sends_heartbeats_only(tmp_path):
    simulator = SimulatorProcess(tmp_path, SIM_START="2026-11-22T12:00:00", SIM_SKIP_CLOSED="false")
    try:
        simulator.start()
        async with simulator.stream() as stream:
            await stream.command("subscribe", [NIFTY])
            assert len(decode(await stream.frame())) == 1  # the snapshot
            for _ in range(4):
                message = await stream.message()
                assert isinstance(message, bytes)
                assert is_heartbeat(message)
        assert simulator.state()["open"] is False
        assert simulator.state()["day"] == "2026-11-20"
    finally:
        simulator.kill()
