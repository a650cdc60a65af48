"""The ordered cursor over restarts, losses and breaks of a real stream."""

import asyncio
import shutil
from typing import Any

import nats.errors
import nats.js.errors
import pytest

from libs.common.bus import connection, metrics
from libs.common.bus.connection import Bus
from libs.common.bus.cursor import OrderedCursor, StartPosition
from libs.common.bus.errors import BusClosedError, RefusedError
from libs.common.bus.provision import ensure
from libs.common.contracts.streams import StreamSpec
from tests.integration.conftest import running, settings_for, until

pytestmark = pytest.mark.integration


def spec(name, **changes):
    fields: dict[str, Any] = {
        "name": name,
        "purpose": "test",
        "subjects": (f"{name}.>",),
        "max_age_seconds": 600,
        "max_bytes": 64 * 1024 * 1024,
        **changes,
    }
    return StreamSpec(**fields)


async def store(bus, subject, *payloads):
    """Publish and wait until it is stored."""
    for payload in payloads:
        ack = await bus.jetstream.publish(subject, str(payload).encode())
    return ack.seq


class Reader:
    """A cursor with what it has read."""

    def __init__(self, bus, stream, start=None, filters=(), **options) -> None:
        self.messages: list[Any] = []
        self.batches: list[int] = []
        self.busy = False
        self.gate = asyncio.Event()
        self.gate.set()
        self.cursor = OrderedCursor(
            bus, stream, list(filters), start or StartPosition.all(), self._take, **options
        )
        self.run = self.cursor.run

    async def _take(self, batch):
        self.busy = True
        await self.gate.wait()
        self.busy = False
        self.batches.append(len(batch))
        self.messages += batch

    @property
    def values(self):
        """The payloads as numbers."""
        return [int(message.payload) for message in self.messages]


def restarts(stream, cause):
    return metrics.CURSOR_RESTARTS_TOTAL.labels(stream=stream, cause=cause)._value.get()


def gaps(stream, kind):
    return metrics.CURSOR_GAPS_TOTAL.labels(stream=stream, kind=kind)._value.get()


async def test_messages_carry_what_the_stream_knows_of_them(shared_bus):
    await ensure(shared_bus, [spec("CURFIELDS")])
    await shared_bus.jetstream.publish("CURFIELDS.a", b"7", headers={"Source": "sim"})
    await store(shared_bus, "CURFIELDS.b", 8)
    reader = Reader(shared_bus, "CURFIELDS")

    async with running(reader.run):
        await until(lambda: len(reader.messages) == 2)

    first, second = reader.messages
    stored = await shared_bus.jetstream.get_msg("CURFIELDS", seq=1)
    assert (first.subject, first.payload, first.sequence, first.pending) == (
        "CURFIELDS.a",
        b"7",
        1,
        1,
    )
    assert first.headers == {"Source": "sim"}
    assert first.timestamp_ns // 1_000_000 == int(stored.time.timestamp() * 1_000)
    assert (second.headers, second.sequence, second.pending) == (None, 2, 0)
    assert reader.cursor.sequence == 2


async def test_start_positions(shared_bus):
    await ensure(shared_bus, [spec("CURSTART")])
    await store(shared_bus, "CURSTART.a", 1, 2)
    await store(shared_bus, "CURSTART.b", 3, 4)
    everything = Reader(shared_bus, "CURSTART", StartPosition.all())
    newest = Reader(shared_bus, "CURSTART", StartPosition.last_per_subject())
    third = Reader(shared_bus, "CURSTART", StartPosition.at_sequence(3))
    new = Reader(shared_bus, "CURSTART", StartPosition.new())
    readers = [everything, newest, third, new]

    async with running(*(reader.run for reader in readers)):
        for reader in readers:
            await asyncio.wait_for(reader.cursor.caught_up.wait(), 5)
        await store(shared_bus, "CURSTART.a", 5)
        await until(lambda: all(5 in reader.values for reader in readers))

    assert [reader.values for reader in readers] == [
        [1, 2, 3, 4, 5],
        [2, 4, 5],
        [3, 4, 5],
        [5],
    ]


async def test_caught_up_is_told_once_after_the_stored_messages(shared_bus):
    await ensure(shared_bus, [spec("CURWARM")])
    await store(shared_bus, "CURWARM.a", *range(30))
    told: list[Any] = []
    reader: Reader = Reader(
        shared_bus, "CURWARM", batch=10, on_caught_up=lambda: told.append(len(reader.messages))
    )
    empty = Reader(
        shared_bus, "CURWARM", filters=["CURWARM.none"], on_caught_up=lambda: told.append("empty")
    )

    async with running(reader.run, empty.run):
        await until(lambda: len(told) == 2)
        await store(shared_bus, "CURWARM.a", 30)
        await until(lambda: len(reader.messages) == 31)

    assert sorted(told, key=str) == [30, "empty"]
    assert max(reader.batches) <= 10


