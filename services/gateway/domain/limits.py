"""How much one client, one user and all of them together may ask for."""

from collections import Counter
from collections.abc import Hashable


class MessageRate:
    """A token bucket: so many messages a second, twice as many at once."""

    __slots__ = ("_burst", "_left", "_per_second", "_seen_at")

    def __init__(self, per_second: float, now_seconds: float) -> None:
        self._per_second = per_second
        self._burst = max(1.0, 2.0 * per_second)
        self._left = self._burst
        self._seen_at = now_seconds

    def allows(self, now_seconds: float) -> bool:
        """Count one message at a monotonic time; False if it is one too many."""
        elapsed = max(0.0, now_seconds - self._seen_at)
        self._seen_at = now_seconds
        self._left = min(self._burst, self._left + elapsed * self._per_second)
        if self._left < 1.0:
            return False
        self._left -= 1.0
        return True


class ConnectionQuota:
    """Counts connections of the process and of each user.

    A place in the process is taken before the handshake is answered, one of the user's places
    once it is known who connects.
    """

    def __init__(self, *, total_max: int, per_user_max: int) -> None:
        self._total_max = total_max
        self._per_user_max = per_user_max
        self._total = 0
        self._of_user: Counter[Hashable] = Counter()

    @property
    def total(self) -> int:
        """Connections that hold a place."""
        return self._total

    def enter(self) -> bool:
        """Take a place in the process; False if it is full."""
        if self._total >= self._total_max:
            return False
        self._total += 1
        return True

    def leave(self) -> None:
        """Give the place in the process back."""
        self._total -= 1

    def admit(self, user: Hashable) -> bool:
        """Take one of the user's places; False if none is left."""
        if self._of_user[user] >= self._per_user_max:
            return False
        self._of_user[user] += 1
        return True

    def dismiss(self, user: Hashable) -> None:
        """Give one of the user's places back."""
        self._of_user[user] -= 1
        if self._of_user[user] <= 0:
            del self._of_user[user]
