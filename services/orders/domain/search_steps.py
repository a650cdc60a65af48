"""How a request is found again at the broker, or given up to a person."""

from typing import Any, Final

import msgspec

from libs.common.contracts.orders import OrderState
from services.orders.domain.broker_word import (
    about_other_order,
    evidence_of,
    is_in_progress,
    settled_by_row,
    with_row,
)
from services.orders.domain.intent import Intent, Verb
from services.orders.domain.lifecycle_events import (
    Effect,
    Event,
    LifecycleRules,
    NotSeen,
    PublishEvent,
    Reconcile,
    Recovered,
    RowSeen,
    ScheduleRetry,
    Send,
    Step,
)
from services.orders.domain.steps import (
    UNSENT,
    absent,
    difference,
    ignored,
    looking,
    settled,
    unknown,
)

__all__ = ["not_seen", "recovered", "row_seen"]

_NS_PER_SECOND: Final = 1_000_000_000
_S: Final = OrderState


def row_seen(intent: Intent, event: RowSeen, rules: LifecycleRules) -> Step:
    """The broker showed an order: the request's own, or the one that it is about."""
    if intent.verb is not Verb.PLACE:
        return _target_seen(intent, event, rules)
    order = event.order
    is_known = order.order_id == intent.order_id
    if not is_known and not order.carries(intent.tag):
        return ignored(intent, "other_order")
    # The legs of an iceberg are orders of their own and carry the same tag.
    if not is_known and intent.order_id is not None and order.variety != "iceberg":
        return about_other_order(intent, order.order_id, evidence_of(order))
    changed = with_row(intent, order)
    if changed == intent:
        return ignored(intent, "nothing_new")
    return _shown(intent, changed, event)


def _shown(intent: Intent, changed: Intent, event: RowSeen) -> Step:
    evidence = evidence_of(event.order)
    effects: list[Effect] = []
    was_settled_here = intent.is_settled and not intent.has_final_word
    if intent.state in UNSENT or (was_settled_here and changed.state is not intent.state):
        # Nothing should be there, or we said that nothing is: the broker's word wins.
        effects.append(difference(intent, evidence))
    kind = "adopted" if intent.state in {_S.UNKNOWN, _S.ABSENT} else "updated"
    if intent.state is _S.SENDING:
        kind = "acknowledged"
    code = message = ""
    if changed.state is _S.REJECTED:
        code, message = changed.code, changed.message
    effects.append(PublishEvent(kind=kind, code=code, message=message, evidence=evidence))
    if changed.is_settled and not intent.is_settled:
        changed = msgspec.structs.replace(changed, settled_at_ns=event.at_ns)
    if not changed.is_settled:
        effects.append(Reconcile())
        changed = msgspec.structs.replace(changed, settled_at_ns=None)
    return Step(intent=changed, effects=tuple(effects))


def _target_seen(intent: Intent, event: RowSeen, rules: LifecycleRules) -> Step:
    """The order that a change or a cancellation is about was seen.

    Both are settled by reading it: whether such a request came through shows in the order alone.
    """
    order = event.order
    if order.order_id != intent.order_id:
        return ignored(intent, "other_order")
    # While it is being sent the answer is still to come, and a row of before proves nothing.
    is_awaited = intent.state in {_S.ACKED, _S.UNKNOWN, _S.ABSENT}
    if not is_awaited and intent.code != "not_applied":
        return ignored(intent, "not_awaited")
    verdict = settled_by_row(intent, order)
    if verdict is not None:
        return _settled_by(verdict, intent, event)
    is_searched = intent.state in {_S.UNKNOWN, _S.ACKED}
    if not event.is_look or not is_searched or is_in_progress(order):
        return ignored(intent, "nothing_new")
    return _looked(intent, event, rules, evidence_of(order))