async def test_several_filters_are_read_as_one_ordered_flow(shared_bus):
    await ensure(shared_bus, [spec("CURFILTER")])
    for number in range(12):
        await store(shared_bus, f"CURFILTER.{number % 3}.x", number)
    reader = Reader(shared_bus, "CURFILTER", filters=["CURFILTER.0.*", "CURFILTER.2.*"])

    async with running(reader.run):
        await until(lambda: len(reader.messages) == 8)

    assert reader.values == [0, 2, 3, 5, 6, 8, 9, 11]


async def test_messages_larger_than_the_byte_bound_still_arrive(shared_bus):
    await ensure(shared_bus, [spec("CURLARGE")])
    for number in range(5):
        await shared_bus.jetstream.publish("CURLARGE.a", str(number).encode().rjust(4_000, b"0"))
    reader = Reader(shared_bus, "CURLARGE", max_bytes=1_000)

    async with running(reader.run):
        await until(lambda: len(reader.messages) == 5)

    assert reader.values == list(range(5))


async def test_byte_bound_keeps_what_waits_in_memory_small(shared_bus):
    await ensure(shared_bus, [spec("CURBOUND")])
    for number in range(100):
        await shared_bus.jetstream.publish("CURBOUND.a", str(number).encode().rjust(4_000, b"0"))
    reader = Reader(shared_bus, "CURBOUND", max_bytes=40_000)

    async with running(reader.run):
        await until(lambda: len(reader.messages) == 100)

    assert reader.values == list(range(100))
    assert max(reader.batches) <= 10


async def test_what_on_batch_raises_ends_the_run(shared_bus):
    await ensure(shared_bus, [spec("CURRAISE")])
    await store(shared_bus, "CURRAISE.a", 1)

    def broken(batch):
        raise LookupError(len(batch))

    cursor = OrderedCursor(shared_bus, "CURRAISE", [], StartPosition.all(), broken)
    with pytest.raises(LookupError):
        await cursor.run(asyncio.Event())
    assert cursor.sequence == 0


async def test_stopped_cursor_leaves_no_consumer_behind(shared_bus):
    await ensure(shared_bus, [spec("CURSTOP")])
    reader = Reader(shared_bus, "CURSTOP")
    async with running(reader.run):
        await asyncio.wait_for(reader.cursor.caught_up.wait(), 5)
        assert len(await shared_bus.jetstream.consumers_info("CURSTOP")) == 1

    await shared_bus.client.flush()
    assert await shared_bus.jetstream.consumers_info("CURSTOP") == []


async def test_filter_that_the_server_refuses_ends_the_run(shared_bus):
    await ensure(shared_bus, [spec("CURREFUSE")])
    reader = Reader(shared_bus, "CURREFUSE", filters=["CURREFUSE.*", "CURREFUSE.a"])

    with pytest.raises(RefusedError, match="overlap"):
        await reader.run(asyncio.Event())


async def test_cursor_waits_for_a_stream_that_appears_later(shared_bus):
    reader = Reader(shared_bus, "CURLATER")
    async with running(reader.run):
        await ensure(shared_bus, [spec("CURLATER")])
        await store(shared_bus, "CURLATER.a", 1)
        await until(lambda: reader.values == [1])


async def test_closed_bus_ends_the_run(shared_nats_server):
    async with Bus.open(settings_for(shared_nats_server), name="test") as bus:
        await ensure(bus, [spec("CURCLOSED")])
        reader = Reader(bus, "CURCLOSED")
        run = asyncio.create_task(reader.run(asyncio.Event()))
        await asyncio.wait_for(reader.cursor.caught_up.wait(), 5)
        await bus.client.close()

        with pytest.raises(BusClosedError):
            await run


async def test_consumer_that_vanishes_is_made_anew_where_it_stopped(shared_bus):
    await ensure(shared_bus, [spec("CURGONE")])
    reader = Reader(shared_bus, "CURGONE", heartbeat_seconds=0.2)
    async with running(reader.run):
        for number in range(200):
            await store(shared_bus, "CURGONE.a", number)
            if number % 50 == 25:
                await shared_bus.jetstream.delete_consumer("CURGONE", reader.cursor._consumer)
        await until(lambda: len(reader.values) == 200)

    assert reader.values == list(range(200))


async def test_messages_that_aged_out_unread_are_a_counted_gap(shared_bus):
    await ensure(shared_bus, [spec("CURAGED")])
    await store(shared_bus, "CURAGED.a", *range(1, 11))
    await shared_bus.jetstream.purge_stream("CURAGED", seq=8)
    reader = Reader(shared_bus, "CURAGED", StartPosition.at_sequence(4))

    async with running(reader.run):
        await until(lambda: reader.values == [8, 9, 10])

    assert gaps("CURAGED", "evicted") == 1


async def store_surely(bus, subject, number):
    """Publish until the server has acknowledged it; it is stored once."""
    while True:
        try:
            await bus.jetstream.publish(
                subject, str(number).encode(), timeout=0.3, headers={"Nats-Msg-Id": str(number)}
            )
        except (nats.errors.Error, nats.js.errors.Error):
            await asyncio.sleep(0.02)
        else:
            return


async def publish_through(bus, subject, stop):
    """Store 0, 1, 2 ... until stopped; gives how many."""
    number = 0
    while not stop.is_set():
        await store_surely(bus, subject, number)
        number += 1
    return number


