"""control: keeps and logs in accounts, downloads the instruments and plans who streams what.

Subjects in: `rpc.accounts.v1` (the leader answers) and `control.wake.v1`; it reads stream
MD_FORWARDS and the buckets `status`, `plan`, `leases_accounts` and `coverage`.
Subjects out: `control.wake.v1`; it writes the buckets `kite_sessions`, `accounts`, `instruments`,
`plan` and `status`, and PostgreSQL.
Scaling: one leader by lease, any number of standbys; two replicas are enough.
"""
