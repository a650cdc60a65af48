"""gateway: live ticks for WebSocket clients, and the fleet's REST and web page.

In: `md.tick.v1.*` (core subscription), streams MD_LAST (snapshots), MD_CHAINS and MD_FORWARDS
(newest values), buckets `instruments`, `plan`, `status` and `accounts`, PostgreSQL. Out: WebSocket
messages (`libs.common.contracts.websocket`), HTTP answers, subscriptions in PostgreSQL with
`control.wake.v1` when they changed, and requests on
`rpc.accounts.v1`, `rpc.candles.v1` and `rpc.explain.v1`.
Scales by replicas without affinity: each one receives all ticks and serves its own connections.
It parses no tick, computes nothing and holds no broker credential.
"""
