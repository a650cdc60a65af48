"""Every message between a WebSocket client and the gateway, as frozen structs."""

from enum import IntEnum, StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from libs.common.contracts.messages import Message, Source, Token
from libs.common.contracts.orders import AccountName

SUBPROTOCOL = "ticker.v1"
"""The WebSocket subprotocol; offering it is optional."""

BEARER_PREFIX = "bearer."
"""A client that cannot set headers offers its token as the subprotocol `bearer.<jwt>`."""

FEATURES = ("snapshot", "batch", "renew", "orders")
"""What this gateway can do beyond the plain protocol; a client asks for it by name."""

ALL_ACCOUNTS = "*"
"""In the claim `orders` of a token, and in `subscribe_orders`: every account there is."""

ORDER_ACCOUNTS_MAX = 256
"""Accounts that one message may name."""

BATCH_INTERVAL_MS_MIN = 20
BATCH_INTERVAL_MS_MAX = 1000
BATCH_INTERVAL_MS_DEFAULT = 50


class CloseCode(IntEnum):
    """Why the gateway closed a connection.

    A client that stopped reading gets a reset instead: no close frame could reach it.
    """

    POLICY = 1008
    TOO_BIG = 1009
    RESTART = 1012
    SHEDDING = 1013
    UNAUTHENTICATED = 4401
    FORBIDDEN = 4403
    AUTH_DEADLINE = 4408
    TOO_MANY_CONNECTIONS = 4429


class ErrorCode(StrEnum):
    """What was wrong, for programs; `message` says it for people."""

    INVALID_JSON = "invalid_json"
    INVALID_MESSAGE = "invalid_message"
    UNKNOWN_ACTION = "unknown_action"
    UNKNOWN_TOKEN = "unknown_token"  # noqa: S105  # The name of an error, no secret.
    TOO_MANY_TOKENS = "too_many_tokens"  # As above.
    MESSAGE_TOO_BIG = "message_too_big"
    RATE_LIMITED = "rate_limited"
    AUTH_REQUIRED = "auth_required"
    AUTH_DEADLINE = "auth_deadline"
    INVALID_TOKEN = "invalid_token"  # noqa: S105  # As above.
    TOKEN_EXPIRED = "token_expired"  # noqa: S105  # As above.
    FORBIDDEN = "forbidden"
    TOO_MANY_CONNECTIONS = "too_many_connections"


class DeliveryMode(StrEnum):
    """How ticks reach a connection."""

    TICK = "tick"
    BATCH = "batch"


class Subscribe(Message, frozen=True, kw_only=True, tag_field="action", tag="subscribe"):
    """A client wants the ticks of these instruments.

    Sent by: client. Answered with `subscribed`, then the last known tick of each instrument that
    is new to the connection. Unknown instruments are named in an `error`; the others count.

    Attributes:
        tokens: Instrument tokens; repeating one changes nothing.
        snapshot: False leaves out the last known ticks.
        mode: `tick` sends every tick as a message of its own, `batch` several in one `ticks`
            message; holds for the whole connection until changed, and left out changes nothing.
        interval_ms: How often a batch is sent.
    """

    tokens: tuple[Token, ...]
    snapshot: bool = True
    mode: DeliveryMode | None = None
    interval_ms: Annotated[int, Meta(ge=BATCH_INTERVAL_MS_MIN, le=BATCH_INTERVAL_MS_MAX)] | None = (
        None
    )


class Unsubscribe(Message, frozen=True, kw_only=True, tag_field="action", tag="unsubscribe"):
    """A client no longer wants these instruments. Sent by: client. Answered: `unsubscribed`."""

    tokens: tuple[Token, ...]


class Ping(Message, frozen=True, kw_only=True, tag_field="action", tag="ping"):
    """A client asks whether the gateway answers. Sent by: client. Answered: `pong`."""


class Authenticate(Message, frozen=True, kw_only=True, tag_field="action", tag="auth"):
    """A client proves who it is, or renews its proof before it expires.

    Sent by: client, as the first message when the handshake carried no token, or at any time.
    Answered: `connected` the first time, `authenticated` later.
    """

    token: str


class SubscribeOrders(
    Message, frozen=True, kw_only=True, tag_field="action", tag="subscribe_orders"
):
    """A client wants to know what happens to the orders of these accounts.

    Sent by: client. Answered: `orders_subscribed`, then an `order` message per event. The token
    must allow each account in its claim `orders`: a list of accounts, or `*`.

    Attributes:
        accounts: Which; `*` for every account that the token allows, those to come included.
    """

    accounts: Annotated[tuple[AccountName, ...], Meta(max_length=ORDER_ACCOUNTS_MAX)]


