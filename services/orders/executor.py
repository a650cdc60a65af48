"""Carries out what was taken: in order within an instrument, side by side across instruments."""

import asyncio
from collections.abc import Hashable

from libs.common import logs
from libs.common.bus.tasks import OwnedTasks
from libs.common.contracts.orders import CancelOrder, PlaceOrder
from libs.common.database import DatabaseUnavailableError
from libs.common.lifecycle import changed_or_stopped
from services.orders.changes import Changes
from services.orders.errors import OrderNumberTakenError, StaleTaskError, TaskGoneError
from services.orders.lanes import Lanes
from services.orders.placements import Placements
from services.orders.send_desk import LOOK_SECONDS, Pause, unsent
from services.orders.task import Task

log = logs.get_logger(__name__)


class Executor:
    """Carries out one account's tasks.

    Placements of one instrument leave one after the other, each when the one before has its
    answer, be it that the outcome is unknown. So do changes of one order, and cancellations of
    one. All else runs side by side within the limits.

    Args:
        placements: Takes placements further.
        changes: Takes changes and cancellations further.
        stop: When it is set nothing more is sent; calls under way end.
        failed: Set when something unexpected ended a line.
    """

    def __init__(
        self,
        *,
        placements: Placements,
        changes: Changes,
        stop: asyncio.Event,
        failed: asyncio.Event,
    ) -> None:
        self.tasks = OwnedTasks(failed=failed)
        self._placements = placements
        self._changes = changes
        self._stop = stop
        self._lanes: Lanes[Task] = Lanes(self._carry_out, self.tasks)

    def start(self, task: Task) -> None:
        """Carry a task out when its turn comes; a task that needs nothing more ends by itself."""
        self._lanes.put(_lane_of(task), task)

    async def finish(self, patience_seconds: float) -> None:
        """Wait for the calls under way, after `stop` was set."""
        await self.tasks.finish(patience_seconds=patience_seconds)

    async def _carry_out(self, task: Task) -> None:
        try:
            while not self._stop.is_set() and not task.is_settled:
                if task.intents and not unsent(task):
                    return
                task.changed.clear()
                pause = await self._step(task)
                if pause is not None:
                    seconds = min(max(pause.seconds, 0.0), LOOK_SECONDS)
                    await changed_or_stopped(task.changed, self._stop, seconds)
        except DatabaseUnavailableError as error:
            # Only while stopping. Its row says what may have happened.
            log.warning("order.left", task_id=task.task_id, reason=error.reason)
        except (OrderNumberTakenError, TaskGoneError) as error:
            # Reported where it was found; the reconciler and people have the rest.
            log.error("order.left", task_id=task.task_id, reason=str(error))

    async def _step(self, task: Task) -> Pause | None:
        try:
            if isinstance(task.command, PlaceOrder):
                return await self._placements.step(task)
            return await self._changes.step(task)
        except StaleTaskError:
            return None  # It was read anew.


def _lane_of(task: Task) -> Hashable:
    command = task.command
    if isinstance(command, PlaceOrder):
        return ("place", command.exchange, command.tradingsymbol)
    kind = "cancel" if isinstance(command, CancelOrder) else "modify"
    return (kind, command.order_id or "", command.target_task_id or "")
