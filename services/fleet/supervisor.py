"""Starts children in order, restarts what dies, and stops them in reverse within one deadline."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from libs.common.logs import get_logger
from libs.common.resilience.backoff import Backoff
from services.fleet.child import Child, Life, LineSink, signal_group, spawn
from services.fleet.domain.ordering import levels, stop_budget_seconds
from services.fleet.errors import NotReadyError
from services.fleet.guard import Guard

_PROBE_SECONDS = 0.05
_PROBE_CEILING_SECONDS = 0.5
# How long to wait for the kernel to take away what was sent SIGKILL.
_REAP_SECONDS = 2.0
# How long to wait for the last lines of a child that has ended: a grandchild may hold its pipe.
_LAST_LINES_SECONDS = 0.5
log = get_logger(__name__)


class ChildState(StrEnum):
    """Where a child is in its life."""

    WAITING = "waiting"
    STARTING = "starting"
    READY = "ready"
    BACKOFF = "backoff"
    STOPPED = "stopped"


@dataclass(slots=True)
class ChildStatus:
    """What the supervisor knows of a child.

    Attributes:
        state: Where it is in its life.
        pid: Of the running process, also its process group; None between two lives.
        restarts: How often it was started again after it had died.
        last_exit: How the last life ended: a status, or minus a signal; None at first.
    """

    state: ChildState = ChildState.WAITING
    pid: int | None = None
    restarts: int = 0
    last_exit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How patient the supervisor is.

    Attributes:
        first_backoff_seconds: Wait before the first restart, jittered.
        backoff_ceiling_seconds: No wait is longer.
        healthy_seconds: A child that was ready for so long starts again at the first wait.
        ready_deadline_seconds: One that runs this long without getting ready is replaced.
        stop_deadline_seconds: The whole stop ends within this.
    """

    first_backoff_seconds: float = 0.2
    backoff_ceiling_seconds: float = 10.0
    healthy_seconds: float = 10.0
    ready_deadline_seconds: float = 120.0
    stop_deadline_seconds: float = 15.0


def _ignore(name: str, line: str) -> None:
    del name, line


