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


class IdempotencyKeyError(RejectedError):
    """The header Idempotency-Key holds no key: HTTP 400.

    Attributes:
        message: For people.
    """

    def __init__(self, message: str) -> None:
        super().__init__(f"Idempotency-Key: {message}")
        self.message = message


class UnknownAccountError(RejectedError):
    """No account is called so: HTTP 404."""

    def __init__(self, account: str) -> None:
        super().__init__(f"account: there is none called {account}; GET /accounts lists them")
        self.account = account


class AccountsUnreadError(RetryableError):
    """Which accounts exist is not known yet, so nothing was accepted: HTTP 503."""

    def __init__(self) -> None:
        super().__init__("the accounts have not been read from NATS yet; nothing was accepted")


class OrderConflictError(RejectedError):
    """The key belongs to another command: HTTP 409.

    Attributes:
        account: Whose.
        task_id: The key.
    """

    def __init__(self, account: str, task_id: str) -> None:
        super().__init__(
            f"Idempotency-Key: {task_id} belongs to another command of account {account}, which "
            "stands; send a new command with a key of its own"
        )
        self.account = account
        self.task_id = task_id


class AmbiguousTaskError(RejectedError):
    """Several accounts have a task of this key: HTTP 409.

    Attributes:
        task_id: The key.
        accounts: Which.
    """

    def __init__(self, task_id: str, accounts: tuple[str, ...]) -> None:
        super().__init__(
            f"account: task {task_id} exists in {', '.join(accounts)}; say which with ?account="
        )
        self.task_id = task_id
        self.accounts = accounts


class OrderNotAcceptedError(RetryableError):
    """A command certainly did not enter the stream: HTTP 503.

    Attributes:
        code: `stream_full` or `unavailable`.
        message: For people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class OrderUncertainError(RetryableError):
    """A command was handed to NATS and no acknowledgement came: HTTP 504.

    Attributes:
        task_id: The key with which a repetition is safe.
    """

    def __init__(self, task_id: str) -> None:
        super().__init__(
            "NATS did not acknowledge the command: it is unknown whether it was accepted. Repeat "
            f"the request with the same Idempotency-Key ({task_id}); never with a new one"
        )
        self.task_id = task_id


class OrdersRefusedError(RejectedError):
    """The worker that holds an account's orders refused a request.

    Attributes:
        error: Its own words.
    """

    def __init__(self, error: RpcError) -> None:
        super().__init__(error.message)
        self.error = error


class OrdersUnavailableError(RetryableError):
    """The worker that holds an account's orders cannot be asked now: HTTP 503, or 504.

    Attributes:
        code: `no_worker`, `unavailable` or `timeout`.
        message: For people.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class PostbackRefusedError(RejectedError):
    """A postback does not come from the broker: HTTP 403.

    Attributes:
        message: For people.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class PostbackUnclaimedError(RetryableError):
    """Nobody can take a postback now: HTTP 503.

    Attributes:
        message: For people.
    """

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message
