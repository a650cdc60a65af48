"""The state machine of one request: what happened in, where it stands and what to do out.

Two things are never done: a request that may have reached the broker is not sent again, and an
end is not made up. A state at which nothing more happens comes of the broker's own word, of the
proof that nothing was sent, or of a person.
"""

from typing import Final

from services.orders.domain import decision_steps, search_steps, sending_steps
from services.orders.domain.intent import Intent
from services.orders.domain.lifecycle_events import (
    Acked,
    Checked,
    DayOver,
    Event,
    Failed,
    Held,
    LifecycleRules,
    NotSeen,
    Recovered,
    Refused,
    Resolved,
    RowSeen,
    Sending,
    SessionRenewed,
    Step,
    Tick,
)

__all__ = ["DEFAULT_RULES", "advance"]

DEFAULT_RULES: Final = LifecycleRules()


def advance(intent: Intent, event: Event, rules: LifecycleRules = DEFAULT_RULES) -> Step:
    """Say where a request stands after an event, and what to do.

    Deterministic: time and jitter come with the event. An event that does not fit the state
    changes nothing and says so in `ignored`.

    Args:
        intent: The request as it stands.
        event: What happened.
        rules: The figures.

    Raises:
        OrderRefusedError: A person decided what cannot be decided now: `not_absent`, `was_taken`
            or `order_id_missing`.
    """
    match event:
        case Checked():
            step = sending_steps.checked(intent)
        case Refused():
            step = sending_steps.refused(intent, event)
        case Held():
            step = sending_steps.held(intent, event)
        case Sending():
            step = sending_steps.sending(intent, event)
        case Acked():
            step = sending_steps.acked(intent, event)
        case Failed():
            step = sending_steps.failed(intent, event, rules)
        case Tick():
            step = sending_steps.tick(intent, event)
        case SessionRenewed():
            step = sending_steps.session_renewed(intent, event)
        case _:
            step = _after_sending(intent, event, rules)
    return step


def _after_sending(intent: Intent, event: Event, rules: LifecycleRules) -> Step:
    match event:
        case RowSeen():
            step = search_steps.row_seen(intent, event, rules)
        case NotSeen():
            step = search_steps.not_seen(intent, event, rules)
        case Recovered():
            step = search_steps.recovered(intent, event)
        case Resolved():
            step = decision_steps.resolved(intent, event)
        case DayOver():
            step = decision_steps.day_over(intent, event)
        case _:
            raise TypeError(f"{type(event).__name__} is no event of a request")
    return step
