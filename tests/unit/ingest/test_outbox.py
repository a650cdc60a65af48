"""What waits for NATS is bounded, keeps its order, and never leaves without a lease."""

import asyncio
import time
from collections import defaultdict
from contextlib import asynccontextmanager
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from libs.common.bus.lease import LeaseEnd
from services.ingest import metrics
from services.ingest.domain.pressure import PressureGauge
from services.ingest.outbox import CLIENT_ROOM_BYTES, Outbox, Part
from tests.fakes.outgoing_bus import FakeLease, FakeOutgoingBus


class Rig:
    """An outbox between a fake bus and a fake lease."""

    def __init__(self, *, limit_bytes=1000, limit_seconds=1e6, account="a") -> None:
        self.bus = FakeOutgoingBus()
        self.lease = FakeLease(account)
        self.gauge = PressureGauge(capacity_bytes=limit_bytes)
        self.outbox = Outbox(
            cast("Any", self.bus),
            cast("Any", self.lease),
            self.gauge,
            limit_bytes=limit_bytes,
            limit_seconds=limit_seconds,
        )

    async def put(self, *payloads, shard=0, received_ns=None):
        """Offer frames, one per payload."""
        parts = [Part(f"s.{shard}", payload, 1) for payload in payloads]
        at_ns = time.monotonic_ns() if received_ns is None else received_ns
        await self.outbox.frames(parts, {}, at_ns)

    def dropped(self, reason):
        """How many messages were dropped for a reason."""
        return metrics.DROPPED_FRAMES_TOTAL.labels(
            account=self.lease.resource, reason=reason
        )._value.get()

    async def happen(self, event, value):
        """Let something happen to the bus, or turn the event loop."""
        if event == "turn":
            for _ in range(value):
                await asyncio.sleep(0)
        elif event == "flushes":
            self.bus.flushes = bool(value)
            if value:
                self.bus.flush()
        elif value:
            self.bus.is_connected = True
        else:
            self.bus.disconnect()

    @asynccontextmanager
    async def running(self):
        """Run the outbox."""
        stop = asyncio.Event()
        task = asyncio.create_task(self.outbox.run(stop))
        try:
            yield
        finally:
            stop.set()
            self.outbox.close()
            await task

    async def until(self, condition):
        """Wait for a condition."""
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110  # The outbox has no event for tests.
                await asyncio.sleep(0.001)


async def test_frames_pass_straight_through_while_there_is_room():
    rig = Rig()
    await rig.put(b"one", b"two")
    assert [payload for _, payload in rig.bus.sent] == [b"one", b"two"]
    assert rig.outbox.pending_bytes == 0
    assert rig.outbox.packets_total == 2


async def test_nothing_is_given_to_a_client_that_is_not_connected_and_all_is_sent_in_order_later():
    rig = Rig()
    async with rig.running():
        rig.bus.disconnect()
        for number in range(20):
            await rig.put(b"%d" % number, shard=number % 3)
        await rig.outbox.text("orders", b"update")
        assert rig.bus.held == rig.bus.sent == []
        rig.bus.is_connected = True
        await rig.until(lambda: len(rig.bus.sent) == 21)
    assert rig.bus.sent[0] == ("orders", b"update")
    assert [int(payload) for _, payload in rig.bus.sent[1:]] == list(range(20))


async def test_newest_frames_stay_when_the_bytes_are_used_up():
    rig = Rig(limit_bytes=100, account="bytes")
    rig.bus.disconnect()
    for number in range(25):
        await rig.put(b"%010d" % number)
    assert rig.outbox.pending_bytes == 100
    assert rig.dropped("outbox_full") == 15
    rig.bus.is_connected = True
    async with rig.running():
        await rig.until(lambda: len(rig.bus.sent) == 10)
    assert [int(payload) for _, payload in rig.bus.sent] == list(range(15, 25))


async def test_frame_that_waited_too_long_is_dropped_and_counted():
    rig = Rig(limit_seconds=5, account="age")
    rig.bus.disconnect()
    now_ns = time.monotonic_ns()
    await rig.put(b"old", received_ns=now_ns - 6_000_000_000)
    await rig.put(b"new", received_ns=now_ns)
    rig.bus.is_connected = True
    async with rig.running():
        await rig.until(lambda: rig.bus.sent)
    assert rig.bus.sent == [("s.0", b"new")]
    assert rig.dropped("too_old") == 1


