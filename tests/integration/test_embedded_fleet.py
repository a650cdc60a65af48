"""`tickfleet up` on real NATS and PostgreSQL: announcement, status, token, and every way to end.

The services are replaced by one small HTTP process each, so that these tests are about the fleet
command alone; the whole fleet is tested elsewhere.
"""

import asyncio
import json
import os
import signal
import socket
import sys
from pathlib import Path

import asyncpg
import jwt
import nats
import pytest

from libs.common.bus.connection import Bus
from libs.common.bus.kv import Bucket
from libs.common.bus.provision import ensure
from libs.common.contracts.streams import LEASES_SHARDS, BucketSpec
from libs.common.settings import NatsSettings
from services.fleet.data_directory import DataDirectory
from tests.unit.fleet.waiting import exists, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180)]

ROOT = Path(__file__).parents[2]
# What every service has in common: an HTTP port with the usual pages.
SERVICE = """
import http.server, os, sys
names = ("HEALTH_PORT", "SIM_PORT", "GATEWAY_PORT")
port = int(next(os.environ[name] for name in names if name in os.environ))
count = 0
class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global count
        count += 50
        name = "tickfleet_demo_things_total"
        metrics = f"# TYPE {name} counter\\n{name} {count}\\n"
        body = {"/health": '{"status": "ok"}', "/metrics": metrics}
        text = body.get(self.path, "ok").encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)
    def log_message(self, *arguments):
        pass
print("hello from", os.environ["WORKER_ID"], flush=True)
http.server.ThreadingHTTPServer(("127.0.0.1", port), Pages).serve_forever()
"""
DRIVER = """
import sys
from services.fleet.domain.plan import ProcessSpec
service = sys.argv.pop(1)
ProcessSpec.argv = lambda spec, python: (python, service)
from services.fleet.__main__ import main
main()
"""


class Command:
    """One run of the `tickfleet` command."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.output = ""

    async def until_says(self, words: str) -> None:
        """Read its output until it has said this."""
        assert self.process.stdout is not None
        async with asyncio.timeout(90):
            while words not in self.output:
                chunk = await self.process.stdout.read(65_536)
                assert chunk, f"ended without {words!r}:\n{self.output}"
                self.output += chunk.decode()

    async def end(self) -> int:
        """Read the rest and give the exit status."""
        assert self.process.stdout is not None
        async with asyncio.timeout(60):
            self.output += (await self.process.stdout.read()).decode()
            return await self.process.wait()


@pytest.fixture
async def tickfleet(tmp_path):
    """Start `tickfleet` commands on a data directory of the test's own."""
    service, driver = tmp_path / "service.py", tmp_path / "driver.py"
    service.write_text(SERVICE)
    driver.write_text(DRIVER)
    commands: list[Command] = []

    async def start(*arguments: str, **environment: str) -> Command:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(driver),
            str(service),
            *arguments,
            "--data-dir",
            str(tmp_path / "data"),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        commands.append(Command(process))
        return commands[-1]

    yield start
    for command in commands:
        if command.process.returncode is None:
            command.process.terminate()
            await command.end()


@pytest.fixture
def directory(tmp_path):
    return DataDirectory(tmp_path / "data")


def pids(directory: DataDirectory) -> dict[str, int]:
    state = directory.running_state()
    assert state is not None
    return {process.name: process.pid for process in state.processes if process.pid}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_fleet_comes_up_and_a_signal_leaves_nothing_behind(tickfleet, directory, number):
    up = await tickfleet("up", "--port", "0", "--accounts", "1", "--greeks", "1")
    await up.until_says("tickfleet is up")
    await up.until_says("twice: at once")
    running = pids(directory)

    up.process.send_signal(number)

    assert await up.end() == 0
    assert set(running) == {
        "nats",
        "postgres",
        "simulator",
        "control-1",
        "greeks-1",
        "ingest-1",
        "orders-1",
        "gateway-1",
    }
    assert not [name for name, pid in running.items() if exists(pid)]
    assert not directory.state_file.exists()
    assert "gateway-1 | hello from gateway-1" in up.output


async def test_servers_are_reachable_with_what_fleet_json_says(tickfleet, directory):
    up = await tickfleet("up", "--port", "0", "--accounts", "1", "--greeks", "1")
    await up.until_says("tickfleet is up")
    state = directory.running_state()
    assert state is not None

    database = await asyncpg.connect(state.database_url, timeout=5)
    name = await database.fetchval("SELECT current_database()")
    await database.close()
    client = await nats.connect(state.nats_url)
    account = await client.jetstream().account_info()
    await client.close()

    assert name == "tickfleet"
    assert account.streams == 0
    assert state.up is True


