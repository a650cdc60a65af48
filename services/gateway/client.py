"""One WebSocket client: from its first message to its last, over whatever wire it came."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet

from starlette.types import Message, Receive

from libs.common import logs
from libs.common.contracts import codec
from libs.common.contracts.websocket import (
    ALL_ACCOUNTS,
    BATCH_INTERVAL_MS_DEFAULT,
    Authenticate,
    Authenticated,
    CloseCode,
    Connected,
    DeliveryMode,
    ErrorCode,
    ErrorMessage,
    OrdersSubscribed,
    Ping,
    Pong,
    ServerMessage,
    Subscribe,
    Subscribed,
    SubscribeOrders,
    Unsubscribe,
    Unsubscribed,
    UnsubscribeOrders,
)
from services.gateway import metrics
from services.gateway.directory import Directory
from services.gateway.domain import client_message
from services.gateway.domain.limits import ConnectionQuota, MessageRate
from services.gateway.domain.outbox import Outbox
from services.gateway.domain.ws_frames import text_frame
from services.gateway.errors import ClientMessageError, ConnectionEndedError
from services.gateway.fanout import Fanout
from services.gateway.identity import Identity, TokenVerifier
from services.gateway.order_events import OrderEvents
from services.gateway.settings import GatewaySettings
from services.gateway.wire import CONTROL_BYTES_MAX, Wire

_PONG = text_frame(codec.to_json(Pong()))

log = logs.get_logger(__name__)


class DisconnectedError(Exception):
    """The client has gone; there is nobody to tell anything."""


class Client:
    """An accepted connection.

    Control messages are written at once and lose nothing; ticks wait in the outbox, where a newer
    one replaces an older.

    Attributes:
        connection_id: Names the connection in logs and in the greeting.
        outbox: Ticks that wait.
        wire: Where they go.
    """

    def __init__(
        self,
        *,
        wire: Wire,
        receive: Receive,
        fanout: Fanout,
        order_events: OrderEvents,
        directory: Directory,
        verifier: TokenVerifier,
        quota: ConnectionQuota,
        settings: GatewaySettings,
    ) -> None:
        self.connection_id = secrets.token_hex(8)
        self.outbox = Outbox()
        self.wire = wire
        self._receive = receive
        self._fanout = fanout
        self._order_events = order_events
        self._directory = directory
        self._verifier = verifier
        self._quota = quota
        self._settings = settings
        self._tokens: dict[int, None] = {}
        self._orders: set[str] = set()
        self._rate = MessageRate(settings.messages_per_second_max, time.monotonic())
        self._identity: Identity | None = None
        self._expiry_timer: asyncio.TimerHandle | None = None
        fanout.watch(wire, self.connection_id)
        wire.attach(self)

    # -- the wire speaks -------------------------------------------------------------------------

    def wire_resumed(self) -> None:
        """The client reads again."""
        self._fanout.wake(self)

    def wire_lost(self) -> None:
        """The connection is gone for good."""
        self._fanout.unwatch(self.wire)

    # -- its life --------------------------------------------------------------------------------

    async def serve(self, token: str | None) -> None:
        """Authenticate the client, then follow its messages until it leaves or a rule ends it.

        Args:
            token: What the handshake carried; None lets the first message prove who it is.
        """
        try:
            if token is None:
                token = await self._first_message()
            identity = self._verifier.verify(token)
            with self._admitted(identity):
                self._send(
                    Connected(
                        connection_id=self.connection_id,
                        user=identity.user,
                        source=self._fanout.source,
                    )
                )
                while True:
                    self._follow(await self._next())
        except DisconnectedError:
            log.debug("client.disconnected", connection=self.connection_id)
        except ConnectionEndedError as error:
            self._end(error)

    @contextlib.contextmanager
    def _admitted(self, identity: Identity) -> Iterator[None]:
        """Hold one of the user's places and a place in the fan-out.

        Raises:
            ConnectionEndedError: The user has no place left.
        """
        user_id = identity.user.user_id
        if not self._quota.admit(user_id):
            raise ConnectionEndedError(
                ErrorCode.TOO_MANY_CONNECTIONS,
                f"a user may have {self._settings.connections_per_user_max} connections",
                CloseCode.TOO_MANY_CONNECTIONS,
            )
        self._fanout.join(self)
        self._prove(identity)
        log.debug("client.connected", connection=self.connection_id)
        try:
            yield
        finally:
            if self._expiry_timer is not None:
                self._expiry_timer.cancel()
            self._fanout.leave(self, self._tokens)
            self._order_events.unsubscribe(self, self._orders)
            self._quota.dismiss(user_id)

    async def _next(self) -> bytes:
        """Wait for a message.

        Raises:
            DisconnectedError: The client has gone, or was closed by us.
            ConnectionEndedError: It sends too many.
        """
        event: Message = await self._receive()
        if event["type"] != "websocket.receive":
            raise DisconnectedError
        if not self._rate.allows(time.monotonic()):
            raise ConnectionEndedError(
                ErrorCode.RATE_LIMITED,
                f"more than {self._settings.messages_per_second_max:g} messages a second; "
                "send one list of tokens instead of many",
                CloseCode.POLICY,
            )
        text = event.get("text")
        if text is None:
            data: bytes = event.get("bytes") or b""
            return data
        return str(text).encode("utf-8", "surrogatepass")

    async def _first_message(self) -> str:
        try:
            async with asyncio.timeout(self._settings.auth_deadline_seconds):
                data = await self._next()
        except TimeoutError as error:
            raise ConnectionEndedError(
                ErrorCode.AUTH_DEADLINE,
                f"no token came within {self._settings.auth_deadline_seconds:g} s",
                CloseCode.AUTH_DEADLINE,
            ) from error
        try:
            message = client_message.read(data)
        except ClientMessageError as error:
            raise ConnectionEndedError(
                error.code, error.message, CloseCode.UNAUTHENTICATED
            ) from error
        if not isinstance(message, Authenticate):
            raise ConnectionEndedError(
                ErrorCode.AUTH_REQUIRED,
                'the first message must be {"action":"auth","token":"…"} when the handshake '
                "carried no token",
                CloseCode.UNAUTHENTICATED,
            )
        return message.token

    def _prove(self, identity: Identity) -> None:
        """Take an identity over, and end the connection when it expires."""
        self._identity = identity
        if self._expiry_timer is not None:
            self._expiry_timer.cancel()
        left_seconds = identity.expires_at + self._settings.jwt_leeway_seconds - time.time()
        self._expiry_timer = asyncio.get_running_loop().call_later(
            max(0.0, left_seconds), self._expire
        )

    def _expire(self) -> None:
        self._end(
            ConnectionEndedError(
                ErrorCode.TOKEN_EXPIRED,
                "the token has expired; connect again with a new one",
                CloseCode.UNAUTHENTICATED,
            )
        )

    def _end(self, error: ConnectionEndedError) -> None:
        metrics.CONNECTIONS_ENDED_TOTAL.labels(reason=error.code.value).inc()
        log.info("client.ended", connection=self.connection_id, code=error.code.value)
        self._send(ErrorMessage(message=error.message, code=error.code))
        self.wire.close(error.close_code, error.code.value)

    # -- its messages ----------------------------------------------------------------------------

    def _follow(self, data: bytes) -> None:
        try:
            message = client_message.read(data)
            match message:
                case Subscribe():
                    self._subscribe(message)
                case Unsubscribe():
                    self._unsubscribe(message)
                case SubscribeOrders():
                    self._subscribe_orders(message)
                case UnsubscribeOrders():
                    self._leave_orders(self._orders.intersection(message.accounts))
                case Ping():
                    self._write(_PONG)
                case Authenticate():
                    self._renew(message)
        except ClientMessageError as error:
            self._tell(error)

    def _subscribe(self, message: Subscribe) -> None:
        asked = client_message.distinct(message.tokens)
        fresh = [token for token in asked if token not in self._tokens]
        limit = self._settings.tokens_per_connection_max
        if len(self._tokens) + len(fresh) > limit:
            raise client_message.too_many_tokens(len(self._tokens) + len(fresh), limit)
        unknown = self._directory.unknown(asked)
        if unknown:
            self._tell(client_message.unknown_tokens(unknown))
            rejected = frozenset(unknown)
            asked = tuple(token for token in asked if token not in rejected)
            fresh = [token for token in fresh if token not in rejected]
        if message.mode is DeliveryMode.BATCH or (
            message.mode is None and message.interval_ms is not None
        ):
            self._fanout.send_batches(self, message.interval_ms or BATCH_INTERVAL_MS_DEFAULT)
        elif message.mode is DeliveryMode.TICK:
            self._fanout.send_every_tick(self)
        self._tokens.update(dict.fromkeys(fresh))
        # Before the snapshot: an old client expects the answer first.
        self._send(Subscribed(tokens=asked, total=len(self._tokens)))
        self._fanout.subscribe(self, fresh, snapshot=message.snapshot)

    def _unsubscribe(self, message: Unsubscribe) -> None:
        asked = client_message.distinct(message.tokens)
        gone = [token for token in asked if token in self._tokens]
        for token in gone:
            del self._tokens[token]
        self._fanout.unsubscribe(self, gone)
        self._send(Unsubscribed(tokens=tuple(gone), total=len(self._tokens)))

    def _subscribe_orders(self, message: SubscribeOrders) -> None:
        asked = set(message.accounts)
        identity = self._identity
        opened = frozenset() if identity is None else identity.orders
        if ALL_ACCOUNTS in asked and ALL_ACCOUNTS not in opened:
            # All that the token opens.
            asked = (asked - {ALL_ACCOUNTS}) | opened
        refused = sorted(
            account for account in asked if identity is None or not identity.may_watch(account)
        )
        if refused or not asked:
            raise client_message.forbidden_accounts(refused or message.accounts or ("any",))
        self._orders |= asked
        self._order_events.subscribe(self, asked)
        self._tell_orders()

    def _leave_orders(self, accounts: AbstractSet[str]) -> None:
        self._order_events.unsubscribe(self, accounts)
        self._orders -= accounts
        self._tell_orders()

    def _tell_orders(self) -> None:
        self._send(OrdersSubscribed(accounts=tuple(sorted(self._orders))))

    def _renew(self, message: Authenticate) -> None:
        identity = self._verifier.verify(message.token)
        if self._identity is not None and identity.user.user_id != self._identity.user.user_id:
            raise ConnectionEndedError(
                ErrorCode.FORBIDDEN, "the new token names another user", CloseCode.FORBIDDEN
            )
        self._prove(identity)
        closed = {account for account in self._orders if not identity.may_watch(account)}
        if closed:
            self._leave_orders(closed)
        self._send(Authenticated(user=identity.user, expires_at=identity.expires_at))

    # -- answers ---------------------------------------------------------------------------------

    def _tell(self, error: ClientMessageError) -> None:
        metrics.CLIENT_ERRORS_TOTAL.labels(code=error.code.value).inc()
        self._send(
            ErrorMessage(
                message=error.message, code=error.code, field=error.field, tokens=error.tokens
            )
        )

    def _send(self, message: ServerMessage) -> None:
        self._write(text_frame(codec.to_json(message)))

    def _write(self, frame: bytes) -> None:
        self.wire.write(frame)
        if self.wire.waiting_bytes() > CONTROL_BYTES_MAX and self.wire.is_open:
            # It keeps asking and never reads the answers; no close frame would reach it either.
            metrics.CONNECTIONS_ENDED_TOTAL.labels(reason="control_overflow").inc()
            log.info("client.reset", connection=self.connection_id, reason="control_overflow")
            self.wire.reset()


ClientFactory = Callable[[Wire, Receive], Client]
