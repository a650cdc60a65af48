"""The pressure gauge: quantiles, one meaning of every level, and no flapping."""

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.messages import Pressure
from services.ingest.domain.pressure import ENTER, WINDOW_SECONDS, PressureGauge, Reading

SECOND = 1_000_000_000
LEVELS = list(Pressure)


def reading(**changes):
    values = {
        "received": 1000,
        "published": 1000,
        "frames": 1000,
        "p95_ms": 0.2,
        "p99_ms": 0.4,
        "pending_bytes": 0,
        "pending_share": 0.0,
    }
    return Reading(**{**values, **changes})


readings = st.builds(
    reading,
    published=st.integers(0, 1000),
    frames=st.integers(0, 200),
    p95_ms=st.none() | st.floats(0, 3000),
    p99_ms=st.none() | st.floats(0, 6000),
    pending_share=st.floats(0, 1),
)


def rank(level):
    return LEVELS.index(level)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("signal", ["missing_share", "p95_ms", "p99_ms", "pending_share"])
def test_any_one_signal_at_its_threshold_enters_the_level(number, signal):
    enter = getattr(ENTER[number], signal)
    changes = {
        "missing_share": {"received": 10_000, "published": round(10_000 * (1 - enter)) - 1},
        "p95_ms": {"p95_ms": enter},
        "p99_ms": {"p99_ms": enter},
        "pending_share": {"pending_share": enter},
    }[signal]
    gauge = PressureGauge(capacity_bytes=1)
    assert gauge.assess(reading(**changes), SECOND) is LEVELS[number + 1]


def test_thresholds_of_a_higher_level_are_higher():
    for lower, higher in itertools.pairwise(ENTER):
        for signal in ("missing_share", "p95_ms", "p99_ms", "pending_share"):
            # Leaving the higher level must not skip into what enters the lower one from below.
            assert getattr(lower, signal) < getattr(higher, signal) * 0.8


@pytest.mark.parametrize(
    "slow", [{"frames": 19, "p95_ms": 9e3, "p99_ms": 9e3}, {"frames": 99, "p99_ms": 9e3}]
)
def test_a_single_slow_frame_among_few_is_no_pressure(slow):
    assert PressureGauge(capacity_bytes=1).assess(reading(**slow), SECOND) is Pressure.HEALTHY


def test_silence_is_healthy():
    gauge = PressureGauge(capacity_bytes=100)
    quiet = gauge.read(pending_bytes=0, at_ns=SECOND)
    assert (quiet.ratio, quiet.p95_ms, quiet.p99_ms) == (1.0, None, None)
    assert gauge.assess(quiet, SECOND) is Pressure.HEALTHY


@given(st.lists(readings, min_size=1, max_size=60), st.integers(1, 3))
def test_level_rises_at_once_and_falls_one_step_after_five_calm_seconds(samples, step_seconds):
    gauge = PressureGauge(capacity_bytes=1)
    at_ns = SECOND
    level = gauge.level
    changed_at_ns = at_ns
    for sample in samples:
        at_ns += step_seconds * SECOND
        entered = PressureGauge(capacity_bytes=1).assess(sample, at_ns)
        now = gauge.assess(sample, at_ns)
        assert rank(now) >= rank(entered)
        if rank(now) > rank(level):
            assert now is entered
        if rank(now) < rank(level):
            assert rank(now) == rank(level) - 1
            assert at_ns - changed_at_ns >= 5 * SECOND
        if now is not level:
            changed_at_ns = at_ns
        level = now


@given(readings, readings)
def test_constant_signals_come_to_rest(before, after):
    gauge = PressureGauge(capacity_bytes=1)
    gauge.assess(before, SECOND)
    seen = [gauge.assess(after, n * SECOND) for n in range(2, 80)]
    assert len(set(seen[40:])) == 1
    steps = [level for level, _ in itertools.groupby(seen)]
    assert steps in (sorted(steps, key=rank), sorted(steps, key=rank, reverse=True))


def test_signal_between_leaving_and_entering_keeps_the_level():
    enter = ENTER[1].p95_ms
    gauge = PressureGauge(capacity_bytes=1)
    gauge.assess(reading(p95_ms=enter), SECOND)
    for second in range(2, 60):
        assert gauge.assess(reading(p95_ms=enter * 0.9), second * SECOND) is Pressure.CRITICAL
    below = [gauge.assess(reading(p95_ms=enter * 0.7), n * SECOND) for n in range(60, 120)]
    assert below[-1] is Pressure.WARNING


@given(st.lists(st.integers(0, 200_000_000_000), min_size=1, max_size=300))
def test_quantiles_are_at_most_a_quarter_above_the_true_ones(latencies_ns):
    gauge = PressureGauge(capacity_bytes=1)
    for latency_ns in latencies_ns:
        gauge.published(1, latency_ns, SECOND)
    found = gauge.read(pending_bytes=0, at_ns=SECOND)
    for share, value_ms in ((0.95, found.p95_ms), (0.99, found.p99_ms)):
        true_us = sorted(latencies_ns)[math.ceil(share * len(latencies_ns)) - 1] // 1000
        limit_us = (1 << 27) - 1
        true_us = min(true_us, limit_us)
        assert value_ms is not None
        assert true_us < value_ms * 1000 <= max(true_us * 1.25 + 1, 1)


@given(
    st.lists(
        st.tuples(st.integers(0, 3 * SECOND), st.integers(0, 50), st.integers(0, 50)), max_size=60
    )
)
def test_window_holds_exactly_the_last_ten_slices(events):
    gauge = PressureGauge(capacity_bytes=1)
    at_ns = 5 * SECOND
    kept = []
    for after_ns, received, published in events:
        at_ns += after_ns
        gauge.received(received, at_ns)
        gauge.published(published, 1000, at_ns)
        kept.append((at_ns // SECOND, received, published))
    found = gauge.read(pending_bytes=3, at_ns=at_ns)
    inside = [e for e in kept if e[0] > at_ns // SECOND - WINDOW_SECONDS]
    assert found.received == sum(e[1] for e in inside)
    assert found.published == sum(e[2] for e in inside)
    assert found.frames == len(inside)
    later = gauge.read(pending_bytes=0, at_ns=at_ns + 11 * SECOND)
    assert (later.received, later.published, later.frames) == (0, 0, 0)


def test_ratio_never_exceeds_one_when_waiting_frames_are_sent_later():
    assert reading(received=10, published=500).ratio == 1.0
