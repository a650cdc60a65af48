"""A stand-in for the orders worker: takes commands, writes the ledger, says what happened."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeAlias

import asyncpg
import msgspec

from libs.common.bus.connection import Bus, BusMessage
from libs.common.bus.durable import Delivery, DurableReader, publish_stored
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.orders import (
    OrderCommand,
    OrderEvent,
    OrderReply,
    OrderRequest,
    OrderState,
    PlaceOrder,
)
from libs.common.domain.order_fingerprint import fingerprint

_DECODER = msgspec.json.Decoder(OrderCommand)
Steps: TypeAlias = Callable[[OrderCommand], tuple[OrderState, ...]]


class OrdersWorker:
    """Walks every command of one account through the states that a test names.

    It decides nothing: no checks, no broker. The rows and messages have the shapes that the real
    one gives them.

    Attributes:
        steps: Gives the states a command goes through; `accepted` comes before them.
        answer: What is answered to requests.
        asked: Requests that came.
    """

    def __init__(self, bus: Bus, database_url: str, account: str) -> None:
        self.account = account
        self.steps: Steps = lambda _: (OrderState.SENDING, OrderState.ACKED, OrderState.OPEN)
        self.answer = OrderReply(result={"done": True})
        self.asked: list[OrderRequest] = []
        self._bus = bus
        self._database_url = database_url
        self._order_ids = iter(range(1, 10_000))

    @asynccontextmanager
    async def running(self) -> AsyncIterator["OrdersWorker"]:
        """Take commands and answer requests until the block ends."""
        stop = asyncio.Event()
        connection = await asyncpg.connect(self._database_url)
        reader = DurableReader(
            self._bus,
            streams.ORDER_COMMANDS.name,
            f"orders-{subjects.escape(self.account)}",
            [subjects.order_commands_of(self.account)],
            lambda delivery: self._take(connection, delivery),
        )
        subscription = await self._bus.subscribe(subjects.rpc_orders_of(self.account), self._answer)
        task = asyncio.create_task(reader.run(stop))
        try:
            yield self
        finally:
            stop.set()
            await task
            await subscription.unsubscribe()
            await connection.close()

    async def _answer(self, message: BusMessage) -> None:
        self.asked.append(codec.from_json(OrderRequest, message.payload))
        await self._bus.publish(message.reply, codec.to_json(self.answer))

    async def _take(self, connection: Any, delivery: Delivery) -> None:
        command: OrderCommand = _DECODER.decode(delivery.payload)
        steps = self.steps(command)
        async with connection.transaction():
            await insert_task(connection, command, sequence=delivery.sequence)
            event = await add_event(connection, command, "accepted", OrderState.PENDING)
        await self._publish(event)
        await delivery.ack_sync()
        order_id = None
        for state in steps:
            if state not in {OrderState.SENDING, OrderState.REJECTED} and order_id is None:
                order_id = f"2611240000{next(self._order_ids):04d}"
            async with connection.transaction():
                await set_intent(connection, command, state, order_id=order_id)
                event = await add_event(connection, command, state.value, state, order_id=order_id)
            await self._publish(event)

    async def _publish(self, event: OrderEvent) -> None:
        await publish_stored(
            self._bus,
            streams.ORDER_EVENTS.name,
            subjects.order_event(event.account, event.task_id),
            codec.to_json(event),
            message_id=f"{event.account}:{event.task_id}:{event.seq}",
        )


async def insert_task(
    connection: Any,
    command: OrderCommand,
    *,
    sequence: int = 1,
    accepted_at: datetime | None = None,
) -> None:
    """Write the row of a task that was taken."""
    fields = msgspec.to_builtins(command)
    await connection.execute(
        "INSERT INTO order_tasks (account, task_id, verb, user_name, command, fingerprint, state, "
        "stream_sequence, created_at, accepted_at) "
        "VALUES ($1, $2, $3, $4, $5, $6, 'pending', $7, $8, $9)",
        command.account,
        command.task_id,
        fields["verb"],
        command.user,
        codec.to_json(command).decode(),
        fingerprint(fields),
        sequence,
        datetime.fromtimestamp(command.created_at_ns / 1e9, UTC),
        accepted_at or datetime.now(UTC),
    )


async def set_intent(
    connection: Any, command: OrderCommand, state: OrderState, *, order_id: str | None = None
) -> None:
    """Write how the one request of a task stands."""
    fields = msgspec.to_builtins(command)
    place = command if isinstance(command, PlaceOrder) else None
    await connection.execute(
        "INSERT INTO order_intents (tag, account, task_id, leg, verb, state, exchange, "
        "tradingsymbol, parameters, quantity, order_id) "
        "VALUES ($1, $2, $3, 0, $4, $5, $6, $7, $8, $9, $10) "
        "ON CONFLICT (tag) DO UPDATE SET state = $5, order_id = coalesce($10, "
        "order_intents.order_id)",
        tag_for(command),
        command.account,
        command.task_id,
        fields["verb"],
        state.value,
        fields.get("exchange"),
        fields.get("tradingsymbol"),
        "{}",
        place.quantity if place else None,
        order_id,
    )


async def add_event(
    connection: Any,
    command: OrderCommand,
    kind: str,
    state: OrderState,
    *,
    order_id: str | None = None,
    evidence: dict[str, Any] | None = None,
) -> OrderEvent:
    """Move a task and write the event that tells it; gives the event."""
    seq = await connection.fetchval(
        "UPDATE order_tasks SET event_count = event_count + 1, state = $3, updated_at = now() "
        "WHERE account = $1 AND task_id = $2 RETURNING event_count",
        command.account,
        command.task_id,
        state.value,
    )
    event = OrderEvent(
        account=command.account,
        task_id=command.task_id,
        seq=seq,
        kind=kind,
        state=state,
        leg=0,
        tag=tag_for(command),
        order_id=order_id,
        evidence=evidence or {},
        at_ns=time.time_ns(),
    )
    await connection.execute(
        "INSERT INTO order_events (account, task_id, seq, kind, state, leg, tag, at, body) "
        "VALUES ($1, $2, $3, $4, $5, 0, $6, now(), $7)",
        event.account,
        event.task_id,
        seq,
        kind,
        state.value,
        event.tag,
        codec.to_json(event).decode(),
    )
    return event


def tag_for(command: OrderCommand) -> str:
    """A tag that no other task of a test has."""
    letters = "".join(c for c in f"{command.account}{command.task_id}" if c.isalnum())
    return f"tf{letters[-18:]}"
