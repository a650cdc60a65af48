"""One underlying's one-second bars: prices go in, seconds that came to their end come out."""

from typing import Final, NamedTuple

import msgspec

from services.greeks.domain.market_clock import MarketClock

SKEW_SECONDS: Final = 1
"""Two connections may differ by so much in the exchange second that they deliver."""


class Moment(NamedTuple):
    """A point in the frames of a shard, in the seconds of both clocks; None where not known.

    Attributes:
        stamped_s: Newest exchange timestamp up to there, epoch seconds.
        received_s: When the frame there was received, epoch seconds.
    """

    stamped_s: int | None
    received_s: int | None


NOWHERE: Final = Moment(None, None)


class PriceTick(NamedTuple):
    """What one packet says of the underlying.

    Attributes:
        second: Exchange timestamp, or where the packet has none the second of its receipt.
        is_stamped: Whether `second` is an exchange timestamp.
        price: Rupees, above 0.
        volume: Units traded on the day so far; None if not told.
        token: Of the instrument.
        received_ns: When it was received, epoch nanoseconds.
    """

    second: int
    is_stamped: bool
    price: float
    volume: int | None
    token: int
    received_ns: int


class Made(NamedTuple):
    """One version of a second that is over.

    Attributes:
        start_s: Epoch seconds.
        token: Of the instrument whose ticks made it.
        open: First price, rupees; high, low and close accordingly.
        high: Greatest.
        low: Smallest.
        close: Last.
        volume: Traded within the second, None if that cannot be told.
        ticks: How many made it.
        gap_seconds: Seconds without a tick before it.
        revision: 0 for the first version.
    """

    start_s: int
    token: int
    open: float
    high: float
    low: float
    close: float
    volume: int | None
    ticks: int
    gap_seconds: int
    revision: int


class BarTally(msgspec.Struct):
    """What became of ticks and seconds that did not simply make a bar.

    Attributes:
        late: Ticks of a second that was already published; they made its bar again.
        too_late: Ticks that came later than that and were left out.
        cut: Seconds that were left out because reading began within them.
    """

    late: int = 0
    too_late: int = 0
    cut: int = 0


class _Second(msgspec.Struct, gc=False):
    """What is known of one second.

    `first` and `last` are the day's volume as its ticks told it, `traded` is what they rose by.
    """

    start_s: int
    token: int
    open: float
    high: float
    low: float
    close: float
    first: int | None
    last: int | None
    is_stamped: bool
    is_whole: bool
    ticks: int = 1
    traded: int = 0
    versions: int = 0
    told: tuple[int | None, int] = (None, 0)

    def price(self, price: float) -> None:
        """Note one more price, newer than those before."""
        self.high = max(self.high, price)
        self.low = min(self.low, price)
        self.close = price
        self.ticks += 1

    def count(self, volume: int) -> None:
        """Note a volume of the day. Within one second a smaller one is merely an older one."""
        if self.first is None or self.last is None:
            self.first = self.last = volume
        elif volume > self.last:
            self.traded += volume - self.last
            self.last = volume


