"""The feed of one account: as many connections as its plan has, each reconnecting for itself."""

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from itertools import chain
from typing import Final

import numpy as np

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.lease import Lease, LeaseEnd
from libs.common.contracts.messages import (
    AccountPlan,
    FeedCoverage,
    FeedState,
    FeedStatus,
    KiteSession,
    Pressure,
    Source,
    StreamMode,
)
from libs.common.domain.clock import IST
from libs.common.domain.market_calendar import CALENDAR
from libs.common.lifecycle import sleep_unless
from libs.common.resilience.backoff import Backoff
from services.ingest import metrics
from services.ingest.connection import FeedConnection
from services.ingest.domain import plan_limits, trading
from services.ingest.domain.causes import Cause
from services.ingest.domain.coverage import Coverage, Silent
from services.ingest.domain.pressure import PressureGauge, Reading
from services.ingest.errors import FeedLostError, SessionRefusedError
from services.ingest.frame_publisher import FramePublisher
from services.ingest.outbox import CLIENT_ROOM_BYTES, Outbox
from services.ingest.settings import IngestSettings

_WATCH_INTERVAL_SECONDS: Final = 1.0
# The simulator's market is open while packets flow: its clock is nobody's but its own.
_SIM_FLOW_SECONDS: Final = 5.0
_MIB: Final = 1024 * 1024
_STATES: Final = (
    FeedState.PARKED,
    FeedState.WAITING_SESSION,
    FeedState.BACKING_OFF,
    FeedState.CONNECTING,
    FeedState.STREAMING,
)
_LEVELS: Final = {level: number for number, level in enumerate(Pressure)}

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
        settings: Limits.
        on_news: Called when the feed's state has changed in a way that others wait for.
        now: Wall clock, for the sessions of the exchanges.
    """

    def __init__(
        self,
        bus: Bus,
        lease: Lease,
        settings: IngestSettings,
        *,
        on_news: Callable[[], None] = lambda: None,
        now: Callable[[], datetime] = lambda: datetime.now(IST),
    ) -> None:
        self.account = lease.resource
        self._lease = lease
        self._settings = settings
        self._on_news = on_news
        self._now = now
        limit_bytes = settings.outbox_mib * _MIB
        self._gauge = PressureGauge(capacity_bytes=limit_bytes + CLIENT_ROOM_BYTES)
        self._reading = self._gauge.read(pending_bytes=0, at_ns=time.monotonic_ns())
        self._outbox = Outbox(
            bus,
            lease,
            self._gauge,
            limit_bytes=limit_bytes,
            limit_seconds=settings.outbox_seconds,
        )
        self._coverage = Coverage(
            no_data_seconds=settings.no_data_seconds, stale_seconds=settings.stale_seconds
        )
        self._silent = Silent()
        self._publisher = FramePublisher(
            self.account,
            self._outbox,
            coverage=self._coverage,
            gauge=self._gauge,
            shards=settings.shards,
        )
        self._plan: AccountPlan | None = None
        self._wanted: list[dict[int, StreamMode]] = []
        self._session: KiteSession | None = None
        self._refused_minted_at_ns = -1
        self._refused_reason = ""
        self._session_changed = asyncio.Event()
        self._plan_changed = asyncio.Event()
        self._lines: dict[int, _Line] = {}
        self._stop = asyncio.Event()
        self._stopped = asyncio.Event()

    # -- what it is told -----------------------------------------------------------------------

    def use_plan(self, plan: AccountPlan | None) -> None:
        """Take a new plan entry; the connections follow by difference."""
        if plan is not None and self._plan is not None and plan.revision == self._plan.revision:
            return
        self._plan = plan
        if plan is None:
            self._wanted = []
        else:
            self._wanted, refusals = plan_limits.admitted(plan, self._wanted)
            for refusal in refusals:
                metrics.PLAN_REFUSED_TOTAL.labels(account=self.account, reason=refusal.reason).inc()
                log.error(
                    "plan.refused",
                    account=self.account,
                    revision=plan.revision,
                    connection=refusal.connection,
                    reason=refusal.reason,
                    tokens=refusal.tokens,
                    remedy=f"Kite takes {plan_limits.CONNECTIONS_PER_KEY} connections of "
                    f"{plan_limits.TOKENS_PER_CONNECTION} instruments per key: lower what control "
                    "plans for this account",
                )
            self._publisher.route(plan)
        metrics.SUBSCRIBED_TOKENS.labels(account=self.account).set(
            sum(len(tokens) for tokens in self._wanted)
        )
        for line in self._lines.values():
            line.changed.set()
        self._plan_changed.set()

    def use_session(self, session: KiteSession | None) -> None:
        """Take a new session; parked connections try again.

        An open connection stays when merely the token is newer, and is made anew when it leads to
        another place or another account at the broker.
        """
        self._session = session
        self._session_changed.set()
        self._session_changed = asyncio.Event()
        if session is None:
            return
        for line in self._lines.values():
            if line.connection is not None and _leads_elsewhere(line.connection.session, session):
                line.connection.end(Cause.SESSION_CHANGED)
                line.changed.set()

    def refuse_session(self, minted_at_ns: int, reason: str) -> None:
        """Take note that the broker refuses a session, whoever found out.

        No connection is tried with it any more; one that stands stays as long as the broker lets
        it, since it may serve until the token's end.

        Args:
            minted_at_ns: Of the session that was refused; sessions minted later are not meant.
            reason: What the broker said, for people.
        """
        if minted_at_ns <= self._refused_minted_at_ns:
            return
        self._refused_minted_at_ns = minted_at_ns
        self._refused_reason = reason
        log.warning(
            "feed.session_refused",
            account=self.account,
            reason=reason,
            remedy="waits for a session that was minted later",
        )
        self._on_news()

    @property
    def usable_session(self) -> KiteSession | None:
        """The session in force, unless Kite has refused it."""
        session = self._session
        if session is None or session.minted_at_ns <= self._refused_minted_at_ns:
            return None
        return session

    def request_stop(self) -> None:
        """Ask the feed to end."""
        self._stop.set()
        self._plan_changed.set()
        for line in self._lines.values():
            line.stop.set()

    @property
    def is_ending(self) -> bool:
        """Whether it was asked to end, or has found itself without its lease."""
        return self._stop.is_set()

    async def stopped(self) -> None:
        """Wait until every connection is closed."""
        await self._stopped.wait()

    # -- its work ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep one line per planned connection until `request_stop`."""
        stopping = asyncio.create_task(self._stop.wait(), name="feed-stop")
        sending = asyncio.create_task(self._outbox.run(self._stop), name="feed-outbox")
        watching = asyncio.create_task(self._watch(), name="feed-watch")
        own = {sending, watching}
        try:
            while not self._stop.is_set():
                self._plan_changed.clear()
                await self._match_lines()
                waiting = asyncio.create_task(self._plan_changed.wait(), name="feed-plan")
                tasks = {line.task for line in self._lines.values() if line.task is not None}
                try:
                    done, _ = await asyncio.wait(
                        {waiting, stopping, *tasks, *own}, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    waiting.cancel()
                    await asyncio.gather(waiting, return_exceptions=True)
                for task in done & (tasks | own):
                    # All end only when asked; an exception here is a defect and ends the
                    # process through the lifecycle.
                    task.result()
        finally:
            self._stop.set()
            await self._end_lines(list(self._lines.values()))
            self._outbox.close()
            stopping.cancel()
            await asyncio.gather(stopping, *own, return_exceptions=True)
            self._forget_metrics()
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
        limited = Backoff(
            first_seconds=settings.rate_limited_backoff_seconds,
            ceiling_seconds=settings.rate_limited_ceiling_seconds,
        )

        def streaming() -> None:
            self._move(line, FeedState.STREAMING)
            backoff.reset()
            limited.reset()

        while not line.stop.is_set():
            session = await self._usable_session(line)
            if session is None:
                return
            self._move(line, FeedState.CONNECTING)
            line.connection = FeedConnection(
                session,
                number=line.number,
                lease=self._lease,
                publisher=self._publisher,
                settings=settings,
            )
            try:
                await line.connection.run(
                    lambda: self._wanted_by(line.number), line.changed, line.stop, streaming
                )
            except SessionRefusedError as error:
                self._park(line, session, error)
                continue
            except FeedLostError as error:
                # Backoffs are drawn only when they are due: an idle draw would let them grow.
                delay = 0.0
                if error.cause == Cause.RATE_LIMITED:
                    delay = limited.next_seconds()
                elif error.cause != Cause.SESSION_CHANGED:
                    delay = backoff.next_seconds()
                self._count_ending(line, error.cause, error.reason, retry_in_seconds=delay)
                self._move(line, FeedState.BACKING_OFF, error.cause)
                await sleep_unless(line.stop, delay)
            else:
                cause = Cause.STOPPED if self._stop.is_set() else Cause.NOT_PLANNED
                self._count_ending(line, cause, "asked to end")
            finally:
                line.connection = None
            if not self._wanted_by(line.number):
                return

    def _count_ending(
        self, line: _Line, cause: str, reason: str, *, retry_in_seconds: float | None = None
    ) -> None:
        metrics.RECONNECTS_TOTAL.labels(account=self.account, cause=cause).inc()
        asked = cause in {Cause.STOPPED, Cause.NOT_PLANNED, Cause.SESSION_CHANGED}
        level = log.info if asked else log.warning
        level(
            "feed.ended" if retry_in_seconds is None else "feed.lost",
            account=self.account,
            connection=line.number,
            cause=cause,
            reason=reason,
            retry_in_seconds=None if retry_in_seconds is None else round(retry_in_seconds, 3),
        )

    def _park(self, line: _Line, session: KiteSession, error: SessionRefusedError) -> None:
        self._count_ending(line, Cause.SESSION_REFUSED, error.reason)
        self.refuse_session(session.minted_at_ns, error.reason)

    async def _usable_session(self, line: _Line) -> KiteSession | None:
        """Wait for a session that was not refused yet; None when the line should end."""
        while not line.stop.is_set():
            session = self._session
            if session is None:
                self._move(line, FeedState.WAITING_SESSION, "no session yet")
            elif session.minted_at_ns > self._refused_minted_at_ns:
                return session
            else:
                self._move(line, FeedState.PARKED, self._refused_reason)
            changed = asyncio.create_task(self._session_changed.wait(), name="feed-session")
            stopping = asyncio.create_task(line.stop.wait(), name="feed-stop")
            try:
                await asyncio.wait((changed, stopping), return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (changed, stopping):
                    task.cancel()
                await asyncio.gather(changed, stopping, return_exceptions=True)
        return None

    def _move(self, line: _Line, state: FeedState, reason: str = "") -> None:
        if (line.state, line.reason) == (state, reason):
            return
        line.state, line.reason = state, reason
        parked = any(other.state is FeedState.PARKED for other in self._lines.values())
        metrics.PARKED.labels(account=self.account).set(int(parked))
        self._on_news()

    # -- what it watches and says --------------------------------------------------------------

    async def _watch(self) -> None:
        """Judge the pressure once a second, and be the first to notice the end of the lease.

        The lease's holder asks NATS before it says that a lease is lost, which may take a second
        of a frozen server; the sockets must be closed before another process may have the lease.
        """
        while not await sleep_unless(
            self._stop, min(_WATCH_INTERVAL_SECONDS, self._lease.remaining_seconds() + 0.001)
        ):
            if not self._lease.is_valid():
                if self._lease.end is None:
                    log.warning("feed.fenced", account=self.account, epoch=self._lease.epoch)
                    # For good: a late answer to a refresh must not bring back a lease whose feed
                    # has ended. The holder acquires it anew.
                    self._lease.finish(LeaseEnd.EXPIRED)
                self.request_stop()
                return
            self._judge()

    def _judge(self) -> None:
        now_ns = time.monotonic_ns()
        before = self._gauge.level
        reading = self._reading = self._gauge.read(
            pending_bytes=self._outbox.pending_bytes, at_ns=now_ns
        )
        level = self._gauge.assess(reading, now_ns)
        account = self.account
        metrics.PENDING_BYTES.labels(account=account).set(reading.pending_bytes)
        metrics.PRESSURE_LEVEL.labels(account=account).set(_LEVELS[level])
        metrics.PUBLISHED_RATIO.labels(account=account).set(reading.ratio)
        for quantile, value_ms in (("0.95", reading.p95_ms), ("0.99", reading.p99_ms)):
            metrics.PUBLISH_LATENCY_SECONDS.labels(account=account, quantile=quantile).set(
                0.0 if value_ms is None else value_ms / 1_000
            )
        if level is not before:
            rises = _LEVELS[level] > _LEVELS[before]
            (log.warning if rises else log.info)(
                "feed.pressure", account=account, level=level, was=before, **_described(reading)
            )
            self._on_news()

    def coverage(self) -> FeedCoverage | None:
        """Which instruments do not tick, found out now; None without a plan."""
        if self._plan is None:
            return None
        now_ns = time.monotonic_ns()
        asked = chain.from_iterable(
            line.connection.tokens for line in self._lines.values() if line.connection is not None
        )
        silent = self._silent = self._coverage.look(
            np.fromiter(asked, np.int64), self._open_segments(now_ns), now_ns
        )
        metrics.NO_DATA_TOKENS.labels(account=self.account).set(len(silent.no_data))
        metrics.STALE_TOKENS.labels(account=self.account).set(len(silent.stale))
        return FeedCoverage(
            account=self.account,
            plan_revision=self._plan.revision,
            pending=silent.pending,
            no_data=silent.no_data,
            stale=silent.stale,
            at_ns=time.time_ns(),
        )

    def _open_segments(self, now_ns: int) -> frozenset[int]:
        if self._session is None:
            return frozenset()
        if self._session.source is Source.LIVE:
            return trading.open_segments(CALENDAR, self._now())
        last_ns = self._publisher.last_packet_ns
        flows = last_ns is not None and now_ns - last_ns < _SIM_FLOW_SECONDS * 1e9
        return trading.ALL_SEGMENTS if flows else frozenset()

    def status(self, worker: str) -> FeedStatus:
        """How the feed fares now; the worst state of its connections speaks for all."""
        lines = list(self._lines.values())
        worst = min(lines, key=lambda line: _STATES.index(line.state), default=None)
        if worst is None:
            waiting = self._session is None
            state = FeedState.WAITING_SESSION if waiting else FeedState.CONNECTING
            reason = "no session yet" if waiting else "nothing planned"
        else:
            state, reason = worst.state, worst.reason
        publisher = self._publisher
        session = self._session
        reading = self._reading
        open_ = [line.connection for line in lines if line.connection is not None]
        return FeedStatus(
            account=self.account,
            worker=worker,
            state=state,
            reason=reason,
            connections=sum(line.state is FeedState.STREAMING for line in lines),
            tokens=sum(len(connection.tokens) for connection in open_),
            frames_total=publisher.frames_total,
            ticks_total=self._outbox.packets_total,
            dropped_total=self._outbox.dropped_total,
            plan_revision=self._plan.revision if self._plan is not None else 0,
            last_frame_ns=publisher.last_frame_ns,
            session_minted_at_ns=session.minted_at_ns if session else None,
            session_refused=session is not None and self.usable_session is None,
            pressure=self._gauge.level,
            published_ratio=reading.ratio,
            publish_p95_ms=reading.p95_ms,
            publish_p99_ms=reading.p99_ms,
            pending_bytes=reading.pending_bytes,
            no_data_tokens=len(self._silent.no_data),
            stale_tokens=len(self._silent.stale),
            source=session.source if session else None,
            at_ns=time.time_ns(),
        )

    def _forget_metrics(self) -> None:
        for gauge in (
            metrics.SUBSCRIBED_TOKENS,
            metrics.PARKED,
            metrics.PENDING_BYTES,
            metrics.PRESSURE_LEVEL,
            metrics.NO_DATA_TOKENS,
            metrics.STALE_TOKENS,
        ):
            gauge.labels(account=self.account).set(0)


def _leads_elsewhere(old: KiteSession, new: KiteSession) -> bool:
    return (old.ws_url, old.api_key, old.source) != (new.ws_url, new.api_key, new.source)


def _described(reading: Reading) -> dict[str, float | None]:
    return {
        "published_ratio": round(reading.ratio, 3),
        "p95_ms": reading.p95_ms,
        "p99_ms": reading.p99_ms,
        "pending_bytes": reading.pending_bytes,
    }
