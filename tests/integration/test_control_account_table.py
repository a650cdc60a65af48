"""Accounts in the real PostgreSQL: encrypted at rest, keys that change, commands over the bus."""

import asyncio

import asyncpg
import pytest
from pydantic import SecretStr

from libs.common.contracts.messages import AccountCondition, AccountSource, AccountVerb
from libs.common.database import Database
from libs.common.seal import Seal
from libs.common.settings import DatabaseSettings
from services.control.account_store import AccountStore
from services.control.errors import AccountCommandError
from tests.fakes.simulator import SimulatorProcess
from tests.integration.control_rig import (
    command,
    control_settings,
    fields_of,
    login_steps,
    new_key,
    stored_session,
    stored_state,
    term,
    until,
    variables_of,
)
from tests.integration.gateway_rig import running_postgres

pytestmark = pytest.mark.integration

SECRETS = {
    "api_key": "key-of-the-app-0001",
    "api_secret": "secret-of-the-app-0001",
    "user_id": "AB1234",
    "password": "p4ss-word-0001",
    "totp_secret": "JBSWY3DPEHPK3PXP",
}


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"


@pytest.fixture
async def postgres(tmp_path):
    async with running_postgres(tmp_path / "pg") as server:
        yield server


@pytest.fixture
async def database(postgres):
    async with Database.opened(DatabaseSettings(database_url=SecretStr(postgres.url))) as opened:
        yield opened


@pytest.fixture
def simulator(tmp_path):
    process = SimulatorProcess(tmp_path)
    process.start()
    yield process
    process.kill()


async def raw(url, query="SELECT * FROM accounts"):
    """What somebody sees who has the database and no key."""
    connection = await asyncpg.connect(url)
    try:
        return [dict(row) for row in await connection.fetch(query)]
    finally:
        await connection.close()


async def test_no_secret_stands_in_the_rows(database, postgres):
    store = AccountStore(database, Seal(SecretStr(new_key())))
    await store.add("main", SECRETS)
    text = str(await raw(postgres.url))
    assert "main" in text
    assert not [value for value in SECRETS.values() if value in text]
    (found,) = (await store.read()).found.accounts
    assert found.source is AccountSource.DATABASE
    assert {field: getattr(found, field) for field in SECRETS} == SECRETS
    assert not [value for value in SECRETS.values() if value in repr(found)]


async def test_rows_of_an_older_key_are_encrypted_anew_and_then_do_without_it(database, postgres):
    old, new = new_key(), new_key()
    await AccountStore(database, Seal(SecretStr(old))).add("main", SECRETS)
    (before,) = await raw(postgres.url)

    stranger = AccountStore(database, Seal(SecretStr(new)))
    assert await stranger.reseal() == 0
    unreadable = await stranger.read()
    assert unreadable.found.accounts == ()
    (problem,) = unreadable.found.problems
    assert problem.account == "main"
    assert "ACCOUNT_ENCRYPTION_KEY" in problem.message

    both = AccountStore(database, Seal(SecretStr(f"{new},{old}")))
    assert len((await both.read()).found.accounts) == 1
    assert await both.reseal() == 1
    assert await both.reseal() == 0
    (after,) = await raw(postgres.url)
    assert after["sealed_secrets"] != before["sealed_secrets"]
    (found,) = (await stranger.read()).found.accounts
    assert found.password == SECRETS["password"]


async def test_secrets_of_one_row_are_of_no_use_in_another(database, postgres):
    store = AccountStore(database, Seal(SecretStr(new_key())))
    await store.add("main", SECRETS)
    await store.add("other", {**SECRETS, "password": "another-one"})
    connection = await asyncpg.connect(postgres.url)
    await connection.execute(
        "UPDATE accounts SET sealed_secrets ="
        " (SELECT sealed_secrets FROM accounts WHERE account_id = 'main')"
        " WHERE account_id = 'other'"
    )
    await connection.close()
    stored = await store.read()
    assert [account.name for account in stored.found.accounts] == ["main"]
    assert [problem.account for problem in stored.found.problems] == ["other"]


