"""Every fault of the simulator does what it says, to whom it says, and nothing else."""

import asyncio
import time
from collections.abc import Iterator

import httpx
import pytest
import websockets.asyncio.client as ws_client
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus

from libs.common.domain.instruments import parse_dump
from libs.common.kite.frames import FrameError, decode, slices
from tests.fakes.simulator import SimulatorProcess, Stream, until

pytestmark = pytest.mark.integration
NIFTY = 256265


@pytest.fixture(scope="module")
def shared_simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    """One simulator for the module."""
    process = SimulatorProcess(tmp_path_factory.mktemp("simulator"))
    process.start()
    yield process
    process.kill()


@pytest.fixture
def simulator(shared_simulator: SimulatorProcess) -> Iterator[SimulatorProcess]:
    """The module's simulator, without faults."""
    shared_simulator.heal()
    yield shared_simulator
    shared_simulator.heal()


async def streaming(stream: Stream) -> Stream:
    """A stream on which ticks flow."""
    await stream.command("subscribe", [NIFTY, 265])
    await stream.frame()
    return stream


async def test_a_dropped_socket_is_closed_cleanly_for_the_wanted_key_alone(simulator):
    async with simulator.stream(1) as first, simulator.stream(2) as second:
        await streaming(first)
        await streaming(second)
        answer = simulator.fault(kind="dropped_socket", api_key="sim1key")
        assert answer["connections_hit"] == 1
        assert isinstance(await first.closed(), ConnectionClosedOK)
        await second.frame()
    async with simulator.stream(1) as again:
        await streaming(again)


