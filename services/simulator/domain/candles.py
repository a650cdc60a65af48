"""Historical candles: the same paths that stream live, sampled over the days asked for."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from libs.common.domain.clock import IST, NS_PER_SECOND, ist_datetime, ns_of
from libs.common.domain.instruments import Kind
from services.simulator.domain import black76
from services.simulator.domain.market import Market, day_share
from services.simulator.domain.noise import mix
from services.simulator.domain.paths import path_seconds
from services.simulator.errors import InputError

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A candle length that Kite serves.

    Attributes:
        seconds: Length; None for a whole day.
        max_days: Longest span of one request.
        sample_seconds: Distance of the points on the path that make a candle.
    """

    seconds: int | None
    max_days: int
    sample_seconds: int


INTERVALS: Final = {
    "minute": Interval(60, 60, 15),
    "3minute": Interval(180, 100, 15),
    "5minute": Interval(300, 100, 15),
    "10minute": Interval(600, 100, 15),
    "15minute": Interval(900, 200, 15),
    "30minute": Interval(1_800, 200, 15),
    "60minute": Interval(3_600, 400, 60),
    "day": Interval(None, 2_000, 120),
}
_LISTED_BEFORE_EXPIRY: Final = timedelta(days=100)
_FIRST_DAY: Final = date(2015, 2, 2)

Candle = list[Any]
"""[stamp, open, high, low, close, volume] and the open interest when asked for."""


def candles(
    market: Market,
    row: int,
    *,
    interval: str,
    start: datetime,
    end: datetime,
    now_ns: int,
    with_oi: bool,
) -> list[Candle]:
    """Give the candles of an instrument, oldest first.

    Prices are model values on the price grid; live trades lie around them within the spread. It
    takes up to a second of CPU for a request of the longest span: run it off the event loop.

    Args:
        market: The present day's market; earlier days follow the same paths.
        row: Row of the instrument.
        interval: Name of the candle length.
        start: First candle to give, aware.
        end: Last candle to give, inclusive, aware.
        now_ns: Virtual epoch nanoseconds; nothing after it exists.
        with_oi: Whether each candle gets a seventh value.

    Raises:
        InputError: Unknown interval, `end` before `start`, or a span that is too long.
    """
    kind = INTERVALS.get(interval)
    if kind is None:
        raise InputError("invalid interval")
    if end < start:
        raise InputError("invalid from date: it is after the to date")
    if end - start > timedelta(days=kind.max_days):
        raise InputError(f"interval exceeds max limit: {kind.max_days} days")
    sampled = [
        _Day(day, open_ns, min(close_ns, now_ns), kind.sample_seconds)
        for day, open_ns, close_ns in _sessions(
            market, row, start.date(), min(end, ist_datetime(now_ns)).date()
        )
        if open_ns < now_ns
    ]
    if not sampled:
        return []
    # All days in one call: numpy's fixed cost per call would outweigh a day's few hundred points.
    prices = _prices(market, row, np.concatenate([day.at_ns for day in sampled]))
    first = 0
    result: list[Candle] = []
    for day in sampled:
        last = first + len(day.offsets)
        result.extend(
            candle
            for opened, candle in _day_candles(
                market, row, kind, day, prices[first:last], with_oi=with_oi
            )
            if start <= opened <= end
        )
        first = last
    return result


class _Day:
    """The part of a session that has happened, and the points on the path that show it."""

    __slots__ = ("date", "offsets", "open_ns", "until_ns")

    def __init__(self, day: date, open_ns: int, until_ns: int, sample_seconds: int) -> None:
        self.date = day
        self.open_ns = open_ns
        self.until_ns = until_ns
        elapsed = (until_ns - open_ns) // NS_PER_SECOND
        self.offsets: Ints = np.arange(0, elapsed + 1, sample_seconds)

    @property
    def at_ns(self) -> Ints:
        return self.open_ns + self.offsets * NS_PER_SECOND


