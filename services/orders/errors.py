"""What can go wrong with orders, by consequence."""

from libs.common.errors import RejectedError, RetryableError


class OrderRefusedError(RejectedError):
    """An order will not be sent.

    Attributes:
        code: For programs, such as `off_tick`.
        message: For people; a sentence that says what would be right.
        field: Which field of the command is wrong, where one is.
    """

    def __init__(self, code: str, message: str, field: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field


class NoSessionError(RetryableError):
    """There is no session to speak to the broker with.

    Attributes:
        account: Whose.
    """

    def __init__(self, account: str) -> None:
        super().__init__(f"account {account} has no session; log it in: tickfleet login {account}")
        self.account = account


class AccountLostError(RetryableError):
    """Another process has the account's orders now.

    Attributes:
        account: Which.
    """

    def __init__(self, account: str) -> None:
        super().__init__(f"the orders of account {account} belong to another worker now")
        self.account = account
