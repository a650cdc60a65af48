"""What can go wrong with orders, by consequence."""

from libs.common.errors import RejectedError


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
