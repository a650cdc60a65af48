"""Turns what REST says about orders into commands, keys and questions, and names what is wrong."""

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from libs.common.contracts.orders import (
    CancelOrder,
    ModifyOrder,
    OrderCommand,
    OrderState,
    PlaceOrder,
    Resolution,
    UserName,
)
from services.gateway.domain.candle_query import read_moment
from services.gateway.domain.parameters import (
    LIMIT_DEFAULT,
    LIMIT_MAX,
    read_choice,
    read_date,
    read_name,
    read_whole,
    refuse_unknown,
)
from services.gateway.errors import BadParameterError, IdempotencyKeyError

KINDS: Final[Mapping[str, type[OrderCommand]]] = {
    "place": PlaceOrder,
    "modify": ModifyOrder,
    "cancel": CancelOrder,
}
OURS: Final = frozenset({"task_id", "created_at_ns", "verb"})
"""Fields of a command that the gateway fills in: the key, the clock, and the address say them."""

BATCH_MAX: Final = 100
KEY_LENGTH_MAX: Final = 64
_BATCH_KEY_LENGTH_MAX: Final = KEY_LENGTH_MAX - len(f"-{BATCH_MAX - 1}")
RESERVED: Final = frozenset({"unknown", "dead"})
"""Words that stand where a key does in an address, and mean lists."""

_KEY: Final = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
WAIT_MS_MAX: Final = 30_000
ACCOUNT_LENGTH_MAX: Final = 32

_FILTERS: Final = frozenset(
    {"account", "user", "state", "verb", "tradingsymbol", "since", "until", "limit", "cursor"}
)
_CURSOR_LENGTH_MAX: Final = 512


