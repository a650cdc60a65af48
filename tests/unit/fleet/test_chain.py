"""`tickfleet chain`: the lines it makes of a chain, and what it says when it cannot."""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from libs.common import contracts
from libs.common.contracts import codec
from libs.common.contracts.messages import Chain, VolCurve
from services.fleet.domain.chain_report import CALL_COLUMNS, chain_report

EXAMPLES = Path(contracts.__file__).parent / "examples"
CHAIN = codec.from_json(Chain, (EXAMPLES / "Chain.json").read_bytes())
CURVE = codec.from_json(VolCurve, (EXAMPLES / "VolCurve.json").read_bytes())


def test_a_chain_says_what_it_is_and_what_it_was_priced_with():
    report = chain_report(CHAIN, CURVE, each_side=15, age_seconds=0.31)
    assert report.headline == (
        "NIFTY 2026-12-29: forward 26,142.60 (future), spot 26,050.10, 36.17 days, "
        "black76 act365 r=0, sim, 0.3 s old"
    )
    assert report.curve == (
        "ATM IV 12.28, straddle 820.20, 25-delta risk reversal -1.42, butterfly 0.32, "
        "put/call OI 0.89, max pain 26100"
    )


def test_calls_and_puts_mirror_each_other_around_the_strike():
    first, second = chain_report(CHAIN, CURVE, each_side=15, age_seconds=0).rows
    assert (first.offset, first.strike) == (0, "26150")
    assert first.call == ("922,350", "406.00", "406.85", "12.41", "0.502")
    assert first.put == ("-0.498", "12.41", "414.25", "413.40", "922,350")
    assert len(first.call) == len(CALL_COLUMNS)
    # What does not exist is a dash and no zero.
    assert set(second.call + second.put) == {"-"}


def test_only_the_strikes_asked_for_are_shown():
    assert [row.offset for row in chain_report(CHAIN, None, each_side=0, age_seconds=0).rows] == [0]


def test_what_a_curve_does_not_know_is_a_dash():
    unknown = {
        field: None
        for field in VolCurve.__struct_fields__
        if field.endswith(("iv", "_25d", "ratio", "pain")) or field == "straddle"
    }
    curve = msgspec.structs.replace(CURVE, **{**unknown, "smile_iv": ()})
    assert chain_report(CHAIN, curve, each_side=1, age_seconds=0).curve == (
        "ATM IV -, straddle -, 25-delta risk reversal -, butterfly -, put/call OI -, max pain -"
    )


@pytest.mark.parametrize(("seconds", "words"), [(119.94, "119.9 s"), (600, "10 min"), (9e3, "2 h")])
def test_age_is_told_in_the_unit_that_fits(seconds, words):
    report = chain_report(CHAIN, None, each_side=1, age_seconds=seconds)
    assert report.headline.endswith(f"{words} old")
    assert report.curve is None


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "services.fleet", "chain", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_without_a_fleet_it_says_how_to_start_one(tmp_path):
    done = command("NIFTY", "--data-dir", str(tmp_path))
    assert (done.returncode, done.stdout) == (1, "")
    assert "tickfleet up" in done.stderr


def test_a_day_that_cannot_be_read_is_a_usage_error(tmp_path):
    done = command("NIFTY", "--expiry", "soon", "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert "soon" in done.stderr
