"""At most so many calls in any second of the other side's calendar, whatever its clock says."""

from collections import deque

_NS_PER_SECOND = 1_000_000_000


class CalendarLimiter:
    """Counts the calls of the last second and says how long the next one has to wait.

    Kite counts calendar seconds on its own clock, which nobody here can read. So this keeps to
    the limit in every window of one second, wherever it begins: then every calendar second of
    every clock keeps to it, at the same calls per second over time.

    Args:
        limit: Calls per second that the other side allows.
        spare: How many of them to leave unused, for callers elsewhere that share the key.
        margin_seconds: Makes the window longer by this: calls that leave a second apart may
            arrive closer together than that.

    Raises:
        ValueError: Nothing would be left to use.
    """

    __slots__ = ("_free_at_ns", "_taken_ns", "_usable", "_window_ns")

    def __init__(self, limit: int, *, spare: int = 0, margin_seconds: float = 0.0) -> None:
        if spare < 0 or limit - spare < 1:
            raise ValueError(f"a limit of {limit} with {spare} to spare leaves nothing to use")
        if margin_seconds < 0:
            raise ValueError("margin_seconds must not be negative")
        self._usable = limit - spare
        self._window_ns = _NS_PER_SECOND + round(margin_seconds * _NS_PER_SECOND)
        # When the calls of the last window left, oldest first; never more than are usable.
        self._taken_ns: deque[int] = deque(maxlen=self._usable)
        self._free_at_ns = 0

    @property
    def usable(self) -> int:
        """Calls per window."""
        return self._usable

    def wait_ns(self, now_ns: int) -> int:
        """How long a call would have to wait now, in nanoseconds; 0 when it may go."""
        free_at_ns = self._free_at_ns
        if len(self._taken_ns) == self._usable:
            free_at_ns = max(free_at_ns, self._taken_ns[0] + self._window_ns)
        return max(0, free_at_ns - now_ns)

    def try_acquire(self, now_ns: int) -> int:
        """Take a call if one is free now.

        Args:
            now_ns: Of a clock that never runs backwards; its zero does not matter.

        Returns:
            0 when the call may leave, and is counted; else how many nanoseconds to wait before
            asking again, and nothing is counted.
        """
        wait_ns = self.wait_ns(now_ns)
        if wait_ns == 0:
            self._taken_ns.append(now_ns)
        return wait_ns

    def refused(self, now_ns: int) -> None:
        """The other side refused a call for its limit: leave the rest of its second alone."""
        self._free_at_ns = max(self._free_at_ns, now_ns + self._window_ns)
