"""What a call to Kite can fail with, ordered by consequence."""

from libs.common.errors import FatalError, RejectedError, RetryableError


class KiteUnavailableError(RetryableError):
    """Kite did not answer, or answered with a fault of its own; a read may be repeated."""

    def __init__(self, *, call: str, reason: str) -> None:
        super().__init__(f"Kite did not answer {call}: {reason}")
        self.call = call
        self.reason = reason


class KiteTruncatedError(KiteUnavailableError):
    """The answer ended before its end: what came of it must not be taken for all of it."""


class KiteRateLimitedError(RetryableError):
    """The limiter refused the call (429): nothing was done, wait for the next second."""

    def __init__(self, *, call: str) -> None:
        super().__init__(f"Kite's rate limit refused {call}")
        self.call = call


class KiteTokenError(RejectedError):
    """The access token is dead (403): only a new session helps, never a repetition."""

    def __init__(self, *, call: str, reason: str) -> None:
        super().__init__(f"Kite refused the access token for {call}: {reason}")
        self.call = call
        self.reason = reason


class KitePermissionError(RejectedError):
    """The app may not make this call (403); a new session would not help, a subscription may."""

    def __init__(self, *, call: str, reason: str) -> None:
        super().__init__(f"Kite does not permit {call} to this app: {reason}")
        self.call = call
        self.reason = reason


class KiteInputError(RejectedError):
    """Kite refused the parameters of the call (400-class)."""

    def __init__(self, *, call: str, reason: str) -> None:
        super().__init__(f"Kite refused {call}: {reason}")
        self.call = call
        self.reason = reason


class LoginRefusedError(FatalError):
    """Kite refused the credentials; repeating them can lock the account, so nobody does.

    Attributes:
        account: Whose login it was.
        step: `password`, `totp`, `consent` or `session`.
        reason: Kite's own words.
    """

    def __init__(self, *, account: str, step: str, reason: str) -> None:
        super().__init__(f"login of account {account} was refused at step {step}: {reason}")
        self.account = account
        self.step = step
        self.reason = reason
