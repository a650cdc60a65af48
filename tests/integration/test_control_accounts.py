"""Accounts and sessions on real NATS and the real simulator: every way to a session, none twice."""

import json
from datetime import datetime

import httpx
import pyotp
import pytest

from libs.common.bus.kv import Bucket
from libs.common.contracts import streams
from libs.common.contracts.messages import (
    AccountCondition,
    AccountSource,
    AccountVerb,
    FeedState,
    FeedStatus,
)
from libs.common.domain.credentials import App, Credentials
from libs.common.kite.errors import KiteUnavailableError, LoginRefusedError
from libs.common.kite.login import KiteTokenDesk, TotpSessionMinter
from tests.fakes.simulator import SimulatorProcess
from tests.integration.control_rig import (
    command,
    control_settings,
    login_steps,
    stored_session,
    stored_state,
    term,
    until,
    variables_of,
)

pytestmark = pytest.mark.integration

READY = AccountCondition.READY


@pytest.fixture
def simulator(tmp_path):
    process = SimulatorProcess(tmp_path)
    process.start()
    yield process
    process.kill()


async def request_token(simulator, number=1):
    """Log in as a person does in a browser, and give what Kite's redirect carries."""
    account = simulator.account(number)
    minter = TotpSessionMinter(login_root=simulator.url, api_root=simulator.url)
    credentials = Credentials(
        account="person",
        api_key=account.api_key,
        api_secret=account.api_secret,
        user_id=account.user_id,
        password=account.password,
        totp_secret=account.totp_secret,
    )
    async with httpx.AsyncClient(timeout=20) as client:
        return await minter._request_token(client, credentials)


async def test_account_logs_itself_in_and_the_sealed_session_is_on_the_bus(
    bus, simulator, tmp_path
):
    settings = control_settings(simulator, tmp_path, kite_accounts="main")
    account = simulator.account()
    async with term(bus, settings, environment=variables_of(account, "main")) as leading:
        state = await leading.until("main", READY)
        assert state.user_id == "SI****"
        assert leading.sessions.usable() == ["main"]
        rest = leading.sessions.rest()
        assert rest is not None
        assert (await rest.profile())["user_id"] == account.user_id
        session = await stored_session(bus, settings, "main")
        assert session is not None
        entry = await Bucket(bus, streams.KITE_SESSIONS.name).get("main")
        assert entry is not None
        assert session.access_token.encode() not in entry.value
        # For the worker that checks postbacks, and for nobody's eyes.
        assert session.api_secret == account.api_secret
        assert account.api_secret.encode() not in entry.value
        assert account.api_secret not in repr(session)
        await until_state(bus, "main", READY)
    assert login_steps(simulator)["password"] == 1


async def until_state(bus, name, condition):
    """Wait until the state on the bus says so."""

    async def look():
        state = await stored_state(bus, name)
        return state is not None and state.condition is condition

    await until(look)


async def test_new_leader_adopts_the_session_and_logs_nobody_in(bus, simulator, tmp_path):
    settings = control_settings(simulator, tmp_path, kite_accounts="main")
    environment = variables_of(simulator.account(), "main")
    async with term(bus, settings, environment=environment) as leading:
        await leading.until("main", READY)
        await until_state(bus, "main", READY)
    first = await stored_session(bus, settings, "main")
    async with term(bus, settings, environment=environment) as leading:
        await leading.until("main", READY)
        await leading.more_rounds(5)
    assert await stored_session(bus, settings, "main") == first
    assert login_steps(simulator)["password"] == 1


