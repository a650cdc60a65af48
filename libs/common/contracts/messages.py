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


class PricingModel(StrEnum):
    """What options are priced with: Black-76 on the forward, or BSM on the spot."""

    BLACK76 = "black76"
    BSM = "bsm"


class YearClock(StrEnum):
    """How time to expiry becomes years."""

    ACT365 = "act365"
    TRADING252 = "trading252"


class GreeksFrom(StrEnum):
    """At which volatility the Greeks of an option were computed."""

    IV = "iv"
    SMILE_IV = "smile_iv"


class Convention(Message, frozen=True, kw_only=True):
    """How the options of one underlying are priced; stands in every stream that shows prices.

    Attributes:
        model: Black-76 on the forward, or BSM on the spot with a dividend yield.
        rate: Continuously compounded, per year; 0.065 = 6.5 %.
        dividend_yield: Continuous, per year; between spot and forward.
        clock: `act365`: seconds over 365 days; `trading252`: session time over 252 days.
        future_max_age_seconds: A listed future older than this makes no forward.
        quote_max_age_seconds: An order book older than this makes no parity forward.
        spot_max_age_seconds: A spot older than this makes no forward.
        smile_max_age_seconds: A volatility older than this is not the strike's any more.
    """

    model: PricingModel = PricingModel.BLACK76
    rate: float = 0.0
    dividend_yield: float = 0.0
    clock: YearClock = YearClock.ACT365
    future_max_age_seconds: float = 10.0
    quote_max_age_seconds: float = 15.0
    spot_max_age_seconds: float = 10.0
    smile_max_age_seconds: float = 60.0

    @property
    def name(self) -> str:
        """What a tick calls it, such as `black76 act365 r=0.065`."""
        dividends = f" q={self.dividend_yield:g}" if self.dividend_yield else ""
        return f"{self.model.value} {self.clock.value} r={self.rate:g}{dividends}"


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
    greeks_from: (
        Annotated[GreeksFrom, Meta(description="the volatility behind the Greeks")] | None
    ) = None
    forward: Price | None = None
    forward_source: ForwardSource | None = None
    tte: Annotated[float, Meta(description="years to expiry by the convention's clock")] | None = (
        None
    )
    settlement: Annotated[
        bool, Meta(description="expires today, and its settlement price is being made")
    ] = False
    convention: Annotated[str, Meta(description="`Convention.name` of the underlying")] | None = (
        None
    )
    repriced: Annotated[
        bool, Meta(description="no packet came: the forward moved, prices are those before")
    ] = False
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
    skew_25d: Annotated[float, Meta(description="25-delta call less put volatility")] | None = None
    tte: float
    settlement: bool = False
    convention: Convention | None = None
    exchange_ts: EpochNs | None = None
    greeks_ts: EpochNs
    feed: Source


class ChainSide(Message, frozen=True, kw_only=True):
    """The calls or the puts of a chain, column by column; entry i belongs to strike i.

    A contract that is not listed has null in every column.
    """

    instrument_token: tuple[Token | None, ...]
    last_price: tuple[Price | None, ...]
    bid: tuple[Price | None, ...]
    ask: tuple[Price | None, ...]
    volume: tuple[int | None, ...]
    oi: tuple[int | None, ...]
    iv: tuple[float | None, ...]
    bid_iv: tuple[float | None, ...]
    ask_iv: tuple[float | None, ...]
    delta: tuple[float | None, ...]
    gamma: tuple[float | None, ...]
    theta: tuple[float | None, ...]
    vega: tuple[float | None, ...]
    rho: tuple[float | None, ...]
    iv_status: tuple[IvStatus | None, ...]
    greeks_from: tuple[GreeksFrom | None, ...]


