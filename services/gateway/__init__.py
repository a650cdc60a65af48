"""gateway: live ticks for WebSocket clients, and the fleet's read-only REST and web page.

In: `md.tick.v1.*` (core subscription), stream MD_LAST (snapshots), buckets `instruments`, `plan`
and `status`, PostgreSQL (read only). Out: WebSocket messages (`libs.common.contracts.websocket`)
and HTTP answers; it publishes nothing.
Scales by replicas without affinity: each one receives all ticks and serves its own connections.
It parses no tick, computes nothing and holds no broker credential.
"""
