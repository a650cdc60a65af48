"""Every JetStream stream and key-value bucket of the fleet, as data."""

from typing import Literal

import msgspec

from libs.common.contracts import subjects

MIB = 1024 * 1024


class StreamSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One stream as it should exist on the server.

    Attributes:
        name: The stream's name.
        purpose: Who writes it, who reads it, and why it is kept.
        subjects: What it captures.
        persist_async: Acknowledge before the disk does (one replica only): right for market
            data, where a lost millisecond matters less than a stalled feed.
        max_age_seconds: Messages older than this go.
        max_bytes: The oldest messages go beyond this size.
        max_msgs_per_subject: 1 makes a last-value table; -1 means no limit.
        max_msg_size: In bytes; larger publishes are refused.
        discard: What gives way at a limit, the old messages or the new.
        discard_new_per_subject: With `discard="new"`: refuse a second message of a subject.
        allow_direct: Reads may be served without the stream's leader.
        duplicate_window_seconds: How long message ids are remembered; None for the default.
        replicas: 1 on a single server.
    """

    name: str
    purpose: str
    subjects: tuple[str, ...]
    persist_async: bool = True
    max_age_seconds: float
    max_bytes: int
    max_msgs_per_subject: int = -1
    max_msg_size: int = MIB
    discard: Literal["old", "new"] = "old"
    discard_new_per_subject: bool = False
    allow_direct: bool = True
    duplicate_window_seconds: float | None = None
    replicas: int = 1


class BucketSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One key-value bucket as it should exist on the server.

    Attributes:
        name: The bucket's name; the stream behind it is `KV_<name>`.
        purpose: Who writes it, who reads it.
        history: How many values of a key are kept.
        ttl_seconds: Entries that are not refreshed for so long vanish; None keeps them.
        limit_marker_ttl_seconds: How long the marker of a vanished entry stays, so that watchers
            see the end of a lease.
        max_value_size: In bytes; None for the server's limit.
        replicas: 1 on a single server.
    """

    name: str
    purpose: str
    history: int = 1
    ttl_seconds: float | None = None
    limit_marker_ttl_seconds: float | None = None
    max_value_size: int | None = None
    replicas: int = 1


MD_FRAMES = StreamSpec(
    name="MD_FRAMES",
    purpose="Raw Kite packets by shard: written by ingest, read by the shard's greeks worker, "
    "kept so that a take-over loses nothing.",
    subjects=(f"{subjects.FRAME_PREFIX}.*.*",),
    max_age_seconds=600,
    max_bytes=1024 * MIB,
)
MD_TICKS = StreamSpec(
    name="MD_TICKS",
    purpose="Enriched ticks by underlying: written by greeks, read live by gateways and "
    "subscribers, kept for a short replay.",
    subjects=(subjects.ALL_TICKS,),
    max_age_seconds=300,
    max_bytes=1024 * MIB,
    max_msg_size=4 * MIB,
)
MD_LAST = StreamSpec(
    name="MD_LAST",
    purpose="The newest tick per instrument, refreshed at most once a second: written by greeks, "
    "read by gateways for snapshots.",
    subjects=(subjects.ALL_LAST,),
    max_age_seconds=3 * 86_400,
    max_bytes=1024 * MIB,
    max_msgs_per_subject=1,
)
MD_FORWARDS = StreamSpec(
    name="MD_FORWARDS",
    purpose="The newest forward per expiry: written by greeks, read by control and subscribers.",
    subjects=(subjects.ALL_FORWARDS,),
    max_age_seconds=86_400,
    max_bytes=64 * MIB,
    max_msgs_per_subject=1,
)
MD_BARS = StreamSpec(
    name="MD_BARS",
    purpose="One-second bars of the underlyings: written by greeks, read by subscribers, kept for "
    "an hour so that a chart can begin with the past.",
    subjects=(subjects.ALL_BARS,),
    max_age_seconds=3_600,
    max_bytes=256 * MIB,
)
MD_CHAINS = StreamSpec(
    name="MD_CHAINS",
    purpose="The newest chain and volatility curve per expiry: written by greeks, read by gateways "
    "and subscribers.",
    subjects=(subjects.ALL_CHAINS, subjects.ALL_VOL_CURVES),
    max_age_seconds=86_400,
    max_bytes=256 * MIB,
    max_msgs_per_subject=1,
)
ORDER_COMMANDS = StreamSpec(
    name="ORDER_COMMANDS",
    purpose="What somebody wants done, one message per task: written by gateway or any service, "
    "read by the orders worker that holds the account. The server refuses a second message of a "
    "task for as long as the first is kept.",
    subjects=(subjects.ALL_ORDER_COMMANDS,),
    persist_async=False,
    max_age_seconds=7 * 86_400,
    max_bytes=1024 * MIB,
    max_msgs_per_subject=1,
    max_msg_size=64 * 1024,
    discard="new",
    discard_new_per_subject=True,
    duplicate_window_seconds=86_400,
)
ORDER_EVENTS = StreamSpec(
    name="ORDER_EVENTS",
    purpose="What happened to orders: written by orders, read by gateways and subscribers.",
    subjects=(subjects.ALL_ORDER_EVENTS, subjects.ALL_ORDER_ACCOUNT_EVENTS),
    persist_async=False,
    max_age_seconds=7 * 86_400,
    max_bytes=2048 * MIB,
    duplicate_window_seconds=3_600,
)
ORDER_DEAD = StreamSpec(
    name="ORDER_DEAD",
    purpose="Commands that will not be executed, whole: written by orders, read by the operator.",
    subjects=(subjects.ALL_DEAD_LETTERS,),
    persist_async=False,
    max_age_seconds=30 * 86_400,
    max_bytes=256 * MIB,
    duplicate_window_seconds=86_400,
)
ORDER_ADVISORIES = StreamSpec(
    name="ORDER_ADVISORIES",
    purpose="The server's word that a command was delivered in vain too often: written by the "
    "server, read by orders.",
    subjects=(
        "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.ORDER_COMMANDS.*",
        "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED.ORDER_COMMANDS.*",
    ),
    persist_async=False,
    max_age_seconds=30 * 86_400,
    max_bytes=64 * MIB,
)
ORDER_STREAMS = (ORDER_COMMANDS, ORDER_EVENTS, ORDER_DEAD, ORDER_ADVISORIES)
STREAMS = (MD_FRAMES, MD_TICKS, MD_LAST, MD_FORWARDS, MD_BARS, MD_CHAINS, *ORDER_STREAMS)

