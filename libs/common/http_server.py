"""A uvicorn server as a context manager that leaves signals to the process's lifecycle."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from libs.common.errors import FatalError
from libs.common.lifecycle import Lifecycle

_START_DEADLINE_SECONDS = 10.0


class PortTakenError(FatalError):
    """Nothing can listen at this address."""

    def __init__(self, *, host: str, port: int, setting: str, reason: str) -> None:
        super().__init__(f"{setting}: cannot listen on {host}:{port}: {reason}")
        self.host = host
        self.port = port
        self.setting = setting


class ServerEndedError(FatalError):
    """The HTTP server ended although nobody stopped it; the process is deaf without it."""

    def __init__(self, *, host: str, port: int) -> None:
        super().__init__(f"the HTTP server on {host}:{port} ended although nobody stopped it")
        self.host = host
        self.port = port


class _QuietServer(uvicorn.Server):
    """uvicorn without its signal handlers: one owner of signals per process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def http_server(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    port_setting: str,
    life: Lifecycle,
    **options: Any,
) -> AsyncIterator[uvicorn.Server]:
    """Serve an ASGI application until the block ends.

    Args:
        app: The application.
        host: Address to listen on.
        port: Port to listen on.
        port_setting: Name of the setting that chose the port, for the error message.
        life: Ended when the server ends before the block does.
        options: Further fields of `uvicorn.Config`.

    Raises:
        PortTakenError: If the address cannot be bound.
        FatalError: If the server ends while it starts.
    """
    try:
        listener = socket.create_server((host, port), backlog=2048)
    except OSError as error:
        raise PortTakenError(
            host=host, port=port, setting=port_setting, reason=error.strerror or str(error)
        ) from error
    listener.setblocking(False)
    # asyncio leaves sockets of `create_server` alone, and a body would wait 40 ms for the
    # acknowledgement of its head; uvloop does this by itself. Accepted sockets inherit it.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    options.setdefault("timeout_graceful_shutdown", 2)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        server_header=False,
        date_header=False,
        **options,
    )
    server = _QuietServer(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name=f"http-{port}")

    def ended(done: asyncio.Task[None]) -> None:
        if server.started and not server.should_exit:
            error = None if done.cancelled() else done.exception()
            life.fail(error or ServerEndedError(host=host, port=port), task="http")

    task.add_done_callback(ended)
    try:
        async with asyncio.timeout(_START_DEADLINE_SECONDS):
            while not server.started:
                if task.done():
                    raise FatalError(f"the HTTP server on {host}:{port} ended while starting")
                await asyncio.sleep(0.005)
        yield server
    finally:
        server.should_exit = True
        with contextlib.suppress(asyncio.CancelledError):
            await task
        listener.close()