class BarSeries:
    """The seconds of one underlying, the newest of which may still be open.

    A second is over when a tick of a later one comes, or when the owner says so (`close`). Each
    version of one that is over is returned once. The result depends on the ticks and their order
    alone, never on how they were cut into batches; only the revision depends on when `close` came.

    Args:
        late_seconds: Ticks so many seconds behind the newest second still count.
        begun: From where on the frames are known.
        tally: Counts are added to it.
    """

    __slots__ = ("_begun", "_clock", "_late_seconds", "_seconds", "_tally", "_whole_from_s")

    def __init__(self, *, late_seconds: int, begun: Moment, tally: BarTally) -> None:
        self._tally = tally
        self._late_seconds = late_seconds
        self._begun = begun
        self._clock = MarketClock()
        self._seconds: list[_Second] = []
        self._whole_from_s: int | None = None

    @property
    def is_open(self) -> bool:
        """Whether the newest second has ticks and is not over yet."""
        return bool(self._seconds) and not self._seconds[-1].versions

    @property
    def newest_s(self) -> int | None:
        """The newest second with a tick, epoch seconds; None before the first."""
        return self._seconds[-1].start_s if self._seconds else None

    @property
    def token(self) -> int | None:
        """Of the instrument that made the newest second; None before the first."""
        return self._seconds[-1].token if self._seconds else None

    @property
    def is_stamped(self) -> bool:
        """Whether the newest second is one of the exchange's clock."""
        return bool(self._seconds) and self._seconds[-1].is_stamped

    def take(self, tick: PriceTick) -> list[Made]:
        """Add one tick; gives what it brings to its end or changes, oldest first."""
        made: list[Made] = []
        if self._clock.advance(tick.second, tick.received_ns):
            # Another day, or a feed that started over: nothing may be linked across.
            made += self.restart(NOWHERE)
            self._clock.advance(tick.second, tick.received_ns)
        newest = self._seconds[-1] if self._seconds else None
        if newest is None or tick.second > newest.start_s:
            made += self.close()
            self._seconds.append(self._begin(tick))
            self._trim()
        elif tick.second == newest.start_s and not newest.versions:
            newest.price(tick.price)
            if tick.volume is not None:
                newest.count(tick.volume)
        elif newest.start_s - tick.second > self._late_seconds:
            self._tally.too_late += 1
        else:
            self._tally.late += 1
            made += self._take_late(tick)
        return made

    def close(self) -> list[Made]:
        """End the newest second if it is open."""
        return self._make(len(self._seconds) - 1) if self.is_open else []

    def restart(self, begun: Moment) -> list[Made]:
        """End the newest second and forget everything.

        Args:
            begun: From where on the frames of what follows are known.
        """
        made = self.close()
        self._seconds.clear()
        self._clock = MarketClock()
        self._whole_from_s = None
        self._begun = begun
        return made

    def begin_at(self, begun: Moment) -> None:
        """Say from where on the frames are known, before the first tick."""
        self._begun = begun

    def _begin(self, tick: PriceTick) -> _Second:
        if self._whole_from_s is None:
            known = self._begun.stamped_s if tick.is_stamped else self._begun.received_s
            self._whole_from_s = tick.second + 1 if known is None else known + SKEW_SECONDS + 1
        return _Second(
            start_s=tick.second,
            token=tick.token,
            open=tick.price,
            high=tick.price,
            low=tick.price,
            close=tick.price,
            first=tick.volume,
            last=tick.volume,
            is_stamped=tick.is_stamped,
            is_whole=tick.second >= self._whole_from_s,
        )

    def _take_late(self, tick: PriceTick) -> list[Made]:
        """Make a second again, and those after it whose volume or gap that changes."""
        seconds = self._seconds
        at = len(seconds)
        while at and seconds[at - 1].start_s >= tick.second:
            at -= 1
        if at < len(seconds) and seconds[at].start_s == tick.second:
            late = seconds[at]
            late.price(tick.price)
        else:
            late = self._begin(tick)
            late.first = late.last = None
            seconds.insert(at, late)
        if tick.volume is not None:
            late.count(self._between(at, tick.volume))
        made = self._make(at)
        for later in range(at + 1, len(seconds)):
            if seconds[later].versions and seconds[later].told != self._links(later):
                made += self._make(later)
        return made

    def _make(self, at: int) -> list[Made]:
        second = self._seconds[at]
        volume, gap_seconds = second.told = self._links(at)
        second.versions += 1
        if not second.is_whole:
            self._tally.cut += second.versions == 1
            return []
        return [
            Made(
                start_s=second.start_s,
                token=second.token,
                open=second.open,
                high=second.high,
                low=second.low,
                close=second.close,
                volume=volume,
                ticks=second.ticks,
                gap_seconds=gap_seconds,
                revision=second.versions - 1,
            )
        ]

    def _links(self, at: int) -> tuple[int | None, int]:
        """Volume and gap of a second: what depends on the one before it."""
        second = self._seconds[at]
        gap_seconds = second.start_s - self._seconds[at - 1].start_s - 1 if at else 0
        before = self._reached(at)
        if second.first is None or before is None:
            return None, gap_seconds
        # Less than before: a new day, counted from the first volume that it tells.
        return second.traded + max(0, second.first - before), gap_seconds

    def _reached(self, at: int) -> int | None:
        """The day's volume of the same instrument when a second began; None if not known."""
        token = self._seconds[at].token
        for second in reversed(self._seconds[:at]):
            if second.token != token:
                return None
            if second.last is not None:
                return second.last
        return None

    def _between(self, at: int, volume: int) -> int:
        """A late volume of the day, held between those of the seconds around its own."""
        before = self._reached(at)
        if before is not None:
            volume = max(volume, before)
        token = self._seconds[at].token
        for second in self._seconds[at + 1 :]:
            if second.token != token:
                break
            if second.first is not None:
                return min(volume, second.first)
        return volume

    def _trim(self) -> None:
        """Forget what no tick can change, but for the one that the oldest of the rest follows."""
        seconds = self._seconds
        oldest_s = seconds[-1].start_s - self._late_seconds
        while len(seconds) > 1 and seconds[1].start_s < oldest_s:
            if seconds[1].last is None and seconds[1].token == seconds[0].token:
                seconds[1].last = seconds[0].last
            del seconds[0]
