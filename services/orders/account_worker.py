"""The orders of one account, for one term of its lease."""

import asyncio
import time
from collections.abc import Callable, Sequence  # noqa: TC003  # msgspec reads the fields' types.
from typing import Any, Final, Protocol

import msgspec

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.durable import DurableReader
from libs.common.bus.errors import BusUnavailableError
from libs.common.bus.lease import Lease
from libs.common.bus.service import RequestService
from libs.common.bus.tasks import OwnedTasks
from libs.common.contracts import streams, subjects
from libs.common.contracts.messages import KiteSession
from libs.common.contracts.orders import AccountEvent, OrderControls, OrdersStatus, OrderState
from libs.common.database import Database, DatabaseUnavailableError
from libs.common.lifecycle import changed_or_stopped, sleep_unless
from libs.common.resilience.backoff import Backoff
from libs.common.resilience.circuit_breaker import CircuitBreaker
from services.orders import metrics
from services.orders.account_session import AccountSession, BrokerMaker
from services.orders.broker_calls import BrokerCalls
from services.orders.changes import Changes
from services.orders.check_desk import CheckDesk, day_start_ns
from services.orders.checkpoint import Checkpoint
from services.orders.dead_letters import Undertaker
from services.orders.desk_requests import DeskRequests, refusal
from services.orders.domain.check_context import CheckRules
from services.orders.domain.lifecycle_events import LifecycleRules, Recovered
from services.orders.domain.send_budget import SendBudget, SendLimits
from services.orders.executor import Executor
from services.orders.intake import Intake
from services.orders.journal import Journal
from services.orders.ledger import Ledger
from services.orders.outbox import Outbox
from services.orders.placements import Placements
from services.orders.reconciler import Reconciler
from services.orders.send_desk import SendDesk
from services.orders.settings import OrdersSettings
from services.orders.surroundings import Surroundings
from services.orders.target_orders import TargetOrders
from services.orders.task import Task
from services.orders.task_book import TaskBook

ACK_WAIT_SECONDS: Final = 3.0
"""Less than the lease of a killed worker lasts: what it had not acknowledged comes first again."""
MAX_ACK_PENDING: Final = 64
_LOOK_SECONDS: Final = 0.25
_RESCAN_SECONDS: Final = 5.0
# After the calls under way have ended: for the last words to be told.
_END_SECONDS: Final = 1.0
_MINUTE_NS: Final = 60_000_000_000

log = logs.get_logger(__name__)


class Companion(Protocol):
    """Work beside an account's orders, for the same term: such as a copy of what the broker has."""

    async def run(self, stop: asyncio.Event) -> None:
        """Work until `stop` is set."""

    def order_happened(self) -> None:
        """Something happened to an order of the account."""

    async def sync(self) -> dict[str, Any]:
        """Read everything now; gives figures for whoever asked."""


class Edges(msgspec.Struct, frozen=True, kw_only=True):
    """What all accounts of a process share.

    Attributes:
        bus: The connection.
        database: PostgreSQL.
        service: Serves requests over the bus.
        surroundings: What orders are checked against.
        settings: Of the process.
        checkpoint: See `checkpoint.Step`.
        make_broker: Makes the broker of a session.
        make_companions: Makes what works beside an account's orders.
    """

    bus: Bus
    database: Database
    service: RequestService
    surroundings: Surroundings
    settings: OrdersSettings
    checkpoint: Checkpoint
    make_broker: BrokerMaker
    make_companions: "Callable[[AccountWorker], Sequence[Companion]]" = lambda _: ()


