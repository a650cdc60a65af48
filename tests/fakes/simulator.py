"""The real simulator as a process of a test's own."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import websockets.asyncio.client as ws_client
from websockets.exceptions import ConnectionClosed

from libs.common.domain.credentials import Credentials
from libs.common.kite.frames import Packet, decode, is_heartbeat
from libs.common.kite.login import TotpSessionMinter
from services.simulator.domain.accounts import Account, demo_accounts

SEED = 5
DEADLINE_SECONDS = 45.0
"""Generous: a busy machine may take ten seconds to import numpy."""
_OPEN_MARKET = "2026-11-18T11:00:00"


class SimulatorProcess:
    """`python -m services.simulator` on a free port.

    Args:
        folder: Where its log goes.
        environment: Further variables; the defaults are a small, quick market at eleven on a
            Wednesday, four accounts, and no rate limits.
    """

    def __init__(self, folder: Path, **environment: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.log = folder / f"simulator-{self.port}.log"
        self._environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("SIM_", "KITE_", "ENVIRONMENT"))
        } | {
            "SIM_PORT": str(self.port),
            "SIM_SEED": str(SEED),
            "SIM_DEMO_ACCOUNTS": "4",
            "SIM_STRIKES_PER_SIDE": "5",
            "SIM_TICK_INTERVAL_SECONDS": "0.1",
            "SIM_RATE_LIMITS": "false",
            "SIM_START": _OPEN_MARKET,
            "SIM_HEARTBEAT_SECONDS": "0.3",
            **environment,
        }
        self.process: subprocess.Popen[bytes] | None = None
        self._tokens: dict[int, str] = {}

    @property
    def url(self) -> str:
        """Root of REST and login."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def ws_url(self) -> str:
        """Root of the WebSocket."""
        return f"ws://127.0.0.1:{self.port}"

    def account(self, number: int = 1) -> Account:
        """One of the demo accounts, from 1."""
        return demo_accounts(number, SEED)[number - 1]

    def launch(self) -> "subprocess.Popen[bytes]":
        """Start the process without waiting for it."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "services.simulator"],
                env=self._environment,
                stdout=log,
                stderr=log,
            )
        return self.process

    def start(self) -> None:
        """Start the process and wait until it is ready."""
        process = self.launch()
        deadline = time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(httpx.HTTPError):
                if httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200:
                    return
            time.sleep(0.05)
        raise AssertionError(f"the simulator did not start:\n{self.log.read_text()[-4000:]}")

    def stop(self) -> int:
        """End the process with SIGTERM and give its exit status."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_SECONDS)

    def kill(self) -> None:
        """End the process, if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(DEADLINE_SECONDS)

    def fault(self, **order: object) -> dict[str, Any]:
        """Order a fault."""
        answer = httpx.post(f"{self.url}/sim/faults", json=order)
        assert answer.status_code == 201, answer.text
        content: dict[str, Any] = answer.json()
        return content

    def control(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Any request without an account."""
        return httpx.request(method, f"{self.url}{path}", **options)

    def heal(self) -> None:
        """Lift all faults."""
        self.control("DELETE", "/sim/faults").raise_for_status()

    def active_faults(self) -> list[dict[str, Any]]:
        """The faults in force."""
        content: list[dict[str, Any]] = self.control("GET", "/sim/faults").json()["faults"]
        return content

    def state(self) -> dict[str, Any]:
        """What `/sim/state` shows."""
        content: dict[str, Any] = httpx.get(f"{self.url}/sim/state").json()
        return content

    async def mint(self, number: int = 1) -> str:
        """Log an account in through the login pages and give its access token."""
        account = self.account(number)
        minter = TotpSessionMinter(login_root=self.url, api_root=self.url)
        minted = await minter.mint(
            Credentials(
                account=f"sim{number}",
                api_key=account.api_key,
                api_secret=account.api_secret,
                user_id=account.user_id,
                password=account.password,
                totp_secret=account.totp_secret,
            )
        )
        return minted.access_token

    async def token(self, number: int = 1) -> str:
        """An access token of an account, minted once."""
        if number not in self._tokens:
            self._tokens[number] = await self.mint(number)
        return self._tokens[number]

    async def client(self, number: int = 1) -> httpx.AsyncClient:
        """A REST client of an account."""
        header = f"token {self.account(number).api_key}:{await self.token(number)}"
        return httpx.AsyncClient(base_url=self.url, headers={"Authorization": header})

    def stream_url(self, number: int, token: str) -> str:
        """The WebSocket's address as KiteTicker builds it."""
        return f"{self.ws_url}?api_key={self.account(number).api_key}&access_token={token}"

    @contextlib.asynccontextmanager
    async def stream(self, number: int = 1) -> AsyncIterator["Stream"]:
        """An open WebSocket of an account."""
        url = self.stream_url(number, await self.token(number))
        async with ws_client.connect(url, compression=None, ping_interval=None) as socket_:
            yield Stream(socket_)


class Stream:
    """One WebSocket, with what has come over it."""

    def __init__(self, socket_: ws_client.ClientConnection) -> None:
        self.socket = socket_

    async def command(self, action: str, value: object) -> None:
        """Send one of Kite's commands."""
        await self.socket.send(json.dumps({"a": action, "v": value}))

    async def message(self) -> bytes | str:
        """The next message of any kind, whole."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            return await self.socket.recv()

    async def frame(self) -> bytes:
        """The next binary frame that is no heartbeat."""
        while True:
            message = await self.message()
            if isinstance(message, bytes) and not is_heartbeat(message):
                return message

    async def packets(self) -> list[Packet]:
        """The packets of the next frame."""
        return decode(await self.frame())

    async def text(self) -> dict[str, Any]:
        """The next text message."""
        while True:
            message = await self.message()
            if isinstance(message, str):
                content: dict[str, Any] = json.loads(message)
                return content

    async def closed(self) -> ConnectionClosed:
        """Wait for the end of the connection and tell how it came."""
        try:
            while True:
                await self.message()
        except ConnectionClosed as error:
            return error


async def until(
    condition: Callable[[], object | Awaitable[object]],
    what: str,
    seconds: float = DEADLINE_SECONDS,
) -> None:
    """Poll a condition until it holds."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return
        if time.monotonic() > deadline:
            raise AssertionError(f"never: {what}")
        await asyncio.sleep(0.05)
