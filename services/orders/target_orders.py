"""Which orders a change or a cancellation is about, and whether they can be changed yet."""

import msgspec

from libs.common.contracts.orders import CancelOrder, OrderState, PlaceOrder
from services.orders.domain.check_context import TargetOrder
from services.orders.domain.intent import Intent
from services.orders.errors import OrderRefusedError
from services.orders.ledger import Ledger
from services.orders.reconciler import Reconciler
from services.orders.task import Task
from services.orders.task_book import TaskBook

_UNSENT = frozenset({OrderState.PENDING, OrderState.CHECKED, OrderState.RETRYING})
_AWAITED = frozenset({OrderState.SENDING, OrderState.UNKNOWN})
_AT_BROKER = frozenset({OrderState.ACKED, OrderState.OPEN})


class Found(msgspec.Struct, frozen=True):
    """The order is at the broker.

    Attributes:
        target: As it stands.
    """

    target: TargetOrder


class Waits(msgspec.Struct, frozen=True):
    """It is not known yet whether there is an order.

    Attributes:
        seconds: Look again after so long, or when something changes.
    """

    seconds: float = 0.25


class Gone(msgspec.Struct, frozen=True):
    """There is no order to change, and there will be none.

    Attributes:
        code: Why, for programs.
        message: Why, for people.
    """

    code: str
    message: str


class TargetOrders:
    """Finds the orders of one account that commands are about.

    Args:
        account: Whose.
        book: The tasks in memory.
        ledger: Those that are not.
        reconciler: Knows the broker's rows.
    """

    def __init__(
        self, account: str, *, book: TaskBook, ledger: Ledger, reconciler: Reconciler
    ) -> None:
        self._account = account
        self._book = book
        self._ledger = ledger
        self._reconciler = reconciler

    def task_of(self, task: Task) -> Task | None:
        """The task that placed the order; None when it was placed elsewhere."""
        command = task.command
        if isinstance(command, PlaceOrder):
            return None
        if command.target_task_id is not None:
            return self._book.get(command.target_task_id)
        return self._book.with_number(command.order_id or "")

    @staticmethod
    def is_withdrawn(target: Task, leg: int) -> bool:
        """Whether a slice of a task was withdrawn before it was sent."""
        placed = target.placed(leg)
        if not placed:
            return target.is_settled
        return placed[0].is_settled and not placed[0].attempts

    async def legs(self, task: Task) -> list[int] | Waits:
        """The slices that a command is about: one request is made for each.

        Raises:
            OrderRefusedError: It names no order of the account, or none that a request could be
                made for.
            DatabaseUnavailableError: The ledger cannot be asked.
        """
        command = task.command
        assert not isinstance(command, PlaceOrder)  # noqa: S101  # Only changes come here.
        if (command.order_id is None) == (command.target_task_id is None):
            raise OrderRefusedError(
                "which_order", "give either order_id or target_task_id", "order_id"
            )
        if command.order_id is not None:
            await self._load(order_id=command.order_id)
            return await self._legs_of_number(command.order_id)
        target = await self._load(task_id=command.target_task_id)
        if target is None:
            raise OrderRefusedError(
                "unknown_task",
                f"account {self._account} has no task {command.target_task_id}: check the key",
                "target_task_id",
            )
        if not isinstance(target.command, PlaceOrder):
            raise OrderRefusedError(
                "not_an_order",
                f"task {target.task_id} placed no order: name the task that did",
                "target_task_id",
            )
        if command.leg is not None and (not isinstance(command, CancelOrder) or target.intents):
            if target.intents and not target.placed(command.leg):
                raise OrderRefusedError(
                    "unknown_leg",
                    f"task {target.task_id} has no leg {command.leg}: it has "
                    f"{len(target.placed())}",
                    "leg",
                )
            return [command.leg]
        return self._open_legs(target)

    def _open_legs(self, target: Task) -> list[int]:
        """The slices of a task that may still be cancelled."""
        if not target.intents:
            return [0]
        placed = target.placed()
        legs = [n for n, intent in enumerate(placed) if not intent.is_settled]
        # With none left, the first tells why.
        return [leg for leg in legs if placed[leg].state is not OrderState.ABSENT] or [0]

    async def _legs_of_number(self, order_id: str) -> list[int] | Waits:
        if self._book.with_number(order_id) is None and self._reconciler.row(order_id) is None:
            # Placed elsewhere, and not since the book was read last.
            if not await self._reconciler.read():
                return Waits(1.0)
            if self._reconciler.row(order_id) is None:
                raise OrderRefusedError(
                    "unknown_order",
                    f"the broker's order book of account {self._account} has no order {order_id}",
                    "order_id",
                )
        return [0]

    async def _load(
        self, *, task_id: str | None = None, order_id: str | None = None
    ) -> Task | None:
        """Find a task, in the ledger when it is not in memory."""
        if task_id is not None:
            known = self._book.get(task_id)
            names = {task_id}
        else:
            known = self._book.with_number(order_id or "")
            names = set()
            if known is None and self._reconciler.row(order_id or "") is None:
                names = await self._ledger.owners(self._account, order_ids=[order_id or ""])
        if known is not None or not names:
            return known
        for found in await self._ledger.tasks(self._account, names):
            return self._book.add(found)
        return None

    def of(self, task: Task, intent: Intent) -> Found | Waits | Gone:
        """The order that one request of a command is about."""
        command = task.command
        assert not isinstance(command, PlaceOrder)  # noqa: S101  # Only changes come here.
        target = self.task_of(task)
        if command.order_id is not None:
            row = self._reconciler.row(command.order_id)
            if row is not None:
                return Found(TargetOrder.of_row(row))
            placed = [i for i in target.intents if i.order_id == command.order_id] if target else []
            if placed:
                return Found(TargetOrder.of_intent(placed[0]))
            return Gone("unknown_order", f"the order book has no order {command.order_id}")
        if target is None:
            return Gone("unknown_task", f"there is no task {command.target_task_id}")
        leg = intent.leg if isinstance(command, CancelOrder) else command.leg
        found = self._of_leg(target, leg)
        if isinstance(found, Waits):
            target.followers.add(task)
        else:
            target.followers.discard(task)
        return found

    def _of_leg(self, target: Task, leg: int) -> Found | Waits | Gone:
        placed = target.placed(leg)
        if not placed:
            if target.is_settled:
                return _never_came(target, target.code, target.message)
            return (
                Waits()
                if not target.intents
                else Gone("unknown_leg", f"task {target.task_id} has no leg {leg}")
            )
        order = placed[0]
        if order.order_id is not None:
            row = self._reconciler.row(order.order_id)
            known = TargetOrder.of_intent(order) if row is None else TargetOrder.of_row(row)
            if order.has_final_word and not known.is_final:
                known = msgspec.structs.replace(known, is_final=True, status=order.status or "")
            return Found(known)
        if order.state in _UNSENT | _AWAITED | _AT_BROKER:
            return Waits()
        return _never_came(target, order.code, order.message)


def _never_came(target: Task, code: str, message: str) -> Gone:
    why = f": {message}" if message else ""
    return Gone(
        "order_never_came",
        f"task {target.task_id} is no order at the broker ({code or target.state.value}{why})",
    )
