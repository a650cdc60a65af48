"""Brings every tick to the clients that subscribed it, with one write per client and flush."""

import asyncio
import time
from collections.abc import Iterable
from typing import Protocol

from libs.common import logs
from libs.common.contracts.messages import Source
from libs.common.lifecycle import Lifecycle, sleep_unless
from services.gateway import metrics
from services.gateway.domain.flush_wheel import SLOT_MS, FlushWheel
from services.gateway.domain.last_values import LastValues
from services.gateway.domain.outbox import Outbox
from services.gateway.domain.tick_lines import source_of, split_ticks
from services.gateway.domain.ws_frames import batch_frame, tick_frame
from services.gateway.wire import Wire

FLUSH_FRAMES = 64
"""Frames per write: some 50 KB, so that a client that stops reading holds back little."""

_WATCH_INTERVAL_SECONDS = 1.0
_SOURCE_MEMORY_SECONDS = 10.0

log = logs.get_logger(__name__)


class Subscriber(Protocol):
    """A client as the fan-out sees it."""

    @property
    def connection_id(self) -> str:
        """Names the connection in logs."""

    @property
    def outbox(self) -> Outbox:
        """What waits for it."""

    @property
    def wire(self) -> Wire:
        """Its end of the line."""


class Fanout:
    """The hot path: one assignment per tick and subscriber, one write per client and flush.

    Nothing here awaits a client, so none can hold up another: one that does not read keeps the
    newest tick of each of its instruments waiting, and nothing else.

    Attributes:
        last_values: The newest tick of every instrument.
        last_tick_at: Monotonic time of the last tick; None before the first.
    """

    def __init__(
        self, *, flush_interval_ms: float, stall_seconds: float, last_values_max: int
    ) -> None:
        self.last_values = LastValues(last_values_max)
        self.last_tick_at: float | None = None
        self._flush_seconds = flush_interval_ms / 1000
        self._stall_seconds = stall_seconds
        # Token → outboxes by identity (as dicts, two empty ones would be equal); a dict and not a
        # list, so that a client leaving costs the same however many others stay.
        self._subscribers: dict[int, dict[int, Outbox]] = {}
        self._every_tick: dict[Subscriber, None] = {}
        self._wheel: FlushWheel[Subscriber] = FlushWheel()
        self._watched: dict[Wire, str] = {}
        self._flush_timer: asyncio.TimerHandle | None = None
        self._wheel_timer: asyncio.TimerHandle | None = None
        self._wheel_due = 0.0
        self._source_seen_at: dict[Source, float] = {}
        self._subscriptions = 0

    # -- ticks -----------------------------------------------------------------------------------

    def publish(self, payload: bytes) -> None:
        """Take one message of `md.tick.v1`: lines of JSON, each one tick."""
        ticks, bad = split_ticks(payload)
        if bad:
            metrics.BAD_LINES_TOTAL.inc(bad)
        if not ticks:
            return
        put = self.last_values.put
        subscribers_of = self._subscribers.get
        waiting = False
        for token, line in ticks:
            frame = tick_frame(line)
            put(token, frame)
            outboxes = subscribers_of(token)
            if outboxes:
                waiting = True
                for outbox in outboxes.values():
                    outbox[token] = frame
                    outbox.offered += 1
        metrics.TICKS_RECEIVED_TOTAL.inc(len(ticks))
        self.last_tick_at = time.monotonic()
        source = source_of(ticks[-1][1])
        if source is not None:
            self._source_seen_at[source] = self.last_tick_at
        if waiting:
            self._arm_flush()

    def restore(self, lines: Iterable[bytes]) -> None:
        """Take stored last values, at start and after a reconnect.

        Those newer than what is at hand go to the subscribers too: they were missed meanwhile.
        """
        waiting = False
        for token, line in (tick for payload in lines for tick in split_ticks(payload)[0]):
            frame = tick_frame(line)
            if not self.last_values.put_if_newer(token, frame):
                continue
            source = source_of(line)
            if source is not None:
                self._source_seen_at.setdefault(source, float("-inf"))
            for outbox in self._subscribers.get(token, {}).values():
                outbox[token] = frame
                outbox.offered += 1
                waiting = True
        if waiting:
            self._arm_flush()

    def forget(self, tokens: Iterable[int]) -> None:
        """These left or mean other contracts now: nobody who joins is given their last ticks."""
        for token in tokens:
            self.last_values.forget(token)

    @property
    def tick_age_seconds(self) -> float | None:
        """Since the last tick arrived; None before the first."""
        return None if self.last_tick_at is None else time.monotonic() - self.last_tick_at

    @property
    def source(self) -> Source | None:
        """What has been flowing lately, or was stored last; None when unknown or mixed."""
        now = time.monotonic()
        seen = self._source_seen_at
        recent = [s for s, at in seen.items() if now - at < _SOURCE_MEMORY_SECONDS]
        candidates = recent or list(seen)
        return candidates[0] if len(candidates) == 1 else None

    # -- clients ---------------------------------------------------------------------------------

    def join(self, client: Subscriber) -> None:
        """Serve a client, in mode `tick` until told otherwise."""
        self._every_tick[client] = None
        metrics.CONNECTIONS.inc()

    def leave(self, client: Subscriber, tokens: Iterable[int]) -> None:
        """Stop serving a client that had subscribed these."""
        self.unsubscribe(client, tokens)
        self._wheel.leave(client)
        self._every_tick.pop(client, None)
        metrics.CONNECTIONS.dec()

    def send_every_tick(self, client: Subscriber) -> None:
        """Write a client's ticks one message each, within the flush interval."""
        self._wheel.leave(client)
        self._every_tick[client] = None
        self._arm_flush()

    def send_batches(self, client: Subscriber, interval_ms: int) -> None:
        """Write a client's ticks several to a message, once per interval."""
        self._every_tick.pop(client, None)
        self._wheel.join(client, interval_ms)
        if self._wheel_timer is None:
            self._wheel_due = asyncio.get_running_loop().time()
            self._arm_wheel()

    def subscribe(self, client: Subscriber, tokens: Iterable[int], *, snapshot: bool) -> None:
        """Add instruments that the client has not subscribed yet."""
        outbox = client.outbox
        added = 0
        for token in tokens:
            self._subscribers.setdefault(token, {})[id(outbox)] = outbox
            added += 1
            if snapshot and (frame := self.last_values.frames.get(token)) is not None:
                outbox[token] = frame
                outbox.offered += 1
        self._count_subscriptions(added)
        if outbox:
            self._arm_flush()

    def unsubscribe(self, client: Subscriber, tokens: Iterable[int]) -> None:
        """Remove instruments that the client has subscribed."""
        outbox = client.outbox
        removed = 0
        for token in tokens:
            outboxes = self._subscribers[token]
            del outboxes[id(outbox)]
            if not outboxes:
                del self._subscribers[token]
            outbox.forget(token)
            removed += 1
        self._count_subscriptions(-removed)

    def _count_subscriptions(self, change: int) -> None:
        self._subscriptions += change
        metrics.SUBSCRIPTIONS.set(self._subscriptions)

    # -- flushing --------------------------------------------------------------------------------

    def wake(self, client: Subscriber) -> None:
        """The client reads again: flush what waits for it soon."""
        if client.outbox and client in self._every_tick:
            self._arm_flush()

    def _arm_flush(self) -> None:
        if self._flush_timer is None and self._every_tick:
            loop = asyncio.get_running_loop()
            self._flush_timer = loop.call_later(self._flush_seconds, self._flush)

    def _flush(self) -> None:
        self._flush_timer = None
        sent = conflated = written = 0
        for client in self._every_tick:
            outbox = client.outbox
            wire = client.wire
            # A write that the transport cannot pass on pauses the wire, which ends the loop.
            while outbox and wire.is_open and not wire.is_paused:
                frames, replaced = outbox.take(FLUSH_FRAMES)
                data = b"".join(frames)
                wire.write(data)
                sent += len(frames)
                conflated += replaced
                written += len(data)
        _count(sent, conflated, written)

    def _arm_wheel(self) -> None:
        self._wheel_due += SLOT_MS / 1000
        loop = asyncio.get_running_loop()
        self._wheel_timer = loop.call_at(self._wheel_due, self._turn_wheel)

    def _turn_wheel(self) -> None:
        if not len(self._wheel):
            self._wheel_timer = None
            return
        now = asyncio.get_running_loop().time()
        self._flush_batches()
        # A late loop catches up by whole turns of slots, but never for more than a second.
        behind = min(100, int((now - self._wheel_due) * 1000 / SLOT_MS))
        for _ in range(behind):
            self._flush_batches()
        self._wheel_due = max(self._wheel_due + behind * SLOT_MS / 1000, now - SLOT_MS / 1000)
        self._arm_wheel()

    def _flush_batches(self) -> None:
        sent = conflated = written = 0
        for client in self._wheel.advance():
            outbox = client.outbox
            wire = client.wire
            while outbox and wire.is_open and not wire.is_paused:
                frames, replaced = outbox.take(FLUSH_FRAMES)
                data = batch_frame(frames, replaced)
                wire.write(data)
                sent += len(frames)
                conflated += replaced
                written += len(data)
        _count(sent, conflated, written)

    # -- stalled clients -------------------------------------------------------------------------

    def watch(self, wire: Wire, connection_id: str) -> None:
        """Reset this wire should its client stop reading; until `unwatch`."""
        self._watched[wire] = connection_id

    def unwatch(self, wire: Wire) -> None:
        """The wire is gone."""
        self._watched.pop(wire, None)

    async def run(self, life: Lifecycle) -> None:
        """Look after stalled clients until the process stops, then let none hold the stop up."""
        while not await sleep_unless(life.stop, _WATCH_INTERVAL_SECONDS):
            self._reset_stalled(self._stall_seconds)
            metrics.LAST_VALUES.set(len(self.last_values))
            evicted, self.last_values.evicted = self.last_values.evicted, 0
            metrics.LAST_VALUES_EVICTED_TOTAL.inc(evicted)
        for timer in (self._flush_timer, self._wheel_timer):
            if timer is not None:
                timer.cancel()
        self._reset_stalled(0.0)

    def _reset_stalled(self, limit_seconds: float) -> None:
        now = time.monotonic()
        for wire, connection_id in list(self._watched.items()):
            stalled_seconds = wire.stalled_seconds(now)
            if stalled_seconds > limit_seconds:
                metrics.CONNECTIONS_ENDED_TOTAL.labels(reason="stalled").inc()
                log.info(
                    "client.reset", connection=connection_id, stalled_seconds=round(stalled_seconds)
                )
                self.unwatch(wire)
                wire.reset()


def _count(sent: int, conflated: int, written: int) -> None:
    if sent:
        metrics.TICKS_SENT_TOTAL.inc(sent)
        metrics.BYTES_SENT_TOTAL.inc(written)
    if conflated:
        metrics.TICKS_CONFLATED_TOTAL.inc(conflated)