class AccountWorker:
    """Carries out the orders of one account while its lease stands.

    Args:
        lease: Of the account.
        edges: What all accounts share.

    Attributes:
        account: Whose.
        lease: Of the account.
        session: The account's session.
        book: Its tasks.
        ready: Set while commands are taken.
        reason: Why they are not, for people.
    """

    def __init__(self, lease: Lease, edges: Edges) -> None:
        self.account = account = lease.resource
        self.lease = lease
        self.session = AccountSession(account, edges.make_broker)
        self.book = TaskBook()
        self.ready = asyncio.Event()
        self.reason = "starting"
        self._edges = edges
        settings = edges.settings
        self._settings = settings
        self._stop = asyncio.Event()
        # What tells the world ends last, so that what ends before it is still told.
        self._quiet = asyncio.Event()
        self._ended = asyncio.Event()
        self._failed = asyncio.Event()
        self._tasks = OwnedTasks(failed=self._failed)
        self._controls: OrderControls | None = None
        # Requests that the former worker may or may not have sent.
        self._unsure: list[tuple[Task, str]] = []
        self.ledger = Ledger(edges.database)
        self._outbox = Outbox(edges.bus, account, self.ledger, edges.checkpoint)
        self._journal = Journal(
            account,
            ledger=self.ledger,
            outbox=self._outbox,
            book=self.book,
            rules=_lifecycle_rules(settings),
            signature={"worker": lease.member, "epoch": lease.epoch},
            stop=self._stop,
            stop_seconds=settings.orders_stop_seconds,
            resume=self._start,
        )
        self._calls = BrokerCalls(
            account,
            lease=lease,
            session=self.session,
            budget=SendBudget(_send_limits(settings)),
            breaker=CircuitBreaker(
                failures=settings.orders_breaker_failures,
                open_seconds=settings.orders_breaker_seconds,
                probes=settings.orders_breaker_probes,
            ),
            report=self.report,
            checkpoint=edges.checkpoint,
            unsafe_resend=settings.orders_unsafe_resend,
        )
        check_rules = _check_rules(settings)
        self._checks = CheckDesk(
            account,
            session=self.session,
            book=self.book,
            ledger=self.ledger,
            surroundings=edges.surroundings,
            rules=check_rules,
        )
        self.reconciler = Reconciler(
            account,
            session=self.session,
            journal=self._journal,
            book=self.book,
            ledger=self.ledger,
            refuse_session=self._calls.refuse_session,
            checkpoint=edges.checkpoint,
            poll_seconds=settings.orders_poll_seconds,
            quiet_poll_seconds=settings.orders_quiet_poll_seconds,
        )
        desk = SendDesk(
            journal=self._journal,
            calls=self._calls,
            checkpoint=edges.checkpoint,
            stop=self._stop,
        )
        targets = TargetOrders(
            account, book=self.book, ledger=self.ledger, reconciler=self.reconciler
        )
        self._executor = Executor(
            placements=Placements(desk=desk, checks=self._checks, checkpoint=edges.checkpoint),
            changes=Changes(desk=desk, checks=self._checks, targets=targets),
            stop=self._stop,
            failed=self._failed,
        )
        self._intake = Intake(
            account,
            lease=lease,
            ledger=self.ledger,
            book=self.book,
            outbox=self._outbox,
            undertaker=Undertaker(edges.bus, self.ledger, edges.checkpoint),
            start=self._start,
            rules=check_rules,
            waiting=settings.orders_waiting,
            checkpoint=edges.checkpoint,
            stop=self._stop,
        )
        self._desk = DeskRequests(
            account,
            journal=self._journal,
            book=self.book,
            ledger=self.ledger,
            calls=self._calls,
            checks=self._checks,
            reconciler=self.reconciler,
            resume=self._start,
            sync=self._sync,
        )
        self._companions = tuple(edges.make_companions(self))
        self.reconciler.on_order = self._order_happened

    # -- from outside --------------------------------------------------------------------------

    def use_session(self, session: KiteSession | None) -> None:
        """Note the account's newest session."""
        self.session.use(session)

    def note_controls(self) -> None:
        """The kill switch may have been set: say so once."""
        controls = self._checks.controls
        before, self._controls = self._controls, controls
        metrics.KILL_SWITCH.labels(account=self.account).set(controls.kill_switch)
        if before is None or before.kill_switch == controls.kill_switch:
            return
        word = "on: nothing but cancellations leaves" if controls.kill_switch else "off"
        self.report(
            AccountEvent(
                account=self.account,
                kind="kill_switch",
                code="on" if controls.kill_switch else "off",
                message=f"{controls.by} switched the kill switch {word}",
                evidence={"reason": controls.reason},
                at_ns=time.time_ns(),
            )
        )

    def report(self, event: AccountEvent) -> None:
        """Tell what concerns the account as a whole."""
        self._outbox.note(event)

    def request_stop(self) -> None:
        """Take and send nothing more."""
        self._stop.set()

    async def stopped(self) -> None:
        """Wait until nothing of this term runs any more."""
        await self._ended.wait()

    def status(self, worker: str) -> OrdersStatus:
        """How the account fares."""
        counts = self.book.counts()
        used = self._calls.budget.used(time.time_ns())
        ready = self.ready.is_set() and self.session.broker is not None
        reason = self.reason
        if self.ready.is_set():
            reason = "" if ready else self.session.why_not
        for gauge, value in (
            (metrics.WAITING, counts["waiting"]),
            (metrics.UNKNOWN, counts["unknown"]),
            (metrics.ABSENT, counts["absent"]),
            (metrics.SENT_TODAY, used.day),
            (metrics.READY, int(ready)),
        ):
            gauge.labels(account=self.account).set(value)
        return OrdersStatus(
            account=self.account,
            worker=worker,
            ready=ready,
            reason=reason,
            waiting=counts["waiting"],
            unknown=counts["unknown"],
            absent=counts["absent"],
            breaker=self._calls.breaker.state.value,
            kill_switch=self._checks.controls.kill_switch,
            sent_today=used.day,
            at_ns=time.time_ns(),
        )

    # -- the term ------------------------------------------------------------------------------

    async def run(self) -> None:
        """Work until asked to stop or the lease is gone.

        Raises:
            Exception: What a part of the work raised, once everything has ended.
        """
        try:
            self._tasks.spawn(self._outbox.run(self._quiet), name="orders-outbox")
            self._tasks.spawn(self._work(), name="orders-work")
            await changed_or_stopped_forever(self._failed, self._stop)
        finally:
            self._stop.set()
            self.ready.clear()
            self.reason = "stopping"
            metrics.READY.labels(account=self.account).set(0)
            await self._executor.finish(self._settings.orders_stop_seconds)
            self._quiet.set()
            await self._tasks.finish(patience_seconds=_END_SECONDS)
            self._ended.set()
        self._executor.tasks.raise_failure()
        self._tasks.raise_failure()

    async def _work(self) -> None:
        try:
            await self._take_over_and_serve()
        except DatabaseUnavailableError as error:
            # Raised only when it stops and PostgreSQL is away: whoever comes next begins anew.
            log.warning("account.left", account=self.account, reason=error.reason)

    async def _take_over_and_serve(self) -> None:
        """Take the account over, then take its commands."""
        if not (await self._until_possible() and await self._load() and await self._look()):
            return
        subscription = await self._edges.bus.subscribe(
            subjects.order_update(self.account), self._desk.update
        )
        served: set[str] = set()
        try:
            await self._recover()
            self._spawn_parts()
            reader = DurableReader(
                self._edges.bus,
                streams.ORDER_COMMANDS.name,
                f"orders-{subjects.escape(self.account)}",
                [subjects.order_commands_of(self.account)],
                self._intake.take,
                ack_wait_seconds=ACK_WAIT_SECONDS,
                max_ack_pending=MAX_ACK_PENDING,
                max_deliveries=self._settings.orders_max_deliveries,
            )
            self._tasks.spawn(reader.run(self._stop), name="orders-reader")
            self.ready.set()
            self.reason = ""
            log.info("account.ready", account=self.account, open=len(self.book))
            await self._serve_until_stopped(served)
        finally:
            for subject in served:
                await self._edges.service.withdraw(subject)
            if self._edges.bus.is_connected:
                await subscription.unsubscribe()

    def _spawn_parts(self) -> None:
        self._tasks.spawn(self.reconciler.run(self._stop), name="orders-reconciler")
        self._tasks.spawn(self.reconciler.follow_pushes(self._stop), name="orders-pushes")
        self._tasks.spawn(self._rescan(), name="orders-rescan")
        for companion in self._companions:
            self._tasks.spawn(companion.run(self._stop), name="orders-companion")

    async def _until_possible(self) -> bool:
        """Wait for a session, PostgreSQL and the instruments; False when it stops first."""
        self.reason = "waiting for a session"
        while not self._stop.is_set() and self.session.broker is None:
            self.reason = self.session.why_not
            self.session.changed.clear()
            await changed_or_stopped(self.session.changed, self._stop, _LOOK_SECONDS)
        self.reason = "waiting for PostgreSQL"
        if not await self._edges.database.until_available(self._stop):
            return False
        self.reason = "waiting for today's instruments: control loads them"
        while not self._stop.is_set() and not len(self._edges.surroundings.instruments):
            await sleep_unless(self._stop, _LOOK_SECONDS)
        return not self._stop.is_set()

    async def _load(self) -> bool:
        """Read what the ledger has of the account; False when it stops first."""
        self.reason = "reading the ledger"
        backoff = Backoff(first_seconds=0.1, ceiling_seconds=2.0)
        now = time.time_ns()
        today_ns = day_start_ns(now)
        while not self._stop.is_set():
            try:
                unsettled = await self.ledger.unsettled(self.account)
                today = await self.ledger.placed_since(self.account, today_ns)
                sends = await self.ledger.sends(self.account, min(today_ns, now - _MINUTE_NS))
                senders = await self.ledger.senders(self.account, today_ns)
            except DatabaseUnavailableError as error:
                log.info("account.waits", account=self.account, reason=error.reason)
                await sleep_unless(self._stop, backoff.next_seconds())
                continue
            # In the order of their commands, so that the guard against doubles keeps the newest.
            for task in sorted((*today, *unsettled), key=lambda task: task.stream_sequence):
                self.book.add(task)
            self._calls.budget.restore(sends, now)
            self._checks.restore(senders)
            return True
        return False

    async def _look(self) -> bool:
        """Read the order book before anything is sent; False when it stops first.

        Whatever this account's former worker has sent must be found before the same instruments
        are ordered again: whoever takes over in the middle of things looks first.
        """
        self.reason = "reading the broker's order book"
        self._unsure = [
            (task, intent.tag)
            for task, intent in self.book.open_intents()
            if intent.state is OrderState.SENDING
        ]
        for task, tag in self._unsure:
            await self._journal.move(task, tag, Recovered(at_ns=time.time_ns()))
        while not self._stop.is_set():
            try:
                if await self.reconciler.read():
                    return True
            except DatabaseUnavailableError as error:
                log.info("account.waits", account=self.account, reason=error.reason)
            if self.session.broker is None:
                self.reason = self.session.why_not
            await changed_or_stopped(
                self.session.changed, self._stop, self._settings.orders_poll_seconds
            )
            self.session.changed.clear()
        return False

    async def _recover(self) -> None:
        """Go on where the former worker stopped."""
        unsure = {tag for _, tag in self._unsure}
        for task, intent in list(self.book.open_intents()):
            if intent.tag not in unsure:
                await self._journal.move(task, intent.tag, Recovered(at_ns=time.time_ns()))
        self.report(
            AccountEvent(
                account=self.account,
                kind="taken_over",
                message=f"{self.lease.member} carries out the orders of {self.account}",
                evidence={"open": len(self.book), "unsure": len(unsure), **self.book.counts()},
                at_ns=time.time_ns(),
            )
        )
        self.note_controls()
        for task in self.book.open():
            self._start(task)

    async def _serve_until_stopped(self, served: set[str]) -> None:
        """Answer requests; the subject of postbacks follows the session's user."""
        service = self._edges.service
        own = subjects.rpc_orders_of(self.account)
        while not self._stop.is_set():
            wanted = {own: self._desk.answer}
            session = self.session.session
            if session is not None and session.user_id:
                wanted[subjects.rpc_postback_of(session.user_id)] = self._desk.postback
            for subject in served - wanted.keys():
                await service.withdraw(subject)
                served.discard(subject)
            for subject, handler in wanted.items():
                if subject in served:
                    continue
                served.add(subject)
                try:
                    name = "orders" if subject == own else "postback"
                    await service.serve(subject, handler, name=name, refusal=refusal)
                except BusUnavailableError as error:
                    log.info("account.served_later", subject=subject, reason=error.reason)
            await sleep_unless(self._stop, 1.0)

    async def _rescan(self) -> None:
        """Find tasks of which this worker did not hear.

        A worker that was paused while it lost the account may accept and acknowledge a command
        after its successor has read the ledger.
        """
        while not await sleep_unless(self._stop, _RESCAN_SECONDS):
            try:
                keys = await self.ledger.unsettled_keys(self.account)
                missing = self.book.missing(keys)
                for task in await self.ledger.tasks(self.account, missing) if missing else ():
                    if task.task_id in self.book:
                        continue
                    log.warning("task.found", account=self.account, task_id=task.task_id)
                    known = self.book.add(task)
                    for intent in known.intents:
                        await self._journal.move(known, intent.tag, Recovered(at_ns=time.time_ns()))
                    self._start(known)
            except DatabaseUnavailableError as error:
                log.info("account.waits", account=self.account, reason=error.reason)

    def _start(self, task: Task) -> None:
        if not task.is_settled:
            self._executor.start(task)

    def _order_happened(self) -> None:
        for companion in self._companions:
            companion.order_happened()

    async def _sync(self) -> dict[str, Any]:
        """Read the order book, and whatever works beside the orders, now."""
        figures: dict[str, Any] = {"order_book_read": await self.reconciler.read()}
        for companion in self._companions:
            figures |= await companion.sync()
        return figures


async def changed_or_stopped_forever(changed: asyncio.Event, stop: asyncio.Event) -> None:
    """Wait until one of two events is set."""
    waits: list[asyncio.Task[bool]] = [
        asyncio.create_task(event.wait(), name="orders-until") for event in (changed, stop)
    ]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)


def _lifecycle_rules(settings: OrdersSettings) -> LifecycleRules:
    return LifecycleRules(
        max_attempts=settings.orders_max_attempts,
        unknown_window_seconds=settings.orders_unknown_window_seconds,
        retry_first_seconds=settings.orders_retry_first_seconds,
    )


def _check_rules(settings: OrdersSettings) -> CheckRules:
    return CheckRules(
        market_valid_seconds=settings.orders_market_valid_seconds,
        duplicate_seconds=settings.orders_duplicate_seconds,
    )


def _send_limits(settings: OrdersSettings) -> SendLimits:
    return SendLimits(
        per_second=settings.orders_per_second,
        spare_per_second=settings.orders_spare_per_second,
        per_minute=settings.orders_per_minute,
        spare_per_minute=settings.orders_spare_per_minute,
        per_day=settings.orders_per_day,
    )
