"""One WebSocket connection to Kite: connect, subscribe by difference, watch for silence."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from urllib.parse import quote

import websockets.asyncio.client as ws_client
from websockets.exceptions import (
    ConnectionClosed,
    InvalidHandshake,
    InvalidStatus,
    WebSocketException,
)
from websockets.protocol import State

from libs.common import logs
from libs.common.bus.lease import Lease, LeaseEnd
from libs.common.contracts.messages import KiteSession, StreamMode
from services.ingest import metrics
from services.ingest.domain import subscriptions
from services.ingest.domain.causes import Cause, of_close, of_handshake
from services.ingest.errors import FeedLostError, SessionRefusedError
from services.ingest.frame_publisher import FramePublisher
from services.ingest.settings import IngestSettings

# 3000 full packets in one frame are 558 kB; what is larger is not a market-data frame.
MAX_FRAME_BYTES = 4 * 1024 * 1024
# Frames that wait inside the client before reading pauses and TCP holds the broker back.
MAX_WAITING_FRAMES = 64
_CLOSE_TIMEOUT_SECONDS = 0.5

log = logs.get_logger(__name__)


class FeedConnection:
    """One attempt to stream: from the handshake until the connection ends.

    Args:
        session: With whose token to connect.
        number: Which connection of the account this is, from 0.
        lease: The account's lease: without it a socket is not closed politely but at once.
        publisher: Where frames go.
        settings: Time limits.
    """

    def __init__(
        self,
        session: KiteSession,
        *,
        number: int,
        lease: Lease,
        publisher: FramePublisher,
        settings: IngestSettings,
    ) -> None:
        self.session = session
        self._number = number
        self._lease = lease
        self._publisher = publisher
        self._settings = settings
        self._current: dict[int, StreamMode] = {}
        self._seq = 0
        self._last_frame = 0.0
        self._cause: Cause | None = None
        self._ending: Cause | None = None

    @property
    def tokens(self) -> Mapping[int, StreamMode]:
        """The instruments this connection has asked for."""
        return self._current

    def end(self, cause: Cause) -> None:
        """Have `run` raise FeedLostError with this cause; set its `changed` afterwards."""
        self._ending = cause

    async def run(
        self,
        wanted: Callable[[], Mapping[int, StreamMode]],
        changed: asyncio.Event,
        stop: asyncio.Event,
        on_streaming: Callable[[], None],
    ) -> None:
        """Stream until `stop` is set or nothing is wanted any more.

        Args:
            wanted: What this connection should stream now.
            changed: Set whenever `wanted` may have changed; this method clears it.
            stop: Ends the connection, also in the middle of its handshake.
            on_streaming: Called once, when the first frame has come.

        Raises:
            SessionRefusedError: The handshake was refused with 403.
            FeedLostError: The connection could not be made, ended unasked, or by `end`.
        """
        socket = await self._connect_unless(stop)
        if socket is None:
            return
        metrics.CONNECTED.labels(account=self.session.account).inc()
        log.info("feed.connected", account=self.session.account, connection=self._number)
        self._last_frame = time.monotonic()
        tasks = (
            asyncio.create_task(self._receive(socket, on_streaming), name="feed-receive"),
            asyncio.create_task(self._steer(socket, wanted, changed, stop), name="feed-steer"),
            asyncio.create_task(self._watch_silence(socket), name="feed-watchdog"),
            # Beside the others, since a command may be stuck in a socket that nobody reads.
            asyncio.create_task(stop.wait(), name="feed-stop"),
        )
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            metrics.CONNECTED.labels(account=self.session.account).dec()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._close(socket)

    async def _connect_unless(self, stop: asyncio.Event) -> ws_client.ClientConnection | None:
        """Connect; None, without a socket left behind, when `stop` is set before that."""
        connecting = asyncio.create_task(self._connect(), name="feed-connect")
        stopping = asyncio.create_task(stop.wait(), name="feed-stop")
        wanted = False
        try:
            await asyncio.wait((connecting, stopping), return_when=asyncio.FIRST_COMPLETED)
            wanted = connecting.done() and not stop.is_set()
        finally:
            stopping.cancel()
            connecting.cancel()
            await asyncio.gather(connecting, stopping, return_exceptions=True)
            if not (wanted or connecting.cancelled() or connecting.exception()):
                connecting.result().transport.abort()
        return connecting.result() if wanted else None

    async def _connect(self) -> ws_client.ClientConnection:
        session = self.session
        url = (
            f"{session.ws_url.rstrip('/')}/?api_key={quote(session.api_key, safe='')}"
            f"&access_token={quote(session.access_token, safe='')}"
        )
        try:
            # The library's own timeout and not asyncio.wait_for, which may swallow a
            # cancellation on Python 3.11.
            return await ws_client.connect(
                url,
                compression=None,
                open_timeout=self._settings.connect_timeout_seconds,
                close_timeout=_CLOSE_TIMEOUT_SECONDS,
                # Silence is judged by frames of any kind; a ping of ours would only add traffic.
                ping_interval=None,
                max_size=MAX_FRAME_BYTES,
                max_queue=MAX_WAITING_FRAMES,
                additional_headers={"X-Kite-Version": "3"},
                user_agent_header="tickfleet",
                proxy=None,
            )
        except InvalidStatus as error:
            status = error.response.status_code
            cause = of_handshake(status)
            if cause is Cause.SESSION_REFUSED:
                raise SessionRefusedError(reason=f"HTTP {status} at the handshake") from None
            raise FeedLostError(cause=cause, reason=f"HTTP {status} at the handshake") from None
        except TimeoutError:
            raise FeedLostError(cause=Cause.TIMEOUT, reason="the handshake took too long") from None
        except InvalidHandshake as error:
            reason = f"{type(error).__name__}: {error}"
            raise FeedLostError(cause=Cause.HANDSHAKE, reason=reason) from None
        except (OSError, WebSocketException) as error:
            # `from None` everywhere here: the chained exceptions hold the URL with its token.
            reason = f"{type(error).__name__}: {error}"
            raise FeedLostError(cause=Cause.REFUSED, reason=reason) from None

    async def _receive(
        self, socket: ws_client.ClientConnection, on_streaming: Callable[[], None]
    ) -> None:
        publisher = self._publisher
        source = self.session.source
        try:
            while True:
                payload = await socket.recv()
                self._last_frame = time.monotonic()
                if self._seq == 0:
                    on_streaming()
                self._seq += 1
                if isinstance(payload, bytes):
                    await publisher.binary(
                        payload, connection=self._number, seq=self._seq, source=source
                    )
                else:
                    await publisher.text(payload, connection=self._number)
        except ConnectionClosed as error:
            cause = self._cause or of_close(error.rcvd.code if error.rcvd else None)
            raise FeedLostError(cause=cause, reason=str(error)) from error

    async def _steer(
        self,
        socket: ws_client.ClientConnection,
        wanted: Callable[[], Mapping[int, StreamMode]],
        changed: asyncio.Event,
        stop: asyncio.Event,
    ) -> None:
        """Keep the subscriptions equal to what is wanted; return when the connection should end."""
        stopping = asyncio.create_task(stop.wait(), name="feed-stop")
        try:
            while not stop.is_set():
                changed.clear()
                if self._ending is not None:
                    raise FeedLostError(cause=self._ending, reason="asked to connect anew")
                target = dict(wanted())
                if not target:
                    return
                try:
                    for command in subscriptions.commands(self._current, target):
                        await socket.send(command)
                except ConnectionClosed as error:
                    cause = self._cause or of_close(error.rcvd.code if error.rcvd else None)
                    raise FeedLostError(cause=cause, reason=str(error)) from error
                if target != self._current:
                    log.info(
                        "feed.subscribed",
                        account=self.session.account,
                        connection=self._number,
                        added=len(target.keys() - self._current.keys()),
                        removed=len(self._current.keys() - target.keys()),
                        total=len(target),
                    )
                    self._current = target
                waiting = asyncio.create_task(changed.wait(), name="feed-changed")
                try:
                    await asyncio.wait((waiting, stopping), return_when=asyncio.FIRST_COMPLETED)
                finally:
                    waiting.cancel()
                    await asyncio.gather(waiting, return_exceptions=True)
        finally:
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)

    async def _watch_silence(self, socket: ws_client.ClientConnection) -> None:
        """Abort a socket that carries no frame of any kind: nothing else would ever notice."""
        limit = self._settings.silence_limit_seconds
        while True:
            left = self._last_frame + limit - time.monotonic()
            if left <= 0:
                self._cause = Cause.SILENT
                log.warning(
                    "feed.silent",
                    account=self.session.account,
                    connection=self._number,
                    limit_seconds=limit,
                )
                socket.transport.abort()
                raise FeedLostError(cause=Cause.SILENT, reason=f"no frame for {limit} s")
            await asyncio.sleep(left)

    async def _close(self, socket: ws_client.ClientConnection) -> None:
        # A lost lease leaves no time for manners: somebody else may connect within half a second.
        polite = self._lease.is_valid() or self._lease.end is LeaseEnd.RELEASED
        if polite and socket.state is not State.CLOSED:
            with contextlib.suppress(OSError, WebSocketException, TimeoutError):
                await socket.close()
        socket.transport.abort()
