"""Serves one leased shard: reads its frames, publishes its ticks, saves how far it came."""

import asyncio
import time
from collections.abc import Sequence
from itertools import islice
from typing import Final

import numpy as np

from libs.common import logs
from libs.common.bus import api
from libs.common.bus.connection import Bus
from libs.common.bus.cursor import OrderedCursor, StartPosition, StreamMessage
from libs.common.bus.errors import MESSAGE_NOT_FOUND, BusClosedError, RefusedError
from libs.common.bus.kv import Bucket
from libs.common.bus.lease import Lease, LeaseEnd
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import Checkpoint, InstrumentSet, Source
from libs.common.errors import RetryableError
from libs.common.lifecycle import Lifecycle, sleep_unless
from services.greeks import metrics
from services.greeks.domain.budget import Allowance, Courtesy, SharedBudget
from services.greeks.domain.chains import CHAIN_PHASES
from services.greeks.domain.last_values import PHASES
from services.greeks.domain.shard import Frame, Shard, Tally
from services.greeks.errors import FrameHeaderError
from services.greeks.repricer import Repricer
from services.greeks.settings import GreeksSettings
from services.greeks.turns import Turns, pieces, spaced

_NS_PER_SECOND: Final = 1_000_000_000
_RETRY_SECONDS: Final = 0.2
PRESSED_SHARE: Final = 0.2
"""Frames that waited for so much of the time after which they are conflated go before all else."""
PATIENCE: Final = 10
"""Turns in a row that chains and last values leave to waiting frames."""
TOGETHER: Final = 200
"""Last values that leave before frames have their turn again: about half a millisecond."""
FORWARDS_TOGETHER: Final = 24
"""Forwards that are made before frames have their turn again: a millisecond at most."""
MAX_HELD_BYTES: Final = 32 * 1024 * 1024
"""Of a backlog so much is collected at most before it is worked."""
_SOURCES: Final = frozenset(source.value for source in Source)

log = logs.get_logger(__name__)


