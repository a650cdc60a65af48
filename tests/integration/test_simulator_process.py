"""The simulator as a process: start, stop, restart, and the turn of a virtual day."""

import asyncio
import signal

import pytest
import websockets.asyncio.client as ws_client

from libs.common import lifecycle
from tests.fakes.simulator import SimulatorProcess, Stream, until

pytestmark = pytest.mark.integration
NIFTY = 256265


@pytest.fixture
def make_simulator(tmp_path):
    """Makes simulators that end with the test."""
    made: list[SimulatorProcess] = []

    def make(**environment: str) -> SimulatorProcess:
        made.append(SimulatorProcess(tmp_path, **environment))
        return made[-1]

    yield make
    for process in made:
        process.kill()


async def test_sigterm_ends_it_cleanly_with_streams_open(make_simulator):
    simulator = make_simulator()
    simulator.start()
    async with simulator.stream() as stream:
        await stream.command("subscribe", [NIFTY])
        await stream.frame()
        assert await asyncio.to_thread(simulator.stop) == lifecycle.EXIT_OK
        await stream.closed()


async def test_a_restart_kills_no_session(make_simulator):
    simulator = make_simulator()
    simulator.start()
    token = await simulator.token()
    assert simulator.process is not None
    simulator.process.send_signal(signal.SIGKILL)
    simulator.process.wait()
    simulator.start()
    async with ws_client.connect(simulator.stream_url(1, token), compression=None) as connection:
        stream = Stream(connection)
        await stream.command("subscribe", [NIFTY])
        await stream.frame()


@pytest.mark.parametrize(
    ("environment", "variable"),
    [
        ({"SIM_PORT": "0"}, "SIM_PORT"),
        ({"SIM_START": "noon"}, "SIM_START"),
        ({"SIM_ACCOUNTS": '[{"api_key":"k"}]'}, "SIM_ACCOUNTS"),
        ({"ENVIRONMENT": "production"}, "ENVIRONMENT"),
    ],
)
def test_bad_settings_end_it_at_once_and_name_the_variable(make_simulator, environment, variable):
    simulator = make_simulator(**environment)
    assert simulator.launch().wait(20) == lifecycle.EXIT_SETTINGS
    assert variable in simulator.log.read_text()


def test_a_taken_port_is_named(make_simulator):
    first = make_simulator()
    first.start()
    second = make_simulator(SIM_PORT=str(first.port))
    assert second.launch().wait(20) == lifecycle.EXIT_FAILED
    assert "SIM_PORT" in second.log.read_text()


async def test_no_secret_reaches_the_log(make_simulator):
    simulator = make_simulator(LOG_LEVEL="debug")
    simulator.start()
    token = await simulator.token()
    async with simulator.stream() as stream:
        await stream.message()
    account = simulator.account()
    await asyncio.to_thread(simulator.stop)
    text = simulator.log.read_text()
    for secret in (token, account.api_secret, account.password, account.totp_secret):
        assert secret not in text


async def test_the_close_leads_to_the_next_open_where_old_tokens_are_dead(make_simulator):
    """Friday 15:39:50 goes on as Monday 09:15, and Monday's 06:00 lies between."""
    simulator = make_simulator(SIM_START="2026-11-20T15:39:50")
    simulator.start()
    token = await simulator.token()
    async with ws_client.connect(simulator.stream_url(1, token), compression=None) as connection:
        stream = Stream(connection)
        await stream.command("subscribe", [NIFTY])
        await stream.frame()
        await stream.closed()
    header = {"Authorization": f"token sim1key:{token}"}
    assert simulator.control("GET", "/user/profile", headers=header).status_code == 403
    await until(
        lambda: asyncio.to_thread(lambda: simulator.state()["day"] == "2026-11-23"), "Monday"
    )
    fresh = await simulator.mint()
    async with ws_client.connect(simulator.stream_url(1, fresh), compression=None) as connection:
        stream = Stream(connection)
        await stream.command("subscribe", [NIFTY])
        await stream.command("mode", ["full", [NIFTY]])
        for _ in range(3):
            await stream.frame()
    assert simulator.state()["clock"].startswith("2026-11-23T09:1")
    assert simulator.state()["open"] is True
