"""Takes changes and cancellations step by step: their order is found, checked, and called about."""

import time
from collections.abc import Awaitable

import msgspec

from libs.common.contracts.orders import CancelOrder
from libs.common.kite.orders import OrderBroker
from services.orders.check_desk import CheckDesk
from services.orders.domain.intent import Intent, Verb, new_intent
from services.orders.errors import OrderRefusedError
from services.orders.send_desk import Pause, SendDesk, unsent
from services.orders.target_orders import Found, Gone, TargetOrders, Waits
from services.orders.task import Task


class Changes:
    """Changes and cancels the orders of one account.

    Args:
        desk: Sends the requests.
        checks: What they must pass.
        targets: Finds the orders that they are about.
    """

    def __init__(self, *, desk: SendDesk, checks: CheckDesk, targets: TargetOrders) -> None:
        self._desk = desk
        self._checks = checks
        self._targets = targets

    async def step(self, task: Task) -> Pause | None:
        """Take a change or a cancellation one step further; gives a pause when it cannot go on.

        Raises:
            StaleTaskError: Another worker has changed the task.
            DatabaseUnavailableError: The process stops and the ledger does not come back.
        """
        intent = self._next(task) if task.intents else None
        try:
            if intent is None:
                return await self._first_step(task)
            return await self._desk.not_due(task, intent) or await self._send(task, intent)
        except OrderRefusedError as error:
            await self._desk.refuse(task, error, only=intent)
            return None

    async def _first_step(self, task: Task) -> Pause | None:
        intents = await self._begin(task)
        if isinstance(intents, Pause):
            return intents
        if len(intents) == 1:
            # The usual case: made and sent in one transaction.
            return await self._send(task, intents[0])
        async with task.lock:
            await self._desk.write(task, intents, checked=False)
        return None

    def _next(self, task: Task) -> Intent:
        """Of several requests, one that waits for its order does not hold up the others."""
        waiting = unsent(task)
        ready = (i for i in waiting if not isinstance(self._targets.of(task, i), Waits))
        return next(ready, waiting[0])

    async def _begin(self, task: Task) -> list[Intent] | Pause:
        """Find out which orders a command is about; gives a request for each.

        Raises:
            OrderRefusedError: There is no order to change.
        """
        until_ns = task.valid_until_ns
        if until_ns is not None and time.time_ns() > until_ns:
            raise OrderRefusedError(
                "expired",
                "it was not sent while it was valid: send it again with a new key if it is still "
                "wanted",
                "valid_until_ns",
            )
        legs = await self._targets.legs(task)
        if isinstance(legs, Waits):
            return Pause(legs.seconds)
        is_cancel = isinstance(task.command, CancelOrder)
        if isinstance(task.command, CancelOrder):
            legs = await self._withdraw(task, task.command, legs)
        return [
            new_intent(
                account=task.account,
                task_id=task.task_id,
                leg=leg,
                verb=Verb.CANCEL if is_cancel else Verb.MODIFY,
                parameters={},
                valid_until_ns=until_ns,
            )
            for leg in legs
        ]

    async def _withdraw(self, task: Task, command: CancelOrder, legs: list[int]) -> list[int]:
        """Stop what of the order has not left; gives the slices that are to be cancelled."""
        target = self._targets.task_of(task)
        if target is None or target.is_settled:
            return legs
        if command.leg is None and (unsent(target) or not target.intents):
            # Seen right before anything leaves, so that a slice whose turn comes now stays here.
            target.is_withdrawn = True
            await self._desk.withdraw(target)
        elif command.leg is not None and target.intents:
            await self._desk.withdraw(target, command.leg)
        left = [leg for leg in legs if not self._targets.is_withdrawn(target, leg)]
        if not left:
            await self._desk.withdrawn_target(task)
        return left

    async def _send(self, task: Task, intent: Intent) -> Pause | None:
        """Send one request, if its order can be changed by now.

        Raises:
            OrderRefusedError: It cannot, and never will.
        """
        found = self._targets.of(task, intent)
        if isinstance(found, Waits):
            async with task.lock:
                await self._desk.write(task, [intent], checked=False)
            return Pause(found.seconds)
        if isinstance(found, Gone):
            raise OrderRefusedError(found.code, found.message)
        prepared = await self._prepared(task, intent, found)
        hold = self._desk.hold()
        if hold is not None:
            return await self._desk.held(task, [prepared], hold)
        term = await self._desk.acquire(intent.verb, order_id=found.target.order_id)
        if isinstance(term, Pause):
            return term
        await self._desk.send(task, [prepared], term, _call)
        return None

    async def _prepared(self, task: Task, intent: Intent, found: Found) -> Intent:
        target = found.target
        context = await self._checks.context(task, target)
        checked = self._checks.change(task.command, target, context)
        return msgspec.structs.replace(
            intent,
            parameters=checked.parameters,
            quantity=checked.quantity,
            order_id=target.order_id,
            exchange=target.exchange or None,
            tradingsymbol=target.tradingsymbol or None,
        )


def _call(broker: OrderBroker, intent: Intent) -> Awaitable[str]:
    """The call of a change or a cancellation, by what was committed of it."""
    given = dict(intent.parameters)
    variety, order_id = given.pop("variety"), given.pop("order_id")
    if intent.verb is Verb.CANCEL:
        return broker.cancel(variety, order_id, given.get("parent_order_id"))
    return broker.modify(variety, order_id, given)
