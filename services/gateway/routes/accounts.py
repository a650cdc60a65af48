"""REST for accounts: list them, and have control add, change, switch, log in and remove them."""

import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from libs.common.contracts.messages import (
    AccountCommand,
    AccountPlan,
    AccountState,
    AccountVerb,
    FeedStatus,
)
from services.gateway.accounts import Accounts, shown
from services.gateway.directory import Directory
from services.gateway.errors import (
    AccountsUnavailableError,
    BadBodyError,
    BadParameterError,
    CommandRefusedError,
)
from services.gateway.routes.rest import JsonResponse, error_response, key_check
from services.gateway.settings import GatewaySettings

BODY_BYTES_MAX = 64 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_NAME_RULE = "must be 1 to 32 letters, digits, '-' and '_', a letter or digit first"
_UNKNOWN_FIELD = re.compile(r"unknown field `([^`]{1,64})`")
_MISSING_FIELD = re.compile(r"missing required field `([^`]{1,64})`")
_AT_FIELD = re.compile(r"at `\$\.([A-Za-z_]+)")
_STATUS_OF = {"bad_request": 422, "not_found": 404, "conflict": 409, "refused": 422}
_RETRY_SECONDS = 2
_MOMENTS = {
    "logged_in_at_ns": "logged_in_at",
    "lost_since_ns": "lost_since",
    "at_ns": "updated_at",
}
_NANOSECONDS = 1_000_000_000

Endpoint = Callable[[Request], Awaitable[Response]]
_Secret = Annotated[str, Meta(min_length=1, max_length=1024)]
_Token = Annotated[str, Meta(min_length=1, max_length=1024)]


