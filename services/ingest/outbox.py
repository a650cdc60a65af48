"""What waits for NATS: straight through while there is room, else bounded, newest first to stay."""

import asyncio
import time
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

import msgspec

from libs.common.bus.connection import Bus, PublishOutcome
from libs.common.bus.lease import Lease, LeaseEnd
from libs.common.lifecycle import sleep_unless
from services.ingest import metrics
from services.ingest.domain.pressure import PressureGauge

# What may wait inside the client, which sends it whatever becomes of the lease: two snapshots of a
# full connection. The flusher empties it within one turn of the event loop.
CLIENT_ROOM_BYTES: Final = 1024 * 1024
# Order updates are few and precious: never dropped for age, only beyond so many.
MAX_TEXTS: Final = 10_000
_CONGESTED_POLL_SECONDS: Final = 0.002
_AWAY_POLL_SECONDS: Final = 0.02


class Part(NamedTuple):
    """A message of market data.

    Attributes:
        subject: Where it goes.
        payload: A frame of one shard.
        packets: How many packets that has.
    """

    subject: str
    payload: bytes
    packets: int


class _Waiting(msgspec.Struct, frozen=True, gc=False):
    part: Part
    headers: Mapping[str, str]
    received_ns: int


class _Text(NamedTuple):
    subject: str
    payload: bytes


class _Handed(NamedTuple):
    """Packets in the client: in the socket when so many bytes have left it in all."""

    until_bytes: int
    packets: int
    received_ns: int


