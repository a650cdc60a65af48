"""What can go wrong in a greeks worker, by consequence."""

from libs.common.contracts.messages import RpcError
from libs.common.errors import RejectedError


class FrameHeaderError(RejectedError):
    """A frame message lacks what its sender must say; the frame is counted and left out.

    Attributes:
        header: Which header.
        value: What it holds, None if it is missing.
    """

    def __init__(self, header: str, value: str | None) -> None:
        super().__init__(f"frame header {header} is {value!r}")
        self.header = header
        self.value = value


class RequestError(RejectedError):
    """A request ends with this error.

    Attributes:
        error: What its caller is told.
    """

    def __init__(self, error: RpcError) -> None:
        super().__init__(f"{error.code}: {error.message}")
        self.error = error
