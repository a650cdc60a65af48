"""The messages about orders: what somebody wants done, what happened, and who may decide what."""

from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from libs.common.contracts.messages import EpochNs, Message, Price, RpcError

AccountName = Annotated[str, Meta(min_length=1, max_length=32)]
TaskId = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9_-]{1,64}$",
        description="the caller's idempotency key: 1 to 64 letters, digits, '-' and '_'",
    ),
]
UserName = Annotated[str, Meta(min_length=1, max_length=64)]
Quantity = Annotated[int, Meta(ge=1, le=10_000_000, description="units, not lots")]
LimitPrice = Annotated[float, Meta(ge=0, le=100_000_000, description="rupees")]


class Exchange(StrEnum):
    """Where orders can be placed."""

    NSE = "NSE"
    BSE = "BSE"
    NFO = "NFO"
    BFO = "BFO"
    CDS = "CDS"
    BCD = "BCD"
    MCX = "MCX"


class Side(StrEnum):
    """Kite's `transaction_type`."""

    BUY = "BUY"
    SELL = "SELL"


class OrderType(StrEnum):
    """How the price is found."""

    MARKET = "MARKET"
    LIMIT = "LIMIT"
    SL = "SL"
    SL_M = "SL-M"


class Product(StrEnum):
    """How the position is carried."""

    CNC = "CNC"
    NRML = "NRML"
    MIS = "MIS"
    MTF = "MTF"


class Variety(StrEnum):
    """Which of Kite's counters the order goes to."""

    REGULAR = "regular"
    AMO = "amo"
    CO = "co"
    ICEBERG = "iceberg"
    AUCTION = "auction"


class Validity(StrEnum):
    """How long the exchange keeps the order."""

    DAY = "DAY"
    IOC = "IOC"
    TTL = "TTL"


class _Command(Message, frozen=True, kw_only=True, tag_field="verb"):
    """What every command has.

    Sent by: gateway (REST), the command line, or any service. Read by: orders (the holder of the
    account's lease). Subject: `order.command.v1.<account>.<task_id>`. Delivery: ORDER_COMMANDS
    keeps one message per subject and refuses a second, so a command is taken at most once.

    Attributes:
        account: Whose order it is; never another account's, whatever fails.
        task_id: The idempotency key, unique within the account.
        user: Who asks; limits and the record go by this name.
        created_at_ns: When it was asked for.
        valid_until_ns: Not sent after this; None for the default of its kind.
    """

    account: AccountName
    task_id: TaskId
    user: UserName = "default"
    created_at_ns: EpochNs
    valid_until_ns: EpochNs | None = None


class PlaceOrder(_Command, frozen=True, kw_only=True, tag="place", forbid_unknown_fields=True):
    """Place an order.

    Attributes:
        exchange: Where.
        tradingsymbol: Kite's symbol.
        transaction_type: Buy or sell.
        quantity: Units; more than the freeze quantity is sliced.
        product: How it is carried.
        order_type: How the price is found.
        variety: Kite's counter; `amo` only when asked.
        price: With LIMIT and SL.
        trigger_price: With SL and SL-M.
        validity: Kept by the exchange for the day, not at all, or for `validity_ttl` minutes.
        validity_ttl: Minutes, with TTL.
        disclosed_quantity: Shown to the market.
        market_protection: Percent, or -1 for Kite's own; -1 when left out of MARKET and SL-M.
        iceberg_legs: With `iceberg`.
        iceberg_quantity: With `iceberg`, per leg.
        allow_duplicate: Skip the guard against an order that looks like the one before.
    """

    exchange: Exchange
    tradingsymbol: Annotated[str, Meta(min_length=1, max_length=64)]
    transaction_type: Side
    quantity: Quantity
    product: Product
    order_type: OrderType
    variety: Variety = Variety.REGULAR
    price: LimitPrice | None = None
    trigger_price: LimitPrice | None = None
    validity: Validity = Validity.DAY
    validity_ttl: Annotated[int, Meta(ge=1, le=1440)] | None = None
    disclosed_quantity: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    market_protection: Annotated[float, Meta(ge=-1, le=100)] | None = None
    iceberg_legs: Annotated[int, Meta(ge=2, le=50)] | None = None
    iceberg_quantity: Annotated[int, Meta(ge=1, le=10_000_000)] | None = None
    allow_duplicate: bool = False


