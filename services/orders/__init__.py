"""Executes orders: at-least-once intake inside, at-most-once effect at the broker.

Subjects in: `order.command.v1.<account>.<task_id>`, `order.update.v1.<account>`,
`rpc.orders.v1.<account>`, `rpc.postback.v1.<user_id>`; buckets `kite_sessions`, `accounts`,
`order_controls`, `status`.
Subjects out: `order.event.v1.<account>.<task_id>`, `order.account.v1.<account>`,
`order.dead.v1.<account>`; its ledger is in PostgreSQL.
Scales: replicas up to the number of accounts; one active worker per account, by lease.
"""