class Chain(Message, frozen=True, kw_only=True):
    """The strikes around the money of one expiry, all priced with one forward at one moment.

    Sent by: greeks. Read by: gateway (as bytes), any NATS subscriber.
    Subject: `md.chain.v1.<underlying>.<expiry>`, twice a second while anything of it changes.
    Delivery: at most once live; MD_CHAINS keeps the newest of each subject for a day.

    Attributes:
        offsets: Place of each strike, counted from the one nearest the forward: -1 is the next
            lower one that is streamed.
        strikes: Ascending, rupees.
        smile_iv: Of each strike's out-of-the-money leg, per year.
        calls: Column by column, one entry per strike.
        puts: Likewise.
    """

    underlying: str
    expiry: date
    forward: Price
    forward_source: ForwardSource
    spot: Price | None = None
    atm_strike: Price
    tte: float
    settlement: bool = False
    convention: Convention
    offsets: tuple[int, ...]
    strikes: tuple[Price, ...]
    smile_iv: tuple[float | None, ...]
    calls: ChainSide
    puts: ChainSide
    epoch: int
    exchange_ts: EpochNs | None = None
    greeks_ts: EpochNs
    source: Source


class VolCurve(Message, frozen=True, kw_only=True):
    """The volatilities of one expiry and what a desk reads from them.

    Sent by: greeks. Read by: gateway (as bytes), any NATS subscriber.
    Subject: `md.vol.v1.<underlying>.<expiry>`, with every chain. Delivery: at most once live;
    MD_CHAINS keeps the newest of each subject for a day. What cannot be known is null.

    Attributes:
        atm_iv: Interpolated at the forward, per year.
        straddle: Call plus put at the strike nearest the forward, rupees.
        call_iv_25d: Volatility at a call delta of 0.25 (of the discounted forward).
        put_iv_25d: Volatility at a put delta of -0.25.
        risk_reversal_25d: `call_iv_25d - put_iv_25d`.
        butterfly_25d: `(call_iv_25d + put_iv_25d) / 2 - atm_iv`.
        call_oi: Open interest of the streamed calls, units.
        put_oi: Likewise.
        put_call_oi_ratio: `put_oi / call_oi`.
        max_pain: The strike at which holders of the streamed options would be paid least, rupees.
        strikes: Those with a fresh volatility, ascending.
        smile_iv: Of each of them, from its out-of-the-money leg.
    """

    underlying: str
    expiry: date
    forward: Price
    forward_source: ForwardSource
    tte: float
    atm_strike: Price
    atm_iv: float | None = None
    straddle: Price | None = None
    call_iv_25d: float | None = None
    put_iv_25d: float | None = None
    risk_reversal_25d: float | None = None
    butterfly_25d: float | None = None
    call_oi: int | None = None
    put_oi: int | None = None
    put_call_oi_ratio: float | None = None
    max_pain: Price | None = None
    strikes: tuple[Price, ...]
    smile_iv: tuple[float, ...]
    settlement: bool = False
    convention: Convention
    epoch: int
    exchange_ts: EpochNs | None = None
    greeks_ts: EpochNs
    source: Source


class PlannedGroup(Message, frozen=True, kw_only=True):
    """Tokens of one underlying that a connection streams in one mode.

    Attributes:
        underlying: Decides the shard.
        mode: How much of each token.
        tokens: The instruments, ascending.
        home: The account that lost them, to which they return when it is well again; None for
            tokens that belong where they are.
    """

    underlying: str
    mode: StreamMode
    tokens: tuple[Token, ...]
    home: str | None = None


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

    Sent by: control. Read by: ingest, orders. Bucket: `kite_sessions`, key = escaped account; the
    value is Fernet-encrypted under ACCOUNT_ENCRYPTION_KEY.
    """

    account: str
    api_key: str
    access_token: str
    user_id: str
    ws_url: Annotated[str, Meta(description="root of the market-data WebSocket")]
    api_url: Annotated[str, Meta(description="root of the REST interface")] | None = None
    source: Source
    minted_at_ns: EpochNs
    api_secret: Annotated[
        str | None, Meta(description="checks the checksum of postbacks; null where it is not known")
    ] = None

    def __repr__(self) -> str:
        """Only what is no secret."""
        return f"KiteSession(account={self.account!r}, minted_at_ns={self.minted_at_ns}, …)"


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


class Pressure(StrEnum):
    """How hard it is to publish what is received, least first."""

    HEALTHY = "healthy"
    WARNING = "warning"
    CRITICAL = "critical"
    OVERLOAD = "overload"


class FeedStatus(Message, frozen=True, kw_only=True):
    """How an account's feed fares, said by its holder every two seconds and when its state changes.

    Sent by: ingest. Read by: control (refused sessions), gateway (`/health`), operator.
    Bucket: `status`, key `feed-<account>`.
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
    session_refused: Annotated[
        bool, Meta(description="Kite answered 403 to this session, on the WebSocket or by REST")
    ] = False
    pressure: Pressure = Pressure.HEALTHY
    published_ratio: Annotated[float, Meta(description="published / received, 0 to 1")] = 1.0
    publish_p95_ms: float | None = None
    publish_p99_ms: float | None = None
    pending_bytes: Annotated[int, Meta(description="waiting for NATS")] = 0
    no_data_tokens: int = 0
    stale_tokens: int = 0
    source: Source | None = None
    at_ns: EpochNs