class _Body(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request body; a field of another name is an error, and its values are never printed."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}(…)"


class _Limits(_Body, frozen=True, kw_only=True):
    connections: Annotated[int, Meta(ge=1, le=3)] | None = None
    tokens_per_connection: Annotated[int, Meta(ge=1, le=3000)] | None = None


class _New(_Limits, frozen=True, kw_only=True):
    """`POST /accounts`."""

    account: str
    api_key: _Secret
    api_secret: _Secret
    user_id: _Secret | None = None
    password: _Secret | None = None
    totp_secret: _Secret | None = None


class _Rotation(_Limits, frozen=True, kw_only=True):
    """`POST /accounts/{account}/rotate`: what is left out stays as it is."""

    api_key: _Secret | None = None
    api_secret: _Secret | None = None
    user_id: _Secret | None = None
    password: _Secret | None = None
    totp_secret: _Secret | None = None


class _Login(_Body, frozen=True, kw_only=True):
    """`POST /accounts/{account}/login`; nothing at all means: log in by itself, now."""

    request_token: _Token | None = None
    access_token: _Token | None = None


class _Nothing(_Body, frozen=True, kw_only=True):
    """Of a request that says everything with its address."""


B = TypeVar("B", bound=_Body)


def routes(*, accounts: Accounts, directory: Directory, settings: GatewaySettings) -> list[Route]:
    """The routes under `/accounts`."""
    require_key = key_check(settings)

    async def listing(request: Request) -> Response:
        require_key(request)
        _refuse_query(request)
        if not accounts.is_ready:
            raise AccountsUnavailableError(
                "unavailable", "the accounts have not been read yet", retry_after_seconds=1.0
            )
        items = [
            _row(s, directory.plans.get(s.account), directory.feeds.get(s.account))
            for s in accounts.states()
        ]
        return JsonResponse({"items": items, "total": len(items)})

    async def add(request: Request) -> Response:
        require_key(request)
        _refuse_query(request)
        body = await _read(request, _New)
        fields = msgspec.structs.asdict(body)
        _check_name(body.account)
        state = await accounts.ask(AccountCommand(verb=AccountVerb.ADD, **fields))
        return JsonResponse(_answer(state), 201)

    def verb(which: AccountVerb, kind: type[_Body]) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            require_key(request)
            _refuse_query(request)
            name = _check_name(request.path_params["account"])
            fields = msgspec.structs.asdict(await _read(request, kind))
            state = await accounts.ask(AccountCommand(verb=which, account=name, **fields))
            return JsonResponse(_answer(state))

        return endpoint

    one = "/accounts/{account}"
    return [
        Route("/accounts", listing, methods=["GET"]),
        Route("/accounts", add, methods=["POST"]),
        Route(f"{one}/enable", verb(AccountVerb.ENABLE, _Nothing), methods=["POST"]),
        Route(f"{one}/disable", verb(AccountVerb.DISABLE, _Nothing), methods=["POST"]),
        Route(f"{one}/rotate", verb(AccountVerb.ROTATE, _Rotation), methods=["POST"]),
        Route(f"{one}/login", verb(AccountVerb.LOGIN, _Login), methods=["POST"]),
        Route(one, verb(AccountVerb.REMOVE, _Nothing), methods=["DELETE"]),
    ]


async def _read(request: Request, kind: type[B]) -> B:
    """Read a bounded JSON body; an empty one stands for `{}`.

    Raises:
        BadBodyError: Too large (413), no JSON (400), or a field is wrong (422); no value of the
            body is repeated.
    """
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES_MAX:
            raise BadBodyError(413, "body_too_large", f"at most {BODY_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(body.strip() or b"{}", type=kind)
    except msgspec.ValidationError as error:
        message = str(error)
        if (unknown := _UNKNOWN_FIELD.search(message)) is not None:
            known = ", ".join(field.name for field in msgspec.structs.fields(kind)) or "none"
            raise BadBodyError(
                422, "bad_parameter", f"unknown field; known: {known}", field=unknown.group(1)
            ) from error
        at = _MISSING_FIELD.search(message) or _AT_FIELD.search(message)
        raise BadBodyError(
            422, "bad_parameter", message, field=at.group(1) if at else None
        ) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise BadBodyError(400, "invalid_json", "the body is not valid JSON") from error


def _refuse_query(request: Request) -> None:
    # Above all a secret in the address, where every proxy would log it.
    for name in request.query_params:
        raise BadParameterError(name[:64], "unknown parameter; known: none")


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise BadParameterError("account", _NAME_RULE)
    return name


def _answer(state: AccountState | None) -> dict[str, object]:
    return {"account": None if state is None else _times(shown(state))}


def _row(
    state: AccountState, plan: AccountPlan | None, feed: FeedStatus | None
) -> dict[str, object]:
    return {
        **_times(shown(state)),
        "planned": plan.total if plan is not None else 0,
        "feed": None
        if feed is None
        else {
            "state": feed.state.value,
            "reason": feed.reason,
            "worker": feed.worker,
            "connections": feed.connections,
            "subscribed": feed.tokens,
            "session_refused": feed.session_refused,
            "last_frame_at": _iso(feed.last_frame_ns),
        },
    }


def _times(fields: Mapping[str, object]) -> dict[str, object]:
    """Spell moments as ISO 8601, as the other answers do."""
    return {
        _MOMENTS.get(name, name): _iso(value) if name in _MOMENTS else value
        for name, value in fields.items()
    }


def _iso(at_ns: object) -> str | None:
    if not isinstance(at_ns, int):
        return None
    return datetime.fromtimestamp(at_ns / _NANOSECONDS, UTC).isoformat(timespec="seconds")


async def _refused(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, CommandRefusedError)  # noqa: S101  # Registered for this type only.
    found = error.error
    if found.code == "rate_limited":
        seconds = max(1, round(found.retry_after_seconds or _RETRY_SECONDS))
        return error_response(429, found.code, found.message, found.field, retry_after=str(seconds))
    return error_response(_STATUS_OF.get(found.code, 502), found.code, found.message, found.field)


async def _unavailable(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, AccountsUnavailableError)  # noqa: S101  # As above.
    if error.code == "timeout":
        # Not to be repeated blindly, so without a Retry-After.
        return error_response(504, error.code, error.message)
    seconds = max(1, round(error.retry_after_seconds or _RETRY_SECONDS))
    return error_response(503, error.code, error.message, retry_after=str(seconds))


async def _bad_body(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, BadBodyError)  # noqa: S101  # As above.
    return error_response(error.status, error.code, error.message, error.field)


ERROR_HANDLERS: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    CommandRefusedError: _refused,
    AccountsUnavailableError: _unavailable,
    BadBodyError: _bad_body,
}
"""How the errors of these routes become HTTP answers."""