async def test_frames_wait_here_and_not_in_a_client_that_is_congested():
    rig = Rig(limit_bytes=10 * CLIENT_ROOM_BYTES)
    rig.bus.flushes = False
    big = bytes(CLIENT_ROOM_BYTES // 4)
    async with rig.running():
        for _ in range(12):
            await rig.put(big)
        assert rig.bus.pending_bytes <= CLIENT_ROOM_BYTES
        assert rig.outbox.pending_bytes == 12 * len(big)
        rig.bus.flushes = True
        rig.bus.flush()
        await rig.until(lambda: len(rig.bus.sent) == 12)


async def test_message_larger_than_the_room_does_not_block_the_others():
    rig = Rig(limit_bytes=10 * CLIENT_ROOM_BYTES)
    rig.bus.flushes = False
    async with rig.running():
        await rig.put(b"before")
        await rig.put(bytes(CLIENT_ROOM_BYTES + 1))
        await rig.put(b"after")
        assert len(rig.bus.held) == 1
        rig.bus.flushes = True
        rig.bus.flush()
        await rig.until(lambda: len(rig.bus.sent) == 3)
    assert rig.bus.sent[2] == ("s.0", b"after")


async def test_nothing_leaves_without_a_valid_lease_whatever_waits_where():
    rig = Rig(account="lease")
    rig.bus.flushes = False
    await rig.put(b"in the client")
    rig.bus.is_connected = False
    await rig.put(b"in the outbox")
    await rig.outbox.text("orders", b"text")
    rig.lease.valid = False
    rig.lease.end = LeaseEnd.EXPIRED
    await rig.put(b"late")
    rig.outbox.close()
    rig.bus.is_connected = True
    rig.bus.flush()
    assert rig.bus.sent == []
    assert rig.dropped("lease_lost") == 3
    assert rig.dropped("disconnected") == 1


async def test_lease_that_is_given_away_takes_along_what_the_client_holds():
    rig = Rig()
    rig.bus.flushes = False
    await rig.put(b"last")
    rig.lease.valid = False
    rig.lease.end = LeaseEnd.RELEASED
    rig.outbox.close()
    rig.bus.flush()
    assert rig.bus.sent == [("s.0", b"last")]


async def test_what_the_client_holds_when_the_connection_breaks_is_taken_back():
    rig = Rig(account="broken")
    rig.bus.flushes = False
    async with rig.running():
        await rig.put(b"frame")
        await rig.outbox.text("orders", b"update")
        rig.bus.disconnect()
        assert rig.bus.held == []
        assert rig.dropped("disconnected") == 1
        rig.bus.is_connected = rig.bus.flushes = True
        await rig.until(lambda: rig.bus.sent)
    # A frame is outdated by then; an order update is worth a second way.
    assert rig.bus.sent == [("orders", b"update")]


async def test_latency_is_taken_when_the_socket_has_the_frame_and_not_before():
    rig = Rig()
    rig.bus.flushes = False
    async with rig.running():
        await rig.put(b"frame", received_ns=time.monotonic_ns() - 3_000_000_000)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert rig.gauge.read(pending_bytes=0, at_ns=time.monotonic_ns()).frames == 0
        rig.bus.flush()
        await rig.until(
            lambda: rig.gauge.read(pending_bytes=0, at_ns=time.monotonic_ns()).frames == 1
        )
        found = rig.gauge.read(pending_bytes=0, at_ns=time.monotonic_ns())
        assert found.published == 1
        assert found.p95_ms is not None
        assert found.p95_ms >= 3000


class Steps:
    """What may happen to an outbox."""

    each = st.one_of(
        st.tuples(st.just("put"), st.integers(0, 3), st.integers(1, 60)),
        st.tuples(st.just("text"), st.just(0), st.just(0)),
        st.tuples(st.just("connected"), st.booleans(), st.just(0)),
        st.tuples(st.just("flushes"), st.booleans(), st.just(0)),
        st.tuples(st.just("turn"), st.integers(0, 3), st.just(0)),
    )


@given(st.lists(Steps.each, max_size=80))
async def test_every_message_is_sent_once_in_the_order_of_its_shard_or_dropped_and_counted(steps):
    rig = Rig(limit_bytes=200)
    put = texts = 0
    async with rig.running():
        for step, value, size in steps:
            if step == "put":
                await rig.put(b"%04d" % put + bytes(size), shard=value)
                put += 1
            elif step == "text":
                await rig.outbox.text("orders", b"%d" % texts)
                texts += 1
            else:
                await rig.happen(step, value)
            assert rig.outbox.pending_bytes - rig.bus.pending_bytes <= 200
        rig.bus.is_connected = rig.bus.flushes = True
        rig.bus.flush()
        await rig.until(
            lambda: (
                rig.outbox.pending_bytes == 0
                and put + texts == len(rig.bus.sent) + rig.outbox.dropped_total
            )
        )
    order = defaultdict(list)
    for subject, payload in rig.bus.sent:
        number = int(payload) if subject == "orders" else int(payload[:4])
        order[subject].append(number)
    for numbers in order.values():
        assert numbers == sorted(set(numbers))
    assert len(order.pop("orders", [])) == texts
