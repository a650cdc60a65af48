"""`tickfleet chain` on a real NATS server."""

import subprocess
import sys
from datetime import date
from pathlib import Path

import msgspec
import pytest

from libs.common import contracts
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import Chain, VolCurve

pytestmark = pytest.mark.integration

EXAMPLES = Path(contracts.__file__).parent / "examples"
PAST, NEAR, FAR = date(2001, 1, 25), date(2096, 12, 27), date(2097, 1, 31)


@pytest.fixture
async def kept(bus):
    """Chains of M&M for three days, and a curve for one of them."""
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    for day in (FAR, NEAR, PAST):
        example = codec.from_json(Chain, (EXAMPLES / "Chain.json").read_bytes())
        chain = msgspec.structs.replace(example, underlying="M&M", expiry=day)
        await bus.jetstream.publish(subjects.chain("M&M", day), codec.to_json(chain))
    flat = codec.from_json(VolCurve, (EXAMPLES / "VolCurve.json").read_bytes())
    curve = msgspec.structs.replace(flat, underlying="M&M", expiry=NEAR)
    await bus.jetstream.publish(subjects.vol_curve("M&M", NEAR), codec.to_json(curve))


def command(server, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.fleet", "chain", *arguments, "--nats-url", server.url],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={"COLUMNS": "140"},
    )


@pytest.mark.usefixtures("kept")
async def test_the_nearest_expiry_that_is_not_over_is_shown(nats_server):
    done = command(nats_server, "M&M")
    assert (done.returncode, done.stderr) == (0, "")
    first, header, *rows, curve = done.stdout.splitlines()
    assert first.startswith(f"M&M {NEAR}: forward 26,142.60 (future)")
    assert header.split()[-6:] == ["delta", "IV", "%", "ask", "bid", "OI"]
    assert [row.split()[5] for row in rows] == ["26150", "26200"]
    assert curve.startswith("ATM IV 12.28, straddle 820.20")


@pytest.mark.usefixtures("kept")
async def test_another_expiry_is_shown_when_named(nats_server):
    report = msgspec.json.decode(
        command(nats_server, "M&M", "--expiry", str(FAR), "--strikes", "0", "--json").stdout
    )
    assert report["headline"].startswith(f"M&M {FAR}")
    assert [row["strike"] for row in report["rows"]] == ["26150"]
    assert report["curve"] is None


@pytest.mark.usefixtures("kept")
async def test_what_is_not_there_is_told_with_what_is(nats_server):
    done = command(nats_server, "M&M", "--expiry", "2097-02-01")
    assert (done.returncode, done.stdout) == (1, "")
    assert f"no chain of M&M for 2097-02-01; the nearest is {FAR}" in done.stderr
    done = command(nats_server, "MM")
    assert done.returncode == 1
    assert "no chain of MM; there is one of M&M" in done.stderr
