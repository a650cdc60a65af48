"""Why a feed connection ended, as a small set that metrics and logs share."""

from enum import StrEnum


class Cause(StrEnum):
    """Every way in which a connection can end."""

    REFUSED = "refused"
    HANDSHAKE = "handshake"
    SESSION_REFUSED = "session_refused"
    RATE_LIMITED = "rate_limited"
    TIMEOUT = "timeout"
    SILENT = "silent"
    CLOSED_CLEAN = "closed_clean"
    DROPPED = "dropped"
    SESSION_CHANGED = "session_changed"
    NOT_PLANNED = "not_planned"
    STOPPED = "stopped"


def of_handshake(status: int) -> Cause:
    """The cause behind an HTTP status that refused the WebSocket."""
    if status == 403:
        return Cause.SESSION_REFUSED
    if status == 429:
        return Cause.RATE_LIMITED
    return Cause.HANDSHAKE


def of_close(code: int | None) -> Cause:
    """The cause behind a close code; 1006 (or none) means that the connection just broke."""
    if code in {1000, 1001}:
        return Cause.CLOSED_CLEAN
    return Cause.DROPPED
