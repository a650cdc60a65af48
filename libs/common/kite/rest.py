"""Kite's REST interface for reads: the `kiteconnect` package in worker threads, errors sorted."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from typing import Any, TypeVar

import httpx
import requests
from kiteconnect import KiteConnect
from kiteconnect.exceptions import KiteException

from libs.common.domain.clock import IST
from libs.common.kite.errors import (
    KiteInputError,
    KiteRateLimitedError,
    KiteTokenError,
    KiteUnavailableError,
)

T = TypeVar("T")

CALL_TIMEOUT_SECONDS = 7.0
DUMP_TIMEOUT_SECONDS = 60.0
# One pool for all accounts of the process: Kite's own limits are far below eight calls at once.
_THREADS = ThreadPoolExecutor(max_workers=8, thread_name_prefix="kite-rest")

ReadError = KiteUnavailableError | KiteRateLimitedError | KiteTokenError | KiteInputError


def classify(call: str, error: Exception) -> ReadError:
    """Sort any exception of a read call by what its caller should do.

    The package raises `NetworkException` for a refused limit and for an outage alike, and lets
    exceptions of `requests` through; the HTTP code and not the class decides.
    """
    if isinstance(error, KiteException):
        code = int(getattr(error, "code", 500) or 500)
        if code == 429:
            return KiteRateLimitedError(call=call)
        if code == 403:
            return KiteTokenError(call=call, reason=str(error))
        if 400 <= code < 500:
            return KiteInputError(call=call, reason=str(error))
        return KiteUnavailableError(call=call, reason=f"{code}: {error}")
    return KiteUnavailableError(call=call, reason=f"{type(error).__name__}: {error}")


class KiteRest:
    """Read calls of one account.

    Args:
        api_key: The app's key.
        access_token: The session's token.
        root: Root of the REST interface, such as `https://api.kite.trade`.
    """

    def __init__(self, *, api_key: str, access_token: str, root: str) -> None:
        self._root = root.rstrip("/")
        self._access_token = access_token
        self._auth = f"token {api_key}:{access_token}"
        self._client = KiteConnect(
            api_key=api_key, access_token=access_token, root=root, timeout=CALL_TIMEOUT_SECONDS
        )

    def uses(self, access_token: str) -> bool:
        """Whether the client calls with this token."""
        return self._access_token == access_token

    async def _call(self, name: str, call: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(_THREADS, call)
        except (KiteException, requests.RequestException, KeyError, ValueError) as error:
            raise classify(name, error) from error

    async def quote(self, instruments: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Full quotes by `EXCHANGE:SYMBOL`; unknown ones are absent. At most 500 a call.

        Raises:
            KiteUnavailableError: No answer or a server fault.
            KiteRateLimitedError: Above one call a second and key.
            KiteTokenError: The session is dead.
            KiteInputError: Refused parameters.
        """
        answer: dict[str, dict[str, Any]] = await self._call(
            "quote", lambda: self._client.quote(list(instruments))
        )
        return answer

    async def profile(self) -> dict[str, Any]:
        """The user's profile; the cheapest proof that a session lives."""
        answer: dict[str, Any] = await self._call("profile", self._client.profile)
        return answer

    async def instruments_csv(self) -> bytes:
        """The whole instrument dump as it came, unparsed.

        The package's own `instruments()` spends most of its time in date parsing (2.6 s for
        100 000 rows), so the bytes are fetched here and parsed by `parse_dump`.
        """
        headers = {"X-Kite-Version": "3", "Authorization": self._auth}
        try:
            async with httpx.AsyncClient(timeout=DUMP_TIMEOUT_SECONDS) as client:
                response = await client.get(f"{self._root}/instruments", headers=headers)
        except httpx.HTTPError as error:
            raise KiteUnavailableError(
                call="instruments", reason=f"{type(error).__name__}: {error}"
            ) from error
        if response.status_code == 403:
            raise KiteTokenError(call="instruments", reason=response.text[:200])
        if response.status_code == 429:
            raise KiteRateLimitedError(call="instruments")
        if response.status_code != 200:
            raise KiteUnavailableError(
                call="instruments", reason=f"HTTP {response.status_code}: {response.text[:200]}"
            )
        return response.content


def quote_time(quote: dict[str, Any]) -> datetime | None:
    """The exchange time of a quote; the package gives a naive datetime that means IST."""
    stamp = quote.get("timestamp")
    if isinstance(stamp, str) and stamp:
        try:
            stamp = datetime.fromisoformat(stamp)
        except ValueError:
            return None
    if not isinstance(stamp, datetime):
        return None
    return stamp.replace(tzinfo=IST) if stamp.tzinfo is None else stamp.astimezone(IST)
