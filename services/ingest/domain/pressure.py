"""How hard it is to publish what is received: one level from four signals, with hysteresis."""

import math
from enum import IntEnum
from typing import Final

import msgspec

from libs.common.contracts.messages import Pressure

_NS_PER_SECOND: Final = 1_000_000_000
_SLICE_NS: Final = _NS_PER_SECOND
_SLICES: Final = 10
WINDOW_SECONDS: Final = _SLICES * _SLICE_NS // _NS_PER_SECOND
"""Ratio and latencies are those of the last so many seconds."""

# Latency buckets: exact below 4 µs, then four to an octave (each at most a quarter wide) up to two
# minutes. Counting into one is a shift; a quantile is read off without keeping a sample.
_OCTAVE_PARTS: Final = 4
_BUCKETS: Final = 26 * _OCTAVE_PARTS
_LONGEST_US: Final = (1 << 27) - 1

# Fewer frames in the window have no one in twenty, or in a hundred: the slowest alone would decide.
_FRAMES_FOR_P95: Final = 20
_FRAMES_FOR_P99: Final = 100

# A level is left only when every signal is this share below what would enter it, for so long.
_LEAVE_SHARE: Final = 0.8
_LEAVE_SECONDS: Final = 5.0

_LEVELS: Final = (Pressure.HEALTHY, Pressure.WARNING, Pressure.CRITICAL, Pressure.OVERLOAD)


class _Rank(IntEnum):
    HEALTHY = 0
    WARNING = 1
    CRITICAL = 2
    OVERLOAD = 3


class Thresholds(msgspec.Struct, frozen=True, kw_only=True):
    """What enters a level; reaching any one of the four is enough.

    Attributes:
        missing_share: Of the packets received in the window, those not published.
        p95_ms: From frame received to handed to the socket.
        p99_ms: As above.
        pending_share: Of the bytes that may wait for NATS, those that do.
    """

    missing_share: float
    p95_ms: float
    p99_ms: float
    pending_share: float


ENTER: Final = (
    Thresholds(missing_share=0.05, p95_ms=50, p99_ms=100, pending_share=0.10),
    Thresholds(missing_share=0.20, p95_ms=250, p99_ms=500, pending_share=0.40),
    Thresholds(missing_share=0.50, p95_ms=1_000, p99_ms=2_000, pending_share=0.80),
)
"""What enters WARNING, CRITICAL and OVERLOAD. The only definition: README and metrics cite it."""


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """The signals at one moment.

    Attributes:
        received: Packets received in the window.
        published: Packets handed to the socket in the window, those that had waited included.
        frames: How many latencies the window holds.
        p95_ms: From frame received to handed to the socket; None without a frame.
        p99_ms: As above.
        pending_bytes: Waiting for NATS now.
        pending_share: The same as a share of what may wait.
    """

    received: int
    published: int
    frames: int
    p95_ms: float | None
    p99_ms: float | None
    pending_bytes: int
    pending_share: float

    @property
    def ratio(self) -> float:
        """Published to received, at most 1; 1 when nothing was received."""
        return min(1.0, self.published / self.received) if self.received else 1.0


