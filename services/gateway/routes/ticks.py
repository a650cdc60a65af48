"""`/ws/ticks`: the handshake, up to the point where a client can speak for itself."""

from collections.abc import Callable
from urllib.parse import parse_qs

from starlette.types import Receive, Scope, Send

from libs.common import logs
from libs.common.contracts.websocket import BEARER_PREFIX, SUBPROTOCOL
from services.gateway import metrics
from services.gateway.client import ClientFactory
from services.gateway.domain.limits import ConnectionQuota
from services.gateway.wire import AsgiWire, ProtocolWire, protocol_in

PATH = "/ws/ticks"
_RETRY_AFTER_SECONDS = b"5"

log = logs.get_logger(__name__)


class TicksEndpoint:
    """The ASGI application behind `/ws/ticks`.

    Plain ASGI and not Starlette's WebSocket class, which costs 5-15 % and hides uvicorn's
    protocol object.
    """

    def __init__(
        self, *, make_client: ClientFactory, quota: ConnectionQuota, stopping: Callable[[], bool]
    ) -> None:
        self._make_client = make_client
        self._quota = quota
        self._stopping = stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection until it ends."""
        event = await receive()
        if event["type"] != "websocket.connect":
            return
        # `limit_concurrency` of uvicorn does not count WebSockets.
        if self._stopping() or not self._quota.enter():
            metrics.CONNECTIONS_ENDED_TOTAL.labels(reason="full").inc()
            await _refuse(scope, send)
            return
        try:
            await self._accepted(scope, receive, send)
        finally:
            self._quota.leave()

    async def _accepted(self, scope: Scope, receive: Receive, send: Send) -> None:
        offered: list[str] = scope.get("subprotocols") or []
        subprotocol = SUBPROTOCOL if SUBPROTOCOL in offered else None
        await send({"type": "websocket.accept", "subprotocol": subprotocol})
        protocol = protocol_in(scope)
        if protocol is not None:
            await self._make_client(ProtocolWire(protocol), receive).serve(token_in(scope))
            return
        wire = AsgiWire(send)
        await self._make_client(wire, receive).serve(token_in(scope))
        await wire.drained()
        wire.lost()


def token_in(scope: Scope) -> str | None:
    """Find the token: in `?token=`, in `Authorization: Bearer`, or in the offered subprotocols.

    An empty one counts as given: it is refused at once instead of waited for.
    """
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"), keep_blank_values=True)
    if "token" in query:
        return str(query["token"][0])
    for name, value in scope.get("headers", ()):
        if name.lower() == b"authorization":
            scheme, _, token = value.decode("latin-1").partition(" ")
            if scheme.lower() == "bearer":
                return str(token.strip())
    for offered in scope.get("subprotocols") or ():
        if offered.startswith(BEARER_PREFIX):
            return str(offered.removeprefix(BEARER_PREFIX))
    return None


async def _refuse(scope: Scope, send: Send) -> None:
    """Answer the handshake with 503, so that a load balancer and a client try elsewhere."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        await send({"type": "websocket.close", "code": 1013, "reason": "full"})
        return
    body = b'{"error":{"code":"full","message":"no more connections fit; try again","field":null}}'
    headers = [(b"retry-after", _RETRY_AFTER_SECONDS), (b"content-type", b"application/json")]
    await send({"type": "websocket.http.response.start", "status": 503, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})