async def test_wrong_password_is_tried_once_over_two_leaders_and_again_when_corrected(
    bus, simulator, tmp_path
):
    settings = control_settings(simulator, tmp_path, kite_accounts="bad,good")
    good = variables_of(simulator.account(2), "good")
    wrong = variables_of(simulator.account(1), "bad", password="not-the-password")
    async with term(bus, settings, environment={**wrong, **good}) as leading:
        state = await leading.until("bad", AccountCondition.REFUSED)
        assert "Invalid username or password" in state.reason
        assert state.refused_fingerprint is not None
        await leading.until("good", READY)
        await leading.more_rounds(10)
        assert leading.sessions.usable() == ["good"]
        await until_state(bus, "bad", AccountCondition.REFUSED)
    assert login_steps(simulator)["password"] == 2
    async with term(bus, settings, environment={**wrong, **good}) as leading:
        again = await leading.until("bad", AccountCondition.REFUSED)
        assert again.reason == state.reason
        await leading.more_rounds(10)
    assert login_steps(simulator)["password"] == 2
    right = variables_of(simulator.account(1), "bad")
    async with term(bus, settings, environment={**right, **good}) as leading:
        fixed = await leading.until("bad", READY)
        assert fixed.refused_fingerprint is None
    assert login_steps(simulator)["password"] == 3


async def test_wrong_code_is_repeated_once_in_the_next_half_minute(
    bus, simulator, tmp_path, monkeypatch
):
    settings = control_settings(simulator, tmp_path, kite_accounts="main")
    environment = variables_of(simulator.account(), "main", totp_secret=pyotp.random_base32())
    # Half a minute is long for a test; the rule that it is waited for is tested with the rules.
    from services.control.domain import login_rules

    monkeypatch.setattr(login_rules, "CODE_PERIOD_SECONDS", 1.0)
    async with term(bus, settings, environment=environment) as leading:
        state = await leading.until("main", AccountCondition.REFUSED)
        assert "totp" in state.reason
        await leading.more_rounds(10)
    assert login_steps(simulator)["password"] == 2


async def test_login_without_an_answer_is_repeated_until_there_is_one(bus, simulator, tmp_path):
    simulator.fault(kind="error_replies", status=502, html=True, path="/api/login", count=2)
    settings = control_settings(simulator, tmp_path, kite_accounts="main")
    environment = variables_of(simulator.account(), "main")
    async with term(bus, settings, environment=environment) as leading:
        state = await leading.until("main", READY)
        assert state.login_failures == 0
    assert login_steps(simulator)["password"] == 1


async def test_account_without_totp_waits_and_counts_once_a_person_logged_in(
    bus, simulator, tmp_path
):
    settings = control_settings(simulator, tmp_path, kite_accounts="main")
    account = simulator.account()
    environment = variables_of(account, "main", totp_secret=None, password=None, user_id=None)
    async with term(bus, settings, environment=environment) as leading:
        state = await leading.until("main", AccountCondition.WAITING)
        assert "totp_secret" in state.reason
        assert leading.sessions.usable() == []
        asked = await command(bus, AccountVerb.LOGIN, "main")
        assert asked.error is not None
        assert asked.error.code == "bad_request"
        assert asked.login_url == f"{simulator.url}/connect/login?v=3&api_key={account.api_key}"

        token = await request_token(simulator)
        reply = await command(bus, AccountVerb.LOGIN, "main", request_token=token)
        assert reply.error is None
        assert reply.state is not None
        assert reply.state.condition is READY
        assert leading.sessions.usable() == ["main"]
        # A request token works once.
        again = await command(bus, AccountVerb.LOGIN, "main", request_token=token)
        assert again.error is not None
        assert again.error.code == "refused"
        assert leading.condition("main") is READY
        assert account.api_secret not in repr(reply) + repr(again) + repr(asked)


async def test_pasted_token_is_verified_and_one_of_another_user_refused(bus, simulator, tmp_path):
    settings = control_settings(simulator, tmp_path, kite_accounts="main")
    environment = variables_of(simulator.account(), "main", totp_secret=None)
    own, foreign = await simulator.mint(1), await simulator.mint(2)
    async with term(bus, settings, environment=environment) as leading:
        for token in ("0" * 32, foreign):
            reply = await command(bus, AccountVerb.LOGIN, "main", access_token=token)
            assert reply.error is not None
            assert reply.error.code == "refused"
            assert token not in reply.error.message
        reply = await command(bus, AccountVerb.LOGIN, "main", access_token=own)
        assert reply.error is None
        session = await stored_session(bus, settings, "main")
        assert session is not None
        assert session.access_token == own
        assert leading.condition("main") is READY


