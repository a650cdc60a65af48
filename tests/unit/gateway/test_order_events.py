"""Events reach those who wait or watch, and a client that does not read costs only itself."""

import asyncio

import pytest

from libs.common.bus.connection import BusMessage
from libs.common.contracts import codec, subjects
from libs.common.contracts.orders import OrderEvent, OrderState
from services.gateway import metrics
from services.gateway.domain.ws_frames import text_frame
from services.gateway.order_events import WAITING_BYTES_MAX, OrderEvents


class Wire:
    """Keeps what is written; says that so many bytes wait."""

    def __init__(self, waiting: int = 0) -> None:
        self.waiting = waiting
        self.written: list[bytes] = []

    def waiting_bytes(self) -> int:
        """How much waits."""
        return self.waiting

    def write(self, frames: bytes) -> None:
        """Keep it."""
        self.written.append(frames)


class Listener:
    """A client."""

    def __init__(self, waiting: int = 0) -> None:
        self.wire = Wire(waiting)


def message(account="main", task="t", seq=1, state=OrderState.PENDING):
    event = OrderEvent(
        account=account, task_id=task, seq=seq, kind=state.value, state=state, at_ns=seq
    )
    return BusMessage(subjects.order_event(account, task), codec.to_json(event), None, "")


@pytest.fixture
def anyio_backend():
    return "asyncio"


@pytest.fixture
def events():
    return OrderEvents()


async def test_outcome_is_the_newest_event_whatever_the_order_of_arrival(events):
    with events.awaiting("main", "t") as outcome:
        events.take(message(seq=3, state=OrderState.ACKED))
        events.take(message(seq=2, state=OrderState.SENDING))
        events.take(message(task="other", seq=9, state=OrderState.REJECTED))
        events.take(message(account="hedge", seq=9, state=OrderState.REJECTED))
        assert await outcome.settled(5)
        assert outcome.event is not None
        assert outcome.event.seq == 3


@pytest.mark.parametrize("state", [OrderState.UNKNOWN, OrderState.RETRYING, OrderState.SENDING])
async def test_what_is_no_outcome_settles_nothing(events, state):
    with events.awaiting("main", "t") as outcome:
        events.take(message(state=state))
        assert not await outcome.settled(0.01)


async def test_several_wait_for_one_task_and_one_may_leave(events):
    with events.awaiting("main", "t") as first:
        with events.awaiting("main", "t"):
            pass
        waiting = asyncio.create_task(first.settled(30))
        events.take(message(state=OrderState.OPEN))
        assert await waiting
    events.take(message(state=OrderState.OPEN))  # Nobody waits: nothing happens.


def test_broken_messages_harm_nobody(events):
    listener = Listener()
    events.subscribe(listener, {"main"})
    events.take(BusMessage("order", b"", None, ""))
    events.take(BusMessage("order.event.v1.a_.t", b"", None, ""))
    with events.awaiting("main", "t") as outcome:
        events.take(BusMessage(subjects.order_event("main", "t"), b"{}", None, ""))
        assert outcome.event is None


def test_client_gets_each_event_once_and_byte_for_byte(events):
    both, one, other = Listener(), Listener(), Listener()
    events.subscribe(both, {"*", "main"})
    events.subscribe(one, {"main"})
    events.subscribe(other, {"hedge"})
    told = message()
    events.take(told)
    frame = text_frame(b'{"type":"order","data":' + told.payload + b"}")
    assert both.wire.written == [frame]
    assert one.wire.written == [frame]
    assert other.wire.written == []
    events.unsubscribe(both, {"*"})
    events.unsubscribe(one, {"main", "hedge"})
    events.take(told)
    assert len(both.wire.written) == 2
    assert len(one.wire.written) == 1


def test_client_that_does_not_read_loses_events_and_that_is_counted(events):
    slow, quick = Listener(WAITING_BYTES_MAX), Listener()
    events.subscribe(slow, {"main"})
    events.subscribe(quick, {"main"})
    before = metrics.ORDER_EVENTS_DROPPED_TOTAL._value.get()
    events.take(message())
    assert slow.wire.written == []
    assert len(quick.wire.written) == 1
    assert metrics.ORDER_EVENTS_DROPPED_TOTAL._value.get() == before + 1


async def test_stopping_ends_every_wait_now_and_from_now_on(events):
    with events.awaiting("main", "t") as outcome:
        waiting = asyncio.create_task(outcome.settled(30))
        await asyncio.sleep(0)
        events.end_waits()
        assert not await waiting
    with events.awaiting("main", "u") as late:
        assert not await late.settled(30)
