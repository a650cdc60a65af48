"""Runs the whole of tickfleet on one machine, with embedded NATS and PostgreSQL.

Reads and writes no subject of its own: it starts the other services as processes, in order, gated
on readiness, restarts what dies, and stops everything without leaving an orphan. One per machine
and data directory.
"""
