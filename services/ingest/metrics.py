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
# Messages that were not published. too_old, outbox_full: NATS was away or too slow, and newer
# frames took their place (OUTBOX_SECONDS, OUTBOX_MIB); disconnected: they waited in the client when
# the connection broke; lease_lost: another process has the account; too_many_texts: order updates
# beyond 10 000, reconcile the order book; buffer_full, closed, invalid: see tickfleet_bus_*.
DROPPED_FRAMES_TOTAL = Counter(
    "tickfleet_ingest_dropped_frames_total", "Messages dropped", ["account", "reason"]
)
# Bytes that wait for NATS in the account's outbox and in the client. Not near 0: see the level.
PENDING_BYTES = Gauge("tickfleet_ingest_pending_bytes", "Bytes waiting for NATS", ["account"])
# 0 healthy, 1 warning, 2 critical, 3 overload; domain/pressure.py defines them. From 2 on ticks are
# lost or late: look at NATS (slow disk, CPU), then give accounts to more processes.
PRESSURE_LEVEL = Gauge("tickfleet_ingest_pressure_level", "Back-pressure, 0 to 3", ["account"])
# Of the packets received in the last ten seconds, those handed to NATS; below 1: see the level.
PUBLISHED_RATIO = Gauge("tickfleet_ingest_published_ratio", "Published / received", ["account"])
# Quantile 0.95 and 0.99 of the last ten seconds, from frame received to handed to the socket.
PUBLISH_LATENCY_SECONDS = Gauge(
    "tickfleet_ingest_publish_latency_seconds",
    "Frame received to handed to the socket",
    ["account", "quantile"],
)
# Types are those of Kite's text frames, `other` and `unreadable`.
TEXT_FRAMES_TOTAL = Counter(
    "tickfleet_ingest_text_frames_total", "Text frames by type", ["account", "type"]
)
# Texts that another connection of the account had brought already: two of three are normal.
REPEATED_TEXTS_TOTAL = Counter(
    "tickfleet_ingest_repeated_texts_total", "Text frames that came before", ["account"]
)
# Parts of a plan entry beyond Kite's limits, not carried out: too_many_connections,
# too_many_tokens. Any: the planner's capacity settings are wrong, the log names the connection.
PLAN_REFUSED_TOTAL = Counter(
    "tickfleet_ingest_plan_refused_total", "Planned connections refused", ["account", "reason"]
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
# Subscribed in session for NO_DATA_SECONDS and never a tick: the token is wrong or dead.
NO_DATA_TOKENS = Gauge("tickfleet_ingest_no_data_tokens", "Instruments without data", ["account"])
# Ticked before, but not for STALE_SECONDS in session. Some illiquid ones are normal; all of an
# account while others tick: its connection streams nothing, reconnect it by a new session.
STALE_TOKENS = Gauge("tickfleet_ingest_stale_tokens", "Instruments gone silent", ["account"])
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
