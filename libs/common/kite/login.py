"""Logging an account in: the TOTP flow that needs no person, and what a person brings instead."""

import asyncio
import time
from typing import Any, Protocol
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import httpx
import msgspec
import pyotp
import requests
from kiteconnect import KiteConnect
from kiteconnect.exceptions import KiteException

from libs.common.domain.credentials import App, Credentials
from libs.common.errors import RejectedError, RetryableError
from libs.common.kite.errors import KiteUnavailableError, LoginRefusedError
from libs.common.kite.rest import CALL_TIMEOUT_SECONDS, KiteRest, classify

# A code that dies while it travels would count as a wrong one.
_MIN_CODE_LIFE_SECONDS = 3.0
_MAX_REDIRECTS = 6


class Minted(msgspec.Struct, frozen=True, kw_only=True):
    """A fresh session as Kite returned it; never printed."""

    access_token: str
    user_id: str

    def __repr__(self) -> str:
        return f"Minted(user_id={self.user_id!r}, …)"


class SessionMinter(Protocol):
    """Anything that can turn an account's credentials into a session."""

    async def mint(self, credentials: Credentials) -> Minted:
        """Log in once.

        Raises:
            LoginRefusedError: The credentials are wrong; do not repeat.
            KiteUnavailableError: No answer; may be repeated with backoff.
        """
        ...


class TokenDesk(Protocol):
    """Anything that can turn what a person brings from a login of their own into a session."""

    async def exchange(self, app: App, request_token: str) -> Minted:
        """Exchange the one-time token of Kite's redirect for a session.

        Raises:
            LoginRefusedError: The token is wrong, used or too old, or the API secret is wrong.
            KiteUnavailableError: No answer; whether the token is used up is unknown.
        """
        ...

    async def verify(self, app: App, access_token: str) -> Minted:
        """Prove with one call that an access token lives, and learn whose it is.

        Raises:
            LoginRefusedError: The token is dead, or belongs to another app.
            KiteUnavailableError: No answer; may be repeated with backoff.
        """
        ...

    def login_url(self, app: App) -> str:
        """The page where a person logs in; it redirects to the app with a request token."""
        ...


class KiteTokenDesk:
    """Kite's `/session/token` and `/user/profile`.

    Args:
        login_root: Where the login pages are, such as `https://kite.zerodha.com`.
        api_root: Root of the REST interface, such as `https://api.kite.trade`.
    """

    def __init__(self, *, login_root: str, api_root: str) -> None:
        self._login_root = login_root.rstrip("/")
        self._api_root = api_root.rstrip("/")

    def login_url(self, app: App) -> str:
        """See `TokenDesk.login_url`."""
        return f"{self._login_root}/connect/login?{urlencode({'v': 3, 'api_key': app.api_key})}"

    async def exchange(self, app: App, request_token: str) -> Minted:
        """See `TokenDesk.exchange`."""
        if app.api_secret is None:
            raise LoginRefusedError(
                account=app.account, step="session", reason="a request token needs the API secret"
            )
        client = KiteConnect(api_key=app.api_key, root=self._api_root, timeout=CALL_TIMEOUT_SECONDS)

        def generate() -> dict[str, Any]:
            answer: dict[str, Any] = client.generate_session(
                request_token, api_secret=app.api_secret
            )
            return answer

        try:
            answer = await asyncio.to_thread(generate)
        except (KiteException, requests.RequestException, KeyError, ValueError) as error:
            sorted_error = classify("session/token", error)
            if isinstance(sorted_error, RetryableError):
                # The limiter's refusal too: it says nothing about the credentials.
                raise KiteUnavailableError(
                    call="session/token", reason=str(sorted_error)
                ) from error
            raise LoginRefusedError(
                account=app.account, step="session", reason=str(error)
            ) from error
        return Minted(access_token=answer["access_token"], user_id=str(answer.get("user_id", "")))

    async def verify(self, app: App, access_token: str) -> Minted:
        """See `TokenDesk.verify`."""
        rest = KiteRest(api_key=app.api_key, access_token=access_token, root=self._api_root)
        try:
            profile = await rest.profile()
        except RetryableError as error:
            raise KiteUnavailableError(call="user/profile", reason=str(error)) from error
        except RejectedError as error:
            raise LoginRefusedError(
                account=app.account, step="session", reason=str(error)
            ) from error
        return Minted(access_token=access_token, user_id=str(profile.get("user_id", "")))


