"""The HTTP server of a process: it serves, names a taken port, and is missed when it dies."""

import asyncio
import socket

import httpx
import pytest
from starlette.applications import Starlette

from libs.common import http_server as module
from libs.common.health import Health
from libs.common.http_server import PortTakenError, ServerEndedError, http_server
from libs.common.lifecycle import Lifecycle


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def served(life, port):
    app = Starlette(routes=Health(life).routes())
    return http_server(
        app, host="127.0.0.1", port=port, port_setting="HEALTH_PORT", life=life, lifespan="off"
    )


async def test_pages_are_served_until_the_block_ends():
    life, port = Lifecycle(), free_port()
    async with served(life, port), httpx.AsyncClient() as client:
        assert (await client.get(f"http://127.0.0.1:{port}/livez")).status_code == 200
        life.request_stop("test")
        answer = await client.get(f"http://127.0.0.1:{port}/readyz")
        assert (answer.status_code, answer.json()["failing"]) == (503, {"lifecycle": "stopping"})
    assert life.failure is None


async def test_answers_do_not_wait_for_the_acknowledgement_of_their_heads():
    async with served(Lifecycle(), free_port()) as server:
        [listener] = server.servers[0].sockets
        assert listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


async def test_taken_port_names_its_setting():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortTakenError, match=f"HEALTH_PORT: .*{port}"):
            async with served(Lifecycle(), port):
                pass


@pytest.mark.parametrize("error", [RuntimeError("broken"), None])
async def test_server_that_dies_ends_the_process(monkeypatch, error):
    async def main_loop(_server):
        await asyncio.sleep(0.05)
        if error is not None:
            raise error

    monkeypatch.setattr(module._QuietServer, "main_loop", main_loop)
    life = Lifecycle()
    caught = pytest.raises(RuntimeError) if error else pytest.raises(ServerEndedError)
    with caught:
        async with served(life, free_port()):
            async with asyncio.timeout(5):
                await life.stop.wait()
            assert life.failure is not None
            raise life.failure
