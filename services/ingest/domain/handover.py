"""Which account serves a request when one cannot, and what to say when none can."""

from collections.abc import Collection, Iterable, Mapping
from enum import StrEnum

from libs.common.contracts.messages import RpcError
from libs.common.contracts.subjects import escape
from services.ingest.errors import AccountFailedError


class Failure(StrEnum):
    """Every way in which an account can fail to serve a request that another may serve.

    Attributes:
        LIMITED: Its calls of this second are used up, here or by Kite's own count.
        CROWDED: Too many requests wait for it, or its turn would come too late.
        NO_SESSION: It has no session that Kite has not refused.
        SESSION_REFUSED: Kite refused its session just now (403).
        NOT_PERMITTED: Its app may not make this call.
        UNAVAILABLE: Kite did not answer, or with a fault of its own.
        OTHER_MARKET: Its session is of another market than the one asked for.
        NO_RESPONDER: No process holds it with a usable session.
        NO_ANSWER: The process that holds it did not answer.
    """

    LIMITED = "limited"
    CROWDED = "crowded"
    NO_SESSION = "no_session"
    SESSION_REFUSED = "session_refused"
    NOT_PERMITTED = "not_permitted"
    UNAVAILABLE = "unavailable"
    OTHER_MARKET = "other_market"
    NO_RESPONDER = "no_responder"
    NO_ANSWER = "no_answer"


_BUSY = frozenset({Failure.LIMITED, Failure.CROWDED})
_BROKEN = frozenset({Failure.UNAVAILABLE, Failure.NO_ANSWER})


_MEANINGS = {"rate_limited": Failure.LIMITED, "no_account": Failure.NO_SESSION}


def others(accounts: Iterable[str], tried: Collection[str]) -> list[str]:
    """The accounts that are left, beginning after the first one tried.

    Starting at different places, holders do not all hand over to the same account.

    Args:
        accounts: All accounts of the plan.
        tried: Those that could not serve the request, in order.
    """
    ring = sorted(set(accounts) | set(tried))
    first = ring.index(next(iter(tried))) if tried else 0
    return [name for name in ring[first:] + ring[:first] if name not in tried]


def tried_header(accounts: Iterable[str]) -> str:
    """Spell accounts as the value of the header `Tried`."""
    return ",".join(escape(account) for account in accounts)


def was_tried(header: str, account: str) -> bool:
    """Whether the value of a header `Tried` names an account."""
    return escape(account) in header.split(",")


def verdict(attempts: Mapping[str, AccountFailedError]) -> RpcError:
    """What to tell the caller when no account served the request.

    The most hopeful failure decides: a limit passes by itself, a fault perhaps, and a session
    that nobody has needs a login.

    Args:
        attempts: By account.
    """
    by_account = "; ".join(
        f"{account}: {attempt.failure}{f' ({attempt.reason})' if attempt.reason else ''}"
        for account, attempt in attempts.items()
    )
    failures = {attempt.failure for attempt in attempts.values()}
    if failures & _BUSY:
        waits = [
            attempt.retry_after_seconds
            for attempt in attempts.values()
            if attempt.failure in _BUSY and attempt.retry_after_seconds is not None
        ]
        return RpcError(
            code="rate_limited",
            message=f"Kite's limits leave no call in time ({by_account})",
            retry_after_seconds=round(min(waits, default=1.0), 3),
        )
    if failures & _BROKEN:
        return RpcError(
            code="unavailable", message=f"no account has got an answer from Kite ({by_account})"
        )
    return RpcError(
        code="no_account",
        message=f"no account has a session that may do this ({by_account or 'there is none'})",
    )


def failure_of(code: str) -> Failure:
    """What the code of another holder's error means for the search."""
    return _MEANINGS.get(code, Failure.UNAVAILABLE)