class FeedCoverage(Message, frozen=True, kw_only=True):
    """Which subscribed instruments do not tick; all others of the plan entry do.

    Sent by: ingest, when it changes (looked at every two seconds) and at least every ten.
    Read by: control (states of subscriptions), operator. Bucket: `coverage`, key = escaped
    account, MessagePack.

    Attributes:
        account: Whose feed.
        plan_revision: Of the plan entry that was subscribed.
        pending: Subscribed, no tick yet, still within the deadline or outside the session.
        no_data: Subscribed in session for longer than the deadline, and never a tick.
        stale: Ticked before, but not for a while although its session is open.
        at_ns: When this was found.
    """

    account: str
    plan_revision: int
    pending: tuple[Token, ...]
    no_data: tuple[Token, ...]
    stale: tuple[Token, ...]
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
    unplaced_names: Annotated[
        dict[str, str],
        Meta(description="instruments without a place, by name with the reason; the first hundred"),
    ] = {}
    away: Annotated[
        int, Meta(description="instruments streamed by others until their account is back")
    ] = 0
    instruments: int
    instruments_revision: int
    market_date: date | None = None
    accounts: dict[str, str] = {}
    source: Source | None = None
    at_ns: EpochNs


class UpdateKind(StrEnum):
    """What a text frame of the broker carries."""

    ORDER = "order"
    MESSAGE = "message"
    ERROR = "error"


class OrderUpdate(Message, frozen=True, kw_only=True):
    """The broker pushed a text over a market-data connection: an order update or a message.

    Sent by: ingest, once although every connection of the account carries it. Read by: orders.
    Subject: `order.update.v1.<account>`. `data` is Kite's own value, untouched: the postback
    object of an order, the text of a message or an error.
    """

    account: str
    kind: UpdateKind = UpdateKind.ORDER
    received_at_ns: EpochNs
    data: msgspec.Raw


class Bar(Message, frozen=True, kw_only=True):
    """One second of an underlying came to its end.

    Sent by: greeks (the shard's owner). Read by: any NATS subscriber.
    Subject: `md.bar.v1.<underlying>.1s`. Delivery: at most once live; MD_BARS keeps an hour.
    A second without a trade has no bar; `gap_seconds` tells how many were left out. A tick that
    comes after its second was published makes the bar again with a higher `revision`.

    Attributes:
        underlying: The name.
        instrument_token: Of the index or equity whose ticks made it, or of the nearest future
            when the underlying has neither.
        start: First instant of the second, exchange time.
        open: First price of the second; high, low and close accordingly.
        volume: Traded within the second; null for an index.
        ticks: How many ticks made it.
        gap_seconds: Seconds without a tick since the bar before; 0 when they follow each other.
        revision: 0 for the first version.
        epoch: Lease term of the shard.
        source: Live or simulated.
    """

    underlying: str
    instrument_token: Token
    start: EpochNs
    open: Price
    high: Price
    low: Price
    close: Price
    volume: int | None = None
    ticks: Annotated[int, Meta(ge=1)]
    gap_seconds: Annotated[int, Meta(ge=0)] = 0
    revision: Annotated[int, Meta(ge=0)] = 0
    epoch: int
    source: Source


