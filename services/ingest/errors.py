"""What can end a feed connection, by consequence."""

from libs.common.contracts.messages import RpcError
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


class AccountFailedError(RetryableError):
    """An account could not serve a request; another one may.

    Attributes:
        account: Which.
        failure: One of the bounded failures of `domain.handover.Failure`, for metrics.
        reason: Words for people; no secret.
        retry_after_seconds: When the account may serve it, where that is known.
    """

    def __init__(
        self,
        account: str,
        failure: str,
        reason: str = "",
        *,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(f"account {account} cannot serve ({failure}): {reason}")
        self.account = account
        self.failure = failure
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class RequestError(RejectedError):
    """A request ends with this error.

    Attributes:
        error: What its caller is told.
    """

    def __init__(self, error: RpcError) -> None:
        super().__init__(f"{error.code}: {error.message}")
        self.error = error
