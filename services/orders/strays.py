"""Commands that no account's worker takes: of unknown accounts, or delivered in vain too often."""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Final

import msgspec

from libs.common import logs
from libs.common.bus import api
from libs.common.bus.connection import Bus
from libs.common.bus.durable import Delivery, DurableReader
from libs.common.bus.errors import MESSAGE_NOT_FOUND, BusUnavailableError, RefusedError
from libs.common.contracts import streams, subjects
from libs.common.database import DatabaseUnavailableError
from libs.common.lifecycle import sleep_unless
from services.orders.dead_letters import Undertaker, letter_of
from services.orders.ledger import Ledger

RESOURCE: Final = "*strays"
"""What the lease of this work is called; no account can have this name."""
DURABLE: Final = "orders-strays"
ADVISORY_DURABLE: Final = "orders-advisories"
_RETRY_SECONDS: Final = 1.0

log = logs.get_logger(__name__)


class _Advisory(msgspec.Struct):
    """What is needed of the server's word about a message."""

    stream_seq: int
    consumer: str = ""
    deliveries: int = 0
    reason: str = ""


class Strays:
    """Looks after them, in one process of the fleet.

    Args:
        bus: The connection.
        ledger: Knows which commands were taken after all.
        undertaker: Takes the others.
        accounts: The accounts that exist.
        wait_seconds: How long an account may be unknown before its commands are given up.
    """

    def __init__(
        self,
        bus: Bus,
        ledger: Ledger,
        undertaker: Undertaker,
        accounts: Callable[[], Collection[str]],
        *,
        wait_seconds: float,
    ) -> None:
        self._bus = bus
        self._ledger = ledger
        self._undertaker = undertaker
        self._accounts = accounts
        self._wait_seconds = wait_seconds
        self._stop = asyncio.Event()
        self._started = time.monotonic()

    async def run(self, stop: asyncio.Event) -> None:
        """Look after them until `stop` is set.

        Raises:
            BusClosedError: If the bus is closed for good before that.
        """
        self._stop = stop
        self._started = time.monotonic()
        commands = DurableReader(
            self._bus,
            streams.ORDER_COMMANDS.name,
            DURABLE,
            [subjects.ALL_ORDER_COMMANDS],
            self._take,
            max_ack_pending=1_000,
        )
        advisories = DurableReader(
            self._bus, streams.ORDER_ADVISORIES.name, ADVISORY_DURABLE, [], self._advise
        )
        # Both end by the flag alone; when one fails the other is told.
        failed = asyncio.Event()
        stopping = asyncio.create_task(_either(stop, failed), name="strays-stop")
        halt = asyncio.Event()
        stopping.add_done_callback(lambda _: halt.set())
        readers = [
            asyncio.create_task(reader.run(halt), name="strays-reader")
            for reader in (commands, advisories)
        ]
        for reader in readers:
            reader.add_done_callback(lambda _: failed.set())
        try:
            await asyncio.wait(readers)
        finally:
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)
        for reader in readers:
            reader.result()

    async def _take(self, delivery: Delivery) -> None:
        """Acknowledge what an account's worker takes; wait a while for an unknown account."""
        token, task_token = delivery.subject.split(".")[-2:]
        try:
            account, task_id = subjects.task_of(delivery.subject)
        except ValueError:
            account, task_id = token, task_token
        if account in self._accounts():
            await delivery.ack_sync()
            return
        age_seconds = (time.time_ns() - delivery.timestamp_ns) / 1e9
        # After a start the accounts may not all be known yet, however old the command is.
        left = self._wait_seconds - min(age_seconds, time.monotonic() - self._started)
        if left > 0:
            await delivery.nak(min(left, 5.0))
            return
        if await self._is_taken(account, task_id):
            # Long ago, when the account was known.
            await delivery.ack_sync()
            return
        letter = letter_of(
            account,
            task_id,
            delivery.payload,
            code="unknown_account",
            message=f"nobody has known an account {account} for {self._wait_seconds:g} s: check "
            "its name, or add it, and send the command again with a new key",
            field="account",
        )
        if await self._undertaker.bury(letter, delivery.sequence, self._stop):
            await delivery.ack_sync()
        else:
            await delivery.nak()

    async def _is_taken(self, account: str, task_id: str) -> bool:
        while not self._stop.is_set():
            try:
                return bool(await self._ledger.tasks(account, [task_id]))
            except DatabaseUnavailableError as error:
                log.info("strays.wait", reason=error.reason)
                await sleep_unless(self._stop, _RETRY_SECONDS)
        return False

    async def _advise(self, delivery: Delivery) -> None:
        """The server has given a command up: bury it, unless the ledger has it."""
        try:
            advisory = msgspec.json.decode(delivery.payload, type=_Advisory)
        except msgspec.DecodeError as error:
            log.error("advisory.unreadable", reason=str(error))
            await delivery.ack_sync()
            return
        while not self._stop.is_set():
            try:
                done = await self._bury(advisory)
            except (BusUnavailableError, DatabaseUnavailableError) as error:
                log.info("advisory.waits", reason=str(error))
                await sleep_unless(self._stop, _RETRY_SECONDS)
                continue
            if done:
                await delivery.ack_sync()
            return

    async def _bury(self, advisory: _Advisory) -> bool:
        if advisory.consumer == DURABLE:
            return True  # This reader's own business: the account's worker has a consumer too.
        try:
            found = await api.call(
                self._bus,
                f"STREAM.MSG.GET.{streams.ORDER_COMMANDS.name}",
                {"seq": advisory.stream_seq},
            )
        except RefusedError as error:
            if error.code != MESSAGE_NOT_FOUND:
                raise
            log.error("advisory.command_gone", sequence=advisory.stream_seq)
            return True
        message = found["message"]
        account, task_id = subjects.task_of(message["subject"])
        if await self._ledger.tasks(account, [task_id]):
            return True
        letter = letter_of(
            account,
            task_id,
            msgspec.json.decode(f'"{message["data"]}"', type=bytes),
            code="undeliverable",
            message=f"it was delivered {advisory.deliveries} times and never taken: look for what "
            "ended the processes that tried, and send it again with a new key",
        )
        return await self._undertaker.bury(letter, advisory.stream_seq, self._stop)


async def _either(one: asyncio.Event, other: asyncio.Event) -> None:
    waits = [asyncio.create_task(event.wait()) for event in (one, other)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
