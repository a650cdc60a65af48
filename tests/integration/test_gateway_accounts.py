"""REST and the command line for accounts: through the real gateway, bus, control and database."""

import asyncio
import json
import os
import sys

import httpx
import pytest

from libs.common.bus.kv import Bucket
from libs.common.contracts import codec, streams
from libs.common.contracts.messages import (
    AccountCondition,
    AccountSource,
    AccountState,
    FeedState,
)
from services.fleet.__main__ import command as tickfleet
from tests.fakes.simulator import SimulatorProcess
from tests.integration.control_rig import control_settings, fields_of, term, until
from tests.integration.gateway_rig import Market, running_gateway, running_postgres

pytestmark = pytest.mark.integration

KEY = "a-key-of-sixteen-or-more"
_JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"


@pytest.fixture
def simulator(tmp_path):
    process = SimulatorProcess(tmp_path)
    process.start()
    yield process
    process.kill()


@pytest.fixture
async def postgres(tmp_path):
    async with running_postgres(tmp_path / "pg") as server:
        yield server


@pytest.fixture
async def gateway(nats_server):
    async with running_gateway(nats_server.url, api_key_enabled=True, api_key=KEY) as gateway:
        yield gateway


class Rest:
    """A REST client with the key."""

    def __init__(self, gateway) -> None:
        self.url = gateway.url

    async def __call__(self, method, path, **options) -> httpx.Response:
        """Ask."""
        headers = {"X-API-Key": KEY, **options.pop("headers", {})}
        async with httpx.AsyncClient(timeout=60) as client:
            return await client.request(method, self.url + path, headers=headers, **options)


@pytest.fixture
def rest(gateway):
    return Rest(gateway)


async def row(rest, name):
    body = (await rest("GET", "/accounts")).json()
    assert body["total"] == len(body["items"])
    return next((item for item in body["items"] if item["account"] == name), None)


async def test_account_lives_its_whole_life_over_rest_without_showing_a_secret(
    bus, rest, simulator, postgres, tmp_path
):
    account = simulator.account()
    seen = []
    async with term(bus, control_settings(simulator, tmp_path), database_url=postgres.url) as led:
        answer = await rest("POST", "/accounts", json={"account": "new", **fields_of(account)})
        seen.append(answer)
        assert answer.status_code == 201, answer.text
        await led.until("new", AccountCondition.READY)

        async def is_shown():
            found = await row(rest, "new")
            return found is not None and found["condition"] == "ready"

        await until(is_shown)
        market = Market(strikes=3)
        await market.report(bus, FeedState.STREAMING, account="new")

        async def has_feed():
            found = await row(rest, "new")
            return found["feed"] is not None and found["feed"]["state"] == "streaming"

        await until(has_feed)
        shown = await row(rest, "new")
        assert shown["user_id"] == "SI****"
        assert shown["source"] == "database"
        assert "refused_fingerprint" not in shown
        assert shown["logged_in_at"].endswith("+00:00")

        for verb, body in (
            ("disable", None),
            ("enable", {}),
            ("rotate", {"connections": 2}),
            ("login", {"access_token": await simulator.mint()}),
        ):
            answer = await rest("POST", f"/accounts/new/{verb}", json=body)
            seen.append(answer)
            assert answer.status_code == 200, answer.text
        assert led.sessions.capacities()[0].connections == 2
        seen.append(await rest("POST", "/accounts", json={"account": "new", **fields_of(account)}))
        assert seen[-1].status_code == 409
        answer = await rest("DELETE", "/accounts/new")
        assert answer.json() == {"account": None}
        seen.append(await rest("DELETE", "/accounts/new"))
        assert seen[-1].status_code == 404

        async def is_gone():
            return await row(rest, "new") is None

        await until(is_gone)
    for answer in seen:
        for secret in (
            account.api_key,
            account.api_secret,
            account.password,
            account.totp_secret,
            account.user_id,
        ):
            assert secret not in answer.text


async def test_refusal_of_kite_is_422_and_too_many_logins_are_429(
    bus, rest, simulator, postgres, tmp_path
):
    settings = control_settings(simulator, tmp_path, login_min_interval_seconds=3600)
    async with term(bus, settings, database_url=postgres.url) as leading:
        wrong = fields_of(simulator.account(), password="wrong-word")
        await rest("POST", "/accounts", json={"account": "new", **wrong})
        await leading.until("new", AccountCondition.REFUSED)
        answer = await rest("POST", "/accounts/new/login")
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) > 0
        answer = await rest("POST", "/accounts/new/login", json={"request_token": "abc"})
        assert answer.status_code == 422
        assert answer.json()["error"]["code"] == "refused"


