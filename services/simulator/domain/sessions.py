"""Logins and access tokens: minted from a signature, so that a restart kills no session."""

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Final

from libs.common.domain.clock import IST, NS_PER_SECOND, Clock, ist_datetime, ns_of
from services.simulator.domain.accounts import Account
from services.simulator.errors import InputError, LoginError, TokenError

_SESSIONS_END: Final = time(6, 0)
_LOGIN_LIFETIME_NS: Final = 10 * 60 * NS_PER_SECOND
_PENDING_AT_MOST: Final = 10_000
_SIGNATURE_HEX: Final = 13
_TOKEN_HEX: Final = 8 + 11 + _SIGNATURE_HEX


def session_end_ns(at_ns: int) -> int:
    """Give the next 06:00 in India after a moment: when every access token dies.

    Args:
        at_ns: Epoch nanoseconds.
    """
    moment = ist_datetime(at_ns)
    end = datetime.combine(moment.date(), _SESSIONS_END, tzinfo=IST)
    return ns_of(end if moment < end else end + timedelta(days=1))


@dataclass(frozen=True, slots=True)
class Session:
    """A valid access token.

    Attributes:
        account: Whose.
        access_token: 32 hexadecimal digits: end, serial number, signature.
        end_ns: Virtual epoch nanoseconds at which it dies.
        serial: Rises with every token minted, across restarts.
    """

    account: Account
    access_token: str
    end_ns: int
    serial: int


@dataclass(slots=True)
class _Pending:
    """Something handed out during a login that lives for a few minutes."""

    account: Account
    until_ns: int