async def test_token_file_is_taken_when_it_changes_and_a_bad_one_only_warned_of(
    bus, simulator, tmp_path
):
    folder = tmp_path / "tokens"
    folder.mkdir()
    file = folder / "kite_token_main.json"
    settings = control_settings(simulator, tmp_path, kite_accounts="main")
    environment = variables_of(simulator.account(), "main", totp_secret=None)
    first, second = await simulator.mint(), await simulator.mint()
    async with term(bus, settings, environment=environment) as leading:
        await leading.until("main", AccountCondition.WAITING)
        for bad in (
            '{"access_token": ',
            '"text"',
            '{"token": "x"}',
            '{"access_token": ""}',
            "\xff",
        ):
            file.write_text(bad, encoding="latin-1")
            await leading.more_rounds(2)
            assert leading.condition("main") is AccountCondition.WAITING
        file.write_text(json.dumps({"access_token": "f" * 32}))
        await leading.more_rounds(5)
        assert leading.condition("main") is AccountCondition.WAITING

        file.write_text(json.dumps({"access_token": first, "login_time": "2026-11-24 08:00:00"}))
        await leading.until("main", READY)
        held = leading.sessions.record("main")
        assert held is not None
        replacement = file.with_suffix(".new")
        replacement.write_text(json.dumps({"access_token": second, "user_id": "whatever"}))
        replacement.replace(file)
        await until(lambda: held.session is not None and held.session.access_token == second)
    session = await stored_session(bus, settings, "main")
    assert session is not None
    assert session.access_token == second


async def test_refused_session_is_renewed_once_however_often_it_is_reported(
    bus, simulator, tmp_path
):
    settings = control_settings(simulator, tmp_path, kite_accounts="main")
    environment = variables_of(simulator.account(), "main")
    async with term(bus, settings, environment=environment) as leading:
        state = await leading.until("main", READY)
        report = FeedStatus(
            account="main",
            worker="ingest-1",
            state=FeedState.STREAMING,
            connections=1,
            tokens=1,
            frames_total=0,
            ticks_total=0,
            dropped_total=0,
            plan_revision=1,
            session_minted_at_ns=state.logged_in_at_ns,
            session_refused=True,
            at_ns=1,
        )
        dead = leading.sessions.rest()
        assert dead is not None
        leading.sessions.notice({"main": report})
        held = leading.sessions.record("main")
        assert held is not None
        await until(
            lambda: (
                held.is_alive
                and held.session is not None
                and held.session.minted_at_ns != state.logged_in_at_ns
            )
        )
        for _ in range(5):
            leading.sessions.notice({"main": report})
            leading.sessions.token_died(dead)
            await leading.more_rounds(2)
            assert held.is_alive
    assert login_steps(simulator)["password"] == 2


async def test_nothing_is_stored_or_begun_without_the_lease(bus, simulator, tmp_path):
    simulator.fault(kind="slow_replies", milliseconds=500, path="/session/token")
    settings = control_settings(simulator, tmp_path, kite_accounts="main")
    async with term(
        bus, settings, environment=variables_of(simulator.account(), "main")
    ) as leading:
        await until(lambda: login_steps(simulator).get("password", 0) == 1)
        leading.leads = False
        await until(lambda: login_steps(simulator).get("session", 0) == 1)
        await leading.more_rounds(5)
        reply = await command(bus, AccountVerb.LOGIN, "main")
        assert reply.error is not None
        assert reply.error.code == "no_leader"
    assert await stored_session(bus, settings, "main") is None
    assert login_steps(simulator)["password"] == 1


