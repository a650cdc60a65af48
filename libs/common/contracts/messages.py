"""Every message that crosses a process boundary on the bus, as frozen structs."""

from datetime import date
from enum import StrEnum
from typing import Annotated

import msgspec
from msgspec import Meta

from libs.common.domain.instruments import Instrument, Kind, OptionType

EpochNs = Annotated[int, Meta(ge=0, description="Unix epoch, nanoseconds, UTC")]
Price = Annotated[float, Meta(description="rupees")]
Token = Annotated[int, Meta(ge=0, le=0xFFFFFFFF, description="Kite instrument_token")]


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all messages: immutable, by keyword, compared by value."""


class Source(StrEnum):
    """Where market data comes from; synthetic data never calls itself live."""

    LIVE = "live"
    SIM = "sim"


class StreamMode(StrEnum):
    """How much of an instrument the broker streams, least first."""

    LTP = "ltp"
    QUOTE = "quote"
    FULL = "full"


class IvStatus(StrEnum):
    """Why a row has, or has not, an implied volatility."""

    OK = "ok"
    BAD_INPUT = "bad_input"
    NO_PRICE = "no_price"
    BELOW_INTRINSIC = "below_intrinsic"
    ABOVE_MAX = "above_max"
    EXPIRED = "expired"
    EXPIRING = "expiring"
    LOW_VEGA = "low_vega"
    STALE_FORWARD = "stale_forward"
    CROSSED = "crossed"
    NO_FORWARD = "no_forward"


class ForwardSource(StrEnum):
    """What a forward was made from, best first."""

    FUTURE = "future"
    SYNTHETIC = "synthetic"
    SPOT = "spot"


class Ohlc(Message, frozen=True, kw_only=True):
    """The day's open, high and low, and the previous session's close, in rupees."""

    open: Price
    high: Price
    low: Price
    close: Price


class DepthLevel(Message, frozen=True, kw_only=True):
    """One level of the order book."""

    price: Price
    quantity: int
    orders: int


class Depth(Message, frozen=True, kw_only=True):
    """Five levels a side, best first; levels without quantity are left out."""

    buy: tuple[DepthLevel, ...]
    sell: tuple[DepthLevel, ...]


class Tick(Message, frozen=True, kw_only=True):
    """An instrument changed; its newest state, with Greeks when it is an option.

    Sent by: greeks. Read by: gateway (as bytes), any NATS subscriber.
    Subject: `md.tick.v1.<underlying>` (one JSON object per line) and, at most once a second per
    instrument, `md.last.v1.<underlying>.<token>`. Delivery: at most once live; MD_TICKS keeps
    five minutes. A number that does not exist is null, never 0.
    """

    instrument_token: Token
    tradingsymbol: str
    underlying: str
    kind: Kind
    expiry: date | None = None
    strike: Price | None = None
    option_type: OptionType | None = None
    last_price: Price | None = None
    bid: Price | None = None
    ask: Price | None = None
    bid_qty: int | None = None
    ask_qty: int | None = None
    volume: Annotated[int, Meta(description="contracts or shares traded today")] | None = None
    oi: Annotated[int, Meta(description="open interest")] | None = None
    change: Annotated[float, Meta(description="percent from the previous close")] | None = None
    ohlc: Ohlc | None = None
    depth: Depth | None = None
    iv: Annotated[float, Meta(description="from the last price, per year, 0.15 = 15 %")] | None = (
        None
    )
    bid_iv: float | None = None
    ask_iv: float | None = None
    smile_iv: Annotated[float, Meta(description="of the strike's out-of-the-money leg")] | None = (
        None
    )
    delta: Annotated[float, Meta(description="per rupee of forward")] | None = None
    gamma: Annotated[float, Meta(description="delta per rupee of forward")] | None = None
    theta: Annotated[float, Meta(description="rupees per calendar day")] | None = None
    vega: Annotated[float, Meta(description="rupees per volatility point")] | None = None
    rho: Annotated[float, Meta(description="rupees per 1 % of rate")] | None = None
    iv_status: IvStatus | None = None
    forward: Price | None = None
    forward_source: ForwardSource | None = None
    tte: Annotated[float, Meta(description="years to expiry, ACT/365 by seconds")] | None = None
    seq: Annotated[int, Meta(description="counts up per instrument within an epoch")]
    epoch: Annotated[int, Meta(description="lease term of the shard; a new one restarts seq")]
    exchange_ts: EpochNs | None = None
    ingest_ts: EpochNs
    greeks_ts: EpochNs
    source: Source


class Forward(Message, frozen=True, kw_only=True):
    """The forward of one expiry was computed.

    Sent by: greeks. Read by: control, any NATS subscriber.
    Subject: `md.forward.v1.<underlying>.<expiry>`. Delivery: at most once live; the newest of
    each subject stays in MD_FORWARDS for a day.
    """

    underlying: str
    expiry: date
    forward: Price
    source: ForwardSource
    spot: Price | None = None
    basis: Annotated[float, Meta(description="forward minus spot, rupees")] | None = None
    dispersion: (
        Annotated[float, Meta(description="spread of the parity forwards, rupees")] | None
    ) = None
    atm_strike: Price | None = None
    atm_iv: float | None = None
    straddle: Annotated[float, Meta(description="ATM call plus put, rupees")] | None = None
    tte: float
    exchange_ts: EpochNs | None = None
    greeks_ts: EpochNs
    feed: Source


class PlannedGroup(Message, frozen=True, kw_only=True):
    """Tokens of one underlying that a connection streams in one mode."""

    underlying: str
    mode: StreamMode
    tokens: tuple[Token, ...]


class PlannedConnection(Message, frozen=True, kw_only=True):
    """What one WebSocket connection of an account streams."""

    groups: tuple[PlannedGroup, ...]


class AccountPlan(Message, frozen=True, kw_only=True):
    """An account's share of the subscription plan was decided.

    Sent by: control. Read by: ingest (subscribes by difference), gateway (counts).
    Bucket: `plan`, key = escaped account. An account without tokens keeps an empty plan.
    """

    account: str
    revision: Annotated[int, Meta(ge=1, description="counts up with every change of the plan")]
    connections: tuple[PlannedConnection, ...]
    planned_at_ns: EpochNs

    @property
    def total(self) -> int:
        """How many instruments the account streams."""
        return sum(len(g.tokens) for c in self.connections for g in c.groups)


class KiteSession(Message, frozen=True, kw_only=True):
    """An account was logged in; with this a feed can connect.

    Sent by: control. Read by: ingest. Bucket: `kite_sessions`, key = escaped account; the value
    is Fernet-encrypted under ACCOUNT_ENCRYPTION_KEY.
    """

    account: str
    api_key: str
    access_token: str
    user_id: str
    ws_url: Annotated[str, Meta(description="root of the market-data WebSocket")]
    source: Source
    minted_at_ns: EpochNs


class InstrumentSet(Message, frozen=True, kw_only=True):
    """The instruments of one underlying, from one day's dump.

    Sent by: control. Read by: greeks (its shards), gateway (which tokens exist).
    Bucket: `instruments`, key = escaped underlying, MessagePack.
    """

    underlying: str
    revision: Annotated[int, Meta(description="of the dump; counts up")]
    market_date: date
    instruments: tuple[Instrument, ...]


class Checkpoint(Message, frozen=True, kw_only=True):
    """A shard's frames up to here are worked into published ticks.

    Sent by and read by: greeks. Bucket: `checkpoints`, key = shard number.
    """

    shard: int
    sequence: Annotated[int, Meta(ge=0, description="stream sequence in MD_FRAMES")]
    epoch: int


class FeedState(StrEnum):
    """What an account's feed is doing."""

    WAITING_SESSION = "waiting_session"
    CONNECTING = "connecting"
    STREAMING = "streaming"
    PARKED = "parked"
    BACKING_OFF = "backing_off"


