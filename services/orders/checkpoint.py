"""Names of the steps between two effects, at each of which a process may die without harm."""

import os
import signal
from collections.abc import Callable
from enum import StrEnum


class Step(StrEnum):
    """Where an order stands between two effects."""

    DELIVERED_NOT_ACCEPTED = "delivered-not-accepted"
    ACCEPTED_NOT_ACKED = "accepted-not-acked"
    ACKED_NOT_CHECKED = "acked-not-checked"
    CHECKED_NOT_SENDING = "checked-not-sending"
    SENDING_NOT_SENT = "sending-not-sent"
    SENT_NOT_ANSWERED = "sent-not-answered"
    ANSWERED_NOT_COMMITTED = "answered-not-committed"
    COMMITTED_NOT_PUBLISHED = "committed-not-published"
    PUBLISHED_NOT_NOTED = "published-not-noted"
    UNKNOWN_NOT_LOOKED = "unknown-not-looked"
    SEEN_NOT_COMMITTED = "seen-not-committed"
    BURIED_NOT_ACKED = "buried-not-acked"


Checkpoint = Callable[[Step], None]


def pass_by(step: Step) -> None:
    """Do nothing: what every process does outside of tests."""
    del step


def crash_at(name: str) -> Checkpoint:
    """Make a checkpoint at which this process kills itself, as if its power failed.

    Raises:
        ValueError: There is no such step.
    """
    fatal = Step(name)

    def check(step: Step) -> None:
        if step is fatal:
            os.kill(os.getpid(), signal.SIGKILL)

    return check
