"""What can go wrong on the bus, by consequence, and how nats-py's errors become ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import nats.errors
import nats.js.errors

from libs.common.errors import FatalError, RejectedError, RetryableError

# JetStream error codes: https://github.com/nats-io/nats-server/blob/main/server/errors.json
WRONG_LAST_SEQUENCE = frozenset({10071, 10164})
STREAM_NAME_IN_USE = 10058
STREAM_NOT_FOUND = 10059
CONSUMER_NOT_FOUND = 10014
MESSAGE_NOT_FOUND = 10037


class ConnectDeadlineError(FatalError):
    """NATS could not be reached within the deadline of the first connect."""

    def __init__(self, *, urls: list[str], deadline_seconds: float, reason: str) -> None:
        super().__init__(
            f"cannot reach NATS at {', '.join(urls)} within {deadline_seconds:g} s ({reason}): "
            "check NATS_URL, NATS_USER and NATS_PASSWORD, and that the server runs"
        )
        self.urls = urls
        self.deadline_seconds = deadline_seconds
        self.reason = reason


class BusClosedError(FatalError):
    """The connection is closed for good; the process should end and be started anew."""

    def __init__(self, reason: str = "the connection to NATS is closed") -> None:
        super().__init__(reason)


class ProvisionError(FatalError):
    """A stream or bucket cannot be made to match its declaration."""

    def __init__(self, *, name: str, reason: str) -> None:
        super().__init__(
            f"stream {name} cannot be provisioned: {reason} (a stream whose configuration cannot "
            "be changed in place must be deleted first, or the declared one renamed)"
        )
        self.name = name
        self.reason = reason


class BusUnavailableError(RetryableError):
    """NATS or JetStream did not answer; whether the request took effect is unknown."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"NATS did not answer: {reason}")
        self.reason = reason


class NoResponderError(RetryableError):
    """Nobody serves this subject right now; the request reached no one."""

    def __init__(self, subject: str) -> None:
        super().__init__(f"nobody serves {subject}")
        self.subject = subject


class RequestTimeoutError(RetryableError):
    """A request was sent but not answered in time; its effect is unknown."""

    def __init__(self, subject: str, timeout_seconds: float) -> None:
        super().__init__(f"no answer on {subject} within {timeout_seconds:g} s")
        self.subject = subject
        self.timeout_seconds = timeout_seconds


class IncompleteAnswerError(RetryableError):
    """A part of an answer in several parts was lost on the way; ask again."""

    def __init__(self, subject: str, *, expected: int, came: int) -> None:
        super().__init__(f"of the answer on {subject} part {expected} is missing, {came} came")
        self.subject = subject
        self.expected = expected
        self.came = came


class ServiceBusyError(RetryableError):
    """Whoever serves the subject could not do it now, and said so.

    Attributes:
        subject: What was asked.
        code: A word for programs, such as `rate_limited`.
        reason: Words for people.
        retry_after_seconds: When a repetition may succeed, where that is known.
    """

    def __init__(
        self, subject: str, *, code: str, reason: str, retry_after_seconds: float | None = None
    ) -> None:
        later = (
            "" if retry_after_seconds is None else f" (try again in {retry_after_seconds:.1f} s)"
        )
        super().__init__(f"{subject} answered {code}: {reason}{later}")
        self.subject = subject
        self.code = code
        self.reason = reason
        self.retry_after_seconds = retry_after_seconds


class ServiceRefusedError(RejectedError):
    """Whoever serves the subject refused the request for what it contains.

    Attributes:
        subject: What was asked.
        code: A word for programs: `bad_request` or `not_found`.
        reason: Words for people.
        field: Which part of the request is wrong, where one is.
    """

    def __init__(self, subject: str, *, code: str, reason: str, field: str | None = None) -> None:
        super().__init__(
            f"{subject} answered {code}: {reason}{f' (field {field})' if field else ''}"
        )
        self.subject = subject
        self.code = code
        self.reason = reason
        self.field = field


class RefusedError(RejectedError):
    """The server refused a request for what it contains; the same request fails again."""

    def __init__(self, *, code: int | None, reason: str) -> None:
        super().__init__(f"NATS refused the request: {reason} (error {code})")
        self.code = code
        self.reason = reason


class WrongRevisionError(RejectedError):
    """Compare-and-set lost: the key has another revision than the one expected."""

    def __init__(self, key: str, expected: int) -> None:
        super().__init__(f"key {key} is not at revision {expected}")
        self.key = key
        self.expected = expected


class KeyExistsError(RejectedError):
    """The key has a value already, so it cannot be created."""

    def __init__(self, key: str, revision: int) -> None:
        super().__init__(f"key {key} exists at revision {revision}")
        self.key = key
        self.revision = revision


def is_wrong_sequence(error: nats.js.errors.APIError) -> bool:
    """Whether the server refused a publish because of its expected-sequence header."""
    return error.err_code in WRONG_LAST_SEQUENCE


@contextmanager
def translated() -> Iterator[None]:
    """Turn the errors of nats-py inside the block into the fleet's own.

    Raises:
        BusUnavailableError: No answer, no JetStream, a full buffer or an internal server error.
        BusClosedError: The client is closed or draining.
        RefusedError: Any other answer of the JetStream API; carries its error code.
    """
    try:
        yield
    except (nats.errors.ConnectionClosedError, nats.errors.ConnectionDrainingError) as error:
        raise BusClosedError from error
    except (nats.js.errors.ServiceUnavailableError, nats.js.errors.ServerError) as error:
        raise BusUnavailableError(error.description or "JetStream is not ready") from error
    except nats.js.errors.APIError as error:
        raise RefusedError(code=error.err_code, reason=error.description or "?") from error
    except (
        nats.errors.MaxPayloadError,
        nats.errors.BadSubjectError,
        nats.errors.BadHeaderError,
    ) as error:
        raise RefusedError(code=None, reason=str(error)) from error
    except (nats.errors.Error, nats.js.errors.Error, OSError, TimeoutError, RuntimeError) as error:
        # RuntimeError: uvloop's, when its transport has closed and nats-py does not know yet.
        raise BusUnavailableError(str(error) or type(error).__name__) from error
