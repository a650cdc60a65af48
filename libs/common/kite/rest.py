"""Kite's REST interface for reads: the `kiteconnect` package in worker threads, errors sorted."""

import asyncio
import functools
import ssl
import zlib
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
    KiteTruncatedError,
    KiteUnavailableError,
)

T = TypeVar("T")

CALL_TIMEOUT_SECONDS = 7.0
DUMP_TIMEOUT_SECONDS = 60.0
DUMP_IDLE_SECONDS = 15.0
# The whole dump has some 8 MB; a body of this size is something else.
DUMP_BYTES_MAX = 256 * 1024 * 1024
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

    async def instruments_csv(self, exchange: str | None = None) -> bytes:
        """The instrument dump of one exchange, or the whole of it, as it came, unparsed.

        The package's own `instruments()` spends most of its time in date parsing (2.6 s for
        100 000 rows), so the bytes are fetched here and parsed by `parse_dump`.

        Args:
            exchange: Such as "NFO"; None for all exchanges in one file.

        Raises:
            KiteTruncatedError: Fewer bytes came than were announced, or the compressed body has
                no end.
            KiteUnavailableError: No answer or a server fault.
            KiteRateLimitedError: Above ten calls a second and key.
            KiteTokenError: The session is dead.
            KiteInputError: There is no such exchange.
        """
        call = f"instruments/{exchange}" if exchange else "instruments"
        headers = {
            "X-Kite-Version": "3",
            "Authorization": self._auth,
            # Decompressed here and not by httpx, which takes half a gzip body for a whole one.
            "Accept-Encoding": "gzip",
        }
        try:
            async with (
                # One that trickles must not hold its caller for ever.
                asyncio.timeout(DUMP_TIMEOUT_SECONDS),
                httpx.AsyncClient(timeout=DUMP_IDLE_SECONDS, verify=await _trust()) as client,
                client.stream("GET", f"{self._root}/{call}", headers=headers) as response,
            ):
                body = await _whole_body(call, response)
        except TimeoutError as error:
            reason = f"not complete after {DUMP_TIMEOUT_SECONDS:.0f} s"
            raise KiteUnavailableError(call=call, reason=reason) from error
        except httpx.HTTPError as error:
            raise KiteUnavailableError(
                call=call, reason=f"{type(error).__name__}: {error}"
            ) from error
        if response.headers.get("content-encoding", "").lower() == "gzip":
            body = await asyncio.to_thread(_gunzip, call, body)
        if response.status_code == 200:
            return body
        text = body[:200].decode(errors="replace")
        if response.status_code == 403:
            raise KiteTokenError(call=call, reason=text)
        if response.status_code == 429:
            raise KiteRateLimitedError(call=call)
        if 400 <= response.status_code < 500:
            raise KiteInputError(call=call, reason=text)
        raise KiteUnavailableError(call=call, reason=f"HTTP {response.status_code}: {text}")


@functools.cache
def _tls_context() -> ssl.SSLContext:
    return httpx.create_ssl_context()


async def _trust() -> ssl.SSLContext:
    # Reading the certificates takes tens of milliseconds: once, and off the event loop.
    return await asyncio.to_thread(_tls_context)


async def _whole_body(call: str, response: httpx.Response) -> bytes:
    """Read a body as it is on the wire.

    Raises:
        KiteTruncatedError: The connection ended before the body.
        KiteUnavailableError: It grew beyond all reason.
    """
    received = bytearray()
    try:
        async for piece in response.aiter_raw():
            received += piece
            if len(received) > DUMP_BYTES_MAX:
                reason = f"it is larger than {DUMP_BYTES_MAX} bytes"
                raise KiteUnavailableError(call=call, reason=reason)
    except httpx.RemoteProtocolError as error:
        raise KiteTruncatedError(call=call, reason=str(error)) from error
    announced = response.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) != len(received):
        reason = f"{len(received)} bytes came, {announced} were announced"
        raise KiteTruncatedError(call=call, reason=reason)
    return bytes(received)


def _gunzip(call: str, body: bytes) -> bytes:
    """Decompress a body.

    Raises:
        KiteTruncatedError: It ends before its end.
        KiteUnavailableError: It is no gzip, or would grow beyond all reason.
    """
    stream = zlib.decompressobj(wbits=31)
    try:
        text = stream.decompress(body, DUMP_BYTES_MAX)
    except zlib.error as error:
        raise KiteUnavailableError(call=call, reason=f"the body is no gzip: {error}") from error
    if stream.unconsumed_tail:
        reason = f"it is larger than {DUMP_BYTES_MAX} bytes"
        raise KiteUnavailableError(call=call, reason=reason)
    if not stream.eof or stream.unused_data:
        reason = f"the compressed body of {len(body)} bytes does not end where it should"
        raise KiteTruncatedError(call=call, reason=reason)
    return text


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