class UnsubscribeOrders(
    Message, frozen=True, kw_only=True, tag_field="action", tag="unsubscribe_orders"
):
    """A client no longer wants these accounts' orders. Sent by: client. As `SubscribeOrders`."""

    accounts: Annotated[tuple[AccountName, ...], Meta(max_length=ORDER_ACCOUNTS_MAX)]


ClientMessage = Subscribe | Unsubscribe | SubscribeOrders | UnsubscribeOrders | Ping | Authenticate


class User(Message, frozen=True, kw_only=True, omit_defaults=True):
    """Who the token says the client is."""

    user_id: str
    email: str | None = None
    name: str | None = None


class Connected(Message, frozen=True, kw_only=True, tag_field="type", tag="connected"):
    """The client is authenticated and may subscribe. Sent by: gateway, first of all messages.

    Attributes:
        connection_id: Names the connection in logs.
        user: From the token.
        features: Additions to the protocol that this gateway offers.
        source: What has been flowing lately: `live`, `sim`, or null when nothing or both did.
    """

    connection_id: str
    user: User
    features: tuple[str, ...] = FEATURES
    source: Source | None = None


class Authenticated(Message, frozen=True, kw_only=True, tag_field="type", tag="authenticated"):
    """A renewed token was accepted; the connection lives on. Sent by: gateway."""

    user: User
    expires_at: Annotated[int, Meta(description="Unix epoch, seconds")]


class Subscribed(Message, frozen=True, kw_only=True, tag_field="type", tag="subscribed"):
    """These instruments are subscribed now. Sent by: gateway.

    Attributes:
        tokens: The known ones among those asked for, in the order given, each once.
        total: How many instruments the connection has.
    """

    tokens: tuple[Token, ...]
    total: int


class Unsubscribed(Message, frozen=True, kw_only=True, tag_field="type", tag="unsubscribed"):
    """No tick of these instruments follows any more. Sent by: gateway."""

    tokens: tuple[Token, ...]
    total: int


class OrdersSubscribed(
    Message, frozen=True, kw_only=True, tag_field="type", tag="orders_subscribed"
):
    """Of these accounts' orders the client is told now. Sent by: gateway.

    Attributes:
        accounts: All that the connection has, by name.
    """

    accounts: tuple[str, ...]


class OrderMessage(Message, frozen=True, kw_only=True, tag_field="type", tag="order"):
    """Something happened to an order. Sent by: gateway.

    `data` is the event that orders published (`orders.OrderEvent`), byte for byte. `data.seq` shows
    repetitions, and gaps: a client that does not read loses events, which REST still tells.
    """

    data: msgspec.Raw


class TickMessage(Message, frozen=True, kw_only=True, tag_field="type", tag="tick"):
    """An instrument changed. Sent by: gateway, in mode `tick`.

    `data` is the object that greeks published (`messages.Tick`), byte for byte. Values that a
    client is too slow for are replaced by newer ones; `data.seq` shows the gap.
    """

    data: msgspec.Raw


class TicksMessage(
    Message, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="ticks"
):
    """Several instruments changed. Sent by: gateway, in mode `batch`.

    Attributes:
        data: The newest tick of each instrument that changed since the last batch.
        conflated: How many older ticks of the connection were replaced by these; left out when
            none was.
    """

    data: tuple[msgspec.Raw, ...]
    conflated: int = 0


class ErrorMessage(
    Message, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag="error"
):
    """Something the client sent cannot be done. Sent by: gateway. Nobody else is affected.

    Attributes:
        message: What is wrong and what would be right, for people.
        code: The same for programs.
        field: The part of the client's message that is wrong, when one is.
        tokens: The instruments it is about, twenty at most.
    """

    message: str
    code: ErrorCode
    field: str | None = None
    tokens: tuple[Token, ...] | None = None


class Pong(Message, frozen=True, kw_only=True, tag_field="type", tag="pong"):
    """The answer to `ping`. Sent by: gateway."""


ServerMessage = (
    Connected
    | Authenticated
    | Subscribed
    | Unsubscribed
    | OrdersSubscribed
    | OrderMessage
    | TickMessage
    | TicksMessage
    | ErrorMessage
    | Pong
)
