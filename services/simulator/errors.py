"""What can go wrong in the simulator, as Kite Connect names it on the wire."""

from libs.common.errors import RejectedError


class KiteError(RejectedError):
    """A request that Kite Connect answers with an error envelope.

    Attributes:
        status: HTTP status code.
        error_type: Kite's name of the class, such as `TokenException`.
        message: What the client reads.
    """

    def __init__(self, status: int, error_type: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.message = message


class InputError(KiteError):
    """A parameter is missing or wrong (400 InputException)."""

    def __init__(self, message: str) -> None:
        super().__init__(400, "InputException", message)


class OrderError(KiteError):
    """An order cannot be touched as asked (400 OrderException)."""

    def __init__(self, message: str) -> None:
        super().__init__(400, "OrderException", message)


class MarginError(KiteError):
    """The account has not enough funds (400 MarginException)."""

    def __init__(self, message: str) -> None:
        super().__init__(400, "MarginException", message)


class DayCapError(KiteError):
    """The account has placed as many orders today as it may (429 NetworkException)."""

    def __init__(self) -> None:
        super().__init__(429, "NetworkException", "Maximum allowed order requests exceeded.")


class TokenError(KiteError):
    """The session is unknown, expired or revoked (403 TokenException)."""

    def __init__(self, message: str = "Incorrect `api_key` or `access_token`.") -> None:
        super().__init__(403, "TokenException", message)


class LoginError(KiteError):
    """User id, password or the second factor is wrong (403)."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(403, error_type, message)


class TooManyRequestsError(KiteError):
    """The budget of the calendar second or minute is used up (429 NetworkException)."""

    def __init__(self) -> None:
        super().__init__(429, "NetworkException", "Too many requests")


class FaultError(RejectedError):
    """A request to the fault endpoint that makes no sense.

    Attributes:
        field: The offending field of the request.
        fix: What would be right.
    """

    def __init__(self, field: str, fix: str) -> None:
        super().__init__(f"{field}: {fix}")
        self.field = field
        self.fix = fix
