"""One child process: what to run, how to tell that it is ready, how to start and signal it."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import cast

from services.fleet.domain.log_lines import LineSplitter

_LAUNCHER = str(Path(__file__).with_name("launch.py"))
# How long to wait for the last lines of a child that has ended.
_LAST_LINES_SECONDS = 2.0

LineSink = Callable[[str, str], None]
"""Receives (name of the process, one line of its output)."""


class Identity(StrEnum):
    """As whom a child runs; only PostgreSQL under root needs another one than ours."""

    SAME = "same"
    NAMESPACE = "namespace"
    NOBODY = "nobody"


async def always_ready(pid: int) -> bool:
    """Readiness of a child that has nothing to ask: it is ready when it runs."""
    del pid
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """What the supervisor keeps running.

    Attributes:
        name: Unique in the fleet; stands before its log lines.
        argv: The program, by absolute path, and its arguments.
        environment: All of its environment.
        requires: Names of children that must have been ready once before this one starts.
        probe: Asked again and again with the pid until it says that the child is ready.
        stop_signal: Asks it to end; also what the kernel sends when the fleet dies (Linux).
        last_signal: Ends it when the deadline has passed.
        identity: As whom it runs.
    """

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    requires: tuple[str, ...] = ()
    probe: Callable[[int], Awaitable[bool]] = always_ready
    stop_signal: signal.Signals = signal.SIGTERM
    last_signal: signal.Signals = signal.SIGKILL
    identity: Identity = Identity.SAME


class Life(asyncio.SubprocessProtocol):
    """One life of a child, from its start to its exit.

    A protocol, because `Process.wait()` also waits for the pipes, which a grandchild may hold open
    long after the child is gone.

    Attributes:
        ended: Set when the process has exited.
        silent: Set when it has exited and nobody can write to its pipes any more.
    """

    def __init__(self, name: str, sink: LineSink) -> None:
        self._name = name
        self._sink = sink
        self._splitters = {1: LineSplitter(), 2: LineSplitter()}
        self._transport: asyncio.SubprocessTransport | None = None
        self.pid = 0
        self.ended = asyncio.Event()
        self.silent = asyncio.Event()

    @property
    def exit_status(self) -> int | None:
        """The exit status, or minus the signal that ended it; None while it runs."""
        return self._transport.get_returncode() if self._transport else None

    async def close(self, seconds: float) -> None:
        """Wait a moment for the last lines of a life that has ended, then close its pipes."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.silent.wait()
        for splitter in self._splitters.values():
            self._emit(splitter.end())
        if self._transport:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Asyncio started the process."""
        self._transport = cast("asyncio.SubprocessTransport", transport)
        self.pid = self._transport.get_pid()

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        """The process wrote something; the sink never blocks, so nothing needs to pause it."""
        self._emit(self._splitters[fd].feed(data))

    def process_exited(self) -> None:
        """The process has exited; its pipes may live on."""
        self.ended.set()

    def connection_lost(self, exc: Exception | None) -> None:
        """The process has exited and its pipes are closed."""
        del exc
        self.silent.set()

    def _emit(self, lines: list[str]) -> None:
        for line in lines:
            self._sink(self._name, line)


async def spawn(child: Child, sink: LineSink) -> Life:
    """Start a child in a session of its own and hand its output, line by line, to a sink.

    Call it from the main thread: the kernel sends the death signal when the thread that forked
    ends, not when the process does.
    """
    _, life = await asyncio.get_running_loop().subprocess_exec(
        lambda: Life(child.name, sink),
        sys.executable,
        "-I",
        "-S",
        _LAUNCHER,
        str(os.getpid()),
        str(int(child.stop_signal)),
        child.identity.value,
        *child.argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(child.environment),
        # Ctrl-C in the terminal must reach the supervisor alone, which then stops in order.
        start_new_session=True,
    )
    return life


def signal_group(pid: int, number: signal.Signals) -> None:
    """Send a signal to a child and whatever it started in its group."""
    # It may have ended between our look and the signal.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


async def run_to_end(child: Child, timeout_seconds: float) -> tuple[int, str]:
    """Run a short-lived program of ours, and kill it when it takes too long.

    Returns:
        Its exit status, and its last 20 lines of output.

    Raises:
        TimeoutError: It did not end in time.
    """
    lines: deque[str] = deque(maxlen=20)
    life = await spawn(child, lambda _, line: lines.append(line))
    try:
        async with asyncio.timeout(timeout_seconds):
            await life.ended.wait()
    finally:
        signal_group(life.pid, signal.SIGKILL)
        await life.ended.wait()
        await life.close(_LAST_LINES_SECONDS)
    status = life.exit_status
    return (-signal.SIGKILL if status is None else status), "\n".join(lines)
