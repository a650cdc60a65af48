"""The tasks of one account in memory, found by key, by tag and by the broker's number."""

from collections.abc import Iterable, Iterator
from typing import Final

from libs.common.contracts.orders import OrderState, PlaceOrder
from services.orders.domain.check_context import RecentOrder
from services.orders.domain.checks import recent_of
from services.orders.domain.intent import Intent, Verb
from services.orders.domain.order_limits import OrderUse
from services.orders.task import Task

# Settled tasks stay findable for late words of the broker; older ones are read from the ledger.
SETTLED_KEPT: Final = 10_000
RECENT_KEPT: Final = 200


class TaskBook:
    """All tasks that are not at their end, and the last of those that are."""

    def __init__(self) -> None:
        self._tasks: dict[str, Task] = {}
        self._open: dict[str, Task] = {}
        # In the order in which they settled, the oldest first.
        self._settled: dict[str, None] = {}
        self._by_tag: dict[str, str] = {}
        self._by_number: dict[str, str] = {}
        # Changes and cancellations under way, by the number of the order they are about.
        self._changing: dict[str, dict[str, Task]] = {}
        self._recent: dict[str, RecentOrder] = {}

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, task_id: object) -> bool:
        return task_id in self._tasks

    def get(self, task_id: str) -> Task | None:
        """The task with this key."""
        return self._tasks.get(task_id)

    def open(self) -> list[Task]:
        """The tasks that are not at their end, in the order of their commands."""
        return sorted(self._open.values(), key=lambda task: task.stream_sequence)

    def open_intents(self) -> Iterator[tuple[Task, Intent]]:
        """Every request that is not at its end."""
        for task in list(self._open.values()):
            for intent in task.intents:
                if not intent.is_settled:
                    yield task, intent

    def with_tag(self, tag: str) -> Task | None:
        """The task of which a request carries this tag."""
        return self._tasks.get(self._by_tag.get(tag, ""))

    def with_number(self, order_id: str) -> Task | None:
        """The task that placed the order with this number."""
        return self._tasks.get(self._by_number.get(order_id, ""))

    def changes_of(self, order_id: str) -> list[tuple[Task, str]]:
        """The changes and cancellations of an order that are not at their end, by their tags.

        A book of thousands is asked for each of its rows: hence no search.
        """
        return [(task, tag) for tag, task in self._changing.get(order_id, {}).items()]

    def add(self, task: Task) -> Task:
        """Take a task in; gives the one that is there when it is known already."""
        known = self._tasks.get(task.task_id)
        if known is not None:
            return known
        self._tasks[task.task_id] = task
        self.note(task)
        if isinstance(task.command, PlaceOrder):
            self._recent[task.task_id] = recent_of(task.command, task.accepted_at_ns)
            while len(self._recent) > RECENT_KEPT:
                del self._recent[next(iter(self._recent))]
        return task

    def note(self, task: Task) -> None:
        """See what a change has made of a task."""
        for intent in task.intents:
            self._by_tag[intent.tag] = task.task_id
            if intent.order_id is None:
                continue
            if intent.verb is Verb.PLACE:
                self._by_number[intent.order_id] = task.task_id
            else:
                self._note_change(task, intent)
        if not task.is_settled or any(not intent.is_settled for intent in task.intents):
            self._open[task.task_id] = task
            self._settled.pop(task.task_id, None)
            return
        self._open.pop(task.task_id, None)
        self._settled[task.task_id] = None
        while len(self._settled) > SETTLED_KEPT:
            self._forget(next(iter(self._settled)))

    def _note_change(self, task: Task, intent: Intent) -> None:
        if intent.order_id is None:
            return
        if not intent.is_settled:
            self._changing.setdefault(intent.order_id, {})[intent.tag] = task
        elif (changes := self._changing.get(intent.order_id)) is not None:
            changes.pop(intent.tag, None)
            if not changes:
                del self._changing[intent.order_id]

    def recent(self, since_ns: int, *, but: str) -> tuple[RecentOrder, ...]:
        """The placements taken since then that may be orders, one excepted."""
        return tuple(
            recent
            for recent in self._recent.values()
            if recent.at_ns >= since_ns and recent.task_id != but and self._counts(recent.task_id)
        )

    def use(self, user: str | None, sent_today: int, *, but: str) -> OrderUse:
        """What is used of the limits of the account, or of a user of it.

        Args:
            user: Whose orders; None for all.
            sent_today: How many of them have left today.
            but: The task that is about to be sent, which does not count.
        """
        unsent = open_orders = 0
        for task in self._open.values():
            command = task.command
            if task.task_id == but or not isinstance(command, PlaceOrder):
                continue
            if user is not None and command.user != user:
                continue
            intents = task.placed()
            open_orders += sum(not intent.is_settled for intent in intents) or (not intents)
            unsent += sum(not intent.attempts and not intent.is_settled for intent in intents) or (
                not intents
            )
        return OrderUse(orders_today=sent_today + unsent, open_orders=open_orders)

    def counts(self) -> dict[str, int]:
        """How many tasks wait to be sent, and how many requests are unknown or absent."""
        waiting = sum(task.is_unsent for task in self._open.values())
        states = [intent.state for _, intent in self.open_intents()]
        return {
            "waiting": waiting,
            "unknown": states.count(OrderState.UNKNOWN) + states.count(OrderState.SENDING),
            "absent": states.count(OrderState.ABSENT),
        }

    def unsent(self) -> int:
        """How many tasks wait to be sent."""
        return sum(task.is_unsent for task in self._open.values())

    def missing(self, keys: Iterable[str]) -> list[str]:
        """Those of these keys that are not known here."""
        return [key for key in keys if key not in self._tasks]

    def _counts(self, task_id: str) -> bool:
        """Whether a task is an order, or may become one."""
        task = self._tasks.get(task_id)
        if task is None:
            return True
        refused = {OrderState.REJECTED, OrderState.FAILED, OrderState.DEAD_LETTER}
        return task.state not in refused

    def _forget(self, task_id: str) -> None:
        self._settled.pop(task_id, None)
        task = self._tasks.pop(task_id, None)
        if task is None:
            return
        for intent in task.intents:
            self._by_tag.pop(intent.tag, None)
            if intent.order_id is not None and intent.verb is Verb.PLACE:
                self._by_number.pop(intent.order_id, None)
