"""One request that is answered by several messages."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Self

import nats.errors
from nats.aio.subscription import Subscription

from libs.common.bus import metrics
from libs.common.bus.connection import MIB, Bus, BusMessage
from libs.common.bus.errors import (
    BusUnavailableError,
    NoResponderError,
    RequestTimeoutError,
    translated,
)

if TYPE_CHECKING:
    from nats.aio.msg import Msg

_STATUS = "Status"
_NO_RESPONDER = "503"


@asynccontextmanager
async def request_stream(
    bus: Bus,
    subject: str,
    payload: bytes,
    *,
    is_last: Callable[[BusMessage], bool],
    timeout_seconds: float,
    headers: Mapping[str, str] | None = None,
    pending_bytes_limit: int = 64 * MIB,
) -> AsyncIterator[AsyncIterator[BusMessage]]:
    """Ask whoever serves a subject, and iterate over the answers.

    The subscription behind it ends with the block, however that is left. Answers that nobody has
    taken yet wait up to `pending_bytes_limit`; what comes beyond that is lost and counted as a
    SlowConsumerError of the bus, and so is what is sent while the connection is away: number the
    parts where that matters.

    Args:
        bus: The connection.
        subject: What to ask.
        payload: The request.
        is_last: Says of every answer whether it ends the iteration.
        timeout_seconds: How long to wait for each answer, the first included.
        headers: Of the request.
        pending_bytes_limit: How much may wait.

    Raises:
        NoResponderError: Nobody serves the subject (while iterating).
        RequestTimeoutError: The next answer did not come in time (while iterating).
        BusUnavailableError: The connection is down; nothing was sent.
        BusClosedError: The bus is closed.
    """
    bus.require_open()
    if not bus.is_connected:
        # nats-py would buffer it and send it after the reconnect, when nobody waits any more.
        raise BusUnavailableError("not connected")
    client = bus.client
    # One at a time: the backlog stays with the subscription, which bounds it and counts its drops.
    arrived: asyncio.Queue[Msg] = asyncio.Queue(1)
    inbox = client.new_inbox()
    with translated():
        subscription = await client.subscribe(
            inbox, cb=arrived.put, pending_bytes_limit=pending_bytes_limit
        )
    try:
        with translated():
            await client.publish(
                subject, payload, reply=inbox, headers=dict(headers) if headers else None
            )
        yield _Answers(bus, subject, arrived, is_last, timeout_seconds)
    finally:
        await _end(subscription)


class _Answers:
    """What arrives in the inbox, one after the other, up to the last."""

    def __init__(
        self,
        bus: Bus,
        subject: str,
        arrived: "asyncio.Queue[Msg]",
        is_last: Callable[[BusMessage], bool],
        timeout_seconds: float,
    ) -> None:
        self._bus = bus
        self._subject = subject
        self._arrived = arrived
        self._is_last = is_last
        self._timeout_seconds = timeout_seconds
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> BusMessage:
        if self._over:
            raise StopAsyncIteration
        try:
            # Not next_msg(): on Python 3.11 its wait_for() can swallow a cancellation.
            async with asyncio.timeout(self._timeout_seconds):
                msg = await self._arrived.get()
        except TimeoutError as error:
            self._bus.require_open()
            raise RequestTimeoutError(self._subject, self._timeout_seconds) from error
        if not msg.data and msg.headers and msg.headers.get(_STATUS) == _NO_RESPONDER:
            raise NoResponderError(self._subject)
        answer = BusMessage(msg.subject, msg.data, msg.headers, msg.reply)
        self._over = self._is_last(answer)
        return answer


async def _end(subscription: Subscription) -> None:
    try:
        await subscription.unsubscribe()
    except (nats.errors.Error, OSError) as error:
        # The connection is closed, or breaks right now: the server forgets it all the same.
        metrics.ERRORS_TOTAL.labels(kind=type(error).__name__).inc()
