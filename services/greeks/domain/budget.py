"""Divides what a worker may do per second among its shards, by how much waits in each."""

from typing import Final

_BURST_SECONDS: Final = 0.1
"""What a shard did not use is kept for so long."""


class SharedBudget:
    """What one worker may do per second, all shards together: options priced anew, last values.

    Args:
        per_second: At most so many.
    """

    def __init__(self, per_second: float) -> None:
        self._per_second = per_second
        self._waiting: dict[int, int] = {}

    @property
    def waiting(self) -> int:
        """How many wait in all shards, as last said."""
        return sum(self._waiting.values())

    def rate(self, shard: int, waiting: int) -> float:
        """A shard's share per second: where more wait, more are served, so all wait alike.

        Args:
            shard: Which one.
            waiting: How many wait in it; kept until it says otherwise.
        """
        self._waiting[shard] = waiting
        return self._per_second * waiting / self.waiting if waiting else 0.0

    def leave(self, shard: int) -> None:
        """A shard is no longer this worker's."""
        self._waiting.pop(shard, None)


class Allowance:
    """What one shard may do now."""

    def __init__(self) -> None:
        self._left = 0.0

    def earn(self, seconds: float, rate: float) -> int:
        """Time passed at a rate.

        Args:
            seconds: Since the last call.
            rate: Per second.

        Returns:
            How many may be done now.
        """
        self._left = min(self._left + seconds * rate, max(1.0, rate * _BURST_SECONDS))
        return int(self._left)

    def spend(self, count: int) -> None:
        """So many were done."""
        self._left -= count


class Courtesy:
    """Gives way to what is more urgent, but not for ever.

    Args:
        patience: So many times in a row; then it has its turn.
    """

    def __init__(self, patience: int) -> None:
        self._patience = patience
        self._given_way = 0

    def gives_way(self, *, is_pressed: bool) -> bool:
        """Whether to leave this turn to others.

        Args:
            is_pressed: Whether anything more urgent waits.
        """
        if not is_pressed or self._given_way >= self._patience:
            self._given_way = 0
            return False
        self._given_way += 1
        return True
