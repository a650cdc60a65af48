"""Who asks, and may they: the Authorization header, the limits, and replies in Kite's envelope."""

from collections.abc import Mapping
from typing import Any, TypeVar
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from libs.common.domain.clock import NS_PER_SECOND, Clock
from services.simulator import metrics
from services.simulator.domain.rate_limits import RateLimiter, RequestClass
from services.simulator.domain.sessions import Session, Sessions
from services.simulator.errors import InputError, KiteError, TokenError, TooManyRequestsError

LONGEST_BODY_BYTES = 65_536
"""More is refused."""

T = TypeVar("T")


class Access:
    """Admits REST requests.

    Args:
        sessions: Know the access tokens.
        limiter: Knows the budgets.
        real_clock: Real time: limits count its calendar seconds.
    """

    def __init__(self, sessions: Sessions, limiter: RateLimiter, real_clock: Clock) -> None:
        self._sessions = sessions
        self._limiter = limiter
        self._real_clock = real_clock

    def session(
        self, request: Request, request_class: RequestClass = RequestClass.OTHER
    ) -> Session:
        """Give the session of a request and take it from the budget of its key.

        Raises:
            TokenError: No or a wrong `Authorization: token api_key:access_token`.
            TooManyRequestsError: The budget of the calendar second is used up.
        """
        scheme, _, rest = request.headers.get("authorization", "").partition(" ")
        api_key, _, access_token = rest.partition(":")
        if scheme != "token" or not access_token:
            raise TokenError
        session = self._sessions.verify(api_key, access_token)
        self.spend(api_key, request_class)
        return session

    def spend(self, api_key: str, request_class: RequestClass = RequestClass.OTHER) -> None:
        """Take one request from the budget of a key.

        Raises:
            TooManyRequestsError: The budget of the calendar second is used up.
        """
        second = self._real_clock.now_ns() // NS_PER_SECOND
        if not self._limiter.allow(api_key, request_class, second):
            raise TooManyRequestsError


def api_key_of(request: Request) -> str | None:
    """Give the key a request speaks for, unchecked: for faults."""
    _, _, rest = request.headers.get("authorization", "").partition(" ")
    return rest.partition(":")[0] or request.query_params.get("api_key")


async def form_of(request: Request) -> dict[str, str]:
    """Read a URL-encoded form; of repeated fields the last counts.

    Raises:
        InputError: The body is too large or no text.
    """
    body = await _body_of(request)
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True))
    except (UnicodeDecodeError, ValueError) as error:
        raise InputError("The request body is no URL-encoded form.") from error


async def json_of(request: Request, kind: type[T]) -> T:
    """Read a JSON body.

    Raises:
        InputError: The body is too large, or not of that kind.
    """
    try:
        return msgspec.json.decode(await _body_of(request), type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise InputError(f"Invalid request body: {error}") from None


async def _body_of(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > LONGEST_BODY_BYTES:
            raise InputError("The request body is too large.")
    return body


def required(form: Mapping[str, str], name: str) -> str:
    """Give a field.

    Raises:
        InputError: It is missing or empty.
    """
    value = form.get(name, "")
    if not value:
        raise InputError(f"Missing or empty field `{name}`.")
    return value


def json_reply(body: Any, status: int = 200) -> Response:
    """Give a JSON response."""
    return Response(msgspec.json.encode(body), status, media_type="application/json")


def success(data: Any) -> Response:
    """Give Kite's envelope of success."""
    return json_reply({"status": "success", "data": data})


def refusal(error: KiteError) -> Response:
    """Give Kite's envelope of an error."""
    metrics.REFUSED_TOTAL.labels(error_type=error.error_type).inc()
    return json_reply(
        {"status": "error", "message": error.message, "error_type": error.error_type, "data": None},
        error.status,
    )
