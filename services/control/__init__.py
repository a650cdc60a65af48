"""control: logs accounts in, downloads the instruments and plans who streams what.

Subjects in: none; it reads the buckets `status` and `plan`.
Subjects out: none; it writes the buckets `kite_sessions`, `instruments`, `plan` and `status`, and
PostgreSQL.
Scaling: one leader by lease, any number of standbys; two replicas are enough.
"""
