"""REST: health of the fleet and its chains; and what all of REST shares."""

import hmac
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from libs.common import logs
from services.gateway.catalog import Catalog, Page
from services.gateway.domain.parameters import refuse_unknown
from services.gateway.errors import (
    ApiKeyError,
    BadParameterError,
    BodyError,
    CatalogUnavailableError,
    MarketUnavailableError,
    NoInstrumentsError,
    NotFoundError,
    RefusedItemError,
)
from services.gateway.fleet_state import FleetState
from services.gateway.identity import dev_token
from services.gateway.settings import GatewaySettings

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

    async def chains(request: Request) -> Response:
        require_key(request)
        refuse_unknown(request.query_params)
        return paged(await catalog.chains())

    found = [
        Route("/health", health),
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


async def _not_found(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, NotFoundError)  # noqa: S101  # As above.
    return error_response(404, "not_found", str(error), error.field)


async def _no_key(request: Request, error: Exception) -> Response:
    del request, error
    return error_response(401, "api_key", "send the API key in the X-API-Key header", "X-API-Key")


async def _no_catalog(request: Request, error: Exception) -> Response:
    del request
    return error_response(503, "database_unavailable", str(error), retry_after="2")


async def _no_instruments(request: Request, error: Exception) -> Response:
    del request
    return error_response(503, "no_instruments", str(error), retry_after="2")


async def _no_market(request: Request, error: Exception) -> Response:
    del request
    return error_response(503, "nats_unavailable", str(error), retry_after="2")


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
    NotFoundError: _not_found,
    ApiKeyError: _no_key,
    CatalogUnavailableError: _no_catalog,
    NoInstrumentsError: _no_instruments,
    MarketUnavailableError: _no_market,
    BodyError: _bad_body,
    RefusedItemError: _refused_item,
    Exception: _bug,
}
"""The one place where errors become HTTP answers."""
