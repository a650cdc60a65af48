"""Accounts of a running fleet: switched off and on by the command line, seen everywhere."""

import asyncio
import json
import os
import subprocess
import sys

import httpx
import pytest

from tests.fleet.fleet_process import running_fleet

pytestmark = [pytest.mark.fleet, pytest.mark.timeout(240)]


@pytest.fixture
def fleet(tmp_path):
    """A fleet of its own: what moves to another account stays there."""
    with running_fleet(tmp_path / "data", "--accounts", "2", "--greeks", "1") as started:
        yield started


def tickfleet(fleet, *arguments):
    """Run the command as a person does in another terminal."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NATS_", "KITE_"))}
    done = subprocess.run(
        [sys.executable, "-m", "services.fleet", *arguments, "--data-dir", str(fleet.folder)],
        check=False,
        capture_output=True,
        text=True,
        timeout=60,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(fleet):
    """What the gateway shows, by account."""
    body = httpx.get(f"{fleet.gateway}/accounts", timeout=10).json()
    return {item["account"]: item for item in body["items"]}


async def test_disabled_account_stops_and_the_others_take_its_instruments(fleet):
    await fleet.until_healthy()
    before = rows(fleet)
    assert {name: row["condition"] for name, row in before.items()} == {
        "sim1": "ready",
        "sim2": "ready",
    }
    total = sum(row["planned"] for row in before.values())
    assert all(row["planned"] for row in before.values())

    assert "disabled" in await asyncio.to_thread(tickfleet, fleet, "accounts", "disable", "sim2")

    def has_moved():
        now = rows(fleet)
        return (now["sim1"]["planned"], now["sim2"]["planned"]) == (total, 0)

    await fleet.until(has_moved, "sim1 streams everything")
    await fleet.until(
        lambda: (
            [
                row["connections"]
                for _, row in httpx.get(f"{fleet.simulator}/sim/state", timeout=10)
                .json()["accounts"]
                .items()
            ].count(0)
            == 1
        ),
        "the disabled account has no connection",
    )
    await fleet.until_healthy()
    listed = json.loads(await asyncio.to_thread(tickfleet, fleet, "accounts", "list", "--json"))
    assert {row["account"]: row["condition"] for row in listed} == {
        "sim1": "ready",
        "sim2": "disabled",
    }
    # The last one too: what is switched off stops, also when nobody can ask for the time.
    await asyncio.to_thread(tickfleet, fleet, "accounts", "disable", "sim1")
    await fleet.until(
        lambda: not sum(row["planned"] for row in rows(fleet).values()), "nothing is planned"
    )
    for name in ("sim1", "sim2"):
        await asyncio.to_thread(tickfleet, fleet, "accounts", "enable", name)
    await fleet.until(
        lambda: sum(row["planned"] for row in rows(fleet).values()) == total,
        "everything is planned again",
    )
    await fleet.until_healthy()
