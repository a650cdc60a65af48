"""`/health` says ok only when live data really flows."""

from typing import Any

import pytest

from libs.common.contracts.messages import (
    AccountPlan,
    FeedState,
    FeedStatus,
    PlannedConnection,
    PlannedGroup,
    Pressure,
    Source,
    StreamMode,
)
from services.gateway.domain.feed_health import FleetView, problems, report

SECOND_NS = 1_000_000_000


def plan(account: str, tokens: int = 3) -> AccountPlan:
    group = PlannedGroup(underlying="NIFTY", mode=StreamMode.FULL, tokens=tuple(range(tokens)))
    return AccountPlan(
        account=account,
        revision=1,
        connections=(PlannedConnection(groups=(group,)),),
        planned_at_ns=1,
    )


def feed(
    account: str, state: FeedState = FeedState.STREAMING, reason: str = "", **changes: Any
) -> FeedStatus:
    return FeedStatus(
        account=account,
        worker="ingest-1",
        state=state,
        reason=reason,
        connections=1,
        tokens=3,
        frames_total=1,
        ticks_total=1,
        dropped_total=0,
        plan_revision=1,
        last_frame_ns=1_700_000_000 * SECOND_NS,
        at_ns=1,
        **changes,
    )


def view(**changes: Any) -> FleetView:
    values: dict[str, Any] = {
        "environment": "dev",
        "plans": {"a": plan("a")},
        "feeds": {"a": feed("a")},
        "nats_connected": True,
        "directory_ready": True,
        "database_error": None,
        "tick_age_seconds": 0.3,
        "source": Source.SIM,
        "market_open": False,
        "instruments": 100,
        "instruments_at_ns": 1_700_000_000 * SECOND_NS,
    }
    return FleetView(**{**values, **changes})


def test_all_well_is_ok_in_the_shape_of_the_predecessor():
    body = report(view(), tick_patience_seconds=5)
    assert body["status"] == "ok"
    assert body["environment"] == "dev"
    assert body["ticker"]["running"] is True
    assert body["ticker"]["active_subscriptions"] == 3
    assert body["ticker"]["accounts"]["a"]["state"] == "streaming"
    assert body["dependencies"] == {
        "nats": "ok",
        "database": "ok",
        "instrument_registry": {
            "status": "ok",
            "cached_instruments": 100,
            "last_refresh": "2023-11-14T22:13:20+00:00",
        },
    }


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"nats_connected": False}, "nats: not connected"),
        ({"database_error": "refused"}, "database: refused"),
        ({"instruments": 0}, "instruments: none loaded yet"),
        ({"plans": {}}, "plan: nothing is planned yet"),
        ({"plans": {"a": plan("a", tokens=0)}}, "plan: nothing is planned yet"),
        ({"feeds": {}}, "account a: no worker holds its feed"),
        (
            {"feeds": {"a": feed("a", FeedState.PARKED, "403")}},
            "account a: parked (403)",
        ),
        (
            {"plans": {"a": plan("a"), "b": plan("b")}},
            "account b: no worker holds its feed",
        ),
        ({"tick_age_seconds": None}, "ticks: none received yet"),
        ({"tick_age_seconds": 60.0}, "ticks: none for 60 s"),
        ({"tick_age_seconds": 60.0, "source": Source.LIVE, "market_open": True}, "ticks: none"),
        ({"tick_age_seconds": None, "source": None}, "ticks: none received yet"),
    ],
)
def test_anything_missing_is_degraded_and_named(changes, reason):
    body = report(view(**changes), tick_patience_seconds=5)
    assert body["status"] == "degraded"
    assert any(reason in text for text in body["reasons"])


@pytest.mark.parametrize("level", list(Pressure))
def test_back_pressure_is_shown_and_degrades_from_critical_on(level):
    pressed = feed(
        "a",
        pressure=level,
        published_ratio=0.71234,
        publish_p95_ms=95.0,
        publish_p99_ms=812.0,
        pending_bytes=3_000_000,
    )
    body = report(view(feeds={"a": pressed}), tick_patience_seconds=5)
    assert body["ticker"]["accounts"]["a"]["backpressure"] == {
        "level": level.value,
        "published_ratio": 0.7123,
        "p95_publish_latency_ms": 95.0,
        "p99_publish_latency_ms": 812.0,
        "pending_bytes": 3_000_000,
        "dropped_total": 0,
    }
    reason = (
        f"account a: back-pressure {level.value}: 71% published, p99 812 ms, "
        "3000000 bytes wait for NATS"
    )
    losing = level in {Pressure.CRITICAL, Pressure.OVERLOAD}
    assert body["reasons"] == ([reason] if losing else [])
    assert body["status"] == ("degraded" if losing else "ok")


def test_feed_without_enough_frames_for_quantiles_still_names_its_pressure():
    pressed = feed("a", pressure=Pressure.OVERLOAD, published_ratio=0.0)
    (reason,) = problems(view(feeds={"a": pressed}), tick_patience_seconds=5)
    assert reason == "account a: back-pressure overload: 0% published, 0 bytes wait for NATS"


def test_silent_instruments_and_a_refused_session_are_shown_per_account():
    told = feed("a", session_refused=True, no_data_tokens=3, stale_tokens=2, source=Source.SIM)
    shown = report(view(feeds={"a": told}), tick_patience_seconds=5)["ticker"]["accounts"]["a"]
    assert (shown["session_refused"], shown["no_data"], shown["stale"]) == (True, 3, 2)
    assert shown["source"] == "sim"


def test_live_feed_may_be_silent_while_the_market_is_closed():
    silent = view(tick_age_seconds=3600.0, source=Source.LIVE, market_open=False)
    assert problems(silent, tick_patience_seconds=5) == []


def test_registry_tells_not_read_from_empty():
    empty = report(view(instruments=0, instruments_at_ns=None), tick_patience_seconds=5)
    unread = report(
        view(instruments=0, instruments_at_ns=None, directory_ready=False), tick_patience_seconds=5
    )
    assert empty["dependencies"]["instrument_registry"]["status"] == "initialized_but_empty"
    assert unread["dependencies"]["instrument_registry"]["status"] == "not_initialized"