class PressureGauge:
    """Counts frames into a sliding window and tells the level.

    A level rises at once, and falls step by step: each step once every signal has been a fifth
    below what would enter the level for five seconds, so that it does not flap.

    Times are nanoseconds of one clock that never runs backwards. Counting costs about a
    microsecond and allocates nothing.

    Args:
        capacity_bytes: How many bytes may wait for NATS.
    """

    def __init__(self, *, capacity_bytes: int) -> None:
        self._capacity_bytes = capacity_bytes
        self._slice = 0
        self._place = 0
        self._received = [0] * _SLICES
        self._published = [0] * _SLICES
        self._latencies = [[0] * _BUCKETS for _ in range(_SLICES)]
        self._rank = _Rank.HEALTHY
        self._calm_since_ns: int | None = None

    @property
    def level(self) -> Pressure:
        """The level as of the last `assess`."""
        return _LEVELS[self._rank]

    def received(self, packets: int, at_ns: int) -> None:
        """Count packets that should be published."""
        if at_ns // _SLICE_NS != self._slice:
            self._turn(at_ns)
        self._received[self._place] += packets

    def published(self, packets: int, latency_ns: int, at_ns: int) -> None:
        """Count packets that were handed to the socket, and how long after their reception."""
        if at_ns // _SLICE_NS != self._slice:
            self._turn(at_ns)
        self._published[self._place] += packets
        self._latencies[self._place][_bucket(latency_ns // 1_000)] += 1

    def read(self, *, pending_bytes: int, at_ns: int) -> Reading:
        """The signals now."""
        self._turn(at_ns)
        counts = [sum(column) for column in zip(*self._latencies, strict=True)]
        frames = sum(counts)
        return Reading(
            received=sum(self._received),
            published=sum(self._published),
            frames=frames,
            p95_ms=_quantile_ms(counts, frames, 0.95),
            p99_ms=_quantile_ms(counts, frames, 0.99),
            pending_bytes=pending_bytes,
            pending_share=min(1.0, pending_bytes / self._capacity_bytes),
        )

    def assess(self, reading: Reading, at_ns: int) -> Pressure:
        """Move the level by a reading; call it about once a second."""
        entered = _rank_of(reading, 1.0)
        if entered >= self._rank:
            self._rank = entered
            self._calm_since_ns = None
        elif _rank_of(reading, _LEAVE_SHARE) >= self._rank:
            self._calm_since_ns = None
        elif self._calm_since_ns is None:
            self._calm_since_ns = at_ns
        elif at_ns - self._calm_since_ns >= _LEAVE_SECONDS * _NS_PER_SECOND:
            self._rank = _Rank(self._rank - 1)
            self._calm_since_ns = at_ns
        return self.level

    def _turn(self, at_ns: int) -> None:
        """Empty the slices between the last count and now."""
        now = at_ns // _SLICE_NS
        for number in range(max(self._slice + 1, now - _SLICES + 1), now + 1):
            place = number % _SLICES
            self._received[place] = self._published[place] = 0
            self._latencies[place] = [0] * _BUCKETS
        self._slice = max(self._slice, now)
        self._place = self._slice % _SLICES


def _rank_of(reading: Reading, share: float) -> _Rank:
    """The highest level of which a signal reaches this share of the threshold."""
    for rank, enter in zip(
        (_Rank.OVERLOAD, _Rank.CRITICAL, _Rank.WARNING), ENTER[::-1], strict=True
    ):
        if (
            1 - reading.ratio >= enter.missing_share * share
            or reading.pending_share >= enter.pending_share * share
            or _reaches(reading.p95_ms, enter.p95_ms * share, reading.frames >= _FRAMES_FOR_P95)
            or _reaches(reading.p99_ms, enter.p99_ms * share, reading.frames >= _FRAMES_FOR_P99)
        ):
            return rank
    return _Rank.HEALTHY


def _reaches(value: float | None, limit: float, is_telling: bool) -> bool:  # noqa: FBT001  # Reads well.
    return is_telling and value is not None and value >= limit


def _bucket(microseconds: int) -> int:
    if microseconds < _OCTAVE_PARTS:
        return max(microseconds, 0)
    microseconds = min(microseconds, _LONGEST_US)
    bits = microseconds.bit_length()
    return (bits - 2) * _OCTAVE_PARTS + (microseconds >> (bits - 3) & 3)


def _upper_us(bucket: int) -> int:
    """The first value beyond a bucket."""
    if bucket < _OCTAVE_PARTS:
        return bucket + 1
    octave, part = divmod(bucket, _OCTAVE_PARTS)
    return (_OCTAVE_PARTS + part + 1) << (octave - 1)


def _quantile_ms(counts: list[int], total: int, share: float) -> float | None:
    """The upper end of the bucket in which the quantile lies: at most a quarter too much."""
    if not total:
        return None
    # The smallest value that at least this share of all values do not exceed.
    rank = math.ceil(share * total)
    seen = 0
    for bucket, count in enumerate(counts):
        seen += count
        if seen >= rank:
            return _upper_us(bucket) / 1_000
    raise AssertionError("a quantile lies among the values")  # pragma: no cover
