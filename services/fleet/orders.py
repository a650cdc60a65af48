"""Asks the gateway of a fleet about orders, and says plainly what it refused or cannot tell."""

import secrets
import ssl
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote

import httpx

from libs.common.domain.ulid import RANDOM_BYTES, ulid
from services.fleet.data_directory import DataDirectory
from services.fleet.errors import (
    NoFleetError,
    OrderRequestFailedError,
    OrderRequestUncertainError,
)
from services.fleet.settings import GatewayAccess

_CONNECT_SECONDS: Final = 3.0
_ANSWER_SECONDS: Final = 20.0
_KEY_HEADER: Final = "Idempotency-Key"
_MILLISECONDS_NS: Final = 1_000_000
_UNCERTAIN: Final = 504
_RESPONSE_CODES_OK: Final = frozenset({200, 202, 207})


class GatewayClient:
    """REST of one gateway; paths are of plain characters, see `path_of`.

    Args:
        url: Its root; http or https.
        access: Holds the API key, which no message ever shows.
    """

    def __init__(self, url: str, access: GatewayAccess) -> None:
        if not url.startswith(("http://", "https://")):
            raise OrderRequestFailedError(f"--gateway: {url} is no address such as https://host")
        self._url = url.rstrip("/")
        self._headers = (
            {} if access.api_key is None else {"X-API-Key": access.api_key.get_secret_value()}
        )

    async def get(self, path: str, parameters: Mapping[str, object] | None = None) -> Any:
        """Ask for something; parameters that are None are left out.

        Raises:
            OrderRequestFailedError: The gateway refused, or does not answer.
        """
        try:
            return self._content(await self._send("GET", path, params=_texts(parameters)))
        except httpx.HTTPError as error:
            raise OrderRequestFailedError(self._silence(error)) from error

    async def post(
        self,
        path: str,
        body: Mapping[str, object],
        parameters: Mapping[str, object] | None = None,
    ) -> Any:
        """Have something changed that may be repeated without harm; None is left out of both.

        Raises:
            OrderRequestFailedError: The gateway refused, or does not answer.
        """
        try:
            answer = await self._send("POST", path, params=_texts(parameters), json=_given(body))
        except httpx.HTTPError as error:
            raise OrderRequestFailedError(
                f"{self._silence(error)}; whether it was done is unknown: look"
            ) from error
        return self._content(answer)

    async def command(
        self, verb: str, body: Mapping[str, object], *, key: str, wait_seconds: float
    ) -> Any:
        """Send a command about an order under a key.

        Args:
            verb: `place`, `modify` or `cancel`.
            body: Its fields; those that are None are left out.
            key: The idempotency key.
            wait_seconds: How long the gateway shall wait for the outcome.

        Raises:
            OrderRequestFailedError: The gateway refused; nothing was accepted.
            OrderRequestUncertainError: Nobody can tell; names the key to repeat it with.
        """
        try:
            answer = await self._send(
                "POST",
                f"/orders/{verb}",
                params={"wait": str(int(wait_seconds * 1000))} if wait_seconds else {},
                json=_given(body),
                headers={_KEY_HEADER: key},
                answer_seconds=_ANSWER_SECONDS + wait_seconds,
            )
        except httpx.ConnectError as error:
            # No byte was sent.
            raise OrderRequestFailedError(
                f"{self._silence(error)}; nothing was accepted"
            ) from error
        except httpx.HTTPError as error:
            raise OrderRequestUncertainError(key, _words(error)) from error
        if answer.status_code == _UNCERTAIN:
            raise OrderRequestUncertainError(key, "the gateway had no acknowledgement")
        return self._content(answer)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        params: dict[str, str] | None = None,
        json: object = None,
        headers: dict[str, str] | None = None,
        answer_seconds: float = _ANSWER_SECONDS,
    ) -> httpx.Response:
        is_plain = self._url.startswith("http://")
        async with httpx.AsyncClient(
            # trust_env would send loopback requests to the user's web proxy.
            trust_env=not is_plain,
            # Plain HTTP needs no certificate store, which takes 20 ms to read.
            verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT) if is_plain else True,
            timeout=httpx.Timeout(answer_seconds, connect=_CONNECT_SECONDS),
        ) as client:
            return await client.request(
                method,
                f"{self._url}{path}",
                params=params,
                json=json,
                headers={**self._headers, **(headers or {})},
            )

    def _silence(self, error: Exception) -> str:
        return f"{self._url} does not answer: {_words(error)}"

    def _content(self, answer: httpx.Response) -> Any:
        try:
            content = answer.json()
        except ValueError as error:
            raise OrderRequestFailedError(
                f"{self._url} answered {answer.status_code} without JSON: is it a gateway?"
            ) from error
        if answer.status_code in _RESPONSE_CODES_OK:
            return content
        found = content.get("error") if isinstance(content, dict) else None
        if not isinstance(found, dict):
            raise OrderRequestFailedError(f"{self._url} answered {answer.status_code}")
        hint = "; set API_KEY" if answer.status_code == httpx.codes.UNAUTHORIZED else ""
        raise OrderRequestFailedError(f"{found.get('message')} ({found.get('code')}){hint}")


def gateway_client(
    directory: DataDirectory, url: str | None, access: GatewayAccess
) -> GatewayClient:
    """The gateway that is named, or the first one of the fleet that runs here.

    Raises:
        NoFleetError: None is named and none runs.
    """
    if url is None:
        state = directory.running_state()
        if state is None:
            raise NoFleetError(
                directory.path, "none runs; start one with: tickfleet up, or name a --gateway"
            )
        url = state.gateway_urls[0]
    return GatewayClient(url, access)


def new_key() -> str:
    """A key of one's own, so that a command can be repeated even when its answer was lost."""
    return ulid(time.time_ns() // _MILLISECONDS_NS, secrets.token_bytes(RANDOM_BYTES))


def path_of(*parts: str) -> str:
    """A path of these parts, whatever characters they hold."""
    return "".join(f"/{quote(part, safe='')}" for part in parts)


def _given(body: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in body.items() if value is not None}


def _texts(parameters: Mapping[str, object] | None) -> dict[str, str]:
    return {name: str(value) for name, value in _given(parameters or {}).items()}


def _words(error: Exception) -> str:
    return str(error) or type(error).__name__