class FeedStatus(Message, frozen=True, kw_only=True):
    """How an account's feed fares, said by its holder every two seconds.

    Sent by: ingest. Read by: gateway (`/health`), operator. Bucket: `status`, key
    `feed-<account>`.
    """

    account: str
    worker: str
    state: FeedState
    reason: str = ""
    connections: int
    tokens: int
    frames_total: int
    ticks_total: int
    dropped_total: int
    plan_revision: int
    last_frame_ns: EpochNs | None = None
    session_minted_at_ns: EpochNs | None = None
    at_ns: EpochNs


class GreeksStatus(Message, frozen=True, kw_only=True):
    """How a greeks worker fares, said every two seconds.

    Sent by: greeks. Read by: operator, gateway. Bucket: `status`, key `greeks-<worker>`.
    """

    worker: str
    shards: tuple[int, ...]
    instruments: int
    ticks_total: int
    conflated_total: int
    lag_messages: int
    at_ns: EpochNs


class ControlStatus(Message, frozen=True, kw_only=True):
    """How the leading control process fares, said every two seconds.

    Sent by: control. Read by: operator, gateway (`/health`). Bucket: `status`, key `control`.
    """

    worker: str
    plan_revision: int
    planned: int
    unplaced: int
    instruments: int
    instruments_revision: int
    market_date: date | None = None
    accounts: dict[str, str] = {}
    at_ns: EpochNs


class OrderUpdate(Message, frozen=True, kw_only=True):
    """The broker pushed an order update over a market-data connection.

    Sent by: ingest. Read by: orders. Subject: `order.update.v1.<account>`. `data` is Kite's own
    postback object, untouched.
    """

    account: str
    received_at_ns: EpochNs
    data: msgspec.Raw