async def test_rotation_keeps_what_is_left_out_and_names_what_would_be_wrong(database):
    store = AccountStore(database, Seal(SecretStr(new_key())))
    await store.add("main", {**SECRETS, "connections": "2"})
    await store.rotate("main", {"password": "changed", "tokens_per_connection": "100"})
    (found,) = (await store.read()).found.accounts
    assert (found.password, found.api_secret) == ("changed", SECRETS["api_secret"])
    assert (found.connections, found.tokens_per_connection) == (2, 100)
    with pytest.raises(AccountCommandError) as wrong:
        await store.rotate("main", {"totp_secret": "not base 32!"})
    assert (wrong.value.code, wrong.value.field) == ("bad_request", "totp_secret")
    with pytest.raises(AccountCommandError) as missing:
        await store.rotate("nobody", {"password": "x"})
    assert missing.value.code == "not_found"


async def test_of_many_that_add_the_same_account_one_wins(database):
    store = AccountStore(database, Seal(SecretStr(new_key())))
    outcomes = await asyncio.gather(
        *(store.add("main", {**SECRETS, "password": f"word-{n}"}) for n in range(5)),
        return_exceptions=True,
    )
    assert sorted(outcome is None for outcome in outcomes) == [False] * 4 + [True]
    losers = [o for o in outcomes if isinstance(o, AccountCommandError)]
    assert [loser.code for loser in losers] == ["conflict"] * 4


async def test_account_is_added_switched_rotated_and_removed_without_a_restart(
    bus, simulator, postgres, tmp_path
):
    settings = control_settings(simulator, tmp_path)
    account = simulator.account()
    async with term(bus, settings, database_url=postgres.url) as leading:
        assert leading.sessions.names == []
        added = await command(bus, AccountVerb.ADD, "new", **fields_of(account, connections=2))
        assert added.error is None
        await leading.until("new", AccountCondition.READY)
        (capacity,) = leading.sessions.capacities()
        assert (capacity.account, capacity.connections) == ("new", 2)
        again = await command(bus, AccountVerb.ADD, "new", **fields_of(account))
        assert again.error is not None
        assert again.error.code == "conflict"

        off = await command(bus, AccountVerb.DISABLE, "new")
        assert off.state is not None
        assert off.state.condition is AccountCondition.DISABLED
        assert leading.sessions.usable() == []
        assert leading.sessions.rest() is None
        on = await command(bus, AccountVerb.ENABLE, "new")
        assert on.state is not None
        assert on.state.condition is AccountCondition.READY

        turned = await command(bus, AccountVerb.ROTATE, "new", connections=1)
        assert turned.state is not None
        assert turned.state.connections == 1
        assert login_steps(simulator)["password"] == 1

        gone = await command(bus, AccountVerb.REMOVE, "new")
        assert (gone.error, gone.state) == (None, None)
        assert leading.sessions.names == []
        assert await stored_session(bus, settings, "new") is None
        assert await stored_state(bus, "new") is None
        assert await raw(postgres.url) == []
        unknown = await command(bus, AccountVerb.REMOVE, "new")
        assert unknown.error is not None
        assert unknown.error.code == "not_found"


async def test_refused_credentials_are_tried_again_once_they_are_rotated(
    bus, simulator, postgres, tmp_path
):
    settings = control_settings(simulator, tmp_path)
    account = simulator.account()
    async with term(bus, settings, database_url=postgres.url) as leading:
        await command(bus, AccountVerb.ADD, "main", **fields_of(account, password="wrong-word"))
        await leading.until("main", AccountCondition.REFUSED)
        await leading.more_rounds(5)
        # Something else changed, so the credentials are as wrong as before.
        await command(bus, AccountVerb.ROTATE, "main", connections=1)
        await leading.more_rounds(5)
        assert leading.condition("main") is AccountCondition.REFUSED
        assert login_steps(simulator)["password"] == 1
        await command(bus, AccountVerb.ROTATE, "main", password=account.password)
        await leading.until("main", AccountCondition.READY)
    assert login_steps(simulator)["password"] == 2


