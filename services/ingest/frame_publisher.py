"""From a received frame to messages on the bus: split by shard, stamp, publish, count."""

import time

import msgspec

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.lease import Lease
from libs.common.contracts import codec, subjects
from libs.common.contracts.messages import AccountPlan, OrderUpdate, Source
from libs.common.kite.frames import FrameError, is_heartbeat, split_by_key
from services.ingest import metrics
from services.ingest.domain.routing import ShardTable

log = logs.get_logger(__name__)


class _TextFrame(msgspec.Struct):
    """A text frame of Kite: `{"type": …, "data": …}`."""

    type: str
    data: msgspec.Raw = msgspec.Raw(b"null")


class FramePublisher:
    """Publishes the frames of one account while its lease is valid.

    Args:
        bus: Where to publish.
        lease: The account's lease; without it nothing leaves, so that a paused process that wakes
            up after a take-over stays silent.
        shards: Number of shards of the deployment.
    """

    def __init__(self, bus: Bus, lease: Lease, *, shards: int) -> None:
        self._bus = bus
        self._lease = lease
        self._shards = shards
        self._account = lease.resource
        self._table = ShardTable.empty()
        self._subjects: dict[int, str] = {}
        self._text_decoder = msgspec.json.Decoder(_TextFrame)
        self.frames_total = 0
        self.packets_total = 0
        self.dropped_total = 0
        self.last_frame_ns: int | None = None
        # Looked up once: a metric's labels cost more than its increment.
        self._last_frame_seconds = metrics.LAST_FRAME_SECONDS.labels(account=self._account)
        self._counters = {
            "frames": metrics.FRAMES_TOTAL.labels(account=self._account),
            "packets": metrics.PACKETS_TOTAL.labels(account=self._account),
            "heartbeats": metrics.HEARTBEATS_TOTAL.labels(account=self._account),
            "unknown": metrics.UNKNOWN_PACKETS_TOTAL.labels(account=self._account),
        }

    def route(self, plan: AccountPlan) -> None:
        """Route by a new plan; frames that are already on their way may still be unknown."""
        self._table = ShardTable.of(plan, self._shards)

    async def binary(self, payload: bytes, *, connection: int, seq: int, source: Source) -> None:
        """Publish one binary frame; a bad one is counted and forgotten, the socket stays."""
        now_ns = time.time_ns()
        self.last_frame_ns = now_ns
        self._last_frame_seconds.set(now_ns / 1e9)
        if is_heartbeat(payload):
            self._counters["heartbeats"].inc()
            return
        self.frames_total += 1
        self._counters["frames"].inc()
        try:
            parts, _, unknown = split_by_key(payload, self._table.tokens, self._table.shards)
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
        headers = {
            codec.HEADER_RECEIVED_AT: str(now_ns),
            codec.HEADER_FRAME_SEQ: str(seq),
            codec.HEADER_CONNECTION: str(connection),
            codec.HEADER_SOURCE: source.value,
        }
        packets = 0
        for shard, part in parts.items():
            if not self._lease.is_valid():
                self._drop("lease_lost")
                continue
            if await self._bus.publish(self._subject(shard), part, headers):
                packets += int.from_bytes(part[:2], "big")
            else:
                self._drop("bus")
        self.packets_total += packets
        self._counters["packets"].inc(packets)

    async def text(self, payload: str, *, connection: int) -> None:
        """Handle one text frame.

        Every connection of an account carries its order updates; only the first forwards them.
        """
        self.last_frame_ns = time.time_ns()
        try:
            frame = self._text_decoder.decode(payload)
        except (msgspec.DecodeError, ValueError):
            metrics.TEXT_FRAMES_TOTAL.labels(account=self._account, type="unreadable").inc()
            log.warning("feed.text_unreadable", account=self._account, size_bytes=len(payload))
            return
        kind = frame.type if frame.type in {"order", "error", "message"} else "other"
        metrics.TEXT_FRAMES_TOTAL.labels(account=self._account, type=kind).inc()
        if kind == "order":
            if connection == 0 and self._lease.is_valid():
                update = OrderUpdate(
                    account=self._account, received_at_ns=time.time_ns(), data=frame.data
                )
                subject = subjects.order_update(self._account)
                if not await self._bus.publish(subject, codec.to_json(update)):
                    self._drop("bus")
            return
        level = log.warning if kind == "error" else log.info
        level(
            f"feed.broker_{kind}",
            account=self._account,
            connection=connection,
            text=bytes(frame.data)[:500].decode("utf-8", "replace"),
        )

    def _subject(self, shard: int) -> str:
        subject = self._subjects.get(shard)
        if subject is None:
            subject = self._subjects[shard] = subjects.frame(shard, self._account)
        return subject

    def _drop(self, reason: str) -> None:
        self.dropped_total += 1
        metrics.DROPPED_FRAMES_TOTAL.labels(account=self._account, reason=reason).inc()
