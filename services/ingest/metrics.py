"""Metrics of ingest; accounts are a bounded set, instruments are not and never become labels."""

from prometheus_client import Counter, Gauge

FRAMES_TOTAL = Counter("tickfleet_ingest_frames_total", "Binary frames received", ["account"])
HEARTBEATS_TOTAL = Counter("tickfleet_ingest_heartbeats_total", "Kite heartbeats", ["account"])
PACKETS_TOTAL = Counter("tickfleet_ingest_packets_total", "Packets published", ["account"])
# Reasons are those of FrameError. A few after a fault are normal; a steady rate means that the
# wire format changed: compare a frame with the format description.
BAD_FRAMES_TOTAL = Counter(
    "tickfleet_ingest_bad_frames_total", "Frames that are no Kite frames", ["account", "reason"]
)
# Packets of instruments outside the plan: some follow every unsubscribe.
UNKNOWN_PACKETS_TOTAL = Counter(
    "tickfleet_ingest_unknown_packets_total", "Packets outside the plan", ["account"]
)
# Sub-frames that could not be published: NATS is away, slow, or the account's lease was lost.
DROPPED_FRAMES_TOTAL = Counter(
    "tickfleet_ingest_dropped_frames_total", "Sub-frames dropped", ["account", "reason"]
)
TEXT_FRAMES_TOTAL = Counter(
    "tickfleet_ingest_text_frames_total", "Text frames by type", ["account", "type"]
)
# Causes are those of domain.causes.Cause. `silent` means that the watchdog closed a dead socket.
RECONNECTS_TOTAL = Counter(
    "tickfleet_ingest_reconnects_total", "Connections that ended", ["account", "cause"]
)
CONNECTED = Gauge("tickfleet_ingest_connected", "Open connections", ["account"])
SUBSCRIBED_TOKENS = Gauge(
    "tickfleet_ingest_subscribed_tokens", "Instruments asked for", ["account"]
)
# 1 while an account waits for a new session after a 403: control should log it in.
PARKED = Gauge("tickfleet_ingest_parked", "Whether the account waits for a session", ["account"])
LAST_FRAME_SECONDS = Gauge(
    "tickfleet_ingest_last_frame_timestamp_seconds", "When the last frame came", ["account"]
)