def _settled_by(verdict: tuple[OrderState, str, str], intent: Intent, event: RowSeen) -> Step:
    state, code, message = verdict
    if intent.is_settled and state is not _S.COMPLETE:
        return ignored(intent, "nothing_new")
    evidence = evidence_of(event.order)
    changed = msgspec.structs.replace(intent, status=event.order.status or None)
    step = settled(changed, event, state, code, message, kind="updated", evidence=evidence)
    if not intent.is_settled:
        return step
    # It had been given up, and came through after all.
    effects = (difference(intent, evidence), *step.effects)
    return msgspec.structs.replace(step, effects=effects)


def not_seen(intent: Intent, event: NotSeen, rules: LifecycleRules) -> Step:
    """The broker was asked, and does not show the order that is looked for."""
    awaits_row = intent.state is _S.UNKNOWN or (
        intent.state is _S.ACKED and intent.verb is not Verb.PLACE
    )
    if not awaits_row:
        # An order with a number does not become absent by being missed: the book may lag.
        return ignored(intent, "not_looked_for")
    return _looked(intent, event, rules, {})


def _looked(intent: Intent, event: Event, rules: LifecycleRules, seen: dict[str, Any]) -> Step:
    if intent.looking_since_ns is None or event.at_ns < intent.looking_since_ns:
        return ignored(intent, "before_the_search")
    changed = msgspec.structs.replace(intent, looks=intent.looks + 1, looked_at_ns=event.at_ns)
    return _search_ended(changed, event, rules, seen) or Step(intent=changed)


def _search_ended(
    intent: Intent, event: Event, rules: LifecycleRules, seen: dict[str, Any]
) -> Step | None:
    since_ns, looked_at_ns = intent.looking_since_ns, intent.looked_at_ns
    if since_ns is None or looked_at_ns is None or intent.looks < rules.min_looks:
        return None
    # The last look must be younger than the window: an order may take all of it to appear.
    if looked_at_ns < since_ns + round(rules.unknown_window_seconds * _NS_PER_SECOND):
        return None
    seconds = (looked_at_ns - since_ns) / _NS_PER_SECOND
    evidence = {"looks": intent.looks, "seconds": round(seconds, 3), **seen}
    if intent.verb is not Verb.PLACE and seen:
        message = (
            f"order {intent.order_id} still stands as before after {intent.looks} looks in "
            f"{seconds:.0f} s: the {intent.verb} was not carried out; ask for it again with a new "
            "key if it is still wanted"
        )
        return settled(
            intent, event, _S.REJECTED, "not_applied", message, kind="updated", evidence=evidence
        )
    message = (
        f"the broker's order book did not show it in {intent.looks} looks over {seconds:.0f} s; a "
        "person decides: adopt, absent or resend"
    )
    return absent(intent, "not_found", message, evidence)


def recovered(intent: Intent, event: Recovered) -> Step:
    """It was read from the ledger: take up what was under way, and send nothing twice."""
    is_change = intent.verb is not Verb.PLACE
    step = ignored(intent, "nothing_due")
    match intent.state:
        case OrderState.SENDING:
            step = unknown(
                intent,
                event.at_ns,
                "worker_gone",
                "the worker that was sending it is gone; whether it left is not known, so it is "
                "looked for and not sent again",
                {},
            )
        case OrderState.UNKNOWN | OrderState.ACKED if is_change or intent.state is _S.UNKNOWN:
            # How long was looked is forgotten, so that the search begins anew.
            changed = looking(intent, event.at_ns, code=intent.code, message=intent.message)
            step = Step(intent=changed, effects=(Reconcile(),))
        case OrderState.ACKED | OrderState.OPEN:
            step = Step(intent=intent, effects=(Reconcile(),))
        case OrderState.CHECKED:
            step = Step(intent=intent, effects=(Send(),))
        case OrderState.RETRYING:
            # Until when it was to wait is forgotten, too; whoever sends it looks at the breaker
            # and the session first.
            changed = msgspec.structs.replace(intent, retry_at_ns=event.at_ns)
            step = Step(intent=changed, effects=(ScheduleRetry(at_ns=event.at_ns),))
    return step
