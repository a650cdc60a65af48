"""A whole fleet as a person starts it, with handles to look at it and to hurt it."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import websockets.asyncio.client as ws_client

SEED = 11
START_DEADLINE_SECONDS = 110.0
RECOVERY_DEADLINE_SECONDS = 40.0
"""How long a test waits before it gives up. What was measured is printed, never asserted."""


class FleetProcess:
    """A running `tickfleet up`."""

    def __init__(self, process: "subprocess.Popen[bytes]", folder: Path, log: Path) -> None:
        self.process = process
        self.folder = folder
        self.log = log

    @property
    def record(self) -> dict[str, Any]:
        """What the fleet says of itself in its data directory."""
        content: dict[str, Any] = json.loads((self.folder / "fleet.json").read_text())
        return content

    @property
    def gateway(self) -> str:
        """Root of the first gateway."""
        return str(self.record["gateway_urls"][0])

    @property
    def simulator(self) -> str:
        """Root of the simulator."""
        return str(self.record["simulator_url"])

    def pid_of(self, name: str) -> int:
        """The present process behind a name such as `greeks-1`."""
        return next(int(p["pid"]) for p in self.record["processes"] if p["name"] == name)

    def names(self, service: str) -> list[str]:
        """The processes of a service."""
        return [p["name"] for p in self.record["processes"] if p["service"] == service]

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Signal one process of the fleet; gives its pid."""
        pid = self.pid_of(name)
        os.kill(pid, number)
        return pid

    def fault(self, **order: object) -> dict[str, Any]:
        """Order a fault of the simulator."""
        answer = httpx.post(f"{self.simulator}/sim/faults", json=order, timeout=10)
        assert answer.status_code < 300, answer.text
        content: dict[str, Any] = answer.json()
        return content

    def token(self, *arguments: str) -> str:
        """A development token from the command line."""
        command = [sys.executable, "-m", "services.fleet", "token", "--data-dir", str(self.folder)]
        done = subprocess.run(
            [*command, *arguments], check=True, capture_output=True, text=True, timeout=30
        )
        return str(done.stdout.split()[-1])

    def history(self, *arguments: str) -> list[str]:
        """The lines of `tickfleet history`."""
        return self._lines("history", *arguments)

    def chain(self, *arguments: str) -> list[str]:
        """The lines of `tickfleet chain`."""
        return self._lines("chain", *arguments)

    def _lines(self, name: str, *arguments: str) -> list[str]:
        command = [sys.executable, "-m", "services.fleet", name]
        done = subprocess.run(
            [*command, *arguments, "--data-dir", str(self.folder)],
            check=True,
            capture_output=True,
            text=True,
            timeout=90,
            env={**os.environ, "COLUMNS": "160"},
        )
        return done.stdout.splitlines()

    def health(self) -> dict[str, Any]:
        """The gateway's health; empty while it does not answer."""
        try:
            content: dict[str, Any] = httpx.get(f"{self.gateway}/health", timeout=5).json()
        except (httpx.HTTPError, ValueError):
            return {}
        return content

    async def until_healthy(self) -> None:
        """Wait until `GET /health` says ok."""
        await self.until(lambda: self.health().get("status") == "ok", "GET /health says ok")

    async def until(
        self,
        condition: Callable[[], object],
        what: str,
        seconds: float = RECOVERY_DEADLINE_SECONDS,
    ) -> None:
        """Wait for a condition of other processes; says what did not come, with the log's end."""
        deadline = time.monotonic() + seconds
        while not await asyncio.to_thread(condition):
            if time.monotonic() > deadline:
                raise AssertionError(f"never: {what}; health: {self.health()}\n{self.log_tail()}")
            await asyncio.sleep(0.2)

    def log_tail(self, lines: int = 60) -> str:
        """The end of what all processes wrote."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    def metric(self, name: str, service: str) -> float:
        """Sum of a metric over the processes of a service."""
        total = 0.0
        for process in self.record["processes"]:
            if process["service"] != service or not process["url"]:
                continue
            with contextlib.suppress(httpx.HTTPError):
                text = httpx.get(f"{process['url']}/metrics", timeout=5).text
                for line in text.splitlines():
                    if line.startswith((f"{name} ", f"{name}{{")):
                        total += float(line.rsplit(" ", 1)[1])
        return total

    async def instruments(self, **filters: str | int) -> list[dict[str, Any]]:
        """Instruments from REST."""
        return await self._items("/instruments", filters)

    async def subscriptions(self, **filters: str | int) -> list[dict[str, Any]]:
        """What is streamed, from REST."""
        return await self._items("/subscriptions", filters)

    async def _items(self, path: str, filters: dict[str, str | int]) -> list[dict[str, Any]]:
        """A page of a list; a database that was killed before is waited for."""
        deadline = time.monotonic() + RECOVERY_DEADLINE_SECONDS
        while True:
            async with httpx.AsyncClient(timeout=10) as client:
                answer = await client.get(
                    f"{self.gateway}{path}", params={"limit": 1000, **filters}
                )
            if answer.status_code != 503 or time.monotonic() > deadline:
                break
            await asyncio.sleep(0.2)
        assert answer.status_code == 200, answer.text
        items: list[dict[str, Any]] = answer.json()["items"]
        return items

    async def subscribe(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Change subscriptions over REST."""
        async with httpx.AsyncClient(timeout=10) as client:
            answer = await client.request(method, f"{self.gateway}{path}", json=body)
        assert answer.is_success, answer.text
        content: dict[str, Any] = answer.json()
        return content

    @contextlib.asynccontextmanager
    async def client(self, token: str | None = None) -> AsyncIterator["Client"]:
        """A WebSocket client that has been greeted."""
        token = token or await asyncio.to_thread(self.token)
        url = f"{self.gateway.replace('http', 'ws', 1)}/ws/ticks?token={token}"
        async with ws_client.connect(url, proxy=None, max_queue=None) as socket:
            client = Client(socket)
            client.greeting = await client.next("connected")
            yield client