class ShardWorker:
    """The work of one lease term.

    Args:
        bus: The connection.
        lease: Asked before every publish.
        state: The shard's market.
        settings: Intervals and limits.
        life: Owns the tasks.
        reprices: What the process may price anew.
        last_values: What the process may write of last values.
        turns: Whose turn it is beside frames, in the whole process.

    Attributes:
        shard: Number of the shard.
        state: The shard's market.
        totals: Counts since the term began.
        lag_frames: Frames waiting in the stream, as last reported.
    """

    def __init__(
        self,
        bus: Bus,
        lease: Lease,
        state: Shard,
        settings: GreeksSettings,
        life: Lifecycle,
        *,
        reprices: SharedBudget,
        last_values: SharedBudget,
        turns: Turns,
    ) -> None:
        self.shard = int(lease.resource)
        self.state = state
        self.totals = Tally()
        self.lag_frames = 0
        self._bus = bus
        self._lease = lease
        self._settings = settings
        self._life = life
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._checkpoints = Bucket(bus, streams.CHECKPOINTS.name)
        self._is_reading = False
        self._is_rebuilt = False
        # Frames up to here were published by an earlier owner: they only rebuild the state.
        self._published_until = 0
        self._worked_until = 0
        self._saved = 0
        self._is_pressed = False
        self._chains_give_way = Courtesy(PATIENCE)
        self._last_values_give_way = Courtesy(PATIENCE)
        self._last_value_budget = last_values
        self._turns = turns
        self._last_value_allowance = Allowance()
        # Fetched and not worked yet, while behind.
        self._held: list[StreamMessage] = []
        self._held_bytes = 0
        self._held_since = 0.0
        self._forward_due_at = np.zeros(0)
        # Two tasks publish bars; a version must not overtake the one before it.
        self._bar_order = asyncio.Lock()
        # Frames and re-pricing take turns at the state.
        self._order = asyncio.Lock()
        self._repricer = Repricer(
            self.shard,
            state,
            reprices,
            publish=self._publish,
            may_publish=lambda: bus.is_connected and lease.is_valid(),
            order=self._order,
            turns=turns,
        )

    @property
    def is_reading(self) -> bool:
        """Whether frames are read."""
        return self._is_reading

    @property
    def knows_market(self) -> bool:
        """Whether what is asked of the shard can be answered: it is owned, read and rebuilt."""
        return self._is_reading and self._is_rebuilt and self._lease.is_valid()

    def use_instruments(self, update: InstrumentSet) -> None:
        """Take a new set of one of the shard's underlyings."""
        undated = self.state.table.undated
        self.state.use_instruments(update)
        if self.state.table.undated > undated:
            log.warning(
                "instruments.undated",
                underlying=update.underlying,
                count=self.state.table.undated - undated,
            )

    def start(self) -> None:
        """Begin to work; returns at once."""
        self._tasks = [
            self._life.spawn(self._read(), name="shard-read", may_end=True),
            self._life.spawn(self._refresh(), name="shard-refresh", may_end=True),
            self._life.spawn(self._show_chains(), name="shard-chains", may_end=True),
            self._life.spawn(self._save(), name="shard-save", may_end=True),
        ]
        if self._settings.reprice_interval_seconds:
            run = self._repricer.run(self._stop)
            self._tasks.append(self._life.spawn(run, name="shard-reprice", may_end=True))

    async def end(self) -> None:
        """Stop, and on a hand-over save how far the shard was read."""
        self._stop.set()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._last_value_budget.leave(self.shard)
        if self._lease.end is LeaseEnd.RELEASED:
            # Nobody else can have the shard before this returns.
            await self._save_once()

    # -- reading -------------------------------------------------------------------------------

    async def _read(self) -> None:
        start = await self._start()
        if start is None:
            return
        cursor = OrderedCursor(
            self._bus,
            streams.MD_FRAMES.name,
            [subjects.frames_of_shard(self.shard)],
            start,
            self._on_batch,
            batch=self._settings.batch_frames,
        )
        self._is_reading = True
        try:
            await cursor.run(self._stop)
        finally:
            self._is_reading = False

    async def _start(self) -> StartPosition | None:
        """Where to begin, once NATS tells; None if stopped before that."""
        while not self._stop.is_set():
            try:
                return await self._find_start()
            except RetryableError as error:
                log.info("shard.start_waits", shard=self.shard, reason=str(error))
            except RefusedError as error:
                # The stream is missing; provisioning brings it with the reconnect.
                log.warning("shard.start_waits", shard=self.shard, reason=str(error))
            await sleep_unless(self._stop, _RETRY_SECONDS)
        return None

    async def _find_start(self) -> StartPosition:
        settings = self._settings
        entry = await self._checkpoints.get(str(self.shard))
        checkpoint: Checkpoint | None = None
        if entry is not None:
            try:
                checkpoint = codec.from_json(Checkpoint, entry.value)
            except codec.DecodeError as error:
                log.error("checkpoint.unreadable", shard=self.shard, reason=error.reason)
        if checkpoint is None:
            first = await self._sequence_since(settings.first_start_seconds)
            log.info("shard.starts", shard=self.shard, checkpoint=None, sequence=first)
            self._is_rebuilt = True
            return StartPosition.new() if first is None else StartPosition.at_sequence(first)
        info = await api.call(self._bus, f"STREAM.INFO.{streams.MD_FRAMES.name}")
        # A server that was killed has forgotten its newest messages and gives their numbers away
        # again; what it will store from now on was never worked on.
        until = min(checkpoint.sequence, int(info["state"]["last_seq"]))
        first = await self._sequence_since(settings.rebuild_seconds)
        sequence = until + 1 if first is None else min(until + 1, first)
        self._published_until = self._worked_until = self._saved = until
        self._is_rebuilt = sequence > until
        log.info(
            "shard.starts",
            shard=self.shard,
            checkpoint=checkpoint.sequence,
            checkpoint_epoch=checkpoint.epoch,
            sequence=sequence,
        )
        return StartPosition.at_sequence(sequence)

    async def _sequence_since(self, seconds: float) -> int | None:
        """Sequence of the shard's oldest frame of the last so many seconds; None if there is none.

        A frame that is stored meanwhile may be missed by a caller who starts at new; it is as
        new as the lease.
        """
        since_ns = time.time_ns() - int(seconds * _NS_PER_SECOND)
        try:
            found = await api.call(
                self._bus,
                f"STREAM.MSG.GET.{streams.MD_FRAMES.name}",
                {
                    "next_by_subj": subjects.frames_of_shard(self.shard),
                    "start_time": api.rfc3339_of(since_ns),
                },
            )
        except RefusedError as error:
            if error.code == MESSAGE_NOT_FOUND:
                return None
            raise
        return int(found["message"]["seq"])

    async def _on_batch(self, messages: list[StreamMessage]) -> None:
        started = time.perf_counter()
        if not self._lease.is_valid():
            return
        pending = self.lag_frames = messages[-1].pending
        batch = self._backlog(messages)
        old = [m for m in batch if m.sequence <= self._published_until]
        if old:
            await self._work(old, conflate=True, publish=False)
            self.state.owe()
        new = batch[len(old) :]
        age_seconds = _age_seconds(new[0]) if new else 0.0
        behind = age_seconds > self._settings.conflate_after_seconds
        if new and not await self._work(new, conflate=behind, publish=True):
            return  # Not a step further: the next owner repeats the batch.
        if new or not pending or (batch and batch[-1].sequence >= self._published_until):
            self._is_rebuilt = True
        if new:
            self._published_until = 0
            # Not the greater of the two: a server that lost its newest messages counts from lower.
            self._worked_until = new[-1].sequence
        # With nothing waiting, neither the age of this batch nor a rebuild matters any more.
        limit_seconds = PRESSED_SHARE * self._settings.conflate_after_seconds
        self._is_pressed = pending > 0 and (not batch or age_seconds > limit_seconds)
        self._repricer.is_paused = pending > 0 and (
            self._is_pressed or not new or pending >= self._settings.batch_frames
        )
        if batch:
            metrics.BATCH_SECONDS.observe(time.perf_counter() - started)
        # One shard's backlog must not keep the leases and the other shards waiting.
        await asyncio.sleep(0)

    def _backlog(self, messages: list[StreamMessage]) -> list[StreamMessage]:
        """What to work now: all that was fetched, or nothing while a backlog is still coming in.

        A fetch that holds no instrument twice leaves nothing out, however far behind it is; so
        what waits is collected first, for as long and as much as the bounds allow.
        """
        held = self._held
        held += messages
        now_seconds = time.monotonic()
        if len(held) == len(messages):
            self._held_since = now_seconds
        self._held_bytes += sum(len(m.payload) for m in messages)
        if (
            messages[-1].pending
            and self._held_bytes < MAX_HELD_BYTES
            and now_seconds - self._held_since < self._settings.conflate_after_seconds
            and _age_seconds(held[0]) > self._settings.conflate_after_seconds
        ):
            return []
        self._held, self._held_bytes = [], 0
        return held

    async def _work(
        self, messages: Sequence[StreamMessage], *, conflate: bool, publish: bool
    ) -> bool:
        """Work one batch; False if the lease ended before all of it was published."""
        tally = Tally()
        frames = []
        for message in messages:
            try:
                frames.append(_frame_of(message))
            except FrameHeaderError as error:
                metrics.BAD_FRAMES_TOTAL.labels(reason="header").inc()
                log.warning("frame.rejected", shard=self.shard, reason=str(error))
        if not frames:
            return True
        async with self._order:
            for ticks in self.state.work(frames, conflate=conflate, tally=tally):
                # Without publishing, the newest values still become last values: the owner before
                # may have left before it wrote them.
                if publish:
                    await self._publish(ticks.subject, ticks.payload)
        if publish:
            # Before the checkpoint moves on: the next owner takes these bars for published.
            await self._publish_bars()
            age_seconds = (time.time_ns() - frames[0].received_ns) / _NS_PER_SECOND
            metrics.TICK_AGE_SECONDS.observe(max(0.0, age_seconds))
            self._count(tally)
        else:
            self.state.bars.discard()
        return self._lease.is_valid()

    async def _publish(self, subject: str, payload: bytes) -> bool:
        if not self._lease.is_valid():
            metrics.UNSENT_TOTAL.labels(reason="lease").inc()
            return False
        if not await self._bus.publish(subject, payload):
            metrics.UNSENT_TOTAL.labels(reason="bus").inc()
            return False
        return True

    async def _publish_all(self, messages: Sequence[tuple[str, bytes]]) -> int:
        """Publish small messages together; says how many were sent."""
        if not self._lease.is_valid():
            metrics.UNSENT_TOTAL.labels(reason="lease").inc(len(messages))
            return 0
        sent = await self._bus.publish_all(messages)
        if sent < len(messages):
            metrics.UNSENT_TOTAL.labels(reason="bus").inc(len(messages) - sent)
        return sent

    def _count(self, tally: Tally) -> None:
        totals = self.totals
        totals.ticks += tally.ticks
        totals.conflated += tally.conflated
        metrics.CONFLATED_TOTAL.inc(tally.conflated)
        metrics.UNKNOWN_TOKENS_TOTAL.inc(tally.unknown)
        priced = 0
        for status, count in tally.statuses.items():
            metrics.TICKS_TOTAL.labels(status=status).inc(count)
            priced += count
        metrics.TICKS_TOTAL.labels(status="none").inc(tally.ticks - priced)
        for reason, count in tally.bad_frames.items():
            metrics.BAD_FRAMES_TOTAL.labels(reason=reason).inc(count)
            log.warning("frame.rejected", shard=self.shard, reason=reason, count=count)
        if tally.resets:
            metrics.RESETS_TOTAL.inc(tally.resets)
            log.warning("market.reset", shard=self.shard, count=tally.resets)

    async def _publish_bars(self) -> None:
        """Publish the bars that are ready, oldest first."""
        bars = self.state.bars
        async with self._bar_order:
            while bars.ready:
                subject, bar = bars.ready.popleft()
                if await self._publish(subject, codec.to_json(bar)):
                    metrics.BARS_TOTAL.labels(version="again" if bar.revision else "first").inc()
        tally = bars.take_tally()
        metrics.BAR_LATE_TICKS_TOTAL.labels(outcome="revised").inc(tally.late)
        metrics.BAR_LATE_TICKS_TOTAL.labels(outcome="ignored").inc(tally.too_late)
        metrics.BAR_SECONDS_CUT_TOTAL.inc(tally.cut)

    # -- last values, forwards and overdue bars --------------------------------------------------

    async def _refresh(self) -> None:
        """Write last values, forwards and overdue bars, evenly over the interval."""
        step_seconds = self._settings.last_interval_seconds / PHASES
        loop = asyncio.get_running_loop()
        phase = 0
        due_at = loop.time()
        while not self._stop.is_set():
            # By the clock and not by sleeping: a late turn must not lengthen the interval.
            due_at = max(due_at + step_seconds, loop.time() - step_seconds)
            if await sleep_unless(self._stop, max(0.0, due_at - loop.time())):
                break
            await self._write_last_values(phase, step_seconds)
            await self._publish_forwards(loop.time())
            await self._end_overdue_bars()
            phase += 1

    async def _write_last_values(self, phase: int, seconds: float) -> None:
        values, allowance = self.state.last_values, self._last_value_allowance
        most = allowance.earn(seconds, self._last_value_budget.rate(self.shard, values.waiting))
        gives_way = self._last_values_give_way.gives_way(is_pressed=self._is_pressed)
        if gives_way or not self._lease.is_valid():
            return
        addresses = self.state.table.last_subject
        due = values.take(phase, most)
        more = True
        while more:
            async with self._turns.one():
                piece = [(addresses[slot], line) for slot, line in islice(due, TOGETHER)]
                metrics.LAST_VALUES_TOTAL.inc(await self._publish_all(piece))
            allowance.spend(len(piece))
            more = len(piece) == TOGETHER

    async def _publish_forwards(self, now_seconds: float) -> None:
        touched = self.state.forwards.touched
        if touched.size > self._forward_due_at.size:
            extra = touched.size - self._forward_due_at.size
            self._forward_due_at = np.concatenate((self._forward_due_at, np.zeros(extra)))
        which = np.flatnonzero(touched & (self._forward_due_at <= now_seconds))
        if not which.size or not self._lease.is_valid():
            return
        self._forward_due_at[which] = now_seconds + self._settings.forward_interval_seconds
        for piece in pieces(which, FORWARDS_TOGETHER):
            async with self._turns.one():
                sent = await self._publish_all([*self.state.take_forwards(piece)])
            metrics.FORWARDS_TOTAL.inc(sent)

    async def _end_overdue_bars(self) -> None:
        # While frames wait, what the clock says of their seconds is not what they will say.
        if self.lag_frames or not self._lease.is_valid():
            return
        self.state.bars.end_overdue(time.time_ns())
        await self._publish_bars()

    # -- chains and volatility curves ------------------------------------------------------------

    async def _show_chains(self) -> None:
        """Publish chains and volatility curves, evenly over the interval."""
        step_seconds = self._settings.chain_interval_seconds / CHAIN_PHASES
        if not step_seconds:
            return
        loop = asyncio.get_running_loop()
        phase = 0
        due_at = loop.time()
        while not self._stop.is_set():
            # As with last values: evenly, and a late turn is not made up by two in a row.
            due_at = max(due_at + step_seconds, loop.time())
            if await sleep_unless(self._stop, max(0.0, due_at - loop.time())):
                break
            await self._publish_chains(phase, step_seconds)
            phase += 1

    async def _publish_chains(self, phase: int, seconds: float) -> None:
        state = self.state
        turns = state.chain_turns(phase)
        if not turns or not self._lease.is_valid():
            return
        gives_way = self._chains_give_way.gives_way(is_pressed=self._is_pressed)
        if gives_way or not self._is_rebuilt:
            # Their news is kept for the next turn; before the rebuild they would show the past.
            reason = "behind" if self._is_rebuilt else "rebuild"
            metrics.CHAINS_SKIPPED_TOTAL.labels(reason=reason).inc(sum(t.size for t in turns))
            return
        began = time.monotonic()
        for number, turn in enumerate(turns):
            # Ticks go first: they wait no longer than one group takes.
            if await spaced(number, len(turns), began, seconds, self._stop):
                return
            async with self._turns.one():
                started = time.perf_counter()
                messages = state.take_chains(turn)
                metrics.CHAIN_TURN_SECONDS.observe(time.perf_counter() - started)
                for message in messages:
                    if await self._publish(message.subject, message.payload):
                        metrics.CHAINS_TOTAL.labels(kind=message.kind).inc()
                    else:
                        state.chains.touched[message.expiry_id] = True

    # -- checkpoints -----------------------------------------------------------------------------

    async def _save(self) -> None:
        while not await sleep_unless(self._stop, self._settings.checkpoint_interval_seconds):
            if self._lease.is_valid():
                await self._save_once()

    async def _save_once(self) -> None:
        sequence = self._worked_until
        if sequence == self._saved:
            return
        checkpoint = Checkpoint(shard=self.shard, sequence=sequence, epoch=self._lease.epoch)
        try:
            await self._checkpoints.put(str(self.shard), codec.to_json(checkpoint))
        except (RetryableError, BusClosedError) as error:
            # The next one tells more; until then a take-over repeats more.
            log.info("checkpoint.unsaved", shard=self.shard, reason=str(error))
            return
        self._saved = sequence


def _frame_of(message: StreamMessage) -> Frame:
    """Read the headers of a frame message.

    Raises:
        FrameHeaderError: Its source is not told: synthetic data must never pass for live.
    """
    headers = message.headers or {}
    source = headers.get(codec.HEADER_SOURCE)
    if source not in _SOURCES:
        raise FrameHeaderError(codec.HEADER_SOURCE, source)
    return Frame(message.payload, _received_ns(message), source)


def _age_seconds(message: StreamMessage) -> float:
    """How long a frame has waited."""
    # Not since it was stored alone: a flooded server keeps frames before it stamps them.
    since_ns = min(message.timestamp_ns, _received_ns(message))
    return (time.time_ns() - since_ns) / _NS_PER_SECOND


def _received_ns(message: StreamMessage) -> int:
    """When ingest received a frame, epoch ns; when the server stored it if that is not told."""
    received = (message.headers or {}).get(codec.HEADER_RECEIVED_AT, "")
    return int(received) if received.isdecimal() else message.timestamp_ns
