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


class StaleTaskError(RetryableError):
    """Somebody else has changed the task in the ledger: read it again before deciding anything."""

    def __init__(self, account: str, task_id: str) -> None:
        super().__init__(f"task {task_id} of account {account} was changed by somebody else")
        self.account = account
        self.task_id = task_id


class TaskGoneError(RejectedError):
    """The task is no longer in the ledger, from which nothing is ever deleted by the fleet."""

    def __init__(self, account: str, task_id: str) -> None:
        super().__init__(f"task {task_id} of account {account} is no longer in the ledger")
        self.account = account
        self.task_id = task_id


class KeyTakenError(RejectedError):
    """The key belongs to another command; this one is not carried out.

    Attributes:
        account: Of both.
        task_id: The key.
    """

    def __init__(self, account: str, task_id: str) -> None:
        super().__init__(
            f"key {task_id} of account {account} belongs to a command with another content: "
            "give every command a key of its own"
        )
        self.account = account
        self.task_id = task_id


class OrderNumberTakenError(RejectedError):
    """The broker's number belongs to another request of the ledger already.

    Attributes:
        account: Whose.
        reason: What the ledger says.
    """

    def __init__(self, account: str, reason: str) -> None:
        super().__init__(f"account {account}: {reason}")
        self.account = account
        self.reason = reason
