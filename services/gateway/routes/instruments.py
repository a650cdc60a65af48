"""Read-only REST: search among the instruments of a day, and one of them."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.gateway.catalog import Catalog
from services.gateway.domain.instrument_query import read_lookup, read_query
from services.gateway.errors import NotFoundError
from services.gateway.routes.rest import JsonResponse, key_check
from services.gateway.settings import GatewaySettings


def routes(*, catalog: Catalog, settings: GatewaySettings) -> list[Route]:
    """`/instruments` and `/instruments/{token}`."""
    require_key = key_check(settings)

    async def search(request: Request) -> Response:
        require_key(request)
        page = await catalog.instruments(read_query(request.query_params.multi_items()))
        return JsonResponse({"items": page.items, "total": page.total, "dump": page.dump})

    async def instrument(request: Request) -> Response:
        require_key(request)
        token = request.path_params["token"]
        page = await catalog.instruments(read_lookup(token, request.query_params.multi_items()))
        if page.dump is None:
            raise NotFoundError("instrument_token", "no instruments have been loaded yet")
        if not page.items:
            day = page.dump["market_date"]
            raise NotFoundError("instrument_token", f"{token} is in no row of the dump of {day}")
        return JsonResponse({"item": page.items[0], "dump": page.dump})

    return [Route("/instruments", search), Route("/instruments/{token}", instrument)]
