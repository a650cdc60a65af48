"""Real servers for the integration tests."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest

from libs.common.bus.connection import Bus
from libs.common.settings import NatsSettings
from tests.fakes.nats_server import NatsServer


@pytest.fixture(scope="session")
def shared_nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """One server for all tests that leave it alone; use stream and bucket names of your own."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server of this test's own, which it may stop, kill, pause and start."""
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
async def bus(nats_server: NatsServer) -> AsyncIterator[Bus]:
    """A connection to this test's own server."""
    async with Bus.open(settings_for(nats_server), name="test") as bus:
        yield bus


@pytest.fixture
async def shared_bus(shared_nats_server: NatsServer) -> AsyncIterator[Bus]:
    """A connection to the shared server."""
    async with Bus.open(settings_for(shared_nats_server), name="test") as bus:
        yield bus


def settings_for(*servers: NatsServer, deadline_seconds: float = 10.0) -> NatsSettings:
    """Settings that lead to these servers."""
    return NatsSettings(
        nats_url=",".join(server.url for server in servers),
        nats_connect_deadline_seconds=deadline_seconds,
    )


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait for a condition; fail when it does not come true in time."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  # Conditions over real servers have no event.
            await asyncio.sleep(0.01)


@asynccontextmanager
async def running(*runs: Callable[[asyncio.Event], object]) -> AsyncIterator[asyncio.Event]:
    """Run coroutine functions that take a stop flag; stop them at the end and raise what failed."""
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        for run in runs:
            group.create_task(run(stop))  # type: ignore[arg-type]  # Any coroutine function.
        try:
            yield stop
        finally:
            stop.set()
