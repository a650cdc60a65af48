"""The simulator's metrics."""

from prometheus_client import Counter, Gauge, Histogram

# Open WebSocket connections. More than three per account cannot be.
CONNECTIONS = Gauge("sim_websocket_connections", "Open WebSocket connections")

# Binary frames handed to sockets. Flat while the market is open: look at /sim/faults.
FRAMES_SENT_TOTAL = Counter("sim_frames_sent_total", "Binary frames sent, heartbeats excluded")

# Frames thrown away because a client did not read. Rising: that client is too slow.
FRAMES_DROPPED_TOTAL = Counter("sim_frames_dropped_total", "Frames dropped for slow readers")

# Instrument updates inside the frames sent.
TICKS_TOTAL = Counter("sim_ticks_total", "Packets handed to connections")

# One step of the market with encoding. Near the tick interval: fewer contracts or a longer one.
STEP_SECONDS = Histogram(
    "sim_step_seconds",
    "Time to advance the market and encode its frames",
    buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5),
)

# Faults that have struck. Not zero: somebody asked for them at /sim/faults.
FAULTS_TOTAL = Counter("sim_faults_total", "Faults that have struck", ["kind"])

# Refused requests by Kite's error class.
REFUSED_TOTAL = Counter("sim_refused_total", "Requests answered with an error", ["error_type"])

# Steps of logins that were asked for, refused or not: password, totp, session (the exchange of a
# request token). More passwords than accounts a day: somebody logs in over and over.
LOGIN_STEPS_TOTAL = Counter("sim_login_steps_total", "Login steps asked for", ["step"])

# Order requests that were taken (place, modify, cancel); refused ones are in sim_refused_total.
ORDER_REQUESTS_TOTAL = Counter("sim_order_requests_total", "Order requests taken", ["verb"])

# Orders that came into being: slices, legs and stop-losses one by one.
ORDERS_TOTAL = Counter("sim_orders_total", "Orders that came into being")

# Orders that wait at the exchange for a price. Thousands: every step of the market looks at them.
ORDERS_RESTING = Gauge("sim_orders_resting", "Orders resting at the exchange")

# What accounts were told about their orders, whether or not a socket was there to hear it.
ORDER_UPDATES_TOTAL = Counter("sim_order_updates_total", "Order updates")

# Postbacks by what became of them: delivered, retried (an attempt failed, more follow), failed (the
# last one did) and dropped (too many waited). Failed or dropped: look at SIM_POSTBACK_URL.
POSTBACKS_TOTAL = Counter("sim_postbacks_total", "Postbacks by outcome", ["outcome"])

# GTT triggers that were reached, by whether their order was placed.
GTT_TRIGGERED_TOTAL = Counter("sim_gtt_triggered_total", "GTTs that were triggered", ["outcome"])
