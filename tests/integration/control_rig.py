"""Control's accounts on real servers for tests: NATS, PostgreSQL, the simulator, and a term."""

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
from cryptography.fernet import Fernet
from pydantic import SecretStr

from libs.common.bus.connection import Bus
from libs.common.bus.kv import Bucket, Mirror
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import (
    AccountCommand,
    AccountCondition,
    AccountReply,
    AccountState,
    AccountVerb,
    KiteSession,
    Source,
)
from libs.common.database import Database
from libs.common.errors import RetryableError
from libs.common.kite.login import KiteTokenDesk, SessionMinter, TotpSessionMinter
from libs.common.kite.sessions import SessionSeal
from libs.common.seal import Seal
from libs.common.settings import Variables
from services.control.account_commands import DEADLINE_SECONDS, AccountCommands
from services.control.account_sources import AccountSources
from services.control.account_store import AccountStore
from services.control.sessions import Sessions
from services.control.settings import ControlSettings
from services.simulator.domain.accounts import Account
from tests.fakes.simulator import SimulatorProcess

PATIENCE_SECONDS = 60.0
NOWHERE = "postgresql://nobody:nothing@127.0.0.1:1/none"


def new_key() -> str:
    """A Fernet key."""
    return Fernet.generate_key().decode()


def variables_of(account: Account, name: str, **changes: str | None) -> dict[str, str]:
    """The environment variables of a simulator's account; one changed to None is left out."""
    fields = {
        "api_key": account.api_key,
        "api_secret": account.api_secret,
        "user_id": account.user_id,
        "password": account.password,
        "totp_secret": account.totp_secret,
        **changes,
    }
    return {f"KITE_{name}_{field}".upper(): v for field, v in fields.items() if v is not None}


def fields_of(account: Account, **changes: Any) -> dict[str, Any]:
    """The fields of an AccountCommand for a simulator's account."""
    return {
        "api_key": account.api_key,
        "api_secret": account.api_secret,
        "user_id": account.user_id,
        "password": account.password,
        "totp_secret": account.totp_secret,
        **changes,
    }


def login_steps(simulator: SimulatorProcess) -> dict[str, int]:
    """How often each step of a login was asked for, refused or not."""
    text = httpx.get(f"{simulator.url}/metrics").text
    found = re.findall(r'^sim_login_steps_total\{step="(\w+)"\} ([0-9.]+)$', text, re.MULTILINE)
    return {step: int(float(count)) for step, count in found}


class Term:
    """One leadership term over the accounts, without the rest of the leader."""

    def __init__(
        self, sessions: Sessions, commands: AccountCommands, settings: ControlSettings
    ) -> None:
        self.sessions = sessions
        self.commands = commands
        self.settings = settings
        self.leads = True
        self.rounds = 0

    def condition(self, name: str) -> AccountCondition | None:
        """What an account can be counted on for."""
        state = self.sessions.states().get(name)
        return state.condition if state is not None else None

    async def run(self, stop: asyncio.Event) -> None:
        """Do what the leader does for the accounts, at a quick pace."""
        try:
            await self.sessions.adopt()
            while not stop.is_set():
                # As the leader's steps: what is away now is asked again in the next round.
                with contextlib.suppress(RetryableError):
                    await self.sessions.refresh()
                self.rounds += 1
                await asyncio.sleep(0.02)
        finally:
            await self.sessions.close()

    async def more_rounds(self, count: int = 3) -> None:
        """Wait until the leader has looked around so often again."""
        goal = self.rounds + count
        await until(lambda: self.rounds >= goal)

    async def until(self, name: str, *conditions: AccountCondition) -> AccountState:
        """Wait until an account is in one of these conditions."""
        await until(lambda: self.condition(name) in conditions, what=self.sessions.words)
        return self.sessions.states()[name]


async def until(
    condition: Callable[[], object | Awaitable[object]],
    what: Callable[[], object] = lambda: "nothing known",
) -> None:
    """Wait for a condition with a generous deadline."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return
        assert time.monotonic() < deadline, f"never came true; now: {what()}"
        await asyncio.sleep(0.02)


def control_settings(
    simulator: SimulatorProcess | None, folder: Path, **more: Any
) -> ControlSettings:
    """Settings that lead to the simulator; no account unless one is given."""
    root = simulator.url if simulator is not None else "http://127.0.0.1:1"
    values: dict[str, Any] = {
        "account_encryption_key": SecretStr(new_key()),
        "kite_api_url": root,
        "kite_login_url": root,
        "kite_ws_url": root.replace("http", "ws"),
        "kite_token_dir": str(folder / "tokens"),
        "feed_source": Source.SIM,
        "login_min_interval_seconds": 1.0,
        **more,
    }
    return ControlSettings(_env_file=None, **values)


@contextlib.asynccontextmanager
async def term(
    bus: Bus,
    settings: ControlSettings,
    *,
    environment: dict[str, str] | None = None,
    database_url: str = NOWHERE,
    minter: SessionMinter | None = None,
) -> AsyncIterator[Term]:
    """Lead from the beginning of the block to its end."""
    await ensure(bus, (), streams.BUCKETS)
    settings = settings.model_copy(update={"database_url": SecretStr(database_url)})
    mirror = Mirror(bus, streams.ACCOUNTS.name)
    stop = asyncio.Event()
    roots = {"login_root": settings.kite_login_url, "api_root": settings.kite_api_url}
    async with Database.opened(settings) as database:
        store = AccountStore(database, Seal(settings.account_encryption_key))
        held: list[Term] = []
        sessions = Sessions(
            bus,
            settings,
            minter or TotpSessionMinter(**roots),
            KiteTokenDesk(**roots),
            AccountSources(settings, store, Variables(environment or {})),
            states=mirror,
            is_leading=lambda: held[0].leads,
        )
        leading = Term(sessions, AccountCommands(bus, store, sessions), settings)
        held.append(leading)
        async with asyncio.TaskGroup() as group:
            group.create_task(mirror.run(stop))
            await mirror.ready()
            group.create_task(leading.run(stop))
            group.create_task(leading.commands.run(stop))
            try:
                await until(lambda: leading.rounds or stop.is_set())
                yield leading
            finally:
                stop.set()


async def command(bus: Bus, verb: AccountVerb, account: str, **fields: Any) -> AccountReply:
    """Send an account command and give the reply."""
    payload = codec.to_json(AccountCommand(verb=verb, account=account, **fields))
    answer = await bus.request(subjects.RPC_ACCOUNTS, payload, timeout_seconds=DEADLINE_SECONDS)
    return codec.from_json(AccountReply, answer.payload)


async def stored_session(bus: Bus, settings: ControlSettings, account: str) -> KiteSession | None:
    """The session on the bus, opened."""
    entry = await Bucket(bus, streams.KITE_SESSIONS.name).get(subjects.escape(account))
    if entry is None:
        return None
    return SessionSeal(settings.account_encryption_key).open(entry.value)


async def stored_state(bus: Bus, account: str) -> AccountState | None:
    """The state on the bus."""
    entry = await Bucket(bus, streams.ACCOUNTS.name).get(subjects.escape(account))
    return None if entry is None else codec.from_json(AccountState, entry.value)
