"""No loop: whatever the login answers, the real Sessions ask no more often than the rules allow."""

import asyncio

import pytest
import structlog

from libs.common.domain.credentials import Credentials
from libs.common.kite.errors import LoginRefusedError
from libs.common.kite.login import Minted
from tests.fakes.minter import FakeMinter
from tests.integration.control_rig import control_settings, stored_session, term, until

pytestmark = pytest.mark.integration

SECRETS = {
    "api_key": "key-of-the-app-0001",
    "api_secret": "secret-of-the-app-0001",
    "user_id": "AB1234",
    "password": "p4ss-word-0001",
    "totp_secret": "JBSWY3DPEHPK3PXP",
}
RIGHT = Credentials(account="main", **SECRETS)
ENVIRONMENT = {f"KITE_MAIN_{field.upper()}": value for field, value in SECRETS.items()}


async def test_away_broker_is_asked_a_bounded_number_of_times_and_the_plan_does_not_wait(
    bus, tmp_path
):
    minter = FakeMinter(RIGHT)
    minter.is_away = True
    settings = control_settings(
        None,
        tmp_path,
        kite_accounts="main",
        login_retry_ceiling_seconds=1.0,
        login_attempts_per_day=4,
    )
    async with term(bus, settings, environment=ENVIRONMENT, minter=minter) as leading:
        await until(lambda: len(minter.asked) == 3)
        await leading.more_rounds()
        assert await leading.sessions.refresh()
        await until(lambda: len(minter.asked) == 4)
        await until(lambda: "4 logins today" in leading.sessions.states()["main"].reason)
        await leading.more_rounds(20)
        assert len(minter.asked) == 4
        assert leading.sessions.usable() == []
    # The next leader goes on counting.
    async with term(bus, settings, environment=ENVIRONMENT, minter=minter) as leading:
        await leading.more_rounds(5)
        assert len(minter.asked) == 4


async def test_answer_nobody_foresaw_ends_neither_the_process_nor_in_a_loop(bus, tmp_path):
    def explode(credentials):
        raise KeyError(credentials.password)

    minter = FakeMinter(RIGHT, before=explode)
    settings = control_settings(None, tmp_path, kite_accounts="main", login_attempts_per_day=2)
    with structlog.testing.capture_logs() as lines:
        async with term(bus, settings, environment=ENVIRONMENT, minter=minter) as leading:
            await until(lambda: len(minter.asked) == 2)
            await leading.more_rounds(20)
            assert len(minter.asked) == 2
            assert RIGHT.password not in str(leading.sessions.states())
    assert "login.unforeseen" in str(lines)
    assert RIGHT.password not in str(lines)


class SlowMinter:
    """A login that takes until the test says go."""

    def __init__(self) -> None:
        self.running = self.most = self.count = 0
        self.go = asyncio.Event()

    async def mint(self, credentials: Credentials) -> Minted:
        """See `SessionMinter.mint`."""
        self.running += 1
        self.count += 1
        self.most = max(self.most, self.running)
        await self.go.wait()
        self.running -= 1
        return Minted(access_token="t" * 32, user_id=credentials.user_id)


async def test_session_that_the_bus_does_not_take_is_kept_and_written_later(
    bus, nats_server, tmp_path
):
    minter = SlowMinter()
    settings = control_settings(None, tmp_path, kite_accounts="main")
    async with term(bus, settings, environment=ENVIRONMENT, minter=minter) as leading:
        await until(lambda: minter.running == 1)
        nats_server.stop()
        await until(lambda: not bus.is_connected)
        minter.go.set()
        record = leading.sessions.record("main")
        assert record is not None
        await until(lambda: record.is_alive)
        assert record.unsaved
        nats_server.start()
        await until(lambda: not record.unsaved)
        session = await stored_session(bus, settings, "main")
        assert session is not None
        assert session.access_token == "t" * 32
        await leading.more_rounds(5)
    assert minter.count == 1


async def test_one_login_at_a_time_per_account_also_when_people_ask(bus, tmp_path):
    minter = SlowMinter()
    settings = control_settings(
        None, tmp_path, kite_accounts="main", login_min_interval_seconds=3600
    )
    async with term(bus, settings, environment=ENVIRONMENT, minter=minter) as leading:
        await until(lambda: minter.running == 1)
        people = [asyncio.create_task(leading.sessions.log_in("main")) for _ in range(5)]
        await leading.more_rounds()
        minter.go.set()
        outcomes = await asyncio.gather(*people, return_exceptions=True)
        # The login that was under way is the only one: it is too soon for another.
        assert {getattr(outcome, "code", None) for outcome in outcomes} == {"rate_limited"}
    assert (minter.most, minter.count) == (1, 1)


async def test_secrets_stand_in_no_log_line_and_no_state(bus, tmp_path):
    """Even when the broker's own words hold them."""

    def refuse(credentials):
        words = " ".join(SECRETS.values())
        raise LoginRefusedError(account="main", step="password", reason=f"bad {words}")

    minter = FakeMinter(RIGHT, before=refuse)
    settings = control_settings(None, tmp_path, kite_accounts="main")
    with structlog.testing.capture_logs() as lines:
        async with term(bus, settings, environment=ENVIRONMENT, minter=minter) as leading:
            await until(lambda: leading.sessions.states()["main"].refused_fingerprint)
            text = f"{leading.sessions.states()} {leading.sessions.words()}"
            record = leading.sessions.record("main")
            text += f"{record.description!r} {record.session!r}" if record else ""
    text += str(lines)
    assert "login.refused" in text
    for field in ("api_key", "api_secret", "password", "totp_secret"):
        assert SECRETS[field] not in text
