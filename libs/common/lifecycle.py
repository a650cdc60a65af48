"""The life of a process: signals, one shutdown deadline, and tasks that nobody may lose."""

import asyncio
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine
from types import FrameType
from typing import Any

from libs.common import logs
from libs.common.errors import FatalError, TickfleetError
from libs.common.metrics import EVENT_LOOP_LAG_SECONDS, TASKS_FAILED_TOTAL
from libs.common.settings import BaseServiceSettings

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_DEADLINE = 70
EXIT_SETTINGS = 78
EXIT_SECOND_SIGNAL = 130
_LAG_INTERVAL_SECONDS = 0.5

log = logs.get_logger(__name__)


class TaskEndedError(FatalError):
    """A task that should run as long as the process has ended."""

    def __init__(self, task: str) -> None:
        super().__init__(f"task {task!r} ended although nobody stopped it")
        self.task = task


class Lifecycle:
    """Owns the stop flag and the tasks of one process.

    A task given to `spawn` watches `stop` and returns soon after it is set. When one ends before
    that, or raises, the whole process stops with status 1: half a process is worse than none,
    and its supervisor starts a whole one.

    Attributes:
        stop: Set once, when the process should end.
    """

    def __init__(self, *, deadline_seconds: float = 10.0) -> None:
        self.stop = asyncio.Event()
        self._deadline_seconds = deadline_seconds
        self._tasks: set[asyncio.Task[Any]] = set()
        self._failure: BaseException | None = None

    @property
    def failure(self) -> BaseException | None:
        """What ended the process, if it was not asked to end."""
        return self._failure

    def request_stop(self, reason: str) -> None:
        """Ask everything to end; later calls change nothing."""
        if not self.stop.is_set():
            log.info("process.stopping", reason=reason)
            self.stop.set()

    def fail(self, error: BaseException, *, task: str = "main") -> None:
        """End the process because something cannot go on; the first failure is kept."""
        TASKS_FAILED_TOTAL.labels(task=task).inc()
        if self._failure is None:
            self._failure = error
        log.error("task.failed", task=task, error=str(error), exc_info=error)
        self.request_stop(f"task {task} failed")

    def spawn(
        self, work: Coroutine[Any, Any, Any], *, name: str, may_end: bool = False
    ) -> asyncio.Task[Any]:
        """Run a coroutine as an owned task.

        Args:
            work: What to run; it must end soon after `stop` is set.
            name: A bounded name for logs and metrics.
            may_end: True for work that is finite; it still may not raise.
        """
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)

        def ended(done: asyncio.Task[Any]) -> None:
            self._tasks.discard(done)
            if done.cancelled():
                # Finite work may be cancelled by its owner; anything else may not just vanish.
                if not (may_end or self.stop.is_set()):
                    self.fail(TaskEndedError(name), task=name)
                return
            error = done.exception()
            if error is not None:
                self.fail(error, task=name)
            elif not may_end and not self.stop.is_set():
                self.fail(TaskEndedError(name), task=name)

        task.add_done_callback(ended)
        return task

    async def until_stopped(self) -> None:
        """Wait for the stop flag, then for every owned task; cancel those that do not listen.

        Call it inside the context managers of the edges, so that no task outlives what it uses.
        """
        await self.stop.wait()
        patience = self._deadline_seconds * 0.6
        pending = set(self._tasks)
        if pending:
            _, pending = await asyncio.wait(pending, timeout=patience)
        for task in pending:
            log.warning("task.cancelled", task=task.get_name(), waited_seconds=patience)
            task.cancel()
        if pending:
            await asyncio.wait(pending, timeout=self._deadline_seconds * 0.2)

    async def watch_lag(self) -> None:
        """Measure how late the event loop runs, until the process stops."""
        loop = asyncio.get_running_loop()
        while not self.stop.is_set():
            due = loop.time() + _LAG_INTERVAL_SECONDS
            await asyncio.sleep(_LAG_INTERVAL_SECONDS)
            EVENT_LOOP_LAG_SECONDS.set(max(0.0, loop.time() - due))


async def sleep_unless(stop: asyncio.Event, seconds: float) -> bool:
    """Sleep, but wake at once when `stop` is set; says whether it is set."""
    if stop.is_set():
        return True
    try:
        async with asyncio.timeout(seconds):
            await stop.wait()
    except TimeoutError:
        return stop.is_set()
    return True


async def changed_or_stopped(changed: asyncio.Event, stop: asyncio.Event, seconds: float) -> None:
    """Wait until one of two events is set, or so many seconds have passed."""
    waits = [
        asyncio.create_task(changed.wait(), name="until-changed"),
        asyncio.create_task(sleep_unless(stop, seconds), name="until-stopped"),
    ]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


def run(
    service: str,
    settings: BaseServiceSettings,
    serve: Callable[[Lifecycle], Awaitable[None]],
) -> int:
    """Run a service until a signal or a failure, and give its exit status.

    `serve` opens the edges, spawns the tasks and awaits `Lifecycle.until_stopped`. SIGTERM and
    SIGINT set the stop flag; the process is left when the deadline has passed or at a second
    signal.
    """
    logs.configure(
        service=service,
        worker_id=settings.worker_id,
        level=settings.log_level,
        style=settings.log_format,
    )
    try:
        import uvloop  # noqa: PLC0415  # Absent on Windows; asyncio's own loop serves there.

        loop_factory: Callable[[], asyncio.AbstractEventLoop] | None = uvloop.new_event_loop
    except ImportError:
        loop_factory = None
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(_main(service, settings, serve))


async def _main(
    service: str,
    settings: BaseServiceSettings,
    serve: Callable[[Lifecycle], Awaitable[None]],
) -> int:
    life = Lifecycle(deadline_seconds=settings.stop_deadline_seconds)
    loop = asyncio.get_running_loop()
    timer: list[threading.Timer] = []

    def leave_late() -> None:
        # A thread, because a blocked event loop could not keep its own deadline.
        log.error("process.deadline_missed", deadline_seconds=settings.stop_deadline_seconds)
        os._exit(EXIT_DEADLINE)

    def start_deadline() -> None:
        if not timer:
            watch = threading.Timer(settings.stop_deadline_seconds, leave_late)
            watch.daemon = True
            watch.start()
            timer.append(watch)

    def on_signal(number: int, frame: FrameType | None) -> None:
        del frame
        if life.stop.is_set():
            os._exit(EXIT_SECOND_SIGNAL)
        start_deadline()
        name = signal.Signals(number).name
        loop.call_soon_threadsafe(life.request_stop, name)

    for number in (signal.SIGTERM, signal.SIGINT):
        # signal.signal and not add_signal_handler: a second signal must work while the loop hangs.
        signal.signal(number, on_signal)

    log.info("process.starting", settings=settings.describe(), python=sys.version.split()[0])
    life.spawn(life.watch_lag(), name="loop-lag")
    try:
        await serve(life)
    except TickfleetError as error:
        life.fail(error, task="main")
    except Exception as error:  # noqa: BLE001  # The last owner: whatever comes ends the process.
        life.fail(error, task="main")
    life.request_stop("main returned")
    start_deadline()
    await life.until_stopped()
    for watch in timer:
        watch.cancel()
    status = EXIT_OK if life.failure is None else EXIT_FAILED
    log.info("process.stopped", service=service, status=status)
    return status
