"""The gateway's metrics: what each says and what to do about it."""

from prometheus_client import Counter, Gauge, Histogram

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
# Commands about orders by what became of them: accepted, known (the same key and body again),
# conflict (the same key, another body), full, unavailable, uncertain (no acknowledgement came; the
# caller repeats with the same key). Any full: raise the stream's max_bytes, or look why orders does
# not take its commands. uncertain: look at NATS.
ORDER_COMMANDS_TOTAL = Counter(
    "tickfleet_gateway_order_commands_total", "Commands about orders, by outcome", ["outcome"]
)
# From the request's arrival to the stream's acknowledgement. Grows: look at NATS and its disk.
ORDER_ACCEPT_SECONDS = Histogram(
    "tickfleet_gateway_order_accept_seconds",
    "Time until the stream has stored a command",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 2),
)
# Callers that wait for an outcome now. Always high: orders is slow, or nobody holds an account.
ORDERS_AWAITED = Gauge("tickfleet_gateway_orders_awaited", "Callers that wait for an outcome")
# Events of orders that arrived, went to WebSocket clients, and were dropped because a client did
# not read; the ledger has them all.
ORDER_EVENTS_RECEIVED_TOTAL = Counter(
    "tickfleet_gateway_order_events_received_total", "Events of orders received from the bus"
)
ORDER_EVENTS_SENT_TOTAL = Counter(
    "tickfleet_gateway_order_events_sent_total", "Events of orders written to clients"
)
ORDER_EVENTS_DROPPED_TOTAL = Counter(
    "tickfleet_gateway_order_events_dropped_total", "Events withheld from clients that do not read"
)
# Postbacks of the broker by outcome: accepted, refused (a wrong checksum: somebody else than the
# broker, or another api_secret), unread (no such JSON), unclaimed (nobody holds the user's orders),
# limited (POSTBACKS_PER_SECOND_MAX).
POSTBACKS_TOTAL = Counter(
    "tickfleet_gateway_postbacks_total", "Postbacks of the broker, by outcome", ["outcome"]
)
