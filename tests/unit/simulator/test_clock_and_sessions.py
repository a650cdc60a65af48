"""Virtual time, logins and access tokens."""

import hashlib
from datetime import date, datetime

import pyotp
import pytest

from libs.common.domain.clock import IST, NS_PER_SECOND, VirtualClock, ist_datetime, ns_of
from libs.common.domain.market_calendar import CALENDAR
from services.simulator.domain.accounts import demo_accounts
from services.simulator.domain.session_clock import SessionClock, resolve_start, trading_day
from services.simulator.domain.sessions import Session, Sessions, session_end_ns
from services.simulator.errors import InputError, LoginError, TokenError
from tests.unit.simulator.markets import at

REAL = 1_800_000_000 * NS_PER_SECOND


class Ticker:
    """Elapsed real time that a test moves."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        """Nanoseconds."""
        return self.ns


def clock_at(start_ns: int, *, skip_closed: bool, rate: float = 1.0) -> tuple[SessionClock, Ticker]:
    ticker = Ticker()
    clock = SessionClock(
        start_ns, rate=rate, skip_closed=skip_closed, calendar=CALENDAR, monotonic_ns=ticker
    )
    return clock, ticker


def shown(clock: SessionClock) -> str:
    return ist_datetime(clock.now_ns()).strftime("%Y-%m-%d %H:%M:%S")


def make_sessions(market_ns: int = at(10), *, seed: int = 1) -> tuple[Sessions, VirtualClock]:
    market = VirtualClock(market_ns, 0)
    real = VirtualClock(REAL, 0)
    accounts = demo_accounts(2, seed)
    return Sessions(accounts, seed=seed, market_clock=market, real_clock=real), market


def log_in(sessions: Sessions) -> Session:
    """The whole flow of the first demo account."""
    account = demo_accounts(2, 1)[0]
    sess_id = sessions.begin_login(account.api_key)
    request_id = sessions.check_password(account.user_id, account.password)
    code = pyotp.TOTP(account.totp_secret).at(REAL // NS_PER_SECOND)
    enctoken = sessions.check_second_factor(account.user_id, request_id, code)
    token = sessions.finish_login(account.api_key, sess_id, enctoken)
    assert token is not None
    return sessions.exchange(account.api_key, token, checksum(token))


def checksum(request_token: str) -> str:
    account = demo_accounts(2, 1)[0]
    text = account.api_key + request_token + account.api_secret
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.mark.parametrize(
    ("real", "shows"),
    [
        ("2026-11-18T11:30:00", "2026-11-18T11:30:00"),  # the market is open: real time
        ("2026-11-18T18:00:00", "2026-11-18T10:00:00"),  # after the close: ten that day
        ("2026-11-18T06:00:00", "2026-11-18T10:00:00"),  # before the open: the day has begun
        ("2026-11-22T12:00:00", "2026-11-20T10:00:00"),  # a Sunday: Friday
        ("2026-11-24T12:00:00", "2026-11-23T10:00:00"),  # a holiday: Monday
    ],
)
def test_auto_start_is_real_time_or_ten_on_the_nearest_trading_day(real, shows):
    real_ns = ns_of(datetime.fromisoformat(real).replace(tzinfo=IST))
    start = resolve_start("auto", real_now_ns=real_ns, calendar=CALENDAR)
    assert ist_datetime(start).replace(tzinfo=None).isoformat() == shows


def test_a_start_without_a_zone_is_indian_time():
    assert resolve_start("2026-11-18T10:00", real_now_ns=0, calendar=CALENDAR) == at(10)


def test_a_start_that_is_no_time_is_refused():
    with pytest.raises(ValueError, match="neither 'auto' nor a date"):
        resolve_start("tomorrow", real_now_ns=0, calendar=CALENDAR)


def test_the_clock_goes_from_the_close_to_the_next_open():
    clock, ticker = clock_at(at(15, 39), skip_closed=True)
    assert shown(clock) == "2026-11-18 15:39:00"
    ticker.ns = 61 * NS_PER_SECOND
    assert shown(clock) == "2026-11-19 09:15:00"
    ticker.ns += 5 * NS_PER_SECOND
    assert shown(clock) == "2026-11-19 09:15:05"
    assert clock.is_open(clock.now_ns())


def test_the_clock_skips_weekend_and_holiday():
    clock, ticker = clock_at(at(15, 39, day=date(2026, 11, 23)), skip_closed=True)
    ticker.ns = 60 * NS_PER_SECOND
    assert shown(clock) == "2026-11-25 09:15:00"


def test_a_clock_that_keeps_closed_hours_runs_through_the_night():
    clock, ticker = clock_at(at(15, 39), skip_closed=False)
    ticker.ns = 120 * NS_PER_SECOND
    assert shown(clock) == "2026-11-18 15:41:00"
    assert not clock.is_open(clock.now_ns())


def test_the_rate_multiplies_time():
    clock, ticker = clock_at(at(10), skip_closed=True, rate=60)
    ticker.ns = 10 * NS_PER_SECOND
    assert shown(clock) == "2026-11-18 10:10:00"


def test_prices_of_the_last_session_stay_until_six():
    assert trading_day(at(5, 59, day=date(2026, 11, 19)), CALENDAR) == date(2026, 11, 18)
    assert trading_day(at(6, 0, day=date(2026, 11, 19)), CALENDAR) == date(2026, 11, 19)
    assert trading_day(at(12, 0, day=date(2026, 11, 22)), CALENDAR) == date(2026, 11, 20)


def test_demo_accounts_depend_on_the_seed_alone():
    assert demo_accounts(3, 1) == demo_accounts(5, 1)[:3]
    assert demo_accounts(1, 1) != demo_accounts(1, 2)


def test_a_complete_login_gives_a_valid_session():
    sessions, _ = make_sessions()
    session = log_in(sessions)
    assert sessions.verify("sim1key", session.access_token) == session
    assert len(session.access_token) == 32


def test_tokens_survive_a_restart_with_the_same_seed_and_no_other():
    session = log_in(make_sessions()[0])
    assert make_sessions()[0].verify("sim1key", session.access_token) == session
    with pytest.raises(TokenError):
        make_sessions(seed=2)[0].verify("sim1key", session.access_token)


def test_tokens_die_at_six_the_next_morning():
    sessions, clock = make_sessions(at(10))
    session = log_in(sessions)
    clock.advance_ns(at(5, 59, day=date(2026, 11, 19)) - at(10))
    sessions.verify("sim1key", session.access_token)
    clock.advance_ns(60 * NS_PER_SECOND)
    with pytest.raises(TokenError):
        sessions.verify("sim1key", session.access_token)


def test_a_token_minted_at_night_dies_the_same_morning():
    assert session_end_ns(at(3)) == at(6)
    assert session_end_ns(at(6)) == at(6, day=date(2026, 11, 19))


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("sim2key", lambda token: token),
        ("nokey", lambda token: token),
        ("sim1key", lambda token: token[:-1] + ("0" if token[-1] != "0" else "1")),
        ("sim1key", lambda token: "f" + token[1:]),
        ("sim1key", lambda token: token + "0"),
        ("sim1key", lambda _: ""),
        ("sim1key", lambda _: "ü" * 32),
    ],
)
def test_a_foreign_or_altered_token_is_refused(key, change):
    sessions, _ = make_sessions()
    token = log_in(sessions).access_token
    with pytest.raises(TokenError):
        sessions.verify(key, change(token))


def test_a_revoked_session_is_dead_and_a_new_one_lives():
    sessions, _ = make_sessions()
    first, second = log_in(sessions), log_in(sessions)
    assert first.access_token != second.access_token
    sessions.revoke(first)
    assert not sessions.is_alive(first)
    assert sessions.is_alive(second)


def test_killed_tokens_are_those_minted_so_far():
    sessions, _ = make_sessions()
    before = log_in(sessions)
    assert sessions.kill_tokens("sim1key") == ["sim1key"]
    assert not sessions.is_alive(before)
    assert sessions.is_alive(log_in(sessions))


def test_a_request_token_works_once():
    sessions, _ = make_sessions()
    account = demo_accounts(2, 1)[0]
    sess_id = sessions.begin_login(account.api_key)
    request_id = sessions.check_password(account.user_id, account.password)
    code = pyotp.TOTP(account.totp_secret).at(REAL // NS_PER_SECOND)
    enctoken = sessions.check_second_factor(account.user_id, request_id, code)
    token = sessions.finish_login(account.api_key, sess_id, enctoken)
    assert token is not None
    with pytest.raises(TokenError, match="checksum"):
        sessions.exchange(account.api_key, token, "0" * 64)
    sessions.exchange(account.api_key, token, checksum(token))
    with pytest.raises(TokenError, match="expired"):
        sessions.exchange(account.api_key, token, checksum(token))
    assert sessions.finish_login(account.api_key, sess_id, enctoken) is None


def test_wrong_password_code_and_key_are_refused():
    sessions, _ = make_sessions()
    account = demo_accounts(2, 1)[0]
    with pytest.raises(LoginError):
        sessions.check_password(account.user_id, "wrong")
    with pytest.raises(LoginError):
        sessions.check_password("NOBODY", account.password)
    request_id = sessions.check_password(account.user_id, account.password)
    with pytest.raises(LoginError, match="TOTP"):
        sessions.check_second_factor(account.user_id, request_id, "000000")
    with pytest.raises(LoginError, match="expired"):
        sessions.check_second_factor(account.user_id, "nothing", "000000")
    with pytest.raises(InputError):
        sessions.begin_login("nokey")