class AccountSource(StrEnum):
    """Where an account is described, in the order in which the sources win.

    `stand_in` accounts are the simulator's: they stream while every exchange is closed.
    """

    USER_SERVICE = "user_service"
    FILE = "file"
    ENVIRONMENT = "environment"
    SINGLE = "single"
    DATABASE = "database"
    STAND_IN = "stand_in"


class AccountCondition(StrEnum):
    """What an account can be counted on for."""

    READY = "ready"
    LOGGING_IN = "logging_in"
    WAITING = "waiting"
    REFUSED = "refused"
    INCOMPLETE = "incomplete"
    DISABLED = "disabled"


class AccountState(Message, frozen=True, kw_only=True):
    """What the control plane knows of an account; never a secret.

    Sent by: control. Read by: gateway (REST), operator, the next leader (a refused login is not
    tried again). Bucket: `accounts`, key = escaped account.

    Attributes:
        account: The name.
        source: Where it is described.
        condition: `ready` has a session, `logging_in` will have one, `waiting` needs a person's
            login (no TOTP secret), `refused` by Kite, `incomplete` by its description, `disabled`.
        reason: Why, for people; names the variable or the step.
        connections: WebSocket connections it may open.
        tokens_per_connection: Instruments on each.
        user_id: Masked, such as `AB****`.
        logged_in_at_ns: When its session was minted.
        lost_since_ns: Since when its feed has been away, so that its instruments move to others.
        refused_fingerprint: Of the credentials that Kite refused, a keyed hash.
        login_failures: In a row, without an answer from Kite.
        at_ns: When this was written.
    """

    account: str
    source: AccountSource
    condition: AccountCondition
    reason: str = ""
    connections: int
    tokens_per_connection: int
    user_id: str | None = None
    logged_in_at_ns: EpochNs | None = None
    lost_since_ns: EpochNs | None = None
    refused_fingerprint: str | None = None
    login_failures: int = 0
    at_ns: EpochNs


class AccountVerb(StrEnum):
    """What can be done to an account."""

    ADD = "add"
    ROTATE = "rotate"
    ENABLE = "enable"
    DISABLE = "disable"
    REMOVE = "remove"
    LOGIN = "login"


class AccountCommand(Message, frozen=True, kw_only=True):
    """Somebody wants an account changed.

    Sent by: gateway (REST) and the command line. Read by: control's leader, which answers with
    an AccountReply. Subject: `rpc.accounts.v1` (request). Secrets travel only in this message:
    use TLS to NATS wherever that is another machine.

    Attributes:
        verb: `add` and `rotate` take credentials, `login` a request token or an access token.
        account: Which.
        api_key: And the other credentials: only with `add` and `rotate`.
        connections: With `add` and `rotate`: WebSocket connections.
        tokens_per_connection: With `add` and `rotate`: instruments on each.
        request_token: With `login`: from the redirect of Kite's login page.
        access_token: With `login`: a token that was minted elsewhere.
    """

    verb: AccountVerb
    account: Annotated[str, Meta(min_length=1, max_length=32)]
    api_key: str | None = None
    api_secret: str | None = None
    user_id: str | None = None
    password: str | None = None
    totp_secret: str | None = None
    connections: Annotated[int, Meta(ge=1, le=3)] | None = None
    tokens_per_connection: Annotated[int, Meta(ge=1, le=3000)] | None = None
    request_token: str | None = None
    access_token: str | None = None

    def __repr__(self) -> str:
        """Only what is no secret."""
        return f"AccountCommand(verb={self.verb.value!r}, account={self.account!r}, …)"


class RpcError(Message, frozen=True, kw_only=True):
    """A request could not be served.

    Attributes:
        code: For programs, such as `rate_limited`, `not_found`, `bad_request`, `unavailable`.
        message: For people.
        field: Which part of the request is wrong, when one is.
        retry_after_seconds: When a repetition may succeed, where that is known.
    """

    code: str
    message: str
    field: str | None = None
    retry_after_seconds: float | None = None


class AccountReply(Message, frozen=True, kw_only=True):
    """The answer to an AccountCommand: the account as it is now, or an error.

    Attributes:
        state: As it is now; None after `remove`.
        error: Why the command was not carried out.
        login_url: With `login` of an account that needs a person: where that person logs in.
    """

    state: AccountState | None = None
    error: RpcError | None = None
    login_url: str | None = None