async def test_a_reset_breaks_the_tcp_connection(simulator):
    key, token = simulator.account().api_key, await simulator.token()
    reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
    writer.write(
        f"GET /?api_key={key}&access_token={token} HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    await reader.readuntil(b"\r\n\r\n")
    simulator.fault(kind="reset", api_key=key)
    with pytest.raises(ConnectionResetError):
        await reader.read()  # to the end, which would be b"" after a FIN
    writer.close()


async def test_a_reset_socket_is_an_unclean_end_for_a_websocket_client(simulator):
    async with simulator.stream() as stream:
        await streaming(stream)
        simulator.fault(kind="reset")
        assert isinstance(await stream.closed(), ConnectionClosedError)


async def test_a_silent_socket_sends_nothing_and_speaks_again_afterwards(simulator):
    async with simulator.stream() as stream:
        await streaming(stream)
        fault = simulator.fault(kind="silent_socket")
        # What was on its way may still arrive; three heartbeats' time is silence.
        while await _comes_within(stream, 1.0):
            continue
        simulator.control("DELETE", f"/sim/faults?id={fault['id']}")
        assert await stream.frame()


async def _comes_within(stream: Stream, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await stream.socket.recv()
    except TimeoutError:
        return False
    return True


async def test_a_truncated_frame_does_not_add_up_and_the_next_does(simulator):
    async with simulator.stream() as stream:
        await streaming(stream)
        simulator.fault(kind="truncated_frame", count=1)
        await _one_bad_frame_among_good_ones(stream, "truncated")


async def test_a_garbage_frame_is_noise_and_the_next_is_not(simulator):
    async with simulator.stream() as stream:
        await streaming(stream)
        simulator.fault(kind="garbage_frame", count=1)
        await _one_bad_frame_among_good_ones(stream, None)


async def _one_bad_frame_among_good_ones(stream: Stream, reason: str | None) -> None:
    reasons = []
    for _ in range(10):
        frame = await stream.frame()
        try:
            decode(frame)
        except FrameError as error:
            reasons.append(error.reason)
    assert len(reasons) == 1
    assert reason in {None, *reasons}


async def test_an_odd_packet_is_one_more_in_a_frame_that_adds_up(simulator):
    async with simulator.stream() as stream:
        await streaming(stream)
        simulator.fault(kind="odd_packet", length=10, count=1)
        odd = []
        for _ in range(10):
            frame = await stream.frame()
            if 10 in [length for _, length in slices(frame)]:
                odd.append(frame)
        assert len(odd) == 1
        assert {packet.instrument_token for packet in decode(odd[0])} <= {NIFTY, 265}


@pytest.mark.parametrize("status", [403, 429, 503])
async def test_a_refused_handshake_has_the_wanted_status_the_wanted_number_of_times(
    simulator, status
):
    simulator.fault(kind="refused_handshake", status=status, count=2, api_key="sim1key")
    url = simulator.stream_url(1, await simulator.token())
    for _ in range(2):
        with pytest.raises(InvalidStatus) as caught:
            await ws_client.connect(url)
        assert caught.value.response.status_code == status
    async with simulator.stream(2) as other:
        await streaming(other)
    async with simulator.stream(1) as stream:
        await streaming(stream)


async def test_dead_tokens_end_their_sockets_and_a_new_login_works(simulator):
    token = await simulator.mint(3)
    url = simulator.stream_url(3, token)
    async with ws_client.connect(url, compression=None) as connection:
        simulator.fault(kind="dead_token", api_key="sim3key")
        await Stream(connection).closed()
    with pytest.raises(InvalidStatus) as caught:
        await ws_client.connect(url)
    assert caught.value.response.status_code == 403
    header = {"Authorization": f"token sim3key:{token}"}
    async with httpx.AsyncClient(base_url=simulator.url) as client:
        assert (await client.get("/user/profile", headers=header)).status_code == 403
    fresh = simulator.stream_url(3, await simulator.mint(3))
    async with ws_client.connect(fresh, compression=None) as connection:
        await streaming(Stream(connection))


async def test_slow_replies_come_late_on_the_wanted_path_alone(simulator):
    simulator.fault(kind="slow_replies", milliseconds=700, path="/user", count=1)
    async with await simulator.client() as client:
        await client.get("/quote/ltp?i=256265")
        (waiting,) = simulator.control("GET", "/sim/faults").json()["faults"]
        assert waiting["fired"] == 0
        started = time.monotonic()
        assert (await client.get("/user/profile")).status_code == 200
        assert time.monotonic() - started >= 0.7


@pytest.mark.parametrize("html", [True, False])
async def test_error_replies_come_as_json_or_as_a_proxys_page(simulator, html):
    simulator.fault(kind="error_replies", status=504, html=html, count=1)
    async with await simulator.client() as client:
        answer = await client.get("/user/profile")
        assert answer.status_code == 504
        assert ("html" in answer.headers["content-type"]) is html
        assert (await client.get("/user/profile")).status_code == 200


async def test_in_a_burst_everything_ticks_in_every_step(simulator):
    async with await simulator.client() as client:
        dump = parse_dump((await client.get("/instruments")).content)
    tokens = [item.instrument_token for item in dump.instruments[:200]]
    async with simulator.stream() as stream:
        await stream.command("subscribe", tokens)
        assert len(await stream.packets()) == 200
        calm = [len(await stream.packets()) for _ in range(5)]
        assert max(calm) < 200
        simulator.fault(kind="burst", factor=10)
        for _ in range(100):
            if len(await stream.packets()) == 200:
                break
        assert [len(await stream.packets()) for _ in range(20)] == [200] * 20


@pytest.mark.parametrize("kind", ["message", "error", "order"])
async def test_text_messages_reach_every_connection_of_the_key(simulator, kind):
    async with simulator.stream() as stream:
        await stream.message()  # the handshake is over and the connection known
        simulator.fault(kind="text_message", type=kind, data={"n": 1}, api_key="sim1key")
        assert await stream.text() == {"type": kind, "data": {"n": 1}}


async def test_a_bad_fault_gets_400_naming_the_field(simulator):
    for body, field in (({"kind": "storm"}, "kind"), ({"kind": "burst", "factor": 0}, "factor")):
        answer = simulator.control("POST", "/sim/faults", json=body)
        assert answer.status_code == 400
        assert answer.json()["error"]["field"] == field
        assert answer.json()["error"]["fix"]
    assert simulator.control("POST", "/sim/faults", content=b"{").status_code == 400
    assert simulator.control("DELETE", "/sim/faults?id=x").status_code == 400


async def test_faults_in_force_are_listed_and_lifted(simulator):
    first = simulator.fault(kind="silent_socket", api_key="sim4key")
    simulator.fault(kind="slow_replies", api_key="sim4key")
    listed = simulator.control("GET", "/sim/faults").json()["faults"]
    assert [row["kind"] for row in listed] == ["silent_socket", "slow_replies"]
    assert simulator.control("DELETE", f"/sim/faults?id={first['id']}").json() == {"lifted": 1}
    assert simulator.control("DELETE", "/sim/faults").json() == {"lifted": 1}
    await until(lambda: not simulator.control("GET", "/sim/faults").json()["faults"], "no faults")


async def test_a_damaged_dump_is_that_of_its_exchange_alone(simulator):
    async with await simulator.client() as client:

        async def dump(path: str):
            return parse_dump((await client.get(path)).content)

        whole, others = await dump("/instruments/NFO"), await dump("/instruments/NSE")
        simulator.fault(kind="truncated_dump", exchange="NFO", count=1)
        cut = await dump("/instruments/NFO")
        assert cut.is_truncated
        assert cut.instruments == whole.instruments[: len(cut.instruments)]
        assert await dump("/instruments/NFO") == whole, "once, as was asked for"
        simulator.fault(kind="empty_dump", exchange="NFO")
        assert (await dump("/instruments/NFO")).instruments == []
        assert await dump("/instruments/NSE") == others
        everything = (await dump("/instruments")).instruments
        assert everything
        assert all(item.exchange != "NFO" for item in everything)
        simulator.heal()
        assert await dump("/instruments/NFO") == whole
