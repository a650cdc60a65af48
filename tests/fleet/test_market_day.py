"""One market day after another passes over a running fleet: closes, midnight, tokens, the open.

The simulator's clock jumps; everything between two jumps runs at the usual pace.
"""

import asyncio
import time
from datetime import date, datetime
from typing import Any

import httpx
import pytest

from libs.common.domain.clock import IST
from tests.fleet.fleet_process import RECOVERY_DEADLINE_SECONDS, running_fleet

# A Tuesday on which NIFTY's weekly contracts die at 15:40.
EXPIRY = date(2026, 11, 17)
NEXT_DAY = date(2026, 11, 18)

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def day_fleet(tmp_path_factory):
    """A fleet late on an expiry day, whose simulator does not step over the night."""
    folder = tmp_path_factory.mktemp("day") / "data"
    with running_fleet(
        folder,
        "--accounts",
        "2",
        "--greeks",
        "1",
        SIM_START=f"{EXPIRY}T15:25:00",
        SIM_SKIP_CLOSED="false",
        PLAN_INTERVAL_SECONDS="2",
    ) as started:
        yield started


def _jump(fleet, moment):
    answer = httpx.post(f"{fleet.simulator}/sim/clock", json={"to": moment}, timeout=10)
    assert answer.status_code == 200, answer.text


def _clock(fleet):
    state = httpx.get(f"{fleet.simulator}/sim/state", timeout=10).json()
    return datetime.fromisoformat(state["clock"])


def _planned_expiries(fleet):
    """Expiries of the NIFTY options that are streamed, as REST shows them."""
    items = httpx.get(
        f"{fleet.gateway}/subscriptions", params={"underlying": "NIFTY", "limit": 1000}, timeout=10
    ).json()["items"]
    return sorted({item["expiry"] for item in items if item["expiry"] and item["kind"] == "option"})


async def _options(fleet, expiry):
    streamed = await fleet.subscriptions(underlying="NIFTY", kind="option")
    return [i["instrument_token"] for i in streamed if i["expiry"] == expiry.isoformat()]


async def _until_exchange_time(client, tokens, moment):
    """The first tick of each token at or after a moment of the market."""
    after_ns = int(datetime.fromisoformat(moment).replace(tzinfo=IST).timestamp() * 1e9)
    found: dict[int, Any] = {}
    async with asyncio.timeout(RECOVERY_DEADLINE_SECONDS):
        while len(found) < len(tokens):
            tick = (await client.next("tick"))["data"]
            if tick["instrument_token"] in tokens and (tick["exchange_ts"] or 0) >= after_ns:
                found[tick["instrument_token"]] = tick
    return found


async def test_market_day_passes_over_a_running_fleet(day_fleet):
    dying = await _options(day_fleet, EXPIRY)
    assert dying
    near = set(dying[len(dying) // 2 : len(dying) // 2 + 4])

    # 15:30: shares are through, derivatives go on.
    async with day_fleet.client() as client:
        await client.subscribe(sorted(near))
        _jump(day_fleet, f"{EXPIRY}T15:29:58")
        ticks = await _until_exchange_time(client, near, f"{EXPIRY}T15:30:01")
        assert all(tick["tte"] > 0 for tick in ticks.values())

        # The last minute: a price and intrinsic value, but no volatility any more.
        _jump(day_fleet, f"{EXPIRY}T15:39:20")
        ticks = await _until_exchange_time(client, near, f"{EXPIRY}T15:39:21")
        assert {tick["iv_status"] for tick in ticks.values()} == {"expiring"}
        assert {tick["iv"] for tick in ticks.values()} == {None}

        # 15:40: nothing ticks, and nobody takes the silence for a broken feed.
        reconnects = day_fleet.metric("tickfleet_ingest_reconnects_total", "ingest")
        heartbeats = day_fleet.metric("tickfleet_ingest_heartbeats_total", "ingest")
        _jump(day_fleet, f"{EXPIRY}T15:41:00")
        await day_fleet.until(
            lambda: (
                day_fleet.metric("tickfleet_ingest_heartbeats_total", "ingest") > heartbeats + 8
            ),
            "heartbeats of a closed market",
        )
        assert day_fleet.metric("tickfleet_ingest_reconnects_total", "ingest") == reconnects

    # The contracts that died leave the plan; later ones take their place.
    await day_fleet.until(
        lambda: EXPIRY.isoformat() not in _planned_expiries(day_fleet),
        "dead contracts leave the plan",
    )
    assert _planned_expiries(day_fleet)

    # Midnight is a new date for the control plane, and no reason to log anybody in.
    logins = day_fleet.metric("tickfleet_control_logins_total", "control")
    loads = day_fleet.metric("tickfleet_control_dumps_total", "control")
    _jump(day_fleet, f"{EXPIRY}T23:59:58")
    await day_fleet.until(lambda: _clock(day_fleet).date() == NEXT_DAY, "midnight")
    await day_fleet.until(
        lambda: day_fleet.metric("tickfleet_control_dumps_total", "control") > loads,
        "the instruments of the new date",
    )
    assert day_fleet.metric("tickfleet_control_logins_total", "control") == logins

    # 06:00: all tokens die; the accounts are logged in again, each as often as it needs.
    _jump(day_fleet, f"{NEXT_DAY}T06:04:50")
    await day_fleet.until(lambda: _clock(day_fleet).isoformat()[11:16] >= "06:05", "06:05")
    await day_fleet.until(
        lambda: day_fleet.metric("tickfleet_control_logins_total", "control") >= logins + 2,
        "new logins",
    )

    # 09:15: ticks flow, of the new day and of contracts that live.
    _jump(day_fleet, f"{NEXT_DAY}T09:14:57")
    await day_fleet.until_healthy()
    streamed = await day_fleet.subscriptions(underlying="NIFTY", kind="option")
    tokens = {item["instrument_token"] for item in streamed[:4]}
    async with day_fleet.client() as client:
        await client.subscribe(sorted(tokens))
        opened = time.time_ns()
        await client.fresh_ticks(opened, tokens)
        ticks = await _until_exchange_time(client, tokens, f"{NEXT_DAY}T09:15:00")
    assert all(tick["expiry"] > EXPIRY.isoformat() for tick in ticks.values())
    logins_of_the_day = day_fleet.metric("tickfleet_control_logins_total", "control") - logins
    assert 2 <= logins_of_the_day <= 4, "each account logs in once or twice, never in a loop"
