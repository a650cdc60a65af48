"""Judges whether live data flows, and says it in the shape of the predecessor's `/health`."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from libs.common.contracts.messages import (
    AccountPlan,
    FeedState,
    FeedStatus,
    Pressure,
    Source,
)

NANOSECONDS = 1_000_000_000
# Ticks are lost or late; a mere warning is not worth an alarm.
_LOSING = frozenset({Pressure.CRITICAL, Pressure.OVERLOAD})


class FleetView(msgspec.Struct, frozen=True, kw_only=True):
    """What the gateway knows of the fleet at one moment.

    Attributes:
        environment: Where the process runs.
        plans: By account.
        feeds: By account; an account whose ingest worker died is missing.
        nats_connected: Whether the bus is up.
        directory_ready: Whether plans, feeds and instruments were read at least once.
        database_error: None, or why the database does not answer.
        tick_age_seconds: Since the last tick arrived; None before the first.
        source: What flows, as far as known.
        market_open: Whether any exchange trades now, by the wall clock.
        instruments: How many instruments today's dump has.
        instruments_at_ns: When the newest set of instruments was written; None before.
    """

    environment: str
    plans: Mapping[str, AccountPlan]
    feeds: Mapping[str, FeedStatus]
    nats_connected: bool
    directory_ready: bool
    database_error: str | None
    tick_age_seconds: float | None
    source: Source | None
    market_open: bool
    instruments: int
    instruments_at_ns: int | None


def problems(view: FleetView, *, tick_patience_seconds: float) -> list[str]:
    """Why the fleet is not all well, most telling first; empty when it is.

    A live feed is silent while the exchanges are closed, and that is well; a simulated one never
    sleeps.
    """
    found = []
    if not view.nats_connected:
        found.append("nats: not connected")
    if view.database_error is not None:
        found.append(f"database: {view.database_error}")
    if view.instruments == 0:
        found.append("instruments: none loaded yet")
    planned = {account: plan for account, plan in view.plans.items() if plan.total}
    if not planned:
        found.append("plan: nothing is planned yet")
    for account in sorted(planned):
        trouble = _feed_trouble(view.feeds.get(account))
        if trouble is not None:
            found.append(f"account {account}: {trouble}")
    sleeping = view.source is Source.LIVE and not view.market_open
    if planned and not sleeping:
        if view.tick_age_seconds is None:
            found.append("ticks: none received yet")
        elif view.tick_age_seconds > tick_patience_seconds:
            found.append(f"ticks: none for {view.tick_age_seconds:.0f} s")
    return found


def _feed_trouble(feed: FeedStatus | None) -> str | None:
    if feed is None:
        return "no worker holds its feed"
    if feed.state is not FeedState.STREAMING:
        return feed.state.value + (f" ({feed.reason})" if feed.reason else "")
    if feed.pressure in _LOSING:
        p99 = "" if feed.publish_p99_ms is None else f", p99 {feed.publish_p99_ms:.0f} ms"
        return (
            f"back-pressure {feed.pressure.value}: {feed.published_ratio:.0%} published{p99}, "
            f"{feed.pending_bytes} bytes wait for NATS"
        )
    return None


def report(view: FleetView, *, tick_patience_seconds: float) -> dict[str, Any]:
    """The body of `GET /health`."""
    reasons = problems(view, tick_patience_seconds=tick_patience_seconds)
    streaming = [f for f in view.feeds.values() if f.state is FeedState.STREAMING]
    accounts = {
        account: _account(view.plans.get(account), view.feeds.get(account))
        for account in sorted(view.plans.keys() | view.feeds.keys())
    }
    return {
        "status": "degraded" if reasons else "ok",
        "environment": view.environment,
        "reasons": reasons,
        "ticker": {
            "running": bool(streaming),
            "active_subscriptions": sum(f.tokens for f in streaming),
            "source": view.source.value if view.source else None,
            "last_tick_age_seconds": (
                None if view.tick_age_seconds is None else round(view.tick_age_seconds, 1)
            ),
            "accounts": accounts,
        },
        "dependencies": {
            "nats": "ok" if view.nats_connected else "error: not connected",
            "database": ("ok" if view.database_error is None else f"error: {view.database_error}"),
            "instrument_registry": {
                "status": _registry_status(view),
                "cached_instruments": view.instruments,
                "last_refresh": _iso(view.instruments_at_ns),
            },
        },
    }


def _registry_status(view: FleetView) -> str:
    if not view.directory_ready:
        return "not_initialized"
    return "ok" if view.instruments else "initialized_but_empty"


def _account(plan: AccountPlan | None, feed: FeedStatus | None) -> dict[str, Any]:
    planned = plan.total if plan else 0
    if feed is None:
        return {"state": "no_worker", "planned": planned, "subscribed": 0}
    return {
        "state": feed.state.value,
        "reason": feed.reason,
        "worker": feed.worker,
        "planned": planned,
        "subscribed": feed.tokens,
        "connections": feed.connections,
        "frames_total": feed.frames_total,
        "ticks_total": feed.ticks_total,
        "last_frame_at": _iso(feed.last_frame_ns),
        "source": feed.source.value if feed.source else None,
        "session_refused": feed.session_refused,
        "no_data": feed.no_data_tokens,
        "stale": feed.stale_tokens,
        "backpressure": {
            "level": feed.pressure.value,
            "published_ratio": round(feed.published_ratio, 4),
            "p95_publish_latency_ms": feed.publish_p95_ms,
            "p99_publish_latency_ms": feed.publish_p99_ms,
            "pending_bytes": feed.pending_bytes,
            "dropped_total": feed.dropped_total,
        },
    }


def _iso(at_ns: int | None) -> str | None:
    if at_ns is None:
        return None
    return datetime.fromtimestamp(at_ns / NANOSECONDS, UTC).isoformat(timespec="seconds")
