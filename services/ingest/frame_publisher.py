"""From a received frame to messages on the bus: split by shard, stamp, publish, count."""

import time
from typing import Final

import msgspec

from libs.common import logs
from libs.common.contracts import codec, subjects
from libs.common.contracts.messages import AccountPlan, OrderUpdate, Source, UpdateKind
from libs.common.kite.frames import FrameError, is_heartbeat, split_by_key
from services.ingest import metrics
from services.ingest.domain.coverage import Coverage
from services.ingest.domain.pressure import PressureGauge
from services.ingest.domain.repeats import Repeats, digest_of
from services.ingest.domain.routing import ShardTable
from services.ingest.outbox import Outbox, Part

_KINDS: Final = {kind.value: kind for kind in UpdateKind}

log = logs.get_logger(__name__)


class _TextFrame(msgspec.Struct):
    """A text frame of Kite: `{"type": …, "data": …}`."""

    type: str
    data: msgspec.Raw = msgspec.Raw(b"null")


class FramePublisher:
    """Publishes the frames of one account.

    Args:
        account: Whose frames.
        outbox: Where messages go.
        coverage: Told which instruments ticked.
        gauge: Told how many packets should be published.
        shards: Number of shards of the deployment.
    """

    def __init__(
        self,
        account: str,
        outbox: Outbox,
        *,
        coverage: Coverage,
        gauge: PressureGauge,
        shards: int,
    ) -> None:
        self._account = account
        self._outbox = outbox
        self._coverage = coverage
        self._gauge = gauge
        self._shards = shards
        self._table = ShardTable.empty()
        self._subjects: dict[int, str] = {}
        self._text_decoder = msgspec.json.Decoder(_TextFrame)
        self._repeats = Repeats()
        self.frames_total = 0
        self.last_frame_ns: int | None = None
        self.last_packet_ns: int | None = None
        """When packets of the plan came last, on `time.monotonic_ns`."""
        # Looked up once: a metric's labels cost more than its increment.
        self._last_frame_seconds = metrics.LAST_FRAME_SECONDS.labels(account=account)
        self._repeated = metrics.REPEATED_TEXTS_TOTAL.labels(account=account)
        self._counters = {
            "frames": metrics.FRAMES_TOTAL.labels(account=account),
            "heartbeats": metrics.HEARTBEATS_TOTAL.labels(account=account),
            "unknown": metrics.UNKNOWN_PACKETS_TOTAL.labels(account=account),
        }

    def route(self, plan: AccountPlan) -> None:
        """Route by a new plan; frames that are already on their way may still be unknown."""
        self._table = ShardTable.of(plan, self._shards)
        self._coverage.use_tokens(self._table.tokens)

    async def binary(self, payload: bytes, *, connection: int, seq: int, source: Source) -> None:
        """Publish one binary frame; a bad one is counted and forgotten, the socket stays."""
        now_ns = time.time_ns()
        received_ns = time.monotonic_ns()
        self.last_frame_ns = now_ns
        self._last_frame_seconds.set(now_ns / 1e9)
        if is_heartbeat(payload):
            self._counters["heartbeats"].inc()
            return
        self.frames_total += 1
        self._counters["frames"].inc()
        try:
            parts, places, unknown = split_by_key(payload, self._table.tokens, self._table.shards)
        except FrameError as error:
            metrics.BAD_FRAMES_TOTAL.labels(account=self._account, reason=error.reason).inc()
            log.warning(
                "feed.bad_frame",
                account=self._account,
                connection=connection,
                reason=error.reason,
                offset=error.offset,
                size_bytes=len(payload),
            )
            return
        if unknown:
            self._counters["unknown"].inc(unknown)
        if not parts:
            return
        self.last_packet_ns = received_ns
        # Before anything is awaited: the places are those of the table that is in force now.
        self._coverage.saw(places, received_ns)
        self._gauge.received(places.size, received_ns)
        headers = {
            codec.HEADER_RECEIVED_AT: str(now_ns),
            codec.HEADER_FRAME_SEQ: str(seq),
            codec.HEADER_CONNECTION: str(connection),
            codec.HEADER_SOURCE: source.value,
        }
        await self._outbox.frames(
            [
                Part(self._subject(shard), part, part[0] << 8 | part[1])
                for shard, part in parts.items()
            ],
            headers,
            received_ns,
        )

    async def text(self, payload: str, *, connection: int) -> None:
        """Publish an order update, a message or an error, unless another connection was faster."""
        self.last_frame_ns = time.time_ns()
        try:
            frame = self._text_decoder.decode(payload)
            digest = digest_of(frame.type, frame.data)
        except (msgspec.DecodeError, ValueError, RecursionError):
            metrics.TEXT_FRAMES_TOTAL.labels(account=self._account, type="unreadable").inc()
            log.warning("feed.text_unreadable", account=self._account, size_bytes=len(payload))
            return
        kind = _KINDS.get(frame.type)
        metrics.TEXT_FRAMES_TOTAL.labels(account=self._account, type=kind or "other").inc()
        if self._repeats.is_repeat(digest, time.monotonic()):
            self._repeated.inc()
            return
        if kind is not UpdateKind.ORDER:
            level = log.warning if kind is UpdateKind.ERROR else log.info
            level(
                f"feed.broker_{kind or 'other'}",
                account=self._account,
                connection=connection,
                text=bytes(frame.data)[:500].decode("utf-8", "replace"),
            )
        if kind is not None:
            update = OrderUpdate(
                account=self._account,
                kind=kind,
                received_at_ns=self.last_frame_ns,
                data=frame.data,
            )
            await self._outbox.text(subjects.order_update(self._account), codec.to_json(update))

    def _subject(self, shard: int) -> str:
        subject = self._subjects.get(shard)
        if subject is None:
            subject = self._subjects[shard] = subjects.frame(shard, self._account)
        return subject
