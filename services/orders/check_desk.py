"""Gathers what a check needs to know at the moment of sending, and asks the domain."""

import time
from collections import Counter
from collections.abc import Iterable

import msgspec

from libs.common.contracts.orders import (
    CancelOrder,
    ModifyOrder,
    OrderCommand,
    OrderControls,
    PlaceOrder,
)
from libs.common.domain.clock import ist_datetime
from libs.common.domain.instruments import Instrument
from services.orders.account_session import AccountSession
from services.orders.domain.check_context import (
    CheckContext,
    CheckedChange,
    CheckedOrder,
    CheckRules,
    TargetOrder,
)
from services.orders.domain.checks import check_cancel, check_modify, check_place
from services.orders.domain.order_limits import OrderLimits, OrderUse
from services.orders.ledger import Ledger
from services.orders.surroundings import Surroundings
from services.orders.task import Task
from services.orders.task_book import TaskBook

_NS_PER_SECOND = 1_000_000_000


class CheckDesk:
    """Checks the orders of one account.

    Args:
        account: Whose.
        session: Of the account.
        book: Its tasks.
        ledger: Knows what the user has ordered for other accounts.
        surroundings: What orders are checked against.
        rules: The figures of the checks.
    """

    def __init__(
        self,
        account: str,
        *,
        session: AccountSession,
        book: TaskBook,
        ledger: Ledger,
        surroundings: Surroundings,
        rules: CheckRules,
    ) -> None:
        self._account = account
        self._session = session
        self._book = book
        self._ledger = ledger
        self._around = surroundings
        self._rules = rules
        self._day = ist_datetime(time.time_ns()).date()
        self._sent: Counter[str] = Counter()

    @property
    def controls(self) -> OrderControls:
        """What people have switched for the account."""
        return self._around.switches.of(self._account)

    @property
    def limits(self) -> OrderLimits:
        """The limits of the account."""
        return self._around.limits.of_account(self._account)

    @property
    def rules(self) -> CheckRules:
        """The figures of the checks."""
        return self._rules

    def restore(self, users: Iterable[str]) -> None:
        """Count what left today before this worker held the account: one name for each."""
        self._sent = Counter(users)

    def note_sent(self, user: str) -> None:
        """A placement of this user leaves."""
        self._turn_day()
        self._sent[user] += 1

    def place(self, command: PlaceOrder, context: CheckContext) -> CheckedOrder:
        """Check a placement.

        Raises:
            OrderRefusedError: With what would be right.
        """
        return check_place(command, context)

    def change(
        self, command: OrderCommand, target: TargetOrder, context: CheckContext
    ) -> CheckedChange:
        """Check a change or a cancellation.

        Raises:
            OrderRefusedError: With what would be right.
        """
        if isinstance(command, ModifyOrder):
            return check_modify(command, target, context)
        assert isinstance(command, CancelOrder)  # noqa: S101  # Placements have a target of none.
        return check_cancel(command, target, context)

    async def context(self, task: Task, target: TargetOrder | None = None) -> CheckContext:
        """What is known right now.

        Raises:
            DatabaseUnavailableError: A limit counts orders of other accounts, and the ledger is
                away.
        """
        self._turn_day()
        command = task.command
        limits = (self.limits, self._around.limits.of_user(command.user))
        instrument = self._instrument(command, target)
        controls = self.controls
        now_ns = time.time_ns()
        price = None
        if instrument is not None and any(each.max_value is not None for each in limits):
            price = await self._around.market.last_price(instrument)
        band = None
        if instrument is not None and getattr(command, "price", None) is not None:
            band = await self._around.bands.of(self._account, instrument.key)
            now_ns = time.time_ns()
        since_ns = now_ns - round(self._rules.duplicate_seconds * _NS_PER_SECOND)
        return CheckContext(
            now_ns=now_ns,
            # A simulated market keeps hours of its own, which its broker knows.
            market_now_ns=now_ns if self._session.is_live else None,
            instrument=instrument,
            last_price=price,
            band=band,
            kill_switch=controls.kill_switch,
            kill_reason=controls.reason,
            is_live=self._session.is_live,
            feed_is_simulated=self._around.market.is_simulated,
            account_limits=limits[0],
            account_use=self._use_of_account(task),
            user_limits=limits[1],
            user_use=await self._use_of_user(task, limits[1]),
            recent=self._book.recent(since_ns, but=task.task_id),
            rules=self._rules,
        )

    def _instrument(self, command: OrderCommand, target: TargetOrder | None) -> Instrument | None:
        if isinstance(command, PlaceOrder):
            return self._around.instruments.get(command.exchange.value, command.tradingsymbol)
        if target is None:
            return None
        return self._around.instruments.get(target.exchange, target.tradingsymbol)

    def _use_of_account(self, task: Task) -> OrderUse:
        if not _counts_orders(self.limits):
            return OrderUse()
        return self._book.use(None, self._sent.total(), but=task.task_id)

    async def _use_of_user(self, task: Task, limits: OrderLimits) -> OrderUse:
        user = task.command.user
        if not _counts_orders(limits):
            return OrderUse()
        here = self._book.use(user, self._sent[user], but=task.task_id)
        elsewhere = await self._ledger.use_elsewhere(user, self._account, _day_start_ns())
        return msgspec.structs.replace(
            here,
            orders_today=here.orders_today + elsewhere.orders_today,
            open_orders=here.open_orders + elsewhere.open_orders,
        )

    def _turn_day(self) -> None:
        today = ist_datetime(time.time_ns()).date()
        if today != self._day:
            self._day = today
            self._sent.clear()


def _counts_orders(limits: OrderLimits) -> bool:
    return limits.max_orders_per_day is not None or limits.max_open_orders is not None


def _day_start_ns() -> int:
    return day_start_ns(time.time_ns())


def day_start_ns(now_ns: int) -> int:
    """When the Indian day of a moment began, epoch ns."""
    now = ist_datetime(now_ns)
    seconds = now.hour * 3_600 + now.minute * 60 + now.second
    return now_ns - now_ns % _NS_PER_SECOND - seconds * _NS_PER_SECOND