async def test_account_of_another_source_is_switched_but_changed_only_where_it_is_described(
    bus, simulator, postgres, tmp_path
):
    settings = control_settings(simulator, tmp_path, kite_accounts="main")
    environment = variables_of(simulator.account(), "main")
    async with term(bus, settings, environment=environment, database_url=postgres.url) as leading:
        await leading.until("main", AccountCondition.READY)
        for verb, fields in (
            (AccountVerb.ADD, fields_of(simulator.account())),
            (AccountVerb.ROTATE, {"password": "something"}),
            (AccountVerb.REMOVE, {}),
        ):
            reply = await command(bus, verb, "main", **fields)
            assert reply.error is not None
            assert reply.error.code == "conflict"
            assert "KITE_MAIN_" in reply.error.message
        off = await command(bus, AccountVerb.DISABLE, "main")
        assert off.state is not None
        assert off.state.condition is AccountCondition.DISABLED
    # The switch outlives the leader, also while the table cannot be read.
    for url in (postgres.url, "postgresql://nobody:nothing@127.0.0.1:1/none"):
        async with term(bus, settings, environment=environment, database_url=url) as leading:
            await until(lambda: leading.condition("main") is AccountCondition.DISABLED)
            await leading.more_rounds(3)
            assert leading.sessions.usable() == []


async def test_command_while_the_table_is_away_says_so_and_loses_nothing(bus, tmp_path):
    settings = control_settings(None, tmp_path)
    async with term(bus, settings):
        reply = await command(bus, AccountVerb.ADD, "main", **SECRETS)
        assert reply.error is not None
        assert reply.error.code == "unavailable"
        assert reply.error.retry_after_seconds


@pytest.mark.parametrize(
    ("verb", "account", "fields", "field"),
    [
        (AccountVerb.ADD, "ma in", SECRETS, "account"),
        (AccountVerb.ADD, "main", {"api_key": "k"}, "api_secret"),
        (AccountVerb.ADD, "main", {**SECRETS, "totp_secret": "018"}, "totp_secret"),
        (AccountVerb.ADD, "main", {**SECRETS, "password": " "}, "password"),
        (AccountVerb.ADD, "main", {**SECRETS, "access_token": "abc"}, "access_token"),
        (AccountVerb.ROTATE, "main", {}, "api_secret"),
        (AccountVerb.ENABLE, "main", {"api_key": "k"}, "api_key"),
        (AccountVerb.LOGIN, "main", {"request_token": "a", "access_token": "b"}, "request_token"),
        (AccountVerb.LOGIN, "main", {"request_token": "a b"}, "request_token"),
    ],
)
async def test_bad_command_names_the_field_and_repeats_no_value(
    bus, tmp_path, verb, account, fields, field
):
    async with term(bus, control_settings(None, tmp_path)):
        reply = await command(bus, verb, account, **fields)
        assert reply.error is not None
        assert (reply.error.code, reply.error.field) == ("bad_request", field)
        assert not [v for v in SECRETS.values() if v in reply.error.message]


async def test_payload_that_is_no_command_is_answered(bus, tmp_path):
    async with term(bus, control_settings(None, tmp_path)):
        for payload in (b"", b"nonsense", b'{"verb": "drop", "account": "x"}', b"[" * 10_000):
            answer = await bus.request("rpc.accounts.v1", payload, timeout_seconds=20)
            assert b"bad_request" in answer.payload


async def test_session_of_an_older_key_is_sealed_anew(bus, simulator, tmp_path):
    old, new = new_key(), new_key()
    settings = control_settings(
        simulator, tmp_path, kite_accounts="main", account_encryption_key=SecretStr(old)
    )
    environment = variables_of(simulator.account(), "main")
    async with term(bus, settings, environment=environment) as leading:
        await leading.until("main", AccountCondition.READY)
    both = settings.model_copy(update={"account_encryption_key": SecretStr(f"{new},{old}")})
    async with term(bus, both, environment=environment) as leading:
        await leading.until("main", AccountCondition.READY)
    alone = settings.model_copy(update={"account_encryption_key": SecretStr(new)})
    assert await stored_session(bus, alone, "main") is not None
    assert login_steps(simulator)["password"] == 1
