"""What can go wrong in the control plane, by consequence."""

from libs.common.errors import RejectedError, RetryableError


class DumpUnusableError(RetryableError):
    """The downloaded dump cannot replace the current one; the current one stays in force."""

    def __init__(self, *, reason: str) -> None:
        super().__init__(f"the instrument dump is not usable: {reason}")
        self.reason = reason


class NoSessionError(RetryableError):
    """No account has a living session, so Kite cannot be asked anything."""

    def __init__(self) -> None:
        super().__init__("no account has a session")


class NotLeadingError(RetryableError):
    """The lease of the leadership ran out: another process leads, or will in a moment."""

    def __init__(self) -> None:
        super().__init__("this control process does not lead any more")


class UserServiceError(RetryableError):
    """The user service did not give its accounts; those it gave before stay in force."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the user service does not give its accounts: {reason}")
        self.reason = reason


class AccountCommandError(RejectedError):
    """An AccountCommand cannot be carried out.

    Attributes:
        code: `bad_request`, `not_found`, `conflict`, `refused` (by Kite) or `rate_limited`.
        message: For people: what is wrong and what would be right.
        field: The part of the command that is wrong, when one is.
        retry_after_seconds: When a repetition may succeed, where that is known.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        field: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.retry_after_seconds = retry_after_seconds