class _PendingTable:
    """Short-lived, bounded memory of one step of a login; the oldest goes first."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rows: OrderedDict[str, _Pending] = OrderedDict()

    def add(self, account: Account) -> str:
        key = secrets.token_hex(16)
        self._rows[key] = _Pending(account, self._clock.now_ns() + _LOGIN_LIFETIME_NS)
        while len(self._rows) > _PENDING_AT_MOST:
            self._rows.popitem(last=False)
        return key

    def get(self, key: str) -> Account | None:
        row = self._rows.get(key)
        if row is None or row.until_ns < self._clock.now_ns():
            return None
        return row.account

    def take(self, key: str) -> Account | None:
        account = self.get(key)
        self._rows.pop(key, None)
        return account


class Sessions:
    """Everything between a password and an access token.

    Args:
        accounts: Who may log in.
        seed: Part of the signing key, so that tokens outlive a restart with the same seed.
        market_clock: Virtual time; decides when tokens die.
        real_clock: Real time; decides about TOTP codes, login steps and serial numbers.
    """

    def __init__(
        self, accounts: Iterable[Account], *, seed: int, market_clock: Clock, real_clock: Clock
    ) -> None:
        self._by_key = {account.api_key: account for account in accounts}
        self._by_user = {account.user_id: account for account in self._by_key.values()}
        self._seed = seed
        self._market_clock = market_clock
        self._real_clock = real_clock
        self._logins = _PendingTable(real_clock)
        self._second_factors = _PendingTable(real_clock)
        self._browsers = _PendingTable(real_clock)
        self._request_tokens = _PendingTable(real_clock)
        self._last_serial = 0
        # Everything up to this serial number is dead, per api_key; and single tokens beyond it.
        self._dead_up_to: dict[str, int] = {}
        self._revoked: OrderedDict[str, None] = OrderedDict()

    @property
    def api_keys(self) -> list[str]:
        """All keys, in the order of the accounts."""
        return list(self._by_key)

    def account(self, api_key: str) -> Account:
        """Find the account of an app.

        Raises:
            InputError: The key is unknown.
        """
        account = self._by_key.get(api_key)
        if account is None:
            raise InputError("Invalid `api_key`.")
        return account

    def begin_login(self, api_key: str) -> str:
        """Start a login and give its `sess_id`.

        Raises:
            InputError: The key is unknown.
        """
        return self._logins.add(self.account(api_key))

    def knows_login(self, api_key: str, sess_id: str) -> bool:
        """Say whether a `sess_id` belongs to this app and is still alive."""
        account = self._logins.get(sess_id)
        return account is not None and account.api_key == api_key

    def check_password(self, user_id: str, password: str) -> str:
        """Take the first factor and give a `request_id` for the second.

        Raises:
            LoginError: User id or password is wrong; which of them is not told.
        """
        account = self._by_user.get(user_id)
        if account is None or not hmac.compare_digest(account.password, password):
            raise LoginError("UserException", "Invalid username or password.")
        return self._second_factors.add(account)

    def check_second_factor(self, user_id: str, request_id: str, code: str) -> str:
        """Take the TOTP code and give the `enctoken` cookie of a logged-in browser.

        Raises:
            LoginError: The code is wrong, or no first factor came before.
        """
        account = self._second_factors.get(request_id)
        if account is None or account.user_id != user_id:
            raise LoginError("TwoFAException", "Login session expired. Please try again.")
        if not account.accepts_totp(code, self._real_clock.now_ns() / NS_PER_SECOND):
            raise LoginError("TwoFAException", "Invalid TOTP.")
        self._second_factors.take(request_id)
        return self._browsers.add(account)

    def finish_login(self, api_key: str, sess_id: str, enctoken: str) -> str | None:
        """Give a one-time `request_token` to a browser that is logged in, else None."""
        owner = self._browsers.get(enctoken)
        if owner is None or owner.api_key != api_key or not self.knows_login(api_key, sess_id):
            return None
        self._logins.take(sess_id)
        return self._request_tokens.add(owner)

    def exchange(self, api_key: str, request_token: str, checksum: str) -> Session:
        """Turn a `request_token` into a session.

        Raises:
            InputError: The key is unknown.
            TokenError: The token was used, is too old or foreign, or the checksum is wrong.
        """
        account = self.account(api_key)
        expected = hashlib.sha256(f"{api_key}{request_token}{account.api_secret}".encode())
        if not hmac.compare_digest(expected.hexdigest().encode(), checksum.encode()):
            raise TokenError("Invalid `checksum`.")
        if self._request_tokens.take(request_token) is not account:
            raise TokenError("Token is invalid or has expired.")
        return self.mint(account)

    def mint(self, account: Account) -> Session:
        """Make a new access token that lives until the next 06:00."""
        milliseconds = self._real_clock.now_ns() // 1_000_000
        self._last_serial = serial = max(self._last_serial + 1, milliseconds)
        end_ns = session_end_ns(self._market_clock.now_ns())
        body = f"{end_ns // NS_PER_SECOND:08x}{serial:011x}"
        token = body + self._signature(account.api_key, body)
        return Session(account, token, end_ns, serial)

    def verify(self, api_key: str, access_token: str) -> Session:
        """Give the session of a token.

        Raises:
            TokenError: Unknown key, bad signature, past its end, or revoked.
        """
        account = self._by_key.get(api_key)
        if account is None or len(access_token) != _TOKEN_HEX or not access_token.isascii():
            raise TokenError
        body = access_token[:-_SIGNATURE_HEX]
        signature = access_token[-_SIGNATURE_HEX:]
        if not hmac.compare_digest(self._signature(api_key, body), signature):
            raise TokenError
        # Only what carries our signature is parsed.
        session = Session(
            account, access_token, int(body[:8], 16) * NS_PER_SECOND, int(body[8:], 16)
        )
        if not self.is_alive(session):
            raise TokenError
        return session

    def is_alive(self, session: Session) -> bool:
        """Say whether a session is neither past its end nor revoked."""
        return (
            self._market_clock.now_ns() < session.end_ns
            and session.serial > self._dead_up_to.get(session.account.api_key, 0)
            and session.access_token not in self._revoked
        )

    def revoke(self, session: Session) -> None:
        """End one session (`DELETE /session/token`)."""
        self._revoked[session.access_token] = None
        while len(self._revoked) > _PENDING_AT_MOST:
            self._revoked.popitem(last=False)

    def kill_tokens(self, api_key: str | None) -> list[str]:
        """End every session minted so far for one key, or for all; give the keys concerned."""
        keys = self.api_keys if api_key is None else [api_key]
        serial = max(self._last_serial, self._real_clock.now_ns() // 1_000_000)
        self._last_serial = serial
        for key in keys:
            self._dead_up_to[key] = serial
        return keys

    def _signature(self, api_key: str, body: str) -> str:
        key = f"tickfleet-simulator:{self._seed}:{api_key}".encode()
        return hmac.new(key, body.encode(), hashlib.sha256).hexdigest()[:_SIGNATURE_HEX]