class Client:
    """A client of the WebSocket protocol."""

    def __init__(self, socket: ws_client.ClientConnection) -> None:
        self.socket = socket
        self.greeting: dict[str, Any] = {}

    async def send(self, message: object) -> None:
        """Send an object as JSON, or a text as it is."""
        text = message if isinstance(message, str) else json.dumps(message)
        await self.socket.send(text)

    async def next(self, kind: str, seconds: float = RECOVERY_DEADLINE_SECONDS) -> dict[str, Any]:
        """The next message of a type; others are passed over."""
        async with asyncio.timeout(seconds):
            while True:
                message = msgspec.json.decode(await self.socket.recv())
                if message["type"] == kind:
                    return dict(message)

    async def subscribe(self, tokens: list[int]) -> dict[str, Any]:
        """Subscribe and give the answer."""
        await self.send({"action": "subscribe", "tokens": tokens})
        return await self.next("subscribed")

    async def ticks(self, count: int, seconds: float = RECOVERY_DEADLINE_SECONDS) -> list[Any]:
        """The data of the next ticks."""
        async with asyncio.timeout(seconds):
            return [(await self.next("tick", seconds))["data"] for _ in range(count)]

    async def fresh_ticks(self, after_ns: int, tokens: set[int]) -> float:
        """Wait for a tick of every token that was computed after a moment; gives the seconds."""
        missing = set(tokens)
        try:
            async with asyncio.timeout(RECOVERY_DEADLINE_SECONDS):
                while missing:
                    data = (await self.next("tick"))["data"]
                    if data["greeks_ts"] > after_ns:
                        missing.discard(data["instrument_token"])
        except TimeoutError:
            raise AssertionError(f"no fresh tick of {sorted(missing)} out of {tokens}") from None
        return (time.time_ns() - after_ns) / 1e9


@contextlib.contextmanager
def running_fleet(folder: Path, *arguments: str, **variables: str) -> Iterator[FleetProcess]:
    """Start a fleet, wait until it is up, and stop it as Ctrl-C does.

    Args:
        folder: Its data directory; the log lies beside it.
        arguments: Of `tickfleet up`.
        variables: Environment on top of a small default.
    """
    log = folder.with_suffix(".log")
    environment = {
        **{k: v for k, v in os.environ.items() if not k.startswith(("SIM_", "FLEET_", "KITE_"))},
        "UNDERLYINGS": "NIFTY,BANKNIFTY,SENSEX,M&M",
        "OPTION_EXPIRY_WINDOW": "2",
        "OTM_LEVELS": "5",
        "LOG_LEVEL": "info",
        "LOG_FORMAT": "console",
        **variables,
    }
    command = [sys.executable, "-m", "services.fleet", "up", "--data-dir", str(folder)]
    command += ["--port", "0", "--seed", str(SEED), *arguments]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment, cwd=folder.parent
        )
    fleet = FleetProcess(process, folder, log)
    try:
        deadline = time.monotonic() + START_DEADLINE_SECONDS
        while not ((folder / "fleet.json").exists() and fleet.record["up"]):
            assert process.poll() is None, f"the fleet ended:\n{fleet.log_tail()}"
            assert time.monotonic() < deadline, f"the fleet is not up:\n{fleet.log_tail()}"
            time.sleep(0.2)
        yield fleet
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