async def test_status_shows_who_is_alive_who_owns_what_and_how_fast(tickfleet, directory):
    up = await tickfleet("up", "--port", "0", "--accounts", "1", "--greeks", "1")
    await up.until_says("tickfleet is up")
    state = directory.running_state()
    assert state is not None
    async with Bus.open(NatsSettings(nats_url=state.nats_url), name="test") as bus:
        # Without the short life of real leases, which nobody refreshes here.
        await ensure(bus, [], [BucketSpec(name=LEASES_SHARDS.name, purpose="test")])
        shards = Bucket(bus, LEASES_SHARDS.name)
        await shards.create("m.greeks-1", b'{"member":"greeks-1"}')
        await shards.create("p.7", b'{"member":"greeks-1"}')
        await shards.create("p.12", b'{"member":"stranger"}')

    asked = await tickfleet("status", "--json", "--interval", "0.2")
    assert await asked.end() == 0
    report = json.loads(asked.output)
    table = await tickfleet("status", "--interval", "0.2", COLUMNS="200")
    assert await table.end() == 0

    processes = {process["name"]: process for process in report["processes"]}
    assert all(process["ready"] for process in processes.values())
    assert processes["greeks-1"]["rates"]["tickfleet_demo_things_total"] > 0
    assert processes["greeks-1"]["owns"] == ["shard 7"]
    assert report["unowned"] == {"stranger": ["shard 12"]}
    assert report["health"] == "ok"
    assert report["bus_reachable"] is True
    assert "greeks-1" in table.output
    assert "demo things" in table.output


async def test_status_without_a_fleet_says_how_to_start_one(tickfleet):
    asked = await tickfleet("status")

    assert await asked.end() == 1
    assert "start one with: tickfleet up" in asked.output
    assert "Traceback" not in asked.output


async def test_token_is_the_last_word_and_signed_with_the_running_fleets_key(tickfleet, directory):
    up = await tickfleet(
        "up", "--port", "0", "--accounts", "1", "--greeks", "1", JWT_SECRET="s" * 40
    )
    await up.until_says("tickfleet is up")

    asked = await tickfleet("token", "--user", "asha", "--hours", "2")
    assert await asked.end() == 0

    claims = jwt.decode(
        asked.output.split()[-1],
        "s" * 40,
        algorithms=["HS256"],
        audience="tickfleet-ws",
        issuer="tickfleet",
    )
    assert claims["user_id"] == "asha"
    assert claims["exp"] - claims["iat"] == 7200


async def test_token_before_the_first_fleet_says_what_is_missing(tickfleet):
    asked = await tickfleet("token")

    assert await asked.end() == 1
    assert "set JWT_SECRET" in asked.output


async def test_second_fleet_on_the_same_data_is_refused_with_the_pid_of_the_first(tickfleet):
    first = await tickfleet("up", "--port", "0", "--accounts", "1", "--greeks", "1")
    await first.until_says("tickfleet is up")

    second = await tickfleet("up", "--port", "0")

    assert await second.end() == 1
    assert f"in use by the running fleet with pid {first.process.pid}" in second.output
    assert "Traceback" not in second.output


async def test_port_that_is_taken_is_refused_with_the_option_to_change(tickfleet, directory):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]

        up = await tickfleet("up", "--port", str(port))

        assert await up.end() == 1
        assert f"port {port} is taken by another program: choose another one with --port" in (
            up.output
        )
        assert not directory.is_owned()


async def test_production_is_refused(tickfleet):
    up = await tickfleet("up", ENVIRONMENT="production")

    assert await up.end() == 1
    assert "ENVIRONMENT: the embedded fleet is for dev and test" in up.output


async def test_killed_parts_come_back_on_their_ports(tickfleet, directory):
    up = await tickfleet("up", "--port", "0", "--accounts", "1", "--greeks", "1")
    await up.until_says("tickfleet is up")
    before, first = directory.running_state(), pids(directory)
    for name in ("nats", "postgres", "gateway-1"):
        os.kill(first[name], signal.SIGKILL)

    def back() -> bool:
        state = directory.running_state()
        assert state is not None
        return all(
            process.state == "ready" and (process.restarts == 1) == (process.name in killed)
            for process in state.processes
        )

    killed = {"nats", "postgres", "gateway-1"}
    await until(back)
    after = directory.running_state()

    assert before is not None
    assert after is not None
    assert (after.nats_url, after.database_url, after.gateway_urls) == (
        before.nats_url,
        before.database_url,
        before.gateway_urls,
    )


async def test_fleet_that_is_killed_takes_all_along_and_the_next_one_starts(tickfleet, directory):
    up = await tickfleet("up", "--port", "0", "--accounts", "1", "--greeks", "1")
    await up.until_says("tickfleet is up")
    running = pids(directory)
    up.process.kill()
    assert await up.end() == -signal.SIGKILL

    again = await tickfleet("up", "--port", "0", "--accounts", "1", "--greeks", "1")
    await again.until_says("tickfleet is up")

    assert not [name for name, pid in running.items() if exists(pid)]


async def test_second_signal_leaves_at_once_and_without_orphans(tickfleet, directory, tmp_path):
    deaf = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    (tmp_path / "service.py").write_text(deaf + SERVICE)
    up = await tickfleet("up", "--port", "0", "--accounts", "1", "--greeks", "1")
    await up.until_says("tickfleet is up")
    running = pids(directory)

    up.process.send_signal(signal.SIGINT)
    await up.until_says("fleet.stopping")
    up.process.send_signal(signal.SIGINT)

    assert await up.end() == 130
    await until(lambda: not [pid for pid in running.values() if exists(pid)])


async def test_fleet_that_does_not_get_ready_names_what_it_waited_for(tickfleet, tmp_path):
    (tmp_path / "service.py").write_text("raise SystemExit('no such setting')")
    up = await tickfleet(
        "up", "--port", "0", "--accounts", "1", "--greeks", "1", FLEET_START_DEADLINE_SECONDS="3"
    )

    assert await up.end() == 1
    assert "still waiting for: simulator" in up.output
    assert "no such setting" in up.output
