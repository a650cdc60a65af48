"""What can end a feed connection, by consequence."""

from libs.common.errors import RejectedError, RetryableError


class FeedLostError(RetryableError):
    """The connection ended; connect again after a backoff.

    Attributes:
        cause: One of the bounded causes of `domain.causes.Cause`, for metrics.
    """

    def __init__(self, *, cause: str, reason: str) -> None:
        super().__init__(f"feed lost ({cause}): {reason}")
        self.cause = cause
        self.reason = reason


class SessionRefusedError(RejectedError):
    """Kite refused the session (403): only a newer one helps, so the feed parks."""

    def __init__(self, *, reason: str) -> None:
        super().__init__(f"the session was refused: {reason}")
        self.reason = reason
