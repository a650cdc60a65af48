"""The gateway's metrics: what each says and what to do about it."""

from prometheus_client import Counter, Gauge

# Ticks that arrived from the bus. Flat during market hours: look at greeks and ingest.
TICKS_RECEIVED_TOTAL = Counter(
    "tickfleet_gateway_ticks_received_total", "Ticks received from the bus"
)
# Lines that are no ticks. Any: a publisher broke the contract of md.tick.v1.
BAD_LINES_TOTAL = Counter(
    "tickfleet_gateway_bad_lines_total", "Lines on md.tick.v1 that are no tick"
)
# Ticks written to clients, and the older ones that newer ones replaced before they were written.
# A growing share of conflated ticks: slow clients or an overloaded process; add replicas.
TICKS_SENT_TOTAL = Counter("tickfleet_gateway_ticks_sent_total", "Ticks written to clients")
TICKS_CONFLATED_TOTAL = Counter(
    "tickfleet_gateway_ticks_conflated_total", "Ticks replaced by newer ones before sending"
)
BYTES_SENT_TOTAL = Counter("tickfleet_gateway_bytes_sent_total", "Bytes of ticks written")
# Near CONNECTIONS_MAX: add replicas.
CONNECTIONS = Gauge("tickfleet_gateway_connections", "Open authenticated connections")
SUBSCRIPTIONS = Gauge("tickfleet_gateway_subscriptions", "Instruments subscribed, over clients")
# Why connections were refused or ended by us. reason: full, per_user, auth, rate, stalled,
# control_overflow, expired, too_big.
CONNECTIONS_ENDED_TOTAL = Counter(
    "tickfleet_gateway_connections_ended_total",
    "Connections refused or ended by a rule",
    ["reason"],
)
# Messages of clients that could not be followed, by error code.
CLIENT_ERRORS_TOTAL = Counter(
    "tickfleet_gateway_client_errors_total", "Client messages answered with an error", ["code"]
)
# Pongs not written to clients that do not read.
PONGS_DROPPED_TOTAL = Counter(
    "tickfleet_gateway_pongs_dropped_total", "Pongs withheld from clients that do not read"
)
# Last ticks kept for snapshots; at LAST_VALUES_MAX the oldest instruments give way.
LAST_VALUES = Gauge("tickfleet_gateway_last_values", "Instruments whose last tick is kept")
LAST_VALUES_EVICTED_TOTAL = Counter(
    "tickfleet_gateway_last_values_evicted_total", "Last ticks given up for want of room"
)
# Requests for candles by outcome: ok, left or stalled (the client), failed (a defect), or the code
# of the error: bad_request, not_found, rate_limited, timeout, busy, no_worker, no_account,
# unavailable.
HISTORY_REQUESTS_TOTAL = Counter(
    "tickfleet_gateway_history_requests_total", "Requests for candles", ["outcome"]
)
# Always at HISTORY_CONCURRENCY: raise it, or add replicas.
HISTORY_RUNNING = Gauge("tickfleet_gateway_history_running", "Requests for candles being answered")
