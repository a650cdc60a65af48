"""Divides what a worker may price anew per second among its shards, by how many options wait."""

from typing import Final

_BURST_SECONDS: Final = 0.1
"""What a shard did not use is kept for so long."""


class RepriceBudget:
    """The options that one worker may price anew per second, all shards together.

    Args:
        ticks_per_second: At most so many.
    """

    def __init__(self, ticks_per_second: float) -> None:
        self._ticks_per_second = ticks_per_second
        self._waiting: dict[int, int] = {}

    @property
    def waiting(self) -> int:
        """How many options wait in all shards, as last said."""
        return sum(self._waiting.values())

    def rate(self, shard: int, waiting: int) -> float:
        """A shard's options per second: where more wait, more are served, so all wait alike.

        Args:
            shard: Which one.
            waiting: How many of its options are due; kept until it says otherwise.
        """
        self._waiting[shard] = waiting
        return self._ticks_per_second * waiting / self.waiting if waiting else 0.0

    def leave(self, shard: int) -> None:
        """A shard is no longer this worker's."""
        self._waiting.pop(shard, None)


class Allowance:
    """What one shard may price anew now."""

    def __init__(self) -> None:
        self._ticks = 0.0

    def earn(self, seconds: float, rate: float) -> int:
        """Time passed at a rate.

        Args:
            seconds: Since the last call.
            rate: Options per second.

        Returns:
            How many options may be priced now.
        """
        self._ticks = min(self._ticks + seconds * rate, max(1.0, rate * _BURST_SECONDS))
        return int(self._ticks)

    def spend(self, ticks: int) -> None:
        """So many were priced."""
        self._ticks -= ticks