LEASES_ACCOUNTS = BucketSpec(
    name="leases_accounts",
    purpose="Which ingest worker holds which account's feed.",
    ttl_seconds=5,
    limit_marker_ttl_seconds=1,
)
LEASES_ORDERS = BucketSpec(
    name="leases_orders",
    purpose="Which orders worker holds which account's orders.",
    ttl_seconds=5,
    limit_marker_ttl_seconds=1,
)
ORDER_CONTROLS = BucketSpec(
    name="order_controls",
    purpose="One OrderControls per account, the kill switch: written by gateway and the command "
    "line, read by orders before every send.",
    history=20,
)
LEASES_SHARDS = BucketSpec(
    name="leases_shards",
    purpose="Which greeks worker owns which shard.",
    ttl_seconds=3,
    limit_marker_ttl_seconds=1,
)
LEASES_CONTROL = BucketSpec(
    name="leases_control",
    purpose="Which control process leads.",
    ttl_seconds=5,
    limit_marker_ttl_seconds=1,
)
PLAN = BucketSpec(
    name="plan",
    purpose="One AccountPlan per account: written by control, read by ingest and gateway.",
    history=5,
)
KITE_SESSIONS = BucketSpec(
    name="kite_sessions",
    purpose="One encrypted KiteSession per account: written by control, read by ingest and orders.",
    history=2,
)
INSTRUMENTS = BucketSpec(
    name="instruments",
    purpose="One InstrumentSet per underlying: written by control, read by greeks and gateway.",
)
CHECKPOINTS = BucketSpec(
    name="checkpoints",
    purpose="How far each shard has been read: written and read by greeks.",
)
STATUS = BucketSpec(
    name="status",
    purpose="What each worker says of itself: written by all, read by gateway and the operator.",
    ttl_seconds=15,
    limit_marker_ttl_seconds=1,
)
ACCOUNTS = BucketSpec(
    name="accounts",
    purpose="One AccountState per account, without secrets: written by control, read by gateway "
    "and the operator.",
)
COVERAGE = BucketSpec(
    name="coverage",
    purpose="One FeedCoverage per account, which instruments do not tick: written by ingest, "
    "read by control and the operator.",
    ttl_seconds=30,
    limit_marker_ttl_seconds=1,
)
BUCKETS = (
    LEASES_ACCOUNTS,
    LEASES_SHARDS,
    LEASES_CONTROL,
    PLAN,
    KITE_SESSIONS,
    INSTRUMENTS,
    CHECKPOINTS,
    STATUS,
    ACCOUNTS,
    COVERAGE,
    LEASES_ORDERS,
    ORDER_CONTROLS,
)