async def test_no_leader_is_503_with_retry_after_and_the_list_still_there(bus, rest):
    state = AccountState(
        account="main",
        source=AccountSource.FILE,
        condition=AccountCondition.WAITING,
        reason="x",
        connections=3,
        tokens_per_connection=3000,
        refused_fingerprint="f",
        at_ns=1,
    )
    await Bucket(bus, streams.ACCOUNTS.name).put("main", codec.to_json(state))
    for method, path in (("POST", "/accounts/main/enable"), ("DELETE", "/accounts/main")):
        answer = await rest(method, path)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "no_leader"
        assert answer.headers["retry-after"]

    async def is_shown():
        return await row(rest, "main")

    await until(is_shown)
    assert (await row(rest, "main"))["feed"] is None


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "field"),
    [
        ("POST", "/accounts", {"content": b"{}"}, 415, None),
        ("POST", "/accounts", {"content": b"not json", "headers": _JSON}, 400, None),
        ("POST", "/accounts", {"content": b"[" * 60_000, "headers": _JSON}, 400, None),
        ("POST", "/accounts", {"content": b" " * 70_000, "headers": _JSON}, 413, None),
        ("POST", "/accounts", {"json": []}, 422, "body"),
        ("POST", "/accounts", {"json": {"account": "m", "api_key": "k"}}, 422, "api_secret"),
        (
            "POST",
            "/accounts",
            {"json": {"account": "m", "api_key": "k", "api_secret": "hunter2", "totp_secert": "x"}},
            422,
            "totp_secert",
        ),
        ("POST", "/accounts", {"json": {"account": 5}}, 422, "account"),
        (
            "POST",
            "/accounts",
            {"json": {"account": "a b", "api_key": "k", "api_secret": "hunter2"}},
            422,
            "account",
        ),
        ("POST", "/accounts/m/rotate", {"json": {"connections": 4}}, 422, "connections"),
        ("POST", "/accounts/m/rotate", {"json": {"account": "n"}}, 422, "account"),
        ("POST", "/accounts/m/enable", {"json": {"api_key": "hunter2"}}, 422, "api_key"),
        ("POST", "/accounts/m/login", {"json": {"request_token": ""}}, 422, "request_token"),
        ("POST", "/accounts/m/login?access_token=hunter2", {}, 422, "access_token"),
        ("DELETE", "/accounts/a%20b", {}, 422, "account"),
        ("GET", "/accounts?secrets=true", {}, 422, "secrets"),
        ("PUT", "/accounts", {}, 405, None),
        ("GET", "/accounts/m", {}, 405, None),
    ],
)
async def test_bad_request_is_answered_with_what_is_wrong_and_without_values(
    rest, method, path, options, status, field
):
    answer = await rest(method, path, **options)
    assert answer.status_code == status, answer.text
    assert answer.json()["error"]["field"] == field
    assert "hunter2" not in answer.text


async def test_every_route_wants_the_key(rest):
    for method, path in (
        ("GET", "/accounts"),
        ("POST", "/accounts"),
        ("POST", "/accounts/m/enable"),
        ("POST", "/accounts/m/login"),
        ("DELETE", "/accounts/m"),
    ):
        answer = await rest(method, path, headers={"X-API-Key": "wrong"})
        assert answer.status_code == 401


async def run_cli(nats_url, *arguments, stdin=""):
    """Run the command as a person does; gives exit status, output and errors."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NATS_", "KITE_"))}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.fleet",
        *arguments,
        env={**environment, "NATS_URL": nats_url},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate(stdin.encode())
    return process.returncode, out.decode(), err.decode()


async def test_command_line_adds_lists_logs_in_and_removes(
    bus, nats_server, simulator, postgres, tmp_path
):
    account = simulator.account()
    secrets = fields_of(account)
    async with term(bus, control_settings(simulator, tmp_path), database_url=postgres.url) as led:
        status, out, err = await run_cli(
            nats_server.url, "accounts", "add", "new", "--secrets", "-", stdin=json.dumps(secrets)
        )
        assert (status, err) == (0, "")
        assert "account new:" in out
        await led.until("new", AccountCondition.READY)
        manual = tmp_path / "manual"
        manual.write_text(f"api_key={account.api_key}\napi_secret={account.api_secret}\n")
        status, out, _ = await run_cli(
            nats_server.url, "accounts", "add", "manual", "--secrets", str(manual)
        )
        assert status == 0
        assert "waiting" in out

        async def are_listed():
            status, out, _ = await run_cli(nats_server.url, "accounts", "list", "--json")
            found = {a["account"]: a["condition"] for a in json.loads(out)}
            return status == 0 and found == {"manual": "waiting", "new": "ready"}

        await until(are_listed)
        status, out, err = await run_cli(nats_server.url, "login", "manual")
        assert status == 1
        assert f"{simulator.url}/connect/login?v=3&api_key=" in out
        token = await simulator.mint()
        status, out, err = await run_cli(
            nats_server.url, "login", "manual", "--access-token", "-", stdin=token
        )
        assert (status, err) == (0, "")
        assert "ready" in out
        for arguments, hint in (
            (("accounts", "disable", "new"), "disabled"),
            (("accounts", "enable", "new"), "ready"),
            (("accounts", "rotate", "new", "--connections", "1"), "ready"),
            (("accounts", "remove", "new", "--yes"), "done"),
        ):
            status, out, err = await run_cli(nats_server.url, *arguments)
            assert (status, err) == (0, "")
            assert hint in out
        status, out, err = await run_cli(nats_server.url, "accounts", "remove", "new", "--yes")
        assert status == 1
        assert "there is no account new" in err
        assert "Traceback" not in err


async def test_command_line_without_a_leader_says_that_nothing_was_changed(nats_server):
    status, _, err = await run_cli(nats_server.url, "accounts", "enable", "main")
    assert status == 1
    assert "nothing was changed" in err


async def test_command_line_repeats_no_secret_that_stands_in_the_wrong_place(nats_server):
    for arguments in (
        ("login", "main", "--access-token", "hunter2"),
        ("accounts", "add", "main", "--secrets", "-"),
    ):
        status, out, err = await run_cli(nats_server.url, *arguments, stdin="hunter2")
        assert status == 1
        assert "hunter2" not in out + err


def test_commands_are_those_that_people_know():
    from typer.main import get_command

    group = get_command(tickfleet)
    names = set(group.commands)  # type: ignore[attr-defined]
    assert {"accounts", "login", "status", "token", "up"} <= names
