"""Metrics that every process has, and how they are shown.

A metric is declared once, in the module of its owner, with its unit in the name and its remedy in
a comment; labels take values from bounded sets only (never an instrument, user or client).
"""

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, Counter, Gauge, generate_latest

EXPOSITION_CONTENT_TYPE = CONTENT_TYPE_LATEST

# Seconds that a timer fired late. Above 0.1 for long: something blocks the event loop; find it
# with `py-spy dump`, or add a worker.
EVENT_LOOP_LAG_SECONDS = Gauge(
    "tickfleet_event_loop_lag_seconds", "How late the event loop ran its last timer"
)

# Tasks that ended although nobody asked them to. Any increase ends the process: read its log.
TASKS_FAILED_TOTAL = Counter(
    "tickfleet_tasks_failed_total", "Owned tasks that ended unasked", ["task"]
)


def exposition() -> bytes:
    """All metrics of this process in Prometheus' text format."""
    return generate_latest(REGISTRY)
