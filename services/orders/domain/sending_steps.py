"""How a request gets away: checked, held, sent, answered, sent again when it is safe."""

from typing import Any, Final

import msgspec

from libs.common.contracts.orders import OrderState
from services.orders.domain.broker_word import about_other_order
from services.orders.domain.intent import Intent, Verb
from services.orders.domain.lifecycle_events import (
    Acked,
    AskAPerson,
    DeadLetter,
    Effect,
    Failed,
    Held,
    LifecycleRules,
    PublishEvent,
    Reconcile,
    Refused,
    ScheduleRetry,
    Send,
    Sending,
    SessionRenewed,
    Step,
    Tick,
)
from services.orders.domain.outcomes import Outcome, is_day_cap
from services.orders.domain.steps import (
    AWAITED,
    UNSENT,
    difference,
    found,
    ignored,
    looking,
    moved,
    settled,
    unknown,
)

__all__ = [
    "acked",
    "checked",
    "failed",
    "held",
    "refused",
    "sending",
    "session_renewed",
    "tick",
]

_NS_PER_SECOND: Final = 1_000_000_000
_S: Final = OrderState
_SENDABLE: Final = frozenset({_S.CHECKED, _S.RETRYING})


def checked(intent: Intent) -> Step:
    """It may be sent."""
    if intent.state is not _S.PENDING:
        return ignored(intent, "not_pending")
    return moved(intent, _S.CHECKED, PublishEvent(kind="checked"), Send())


def refused(intent: Intent, event: Refused) -> Step:
    """A check of ours ends it, as long as nothing has left."""
    if intent.state not in UNSENT:
        return ignored(intent, "may_be_sent")
    return settled(intent, event, _S.REJECTED, event.code, event.message, kind="refused")


def held(intent: Intent, event: Held) -> Step:
    """It waits for its turn; said once for every reason."""
    if intent.state not in UNSENT:
        return ignored(intent, "may_be_sent")
    is_news = intent.state is not _S.RETRYING or intent.code != event.code
    changed = msgspec.structs.replace(
        intent,
        state=_S.RETRYING,
        code=event.code,
        message=event.message,
        retry_at_ns=event.until_ns,
    )
    effects: list[Effect] = []
    if is_news:
        effects.append(PublishEvent(kind="held", code=event.code, message=event.message))
    if event.until_ns is not None:
        effects.append(ScheduleRetry(at_ns=event.until_ns))
    return Step(intent=changed, effects=tuple(effects))


def sending(intent: Intent, event: Sending) -> Step:
    """It is about to leave: from here on it may be an order."""
    if intent.state not in _SENDABLE:
        return ignored(intent, "not_sendable")
    changed = msgspec.structs.replace(
        intent,
        attempts=intent.attempts + 1,
        sent_at_ns=event.at_ns,
        retry_at_ns=None,
        code="",
        message="",
    )
    return moved(
        changed,
        _S.SENDING,
        PublishEvent(kind="sending", evidence={"attempt": changed.attempts}),
    )


def acked(intent: Intent, event: Acked) -> Step:
    """The broker gave a number, or took a change."""
    if intent.verb is not Verb.PLACE:
        if intent.state not in AWAITED:
            return ignored(intent, "not_awaited")
        # Its effect is seen in the order, so that the order is watched until it shows it.
        changed = looking(intent, event.at_ns, code="", message="")
        published = PublishEvent(kind="acknowledged", evidence={"order_id": event.order_id})
        return moved(changed, _S.ACKED, published, Reconcile())
    if intent.order_id == event.order_id:
        return ignored(intent, "known")
    if intent.order_id is not None:
        return about_other_order(intent, event.order_id, {"order_id": event.order_id})
    changed = found(intent, order_id=event.order_id)
    if intent.state in AWAITED:
        kind = "acknowledged" if intent.state is _S.SENDING else "adopted"
        published = PublishEvent(kind=kind, evidence={"order_id": event.order_id})
        return moved(changed, _S.ACKED, published, Reconcile())
    return moved(changed, _S.ACKED, difference(intent, {"order_id": event.order_id}), Reconcile())


def failed(intent: Intent, event: Failed, rules: LifecycleRules) -> Step:
    """The call failed; what that proves decides whether it is sent again, looked for or over."""
    if intent.state is not _S.SENDING:
        # The broker's own row came first, or another worker holds the account now.
        return ignored(intent, "not_sending")
    evidence = _answer(event)
    words = event.failure.message.strip() or event.failure.exception
    match event.outcome:
        case Outcome.AMBIGUOUS:
            return unknown(
                intent,
                event.at_ns,
                "no_clear_answer",
                "the broker's answer does not say whether the request was taken; it is looked for "
                "and not sent again",
                evidence,
            )
        case Outcome.NOT_SENT | Outcome.LIMITED:
            return _try_again(intent, event, rules, words, evidence)
        case Outcome.SESSION_REFUSED:
            return _wait_for_session(intent, event, rules, words, evidence)
        case Outcome.REFUSED | Outcome.NEEDS_AUTHORISATION | Outcome.NOT_PERMITTED:
            return _refused_by_broker(intent, event, words, evidence)


