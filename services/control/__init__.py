"""control: logs accounts in, downloads the instruments and plans who streams what.

Subjects in: `control.wake.v1`; it reads stream MD_FORWARDS and the buckets `status`, `plan`,
`leases_accounts` and `coverage`.
Subjects out: none; it writes the buckets `kite_sessions`, `instruments`, `plan` and `status`, and
PostgreSQL.
Scaling: one leader by lease, any number of standbys; two replicas are enough.
"""