class ModifyOrder(_Command, frozen=True, kw_only=True, tag="modify", forbid_unknown_fields=True):
    """Change an open order; what is left out stays as it is.

    Attributes:
        order_id: The broker's number; or
        target_task_id: the task that placed it: exactly one of the two.
        leg: Which slice of the task, when it was sliced.
        quantity: The new total quantity.
        order_type: How the price is found.
        price: With LIMIT and SL.
        trigger_price: With SL and SL-M.
        validity: As in PlaceOrder.
        disclosed_quantity: Shown to the market.
        market_protection: As in PlaceOrder.
    """

    order_id: Annotated[str, Meta(min_length=1, max_length=32)] | None = None
    target_task_id: TaskId | None = None
    leg: Annotated[int, Meta(ge=0, le=9)] = 0
    quantity: Quantity | None = None
    order_type: OrderType | None = None
    price: LimitPrice | None = None
    trigger_price: LimitPrice | None = None
    validity: Validity | None = None
    disclosed_quantity: Annotated[int, Meta(ge=0, le=10_000_000)] | None = None
    market_protection: Annotated[float, Meta(ge=-1, le=100)] | None = None


class CancelOrder(_Command, frozen=True, kw_only=True, tag="cancel", forbid_unknown_fields=True):
    """Cancel an open order.

    Attributes:
        order_id: The broker's number; or
        target_task_id: the task that placed it: exactly one of the two.
        leg: Which slice; None for all of the task's.
    """

    order_id: Annotated[str, Meta(min_length=1, max_length=32)] | None = None
    target_task_id: TaskId | None = None
    leg: Annotated[int, Meta(ge=0, le=9)] | None = None


OrderCommand = PlaceOrder | ModifyOrder | CancelOrder


class OrderState(StrEnum):
    """Where a task, and each request of it, stands.

    `pending` is taken, `checked` may be sent, `sending` may have reached the broker, `acked` has
    the broker's order number, `open` works at the exchange; `complete`, `cancelled` and `rejected`
    are the broker's last words (`rejected` also ours, before anything was sent). `unknown` may be
    an order and is looked for, `absent` was not found and waits for a person. `retrying` was
    provably not sent and will be, `failed` was not sent and will not be, `dead_letter` could not
    be sent in all its attempts.
    """

    PENDING = "pending"
    CHECKED = "checked"
    SENDING = "sending"
    ACKED = "acked"
    OPEN = "open"
    COMPLETE = "complete"
    CANCELLED = "cancelled"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    ABSENT = "absent"
    RETRYING = "retrying"
    FAILED = "failed"
    DEAD_LETTER = "dead_letter"


class OrderEvent(Message, frozen=True, kw_only=True):
    """Something happened to an order task; the history of a task is its events in order.

    Sent by: orders, after its ledger has committed it. Read by: gateway, any subscriber.
    Subject: `order.event.v1.<account>.<task_id>`. Delivery: at least once, ORDER_EVENTS keeps
    seven days; `seq` tells a repetition.

    Attributes:
        account: Whose.
        task_id: Which task.
        seq: 1, 2, 3 … within the task.
        kind: For programs: `accepted`, `checked`, `sending`, `acknowledged`, `updated`,
            `refused`, `unknown`, `adopted`, `absent`, `retrying`, `held`, `resolved`, …
        state: Of the task after this.
        leg: Which slice; None for the task as a whole.
        tag: The broker's tag of the request.
        order_id: The broker's number.
        code: Why, for programs; empty when nothing is wrong.
        message: Why, for people; a sentence.
        filled_quantity: Units, of the leg or the task.
        average_price: Of the fills.
        evidence: What was seen: the broker's row, an answer's code and text, how often was looked.
        at_ns: When.
    """

    account: AccountName
    task_id: str
    seq: Annotated[int, Meta(ge=1)]
    kind: str
    state: OrderState
    leg: int | None = None
    tag: str | None = None
    order_id: str | None = None
    code: str = ""
    message: str = ""
    filled_quantity: int = 0
    average_price: Price | None = None
    evidence: dict[str, Any] = msgspec.field(default_factory=dict)
    at_ns: EpochNs


class AccountEvent(Message, frozen=True, kw_only=True):
    """Something happened to the orders of an account as a whole.

    Sent by: orders. Read by: gateway, operator, any subscriber.
    Subject: `order.account.v1.<account>`. Delivery: ORDER_EVENTS keeps seven days.

    Attributes:
        account: Whose.
        kind: `breaker_opened`, `breaker_probing`, `breaker_closed`, `kill_switch`, `taken_over`,
            `session_refused`, `difference`, `day_cap`.
        code: Which endpoint class, field or rule.
        message: A sentence for people.
        evidence: What was seen.
        at_ns: When.
    """

    account: AccountName
    kind: str
    code: str = ""
    message: str
    evidence: dict[str, Any] = msgspec.field(default_factory=dict)
    at_ns: EpochNs


