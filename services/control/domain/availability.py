"""Which accounts can be counted on now: who is away, and who has come back but not for long."""

from collections.abc import Collection, Mapping
from enum import StrEnum
from typing import Final

import msgspec

from libs.common.contracts.messages import FeedState, FeedStatus

_TOKEN_DEAD: Final = frozenset({FeedState.PARKED, FeedState.WAITING_SESSION})


class Availability(StrEnum):
    """What the plan may do with an account."""

    AVAILABLE = "available"
    LOST = "lost"
    RETURNING = "returning"


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """An account, as far as its feed is concerned.

    Attributes:
        availability: What the plan may do with it.
        since: When that began, seconds on the caller's clock.
        trouble: What is wrong now; empty while nothing is.
        troubled_since: Since when, as far as it counts; None while nothing is wrong.
    """

    availability: Availability
    since: float
    trouble: str = ""
    troubled_since: float | None = None


def dead_session(before: int | None, feed: FeedStatus | None) -> int | None:
    """When the session was minted that is known to be dead, epoch ns; None while none is.

    A feed whose instruments were moved away has nothing to connect for and cannot tell any more:
    its session stays dead until there is a newer one, or until it streams.

    Args:
        before: What was known at the last look.
        feed: What its holder says of the account's feed.
    """
    if feed is None:
        return before
    minted = feed.session_minted_at_ns or 0
    if feed.state is FeedState.STREAMING:
        # Also a feed that streams on over sockets opened before its session died.
        return None
    if feed.session_refused or feed.state in _TOKEN_DEAD:
        return minted
    return before if before == minted else None


def trouble(holder: str | None, feed: FeedStatus | None, dead: int | None) -> str:
    """Why an account cannot stream now, in words; empty when nothing speaks against it.

    A feed that merely reconnects is not in trouble here: moving thousands of instruments takes
    longer than that.

    Args:
        holder: The ingest worker that holds the account's lease, or None.
        feed: What the holder says of the account's feed; None before it has spoken.
        dead: See `dead_session`.
    """
    if holder is None:
        return "nobody holds its lease"
    if dead is None or feed is None:
        return ""
    told = feed.state in _TOKEN_DEAD and feed.reason
    return f"its session is dead: {feed.reason}" if told else "its session is dead"


def judge(
    before: Mapping[str, Standing],
    troubles: Mapping[str, str],
    *,
    now: float,
    grace_seconds: float,
    hold_seconds: float,
    absent: Collection[str] = (),
) -> dict[str, Standing]:
    """Say of every account whether it can be counted on.

    An account is lost when it has been in trouble for the grace while another one was well: when
    all are in trouble (NATS was away, no ingest runs yet) there is nowhere to go and nothing has
    been lost, and the clocks start when the first is back. A lost account that is well again is
    `returning` until it has been well without a break for the hold-down.

    Args:
        before: The last verdict.
        troubles: What is wrong with each account that exists, empty text for nothing.
        now: Seconds, on a clock that never runs backwards.
        grace_seconds: How long an account may be in trouble.
        hold_seconds: How long it must then be well.
        absent: Accounts that an earlier leader moved instruments away from: when they are seen
            for the first time they count as lost.
    """
    somebody_well = not all(troubles.values())
    verdict = {}
    for account, problem in troubles.items():
        held = before.get(account)
        if held is None:
            first = Availability.LOST if account in absent else Availability.AVAILABLE
            held = Standing(availability=first, since=now)
        verdict[account] = _next(
            held, problem, now, grace_seconds, hold_seconds, can_lose=somebody_well
        )
    return verdict


def _next(
    held: Standing,
    problem: str,
    now: float,
    grace_seconds: float,
    hold_seconds: float,
    *,
    can_lose: bool,
) -> Standing:
    availability, since = held.availability, held.since
    if not problem:
        if availability is Availability.LOST:
            availability, since = Availability.RETURNING, now
        elif availability is Availability.RETURNING:
            if held.trouble:
                since = now  # The hold-down begins anew.
            elif now - since >= hold_seconds:
                availability, since = Availability.AVAILABLE, now
        return Standing(availability=availability, since=since)
    troubled_since = held.troubled_since
    if not can_lose:
        troubled_since = None
    elif troubled_since is None:
        troubled_since = now
    elif availability is not Availability.LOST and now - troubled_since >= grace_seconds:
        availability, since = Availability.LOST, now
    return Standing(
        availability=availability, since=since, trouble=problem, troubled_since=troubled_since
    )


def accounts_in(verdict: Mapping[str, Standing], availability: Availability) -> frozenset[str]:
    """The accounts of one availability."""
    return frozenset(a for a, s in verdict.items() if s.availability is availability)
