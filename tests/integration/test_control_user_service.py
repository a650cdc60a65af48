"""The user service over real HTTP: it counts first, and its silence takes nothing away."""

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from pydantic import SecretStr
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from libs.common.contracts.messages import AccountCondition, AccountSource
from libs.common.http_server import http_server
from libs.common.lifecycle import Lifecycle
from services.control import user_service
from services.control.errors import UserServiceError
from services.control.user_service import UserService
from tests.fakes.nats_server import free_port
from tests.fakes.simulator import SimulatorProcess
from tests.integration.control_rig import control_settings, fields_of, term, until, variables_of

pytestmark = pytest.mark.integration

TOKEN = "service-to-service-token"
ROW = {"account": "main", "api_key": "k", "api_secret": "s", "trading_limits": {"x": 1}}


class Service:
    """A user service that answers what a test wants."""

    def __init__(self, port) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.status = 200
        self.body = b"[]"
        self.asked = 0
        self.drip = False

    async def answer(self, request: Request) -> Response:
        """Serve the one route."""
        self.asked += 1
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            return Response(b"who are you", 401)
        if self.drip:

            async def drops():
                for _ in range(10_000):
                    yield b" "
                    await asyncio.sleep(0.05)

            return StreamingResponse(drops())
        return Response(self.body, self.status, media_type="application/json")

    def say(self, *rows):
        """Answer these accounts."""
        self.body = json.dumps({"accounts": list(rows)}).encode()


@asynccontextmanager
async def running_service():
    port = free_port()
    service = Service(port)
    app = Starlette(routes=[Route(user_service.PATH, service.answer)])
    async with http_server(
        app,
        host="127.0.0.1",
        port=port,
        port_setting="PORT",
        life=Lifecycle(),
        lifespan="off",
        timeout_graceful_shutdown=1,
    ):
        yield service


@pytest.fixture
async def service():
    async with running_service() as running:
        yield running


def client(service, token=TOKEN):
    return UserService(base_url=service.url + "/", token=SecretStr(token))


async def test_accounts_are_read_and_foreign_fields_passed_over(service):
    service.say(ROW, {"name": "two", "api_key": "k", "api_secret": "s", "connections": 2})
    found = await client(service).read()
    assert found.problems == ()
    assert [(a.name, a.source, a.connections) for a in found.accounts] == [
        ("main", AccountSource.USER_SERVICE, None),
        ("two", AccountSource.USER_SERVICE, 2),
    ]


@pytest.mark.parametrize(
    ("row", "hint"),
    [
        ({**ROW, "api_secret": None}, "api_secret is missing"),
        ({**ROW, "api_secret": 5}, "api_secret should be a text"),
        ({**ROW, "connections": 9}, "from 1 to 3"),
        ({**ROW, "connections": True}, "connections should be a text"),
        ({**ROW, "account": "a b"}, "no name"),
        ({"api_key": "k"}, "no name"),
        ("text", "no object"),
        (None, "no object"),
    ],
)
async def test_row_that_cannot_be_used_is_named_and_the_others_stay(service, row, hint):
    service.say(row, {**ROW, "account": "good"})
    found = await client(service).read()
    assert [account.name for account in found.accounts] == ["good"]
    (problem,) = found.problems
    assert problem.message.startswith("row 1 of http://")
    assert hint in problem.message


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (500, b"[]"),
        (302, b""),
        (200, b"<html>"),
        (200, b'{"data": []}'),
        (200, b"[" * 5000),
        (200, b" " * (user_service.ANSWER_BYTES_MAX + 1)),
    ],
)
async def test_answer_that_is_none_is_an_error_without_the_token(service, status, body):
    service.status, service.body = status, body
    with pytest.raises(UserServiceError) as failed:
        await client(service).read()
    assert TOKEN not in str(failed.value)


async def test_wrong_token_slow_answer_and_no_server_are_errors(service, monkeypatch):
    with pytest.raises(UserServiceError, match="401"):
        await client(service, "wrong").read()
    service.drip = True
    monkeypatch.setattr(user_service, "_DEADLINE_SECONDS", 0.3)
    with pytest.raises(UserServiceError, match="no answer within"):
        await client(service).read()
    nobody = UserService(base_url=f"http://127.0.0.1:{free_port()}", token=None)
    with pytest.raises(UserServiceError, match="ConnectError"):
        await nobody.read()


async def test_user_service_comes_first_and_its_silence_takes_nothing_away(bus, service, tmp_path):
    simulator = SimulatorProcess(tmp_path)
    simulator.start()
    try:
        settings = control_settings(
            simulator,
            tmp_path,
            kite_accounts="main",
            use_user_service_accounts=True,
            user_service_base_url=service.url,
            user_service_service_token=SecretStr(TOKEN),
            user_service_interval_seconds=1.0,
        )
        first = {"account": "main", "connections": 1, **fields_of(simulator.account(1))}
        second = {"account": "second", **fields_of(simulator.account(2))}
        service.say(first)
        environment = variables_of(simulator.account(1), "main")
        async with term(bus, settings, environment=environment) as leading:
            state = await leading.until("main", AccountCondition.READY)
            assert (state.source, state.connections) == (AccountSource.USER_SERVICE, 1)
            service.say(first, second)
            await leading.until("second", AccountCondition.READY)
            service.status = 503
            asked = service.asked
            await until(lambda: service.asked > asked)
            await leading.more_rounds(5)
            assert leading.sessions.usable() == ["main", "second"]
    finally:
        simulator.kill()