def _refused_by_broker(intent: Intent, event: Failed, words: str, evidence: dict[str, Any]) -> Step:
    code, message = "broker_refused", words
    if event.outcome is Outcome.NEEDS_AUTHORISATION:
        code = "needs_authorisation"
        message = f"the shares' sale must be authorised in Kite first: {words}"
    elif event.outcome is Outcome.NOT_PERMITTED:
        code = "not_permitted"
        message = f"this app or address may not place orders: {words}"
    step = settled(intent, event, _S.REJECTED, code, message, evidence=evidence)
    if event.outcome is not Outcome.NOT_PERMITTED:
        return step
    # No other order of the account will fare better until somebody acts.
    ask = AskAPerson(code=code, message=message, evidence=evidence)
    return msgspec.structs.replace(step, effects=(*step.effects, ask))


def _try_again(
    intent: Intent, event: Failed, rules: LifecycleRules, words: str, evidence: dict[str, Any]
) -> Step:
    limited = event.outcome is Outcome.LIMITED
    if limited and is_day_cap(event.failure):
        return settled(intent, event, _S.FAILED, "day_cap", words, evidence=evidence)
    if intent.attempts >= rules.max_attempts:
        return _given_up(intent, event, words, evidence)
    code = "rate_limited" if limited else "not_sent"
    retry_at_ns = event.at_ns + _delay_ns(intent.attempts, event, rules)
    changed = msgspec.structs.replace(intent, code=code, message=words, retry_at_ns=retry_at_ns)
    return moved(
        changed,
        _S.RETRYING,
        PublishEvent(kind="retrying", code=code, message=words, evidence=evidence),
        ScheduleRetry(at_ns=retry_at_ns),
    )


def _wait_for_session(
    intent: Intent, event: Failed, rules: LifecycleRules, words: str, evidence: dict[str, Any]
) -> Step:
    if intent.attempts >= rules.max_attempts:
        return _given_up(intent, event, words, evidence)
    changed = msgspec.structs.replace(
        intent, code="session_refused", message=words, retry_at_ns=None
    )
    return moved(
        changed,
        _S.RETRYING,
        PublishEvent(kind="held", code="session_refused", message=words, evidence=evidence),
    )


def _given_up(intent: Intent, event: Failed, words: str, evidence: dict[str, Any]) -> Step:
    message = f"not sent in {intent.attempts} attempts, the last: {words}"
    step = settled(
        intent,
        event,
        _S.DEAD_LETTER,
        "attempts_used_up",
        message,
        kind="dead_letter",
        evidence=evidence,
    )
    dead = DeadLetter(code="attempts_used_up", message=message)
    return msgspec.structs.replace(step, effects=(*step.effects, dead))


def tick(intent: Intent, event: Tick) -> Step:
    """A retry may be due, or the request too old."""
    if intent.state in UNSENT:
        until_ns = intent.valid_until_ns
        if until_ns is not None and event.at_ns > until_ns:
            waited = f": {intent.message}" if intent.message else ""
            return settled(
                intent,
                event,
                _S.FAILED,
                "expired",
                f"it was not sent while it was valid{waited}",
                kind="failed",
            )
        retry_at_ns = intent.retry_at_ns
        if intent.state is _S.RETRYING and retry_at_ns is not None and event.at_ns >= retry_at_ns:
            changed = msgspec.structs.replace(intent, retry_at_ns=None)
            return Step(intent=changed, effects=(Send(),))
    return ignored(intent, "nothing_due")


def session_renewed(intent: Intent, event: SessionRenewed) -> Step:
    """What waits for a newer session is tried again with it."""
    if intent.state is not _S.RETRYING or intent.retry_at_ns is not None:
        return ignored(intent, "waits_for_no_session")
    # Through `retry_at_ns`, so that a second newer session does not ask for a second send.
    changed = msgspec.structs.replace(intent, retry_at_ns=event.at_ns)
    return Step(intent=changed, effects=(ScheduleRetry(at_ns=event.at_ns),))


def _answer(event: Failed) -> dict[str, Any]:
    failure = event.failure
    return {
        "outcome": event.outcome.value,
        "exception": failure.exception,
        "http_status": failure.code,
        "text": failure.message,
        "request_sent": failure.request_sent,
    }


def _delay_ns(attempts: int, event: Failed, rules: LifecycleRules) -> int:
    step = min(rules.retry_first_seconds * 2.0 ** max(0, attempts - 1), rules.retry_ceiling_seconds)
    seconds = step * (0.5 + 0.5 * event.jitter)
    if event.outcome is Outcome.LIMITED:
        seconds = max(seconds, rules.limited_seconds)
    return round(seconds * _NS_PER_SECOND)