class DeadLetter(Message, frozen=True, kw_only=True):
    """A command that was not and will not be executed, kept whole for a person.

    Sent by: orders. Read by: operator. Subject: `order.dead.v1.<account>`; ORDER_DEAD keeps
    thirty days.

    Attributes:
        account: Of the subject it came on.
        task_id: Of the subject it came on.
        code: Why, for programs.
        message: Why, for people.
        field: Which field of the command is wrong, where one is.
        command: Its bytes as text, cut off after 16 KiB.
        at_ns: When.
    """

    account: str
    task_id: str
    code: str
    message: str
    field: str | None = None
    command: str
    at_ns: EpochNs


class OrderControls(Message, frozen=True, kw_only=True):
    """What people have switched for the orders of an account.

    Sent by: gateway (REST), the command line. Read by: orders before every send.
    Bucket: `order_controls`, key = escaped account.

    Attributes:
        kill_switch: Nothing but cancels leaves while it is on.
        reason: Why, for people.
        by: Who.
        at_ns: When.
    """

    kill_switch: bool
    reason: Annotated[str, Meta(max_length=500)] = ""
    by: UserName = "default"
    at_ns: EpochNs


class Resolution(StrEnum):
    """What a person decides about a request whose outcome nobody knows."""

    ADOPT = "adopt"
    ABSENT = "absent"
    RESEND = "resend"


class OrderAction(StrEnum):
    """What can be asked of the worker that holds an account."""

    RESOLVE = "resolve"
    LIMITS = "limits"
    SYNC = "sync"


class OrderRequest(Message, frozen=True, kw_only=True):
    """Ask the worker that holds an account.

    Sent by: gateway (REST), the command line. Read by: orders, which answers with an OrderReply.
    Subject: `rpc.orders.v1.<account>`.

    Attributes:
        action: `resolve` an unknown outcome, `limits` in force and used, `sync` with the broker.
        task_id: With `resolve`.
        leg: With `resolve`: which slice.
        resolution: With `resolve`.
        order_id: With `resolve` and `adopt`: the broker's number.
        by: Who decides.
        reason: Why, for the record.
    """

    action: OrderAction
    task_id: TaskId | None = None
    leg: Annotated[int, Meta(ge=0, le=99)] = 0
    resolution: Resolution | None = None
    order_id: Annotated[str, Meta(min_length=1, max_length=32)] | None = None
    by: UserName = "default"
    reason: Annotated[str, Meta(max_length=500)] = ""


class OrderReply(Message, frozen=True, kw_only=True):
    """The answer to an OrderRequest, or to a postback.

    Attributes:
        error: Why not; None when it was done.
        result: What was asked for.
    """

    error: RpcError | None = None
    result: dict[str, Any] = msgspec.field(default_factory=dict)


class Postback(Message, frozen=True, kw_only=True):
    """The broker called the postback address.

    Sent by: gateway. Read by: orders, which checks its checksum and answers with an OrderReply.
    Subject: `rpc.postback.v1.<user_id>`, the broker's user.

    Attributes:
        body: What was posted, untouched.
        received_at_ns: When.
    """

    body: msgspec.Raw
    received_at_ns: EpochNs


class OrdersStatus(Message, frozen=True, kw_only=True):
    """How the orders of an account fare, said every two seconds by the worker that holds it.

    Sent by: orders. Read by: gateway, operator. Bucket: `status`, key `orders-<account>`.

    Attributes:
        account: Whose.
        worker: Who holds it.
        ready: Whether commands are taken now; False while the order book is read at a take-over.
        reason: Why not, for people.
        waiting: Commands taken and not sent yet.
        unknown: Requests whose outcome is looked for.
        absent: Requests that wait for a person.
        breaker: `closed`, `open` or `half_open`, of the endpoints that change orders.
        kill_switch: Whether it is on.
        sent_today: Requests that count against the day's cap.
        at_ns: When.
    """

    account: AccountName
    worker: str
    ready: bool
    reason: str = ""
    waiting: int = 0
    unknown: int = 0
    absent: int = 0
    breaker: str = "closed"
    kill_switch: bool = False
    sent_today: int = 0
    at_ns: EpochNs
