"""The feed of one account: as many connections as its plan has, each reconnecting for itself."""

import asyncio
import random
import time
from collections.abc import Mapping

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.lease import Lease
from libs.common.contracts.messages import (
    AccountPlan,
    FeedState,
    FeedStatus,
    KiteSession,
    StreamMode,
)
from libs.common.lifecycle import sleep_unless
from libs.common.resilience.backoff import Backoff
from services.ingest import metrics
from services.ingest.connection import FeedConnection
from services.ingest.domain import subscriptions
from services.ingest.domain.causes import Cause
from services.ingest.errors import FeedLostError, SessionRefusedError
from services.ingest.frame_publisher import FramePublisher
from services.ingest.settings import IngestSettings

log = logs.get_logger(__name__)


class _Line:
    """One connection number of the account: its task, its wake-up flag, and how it fares."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.changed = asyncio.Event()
        self.stop = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.connection: FeedConnection | None = None
        self.state = FeedState.WAITING_SESSION
        self.reason = ""


class AccountFeed:
    """Holds an account's connections while its lease lasts.

    A 403 parks the account: nothing is tried until a session that was minted later appears. All
    other endings are followed by a backoff with jitter and a new attempt, for ever.

    Args:
        bus: Where frames go.
        lease: The account's lease.
        settings: Time limits.
    """

    def __init__(self, bus: Bus, lease: Lease, settings: IngestSettings) -> None:
        self.account = lease.resource
        self._settings = settings
        self._publisher = FramePublisher(bus, lease, shards=settings.shards)
        self._plan: AccountPlan | None = None
        self._wanted: list[dict[int, StreamMode]] = []
        self._session: KiteSession | None = None
        self._refused_minted_at_ns = -1
        self._session_changed = asyncio.Event()
        self._plan_changed = asyncio.Event()
        self._lines: dict[int, _Line] = {}
        self._stop = asyncio.Event()
        self._stopped = asyncio.Event()

    def use_plan(self, plan: AccountPlan | None) -> None:
        """Take a new plan entry; the connections follow by difference."""
        if plan is not None and self._plan is not None and plan.revision == self._plan.revision:
            return
        self._plan = plan
        self._wanted = [] if plan is None else [subscriptions.desired(c) for c in plan.connections]
        if plan is not None:
            self._publisher.route(plan)
        metrics.SUBSCRIBED_TOKENS.labels(account=self.account).set(
            sum(len(tokens) for tokens in self._wanted)
        )
        for line in self._lines.values():
            line.changed.set()
        self._plan_changed.set()

    def use_session(self, session: KiteSession | None) -> None:
        """Take a new session; parked connections try again, open ones stay."""
        self._session = session
        self._session_changed.set()
        self._session_changed = asyncio.Event()

    @property
    def usable_session(self) -> KiteSession | None:
        """The session in force, unless Kite has refused it."""
        session = self._session
        if session is None or session.minted_at_ns <= self._refused_minted_at_ns:
            return None
        return session

    def refuse_session(self, minted_at_ns: int, reason: str) -> None:
        """Kite refused the session of that time by REST: nothing new is tried with it.

        A connection that stands stays; Kite closes it when it wants to.
        """
        if minted_at_ns <= self._refused_minted_at_ns:
            return
        self._refused_minted_at_ns = minted_at_ns
        log.warning(
            "session.refused",
            account=self.account,
            reason=reason,
            remedy="waits for a session that was minted later",
        )

    def request_stop(self) -> None:
        """Ask the feed to end."""
        self._stop.set()
        self._plan_changed.set()

    async def stopped(self) -> None:
        """Wait until every connection is closed."""
        await self._stopped.wait()

    async def run(self) -> None:
        """Keep one line per planned connection until `request_stop`."""
        stopping = asyncio.create_task(self._stop.wait(), name="feed-stop")
        try:
            while not self._stop.is_set():
                self._plan_changed.clear()
                await self._match_lines()
                waiting = asyncio.create_task(self._plan_changed.wait(), name="feed-plan")
                tasks = {line.task for line in self._lines.values() if line.task is not None}
                try:
                    done, _ = await asyncio.wait(
                        {waiting, stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    waiting.cancel()
                    await asyncio.gather(waiting, return_exceptions=True)
                for task in done & tasks:
                    # A line ends only when asked; an exception here is a defect and ends the
                    # process through the lifecycle.
                    task.result()
        finally:
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)
            await self._end_lines(list(self._lines.values()))
            metrics.SUBSCRIBED_TOKENS.labels(account=self.account).set(0)
            metrics.PARKED.labels(account=self.account).set(0)
            self._stopped.set()

    async def _match_lines(self) -> None:
        needed = {number for number, tokens in enumerate(self._wanted) if tokens}
        # A line that ended because nothing was wanted may be wanted again by now.
        for number in [n for n, line in self._lines.items() if line.task and line.task.done()]:
            del self._lines[number]
        await self._end_lines([line for n, line in self._lines.items() if n not in needed])
        for number in sorted(needed - self._lines.keys()):
            line = self._lines[number] = _Line(number)
            line.task = asyncio.create_task(self._run_line(line), name=f"feed-line-{number}")

    async def _end_lines(self, lines: list[_Line]) -> None:
        for line in lines:
            line.stop.set()
            line.changed.set()
        for line in lines:
            if line.task is not None:
                await asyncio.gather(line.task, return_exceptions=True)
            self._lines.pop(line.number, None)

    def _wanted_by(self, number: int) -> Mapping[int, StreamMode]:
        return self._wanted[number] if number < len(self._wanted) else {}

    async def _run_line(self, line: _Line) -> None:
        settings = self._settings
        backoff = Backoff(
            first_seconds=settings.backoff_first_seconds,
            ceiling_seconds=settings.backoff_ceiling_seconds,
        )
        while not line.stop.is_set():
            session = await self._usable_session(line)
            if session is None:
                return
            line.state, line.reason = FeedState.CONNECTING, ""
            line.connection = FeedConnection(
                session, number=line.number, publisher=self._publisher, settings=settings
            )

            def streaming() -> None:
                line.state = FeedState.STREAMING
                backoff.reset()

            try:
                await line.connection.run(
                    lambda: self._wanted_by(line.number), line.changed, line.stop, streaming
                )
            except SessionRefusedError as error:
                self._park(line, session, error)
                continue
            except FeedLostError as error:
                delay = (
                    settings.rate_limited_backoff_seconds * random.uniform(1.0, 1.5)  # noqa: S311  # Jitter.
                    if error.cause == Cause.RATE_LIMITED
                    else backoff.next_seconds()
                )
                metrics.RECONNECTS_TOTAL.labels(account=self.account, cause=error.cause).inc()
                log.warning(
                    "feed.lost",
                    account=self.account,
                    connection=line.number,
                    cause=error.cause,
                    reason=error.reason,
                    retry_in_seconds=round(delay, 3),
                )
                line.state, line.reason = FeedState.BACKING_OFF, error.cause
                await sleep_unless(line.stop, delay)
            finally:
                line.connection = None
            if not self._wanted_by(line.number):
                return

    def _park(self, line: _Line, session: KiteSession, error: SessionRefusedError) -> None:
        metrics.RECONNECTS_TOTAL.labels(account=self.account, cause=Cause.SESSION_REFUSED).inc()
        metrics.PARKED.labels(account=self.account).set(1)
        self._refused_minted_at_ns = max(self._refused_minted_at_ns, session.minted_at_ns)
        line.state, line.reason = FeedState.PARKED, error.reason
        log.warning(
            "feed.parked",
            account=self.account,
            connection=line.number,
            reason=error.reason,
            remedy="waits for a session that was minted later",
        )

    async def _usable_session(self, line: _Line) -> KiteSession | None:
        """Wait for a session that was not refused yet; None when the line should end."""
        while not line.stop.is_set():
            session = self._session
            if session is not None and session.minted_at_ns > self._refused_minted_at_ns:
                metrics.PARKED.labels(account=self.account).set(0)
                return session
            if session is None:
                line.state, line.reason = FeedState.WAITING_SESSION, "no session yet"
            changed = asyncio.create_task(self._session_changed.wait(), name="feed-session")
            stopping = asyncio.create_task(line.stop.wait(), name="feed-stop")
            try:
                await asyncio.wait((changed, stopping), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (changed, stopping):
                    task.cancel()
                await asyncio.gather(changed, stopping, return_exceptions=True)
        return None

    def status(self, worker: str) -> FeedStatus:
        """How the feed fares now; the worst state of its connections speaks for all."""
        order = (
            FeedState.PARKED,
            FeedState.WAITING_SESSION,
            FeedState.BACKING_OFF,
            FeedState.CONNECTING,
            FeedState.STREAMING,
        )
        lines = list(self._lines.values())
        worst = min(lines, key=lambda line: order.index(line.state), default=None)
        if worst is None:
            waiting = self._session is None
            state = FeedState.WAITING_SESSION if waiting else FeedState.CONNECTING
            reason = "no session yet" if waiting else "nothing planned"
        else:
            state, reason = worst.state, worst.reason
        publisher = self._publisher
        return FeedStatus(
            account=self.account,
            worker=worker,
            state=state,
            reason=reason,
            connections=sum(line.state is FeedState.STREAMING for line in lines),
            tokens=sum(line.connection.tokens for line in lines if line.connection is not None),
            frames_total=publisher.frames_total,
            ticks_total=publisher.packets_total,
            dropped_total=publisher.dropped_total,
            plan_revision=self._plan.revision if self._plan is not None else 0,
            last_frame_ns=publisher.last_frame_ns,
            session_minted_at_ns=self._session.minted_at_ns if self._session else None,
            session_refused=self._session is not None and self.usable_session is None,
            at_ns=time.time_ns(),
        )
