"""Metrics of ingest; accounts are a bounded set, instruments are not and never become labels."""

from prometheus_client import Counter, Gauge, Histogram

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
# Requests for candles or quotes (call: history, quote) by outcome: ok, abandoned (the caller left
# before the last part), cancelled (the process stopped), or the code of the error.
# bad_request: a caller's bug; rate_limited: more is asked for than the accounts may ask Kite, add
# accounts or ask less; no_account: log the accounts in; unavailable: Kite or the network.
REQUESTS_TOTAL = Counter(
    "tickfleet_ingest_requests_total", "Requests over the bus by outcome", ["call", "outcome"]
)
REQUEST_SECONDS = Histogram(
    "tickfleet_ingest_request_duration_seconds",
    "From the arrival of a request to its last answer",
    ["call"],
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 60, 120),
)
# Calls to Kite by outcome: ok, bad_request, or a cause of domain.handover.Failure. Many `limited`:
# another program uses the same api_key, or HISTORY_PER_SECOND and QUOTES_PER_SECOND are too high.
KITE_CALLS_TOTAL = Counter(
    "tickfleet_ingest_kite_calls_total", "REST calls to Kite", ["account", "call", "outcome"]
)
# Accounts that could not serve a request so that the next was asked, by cause (Failure).
FAILOVERS_TOTAL = Counter(
    "tickfleet_ingest_failovers_total", "Hand-overs to the next account", ["call", "cause"]
)
# Requests that had to wait for Kite's limit; outcome is served, late (its deadline would pass or
# passed) or full (REQUESTS_WAITING waited already).
WAITS_TOTAL = Counter("tickfleet_ingest_waits_total", "Waits for Kite's limit", ["call", "outcome"])
WAITING = Gauge("tickfleet_ingest_waiting", "Requests that wait for Kite's limit", ["call"])
