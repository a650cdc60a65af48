"""What a failed call to the broker proves about the request, and what it says of the broker."""

import re
from enum import StrEnum
from typing import Final

from libs.common.domain.order_answers import CallFailure

__all__ = ["BrokerHealth", "Outcome", "classify", "health", "is_day_cap"]


class Outcome(StrEnum):
    """Every way in which a request can fail, by what is known of it afterwards.

    Attributes:
        REFUSED: The broker said no and why; not placed, and the same again would be refused too.
        NOT_SENT: Proven that nothing left; may be sent again.
        LIMITED: The broker's limiter refused it; not placed, may be sent again later.
        SESSION_REFUSED: The session is dead; not placed, may be sent with a newer session.
        NOT_PERMITTED: The app or this address may not place orders; not placed.
        NEEDS_AUTHORISATION: The holder must first authorise the sale of the shares; not placed.
        AMBIGUOUS: May be an order. Never sent again; looked for in the broker's book.
    """

    REFUSED = "refused"
    NOT_SENT = "not_sent"
    LIMITED = "limited"
    SESSION_REFUSED = "session_refused"
    NOT_PERMITTED = "not_permitted"
    NEEDS_AUTHORISATION = "needs_authorisation"
    AMBIGUOUS = "ambiguous"


class BrokerHealth(StrEnum):
    """What an outcome says about the broker, for the circuit breaker.

    Attributes:
        ANSWERED: It works: it understood the request and decided about it.
        FAILED: It does not: a time-out, a network error, a fault of its own.
        SILENT: It says nothing about it: a limit or a session is somebody else's business.
    """

    ANSWERED = "answered"
    FAILED = "failed"
    SILENT = "silent"


# The classes that carry a reason of the order's own. Kite's other error types (margin, holding,
# user) have no class in kiteconnect and arrive as GeneralException with the status 400.
_REFUSALS: Final = frozenset(
    {
        "InputException",
        "OrderException",
        "MarginException",
        "HoldingException",
        "UserException",
        "GeneralException",
    }
)

# Seen in the wild: a 400 that said so, and the order appeared eight seconds later. The refusal for
# lack of funds sends people to the order book as well ("for open orders"), and is a refusal.
_NOT_KNOWN: Final = re.compile(
    r"time[ds]?[\s-]*out"
    r"|\bcheck\b[^.]*\border\s?book\b(?!\s+for\s+open\s+orders)"
    r"|something\s+went\s+wrong|unexpected|unknown\s+error|internal\s+(?:server\s+)?error"
    r"|gateway|no\s+response|could\s+not\s+(?:be\s+)?confirm",
    re.IGNORECASE,
)
# No reason for a refusal is longer. Of a page the beginning is read: its heading stands there.
_LONGEST: Final = 2_000
# kiteconnect hides the status of an answer that is no JSON and puts its body into the message. Only
# a page that is headed by the status counts: "429" may stand in any page, as part of some number.
_NOT_JSON: Final = "Unknown Content-Type"
_LIMITER_PAGE: Final = re.compile(
    r"<(?:title|h1|h2)[^>]*>\s*(?:HTTP\s*)?(?:error\s*)?(?:429\b|too\s+many\s+requests)",
    re.IGNORECASE,
)
_LIMITER_TEXT: Final = re.compile(
    r"response: \(b['\"]\s*(?:429[\s:-]+)?too\s+many\s+requests\W*['\"]\)", re.IGNORECASE
)
_SERVER_FAULT: Final = re.compile(
    r"<(?:title|h1|h2)[^>]*>\s*(?:HTTP\s*)?(?:error\s*)?5\d\d\b", re.IGNORECASE
)
_DAY_CAP: Final = re.compile(r"maximum\s+allowed\s+order\s+requests", re.IGNORECASE)


def classify(failure: CallFailure) -> Outcome:
    """Say what a failed call proves; whatever is not proven is AMBIGUOUS.

    Kite has no key of its own against a second execution, and its staff's rule is to look into
    the order book after everything that is not a 400. So only these are believed: nothing left;
    a 400 with a reason of the order's own; 403; 428; 429. A text that speaks of a time-out or
    sends to the order book outweighs every status.
    """
    if not failure.request_sent:
        return Outcome.NOT_SENT
    if failure.code == 502 and failure.message.startswith(_NOT_JSON):
        return Outcome.LIMITED if _is_limiter_page(failure) else Outcome.AMBIGUOUS
    words = failure.message.strip()
    if not words or len(words) > _LONGEST or _NOT_KNOWN.search(words):
        return Outcome.AMBIGUOUS
    return _of_status(failure)


def is_day_cap(failure: CallFailure) -> bool:
    """Whether the broker takes no more orders today, so that waiting a second does not help."""
    return _DAY_CAP.search(failure.message) is not None


def health(outcome: Outcome | None) -> BrokerHealth:
    """What the end of a call says about the broker.

    Args:
        outcome: Of a failed call; None for one that succeeded.
    """
    match outcome:
        case None | Outcome.REFUSED | Outcome.NEEDS_AUTHORISATION:
            return BrokerHealth.ANSWERED
        case Outcome.AMBIGUOUS | Outcome.NOT_SENT:
            return BrokerHealth.FAILED
        case _:
            return BrokerHealth.SILENT


def _of_status(failure: CallFailure) -> Outcome:
    match failure.code:
        case 400 if failure.exception in _REFUSALS:
            return Outcome.REFUSED
        case 403 if failure.exception == "TokenException":
            return Outcome.SESSION_REFUSED
        case 403:
            return Outcome.NOT_PERMITTED
        case 428:
            return Outcome.NEEDS_AUTHORISATION
        case 429:
            return Outcome.LIMITED
        case _:
            return Outcome.AMBIGUOUS


def _is_limiter_page(failure: CallFailure) -> bool:
    text = failure.message[:_LONGEST]
    if _SERVER_FAULT.search(text) or _NOT_KNOWN.search(text):
        return False
    return bool(_LIMITER_PAGE.search(text) or _LIMITER_TEXT.search(text))
