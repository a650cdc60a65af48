"""Explicit subscriptions: what they make the plan want, and how each of them fares."""

from collections.abc import Iterable, Mapping
from datetime import date, datetime
from enum import StrEnum

import msgspec

from libs.common.contracts.messages import FeedCoverage, StreamMode
from libs.common.domain.instruments import Instrument, Kind
from services.control.domain.planner import Plan
from services.control.domain.windows import (
    EXPLICIT,
    Universe,
    Wanted,
    has_expired,
    priced_with,
)


class State(StrEnum):
    """How a subscription fares."""

    PENDING = "pending"
    LIVE = "live"
    NO_DATA = "no_data"
    REJECTED = "rejected"


class Condition(msgspec.Struct, frozen=True):
    """A state and why; the reason of what is simply live is empty."""

    state: State
    reason: str = ""


class Subscription(msgspec.Struct, frozen=True, kw_only=True):
    """An active row of `instrument_subscriptions`.

    Attributes:
        instrument_token: The instrument.
        tradingsymbol: Its symbol on the day of the subscription.
        segment: Its segment on that day.
        mode: The highest mode that anybody claims.
        account: The account it is pinned to, or None.
        condition: As the row says it now.
    """

    instrument_token: int
    tradingsymbol: str
    segment: str
    mode: StreamMode
    account: str | None
    condition: Condition


class Explicit(msgspec.Struct, frozen=True, kw_only=True):
    """What the explicit subscriptions come to.

    Attributes:
        wanted: Their instruments, and what prices those.
        refused: Why an instrument cannot be wanted today, by token.
    """

    wanted: tuple[Wanted, ...]
    refused: dict[int, str]


def explicit(rows: Iterable[Subscription], universe: Universe, now: datetime) -> Explicit:
    """Turn subscriptions into what the plan should hold.

    Every option or future brings the index or equity and the futures of its expiry with it, in an
    underlying without a window too: a contract that streams is a contract that can be priced.
    """
    wanted: list[Wanted] = []
    refused: dict[int, str] = {}
    pricers_of: dict[tuple[str, date | None], tuple[Wanted, ...]] = {}
    for row in rows:
        item = universe.instruments.get(row.instrument_token)
        problem = _refusal(row, item, now)
        if item is None or problem:
            refused[row.instrument_token] = problem
            continue
        key = item.underlying, item.expiry
        if key not in pricers_of:
            chain = universe.chain(item.underlying)
            pricers_of[key] = () if chain is None else priced_with(item, chain)
            wanted.extend(pricers_of[key])
        wanted.append(
            Wanted(
                instrument_token=row.instrument_token,
                underlying=item.underlying,
                mode=row.mode,
                reason=EXPLICIT,
                account=row.account,
                needs=tuple(
                    pricer.instrument_token
                    for pricer in pricers_of[key]
                    if pricer.instrument_token != row.instrument_token
                ),
            )
        )
    return Explicit(wanted=tuple(wanted), refused=refused)


def _refusal(row: Subscription, item: Instrument | None, now: datetime) -> str:
    if item is None:
        return "not in today's instruments: it has expired or was delisted"
    # A company that changes its symbol keeps its token; a contract's token goes to another one.
    moved = item.segment != row.segment
    derivative = item.kind in (Kind.OPTION, Kind.FUTURE)
    if moved or (derivative and item.tradingsymbol != row.tradingsymbol):
        return (
            f"its token now belongs to {item.exchange}:{item.tradingsymbol}; "
            "subscribe again if that is wanted"
        )
    if has_expired(item, now):
        return f"expired on {item.expiry}"
    return ""


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """A FeedCoverage, arranged for questions.

    Attributes:
        plan_revision: Of the plan entry that was subscribed.
        pending: Subscribed, no tick yet.
        no_data: No tick within the deadline.
        stale: Ticked before, but not for a while.
    """

    plan_revision: int
    pending: frozenset[int]
    no_data: frozenset[int]
    stale: frozenset[int]

    @classmethod
    def of(cls, message: FeedCoverage) -> "Coverage":
        """Arrange a message."""
        return cls(
            plan_revision=message.plan_revision,
            pending=frozenset(message.pending),
            no_data=frozenset(message.no_data),
            stale=frozenset(message.stale),
        )


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the streams at one moment.

    Attributes:
        plan: The last plan.
        refused: See `Explicit`.
        since: Revision of the plan with which an instrument came to its account.
        coverage: By account; one that does not report is missing.
    """

    plan: Plan
    refused: Mapping[int, str]
    since: Mapping[int, int]
    coverage: Mapping[str, Coverage]


def conditions(pins: Mapping[int, str | None], fleet: Fleet) -> dict[int, Condition]:
    """Say how instruments fare.

    Args:
        pins: The instruments asked about, each with the account it is pinned to.
        fleet: What is known.
    """
    unplaced = {item.instrument_token: item for item in fleet.plan.unplaced}
    found = {}
    for token, pin in pins.items():
        if token in fleet.refused:
            found[token] = Condition(State.REJECTED, fleet.refused[token])
            continue
        slot = fleet.plan.slots.get(token)
        if slot is None:
            item = unplaced.get(token)
            if item is None:
                found[token] = _UNPLANNED
            else:
                state = State.PENDING if item.cause.passes else State.REJECTED
                found[token] = Condition(state, item.reason)
        elif pin is not None and pin != slot.account:
            found[token] = Condition(
                State.REJECTED,
                f"account {pin}, to which it is pinned, cannot take it; account {slot.account} "
                "streams it because others need it",
            )
        else:
            found[token] = _streamed(token, slot.account, fleet)
    return found


_UNPLANNED = Condition(State.PENDING, "not planned yet")
_LIVE = Condition(State.LIVE)
_STALE = Condition(State.LIVE, "no tick for a while")
_NO_TICK_YET = Condition(State.PENDING, "no tick yet")
_NO_DATA = Condition(State.NO_DATA, "no tick since it was subscribed, although the market is open")


def _streamed(token: int, account: str, fleet: Fleet) -> Condition:
    coverage = fleet.coverage.get(account)
    if coverage is None:
        return Condition(State.PENDING, f"the feed of account {account} does not report")
    if coverage.plan_revision < fleet.since.get(token, 0):
        return Condition(State.PENDING, f"account {account} has not subscribed it yet")
    if token in coverage.no_data:
        return _NO_DATA
    if token in coverage.pending:
        return _NO_TICK_YET
    # An option that trades now and then is no broken subscription.
    return _STALE if token in coverage.stale else _LIVE
