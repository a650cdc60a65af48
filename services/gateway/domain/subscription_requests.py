"""What a request about subscriptions may say, and what becomes of each of its instruments."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta

BULK_MAX: Final = 9000
"""Instruments of one request: what an account of three connections can stream."""

DEFAULT_SUBSCRIBER: Final = "default"
EVERYBODY: Final = "*"
"""As the subscriber of a removal: whoever claims the instrument."""

Token = Annotated[int, Meta(ge=1, le=0xFFFFFFFF)]
Name = Annotated[str, Meta(min_length=1, max_length=64)]
Subscriber = Annotated[str, Meta(pattern="^[A-Za-z0-9._:-]{1,64}$")]
Remover = Annotated[str, Meta(pattern=r"^([A-Za-z0-9._:-]{1,64}|\*)$")]


class RequestedMode(StrEnum):
    """How much of an instrument is wanted, as the table and the predecessor spell it."""

    LTP = "LTP"
    QUOTE = "QUOTE"
    FULL = "FULL"


class _Instrument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An instrument by its token, or by symbol and exchange."""

    instrument_token: Token | None = None
    tradingsymbol: Name | None = None
    exchange: Name | None = None

    def __post_init__(self) -> None:
        """Check that exactly one way is used, and wholly."""
        if self.instrument_token is not None:
            if self.tradingsymbol is not None or self.exchange is not None:
                raise ValueError(
                    "give either instrument_token or tradingsymbol with exchange, not both"
                )
        elif self.tradingsymbol is None or self.exchange is None:
            raise ValueError("give instrument_token, or tradingsymbol together with exchange")

    @property
    def label(self) -> str:
        """The instrument as its sender wrote it."""
        if self.instrument_token is not None:
            return str(self.instrument_token)
        return f"{self.exchange}:{self.tradingsymbol}"