def _sessions(market: Market, row: int, first: date, last: date) -> Iterator[tuple[date, int, int]]:
    """List the days on which the instrument trades, with the session in epoch nanoseconds."""
    instrument = market.universe.instruments[row]
    if instrument.expiry is not None:
        first = max(first, instrument.expiry - _LISTED_BEFORE_EXPIRY)
        last = min(last, instrument.expiry)
    day = max(first, _FIRST_DAY)
    while day <= last:
        session = market.calendar.session(instrument.exchange, day)
        if session is not None:
            yield day, ns_of(session.open), ns_of(session.close)
        day += timedelta(days=1)


def _day_candles(
    market: Market, row: int, interval: Interval, day: _Day, prices: Ints, *, with_oi: bool
) -> list[tuple[datetime, Candle]]:
    offsets = day.offsets
    length = interval.seconds or 86_400
    # The point on the very close belongs to the candle before it, there is no later one.
    buckets = np.minimum(offsets, max(int(offsets[-1]) - 1, 0)) // length
    firsts = np.flatnonzero(np.diff(buckets, prepend=-1))
    ends = np.append(firsts[1:], len(offsets)) - 1
    highs, lows = np.maximum.reduceat(prices, firsts), np.minimum.reduceat(prices, firsts)
    elapsed = (day.until_ns - day.open_ns) / NS_PER_SECOND
    edges = np.minimum(np.append(buckets[firsts] * length, np.inf), elapsed)
    volumes = np.diff(_traded(market, row, day.date, edges))
    interest = _open_interest(market, row, day.date, edges[1:])
    midnight = datetime.combine(day.date, datetime.min.time(), tzinfo=IST)
    result = []
    for place, (first, end) in enumerate(zip(firsts, ends, strict=True)):
        opened = (
            midnight
            if interval.seconds is None
            else ist_datetime(day.open_ns + int(buckets[first]) * length * NS_PER_SECOND)
        )
        candle: Candle = [
            opened.strftime("%Y-%m-%dT%H:%M:%S+0530"),
            float(prices[first]) / 100,
            float(highs[place]) / 100,
            float(lows[place]) / 100,
            float(prices[end]) / 100,
            int(volumes[place]),
        ]
        if with_oi:
            candle.append(int(interest[place]))
        result.append((opened, candle))
    return result


def _prices(market: Market, row: int, at_ns: Ints) -> Ints:
    """Give the value of one instrument at many moments, in paise on its price grid; int64[t]."""
    universe = market.universe
    instrument = universe.instruments[row]
    member = int(universe.underlying[row])
    rupees: Floats
    if instrument.kind in {Kind.INDEX, Kind.EQUITY}:
        rupees = market.paths.spot(member, path_seconds(at_ns))
    else:
        expiry = int(universe.expiry[row])
        smile = market.paths.smile(
            member, market.smile_keys[:, expiry], market.expiry_ns[expiry], at_ns
        )
        rupees = smile.forward
        if instrument.kind is Kind.OPTION:
            strike = float(universe.strike[row])
            sigma = smile.volatility(smile.moneyness(strike))
            flag = int(universe.flag[row])
            rupees = black76.price(flag, smile.forward, strike, smile.years, sigma)
    tick = int(universe.tick_paise[row])
    return np.asarray(np.maximum(np.rint(rupees * 100 / tick), 1).astype(np.int64) * tick)


def _traded(market: Market, row: int, day: date, seconds: Floats) -> Ints:
    """Give the volume since the open at some moments of a day, in units."""
    lots = market.lots_per_day[row] * _busyness(market, row, day)
    return np.asarray(
        np.floor(lots * day_share(seconds)).astype(np.int64) * int(market.universe.lot[row])
    )


def _open_interest(market: Market, row: int, day: date, seconds: Floats) -> Ints:
    lots = market.lots_open[row] * _busyness(market, row, day) * (1 + 0.1 * day_share(seconds))
    return np.asarray(np.floor(lots).astype(np.int64) * int(market.universe.lot[row]))


def _busyness(market: Market, row: int, day: date) -> float:
    """How busy a day was compared with the present one, which is 1."""
    if day == market.universe.day:
        return 1.0
    bits = int(mix(np.uint64(market.universe.tokens[row]), day.toordinal()))
    return 0.6 + 0.8 * (bits % 1_000) / 1_000