class Batch(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /orders/batch`; each element is the body of a request of its own, with its `verb`."""

    orders: Annotated[tuple[dict[str, Any], ...], Meta(min_length=1, max_length=BATCH_MAX)]


class ResolveBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /orders/{task_id}/resolve`: what a person decided about an unknown outcome.

    Attributes:
        resolution: `adopt` the broker's order, `absent`, or `resend` with a new tag.
        order_id: The broker's number, with `adopt`.
        leg: Which slice of the task.
        reason: Why, for the record.
        by: Who decides.
    """

    resolution: Resolution
    order_id: Annotated[str, Meta(min_length=1, max_length=32)] | None = None
    leg: Annotated[int, Meta(ge=0, le=99)] = 0
    reason: Annotated[str, Meta(min_length=1, max_length=500)]
    by: UserName = "default"


class KillSwitchBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /accounts/{account}/kill-switch`.

    Attributes:
        on: Whether nothing but cancels may leave.
        reason: Why, for people.
        by: Who.
        cancel_open_orders: Also ask for the cancellation of every order that may be open.
    """

    on: bool
    reason: Annotated[str, Meta(max_length=500)] = ""
    by: UserName = "default"
    cancel_open_orders: bool = False


class OrderPosition(msgspec.Struct, frozen=True, kw_only=True, array_like=True):
    """The place of a task in a list, newest first.

    Attributes:
        accepted_at: When the ledger took it.
        account: Whose.
        task_id: Which.
    """

    accepted_at: datetime
    account: str
    task_id: str


class OrderFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which tasks are wanted; None means any.

    Attributes:
        account: Whose.
        user: Who asked.
        state: Where they stand.
        verb: `place`, `modify` or `cancel`.
        tradingsymbol: Of the command or of one of its requests.
        since: Accepted at or after this.
        until: Accepted before or at this second.
        after: Only what comes after this place of the list.
        limit: How many at most.
    """

    account: str | None = None
    user: str | None = None
    state: str | None = None
    verb: str | None = None
    tradingsymbol: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    after: OrderPosition | None = None
    limit: int = LIMIT_DEFAULT


class TradeFilter(msgspec.Struct, frozen=True, kw_only=True):
    """Which trades are wanted; None means any.

    Attributes:
        account: Whose.
        day: The exchange's date.
        order_id: The broker's number.
        limit: How many at most.
    """

    account: str | None = None
    day: date | None = None
    order_id: str | None = None
    limit: int = LIMIT_DEFAULT


def read_key(given: Sequence[str]) -> str | None:
    """Read the header Idempotency-Key; None when there is none.

    Args:
        given: As often as it was sent.

    Raises:
        IdempotencyKeyError: It is no key, or there are several.
    """
    if not given:
        return None
    if len(given) > 1:
        raise IdempotencyKeyError("is given more than once; which one counts?")
    [key] = given
    check_key(key)
    if key in RESERVED:
        raise IdempotencyKeyError(f"may be anything but {' and '.join(sorted(RESERVED))}")
    return key


def check_key(key: str) -> None:
    """See that a word is a key.

    Raises:
        IdempotencyKeyError: It is none.
    """
    if not _KEY.fullmatch(key):
        raise IdempotencyKeyError("must be 1 to 64 letters, digits, '-' and '_'")


def batch_keys(key: str, count: int) -> list[str]:
    """The keys of the orders of a batch: `<key>-0`, `<key>-1` and so on.

    Raises:
        IdempotencyKeyError: The key leaves no room for a number.
    """
    if len(key) > _BATCH_KEY_LENGTH_MAX:
        raise IdempotencyKeyError(
            f"of a batch may have {_BATCH_KEY_LENGTH_MAX} characters: each order gets it with its "
            "number"
        )
    return [f"{key}-{index}" for index in range(count)]


def command_fields(
    verb: str, value: Any, *, task_id: str, now_ns: int, within: str = ""
) -> dict[str, Any]:
    """Complete a body with what the gateway knows, ready to be made a command.

    Args:
        verb: Which command.
        value: The decoded body.
        task_id: Its key.
        now_ns: The time.
        within: Where the body stands in the request.

    Raises:
        BadParameterError: It is no object, or names a field that is not the caller's.
    """
    if not isinstance(value, dict):
        raise BadParameterError(within or "body", "must be an object")
    for name in OURS & value.keys():
        known = ", ".join(
            field.name for field in msgspec.structs.fields(KINDS[verb]) if field.name not in OURS
        )
        raise BadParameterError(_place(within, name), f"unknown field; known: {known}")
    return {**value, "verb": verb, "task_id": task_id, "created_at_ns": now_ns}


def take_verb(value: Mapping[str, Any], within: str) -> tuple[str, dict[str, Any]]:
    """Split an order of a batch into its verb and its body.

    Raises:
        BadParameterError: The verb is missing or none.
    """
    body = dict(value)
    verb = body.pop("verb", None)
    if verb not in KINDS:
        raise BadParameterError(_place(within, "verb"), f"must be one of {', '.join(KINDS)}")
    return verb, body


def check_target(command: OrderCommand, within: str = "") -> None:
    """See that a change or a cancellation names one order.

    Raises:
        BadParameterError: It names none, or by both ways.
    """
    if isinstance(command, PlaceOrder):
        return
    if (command.order_id is None) == (command.target_task_id is None):
        raise BadParameterError(
            _place(within, "order_id"),
            "give either order_id, the broker's number, or target_task_id, the key of the order "
            "that was placed",
        )


def check_resolution(body: ResolveBody) -> None:
    """See that a resolution is complete.

    Raises:
        BadParameterError: `adopt` without a number, or a number without `adopt`.
    """
    if (body.resolution is Resolution.ADOPT) != (body.order_id is not None):
        raise BadParameterError(
            "order_id",
            "the broker's number of the order; required with adopt, and with nothing else",
        )


def read_account(text: str | None, field: str = "account") -> str | None:
    """Read the name of an account.

    Raises:
        BadParameterError: No account can have it.
    """
    name = read_name(field, text)
    if name is not None and len(name) > ACCOUNT_LENGTH_MAX:
        raise BadParameterError(field, f"must be a name of 1 to {ACCOUNT_LENGTH_MAX} letters")
    return name


def read_wait_ms(text: str | None) -> int:
    """Read how long a caller waits for the outcome, in milliseconds; 0 when it does not.

    Raises:
        BadParameterError: It is no number, or too long.
    """
    return read_whole("wait", text, default=0, low=0, high=WAIT_MS_MAX)


def read_order_filter(query: Mapping[str, str]) -> OrderFilter:
    """Read the parameters of `GET /orders`.

    Raises:
        BadParameterError: Names the parameter.
    """
    refuse_unknown(query, _FILTERS)
    since, until = query.get("since"), query.get("until")
    cursor = query.get("cursor")
    return OrderFilter(
        account=read_account(query.get("account")),
        user=read_name("user", query.get("user")),
        state=read_choice("state", query.get("state"), tuple(OrderState)),
        verb=read_choice("verb", query.get("verb"), tuple(KINDS)),
        tradingsymbol=read_name("tradingsymbol", query.get("tradingsymbol")),
        since=None if since is None else _moment("since", since),
        # The whole of its second counts.
        until=None if until is None else _moment("until", until, is_end=True) + _SECOND,
        after=None if cursor is None else _position(cursor),
        limit=read_limit(query),
    )


def read_trade_filter(query: Mapping[str, str]) -> TradeFilter:
    """Read the parameters of `GET /trades`.

    Raises:
        BadParameterError: Names the parameter.
    """
    refuse_unknown(query, {"account", "day", "order_id", "limit"})
    return TradeFilter(
        account=read_account(query.get("account")),
        day=read_date("day", query.get("day")),
        order_id=read_name("order_id", query.get("order_id")),
        limit=read_limit(query),
    )


def read_limit(query: Mapping[str, str]) -> int:
    """Read how many rows are wanted.

    Raises:
        BadParameterError: It is no number, or outside the bounds.
    """
    return read_whole("limit", query.get("limit"), default=LIMIT_DEFAULT, low=1, high=LIMIT_MAX)


def cursor_of(position: OrderPosition) -> str:
    """Spell a place of the list as a word that goes into an address."""
    return base64.urlsafe_b64encode(msgspec.json.encode(position)).decode("ascii").rstrip("=")


_SECOND: Final = timedelta(seconds=1)


def _position(text: str) -> OrderPosition:
    unknown = BadParameterError("cursor", "is not one that this list has given")
    if len(text) > _CURSOR_LENGTH_MAX:
        raise unknown
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        position = msgspec.json.decode(raw, type=OrderPosition)
    except (ValueError, binascii.Error, msgspec.DecodeError) as error:
        raise unknown from error
    if position.accepted_at.tzinfo is None:
        raise unknown
    return position


def _moment(field: str, text: str, *, is_end: bool = False) -> datetime:
    return datetime.fromtimestamp(read_moment(field, text, is_end=is_end), UTC)


def _place(within: str, field: str) -> str:
    return f"{within}.{field}" if within else field
