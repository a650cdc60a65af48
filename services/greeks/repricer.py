"""Prices a shard's options anew when their forward moves, in small turns between the frames."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from libs.common.lifecycle import sleep_unless
from services.greeks import metrics
from services.greeks.domain.budget import Allowance, SharedBudget
from services.greeks.domain.shard import Shard, Tally
from services.greeks.turns import Turns, pieces, spaced

STEP_SECONDS: Final = 0.05
"""How often is looked whether options are due."""
TURN_ROWS: Final = 128
"""Options priced before frames have their turn again: about a millisecond."""

Publish = Callable[[str, bytes], Awaitable[bool]]


class Repricer:
    """The re-pricing of one lease term; frames always come first.

    Args:
        shard: Its number.
        state: Its market.
        budget: What the process may price anew.
        publish: Sends a message unless the lease has ended; False if it was kept back.
        may_publish: Whether there is any use in trying.
        order: Held by whoever moves the state until what came of it is published: the ticks of
            an instrument must leave in the order of their sequence.
        turns: Of the process.

    Attributes:
        is_paused: Whether frames wait, or the shard is not yet rebuilt; what is due stays due.
    """

    def __init__(
        self,
        shard: int,
        state: Shard,
        budget: SharedBudget,
        *,
        publish: Publish,
        may_publish: Callable[[], bool],
        order: asyncio.Lock,
        turns: Turns,
    ) -> None:
        self.is_paused = True
        self._shard = shard
        self._state = state
        self._budget = budget
        self._publish = publish
        self._may_publish = may_publish
        self._order = order
        self._turns = turns
        self._allowance = Allowance()

    async def run(self, stop: asyncio.Event) -> None:
        """Price anew what is due until told to stop."""
        looked_at = time.monotonic()
        try:
            # By the clock and not by sleeping: a step takes nearly as long as the time between two.
            while not await sleep_unless(stop, looked_at + STEP_SECONDS - time.monotonic()):
                now = time.monotonic()
                await self._step(now - looked_at, stop)
                looked_at = now
        finally:
            self._budget.leave(self._shard)

    async def _step(self, seconds: float, stop: asyncio.Event) -> None:
        if not self._has_turn(stop):
            # Whoever cannot use a share leaves it to the others.
            self._allowance.earn(seconds, self._budget.rate(self._shard, 0))
            return
        async with self._turns.one():
            slots = self._state.due()
        most = self._allowance.earn(seconds, self._budget.rate(self._shard, slots.size))
        slots = self._state.by_underlying(slots[:most])
        began = time.monotonic()
        turns = [*pieces(slots, TURN_ROWS)]
        for number, turn in enumerate(turns):
            await spaced(number, len(turns), began, STEP_SECONDS, stop)
            # Frames and leases have their turn in between.
            async with self._turns.one():
                if not self._has_turn(stop):
                    return
                await self._turn(turn)

    def _has_turn(self, stop: asyncio.Event) -> bool:
        # Who holds the order waits amid a batch, with a state ahead of what is published.
        is_free = not (self.is_paused or self._order.locked() or stop.is_set())
        return is_free and self._may_publish()

    async def _turn(self, slots: npt.NDArray[np.int64]) -> None:
        tally = Tally()
        async with self._order:
            for message in self._state.reprice(slots, tally):
                if not await self._publish(message.subject, message.payload):
                    self._state.owe(message.slots)
        count = 0
        for status, priced in tally.repriced.items():
            metrics.REPRICED_TICKS_TOTAL.labels(status=status).inc(priced)
            count += priced
        self._allowance.spend(count)
