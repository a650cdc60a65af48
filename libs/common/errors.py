"""The roots of every error of the fleet, ordered by what the caller should do."""


class TickfleetError(Exception):
    """Root of all errors that tickfleet raises on purpose."""


class RetryableError(TickfleetError):
    """The same call may succeed later: wait with backoff and try again."""


class RejectedError(TickfleetError):
    """This input is wrong and stays wrong: report it to its sender, do not retry."""


class FatalError(TickfleetError):
    """The process cannot go on: log, stop, and let the supervisor start it anew."""
