"""The simulator's clock by order: it jumps forward, changes its pace, and never goes back."""

from datetime import datetime

import httpx
import pytest

from tests.fakes.simulator import SimulatorProcess


@pytest.fixture(scope="module")
def simulator(tmp_path_factory):
    process = SimulatorProcess(
        tmp_path_factory.mktemp("sim"), SIM_START="2026-11-18T15:00:00", SIM_SKIP_CLOSED="false"
    )
    process.start()
    yield process
    process.stop()


def _order(simulator, **order):
    return httpx.post(f"{simulator.url}/sim/clock", json=order, timeout=10)


def _clock(simulator):
    state = httpx.get(f"{simulator.url}/sim/state", timeout=10).json()
    return datetime.fromisoformat(state["clock"]), state


def test_clock_jumps_over_the_close_and_nothing_trades_after_it(simulator):
    answer = _order(simulator, to="2026-11-18T15:39:00")
    assert answer.status_code == 200
    now, state = _clock(simulator)
    assert now.isoformat()[:16] == "2026-11-18T15:39"
    assert state["open"] is True

    answer = _order(simulator, to="2026-11-18T15:41:00")
    now, state = _clock(simulator)
    assert answer.json()["skip_closed"] is False
    assert now.isoformat()[:16] >= "2026-11-18T15:41"
    assert state["open"] is False


async def test_quote_tells_the_time_while_the_market_is_closed(simulator):
    _order(simulator, to="2026-11-18T20:00:00")
    async with await simulator.client() as client:
        answer = await client.get("/quote", params={"i": "NSE:NIFTY 50"})
    stamp = answer.json()["data"]["NSE:NIFTY 50"]["timestamp"]
    assert stamp >= "2026-11-18 20:00:00"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"to": "2020-01-01T10:00:00"}, "to"),
        ({"to": "tomorrow"}, "to"),
        ({"rate": 0}, "body"),
        ({"rate": 100_000}, "body"),
        ({"speed": 2}, "body"),
        ({}, "body"),
    ],
)
def test_order_that_makes_no_sense_is_refused_and_changes_nothing(simulator, body, field):
    _, before = _clock(simulator)
    answer = _order(simulator, **body)
    _, after = _clock(simulator)
    assert answer.status_code == 400
    assert answer.json()["error"]["field"] == field
    assert answer.json()["error"]["fix"]
    assert after["rate"] == before["rate"]


def test_pace_changes_from_now_on(simulator):
    assert _order(simulator, rate=60).json()["rate"] == 60
    assert _clock(simulator)[1]["rate"] == 60