class Supervisor:
    """Keeps a set of children running.

    `run` must be called in the main thread: see `child.spawn`.

    Args:
        children: What to run; the order inside a level is the order of starting.
        sink: Receives the children's log lines.
        policy: How patient to be.
        guard: Told of every process group, so that nothing outlives us.
        on_change: Called after every change of a child's status.

    Raises:
        ValueError: Children require each other in a circle, or what does not exist.
    """

    def __init__(
        self,
        children: Iterable[Child],
        *,
        sink: LineSink = _ignore,
        policy: Policy | None = None,
        guard: Guard | None = None,
        on_change: Callable[[], None] | None = None,
    ) -> None:
        self._children = {child.name: child for child in children}
        self._levels = levels({name: child.requires for name, child in self._children.items()})
        self._sink = sink
        self._policy = policy or Policy()
        self._guard = guard
        self._on_change = on_change
        self._lives: dict[str, Life] = {}
        self._been_ready = {name: asyncio.Event() for name in self._children}
        self._stopping = asyncio.Event()
        self.status = {name: ChildStatus() for name in self._children}

    async def ready(self, deadline_seconds: float) -> None:
        """Wait until every child has been ready once.

        Raises:
            NotReadyError: Some were not, within the deadline or before the stop.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline_seconds):
                for event in self._been_ready.values():
                    if not await self._unless_stopping(event.wait()):
                        break
        late = [name for name, event in self._been_ready.items() if not event.is_set()]
        if late:
            raise NotReadyError(late, deadline_seconds)

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the children running until `stop` is set, then stop them all.

        However this ends, by an error or a cancellation too, no child is left.
        """
        keepers = [
            asyncio.create_task(self._keep(child), name=f"keep-{name}")
            for name, child in self._children.items()
        ]
        stopper = asyncio.create_task(stop.wait(), name="await-stop")
        try:
            await asyncio.wait([stopper, *keepers], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._stopping.set()
            stopper.cancel()
            await self._stop_in_reverse()
            # One whose child the kernel cannot end must not hold up the rest.
            _, stuck = await asyncio.wait(keepers, timeout=_REAP_SECONDS)
            for keeper in stuck:
                keeper.cancel()
            results = await asyncio.gather(*keepers, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def kill_now(self) -> None:
        """Kill every child at once, for a person who does not want to wait."""
        for name, life in self._lives.items():
            if not life.ended.is_set():
                # The database first gets its own way of ending at once, which takes its
                # backends along; it does not survive the second signal either way.
                signal_group(life.pid, self._children[name].last_signal)

    async def _keep(self, child: Child) -> None:
        status = self.status[child.name]
        backoff = Backoff(
            first_seconds=self._policy.first_backoff_seconds,
            ceiling_seconds=self._policy.backoff_ceiling_seconds,
        )
        for name in child.requires:
            if not await self._unless_stopping(self._been_ready[name].wait()):
                break
        while not self._stopping.is_set():
            ready_seconds = await self._live(child, status)
            if self._stopping.is_set():
                break
            if ready_seconds >= self._policy.healthy_seconds:
                backoff.reset()
            delay = backoff.next_seconds()
            status.restarts += 1
            log.warning(
                "child.restarting",
                child=child.name,
                exit=status.last_exit,
                restarts=status.restarts,
                delay_seconds=round(delay, 2),
            )
            self._set(status, ChildState.BACKOFF)
            await self._unless_stopping(asyncio.sleep(delay))
        self._set(status, ChildState.STOPPED)

    async def _live(self, child: Child, status: ChildStatus) -> float:
        """Run a child once, and give the seconds it was ready for."""
        life = self._lives[child.name] = await spawn(child, self._sink)
        if self._guard:
            self._guard.add(life.pid)
        if self._stopping.is_set():
            # The stop looked for running children while this one was being born.
            signal_group(life.pid, child.stop_signal)
        status.pid = life.pid
        self._set(status, ChildState.STARTING)
        log.info("child.started", child=child.name, pid=life.pid)
        readiness = asyncio.create_task(self._await_ready(child, life.pid))
        ended = asyncio.create_task(life.ended.wait())
        ready_since: float | None = None
        try:
            await asyncio.wait([ended, readiness], return_when=asyncio.FIRST_COMPLETED)
            if readiness.done() and not life.ended.is_set():
                if readiness.result():
                    ready_since = time.monotonic()
                    self._been_ready[child.name].set()
                    self._set(status, ChildState.READY)
                    log.info("child.ready", child=child.name, pid=life.pid)
                else:
                    log.error("child.never_ready", child=child.name, pid=life.pid)
                    signal_group(life.pid, signal.SIGKILL)
            await ended
        finally:
            # What it started itself must not outlive it, or the next life meets it. After an
            # error here it is the child itself that goes.
            signal_group(life.pid, signal.SIGKILL)
            readiness.cancel()
            await life.ended.wait()
            await asyncio.gather(ended, readiness, return_exceptions=True)
            await life.close(_LAST_LINES_SECONDS)
            if self._guard:
                self._guard.remove(life.pid)
            status.pid, status.last_exit = None, life.exit_status
        return 0.0 if ready_since is None else time.monotonic() - ready_since

    async def _await_ready(self, child: Child, pid: int) -> bool:
        pause = _PROBE_SECONDS
        try:
            async with asyncio.timeout(self._policy.ready_deadline_seconds):
                while not await child.probe(pid):
                    await asyncio.sleep(pause)
                    pause = min(pause * 1.5, _PROBE_CEILING_SECONDS)
        except TimeoutError:
            return False
        return True

    async def _stop_in_reverse(self) -> None:
        deadline = time.monotonic() + self._policy.stop_deadline_seconds
        for index in reversed(range(len(self._levels))):
            lives = {
                name: life
                for name in self._levels[index]
                if (life := self._lives.get(name)) and not life.ended.is_set()
            }
            if not lives:
                continue
            for name, life in lives.items():
                signal_group(life.pid, self._children[name].stop_signal)
            budget = stop_budget_seconds(deadline - time.monotonic(), index)
            for late in await self._ended(lives, budget):
                log.warning("child.killed", child=late, reason="stop deadline")
                signal_group(lives[late].pid, self._children[late].last_signal)
            for late in await self._ended(lives, _REAP_SECONDS):
                signal_group(lives[late].pid, signal.SIGKILL)
            for late in await self._ended(lives, _REAP_SECONDS):
                log.error("child.unkillable", child=late, pid=lives[late].pid)

    async def _ended(self, lives: dict[str, Life], timeout_seconds: float) -> list[str]:
        """Wait until lives have ended, and name those that have not."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                for life in lives.values():
                    await life.ended.wait()
        return [name for name, life in lives.items() if not life.ended.is_set()]

    async def _unless_stopping(self, work: Coroutine[Any, Any, object]) -> bool:
        """Wait for something or the stop; False when the stop came first."""
        task = asyncio.create_task(work)
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
            return not stop.done()
        finally:
            for waiter in (task, stop):
                waiter.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)

    def _set(self, status: ChildStatus, state: ChildState) -> None:
        status.state = state
        if self._on_change:
            self._on_change()


@contextlib.asynccontextmanager
async def running(
    *children: Child,
    sink: LineSink = _ignore,
    policy: Policy | None = None,
    ready_seconds: float = 30.0,
) -> AsyncIterator[Supervisor]:
    """Run children for the length of a block, which starts when all are ready.

    Raises:
        NotReadyError: Some were not ready in time; all are stopped.
    """
    supervisor = Supervisor(children, sink=sink, policy=policy)
    stop = asyncio.Event()
    task = asyncio.create_task(supervisor.run(stop), name="supervisor")
    try:
        await supervisor.ready(ready_seconds)
        yield supervisor
    finally:
        stop.set()
        await task
