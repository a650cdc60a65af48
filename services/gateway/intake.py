"""Receives ticks from the bus, live and, after a start or an outage, what was missed."""

import asyncio

from libs.common import logs
from libs.common.bus.connection import Bus, BusMessage
from libs.common.bus.cursor import OrderedCursor, StartPosition, StreamMessage
from libs.common.contracts import streams, subjects
from libs.common.lifecycle import Lifecycle
from services.gateway.fanout import Fanout

log = logs.get_logger(__name__)


class TickIntake:
    """Feeds the fan-out.

    What a takeover between greeks workers repeats is passed on: dropping it by (shard, epoch, seq)
    would need parsing, and `epoch` and `seq` stand in every tick for clients that care.
    """

    def __init__(self, bus: Bus, fanout: Fanout) -> None:
        self._bus = bus
        self._fanout = fanout
        self._again = asyncio.Event()

    async def start(self, life: Lifecycle) -> None:
        """Subscribe first, then read the stored last values, so that no tick falls between."""
        await self._bus.subscribe(subjects.ALL_TICKS, self._received)
        self._bus.on_reconnect(self._note_reconnect)
        self._again.set()
        life.spawn(self._restore_whenever_needed(life.stop), name="last-values")

    def _received(self, message: BusMessage) -> None:
        self._fanout.publish(message.payload)

    async def _note_reconnect(self) -> None:
        self._again.set()

    async def _restore_whenever_needed(self, stop: asyncio.Event) -> None:
        """Read MD_LAST once at the start and once after every reconnect."""
        while not stop.is_set():
            stopped = asyncio.create_task(stop.wait())
            again = asyncio.create_task(self._again.wait())
            try:
                await asyncio.wait((stopped, again), return_when=asyncio.FIRST_COMPLETED)
            finally:
                stopped.cancel()
                again.cancel()
            if stop.is_set():
                return
            self._again.clear()
            await self._restore(stop)

    async def _restore(self, stop: asyncio.Event) -> None:
        done = asyncio.Event()
        # Ends with the process too: the cursor itself waits for as long as the stream is missing.
        ending = asyncio.create_task(stop.wait())
        ending.add_done_callback(lambda _: done.set())
        count = 0

        def take(messages: list[StreamMessage]) -> None:
            nonlocal count
            count += len(messages)
            self._fanout.restore(message.payload for message in messages)

        cursor = OrderedCursor(
            self._bus,
            streams.MD_LAST.name,
            [subjects.ALL_LAST],
            StartPosition.last_per_subject(),
            take,
            on_caught_up=done.set,
        )
        try:
            await cursor.run(done)
        finally:
            ending.cancel()
        log.info("last_values.read", count=count)
