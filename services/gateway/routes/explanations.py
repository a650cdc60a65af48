"""REST for one question: how an option's Greeks came about."""

from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from libs.common.contracts import codec
from services.gateway.domain.instrument_query import read_token
from services.gateway.domain.parameters import refuse_unknown
from services.gateway.errors import GreeksUnavailableError
from services.gateway.explanations import ExplanationDesk
from services.gateway.routes.rest import error_response, key_check
from services.gateway.settings import GatewaySettings

_RETRY_SECONDS = 2


def routes(*, explanations: ExplanationDesk, settings: GatewaySettings) -> list[Route]:
    """`/explain/{token}`."""
    require_key = key_check(settings)

    async def explain(request: Request) -> Response:
        require_key(request)
        refuse_unknown(request.query_params)
        found = await explanations.ask(read_token(request.path_params["token"]))
        # By the contract's own encoder, so that REST and the bus show the same object.
        return Response(
            codec.to_json(found),
            media_type="application/json",
            headers={"cache-control": "no-store"},
        )

    return [Route("/explain/{token}", explain)]


async def _unavailable(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, GreeksUnavailableError)  # noqa: S101  # Registered for this type only.
    if error.code == "timeout":
        return error_response(504, error.code, error.message)
    seconds = max(1, round(error.retry_after_seconds or _RETRY_SECONDS))
    return error_response(503, error.code, error.message, retry_after=str(seconds))


ERROR_HANDLERS: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    GreeksUnavailableError: _unavailable,
}
"""How the errors of this route become HTTP answers."""