async def read_more(reader):
    seen = len(reader.messages)
    await until(lambda: len(reader.messages) > seen + 200)


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_nothing_is_lost_doubled_or_reordered_over_a_restart(nats_server, bus, how):
    await ensure(bus, [spec("CUR", persist_async=False, duplicate_window_seconds=60)])
    async with Bus.open(settings_for(nats_server), name="publisher") as other:
        reader = Reader(bus, "CUR", batch=50)
        stop = asyncio.Event()
        publishing = asyncio.create_task(publish_through(other, "CUR.a", stop))
        async with running(reader.run):
            for round_number in range(2):
                await read_more(reader)
                getattr(nats_server, how)()
                if round_number:
                    await until(lambda: not bus.is_connected)
                nats_server.start()
            await read_more(reader)
            stop.set()
            total = await publishing
            await until(lambda: len(reader.messages) >= total)

    assert reader.values == list(range(total))
    assert [message.sequence for message in reader.messages] == list(range(1, total + 1))
    assert sum(gaps("CUR", kind) for kind in ("replaced", "stepped_back", "evicted")) == 0


async def test_stream_made_anew_is_read_from_its_beginning(nats_server, bus):
    before = gaps("CURNEW", "replaced")
    await ensure(bus, [spec("CURNEW")])
    reader = Reader(bus, "CURNEW")
    async with running(reader.run):
        await store(bus, "CURNEW.a", *range(20))
        await until(lambda: len(reader.messages) == 20)
        nats_server.kill()
        nats_server.wipe()
        nats_server.start()
        await until(lambda: bus.is_connected)
        # Provisioning brings the stream back; more messages than before hide the change of numbers.
        for number in range(100, 130):
            await store_surely(bus, "CURNEW.a", number)
        await until(lambda: len(reader.messages) == 50)

    assert reader.values == [*range(20), *range(100, 130)]
    assert gaps("CURNEW", "replaced") == before + 1


@pytest.mark.parametrize("overtaken", [False, True], ids=["behind", "overtaken"])
async def test_stream_that_forgot_its_last_messages_loses_no_new_one(
    nats_server, bus, tmp_path, overtaken
):
    before = gaps("CURBACK", "stepped_back")
    await ensure(bus, [spec("CURBACK")])
    await store(bus, "CURBACK.a", *range(10))
    nats_server.stop()
    shutil.copytree(nats_server.store, tmp_path / "copy")
    nats_server.start()
    await until(lambda: bus.is_connected)

    reader = Reader(bus, "CURBACK")
    async with running(reader.run), Bus.open(settings_for(nats_server), name="other") as other:
        await store(other, "CURBACK.a", 10, 11, 12)
        await until(lambda: len(reader.messages) == 13)
        if overtaken:  # The cursor is busy until the numbers it knows are given away again.
            reader.gate.clear()
            await store(other, "CURBACK.a", 13)
            await until(lambda: reader.busy)
        # As after a SIGKILL of a stream that acknowledges before it writes: three are gone.
        nats_server.kill()
        nats_server.wipe()
        shutil.copytree(tmp_path / "copy", nats_server.store)
        nats_server.start()
        await until(lambda: not other.client.is_reconnecting and other.is_connected)
        if not overtaken:
            await until(lambda: gaps("CURBACK", "stepped_back") == before + 1)
        new = [20, 21, 22, 23, 24, 25]
        for number in new:
            await store_surely(other, "CURBACK.a", number)
        reader.gate.set()
        await until(lambda: reader.values[-1] == 25)

    seen = [*range(14)] if overtaken else [*range(13)]
    assert reader.values == [*seen, *new]
    assert gaps("CURBACK", "stepped_back") == before + 1


async def test_checkpoint_beyond_the_end_of_the_stream_is_a_gap_and_new_messages_arrive(shared_bus):
    await ensure(shared_bus, [spec("CURBEYOND")])
    await store(shared_bus, "CURBEYOND.a", 1)
    reader = Reader(shared_bus, "CURBEYOND", StartPosition.at_sequence(500))
    async with running(reader.run):
        await until(lambda: gaps("CURBEYOND", "stepped_back") == 1)
        await store(shared_bus, "CURBEYOND.a", 2)
        await until(lambda: reader.values[-1:] == [2])


async def test_reading_goes_on_after_a_frozen_server(nats_server, bus, monkeypatch):
    monkeypatch.setattr(connection, "_PONG_TIMEOUT_SECONDS", 0.5)  # To save time only.
    await ensure(bus, [spec("CURFROZEN")])
    reader = Reader(bus, "CURFROZEN")
    async with running(reader.run):
        await store(bus, "CURFROZEN.a", 1)
        await until(lambda: reader.values == [1])
        nats_server.pause()
        await until(lambda: not bus.is_connected, 15)
        nats_server.resume()
        await until(lambda: bus.is_connected, 15)
        await store(bus, "CURFROZEN.a", 2)
        await until(lambda: reader.values == [1, 2])


def test_sequences_below_one_are_refused():
    with pytest.raises(ValueError, match="start at 1"):
        StartPosition.at_sequence(0)
