"""Storing once and reading with acknowledgements, over restarts of a real server."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from libs.common.bus import api
from libs.common.bus.connection import Bus
from libs.common.bus.durable import (
    Delivery,
    DurableReader,
    SubjectTakenError,
    publish_once,
    publish_stored,
)
from libs.common.bus.errors import BusUnavailableError, RefusedError, RequestTimeoutError
from libs.common.bus.provision import ensure
from libs.common.contracts.streams import StreamSpec
from tests.integration.conftest import running, settings_for, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

pytestmark = pytest.mark.integration


def once_spec(name, **changes):
    """A stream that keeps the first message of every subject, as ORDER_COMMANDS does."""
    fields = {
        "name": name,
        "purpose": "test",
        "subjects": (f"{name}.>",),
        "persist_async": False,
        "max_age_seconds": 600,
        "max_bytes": 64 * 1024 * 1024,
        "max_msgs_per_subject": 1,
        "discard": "new",
        "discard_new_per_subject": True,
        "duplicate_window_seconds": 60,
        **changes,
    }
    return StreamSpec(**fields)


class Reader:
    """A durable reader with what it has been given; `settle` decides what becomes of it."""

    def __init__(self, bus, stream, durable="reader", **options) -> None:
        self.seen: list[int] = []
        self.deliveries: list[Delivery] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.settle: Callable[[Delivery], Awaitable[object]] = Delivery.ack_sync
        options = {"ack_wait_seconds": 2.0, "heartbeat_seconds": 0.5, **options}
        self.reader = DurableReader(bus, stream, durable, [], self._take, **options)
        self.run = self.reader.run

    async def _take(self, delivery):
        self.deliveries.append(delivery)
        await self.gate.wait()
        self.seen.append(int(delivery.payload))
        await self.settle(delivery)


async def unsettled(bus, stream, durable="reader"):
    info = await api.call(bus, f"CONSUMER.INFO.{stream}.{durable}")
    return info["num_ack_pending"] + info["num_pending"]


async def until_settled(bus, stream):
    async with asyncio.timeout(30):
        while await unsettled(bus, stream):  # noqa: ASYNC110  # The server has no event for it.
            await asyncio.sleep(0.05)


async def test_second_message_of_a_subject_is_refused_and_the_first_is_shown(shared_bus):
    await ensure(shared_bus, [once_spec("ONCE")])
    first = await publish_once(shared_bus, "ONCE", "ONCE.a.1", b"first")
    with pytest.raises(SubjectTakenError) as caught:
        await publish_once(shared_bus, "ONCE", "ONCE.a.1", b"second")
    assert caught.value.stored == b"first"
    assert caught.value.sequence == first.sequence
    other = await publish_once(shared_bus, "ONCE", "ONCE.a.2", b"second")
    assert other.sequence > first.sequence


async def test_a_subject_stays_taken_after_the_message_was_acknowledged_and_the_server_killed(
    bus, nats_server
):
    await ensure(bus, [once_spec("KEPT")])
    await publish_once(bus, "KEPT", "KEPT.a", b"1")
    reader = Reader(bus, "KEPT")
    async with running(reader.run):
        await until(lambda: reader.seen)
        await until_settled(bus, "KEPT")
    nats_server.kill()
    await until(lambda: not bus.is_connected)
    nats_server.start()
    await until(lambda: bus.is_connected, 30)
    with pytest.raises(SubjectTakenError) as caught:
        await publish_once(bus, "KEPT", "KEPT.a", b"2", timeout_seconds=10)
    assert caught.value.stored == b"1"


async def test_full_stream_says_that_nothing_was_stored(shared_bus):
    await ensure(shared_bus, [once_spec("FULL", max_bytes=4096)])
    for number in range(3):
        await publish_once(shared_bus, "FULL", f"FULL.{number}", bytes(1024))
    with pytest.raises(BusUnavailableError, match="does not store"):
        await publish_once(shared_bus, "FULL", "FULL.last", bytes(1024))


async def test_a_message_above_the_limit_is_refused(shared_bus):
    await ensure(shared_bus, [once_spec("SMALL", max_msg_size=1024)])
    with pytest.raises(RefusedError):
        await publish_once(shared_bus, "SMALL", "SMALL.a", bytes(2048))


async def test_missing_stream_and_lost_connection_store_nothing(bus, nats_server):
    with pytest.raises(BusUnavailableError):
        await publish_once(bus, "NOWHERE", "NOWHERE.a", b"1")
    nats_server.kill()
    await until(lambda: not bus.is_connected)
    with pytest.raises(BusUnavailableError, match="not connected"):
        await publish_once(bus, "NOWHERE", "NOWHERE.a", b"1")
    nats_server.start()


async def test_silence_of_the_server_leaves_open_whether_it_stored(bus, nats_server):
    await ensure(bus, [once_spec("SILENT")])
    nats_server.pause()
    try:
        with pytest.raises(RequestTimeoutError):
            await publish_once(bus, "SILENT", "SILENT.a", b"1", timeout_seconds=0.3)
    finally:
        nats_server.resume()
    await until(lambda: bus.is_connected, 30)
    # Whatever became of the first attempt, its repetition is safe.
    with suppress(SubjectTakenError):
        await publish_once(bus, "SILENT", "SILENT.a", b"1", timeout_seconds=10)
    with pytest.raises(SubjectTakenError) as caught:
        await publish_once(bus, "SILENT", "SILENT.a", b"2", timeout_seconds=10)
    assert caught.value.stored == b"1"


async def test_repetition_of_an_id_is_not_stored_again(shared_bus):
    await ensure(
        shared_bus,
        [once_spec("IDS", max_msgs_per_subject=-1, discard="old", discard_new_per_subject=False)],
    )
    first = await publish_stored(shared_bus, "IDS", "IDS.a", b"1", message_id="a:1")
    again = await publish_stored(shared_bus, "IDS", "IDS.a", b"1", message_id="a:1")
    other = await publish_stored(shared_bus, "IDS", "IDS.a", b"2", message_id="a:2")
    assert (first.is_repetition, again.is_repetition, other.is_repetition) == (False, True, False)
    assert again.sequence == first.sequence


async def test_messages_come_in_order_and_only_until_they_are_acknowledged(shared_bus):
    await ensure(shared_bus, [once_spec("ORDER")])
    for number in range(40):
        await publish_once(shared_bus, "ORDER", f"ORDER.{number}", str(number).encode())
    reader = Reader(shared_bus, "ORDER", batch=7)
    async with running(reader.run):
        await until(lambda: len(reader.seen) == 40, 30)
        await until_settled(shared_bus, "ORDER")
    assert reader.seen == list(range(40))
    assert [d.sequence for d in reader.deliveries] == sorted(d.sequence for d in reader.deliveries)
    successor = Reader(shared_bus, "ORDER")
    async with running(successor.run):
        await publish_once(shared_bus, "ORDER", "ORDER.new", b"40")
        await until(lambda: successor.seen)
    assert successor.seen == [40]


async def test_stopped_reader_gives_back_what_it_has_not_looked_at_in_order(shared_bus):
    await ensure(shared_bus, [once_spec("BACK")])
    for number in range(12):
        await publish_once(shared_bus, "BACK", f"BACK.{number}", str(number).encode())
    # A minute: whoever comes next would wait that long for what is not given back.
    first = Reader(shared_bus, "BACK", ack_wait_seconds=60)
    first.gate.clear()
    async with running(first.run) as stop:
        await until(lambda: first.deliveries)
        stop.set()
        first.gate.set()
    assert first.seen == [0]
    second = Reader(shared_bus, "BACK", ack_wait_seconds=60)
    async with running(second.run):
        await until(lambda: len(second.seen) == 11, 30)
    assert second.seen == list(range(1, 12))


async def test_what_is_left_unsettled_comes_again(shared_bus):
    await ensure(shared_bus, [once_spec("AGAIN")])
    await publish_once(shared_bus, "AGAIN", "AGAIN.a", b"1")

    async def leave(delivery):
        del delivery

    reader = Reader(shared_bus, "AGAIN", ack_wait_seconds=0.2)
    reader.settle = leave
    async with running(reader.run):
        await until(lambda: len(reader.seen) == 3, 30)
        reader.settle = Delivery.ack_sync
        await until_settled(shared_bus, "AGAIN")
    assert [d.deliveries for d in reader.deliveries[:3]] == [1, 2, 3]


async def test_message_given_back_with_a_delay_comes_again(shared_bus):
    await ensure(shared_bus, [once_spec("DELAY")])
    await publish_once(shared_bus, "DELAY", "DELAY.a", b"1")
    reader = Reader(shared_bus, "DELAY", ack_wait_seconds=60)
    reader.settle = lambda delivery: delivery.nak(0.2)
    async with running(reader.run):
        await until(lambda: len(reader.seen) >= 2, 30)
        reader.settle = Delivery.ack_sync
        await until_settled(shared_bus, "DELAY")


async def test_ended_and_exhausted_messages_leave_an_advisory(shared_bus):
    await ensure(
        shared_bus,
        [
            once_spec("SPENT"),
            once_spec(
                "SPENT_ADVISORIES",
                subjects=(
                    "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.SPENT.*",
                    "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.SPENT.*",
                ),
                max_msgs_per_subject=-1,
                discard="old",
                discard_new_per_subject=False,
            ),
        ],
    )
    await publish_once(shared_bus, "SPENT", "SPENT.a", b"1")
    await publish_once(shared_bus, "SPENT", "SPENT.b", b"2")

    async def settle(delivery):
        if delivery.payload == b"1":
            await delivery.term("not readable")

    reader = Reader(shared_bus, "SPENT", ack_wait_seconds=0.2, max_deliveries=2)
    reader.settle = settle
    advisories: list[bytes] = []

    async def note(delivery):
        advisories.append(delivery.payload)
        await delivery.ack_sync()

    watch = DurableReader(shared_bus, "SPENT_ADVISORIES", "watch", [], note)
    async with running(reader.run, watch.run):
        await until(lambda: len(advisories) == 2, 30)
    assert reader.seen.count(1) == 1
    assert reader.seen.count(2) == 2
    assert {b"max_deliver" in a or b"terminated" in a for a in advisories} == {True}


async def test_reading_goes_on_after_the_server_was_killed(bus, nats_server):
    await ensure(bus, [once_spec("KILLED")])
    reader = Reader(bus, "KILLED")
    async with running(reader.run):
        await publish_once(bus, "KILLED", "KILLED.a", b"1")
        await until(lambda: reader.seen == [1])
        nats_server.kill()
        await until(lambda: not bus.is_connected)
        nats_server.start()
        await until(lambda: bus.is_connected, 30)
        await publish_once(bus, "KILLED", "KILLED.b", b"2", timeout_seconds=10)
        await until(lambda: 2 in reader.seen, 30)
        await until_settled(bus, "KILLED")


async def test_reading_goes_on_after_the_consumer_was_deleted(bus):
    await ensure(bus, [once_spec("DELETED")])
    reader = Reader(bus, "DELETED")
    async with running(reader.run):
        await publish_once(bus, "DELETED", "DELETED.a", b"1")
        await until(lambda: reader.seen == [1])
        await api.call(bus, "CONSUMER.DELETE.DELETED.reader")
        await publish_once(bus, "DELETED", "DELETED.b", b"2")
        # A consumer made anew begins at the beginning: nothing is lost, repetitions are borne.
        await until(lambda: 2 in reader.seen, 30)


async def test_reader_waits_for_its_stream(bus):
    reader = Reader(bus, "LATER")
    async with running(reader.run):
        await ensure(bus, [once_spec("LATER")])
        await publish_once(bus, "LATER", "LATER.a", b"1")
        await until(lambda: reader.seen == [1])


async def test_blocked_callback_bounds_what_waits_and_nothing_overtakes(nats_server):
    async with Bus.open(settings_for(nats_server), name="test") as bus:
        await ensure(bus, [once_spec("BLOCK")])
        for number in range(30):
            await publish_once(bus, "BLOCK", f"BLOCK.{number}", str(number).encode())
        reader = Reader(bus, "BLOCK", ack_wait_seconds=1.0, batch=4)
        reader.gate.clear()
        async with running(reader.run):
            await until(lambda: reader.deliveries)
            # Longer than ack_wait: it is not taken for lost, neither is what waits behind it.
            await asyncio.sleep(1.5)
            assert sum(m.reply.startswith("$JS.ACK.") for m in reader.reader._inbox) < 4
            reader.gate.set()
            await until(lambda: set(reader.seen) == set(range(30)), 30)
            await until_settled(bus, "BLOCK")
        assert reader.seen == list(range(30))
        assert {delivery.deliveries for delivery in reader.deliveries} == {1}
