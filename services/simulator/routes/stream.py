"""The WebSocket at `/`: handshake, client commands in, frames and heartbeats out."""

import asyncio

from starlette.requests import HTTPConnection
from starlette.responses import Response
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect

from libs.common import logs
from services.simulator import metrics
from services.simulator.access import refusal
from services.simulator.domain.faults import FaultBook, FaultKind
from services.simulator.domain.sessions import Session, Sessions
from services.simulator.errors import TokenError, TooManyRequestsError
from services.simulator.feed import Connection, Feed
from services.simulator.protocols import TRANSPORT

log = logs.get_logger(__name__)

_CLOSE_PATIENCE_SECONDS = 2.0


class StreamRoute:
    """The ticker endpoint.

    Args:
        sessions: Know the access tokens.
        feed: Admits connections and fills their outboxes.
        faults: May refuse handshakes.
        heartbeat_seconds: Silence after which a sign of life is sent.
    """

    def __init__(
        self, sessions: Sessions, feed: Feed, faults: FaultBook, *, heartbeat_seconds: float
    ) -> None:
        self._sessions = sessions
        self._feed = feed
        self._faults = faults
        self._heartbeat_seconds = heartbeat_seconds

    def route(self) -> WebSocketRoute:
        """The route of this area."""
        return WebSocketRoute("/", self.stream)

    async def stream(self, websocket: WebSocket) -> None:
        """Serve one connection from handshake to close."""
        api_key = websocket.query_params.get("api_key", "")
        fault = self._faults.strike(FaultKind.REFUSED_HANDSHAKE, api_key)
        if fault is not None:
            metrics.FAULTS_TOTAL.labels(kind=fault.kind.value).inc()
            await websocket.send_denial_response(Response(status_code=fault.status or 503))
            return
        try:
            session = self._session(websocket, api_key)
        except TokenError as error:
            await websocket.send_denial_response(refusal(error))
            return
        connection = self._feed.connect(session, websocket.scope["state"].get(TRANSPORT))
        if connection is None:
            await websocket.send_denial_response(refusal(TooManyRequestsError()))
            return
        log.info("stream.opened", user=session.account.user_id, connections=len(self._feed))
        try:
            await websocket.accept()
            await self._serve(websocket, connection)
        finally:
            self._feed.disconnect(connection)
            log.info("stream.closed", user=session.account.user_id, connections=len(self._feed))

    def _session(self, websocket: HTTPConnection, api_key: str) -> Session:
        return self._sessions.verify(api_key, websocket.query_params.get("access_token", ""))

    async def _serve(self, websocket: WebSocket, connection: Connection) -> None:
        """Run until the client leaves, the socket breaks, or a close is asked for."""
        work = [
            asyncio.create_task(self._read(websocket, connection), name="stream-read"),
            asyncio.create_task(self._write(websocket, connection), name="stream-write"),
            asyncio.create_task(connection.close_requested.wait(), name="stream-close"),
        ]
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in work:
                task.cancel()
            outcomes = await asyncio.gather(*work, return_exceptions=True)
        if connection.close_requested.is_set():
            try:
                async with asyncio.timeout(_CLOSE_PATIENCE_SECONDS):
                    await websocket.close(1000)
            except TimeoutError:
                # A client that does not read blocks the close frame as well.
                connection.abort()
            except (WebSocketDisconnect, RuntimeError):
                log.debug("stream.gone_before_close")
            return
        for outcome in outcomes:
            if isinstance(outcome, Exception) and not isinstance(outcome, WebSocketDisconnect):
                raise outcome

    async def _read(self, websocket: WebSocket, connection: Connection) -> None:
        while True:
            message = await websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            if text is not None:
                self._feed.handle_text(connection, text)

    async def _write(self, websocket: WebSocket, connection: Connection) -> None:
        while True:
            item = await connection.outbox.get(self._heartbeat_seconds)
            if self._feed.is_silent(connection):
                continue
            if item is None:
                await websocket.send_bytes(self._feed.heartbeat())
            elif isinstance(item, str):
                await websocket.send_text(item)
            else:
                await websocket.send_bytes(self._feed.spoil(item, connection.api_key))
                connection.frames_sent += 1
                self._feed.frames_sent += 1
                metrics.FRAMES_SENT_TOTAL.inc()
