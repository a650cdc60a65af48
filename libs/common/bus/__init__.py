"""The fleet's only door to NATS: connection, publishing, cursors, buckets, leases, provisioning."""
