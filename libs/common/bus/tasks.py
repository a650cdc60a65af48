"""A small owner of background tasks: what one of them raises is kept and handed to the owner."""

import asyncio
from collections.abc import Coroutine
from typing import Any


class OwnedTasks:
    """Tasks that belong to one object and end with it.

    Unlike `asyncio.TaskGroup` it never cancels its owner: nats-py swallows cancellation in several
    places (and `asyncio.wait_for` does on Python 3.11), so a failure is reported by `failed` and
    raised by `close`.

    Args:
        failed: An event of the owner to be set when a task raises; None for an own one.

    Attributes:
        failed: Set as soon as one task has raised.
    """

    def __init__(self, failed: asyncio.Event | None = None) -> None:
        self.failed = failed or asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failure: BaseException | None = None

    def spawn(self, work: Coroutine[Any, Any, Any], *, name: str) -> asyncio.Task[Any]:
        """Run a coroutine; it should watch a stop flag of its owner."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and self._failure is None:
            self._failure = error
            self.failed.set()

    async def finish(self, *, patience_seconds: float) -> None:
        """Wait for all tasks; cancel, as often as it takes, those that are late."""
        pending = set(self._tasks)
        if pending:
            _, pending = await asyncio.wait(pending, timeout=patience_seconds)
        while pending:
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=0.5)
        # The done callbacks of the last tasks run in the next turn of the loop.
        await asyncio.sleep(0)

    def raise_failure(self) -> None:
        """Raise what the first failing task raised, if one did."""
        if self._failure is not None:
            raise self._failure
