"""ingest: holds the Kite WebSocket connections of its accounts and puts raw frames on the bus.

Subjects out: `md.frame.v1.<shard>.<account>` (raw Kite packets), `order.update.v1.<account>`.
Subjects in: `rpc.history.v1`, `rpc.quote.v1`, and both with `.<account>`.
It reads the buckets `plan` and `kite_sessions` and leases accounts.
Scaling: one active process per account; further processes share the accounts or stand by.
"""
