"""The real control process against a real simulator, NATS and PostgreSQL, with bad input."""

import asyncio
import contextlib
from datetime import date
from typing import Any

import asyncpg
import pytest

from libs.common.bus.connection import Bus
from libs.common.bus.kv import snapshot
from libs.common.contracts import codec, streams
from libs.common.contracts.messages import AccountCondition, AccountState
from tests.fakes.service_process import ServiceProcess
from tests.fakes.simulator import SimulatorProcess
from tests.integration.conftest import settings_for
from tests.integration.control_rig import new_key, until
from tests.integration.gateway_rig import running_postgres

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]

FIRST_DAY, NEXT_DAY = date(2026, 11, 18), date(2026, 11, 19)


class Desk:
    """A control process and what it has written."""

    def __init__(self, control: ServiceProcess, bus: Bus, database_url: str) -> None:
        self.control = control
        self._bus = bus
        self._database_url = database_url

    async def accounts(self) -> dict[str, AccountState]:
        """What it says of the accounts."""
        found = await snapshot(self._bus, streams.ACCOUNTS.name, patience_seconds=5.0) or {}
        states = [codec.from_json(AccountState, value) for value in found.values()]
        return {state.account: state for state in states}

    async def exchanges(self) -> dict[str, Any]:
        """The exchanges of the dump in force: day of the rows and outcome of the last attempt."""
        with contextlib.suppress(OSError, asyncpg.PostgresError):
            connection = await asyncpg.connect(self._database_url, timeout=5)
            try:
                rows = await connection.fetch(
                    "SELECT exchange, e.market_date, outcome, e.row_count"
                    " FROM instrument_dump_exchanges e JOIN instrument_dumps d USING (revision)"
                    " WHERE d.is_current"
                )
            finally:
                await connection.close()
            return {row["exchange"]: row for row in rows}
        return {}


@contextlib.asynccontextmanager
async def running_control(tmp_path, nats_server, simulator, **environment: str):
    """A control process from the beginning of the block to its clean end."""
    async with running_postgres(tmp_path / "postgres") as postgres:
        control = ServiceProcess(
            tmp_path,
            "control",
            "control-1",
            NATS_URL=nats_server.url,
            DATABASE_URL=postgres.url,
            ACCOUNT_ENCRYPTION_KEY=new_key(),
            FEED_SOURCE="sim",
            KITE_API_URL=simulator.url,
            KITE_LOGIN_URL=simulator.url,
            KITE_WS_URL=simulator.ws_url,
            UNDERLYINGS="NIFTY",
            PLAN_INTERVAL_SECONDS="1",
            LOGIN_MIN_INTERVAL_SECONDS="1",
            **environment,
        )
        control.launch()
        try:
            async with Bus.open(settings_for(nats_server), name="test") as bus:
                yield Desk(control, bus, postgres.url)
            assert control.stop() == 0, control.text[-3000:]
        finally:
            control.kill()


@pytest.fixture
def simulator(tmp_path):
    process = SimulatorProcess(tmp_path, SIM_START=f"{FIRST_DAY}T15:00:00", SIM_SKIP_CLOSED="false")
    process.start()
    yield process
    process.stop()


async def test_account_with_a_misspelt_field_is_left_out_by_name_and_the_others_run(
    tmp_path, nats_server, simulator
):
    good, bad = simulator.account(1), simulator.account(2)
    accounts = tmp_path / "accounts.yaml"
    accounts.write_text(
        f"""accounts:
  good:
    api_key: {good.api_key}
    api_secret: {good.api_secret}
    user_id: {good.user_id}
    password: {good.password}
    totp_secret: {good.totp_secret}
  bad:
    api_key: {bad.api_key}
    api_secret: {bad.api_secret}
    user_id: {bad.user_id}
    password: {bad.password}
    totp_secert: {bad.totp_secret}
"""
    )
    async with running_control(
        tmp_path, nats_server, simulator, KITE_ACCOUNTS_FILE=str(accounts)
    ) as desk:

        async def is_good_ready() -> bool:
            state = (await desk.accounts()).get("good")
            return state is not None and state.condition is AccountCondition.READY

        await until(is_good_ready, lambda: desk.control.text[-2000:])
        [line] = [line for line in desk.control.text.splitlines() if "accounts.problem" in line]
        assert f"{accounts}:13" in line
        assert "totp_secert" in line
        assert "totp_secret" in line  # What was probably meant.
        assert bad.totp_secret not in desk.control.text
        assert bad.password not in desk.control.text

        # Mended while it runs: no restart.
        accounts.write_text(accounts.read_text().replace("totp_secert", "totp_secret"))

        async def is_bad_ready() -> bool:
            state = (await desk.accounts()).get("bad")
            return state is not None and state.condition is AccountCondition.READY

        await until(is_bad_ready, lambda: desk.control.text[-2000:])


@pytest.mark.parametrize(
    ("fault", "outcome"), [("truncated_dump", "truncated"), ("empty_dump", "empty")]
)
async def test_damaged_dump_costs_its_exchange_a_day_and_the_others_nothing(
    tmp_path, nats_server, simulator, fault, outcome
):
    account = simulator.account(1)
    fields = ("api_key", "api_secret", "user_id", "password", "totp_secret")
    variables = {f"KITE_MAIN_{name.upper()}": str(getattr(account, name)) for name in fields}
    async with running_control(
        tmp_path, nats_server, simulator, KITE_ACCOUNTS="main", **variables
    ) as desk:

        async def is_loaded(day: date, *exchanges: str) -> bool:
            found = await desk.exchanges()
            return all(name in found and found[name]["market_date"] == day for name in exchanges)

        await until(
            lambda: is_loaded(FIRST_DAY, "NSE", "NFO", "BSE", "BFO"),
            lambda: desk.control.text[-2000:],
        )
        before = (await desk.exchanges())["NFO"]["row_count"]

        simulator.fault(kind=fault, exchange="NFO")
        simulator.control(
            "POST", "/sim/clock", json={"to": f"{NEXT_DAY}T08:31:00"}
        ).raise_for_status()
        await until(
            lambda: is_loaded(NEXT_DAY, "NSE", "BSE", "BFO"), lambda: desk.control.text[-2000:]
        )
        kept = (await desk.exchanges())["NFO"]
        assert (kept["market_date"], kept["outcome"]) == (FIRST_DAY, outcome)
        assert kept["row_count"] == before

        simulator.heal()
        await until(lambda: is_loaded(NEXT_DAY, "NFO"), lambda: desk.control.text[-2000:])


async def test_of_two_rows_with_one_token_one_counts_and_both_are_named(
    tmp_path, nats_server, simulator
):
    account = simulator.account(1)
    fields = ("api_key", "api_secret", "user_id", "password", "totp_secret")
    variables = {f"KITE_MAIN_{name.upper()}": str(getattr(account, name)) for name in fields}
    simulator.fault(kind="duplicate_token", exchange="NFO")
    async with running_control(
        tmp_path, nats_server, simulator, KITE_ACCOUNTS="main", **variables
    ) as desk:

        async def is_loaded() -> bool:
            found = await desk.exchanges()
            return "NFO" in found and found["NFO"]["outcome"] == "loaded"

        await until(is_loaded, lambda: desk.control.text[-2000:])
        assert await asyncio.to_thread(
            desk.control.metric, "tickfleet_control_duplicate_tokens_total", exchange="NFO"
        )
        [line] = [line for line in desk.control.text.splitlines() if "dump.duplicate_token" in line]
        assert "line" in line
