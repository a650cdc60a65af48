"""Takes placements step by step: checked, cut into slices, and sent one slice after the other."""

from collections.abc import Awaitable

from libs.common.contracts.orders import PlaceOrder
from libs.common.kite.orders import OrderBroker
from services.orders.check_desk import CheckDesk
from services.orders.checkpoint import Checkpoint, Step
from services.orders.domain.check_context import CheckedOrder
from services.orders.domain.intent import Intent, Verb, new_intent
from services.orders.errors import OrderRefusedError
from services.orders.send_desk import Pause, SendDesk, unsent
from services.orders.task import Task


class Placements:
    """Places the orders of one account.

    Args:
        desk: Sends them.
        checks: What an order must pass, each time right before something of it leaves.
        checkpoint: See `checkpoint.Step`.
    """

    def __init__(self, *, desk: SendDesk, checks: CheckDesk, checkpoint: Checkpoint) -> None:
        self._desk = desk
        self._checks = checks
        self._checkpoint = checkpoint

    async def step(self, task: Task) -> Pause | None:
        """Take a placement one step further; gives a pause when it cannot go on now.

        Raises:
            StaleTaskError: Another worker has changed the task.
            DatabaseUnavailableError: The process stops and the ledger does not come back.
        """
        command = task.command
        assert isinstance(command, PlaceOrder)  # noqa: S101  # Its lane says so.
        if task.is_withdrawn:
            await self._desk.withdraw(task)
            return None
        self._checkpoint(Step.ACKED_NOT_CHECKED)
        intent = next(iter(unsent(task)), None)
        if intent is not None and (pause := await self._desk.not_due(task, intent)) is not None:
            return pause
        try:
            return await self._check_and_send(task, command, intent)
        except OrderRefusedError as error:
            await self._desk.refuse(task, error)
            return None

    async def _check_and_send(
        self, task: Task, command: PlaceOrder, intent: Intent | None
    ) -> Pause | None:
        checked = self._checks.place(command, await self._checks.context(task))
        legs = _legs(task, checked) if intent is None else [intent]
        hold = self._desk.hold()
        if hold is not None:
            return await self._desk.held(task, legs, hold)
        term = await self._desk.acquire(Verb.PLACE, units=checked.day_units)
        if isinstance(term, Pause):
            return term
        await self._desk.send(
            task, legs, term, _place, on_sent=lambda: self._checks.note_sent(command.user)
        )
        return None


def _place(broker: OrderBroker, intent: Intent) -> Awaitable[str]:
    return broker.place(intent.parameters, intent.tag)


def _legs(task: Task, checked: CheckedOrder) -> list[Intent]:
    return [
        new_intent(
            account=task.account,
            task_id=task.task_id,
            leg=leg,
            verb=Verb.PLACE,
            parameters=parameters,
            quantity=units,
            exchange=parameters["exchange"],
            tradingsymbol=parameters["tradingsymbol"],
            valid_until_ns=task.valid_until_ns,
        )
        for leg, (units, parameters) in enumerate(
            zip(checked.slices, checked.parameters, strict=True)
        )
    ]
