"""Reads what the broker holds of an account, keeps it, and compares it with the ledger."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Protocol, TypeVar

import asyncpg

from libs.common import logs
from libs.common.contracts.orders import AccountEvent
from libs.common.database import DatabaseUnavailableError
from libs.common.domain.clock import NS_PER_SECOND, Clock, ist_datetime
from libs.common.domain.market_calendar import CALENDAR, MarketCalendar
from libs.common.domain.order_answers import BrokerOrder
from libs.common.kite.orders import OrderCallError
from libs.common.lifecycle import changed_or_stopped
from libs.common.resilience.backoff import Backoff
from libs.common.resilience.calendar_limiter import CalendarLimiter
from services.orders import metrics
from services.orders.broker_tables import BrokerTables
from services.orders.domain.broker_rows import order_rows, trade_rows
from services.orders.domain.differences import Confirmation, Difference, compare, our_tags
from services.orders.domain.sync_schedule import Reading, SyncSchedule, next_close_ns
from services.orders.errors import AccountLostError

# Kite allows ten reads a second and key; the reconciler reads with the rest of them.
READS_PER_SECOND: Final = 3
CLOSE_MARGIN_SECONDS: Final = 120.0
"""After a close the exchange cancels what was not matched; that takes its time."""
_SETTLE_SECONDS: Final = 1.0
_EVENT_PAUSE_SECONDS: Final = 5.0
_NO_SESSION_SECONDS: Final = 1.0
_FIRST_PAUSE_SECONDS: Final = 1.0

log = logs.get_logger(__name__)

Report = Callable[[AccountEvent], None]
T = TypeVar("T")


class AccountReader(Protocol):
    """The part of an OrderBroker that changes nothing; every method raises OrderCallError."""

    async def orders(self) -> list[BrokerOrder]:
        """The order book: all orders of the day, or an error."""

    async def trades(self) -> list[dict[str, Any]]:
        """All trades of the day, as rows."""

    async def positions(self) -> dict[str, list[dict[str, Any]]]:
        """Positions under `net` and `day`."""

    async def holdings(self) -> list[dict[str, Any]]:
        """Holdings, as rows."""

    async def margins(self) -> dict[str, dict[str, Any]]:
        """Funds under `equity` and `commodity`."""


@dataclass(frozen=True, slots=True)
class Synced:
    """What one reading of the book gave.

    Attributes:
        orders: In the broker's book.
        trades: Of the day.
        differences: Between the book and the ledger, as they are now; those on their way included.
    """

    orders: int
    trades: int
    differences: tuple[Difference, ...]


class BrokerSync:
    """Keeps `broker_orders`, `broker_trades` and `broker_snapshots` of one account current.

    It changes nothing in the ledger: what differs is reported, once a day, after two looks in a
    row have seen it.

    Args:
        account: Whose.
        broker: Gives the present session's broker; None while there is no session.
        tables: Where it is kept.
        report: Tells people; takes it over whatever the bus does.
        clock: Of the moments that are stored.
        book_seconds: Between two readings of orders, trades and positions.
        funds_seconds: Between two readings of holdings and margins.
        reads: Paces the calls; shared with whoever else reads with the account's key.
        owns: Whether the account is still this process's: nothing is stored when it is not.
        calendar: Whose closes are waited for.
    """

    def __init__(
        self,
        account: str,
        broker: Callable[[], AccountReader | None],
        tables: BrokerTables,
        *,
        report: Report,
        clock: Clock,
        book_seconds: float,
        funds_seconds: float,
        reads: CalendarLimiter | None = None,
        owns: Callable[[], bool] = lambda: True,
        calendar: MarketCalendar = CALENDAR,
    ) -> None:
        self._account = account
        self._broker = broker
        self._tables = tables
        self._report = report
        self._clock = clock
        self._reads = reads or CalendarLimiter(READS_PER_SECOND)
        self._owns = owns
        self._calendar = calendar
        self._schedule = SyncSchedule(
            book_seconds=book_seconds,
            funds_seconds=funds_seconds,
            settle_seconds=min(_SETTLE_SECONDS, book_seconds),
            pause_seconds=min(_EVENT_PAUSE_SECONDS, book_seconds),
            first_close_ns=self._next_close(),
        )
        self._backoff = Backoff(
            first_seconds=_FIRST_PAUSE_SECONDS,
            ceiling_seconds=max(book_seconds, _FIRST_PAUSE_SECONDS),
        )
        self._confirmation = Confirmation()
        self._one_at_a_time = asyncio.Lock()
        self._woken = asyncio.Event()
        # What was stored last, as it came, so that a book of thousands in which a few have changed
        # costs as much as these. Bounded by the broker's book of one day.
        self._stored_orders: dict[str, Mapping[str, Any]] = {}
        self._stored_trades: dict[str, Mapping[str, Any]] = {}

    def order_happened(self) -> None:
        """Something happened to an order of the account: read the book soon, once for many."""
        self._schedule.happened(time.monotonic_ns())
        self._woken.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Read what is due until `stop` is set; whatever fails is counted and tried again."""
        while not stop.is_set():
            self._woken.clear()
            now_ns = time.monotonic_ns()
            wait_ns = self._schedule.wait_ns(now_ns)
            if wait_ns > 0:
                await changed_or_stopped(self._woken, stop, wait_ns / NS_PER_SECOND)
                continue
            is_closing = self._schedule.is_closing(now_ns)
            for reading in self._schedule.due(now_ns):
                if not stop.is_set():
                    await self._attempt(reading)
            if is_closing:
                # What failed is due again by itself.
                self._schedule.closed(self._next_close())

    async def sync(self) -> dict[str, Any]:
        """Read everything now, for somebody who asks; gives what was found.

        Raises:
            DatabaseUnavailableError: PostgreSQL is away.
        """
        broker = self._broker()
        if broker is None:
            return {"stored": False, "reason": f"account {self._account} has no session"}
        try:
            async with self._one_at_a_time:
                synced = await self._read_book(broker)
                await self._read_funds(broker)
        except (OrderCallError, AccountLostError) as error:
            return {"stored": False, "reason": str(error)}
        return {
            "stored": True,
            "orders": synced.orders,
            "trades": synced.trades,
            "differences": [
                {"code": d.code.value, "message": d.message, **d.evidence}
                for d in synced.differences
            ],
        }

    async def _attempt(self, reading: Reading) -> None:
        """Do one reading, and say when it is due again."""
        began_ns = time.monotonic_ns()
        broker = self._broker()
        if broker is None:
            self._schedule.failed(reading, began_ns, _NO_SESSION_SECONDS)
            return
        try:
            async with self._one_at_a_time:
                if reading is Reading.BOOK:
                    await self._read_book(broker)
                else:
                    await self._read_funds(broker)
        except OrderCallError as error:
            self._failed(reading, _reason(error), str(error))
        except (DatabaseUnavailableError, asyncpg.PostgresError) as error:
            self._failed(reading, "database", str(error))
        except AccountLostError as error:
            self._failed(reading, "lost", str(error))
        else:
            self._backoff.reset()
            self._schedule.done(reading, began_ns, took_ns=time.monotonic_ns() - began_ns)

    async def _read_book(self, broker: AccountReader) -> Synced:
        now = ist_datetime(self._clock.now_ns())
        book = await self._paced(broker.orders)
        trades = await self._paced(broker.trades)
        orders = order_rows(
            (order for order in book if self._stored_orders.get(order.order_id) != order.raw), now
        )
        fills, unusable = trade_rows(
            (t for t in trades if self._stored_trades.get(str(t.get("trade_id"))) != t), now
        )
        metrics.SYNC_BAD_ROWS_TOTAL.labels(account=self._account).inc(unusable)
        self._require_account()
        await self._tables.store_book(orders, fills)
        self._stored_orders = {order.order_id: order.raw for order in book}
        self._stored_trades = {str(trade.get("trade_id")): trade for trade in trades}
        differences = await self._compared(now, book)
        await self._snapshot("positions", broker.positions, now)
        self._note(Reading.BOOK)
        return Synced(len(book), len(trades), tuple(differences))

    async def _compared(self, now: datetime, book: Sequence[BrokerOrder]) -> list[Difference]:
        """Hold the book against the ledger and report what is confirmed; gives what was seen."""
        tags = [tag for row in book for tag in our_tags(row)]
        ledger = await self._tables.ledger_orders(tags, [row.order_id for row in book])
        seen = compare(book, ledger)
        metrics.DIFFERENCES.labels(account=self._account).set(len(seen))
        for difference in self._confirmation.confirmed(now.date(), seen):
            self._report(
                AccountEvent(
                    account=self._account,
                    kind="difference",
                    code=difference.code.value,
                    message=difference.message,
                    evidence=difference.evidence,
                    at_ns=self._clock.now_ns(),
                )
            )
            metrics.DIFFERENCES_TOTAL.labels(
                account=self._account, code=difference.code.value
            ).inc()
            log.error(
                "orders.difference",
                account=self._account,
                code=difference.code.value,
                message=difference.message,
                **difference.evidence,
            )
        return seen

    async def _read_funds(self, broker: AccountReader) -> None:
        now = ist_datetime(self._clock.now_ns())
        await self._snapshot("holdings", broker.holdings, now)
        await self._snapshot("margins", broker.margins, now)
        self._note(Reading.FUNDS)

    async def _snapshot(
        self, kind: str, read: Callable[[], Awaitable[object]], now: datetime
    ) -> None:
        body = await self._paced(read)
        self._require_account()
        await self._tables.store_snapshot(kind, body, now)

    def _require_account(self) -> None:
        """Store nothing in another worker's term.

        Raises:
            AccountLostError: The account is not this process's any more.
        """
        if not self._owns():
            raise AccountLostError(self._account)

    async def _paced(self, call: Callable[[], Awaitable[T]]) -> T:
        """Make a read when the account's limit has room for it."""
        while (wait_ns := self._reads.try_acquire(time.monotonic_ns())) > 0:  # noqa: ASYNC110  # A limit has no event.
            await asyncio.sleep(wait_ns / NS_PER_SECOND)
        return await call()

    def _failed(self, reading: Reading, reason: str, message: str) -> None:
        metrics.SYNC_FAILURES_TOTAL.labels(
            account=self._account, reading=reading.value, reason=reason
        ).inc()
        delay = self._backoff.next_seconds()
        self._schedule.failed(reading, time.monotonic_ns(), delay)
        log.warning(
            "orders.sync_failed",
            account=self._account,
            reading=reading.value,
            reason=reason,
            message=message,
            again_in_seconds=round(delay, 1),
        )

    def _note(self, reading: Reading) -> None:
        metrics.SYNCED_TIMESTAMP_SECONDS.labels(account=self._account, reading=reading.value).set(
            self._clock.now_ns() / NS_PER_SECOND
        )

    def _next_close(self) -> int | None:
        """The reading after the next close, on the clock that never runs backwards."""
        now_ns = self._clock.now_ns()
        close_ns = next_close_ns(
            self._calendar, ist_datetime(now_ns), margin_seconds=CLOSE_MARGIN_SECONDS
        )
        return None if close_ns is None else time.monotonic_ns() + (close_ns - now_ns)


def _reason(error: OrderCallError) -> str:
    """A bounded word for why a call failed."""
    code = error.failure.code
    if code is None:
        return "network"
    return {403: "session", 429: "limited"}.get(code, "server" if code >= 500 else "refused")
