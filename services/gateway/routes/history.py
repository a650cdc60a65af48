"""`GET /history`: candles, those of options with Greeks, streamed as one JSON object."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from libs.common import logs
from libs.common.contracts import codec
from libs.common.contracts.messages import CandlesPart, CandlesRequest
from services.gateway import metrics
from services.gateway.candles import CandleDesk
from services.gateway.domain.candle_query import read_candle_query
from services.gateway.errors import BadSpanError, CandlesFailedError
from services.gateway.routes.rest import error_response, key_check
from services.gateway.settings import GatewaySettings

# Written at once: a client that takes this little within STALL_SECONDS is slow, not gone.
_SLICE_BYTES = 64 * 1024
_STATUS_OF = {"bad_request": 422, "not_found": 404, "rate_limited": 429, "timeout": 504}
_RETRY_SECONDS = 2.0

log = logs.get_logger(__name__)


def routes(*, desk: CandleDesk, settings: GatewaySettings) -> list[Route]:
    """`/history`."""
    require_key = key_check(settings)

    async def history(request: Request) -> Response:
        require_key(request)
        wanted = read_candle_query(request.query_params.multi_items())
        return CandleResponse(desk, wanted, stall_seconds=settings.stall_seconds)

    return [Route("/history", history)]


class CandleResponse(Response):
    """An answer that is written while it is fetched.

    The first part decides the status. What fails afterwards ends the object validly, with
    `"complete": false` and the error. A client that leaves, or has not read for a while, ends the
    request behind it.

    Args:
        desk: Fetches.
        wanted: What.
        stall_seconds: How long a client may take for 64 KiB.
    """

    media_type = "application/json"

    def __init__(self, desk: CandleDesk, wanted: CandlesRequest, *, stall_seconds: float) -> None:
        super().__init__(headers={"cache-control": "no-store"})
        # Its length is not known.
        del self.headers["content-length"]
        self._desk = desk
        self._wanted = wanted
        self._stall_seconds = stall_seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, unless the client leaves before.

        Raises:
            CandlesFailedError: Before the first part; nothing has been written.
        """
        del scope
        writing = asyncio.create_task(self._write(send), name="history-write")
        leaving = asyncio.create_task(_left(receive), name="history-client")
        try:
            await asyncio.wait((writing, leaving), return_when=asyncio.FIRST_COMPLETED)
            has_left = not writing.done()
        finally:
            for task in (writing, leaving):
                task.cancel()
            await asyncio.wait((writing, leaving))
        if not has_left:
            # What it raised goes on to the handlers of errors.
            writing.result()

    async def _write(self, send: Send) -> None:
        outcome = "left"
        try:
            async with aclosing(self._desk.parts(self._wanted)) as parts:
                outcome = await self._write_parts(parts, send)
        except CandlesFailedError as error:
            outcome = error.code
            raise
        except TimeoutError:
            outcome = "stalled"
            # Without the end of the body the server closes the connection.
            log.warning("history.client_stalled", seconds=self._stall_seconds)
        except Exception:
            outcome = "failed"
            raise
        finally:
            metrics.HISTORY_REQUESTS_TOTAL.labels(outcome=outcome).inc()

    async def _write_parts(self, parts: AsyncIterator[CandlesPart], send: Send) -> str:
        """Write the object; gives the outcome for the metric."""
        # Before the response begins: what this raises decides its status.
        first = await anext(parts)
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await self._send(send, _head(self._wanted, first))
        outcome, tail = "ok", b'],"complete":true}'
        has_some = await self._candles(send, first, has_some=False)
        try:
            async for part in parts:
                has_some = await self._candles(send, part, has_some=has_some)
        except CandlesFailedError as error:
            outcome = error.code
            tail = b'],"complete":false,"error":%b}' % orjson.dumps(
                {"code": error.code, "message": error.message, "field": error.field}
            )
        await self._send(send, tail)
        await send({"type": "http.response.body", "body": b"", "more_body": False})
        return outcome

    async def _candles(self, send: Send, part: CandlesPart, *, has_some: bool) -> bool:
        """Write the candles of a part, which nobody here reads; says whether there are any now."""
        inner = memoryview(part.candles)[1:-1]
        if not inner:
            return has_some
        if has_some:
            await self._send(send, b",")
        for start in range(0, len(inner), _SLICE_BYTES):
            await self._send(send, bytes(inner[start : start + _SLICE_BYTES]))
        return True

    async def _send(self, send: Send, body: bytes) -> None:
        # The server waits here while the client does not read.
        async with asyncio.timeout(self._stall_seconds):
            await send({"type": "http.response.body", "body": body, "more_body": True})


def _head(wanted: CandlesRequest, first: CandlesPart) -> bytes:
    convention = b"null" if first.convention is None else codec.to_json(first.convention)
    return b'{"instrument_token":%d,"interval":%b,"source":%b,"convention":%b,"candles":[' % (
        wanted.instrument_token,
        orjson.dumps(wanted.interval.value),
        orjson.dumps(first.source),
        convention,
    )


async def _left(receive: Receive) -> None:
    """Wait until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _bad_span(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, BadSpanError)  # noqa: S101  # Registered for this type only.
    return error_response(400, "bad_parameter", str(error), error.field)


async def _failed(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, CandlesFailedError)  # noqa: S101  # As above.
    status = _STATUS_OF.get(error.code, 503)
    if status in {404, 422, 504}:
        return error_response(status, error.code, error.message, error.field)
    seconds = max(1, round(error.retry_after_seconds or _RETRY_SECONDS))
    return error_response(status, error.code, error.message, error.field, retry_after=str(seconds))


ERROR_HANDLERS: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = {
    BadSpanError: _bad_span,
    CandlesFailedError: _failed,
}
"""How the errors of this route become HTTP answers."""