class TotpSessionMinter:
    """The login pages driven with user id, password and a time-based one-time code.

    The pages are undocumented and may change, which is why they live behind `SessionMinter`.

    Args:
        login_root: Where the login pages are, such as `https://kite.zerodha.com`.
        api_root: Where `/session/token` is, such as `https://api.kite.trade`.
    """

    def __init__(self, *, login_root: str, api_root: str) -> None:
        self._login_root = login_root.rstrip("/")
        self._desk = KiteTokenDesk(login_root=login_root, api_root=api_root)

    async def mint(self, credentials: Credentials) -> Minted:
        """Log in once: see `SessionMinter.mint`."""
        try:
            async with httpx.AsyncClient(
                timeout=CALL_TIMEOUT_SECONDS, follow_redirects=False
            ) as client:
                request_token = await self._request_token(client, credentials)
        except httpx.HTTPError as error:
            raise KiteUnavailableError(
                call="login", reason=f"{type(error).__name__}: {error}"
            ) from error
        return await self._desk.exchange(credentials.app, request_token)

    async def _request_token(self, client: httpx.AsyncClient, credentials: Credentials) -> str:
        account = credentials.account
        start = self._desk.login_url(credentials.app)
        first = await client.get(start)
        session_id = _query(first.headers.get("location", ""), "sess_id")
        if session_id is None:
            if not 400 <= first.status_code < 500 or first.status_code == 429:
                # A page of the broker's own, such as for maintenance; it has seen no credentials.
                raise KiteUnavailableError(call="connect/login", reason=f"HTTP {first.status_code}")
            raise LoginRefusedError(
                account=account,
                step="session",
                reason=f"no login session for this api key (HTTP {first.status_code})",
            )
        # Following once sets the cookies of the login page.
        await client.get(urljoin(start, first.headers["location"]))

        data = _answer(
            await client.post(
                f"{self._login_root}/api/login",
                data={"user_id": credentials.user_id, "password": credentials.password},
            ),
            account=account,
            step="password",
        )
        request_id = data.get("request_id")
        if not request_id:
            raise LoginRefusedError(account=account, step="password", reason="no request_id")

        try:
            totp = pyotp.TOTP(credentials.totp_secret)
            left = totp.interval - time.time() % totp.interval
            if left < _MIN_CODE_LIFE_SECONDS:
                await asyncio.sleep(left + 0.1)
            code = totp.now()
        except (ValueError, TypeError) as error:
            raise LoginRefusedError(
                account=account, step="totp", reason="the TOTP secret is not base32"
            ) from error
        _answer(
            await client.post(
                f"{self._login_root}/api/twofa",
                data={
                    "user_id": credentials.user_id,
                    "request_id": request_id,
                    "twofa_value": code,
                    "twofa_type": "totp",
                    "skip_session": "true",
                },
            ),
            account=account,
            step="totp",
        )

        location = f"{start}&sess_id={session_id}"
        for _ in range(_MAX_REDIRECTS):
            response = await client.get(location)
            target = response.headers.get("location")
            if target is None:
                break
            token = _query(target, "request_token")
            if token is not None:
                return token
            location = urljoin(location, target)
        raise LoginRefusedError(
            account=account,
            step="consent",
            reason="no request_token came back: the app may need a first login in a browser",
        )


def _query(url: str, name: str) -> str | None:
    values = parse_qs(urlsplit(url).query).get(name)
    return values[0] if values else None


def _answer(response: httpx.Response, *, account: str, step: str) -> dict[str, Any]:
    if response.status_code >= 500 or response.status_code == 429:
        raise KiteUnavailableError(call=f"login ({step})", reason=f"HTTP {response.status_code}")
    try:
        body = response.json()
    except ValueError as error:
        raise KiteUnavailableError(
            call=f"login ({step})", reason=f"HTTP {response.status_code}, not JSON"
        ) from error
    if response.status_code != 200 or body.get("status") != "success":
        raise LoginRefusedError(
            account=account, step=step, reason=str(body.get("message", response.status_code))
        )
    data = body.get("data")
    return data if isinstance(data, dict) else {}