class Claim(_Instrument, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody wants an instrument streamed.

    Attributes:
        requested_mode: How much of it.
        account_id: The only account that may stream it; None for any.
        subscriber: Who wants it; the claim stands until the same name withdraws it.
    """

    requested_mode: RequestedMode = RequestedMode.FULL
    account_id: Name | None = None
    subscriber: Subscriber = DEFAULT_SUBSCRIBER


class Withdrawal(_Instrument, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Somebody no longer wants an instrument.

    Attributes:
        requested_mode: Withdraw the claim of this mode alone; None for all modes.
        subscriber: Whose claim; `*` for everybody's.
    """

    requested_mode: RequestedMode | None = None
    subscriber: Remover = DEFAULT_SUBSCRIBER


class BulkClaims(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Many claims at once."""

    instruments: Annotated[tuple[Claim, ...], Meta(min_length=1, max_length=BULK_MAX)]


class BulkWithdrawals(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Many withdrawals at once."""

    instruments: Annotated[tuple[Withdrawal, ...], Meta(min_length=1, max_length=BULK_MAX)]


class OutcomeKind(StrEnum):
    """What a request did to one of its instruments."""

    SUBSCRIBED = "subscribed"
    UPDATED = "updated"
    UNSUBSCRIBED = "unsubscribed"
    UNCHANGED = "unchanged"
    REJECTED = "rejected"


class ItemError(msgspec.Struct, frozen=True, kw_only=True):
    """Why an instrument of a request was refused.

    Attributes:
        code: For programs.
        message: For people.
        field: The part of the item that is wrong.
    """

    code: str
    message: str
    field: str


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one instrument of a request.

    Attributes:
        index: Its place in the request, from 0.
        instrument_token: None when nobody knows it.
        tradingsymbol: Likewise.
        outcome: What happened.
        error: Why nothing did.
    """

    index: int
    instrument_token: int | None
    tradingsymbol: str | None
    outcome: OutcomeKind
    error: ItemError | None = None


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What today's instruments say of one that was asked for."""

    instrument_token: int
    tradingsymbol: str
    segment: str
    exchange: str


class Registry(msgspec.Struct, frozen=True, kw_only=True):
    """Today's instruments, as far as a request names them."""

    by_token: Mapping[int, Known]
    by_symbol: Mapping[tuple[str, str], Known]

    def find(self, item: _Instrument) -> Known | None:
        """The instrument that an item names."""
        if item.instrument_token is not None:
            return self.by_token.get(item.instrument_token)
        return self.by_symbol.get((item.exchange or "", item.tradingsymbol or ""))


class Row(msgspec.Struct, frozen=True):
    """A claim as the table holds it."""

    instrument_token: int
    mode: RequestedMode
    subscriber: str
    account: str | None


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A request, sorted.

    Attributes:
        rows: The claims to hold, each once.
        outcomes: Refusals so far, by place in the request.
        places: Which claim an item became, by place; a token, a mode and a subscriber.
    """

    rows: tuple[Row, ...]
    outcomes: dict[int, Outcome]
    places: dict[int, tuple[int, RequestedMode, str]]


def accept(
    claims: Sequence[Claim],
    registry: Registry,
    *,
    pins: Iterable[tuple[int, str, str]],
    is_account: Callable[[str], bool],
) -> Accepted:
    """Sort the claims of a request into those that can stand and those that cannot.

    A subscriber's newest word on an account counts for all its claims of an instrument. Two
    subscribers cannot pin one instrument to two accounts, since it is streamed once: the one that
    came first keeps it.

    Args:
        claims: In the order of the request.
        registry: Today's instruments.
        pins: What others hold: token, subscriber and account.
        is_account: Whether an account exists.
    """
    rows: dict[tuple[int, RequestedMode, str], Row] = {}
    outcomes: dict[int, Outcome] = {}
    places = {}
    pinned: dict[int, dict[str, str]] = {}
    for token, subscriber, account in pins:
        pinned.setdefault(token, {})[subscriber] = account
    said: dict[tuple[int, str], str | None] = {}
    for index, claim in enumerate(claims):
        known = registry.find(claim)
        error = _unknown(claim) if known is None else None
        if known is not None:
            error = _pin_error(
                claim, known.instrument_token, pinned.get(known.instrument_token, {}), said
            )
            if claim.account_id is not None and not is_account(claim.account_id):
                error = ItemError(
                    code="unknown_account",
                    message=f"no account is called {claim.account_id}",
                    field="account_id",
                )
        if known is None or error is not None:
            outcomes[index] = Outcome(
                index=index,
                instrument_token=known.instrument_token if known else claim.instrument_token,
                tradingsymbol=known.tradingsymbol if known else claim.tradingsymbol,
                outcome=OutcomeKind.REJECTED,
                error=error,
            )
            continue
        token = known.instrument_token
        said[token, claim.subscriber] = claim.account_id
        holders = pinned.setdefault(token, {})
        holders.pop(claim.subscriber, None)
        if claim.account_id is not None:
            holders[claim.subscriber] = claim.account_id
        key = (token, claim.requested_mode, claim.subscriber)
        rows[key] = Row(*key, claim.account_id)
        places[index] = key
    return Accepted(rows=tuple(rows.values()), outcomes=outcomes, places=places)


def _unknown(claim: _Instrument) -> ItemError:
    by_token = claim.instrument_token is not None
    return ItemError(
        code="unknown_instrument",
        message=f"{claim.label} is not in today's instruments",
        field="instrument_token" if by_token else "tradingsymbol",
    )


def _pin_error(
    claim: Claim,
    token: int,
    holders: Mapping[str, str],
    said: Mapping[tuple[int, str], str | None],
) -> ItemError | None:
    key = (token, claim.subscriber)
    if key in said and said[key] != claim.account_id:
        return ItemError(
            code="contradiction",
            message=(
                f"the request names two accounts for {claim.label} of subscriber "
                f"{claim.subscriber}; the first one counts"
            ),
            field="account_id",
        )
    if claim.account_id is None:
        return None
    for subscriber, account in holders.items():
        if subscriber != claim.subscriber and account != claim.account_id:
            return ItemError(
                code="pinned_elsewhere",
                message=f"subscriber {subscriber} has pinned {claim.label} to account {account}",
                field="account_id",
            )
    return None
