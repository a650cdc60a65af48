"""What can go wrong in the control plane, by consequence."""

from libs.common.errors import RetryableError


class DumpUnusableError(RetryableError):
    """The downloaded dump cannot replace the current one; the current one stays in force."""

    def __init__(self, *, reason: str) -> None:
        super().__init__(f"the instrument dump is not usable: {reason}")
        self.reason = reason


class NoSessionError(RetryableError):
    """No account has a living session, so Kite cannot be asked anything."""

    def __init__(self) -> None:
        super().__init__("no account has a session")
