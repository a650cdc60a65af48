"""Every metric of the bus: unit in the name, bounds of the labels and the remedy in the comment."""

from prometheus_client import Counter, Gauge

# Messages handed to the client for sending. Compare with the stream's own count.
PUBLISHED_TOTAL = Counter("tickfleet_bus_published_total", "Messages handed over for sending")

# Messages that were not sent; reason is a PublishOutcome (buffer_full, closed, invalid).
# buffer_full: NATS is away or too slow, look at its health and at write_deadline;
# invalid: a bug of the publisher, its log line names subject and size.
DROPPED_TOTAL = Counter("tickfleet_bus_dropped_total", "Messages dropped, not sent", ["reason"])

# Bytes waiting in the client. Near 8 MiB: the server is away or cannot keep up.
PENDING_BYTES = Gauge("tickfleet_bus_pending_bytes", "Bytes waiting in the client's send buffer")

# 1 while connected, 0 while reconnecting or closed. 0 for long: check NATS_URL and the server.
CONNECTED = Gauge("tickfleet_bus_connected", "Whether the connection to NATS stands")

# Times the connection came back. Growing steadily: network, or the server drops us as slow.
RECONNECTS_TOTAL = Counter("tickfleet_bus_reconnects_total", "Connections re-established")

# Connections that the watchdog aborted because no pong came. Growing: frozen server or black hole.
ABORTS_TOTAL = Counter("tickfleet_bus_aborts_total", "Connections aborted for want of a pong")

# Seconds of the last round trip to the server.
ROUND_TRIP_SECONDS = Gauge("tickfleet_bus_round_trip_seconds", "Last ping to pong")

# Errors the client reported; kind is the class name of a nats-py error (about thirty).
# SlowConsumerError: this process cannot keep up with a core subscription, messages are lost.
ERRORS_TOTAL = Counter("tickfleet_bus_errors_total", "Errors reported by the client", ["kind"])

# Exceptions out of subscription callbacks; the message is lost. Any: a bug, see the log.
CALLBACK_FAILURES_TOTAL = Counter(
    "tickfleet_bus_callback_failures_total", "Subscription callbacks that raised"
)

# Acknowledged heartbeats, by stream (declared streams only) and outcome (stored, failed).
# Failed ones: the stream does not store what is published; see the NATS log and disk.
HEARTBEATS_TOTAL = Counter(
    "tickfleet_bus_heartbeats_total", "Acknowledged stream heartbeats", ["stream", "outcome"]
)

# Messages read by cursors, by stream.
CURSOR_MESSAGES_TOTAL = Counter(
    "tickfleet_bus_cursor_messages_total", "Messages read by cursors", ["stream"]
)

# Messages still waiting in the stream for this process, by stream. Growing: add workers.
CURSOR_PENDING = Gauge(
    "tickfleet_bus_cursor_pending", "Messages waiting for a cursor, as last reported", ["stream"]
)

# Consumers created anew, by stream and cause (RestartCause). A few per server restart are normal;
# "sequence" or "heartbeat" without one: this process is too slow or the network loses data.
CURSOR_RESTARTS_TOTAL = Counter(
    "tickfleet_bus_cursor_restarts_total", "Consumers created anew", ["stream", "cause"]
)

# Breaks in a stream's numbering, by stream and kind (GapKind). Any: the server lost data (SIGKILL
# of an async stream loses the last few messages) or the stream was made anew.
CURSOR_GAPS_TOTAL = Counter(
    "tickfleet_bus_cursor_gaps_total", "Breaks in a stream's numbering", ["stream", "kind"]
)

# Messages of durable consumers by stream and what became of them: acked, returned (to be delivered
# again), ended (never again), unconfirmed (NATS did not confirm the acknowledgement, so they may
# come again). A few unconfirmed around a restart of NATS are normal.
DELIVERIES_TOTAL = Counter(
    "tickfleet_bus_deliveries_total", "Messages of durable consumers", ["stream", "outcome"]
)

# Resources this process holds, by bucket (declared buckets only).
LEASES_HELD = Gauge("tickfleet_bus_leases_held", "Leases held by this process", ["bucket"])

# Live members that this process sees, by bucket. Fewer than replicas: one is down or cut off.
LEASE_MEMBERS = Gauge("tickfleet_bus_lease_members", "Live members of a lease bucket", ["bucket"])

LEASES_ACQUIRED_TOTAL = Counter(
    "tickfleet_bus_leases_acquired_total", "Leases acquired by this process", ["bucket"]
)

# Ends of leases by bucket and cause (LeaseEnd). released: a hand-over, normal;
# expired: NATS was away longer than the TTL or this process was frozen; taken: another has it.
LEASES_ENDED_TOTAL = Counter(
    "tickfleet_bus_leases_ended_total", "Leases of this process that ended", ["bucket", "cause"]
)

# Refreshes that failed, by bucket. A few around a NATS restart are normal.
LEASE_REFRESH_FAILURES_TOTAL = Counter(
    "tickfleet_bus_lease_refresh_failures_total", "Lease refreshes that failed", ["bucket"]
)

# Requests that reached a service of this process, by service and outcome. served: the handler
# answered; abandoned: its caller had left before the end, look at the caller's deadlines; busy: too
# many ran already, add processes or raise the concurrency; stopping: the process was ending;
# failed: the handler raised, a bug, see the log.
SERVICE_REQUESTS_TOTAL = Counter(
    "tickfleet_bus_service_requests_total", "Requests by outcome", ["service", "outcome"]
)

# Requests being served now, by service. At its bound for long: see busy above.
SERVICE_RUNNING = Gauge("tickfleet_bus_service_running", "Requests being served", ["service"])
