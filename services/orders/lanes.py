"""Work of one kind one after the other, of different kinds side by side."""

from collections import deque
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from libs.common.bus.tasks import OwnedTasks

T = TypeVar("T")


class Lanes(Generic[T]):
    """A line per key; whoever stands first in a line is worked on.

    The owner bounds how much it puts in: a line itself has no end.

    Args:
        work: Done with one item; what it raises stops the line and is the owner's failure.
        tasks: Owns the lines that move.
    """

    def __init__(self, work: Callable[[T], Awaitable[None]], tasks: OwnedTasks) -> None:
        self._work = work
        self._tasks = tasks
        self._lines: dict[Hashable, deque[T]] = {}

    def __len__(self) -> int:
        return sum(len(line) for line in self._lines.values())

    def put(self, key: Hashable, item: T) -> None:
        """Put an item at the end of its line."""
        line = self._lines.get(key)
        if line is not None:
            line.append(item)
            return
        self._lines[key] = deque([item])
        self._tasks.spawn(self._move(key), name="orders-lane")

    async def _move(self, key: Hashable) -> None:
        line = self._lines[key]
        try:
            while line:
                await self._work(line[0])
                line.popleft()
        finally:
            del self._lines[key]
