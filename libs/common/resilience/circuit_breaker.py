"""Stops calling a side that keeps failing, and finds out carefully whether it is back."""

from enum import StrEnum

_NS_PER_SECOND = 1_000_000_000


class BreakerState(StrEnum):
    """Whether calls pass: all, none, or a few that probe."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class CircuitBreaker:
    """Opens after so many failures in a row, and closes after so many probes that succeed.

    CLOSED: every call passes. OPEN: none does, for a while. HALF_OPEN: as many calls at once as
    there are probes to come; the first that fails opens it again, and it closes when all have
    succeeded. What counts as a failure is the caller's business: an answer that says no is none.

    Every call that was let pass must be followed by exactly one of `succeeded`, `failed` or
    `released`; else a half-open breaker waits for a probe that never comes back.

    Args:
        failures: In a row, until it opens.
        open_seconds: How long it stays open.
        probes: Successes until it closes.

    Raises:
        ValueError: A figure is not positive.
    """

    __slots__ = (
        "_failures",
        "_failures_to_open",
        "_open_ns",
        "_open_until_ns",
        "_passed",
        "_probes_flying",
        "_probes_to_close",
        "_state",
        "_term",
    )

    def __init__(self, *, failures: int = 5, open_seconds: float = 60.0, probes: int = 3) -> None:
        if failures < 1 or probes < 1 or open_seconds <= 0:
            raise ValueError("a circuit breaker needs failures, open_seconds and probes above 0")
        self._failures_to_open = failures
        self._open_ns = round(open_seconds * _NS_PER_SECOND)
        self._probes_to_close = probes
        self._state = BreakerState.CLOSED
        # Counts up whenever the state changes: calls of an earlier state prove nothing now.
        self._term = 0
        self._failures = 0
        self._passed = 0
        self._probes_flying = 0
        self._open_until_ns = 0

    @property
    def state(self) -> BreakerState:
        """The state as of the last call or answer."""
        return self._state

    @property
    def failures(self) -> int:
        """Failures in a row."""
        return self._failures

    def wait_ns(self, now_ns: int) -> int | None:
        """How long a call would have to wait now.

        Args:
            now_ns: Of a clock that never runs backwards.

        Returns:
            0 when it may go, nanoseconds until the first probe may go, or None when as many
            probes as are needed are under way: ask again when one of them is answered.
        """
        if self._state is BreakerState.OPEN:
            return max(0, self._open_until_ns - now_ns)
        if self._state is BreakerState.HALF_OPEN and self._probes_left == 0:
            return None
        return 0

    def try_acquire(self, now_ns: int) -> int | None:
        """Let a call pass if it may.

        Args:
            now_ns: Of a clock that never runs backwards.

        Returns:
            The term of the call when it may go: hand it back with the answer. None when it must
            wait; `wait_ns` says how long.
        """
        if self.wait_ns(now_ns) != 0:
            return None
        if self._state is BreakerState.OPEN:
            self._enter(BreakerState.HALF_OPEN)
        if self._state is BreakerState.HALF_OPEN:
            self._probes_flying += 1
        return self._term

    def succeeded(self, term: int) -> BreakerState:
        """The other side answered: it works, whatever it answered.

        Args:
            term: What ``try_acquire`` gave.

        Returns:
            The state afterwards.
        """
        if term == self._term:
            if self._state is BreakerState.HALF_OPEN:
                self._probes_flying -= 1
                self._passed += 1
                if self._passed >= self._probes_to_close:
                    self._enter(BreakerState.CLOSED)
            else:
                self._failures = 0
        return self._state

    def failed(self, term: int, now_ns: int) -> BreakerState:
        """The other side did not answer, or with a fault of its own.

        Args:
            term: What ``try_acquire`` gave.
            now_ns: As there.

        Returns:
            The state afterwards.
        """
        if term == self._term:
            self._failures += 1
            is_probe = self._state is BreakerState.HALF_OPEN
            if is_probe or self._failures >= self._failures_to_open:
                self._open_until_ns = now_ns + self._open_ns
                self._enter(BreakerState.OPEN)
        return self._state

    def released(self, term: int) -> None:
        """The call ended in a way that says nothing about the other side.

        Args:
            term: What ``try_acquire`` gave.
        """
        if term == self._term and self._state is BreakerState.HALF_OPEN:
            self._probes_flying -= 1

    @property
    def _probes_left(self) -> int:
        return self._probes_to_close - self._passed - self._probes_flying

    def _enter(self, state: BreakerState) -> None:
        self._state = state
        self._term += 1
        self._passed = 0
        self._probes_flying = 0
        if state is BreakerState.CLOSED:
            self._failures = 0
