"""At most so many calls in any window of the other side's calendar, whatever its clock says."""

from collections import deque
from collections.abc import Iterable

_NS_PER_SECOND = 1_000_000_000


class CalendarLimiter:
    """Counts the calls of the last window and says how long the next one has to wait.

    Kite counts calendar seconds (and minutes) on its own clock, which nobody here can read. So
    this keeps to the limit in every window, wherever it begins: then every calendar second of
    every clock keeps to it, at the same calls per second over time.

    A clock that was put back does not lock anybody out: calls that seem to lie in the future
    count as of now.

    Args:
        limit: Calls per window that the other side allows.
        spare: How many of them to leave unused, for callers elsewhere that share the key, and
            for calls here that say that they may use them.
        margin_seconds: Makes the window longer by this: calls that leave a second apart may
            arrive closer together than that.
        window_seconds: The window that the other side counts in.

    Raises:
        ValueError: Nothing would be left to use, or no window.
    """

    __slots__ = ("_free_at_ns", "_limit", "_taken_ns", "_usable", "_window_ns")

    def __init__(
        self,
        limit: int,
        *,
        spare: int = 0,
        margin_seconds: float = 0.0,
        window_seconds: float = 1.0,
    ) -> None:
        if spare < 0 or limit - spare < 1:
            raise ValueError(f"a limit of {limit} with {spare} to spare leaves nothing to use")
        if margin_seconds < 0:
            raise ValueError("margin_seconds must not be negative")
        if window_seconds <= 0:
            raise ValueError("window_seconds must be above 0")
        self._limit = limit
        self._usable = limit - spare
        self._window_ns = round((window_seconds + margin_seconds) * _NS_PER_SECOND)
        # When the calls of the last window left, oldest first; never more than are allowed.
        self._taken_ns: deque[int] = deque(maxlen=limit)
        self._free_at_ns = 0

    @property
    def usable(self) -> int:
        """Calls per window."""
        return self._usable

    def used(self, now_ns: int) -> int:
        """Calls of the window that ends now."""
        self._mend_clock(now_ns)
        return sum(at_ns + self._window_ns > now_ns for at_ns in self._taken_ns)

    def wait_ns(self, now_ns: int, *, may_use_spare: bool = False) -> int:
        """How long a call would have to wait now, in nanoseconds; 0 when it may go.

        Args:
            now_ns: As in ``try_acquire``.
            may_use_spare: Whether the call is one of those that the spare is kept for.
        """
        self._mend_clock(now_ns)
        free_at_ns = self._free_at_ns
        usable = self._limit if may_use_spare else self._usable
        if len(self._taken_ns) >= usable:
            free_at_ns = max(free_at_ns, self._taken_ns[-usable] + self._window_ns)
        return max(0, free_at_ns - now_ns)

    def try_acquire(self, now_ns: int, *, may_use_spare: bool = False) -> int:
        """Take a call if one is free now.

        Args:
            now_ns: Of one clock that is the same for all calls; its zero does not matter.
            may_use_spare: Whether the call is one of those that the spare is kept for.

        Returns:
            0 when the call may leave, and is counted; else how many nanoseconds to wait before
            asking again, and nothing is counted.
        """
        wait_ns = self.wait_ns(now_ns, may_use_spare=may_use_spare)
        if wait_ns == 0:
            self._taken_ns.append(now_ns)
        return wait_ns

    def refused(self, now_ns: int) -> None:
        """The other side refused a call for its limit: leave the rest of its window alone."""
        self._free_at_ns = max(self._free_at_ns, now_ns + self._window_ns)

    def restore(self, taken_ns: Iterable[int]) -> None:
        """Count calls that left before this limiter existed.

        Args:
            taken_ns: When they left, in any order, of the same clock.
        """
        merged = sorted([*self._taken_ns, *taken_ns])
        self._taken_ns.clear()
        self._taken_ns.extend(merged)

    def _mend_clock(self, now_ns: int) -> None:
        taken = self._taken_ns
        if taken and taken[-1] > now_ns:
            mended = [min(at_ns, now_ns) for at_ns in taken]
            taken.clear()
            taken.extend(mended)
            self._free_at_ns = min(self._free_at_ns, now_ns + self._window_ns)