async def test_session_of_before_0605_is_renewed_and_midnight_is_no_reason(
    bus, simulator, tmp_path
):
    settings = control_settings(simulator, tmp_path, kite_accounts="main")
    async with term(
        bus, settings, environment=variables_of(simulator.account(), "main")
    ) as leading:
        await leading.until("main", READY)
        held = leading.sessions.record("main")
        assert held is not None
        first = held.session

        async def at(moment):
            await leading.sessions.refresh(datetime.fromisoformat(f"2026-11-{moment}+05:30"))

        await at("18T23:59:00")
        await at("19T00:01:00")
        await at("19T06:04:59")
        assert held.session is first
        await at("19T06:05:00")
        await until(lambda: held.session is not first and held.is_alive)
        second = held.session
        await at("19T06:06:00")
        await at("20T06:04:00")
        assert held.session is second
    assert login_steps(simulator)["password"] == 2


async def test_states_of_accounts_that_are_gone_are_removed_with_their_sessions(
    bus, simulator, tmp_path
):
    settings = control_settings(simulator, tmp_path, kite_accounts="one,two")
    one = variables_of(simulator.account(1), "one")
    two = variables_of(simulator.account(2), "two")
    async with term(bus, settings, environment={**one, **two}) as leading:
        await leading.until("one", READY)
        await leading.until("two", READY)
        await until_state(bus, "two", READY)
    fewer = settings.model_copy(update={"kite_accounts": "one"})
    async with term(bus, fewer, environment=one) as leading:
        await leading.until("one", READY)
        await until(lambda: "two" not in leading.sessions.states())

        async def is_gone():
            return await stored_state(bus, "two") is None

        await until(is_gone)
    assert await stored_session(bus, settings, "two") is None
    assert await stored_session(bus, settings, "one") is not None


@pytest.mark.parametrize("method", ["exchange", "verify"])
async def test_desk_tells_a_refusal_from_no_answer(simulator, method):
    account = simulator.account()
    app = App(account="main", api_key=account.api_key, api_secret=account.api_secret)
    desk = KiteTokenDesk(login_root=simulator.url, api_root=simulator.url)
    call = getattr(desk, method)
    with pytest.raises(LoginRefusedError) as refused:
        await call(app, "0" * 32)
    assert account.api_secret not in str(refused.value)
    for status in (429, 502):
        simulator.fault(kind="error_replies", status=status, error_type="NetworkException", count=1)
        with pytest.raises(KiteUnavailableError):
            await call(app, "0" * 32)


async def test_state_of_an_unread_source_survives_a_new_leader(bus, simulator, tmp_path):
    """A file that cannot be read at start takes no running account away."""
    file = tmp_path / "accounts.yaml"
    account = simulator.account()
    lines = "\n".join(
        f"    {field}: {getattr(account, field)}"
        for field in ("api_key", "api_secret", "user_id", "password", "totp_secret")
    )
    file.write_text(f"accounts:\n  main:\n{lines}\n    connections: 2\n")
    settings = control_settings(simulator, tmp_path, kite_accounts_file=str(file))
    async with term(bus, settings) as leading:
        state = await leading.until("main", READY)
        assert (state.source, state.connections) == (AccountSource.FILE, 2)
        await until_state(bus, "main", READY)
    good = file.read_text()
    file.write_text("accounts: [")
    async with term(bus, settings) as leading:
        await leading.until("main", READY)
        (capacity,) = leading.sessions.capacities()
        assert (capacity.account, capacity.connections) == ("main", 2)
        await leading.more_rounds(5)
        assert await stored_session(bus, settings, "main") is not None
        file.write_text(good.replace("connections: 2", "connections: 1"))
        await until(lambda: [c.connections for c in leading.sessions.capacities()] == [1])
        # Broken while it is being edited: what it said last stays in force.
        file.write_text("accounts:\n  main:\n  api_key")
        await leading.more_rounds(5)
        assert leading.sessions.usable() == ["main"]
        file.write_text("accounts: {}\n")
        await until(lambda: leading.sessions.usable() == [])
    assert login_steps(simulator)["password"] == 1
