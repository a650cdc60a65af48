"""Read-only REST: health of the fleet, instruments and chains."""

import hmac
from collections.abc import Awaitable, Callable
from datetime import date
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from libs.common import logs
from libs.common.domain.instruments import Kind
from services.gateway.catalog import Catalog, Filter, Page
from services.gateway.errors import (
    ApiKeyError,
    BadParameterError,
    BodyError,
    CatalogUnavailableError,
    NoInstrumentsError,
    RefusedItemError,
)
from services.gateway.fleet_state import FleetState
from services.gateway.identity import dev_token
from services.gateway.settings import GatewaySettings

LIMIT_DEFAULT = 100
LIMIT_MAX = 1000
OFFSET_MAX = 2**31
_NAME_LENGTH_MAX = 64
_PAGING = frozenset({"limit", "offset"})
_FILTERS = frozenset({"underlying", "expiry", "kind"})

Endpoint = Callable[[Request], Awaitable[Response]]

log = logs.get_logger(__name__)


class JsonResponse(Response):
    """JSON by orjson: dates as ISO 8601, NaN as null; never cached."""

    media_type = "application/json"

    def __init__(
        self, content: Any, status_code: int = 200, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(content, status_code, {"cache-control": "no-store", **(headers or {})})

    def render(self, content: Any) -> bytes:
        """Encode the body."""
        return orjson.dumps(content)


def error_response(
    status: int, code: str, message: str, field: str | None = None, **headers: str
) -> JsonResponse:
    """The one shape of every error."""
    return JsonResponse(
        {"error": {"code": code, "message": message, "field": field}},
        status,
        {name.replace("_", "-"): value for name, value in headers.items()},
    )


def routes(*, catalog: Catalog, state: FleetState, settings: GatewaySettings) -> list[Route]:
    """The REST routes of the gateway."""
    require_key = key_check(settings)

    async def health(request: Request) -> Response:
        if settings.health_needs_key:
            require_key(request)
        return JsonResponse(state.health())

    async def instruments(request: Request) -> Response:
        require_key(request)
        return paged(await catalog.instruments(read_filter(request, planned=True)))

    async def chains(request: Request) -> Response:
        require_key(request)
        refuse_unknown(request, frozenset())
        return paged(await catalog.chains())

    found = [
        Route("/health", health),
        Route("/instruments", instruments),
        Route("/chains", chains),
    ]
    if settings.offers_dev_token:

        async def token(request: Request) -> Response:
            del request
            made, expires_at = dev_token(settings)
            return JsonResponse({"token": made, "expires_at": expires_at})

        found.append(Route("/dev-token", token))
    return found


def key_check(settings: GatewaySettings) -> Callable[[Request], None]:
    """Give the function that raises ApiKeyError unless a request carries the key."""
    if not settings.api_key_enabled or settings.api_key is None:
        return lambda _: None
    expected = settings.api_key.get_secret_value().encode()

    def check(request: Request) -> None:
        given = request.headers.get("x-api-key", "").encode("latin-1", "replace")
        if not hmac.compare_digest(given, expected):
            raise ApiKeyError

    return check


def read_filter(request: Request, *, planned: bool = False) -> Filter:
    """Read the query's parameters.

    Args:
        request: The request.
        planned: Whether `planned` may be given.

    Raises:
        BadParameterError: Names the parameter.
    """
    refuse_unknown(request, _FILTERS | _PAGING | ({"planned"} if planned else set()))
    query = request.query_params
    underlying = query.get("underlying")
    if underlying is not None and not (
        0 < len(underlying) <= _NAME_LENGTH_MAX and underlying.isprintable()
    ):
        raise BadParameterError("underlying", f"must be a name of 1 to {_NAME_LENGTH_MAX} letters")
    kind = query.get("kind")
    if kind is not None and kind not in list(Kind):
        raise BadParameterError("kind", f"must be one of {', '.join(Kind)}")
    flag = query.get("planned")
    if flag not in {None, "true", "false"}:
        raise BadParameterError("planned", "must be true or false")
    return Filter(
        underlying=underlying,
        expiry=read_date(query.get("expiry")),
        kind=kind,
        planned=None if flag is None else flag == "true",
        limit=read_int("limit", query.get("limit"), LIMIT_DEFAULT, 1, LIMIT_MAX),
        offset=read_int("offset", query.get("offset"), 0, 0, OFFSET_MAX),
    )


def refuse_unknown(request: Request, allowed: frozenset[str] | set[str]) -> None:
    """Refuse a request whose query holds a parameter that is not allowed.

    Raises:
        BadParameterError: Names the parameter.
    """
    # A misspelt filter that is ignored gives wrong data with status 200.
    for name in request.query_params:
        if name not in allowed:
            known = ", ".join(sorted(allowed)) or "none"
            raise BadParameterError(name[:_NAME_LENGTH_MAX], f"unknown parameter; known: {known}")


def read_date(text: str | None) -> date | None:
    """Read the parameter `expiry`.

    Raises:
        BadParameterError: It is no date.
    """
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise BadParameterError("expiry", "must be a date such as 2026-12-31") from error


def read_int(name: str, text: str | None, default: int, low: int, high: int) -> int:
    """Read a whole number.

    Raises:
        BadParameterError: It is none, or out of bounds.
    """
    if text is None:
        return default
    digits = text if text.isascii() and text.isdigit() and len(text) <= 10 else None
    if digits is None or not low <= int(digits) <= high:
        raise BadParameterError(name, f"must be a whole number from {low} to {high}")
    return int(digits)


def paged(page: Page) -> JsonResponse:
    """The one shape of every list."""
    return JsonResponse({"items": page.items, "total": page.total})


async def _http_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, HTTPException)  # noqa: S101  # Registered for this type only.
    codes = {404: "not_found", 405: "method_not_allowed"}
    return error_response(error.status_code, codes.get(error.status_code, "error"), error.detail)


async def _bad_parameter(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, BadParameterError)  # noqa: S101  # As above.
    return error_response(422, "bad_parameter", str(error), error.field)


async def _no_key(request: Request, error: Exception) -> Response:
    del request, error
    return error_response(401, "api_key", "send the API key in the X-API-Key header", "X-API-Key")


async def _no_catalog(request: Request, error: Exception) -> Response:
    del request
    return error_response(503, "database_unavailable", str(error), retry_after="2")


async def _no_instruments(request: Request, error: Exception) -> Response:
    del request
    return error_response(503, "no_instruments", str(error), retry_after="2")


async def _bad_body(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, BodyError)  # noqa: S101  # As above.
    return error_response(error.status, error.code, error.message)


async def _refused_item(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, RefusedItemError)  # noqa: S101  # As above.
    return error_response(422, error.code, error.message, error.field)


async def _bug(request: Request, error: Exception) -> Response:
    log.error("http.failed", path=request.url.path, exc_info=error)
    return error_response(500, "internal", "the gateway failed; its log says why")


ERROR_HANDLERS: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    HTTPException: _http_error,
    BadParameterError: _bad_parameter,
    ApiKeyError: _no_key,
    CatalogUnavailableError: _no_catalog,
    NoInstrumentsError: _no_instruments,
    BodyError: _bad_body,
    RefusedItemError: _refused_item,
    Exception: _bug,
}
"""The one place where errors become HTTP answers."""
