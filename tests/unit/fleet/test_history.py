"""`tickfleet history`: how it reads times, and what it says when it cannot."""

import subprocess
import sys
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.clock import IST
from services.fleet.history import moment


def iso(epoch_seconds):
    return datetime.fromtimestamp(epoch_seconds, IST).isoformat()


def test_bare_date_is_a_whole_indian_day():
    assert iso(moment("2026-11-18", is_end=False)) == "2026-11-18T00:00:00+05:30"
    assert iso(moment("2026-11-18", is_end=True)) == "2026-11-18T23:59:59+05:30"


@pytest.mark.parametrize("is_end", [False, True])
def test_time_is_indian_unless_it_names_a_zone(is_end):
    assert iso(moment("2026-11-18T09:15", is_end=is_end)) == "2026-11-18T09:15:00+05:30"
    assert iso(moment("2026-11-18 03:45:01Z", is_end=is_end)) == "2026-11-18T09:15:01+05:30"


@given(st.integers(0, 4_000_000_000))
def test_every_moment_is_read_back(second):
    assert moment(iso(second), is_end=False) == second


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "2026-11-18T25:00", "1795410000"])
def test_what_is_no_time_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match="2026-11-18T09:15"):
        moment(text, is_end=False)


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "services.fleet", "history", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_without_a_fleet_it_says_how_to_start_one(tmp_path):
    done = command("256265", "--from", "2026-11-18", "--data-dir", str(tmp_path))
    assert done.returncode == 1
    assert done.stdout == ""
    assert "tickfleet up" in done.stderr
    assert "Traceback" not in done.stderr


def test_time_that_cannot_be_read_is_a_usage_error(tmp_path):
    done = command("256265", "--from", "yesterday", "--data-dir", str(tmp_path))
    assert done.returncode == 2
    assert "yesterday" in done.stderr
