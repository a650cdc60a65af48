"""Gathers the bars of a shard: finds the packets of its underlyings and ends their seconds."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from libs.common.contracts import subjects
from libs.common.contracts.messages import Bar, Source
from libs.common.kite.frames import ABSENT
from services.greeks.domain.bar_series import (
    NOWHERE,
    BarSeries,
    BarTally,
    Made,
    Moment,
    PriceTick,
)
from services.greeks.domain.instrument_table import BarSource
from services.greeks.domain.packets import Packets

Ints = npt.NDArray[np.int64]

_NS_PER_SECOND: Final = 1_000_000_000


class BarMessage(NamedTuple):
    """A bar, ready to be published.

    Attributes:
        subject: Where it goes.
        bar: The bar.
    """

    subject: str
    bar: Bar


class _Feed(NamedTuple):
    """An instrument that makes bars, and for which seconds."""

    underlying: str
    series: BarSeries
    from_s: float
    until_s: float


class Bars:
    """The one-second bars of a shard's underlyings, for one lease term.

    A second is over when a tick of a later one comes, or when it is older than the grace by the
    shard's market time: by the newest exchange timestamp of any instrument, which the worker's
    clock carries on from the moment it was seen. Seconds of packets without a timestamp are
    measured by the clock alone.

    The second in which reading began is never given out: ticks of it may lie before. A new owner
    therefore reads some frames that the one before has worked on (`discard` what they bring), and
    so gives out the second that was open in between as a whole.

    Args:
        epoch: The lease term; stands in every bar.
        grace_seconds: How long after its end a second waits for its ticks.
        late_seconds: Ticks so many seconds behind make a bar again, later ones are left out.
        capacity: Slots there are.

    Attributes:
        ready: Bars to be published, in this order.
        tally: What became of late ticks since it was last looked at.
    """

    def __init__(
        self, *, epoch: int, grace_seconds: float, late_seconds: int, capacity: int
    ) -> None:
        self.ready: deque[BarMessage] = deque()
        self.tally = BarTally()
        self._epoch = epoch
        self._grace_ns = int(grace_seconds * _NS_PER_SECOND)
        self._late_seconds = late_seconds
        self._is_source: npt.NDArray[np.bool_] = np.zeros(capacity, np.bool_)
        self._feeds: dict[int, _Feed] = {}
        self._sources: dict[str, tuple[BarSource, ...]] = {}
        self._series: dict[str, BarSeries] = {}
        self._subjects: dict[str, str] = {}
        # Those whose newest second is open, so that nobody looks at the thousands without ticks.
        self._open: dict[str, BarSeries] = {}
        self._has_begun = False
        self._market_s = 0
        self._market_seen_ns = 0
        self._received_ns = 0
        self._source = Source.SIM

    def grow(self, capacity: int) -> None:
        """Make room for more slots."""
        extra = capacity - self._is_source.size
        if extra > 0:
            self._is_source = np.concatenate((self._is_source, np.zeros(extra, np.bool_)))

    def use_sources(
        self, underlying: str, sources: Sequence[BarSource], reused: Iterable[int] = ()
    ) -> None:
        """Take a new choice of the instruments that make an underlying's bars.

        What is known of its seconds is kept unless another instrument makes the newest one now.

        Args:
            underlying: Its name.
            sources: At most one per second.
            reused: Slots that mean another contract now.
        """
        chosen = tuple(sources)
        before = self._sources.get(underlying, ())
        changed = not {source.slot for source in before}.isdisjoint(reused)
        if chosen == before and not changed:
            return
        for source in before:
            self._is_source[source.slot] = False
            del self._feeds[source.slot]
        series = self._series.get(underlying)
        if series is None:
            self._subjects[underlying] = subjects.bar(underlying)
            series = self._series[underlying] = BarSeries(
                late_seconds=self._late_seconds, begun=self._now(), tally=self.tally
            )
        newest_s = series.newest_s
        if newest_s is not None and (
            changed
            or not any(s.token == series.token and s.from_s <= newest_s < s.until_s for s in chosen)
        ):
            self._give(underlying, series.restart(self._now()))
            self._open.pop(underlying, None)
        self._sources[underlying] = chosen
        for source in chosen:
            self._is_source[source.slot] = True
            self._feeds[source.slot] = _Feed(underlying, series, source.from_s, source.until_s)

    def take(
        self,
        slots: Ints,
        packets: Packets,
        received_ns: Sequence[int],
        source: str,
        *,
        market_s: int,
        now_ns: int,
    ) -> None:
        """Add every packet of a batch, and end the seconds that it shows to be over.

        Args:
            slots: Slot of each packet, oldest first [n]; instruments may come more than once.
            packets: The packets [n].
            received_ns: When each frame was received, epoch nanoseconds.
            source: `live` or `sim`.
            market_s: Newest exchange timestamp of the shard, this batch included; 0 for none.
            now_ns: The worker's clock, epoch nanoseconds.
        """
        self._source = Source(source)
        if not self._has_begun:
            self._begin(packets, received_ns)
        if market_s != self._market_s:
            self._market_s, self._market_seen_ns = market_s, now_ns
        self._received_ns = received_ns[-1]
        rows = np.flatnonzero(self._is_source[slots])
        for slot, token, stamp, price, volume, frame in zip(
            slots[rows].tolist(),
            packets.token[rows].tolist(),
            packets.exchange_ts_s[rows].tolist(),
            packets.last_price[rows].tolist(),
            packets.volume[rows].tolist(),
            packets.frame[rows].tolist(),
            strict=True,
        ):
            feed = self._feeds[slot]
            second = stamp or received_ns[frame] // _NS_PER_SECOND
            if not (price > 0.0 and feed.from_s <= second < feed.until_s):
                continue
            tick = PriceTick(
                second=second,
                is_stamped=stamp > 0,
                price=price,
                volume=None if volume == ABSENT else volume,
                token=token,
                received_ns=received_ns[frame],
            )
            self._give(feed.underlying, feed.series.take(tick))
            if feed.series.is_open:
                self._open[feed.underlying] = feed.series
        self._end(market_s * _NS_PER_SECOND, self._received_ns)

    def end_overdue(self, now_ns: int) -> None:
        """End the seconds that are over by the worker's clock, epoch nanoseconds.

        Only for a worker that has read what there is: what waits belongs to those seconds.
        """
        self._end(self._market_s * _NS_PER_SECOND + now_ns - self._market_seen_ns, now_ns)

    def restart(self) -> None:
        """Another market speaks: end what is open, link nothing to it."""
        for underlying, series in self._series.items():
            self._give(underlying, series.restart(NOWHERE))
        self._open.clear()
        self._has_begun = False
        self._market_s = 0

    def discard(self) -> None:
        """Forget what is ready: the owner before has published it."""
        self.ready.clear()
        self.take_tally()

    def take_tally(self) -> BarTally:
        """Give the counts since the last call."""
        tally = self.tally
        found = BarTally(late=tally.late, too_late=tally.too_late, cut=tally.cut)
        tally.late = tally.too_late = tally.cut = 0
        return found

    def _begin(self, packets: Packets, received_ns: Sequence[int]) -> None:
        """Note from where on the frames are known."""
        self._has_begun = True
        stamps = packets.exchange_ts_s
        stamped = stamps > 0
        # By the first frame alone: what comes later in the batch is known in full.
        first = stamps[packets.frame == packets.frame[int(stamped.argmax())]]
        begun = Moment(
            int(first.max()) if stamped.any() else None, received_ns[0] // _NS_PER_SECOND
        )
        for series in self._series.values():
            series.begin_at(begun)

    def _now(self) -> Moment:
        """How far the frames have been read."""
        if not self._has_begun:
            return NOWHERE
        return Moment(self._market_s or None, self._received_ns // _NS_PER_SECOND)

    def _end(self, market_ns: int, received_ns: int) -> None:
        """End the open seconds that are older than the grace, by the clock that counts them."""
        for underlying, series in list(self._open.items()):
            if series.newest_s is not None and series.is_open:
                end_ns = (series.newest_s + 1) * _NS_PER_SECOND + self._grace_ns
                if (market_ns if series.is_stamped else received_ns) < end_ns:
                    continue
                self._give(underlying, series.close())
            del self._open[underlying]

    def _give(self, underlying: str, made: Iterable[Made]) -> None:
        for second in made:
            bar = Bar(
                underlying=underlying,
                instrument_token=second.token,
                start=second.start_s * _NS_PER_SECOND,
                open=second.open,
                high=second.high,
                low=second.low,
                close=second.close,
                volume=second.volume,
                ticks=second.ticks,
                gap_seconds=second.gap_seconds,
                revision=second.revision,
                epoch=self._epoch,
                source=self._source,
            )
            self.ready.append(BarMessage(self._subjects[underlying], bar))
