"""What a client can do wrong, by consequence, and how each becomes an answer."""

from libs.common.contracts.messages import RpcError
from libs.common.contracts.websocket import CloseCode, ErrorCode
from libs.common.errors import RejectedError, RetryableError


class ClientMessageError(RejectedError):
    """A WebSocket message cannot be followed; the connection lives on.

    Attributes:
        code: For programs.
        message: For people: what is wrong and what would be right.
        field: The part of the message that is wrong, when one is.
        tokens: The instruments it is about.
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        field: str | None = None,
        tokens: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field
        self.tokens = tokens


class ConnectionEndedError(RejectedError):
    """A rule ends a connection: the client is told why, then it is closed.

    Attributes:
        code: For programs.
        message: For people.
        close_code: The WebSocket close code.
    """

    def __init__(self, code: ErrorCode, message: str, close_code: CloseCode) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.close_code = close_code


class InvalidTokenError(ConnectionEndedError):
    """The JSON Web Token proves nobody; `message` never repeats the token."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(code, message, CloseCode.UNAUTHENTICATED)


class BadParameterError(RejectedError):
    """A request parameter is wrong: HTTP 422 with its name."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class NotFoundError(RejectedError):
    """What was asked for by name is not there: HTTP 404 with what is.

    Attributes:
        field: The parameter that names it.
        message: For people.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class ApiKeyError(RejectedError):
    """The X-API-Key header is missing or wrong: HTTP 401."""


class CatalogUnavailableError(RetryableError):
    """The tables behind a REST answer cannot be read now: HTTP 503."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the database does not answer: {reason}")
        self.reason = reason


class NoInstrumentsError(RetryableError):
    """No instruments have been loaded yet, so nothing can be looked up: HTTP 503."""

    def __init__(self) -> None:
        super().__init__("no instruments have been loaded yet; control does that at its start")


class MarketUnavailableError(RetryableError):
    """What greeks published last cannot be read now: HTTP 503.

    Attributes:
        reason: For people.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the newest values cannot be read: {reason}")
        self.reason = reason


class BodyError(RejectedError):
    """The body of a request cannot be read; nothing of it is repeated.

    Attributes:
        status: The HTTP status.
        code: For programs.
        message: For people.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


class CommandRefusedError(RejectedError):
    """Control refused a command.

    Attributes:
        error: Its own words.
    """

    def __init__(self, error: RpcError) -> None:
        super().__init__(error.message)
        self.error = error


class AccountsUnavailableError(RetryableError):
    """Control cannot be asked now: HTTP 503, or 504 when the outcome is unknown.

    Attributes:
        code: `no_leader`, `unavailable` or `timeout`.
        message: For people.
        retry_after_seconds: When a repetition may succeed, where that is known.
    """

    def __init__(
        self, code: str, message: str, *, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_seconds = retry_after_seconds


class GreeksUnavailableError(RetryableError):
    """Greeks cannot be asked now: HTTP 503, or 504 without an answer in time.

    Attributes:
        code: `unavailable` or `timeout`.
        message: For people.
        retry_after_seconds: When a repetition may succeed, where that is known.
    """

    def __init__(
        self, code: str, message: str, *, retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.retry_after_seconds = retry_after_seconds


class RefusedItemError(RejectedError):
    """The one instrument of a request was refused: HTTP 422.

    Attributes:
        code: For programs.
        message: For people.
        field: The part of the request that is wrong.
    """

    def __init__(self, code: str, message: str, field: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.field = field


class BadSpanError(RejectedError):
    """Two parameters contradict each other: HTTP 400 with the name of one.

    Attributes:
        field: The parameter.
        message: For people.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}")
        self.field = field
        self.message = message


class CandlesFailedError(RetryableError):
    """Candles cannot be served, or not any further.

    Attributes:
        code: `bad_request`, `not_found`, `rate_limited`, `timeout`, `busy`, `no_worker`,
            `no_account` or `unavailable`.
        message: For people.
        field: The parameter at fault, when one is.
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
