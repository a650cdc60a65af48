"""Metrics of orders; accounts are a bounded set, tasks, instruments and users never are labels."""

from prometheus_client import Counter, Gauge, Histogram

# Commands read from ORDER_COMMANDS by what became of them: accepted, repeated (the same command
# again, normal after a restart), refused (never a task: see the dead letters, its code says why).
COMMANDS_TOTAL = Counter(
    "tickfleet_orders_commands_total", "Commands by outcome", ["account", "outcome"]
)
# Tasks by the state they came into. Many `unknown`: the broker answers late or not at all, look at
# its status page; `absent`: decide about each (`tickfleet orders unknown`); `dead_letter`: it could
# not be reached in all attempts; `failed`, `rejected`: the code of the events says why.
TASKS_TOTAL = Counter(
    "tickfleet_orders_tasks_total", "Tasks by the state they came into", ["account", "state"]
)
# Calls that change orders, by call (place, modify, cancel) and outcome: ok, or one of
# domain.outcomes.Outcome. `ambiguous`: looked for in the order book, never sent again;
# `limited`: another program uses the account, lower ORDERS_PER_SECOND; `session_refused`: control
# should log the account in; `not_permitted`: the app may not order from this address.
CALLS_TOTAL = Counter(
    "tickfleet_orders_calls_total", "Calls that change orders", ["account", "call", "outcome"]
)
CALL_SECONDS = Histogram(
    "tickfleet_orders_call_duration_seconds",
    "Duration of calls that change orders",
    ["call"],
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20),
)
# From a command being stored in ORDER_COMMANDS to its request leaving; waits for limits, sessions
# and the breaker included. Above 20 ms at the median: PostgreSQL is slow to commit, or the limits
# are used up.
INTAKE_TO_SEND_SECONDS = Histogram(
    "tickfleet_orders_intake_to_send_seconds",
    "Command stored to request leaving",
    buckets=(0.0025, 0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.25, 1, 5, 30),
)
# Commands taken and not sent yet. Growing: more is asked for than the limits let leave.
WAITING = Gauge("tickfleet_orders_waiting", "Commands taken, not sent", ["account"])
# Requests whose outcome is looked for. Not 0 for longer than the window: the order book cannot be
# read, see tickfleet_orders_book_reads_total.
UNKNOWN = Gauge("tickfleet_orders_unknown", "Requests of unknown outcome", ["account"])
# Requests that were not found and wait for a person: `tickfleet orders unknown`, then `resolve`.
ABSENT = Gauge("tickfleet_orders_absent", "Requests that wait for a person", ["account"])
# 0 closed, 1 half open, 2 open: nothing is sent while the broker does not answer; it closes by
# itself. Open for long: the broker or the network is down.
BREAKER = Gauge("tickfleet_orders_breaker_state", "Circuit breaker of an account", ["account"])
# 1 while nothing but cancellations may leave.
KILL_SWITCH = Gauge("tickfleet_orders_kill_switch", "Whether the kill switch is on", ["account"])
# Requests that count against the broker's cap of the day (5000); at ORDERS_PER_DAY nothing more is
# placed until tomorrow.
SENT_TODAY = Gauge("tickfleet_orders_sent_today", "Placements of this day", ["account"])
# Whether the account takes commands. 0 for long: no session, no PostgreSQL, or the order book
# cannot be read; the status says which.
READY = Gauge("tickfleet_orders_ready", "Whether commands are taken", ["account"])
# Readings of the order book by outcome: ok, unreadable (a row without a number), or one of
# domain.outcomes.Outcome. Without an `ok` nothing unknown is ever found or given up.
BOOK_READS_TOTAL = Counter(
    "tickfleet_orders_book_reads_total", "Readings of the order book", ["account", "outcome"]
)
# Orders that the broker pushed, by way (update, postback) and outcome: used, unrelated (not ours),
# unreadable, refused (a wrong checksum: somebody else calls the postback address, or the secret of
# the account is another one), dropped (more came than could be looked at; the book is read).
PUSHES_TOTAL = Counter(
    "tickfleet_orders_pushes_total", "Order updates and postbacks", ["account", "way", "outcome"]
)
# Words about a request that changed nothing, such as late or repeated updates: normal.
IGNORED_TOTAL = Counter(
    "tickfleet_orders_ignored_total", "What happened and changed nothing", ["account"]
)
# Changes that another worker had overtaken. A few around a take-over are normal; a steady rate
# means that two workers share a name: give every process a WORKER_ID of its own.
STALE_TOTAL = Counter(
    "tickfleet_orders_stale_total", "Changes overtaken by another worker", ["account"]
)
# Requests that were ready to leave when the lease had ended: not sent.
FENCED_TOTAL = Counter(
    "tickfleet_orders_fenced_total", "Not sent for want of the lease", ["account"]
)
# Events not yet told, by account. Growing: NATS is away or ORDER_EVENTS does not store.
OUTBOX_PENDING = Gauge("tickfleet_orders_outbox_pending", "Events not yet told", ["account"])
# Commands that will not be carried out, by code; each is in order_dead_letters and on
# order.dead.v1.<account>, whole.
DEAD_LETTERS_TOTAL = Counter("tickfleet_orders_dead_letters_total", "Dead letters", ["code"])
# When the broker's book (orders, trades, positions) and funds (holdings, margins) were last stored.
# Old: see tickfleet_orders_sync_failures_total; the tables broker_* and the comparison are as old.
SYNCED_TIMESTAMP_SECONDS = Gauge(
    "tickfleet_orders_synced_timestamp_seconds", "Last reading stored", ["account", "reading"]
)
# session: log the account in; limited: somebody else reads with the account's key; network, server:
# the broker; database: PostgreSQL; lost: another worker took over. All are tried again.
SYNC_FAILURES_TOTAL = Counter(
    "tickfleet_orders_sync_failures_total", "Readings that failed", ["account", "reading", "reason"]
)
# Trades without the number of the trade or of its order, left out of broker_trades: the broker's
# form has changed.
SYNC_BAD_ROWS_TOTAL = Counter(
    "tickfleet_orders_sync_bad_rows_total", "Trades of the broker left out", ["account"]
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
# Bands that prices were checked against. Many unknown: ingest of the account answers no quotes; the
# broker checks bands too.
BANDS_TOTAL = Counter("tickfleet_orders_bands_total", "Price bands asked for", ["outcome"])