class CandleInterval(StrEnum):
    """The intervals of Kite's historical candles."""

    MINUTE = "minute"
    MINUTE_3 = "3minute"
    MINUTE_5 = "5minute"
    MINUTE_10 = "10minute"
    MINUTE_15 = "15minute"
    MINUTE_30 = "30minute"
    HOUR = "60minute"
    DAY = "day"


class Candle(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One candle, as an array on the wire: start (epoch seconds), o, h, l, c, volume, oi."""

    start: int
    open: Price
    high: Price
    low: Price
    close: Price
    volume: int
    oi: int | None = None


class HistoryRequest(Message, frozen=True, kw_only=True):
    """Somebody wants candles.

    Sent by: greeks, any service. Read by: ingest, which answers with one HistoryPart per piece
    of the span. Subject: `rpc.history.v1` (request, answers as a stream), or
    `rpc.history.v1.<account>` for one account alone.

    Attributes:
        instrument_token: Of what.
        interval: Length of a candle.
        start: First instant, epoch seconds; inclusive.
        end: Last instant, epoch seconds; inclusive, not before `start`.
        oi: Whether candles carry open interest.
        continuous: Day candles of expired futures through a living contract's token.
        source: Of this market alone: while the simulator stands in, live accounts are logged in
            too, and the token means nothing to them. None: of whichever account serves it.
    """

    instrument_token: Token
    interval: CandleInterval
    start: Annotated[int, Meta(ge=0)]
    end: Annotated[int, Meta(ge=0)]
    oi: bool = False
    continuous: bool = False
    source: Source | None = None


class HistoryPart(Message, frozen=True, kw_only=True):
    """Candles of one piece of the span, oldest first, or the error that ended the request.

    Attributes:
        candles: Ascending by start; pieces neither overlap nor leave gaps.
        account: Who fetched them.
        part: Counts from 0.
        last: Whether this was the last piece.
        source: Whether the account that fetched them is live or the simulator's.
        error: What went wrong; then this is the last piece and has no candles.
    """

    candles: tuple[Candle, ...] = ()
    account: str | None = None
    source: Source | None = None
    part: int
    last: bool
    error: RpcError | None = None


class QuoteRequest(Message, frozen=True, kw_only=True):
    """Somebody wants full quotes now.

    Sent by: control, any service. Read by: ingest. Subject: `rpc.quote.v1` (request), or
    `rpc.quote.v1.<account>` for one account alone.

    Attributes:
        instruments: `EXCHANGE:SYMBOL` or numeric tokens as text; at most 500.
    """

    instruments: Annotated[tuple[str, ...], Meta(min_length=1, max_length=500)]


class QuoteReply(Message, frozen=True, kw_only=True):
    """Quotes by the name they were asked for by; unknown instruments are absent.

    Attributes:
        quotes: Kite's own quote objects, times as ISO 8601 with zone.
        account: Who fetched them.
        error: What went wrong; then there are no quotes.
    """

    quotes: dict[str, msgspec.Raw] = {}
    account: str | None = None
    error: RpcError | None = None


class CandleGreeks(Message, frozen=True, kw_only=True):
    """Volatility and Greeks of an option at the end of one candle, from its close.

    The forward is that of the same moment; units and statuses are those of a `Tick`.
    """

    iv: float | None = None
    delta: float | None = None
    gamma: float | None = None
    theta: float | None = None
    vega: float | None = None
    rho: float | None = None
    iv_status: IvStatus
    forward: Price | None = None
    forward_source: ForwardSource | None = None
    tte: float | None = None


class PricedCandle(Message, frozen=True, kw_only=True):
    """One candle as the gateway serves it: its start with zone, prices, and Greeks if asked for."""

    date: Annotated[str, Meta(description="start, ISO 8601 with zone: 2026-11-24T09:15:00+05:30")]
    open: Price
    high: Price
    low: Price
    close: Price
    volume: int
    oi: int | None = None
    greeks: CandleGreeks | None = None


class CandlesRequest(Message, frozen=True, kw_only=True):
    """Somebody wants candles, with Greeks where the instrument is an option.

    Sent by: gateway, any service. Read by: greeks, which answers with CandlesParts.
    Subject: `rpc.candles.v1` (request, answers as a stream).

    Attributes:
        instrument_token: Of what.
        interval: Length of a candle.
        start: First instant, epoch seconds; inclusive.
        end: Last instant, epoch seconds; inclusive, not before `start`.
        oi: Whether candles carry open interest.
        greeks: Whether the candles of an option carry Greeks; None: when `oi` is asked for.
        continuous: Day candles of expired futures through a living contract's token.
    """

    instrument_token: Token
    interval: CandleInterval
    start: Annotated[int, Meta(ge=0)]
    end: Annotated[int, Meta(ge=0)]
    oi: bool = False
    greeks: bool | None = None
    continuous: bool = False


class CandlesPart(Message, frozen=True, kw_only=True):
    """A piece of the candles, oldest first, or the error that ended the request.

    Attributes:
        candles: JSON array of `PricedCandle`, ascending; pieces neither overlap nor leave gaps.
        part: Counts from 0.
        last: Whether this was the last piece.
        convention: With the first piece of an option with Greeks: how they were computed.
        source: Live or simulated candles.
        error: What went wrong; then this is the last piece and has no candles.
    """

    candles: msgspec.Raw
    part: int
    last: bool
    convention: Convention | None = None
    source: Source | None = None
    error: RpcError | None = None


class ExplainRequest(Message, frozen=True, kw_only=True):
    """Somebody wants to know how an option's Greeks came about.

    Sent by: gateway, the command line. Read by: greeks. Subject: `rpc.explain.v1` (any worker,
    which asks the shard's owner) or `rpc.explain.v1.<shard>` (the owner).
    """

    instrument_token: Token


class ExplainedPrice(Message, frozen=True, kw_only=True):
    """One price that went, or could have gone, into a Greek.

    Attributes:
        value: Rupees; null if there is none.
        tradingsymbol: Of the instrument whose price it is; null if none is listed.
        exchange_ts: When the exchange last said something of the instrument.
        stamped: Whether `exchange_ts` is the packet's own; else the packet had none, as in quote
            and LTP mode, and this is the market's time at which it came.
        age_seconds: Market time since then.
        max_age_seconds: What is older is not used; null where no limit applies.
        fresh: Whether there is a value, and it is young enough.
    """

    value: Price | None = None
    tradingsymbol: str | None = None
    exchange_ts: EpochNs | None = None
    stamped: bool = False
    age_seconds: float | None = None
    max_age_seconds: float | None = None
    fresh: bool = False


class ExplainedParity(Message, frozen=True, kw_only=True):
    """One strike whose call and put make a parity forward: K + (C - P)·e^{rT}.

    Attributes:
        strike: Rupees.
        call_mid: Middle of bid and ask; null where a side is missing, crossed or too old.
        put_mid: Likewise.
        call_age_seconds: Market time since the call's book; null before the first.
        put_age_seconds: Likewise.
        forward: What this strike says; null unless both mids are known.
        taken: Whether it is one of the usable strikes nearest the money.
    """

    strike: Price
    call_mid: Price | None = None
    put_mid: Price | None = None
    call_age_seconds: float | None = None
    put_age_seconds: float | None = None
    forward: Price | None = None
    taken: bool = False


class ExplainedInput(StrEnum):
    """An input by which two conventions can differ."""

    OPTION_PRICE = "option_price"
    UNDERLYING = "underlying"
    RATE = "rate"
    CLOCK = "clock"


class ExplainedStep(Message, frozen=True, kw_only=True):
    """One input changed from ours to another convention's, those before it changed already.

    Attributes:
        input: Which one.
        says: What it was and what it is now.
        iv: Volatility after the change; null if there is none.
        iv_change: From the one before; the changes of all steps add up to the whole difference.
    """

    input: ExplainedInput
    says: str
    iv: float | None = None
    iv_change: float | None = None


class ExplainedView(Message, frozen=True, kw_only=True):
    """The same contract at the same moment under one convention.

    Attributes:
        name: `tickfleet`, `nse`, `sensibull` or `spot_bsm`.
        says: The convention in words, with the day of theta and what is assumed of it.
        model: What it prices with.
        underlying_price: The forward, future or spot that it prices on, rupees.
        underlying_source: What that is.
        rate: Continuously compounded, per year.
        dividend_yield: Likewise.
        tte: Years by its clock.
        days: By its clock: calendar or trading days left.
        option_price: Rupees, what the volatility was solved from.
        option_price_of: The leg whose price that is: the contract itself, or the other leg.
        iv: Per year, as the Greeks have the units of a `Tick`; theta is per day of its clock.
        delta: Null like the other Greeks if there is no volatility to compute them at.
        gamma: Of the forward (Black-76) or of the spot (BSM), like delta.
        theta: Rupees.
        vega: Rupees per volatility point.
        rho: Rupees per 1 % of rate.
        iv_status: Why there is, or is not, a volatility.
        steps: How our volatility becomes this one, input by input; none for our own view.
    """

    name: str
    says: str
    model: PricingModel
    underlying_price: Price | None = None
    underlying_source: str | None = None
    rate: float
    dividend_yield: float = 0.0
    tte: float | None = None
    days: float | None = None
    option_price: Price | None = None
    option_price_of: str | None = None
    iv: float | None = None
    delta: float | None = None
    gamma: float | None = None
    theta: float | None = None
    vega: float | None = None
    rho: float | None = None
    iv_status: IvStatus
    steps: tuple[ExplainedStep, ...] = ()


class Explanation(Message, frozen=True, kw_only=True):
    """Every input of an option's Greeks with its age and source, and the results side by side.

    Attributes:
        seq: Of the option's newest tick within the epoch; 0 before the first.
        market_time: The newest exchange timestamp of the shard; ages count from it. Null before
            the first.
        priced_at: The moment our time to expiry counts from: the option's own timestamp, or the
            market's time if that is old or missing.
        expiry_instant: When the contract dies.
        seconds_left: From `priced_at` to then.
        settlement: Whether the settlement price is being made.
        last_price: Of the option, as bid and ask.
        forward: What it is priced with.
        forward_source: Which of the candidates that is.
        forward_stale: Nothing fresh was at hand when it was chosen.
        forward_says: Why that one, and why none of the better ones.
        future: Candidate: the listed future of the expiry.
        parity: Candidate: the strikes nearest the money, by distance.
        parity_forward: Median of those taken; null if they are too few.
        spot: Candidate: the index or share.
        convention: Of the underlying.
        smile_leg: The strike's out-of-the-money leg; its age is that of its volatility.
        smile_iv: Its volatility.
        bid_iv: From the bid; ask_iv likewise.
        greeks_from: Which volatility our Greeks were computed at.
        views: Ours first, then NSE's, Sensibull's and BSM on the spot.
        shard: Where the underlying is priced.
        epoch: Lease term of the shard, as in a tick.
        source: Of the newest frame; null before the first.
    """

    instrument_token: Token
    tradingsymbol: str
    underlying: str
    expiry: date
    strike: Price
    option_type: OptionType
    seq: int = 0
    market_time: EpochNs | None = None
    priced_at: EpochNs | None = None
    expiry_instant: EpochNs
    seconds_left: float | None = None
    settlement: bool = False
    last_price: ExplainedPrice
    bid: ExplainedPrice
    ask: ExplainedPrice
    forward: Price | None = None
    forward_source: ForwardSource | None = None
    forward_stale: bool = False
    forward_says: str = ""
    future: ExplainedPrice
    parity: tuple[ExplainedParity, ...] = ()
    parity_forward: Price | None = None
    spot: ExplainedPrice
    convention: Convention
    smile_leg: ExplainedPrice
    smile_iv: float | None = None
    bid_iv: float | None = None
    ask_iv: float | None = None
    greeks_from: GreeksFrom | None = None
    views: tuple[ExplainedView, ...]
    shard: int
    epoch: int
    greeks_ts: EpochNs
    source: Source | None = None


class ExplainReply(Message, frozen=True, kw_only=True):
    """The answer to an ExplainRequest: an explanation, or why there is none."""

    explanation: Explanation | None = None
    error: RpcError | None = None
