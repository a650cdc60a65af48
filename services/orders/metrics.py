"""Metrics of orders; accounts are a bounded set, tasks and symbols never become labels."""

from prometheus_client import Counter, Gauge

# When the broker's book (orders, trades, positions) and funds (holdings, margins) were last stored.
# Old: see tickfleet_orders_sync_failures_total; the tables broker_* and the comparison are as old.
SYNCED_TIMESTAMP_SECONDS = Gauge(
    "tickfleet_orders_synced_timestamp_seconds", "Last reading stored", ["account", "reading"]
)
# session: log the account in; limited: somebody else reads with the account's key; network, server:
# the broker; database: PostgreSQL; report: NATS; lost: another worker took over. All are tried
# again.
SYNC_FAILURES_TOTAL = Counter(
    "tickfleet_orders_sync_failures_total", "Readings that failed", ["account", "reading", "reason"]
)
# Rows without an order's or a trade's number, left out; a book with one is not compared.
SYNC_BAD_ROWS_TOTAL = Counter(
    "tickfleet_orders_sync_bad_rows_total", "Rows of the broker left out", ["account"]
)
# What the last look saw; a few for a moment are normal, for they are on their way.
DIFFERENCES = Gauge(
    "tickfleet_orders_differences_now", "Between the broker's book and the ledger now", ["account"]
)
# Reported ones, each once a day: read the account's events of kind `difference`, and settle each.
# placed_twice must never count.
DIFFERENCES_TOTAL = Counter(
    "tickfleet_orders_differences_total", "Differences reported", ["account", "code"]
)
