"""Read-only REST: the newest chain, volatility curve and forwards, as greeks published them."""

from collections.abc import Awaitable, Callable
from datetime import date

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.gateway.domain.parameters import read_date, read_name, refuse_unknown
from services.gateway.errors import BadParameterError
from services.gateway.market_board import MarketBoard
from services.gateway.routes.rest import JsonResponse, key_check
from services.gateway.settings import GatewaySettings


def routes(*, board: MarketBoard, settings: GatewaySettings) -> list[Route]:
    """`/chains/{underlying}/{expiry}`, `/vol/{underlying}/{expiry}`, `/forwards/{underlying}`."""
    require_key = key_check(settings)

    def one(
        read: Callable[[str, date], Awaitable[bytes]],
    ) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            require_key(request)
            refuse_unknown(request.query_params)
            found = await read(_underlying(request), _expiry(request))
            return JsonResponse(orjson.Fragment(found))

        return endpoint

    async def forwards(request: Request) -> Response:
        require_key(request)
        refuse_unknown(request.query_params)
        found = await board.forwards(_underlying(request))
        return JsonResponse({"items": [*map(orjson.Fragment, found)], "total": len(found)})

    return [
        Route("/chains/{underlying}/{expiry}", one(board.chain)),
        Route("/vol/{underlying}/{expiry}", one(board.curve)),
        Route("/forwards/{underlying}", forwards),
    ]


def _underlying(request: Request) -> str:
    name = read_name("underlying", request.path_params["underlying"])
    assert name is not None  # noqa: S101  # A path has all its parts.
    return name


def _expiry(request: Request) -> date:
    day = read_date("expiry", request.path_params["expiry"])
    if day is None:
        raise BadParameterError("expiry", "must be a date such as 2026-12-31")
    return day
