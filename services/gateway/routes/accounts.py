"""REST for accounts: list them, and have control add, change, switch, log in and remove them."""

import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

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
from libs.common.contracts.orders import OrdersStatus
from services.gateway.accounts import AccountDesk, shown
from services.gateway.directory import Directory
from services.gateway.domain.parameters import refuse_unknown
from services.gateway.errors import (
    AccountsUnavailableError,
    BadParameterError,
    CommandRefusedError,
)
from services.gateway.routes.body import read_json
from services.gateway.routes.rest import JsonResponse, error_response, key_check
from services.gateway.settings import GatewaySettings

BODY_BYTES_MAX = 64 * 1024
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,31}")
_NAME_RULE = "must be 1 to 32 letters, digits, '-' and '_', a letter or digit first"
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


def routes(
    *, accounts: AccountDesk, directory: Directory, settings: GatewaySettings
) -> list[Route]:
    """The routes under `/accounts`."""
    require_key = key_check(settings)

    async def listing(request: Request) -> Response:
        require_key(request)
        refuse_unknown(request.query_params)
        if not directory.is_ready:
            raise AccountsUnavailableError(
                "unavailable", "the accounts have not been read yet", retry_after_seconds=1.0
            )
        items = [
            {
                **_row(s, directory.plans.get(s.account), directory.feeds.get(s.account)),
                "orders": shown_orders(directory.orders.get(s.account)),
            }
            for _, s in sorted(directory.accounts.items())
        ]
        return JsonResponse({"items": items, "total": len(items)})

    async def add(request: Request) -> Response:
        require_key(request)
        refuse_unknown(request.query_params)
        body = await read_json(request, _New, bytes_max=BODY_BYTES_MAX)
        fields = msgspec.structs.asdict(body)
        _check_name(body.account)
        state = await accounts.ask(AccountCommand(verb=AccountVerb.ADD, **fields))
        return JsonResponse(_answer(state), 201)

    def verb(which: AccountVerb, kind: type[_Body]) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            require_key(request)
            refuse_unknown(request.query_params)
            name = _check_name(request.path_params["account"])
            fields = msgspec.structs.asdict(
                await read_json(request, kind, bytes_max=BODY_BYTES_MAX, may_be_empty=True)
            )
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


def shown_orders(status: OrdersStatus | None) -> dict[str, object] | None:
    """How the orders of an account fare, as its worker says; None while nobody holds them."""
    return None if status is None else _times(msgspec.to_builtins(status))


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


ERROR_HANDLERS: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    CommandRefusedError: _refused,
    AccountsUnavailableError: _unavailable,
}
"""How the errors of these routes become HTTP answers."""
