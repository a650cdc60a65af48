"""Asks the user service, another product's HTTP interface, for its trading accounts."""

import asyncio

import httpx
import msgspec
from pydantic import SecretStr

from libs.common.contracts.messages import AccountSource
from services.control.domain import accounts
from services.control.domain.accounts import Account, Found, Problem
from services.control.errors import UserServiceError

PATH = "/internal/trading-accounts"
ANSWER_BYTES_MAX = 1024 * 1024
_DEADLINE_SECONDS = 5.0
_PROBLEMS_MAX = 50


class UserService:
    """`GET <base>/internal/trading-accounts` with a bearer token.

    The answer is a JSON list of objects, or an object whose `accounts` is one. Each has
    `account` (or `name`) and the fields of `accounts.FIELDS`; fields of other names are the user
    service's own affair and are passed over.

    Args:
        base_url: Such as `https://users.internal`.
        token: The service-to-service token.
    """

    def __init__(self, *, base_url: str, token: SecretStr | None) -> None:
        self._url = base_url.rstrip("/") + PATH
        self._token = token

    async def read(self) -> Found:
        """Ask once.

        Raises:
            UserServiceError: No answer in time, another status than 200, or no such list.
        """
        headers = {"Accept": "application/json"}
        if self._token is not None:
            headers["Authorization"] = f"Bearer {self._token.get_secret_value()}"
        timeout = httpx.Timeout(_DEADLINE_SECONDS)
        try:
            async with httpx.AsyncClient(timeout=timeout, follow_redirects=False) as client:
                body = await self._body(client, headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise UserServiceError(f"{type(error).__name__} at {self._url}") from error
        try:
            content = msgspec.json.decode(body)
        except (msgspec.DecodeError, RecursionError) as error:
            raise UserServiceError(f"{self._url} does not answer JSON") from error
        rows = content.get("accounts") if isinstance(content, dict) else content
        if not isinstance(rows, list):
            raise UserServiceError(f"{self._url} answers no list of accounts")
        return self._found(rows)

    async def _body(self, client: httpx.AsyncClient, headers: dict[str, str]) -> bytes:
        # httpx's timeouts are for each read; one who sends a byte a second would keep us for ever.
        try:
            async with (
                asyncio.timeout(_DEADLINE_SECONDS),
                client.stream("GET", self._url, headers=headers) as response,
            ):
                if response.status_code != 200:
                    raise UserServiceError(f"HTTP {response.status_code} at {self._url}")
                body = b""
                async for chunk in response.aiter_bytes():
                    body += chunk
                    if len(body) > ANSWER_BYTES_MAX:
                        raise UserServiceError(f"more than {ANSWER_BYTES_MAX} bytes")
        except TimeoutError as error:
            raise UserServiceError(
                f"no answer within {_DEADLINE_SECONDS:g} s at {self._url}"
            ) from error
        return body

    def _found(self, rows: list[object]) -> Found:
        found: dict[str, Account] = {}
        problems: list[Problem] = []
        for number, row in enumerate(rows, start=1):
            place = f"row {number} of {self._url}"
            name, values, why = _row(row)
            if why is None and name in found:
                why = f"is described before, in {found[name].place}"
            if why is not None:
                who = f"account {name}" if name else "an account without a name"
                problems.append(
                    Problem(
                        source=AccountSource.USER_SERVICE,
                        message=f"{place}: {who} is skipped: {why}",
                        account=name if name and name not in found else None,
                    )
                )
                continue
            found[name] = accounts.describe(name, AccountSource.USER_SERVICE, place, values)
        return Found(accounts=tuple(found.values()), problems=tuple(problems[:_PROBLEMS_MAX]))


def _row(row: object) -> tuple[str, dict[str, str | None], str | None]:
    """Give name, fields, and what is wrong with them, of one element of the answer."""
    if not isinstance(row, dict):
        return "", {}, "it is no object"
    name = row.get("account", row.get("name"))
    if not isinstance(name, str) or not accounts.NAME.fullmatch(name):
        return "", {}, f"'account' is no name; {accounts.NAME_RULE}"
    values: dict[str, str | None] = {}
    for field in accounts.FIELDS:
        value = row.get(field)
        if isinstance(value, int) and not isinstance(value, bool) and field in accounts.LIMITS:
            value = str(value)
        if value is not None and not isinstance(value, str):
            return name, {}, f"{field} should be a text"
        values[field] = value.strip() if value is not None else None
    wrong = accounts.shortcomings(values)
    if wrong:
        return name, {}, "; ".join(f"{field} {why}" for field, why in wrong.items())
    return name, values, None
