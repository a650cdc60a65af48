"""Finds out what became of requests: by the broker's order book, its updates and its postbacks."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from libs.common import logs
from libs.common.contracts.orders import OrderState
from libs.common.database import DatabaseUnavailableError
from libs.common.domain.market_calendar import CALENDAR
from libs.common.domain.order_answers import BrokerOrder, OrderRowError
from libs.common.kite.orders import OrderBroker, OrderCallError
from libs.common.lifecycle import changed_or_stopped
from services.orders import metrics
from services.orders.account_session import AccountSession
from services.orders.checkpoint import Checkpoint, Step
from services.orders.domain.intent import Intent, Verb
from services.orders.domain.lifecycle_events import DayOver, NotSeen, RowSeen
from services.orders.domain.market_rules import is_day_over
from services.orders.domain.outcomes import Outcome, classify
from services.orders.domain.tags import TAG_PREFIX
from services.orders.errors import OrderNumberTakenError, TaskGoneError
from services.orders.journal import Journal
from services.orders.ledger import Ledger
from services.orders.task import Task
from services.orders.task_book import TaskBook

# Pushed orders that wait to be looked at; more make the book be read instead.
_PUSHES_KEPT: Final = 1_000
# Tags of ours that the ledger does not know: asked for once, not with every reading.
_FOREIGN_KEPT: Final = 10_000
_CALM_FACTOR: Final = 1.5
_ROWS_PER_TURN: Final = 100
_NO_SESSION_SECONDS: Final = 0.5

log = logs.get_logger(__name__)


class Reconciler:
    """Keeps the tasks of one account true to what the broker says.

    Orders are matched by our tag, or by a number that is known to be ours; never by looks.

    Args:
        account: Whose.
        session: Of the account.
        journal: Where it is written.
        book: The tasks in memory.
        ledger: Those that are not.
        refuse_session: Called when the broker refuses the session of a broker.
        checkpoint: See `checkpoint.Step`.
        poll_seconds: Between two readings while something is unknown or on its way.
        quiet_poll_seconds: The same when all open orders merely rest.
    """

    def __init__(
        self,
        account: str,
        *,
        session: AccountSession,
        journal: Journal,
        book: TaskBook,
        ledger: Ledger,
        refuse_session: Callable[[OrderBroker, str], None],
        checkpoint: Checkpoint,
        poll_seconds: float,
        quiet_poll_seconds: float,
    ) -> None:
        self._account = account
        self._session = session
        self._journal = journal
        self._book = book
        self._ledger = ledger
        self._refuse_session = refuse_session
        self._checkpoint = checkpoint
        self._poll_seconds = poll_seconds
        self._quiet_poll_seconds = quiet_poll_seconds
        self._rows: dict[str, BrokerOrder] = {}
        self._pushes: deque[tuple[str, BrokerOrder]] = deque()
        self._pushed = asyncio.Event()
        self._foreign: dict[str, None] = {}
        self._one_at_a_time = asyncio.Lock()
        self._calm = 1.0
        self.on_order: Callable[[], None] = lambda: None

    def row(self, order_id: str) -> BrokerOrder | None:
        """An order as the broker showed it last; None when it has not."""
        return self._rows.get(order_id)

    # -- what the broker pushes ----------------------------------------------------------------

    def push(self, way: str, order: BrokerOrder) -> bool:
        """Take an order that the broker pushed; False when too many wait already.

        Args:
            way: `update` or `postback`.
            order: The order.
        """
        if len(self._pushes) >= _PUSHES_KEPT:
            self._count_push(way, "dropped")
            # What it said is in the book as well.
            self._journal.unknown.set()
            return False
        self._pushes.append((way, order))
        self._pushed.set()
        return True

    async def follow_pushes(self, stop: asyncio.Event) -> None:
        """Look at what is pushed until `stop` is set."""
        while not stop.is_set():
            if not self._pushes:
                self._pushed.clear()
                await changed_or_stopped(self._pushed, stop, 60.0)
                continue
            way, order = self._pushes[0]
            try:
                used = await self._see(order, time.time_ns(), is_look=False)
            except DatabaseUnavailableError as error:
                log.info("reconciler.waits", account=self._account, reason=error.reason)
                await changed_or_stopped(asyncio.Event(), stop, _NO_SESSION_SECONDS)
                continue
            self._pushes.popleft()
            self._count_push(way, "used" if used else "unrelated")
            self.on_order()

    def _count_push(self, way: str, outcome: str) -> None:
        metrics.PUSHES_TOTAL.labels(account=self._account, way=way, outcome=outcome).inc()

    # -- what the broker is asked --------------------------------------------------------------

    async def run(self, stop: asyncio.Event) -> None:
        """Read the order book as often as it may tell something, until `stop` is set."""
        while not stop.is_set():
            self._journal.unknown.clear()
            pause_seconds = self._pause()
            if pause_seconds is None:
                await changed_or_stopped(self._journal.unknown, stop, self._quiet_poll_seconds)
                continue
            if not await self._pause_for(pause_seconds, stop):
                continue
            try:
                await self.read()
            except DatabaseUnavailableError as error:
                log.info("reconciler.waits", account=self._account, reason=error.reason)
                await changed_or_stopped(asyncio.Event(), stop, _NO_SESSION_SECONDS)

    async def _pause_for(self, seconds: float, stop: asyncio.Event) -> bool:
        """Wait before the next reading; news shortens a long wait to the shortest one."""
        shortest = min(seconds, self._poll_seconds)
        await changed_or_stopped(asyncio.Event(), stop, shortest)
        if seconds > shortest and not self._journal.unknown.is_set():
            await changed_or_stopped(self._journal.unknown, stop, seconds - shortest)
        return not stop.is_set()

    def _pause(self) -> float | None:
        """How long to wait before the next reading; None when nothing waits for one."""
        states = {
            (intent.verb, intent.state)
            for _, intent in self._book.open_intents()
            if intent.state in _LOOKED_FOR
        }
        if not states:
            self._calm = 1.0
            return None
        if states - _RESTING:
            self._calm = 1.0
            return self._poll_seconds
        pause = min(self._poll_seconds * self._calm, self._quiet_poll_seconds)
        self._calm = min(self._calm * _CALM_FACTOR, 1_000.0)
        return pause

    async def read(self) -> bool:
        """Read the order book once and let the tasks know; False when it could not be read.

        Raises:
            DatabaseUnavailableError: The ledger cannot be asked or written.
        """
        async with self._one_at_a_time:
            await self._end_days()
            broker = self._session.broker
            if broker is None:
                return False
            # Only what was unknown before the question can be missed by the answer.
            suspects = [
                (task, intent.tag)
                for task, intent in self._book.open_intents()
                if _is_suspect(intent)
            ]
            if suspects:
                self._checkpoint(Step.UNKNOWN_NOT_LOOKED)
            # An answer may be as old as its question: a window that ends in between is not over.
            asked_at_ns = time.time_ns()
            try:
                rows = await broker.orders()
            except OrderCallError as error:
                self._note_failure(broker, error)
                return False
            except OrderRowError as error:
                metrics.BOOK_READS_TOTAL.labels(account=self._account, outcome="unreadable").inc()
                log.error("order_book.unreadable", account=self._account, reason=str(error))
                return False
            metrics.BOOK_READS_TOTAL.labels(account=self._account, outcome="ok").inc()
            await self._compare(rows, suspects, asked_at_ns)
            return True

    def _note_failure(self, broker: OrderBroker, error: OrderCallError) -> None:
        outcome = classify(error.failure)
        metrics.BOOK_READS_TOTAL.labels(account=self._account, outcome=outcome.value).inc()
        log.warning("order_book.unread", account=self._account, reason=str(error))
        if outcome is Outcome.SESSION_REFUSED:
            self._refuse_session(broker, error.failure.message)

    async def _compare(
        self, rows: Iterable[BrokerOrder], suspects: list[tuple[Task, str]], asked_at_ns: int
    ) -> None:
        rows = list(rows)
        await self._load([tag for row in rows for tag in (row.tag, *row.tags) if tag])
        awaited = {
            intent.order_id for task, tag in suspects if (intent := task.with_tag(tag)) is not None
        }
        shown: set[str] = set()
        for number, row in enumerate(rows):
            if number % _ROWS_PER_TURN == _ROWS_PER_TURN - 1:
                # A book has thousands of rows after a take-over, and leases must be refreshed.
                await asyncio.sleep(0)
            shown.update(tag for tag in (row.tag, *row.tags) if tag)
            if self._rows.get(row.order_id) == row and row.order_id not in awaited:
                continue
            await self._see(row, asked_at_ns, is_look=True)
        # A new day's book is empty: what it no longer shows is forgotten.
        self._rows = {row.order_id: self._rows.get(row.order_id, row) for row in rows}
        for task, tag in suspects:
            intent = task.with_tag(tag)
            if intent is None or not _is_suspect(intent):
                continue
            is_shown = tag in shown if intent.order_id is None else intent.order_id in self._rows
            if not is_shown:
                await self._journal.move(task, tag, NotSeen(at_ns=asked_at_ns))

    async def _see(self, row: BrokerOrder, at_ns: int, *, is_look: bool) -> bool:
        """Let every request that an order is about know of it; gives whether there was one."""
        known = self._rows.get(row.order_id)
        if is_look or known is None or not known.is_final:
            # A late update must not bring a settled order back for who looks it up here.
            self._rows[row.order_id] = row
        if not is_look:
            await self._load([tag for tag in (row.tag, *row.tags) if tag], row.order_id)
        found = self._requests_about(row)
        if found:
            self._calm = 1.0
        for task, tag in found:
            self._checkpoint(Step.SEEN_NOT_COMMITTED)
            event = RowSeen(at_ns=at_ns, order=row, is_look=is_look)
            try:
                await self._journal.move(task, tag, event)
            except (OrderNumberTakenError, TaskGoneError) as error:
                log.error("reconciler.cannot_note", task_id=task.task_id, reason=str(error))
        return bool(found)

    def _requests_about(self, row: BrokerOrder) -> list[tuple[Task, str]]:
        found: dict[str, Task] = {}
        for tag in (row.tag, *row.tags):
            task = self._book.with_tag(tag) if tag else None
            if task is not None and tag is not None:
                found[tag] = task
        task = self._book.with_number(row.order_id)
        if task is not None:
            for intent in task.intents:
                if intent.verb is Verb.PLACE and intent.order_id == row.order_id:
                    found[intent.tag] = task
        found.update((tag, other) for other, tag in self._book.changes_of(row.order_id))
        return [(task, tag) for tag, task in found.items()]

    async def _load(self, tags: Iterable[str], order_id: str | None = None) -> None:
        """Bring tasks into memory that are ours by their tag and were settled long ago."""
        wanted = [
            tag
            for tag in dict.fromkeys(tags)
            if tag.startswith(TAG_PREFIX)
            and tag not in self._foreign
            and self._book.with_tag(tag) is None
        ]
        numbers = [] if order_id is None or self._book.with_number(order_id) else [order_id]
        if not wanted:
            # A number alone is asked for only with a tag: other programs' orders have numbers too.
            return
        names = await self._ledger.owners(self._account, tags=wanted, order_ids=numbers)
        for task in await self._ledger.tasks(self._account, names) if names else ():
            self._book.add(task)
        for tag in wanted:
            if self._book.with_tag(tag) is None:
                self._foreign[tag] = None
        while len(self._foreign) > _FOREIGN_KEPT:
            del self._foreign[next(iter(self._foreign))]

    async def _end_days(self) -> None:
        """Ask a person about what the broker's book will never show again."""
        now = time.time_ns()
        for task, intent in list(self._book.open_intents()):
            if intent.state is OrderState.ABSENT:
                continue
            exchange = intent.exchange
            if exchange is None:
                continue
            since_ns = intent.sent_at_ns or task.accepted_at_ns
            variety = str(intent.parameters.get("variety", "regular"))
            if is_day_over(exchange, variety, since_ns, now, CALENDAR):
                await self._journal.move(task, intent.tag, DayOver(at_ns=now))

    @property
    def rows(self) -> list[BrokerOrder]:
        """The order book as it was read last, updates included."""
        return list(self._rows.values())


_LOOKED_FOR: Final = frozenset(
    {OrderState.SENDING, OrderState.UNKNOWN, OrderState.ACKED, OrderState.OPEN}
)
_RESTING: Final = frozenset({(Verb.PLACE, OrderState.OPEN)})


def _is_suspect(intent: Intent) -> bool:
    """Whether a reading of the book that does not show it counts."""
    if intent.state is OrderState.UNKNOWN:
        return True
    return intent.state is OrderState.ACKED and intent.verb is not Verb.PLACE