class Outbox:
    """Publishes what one account receives, while its lease is valid.

    While NATS is away or does not keep up, messages wait here and not in the client: bounded in
    bytes and age, the oldest dropped first and counted by reason. The order of a shard is kept.

    Args:
        bus: The connection.
        lease: Asked before every message.
        gauge: Told what was handed to the socket, and how long that took.
        limit_bytes: Payload bytes of market data that may wait.
        limit_seconds: How long after its reception a frame is still worth sending.
    """

    def __init__(
        self,
        bus: Bus,
        lease: Lease,
        gauge: PressureGauge,
        *,
        limit_bytes: int,
        limit_seconds: float,
    ) -> None:
        self._bus = bus
        self._lease = lease
        self._gauge = gauge
        self._limit_bytes = limit_bytes
        self._limit_ns = int(limit_seconds * 1e9)
        self._frames: deque[_Waiting] = deque()
        self._frame_bytes = 0
        self._texts: deque[_Text] = deque()
        self._handed_texts: deque[tuple[int, _Text]] = deque()
        self._handed: deque[_Handed] = deque()
        self._handed_bytes = 0
        self._subjects: set[str] = set()
        self._work = asyncio.Event()
        self._draining = False
        self._closed = False
        self.packets_total = 0
        self.dropped_total = 0
        account = lease.resource
        self._published = metrics.PACKETS_TOTAL.labels(account=account)
        self._remove = bus.on_disconnect(self._disconnected)

    @property
    def pending_bytes(self) -> int:
        """Waiting for NATS: here, and what the process has in the client."""
        return self._frame_bytes + self._bus.pending_bytes

    async def frames(
        self, parts: Iterable[Part], headers: Mapping[str, str], received_ns: int
    ) -> None:
        """Publish the parts of one received frame, or let them wait; never blocks on NATS.

        Args:
            parts: One per shard.
            headers: Of all of them.
            received_ns: When the frame came, on `time.monotonic_ns`.
        """
        packets = 0
        for part in parts:
            if not self._lease.is_valid() or self._closed:
                self._drop("lease_lost")
            elif self._frames or self._draining or not self._has_room(len(part.payload)):
                self._keep(_Waiting(part, headers, received_ns))
            elif await self._offer(part.subject, part.payload, headers):
                packets += part.packets
        if packets:
            self._note(packets, received_ns)

    async def text(self, subject: str, payload: bytes) -> None:
        """Publish an order update or a broker's message, or let it wait."""
        if not self._lease.is_valid() or self._closed:
            self._drop("lease_lost")
        elif self._texts or self._draining or not self._has_room(len(payload)):
            if len(self._texts) >= MAX_TEXTS:
                self._texts.popleft()
                self._drop("too_many_texts")
            self._texts.append(_Text(subject, payload))
            self._work.set()
        else:
            await self._offer_text(_Text(subject, payload))

    async def run(self, stop: asyncio.Event) -> None:
        """Send what waits and observe what reaches the socket, until `stop` and then `close`."""
        while not stop.is_set():
            await self._work.wait()
            self._work.clear()
            while not stop.is_set():
                await self._drain()
                self._observe()
                if not (self._frames or self._texts or self._handed or self._handed_texts):
                    break
                away = not self._bus.is_connected
                await sleep_unless(stop, _AWAY_POLL_SECONDS if away else _CONGESTED_POLL_SECONDS)

    def close(self) -> None:
        """Drop and count what still waits: the right to publish it is over."""
        if self._closed:
            return
        self._closed = True
        self._remove()
        self._discard("lease_lost")
        if self._lease.end is not LeaseEnd.RELEASED:
            # What is given away is released over the same connection, behind what was published.
            self._take_back()
        self._work.set()

    def _has_room(self, size: int) -> bool:
        bus = self._bus
        pending_bytes = bus.pending_bytes
        # One that is larger than the room goes alone, so that it cannot block the others.
        fits = pending_bytes + size <= CLIENT_ROOM_BYTES or pending_bytes == 0
        return fits and bus.is_connected

    async def _offer(self, subject: str, payload: bytes, headers: Mapping[str, str] | None) -> bool:
        outcome = await self._bus.offer(subject, payload, headers)
        if outcome is not PublishOutcome.SENT:
            self._drop(outcome.value)
            return False
        self._subjects.add(subject)
        self._handed_bytes += len(payload)
        return True

    async def _offer_text(self, text: _Text) -> None:
        if await self._offer(text.subject, text.payload, None):
            self._handed_texts.append((self._handed_bytes, text))
            self._work.set()

    def _note(self, packets: int, received_ns: int) -> None:
        self.packets_total += packets
        self._published.inc(packets)
        self._handed.append(_Handed(self._handed_bytes, packets, received_ns))
        self._work.set()

    def _keep(self, waiting: _Waiting) -> None:
        """Let a message wait; older ones give way."""
        size = len(waiting.part.payload)
        self._forget_old(waiting.received_ns)
        while self._frames and self._frame_bytes + size > self._limit_bytes:
            self._evict("outbox_full")
        if size > self._limit_bytes:
            self._drop("outbox_full")
            return
        self._frames.append(waiting)
        self._frame_bytes += size
        self._work.set()

    async def _drain(self) -> None:
        """Send what waits, oldest first, as far as there is room."""
        if not (self._frames or self._texts):
            return
        # While an offer is awaited nothing may overtake it, though the queue may be empty.
        self._draining = True
        try:
            while (self._frames or self._texts) and self._may_send():
                if self._texts:
                    await self._offer_text(self._texts.popleft())
                    continue
                waiting = self._frames.popleft()
                part = waiting.part
                self._frame_bytes -= len(part.payload)
                if await self._offer(part.subject, part.payload, waiting.headers):
                    self._note(part.packets, waiting.received_ns)
        finally:
            self._draining = False

    def _may_send(self) -> bool:
        """Whether the oldest message may leave now; those that never may are dropped here."""
        if not self._lease.is_valid():
            self._discard("lease_lost")
            return False
        self._forget_old(time.monotonic_ns())
        if self._texts:
            return self._has_room(len(self._texts[0].payload))
        return bool(self._frames) and self._has_room(len(self._frames[0].part.payload))

    def _observe(self) -> None:
        """Tell the gauge what has reached the socket since the last look."""
        left_bytes = self._left_bytes()
        now_ns = time.monotonic_ns()
        while self._handed and self._handed[0].until_bytes <= left_bytes:
            entry = self._handed.popleft()
            self._gauge.published(entry.packets, now_ns - entry.received_ns, now_ns)
        while self._handed_texts and self._handed_texts[0][0] <= left_bytes:
            self._handed_texts.popleft()

    def _left_bytes(self) -> int:
        """How many bytes have left the client for sure.

        All that it holds is taken for ours and for the newest: an entry is observed late rather
        than early.
        """
        return self._handed_bytes - self._bus.pending_bytes

    def _forget_old(self, now_ns: int) -> None:
        while self._frames and now_ns - self._frames[0].received_ns > self._limit_ns:
            self._evict("too_old")

    def _evict(self, reason: str) -> None:
        self._frame_bytes -= len(self._frames.popleft().part.payload)
        self._drop(reason)

    def _discard(self, reason: str) -> None:
        while self._frames:
            self._evict(reason)
        while self._texts:
            self._texts.popleft()
            self._drop(reason)

    def _disconnected(self) -> None:
        """Take back what waits in the client, which would send it later and ask no lease."""
        self._take_back()
        if self._texts:
            self._work.set()

    def _take_back(self) -> None:
        left_bytes = self._left_bytes()
        texts = [text for until_bytes, text in self._handed_texts if until_bytes > left_bytes]
        taken = self._bus.withdraw(self._subjects)
        self._handed.clear()
        self._handed_texts.clear()
        if not self._closed:
            # These are worth a second way: a repetition does no harm, a loss may.
            self._texts.extendleft(reversed(texts))
            taken = max(0, taken - len(texts))
        for _ in range(taken):
            self._drop("disconnected")

    def _drop(self, reason: str) -> None:
        self.dropped_total += 1
        metrics.DROPPED_FRAMES_TOTAL.labels(account=self._lease.resource, reason=reason).inc()
