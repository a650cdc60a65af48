"""Prices the candles of an option: a forward for each at its end, then all in one call."""

from datetime import date, datetime
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from libs.common.contracts.messages import (
    CandleInterval,
    Convention,
    ForwardSource,
    IvStatus,
    PricingModel,
    YearClock,
)
from libs.common.domain.instruments import Instrument, OptionType
from libs.common.domain.market_calendar import CalendarError, Session
from services.greeks.domain import pricing
from services.greeks.domain.candle_columns import Columns, day_numbers, day_of
from services.greeks.domain.chain_pricer import NO_FORWARD, STATUS_NAMES
from services.greeks.domain.year_clock import DAYS_PER_YEAR, YearClocks

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint8]

ORDER: Final = {
    PricingModel.BLACK76: (ForwardSource.FUTURE, ForwardSource.SYNTHETIC, ForwardSource.SPOT),
    PricingModel.BSM: (ForwardSource.SPOT, ForwardSource.FUTURE, ForwardSource.SYNTHETIC),
}
"""Where a candle's forward comes from, best first."""
SOURCES: Final = (None, *ForwardSource)
"""Forward sources by code; 0 stands for no forward."""
STATUSES: Final = tuple(IvStatus(name) for name in STATUS_NAMES)
"""Statuses by code."""
SECONDS: Final = {
    CandleInterval.MINUTE: 60,
    CandleInterval.MINUTE_3: 180,
    CandleInterval.MINUTE_5: 300,
    CandleInterval.MINUTE_10: 600,
    CandleInterval.MINUTE_15: 900,
    CandleInterval.MINUTE_30: 1_800,
    CandleInterval.HOUR: 3_600,
    CandleInterval.DAY: 86_400,
}
"""Length of each candle; a day's ends with its session."""

_CODE_OF: Final = {source: np.uint8(code) for code, source in enumerate(SOURCES)}
_THETA: Final = pricing.VALUES.index("theta")


class Calendar(Protocol):
    """What is asked of the market calendar."""

    def session(self, exchange: str, day: date) -> Session | None:
        """The session of a day, or None."""

    def expiry_instant(self, exchange: str, expiry: date) -> datetime:
        """The moment at which a contract dies."""


class PricedCandles(NamedTuple):
    """Volatility and Greeks of n candles; NaN where there is none.

    Attributes:
        values: iv, delta, gamma, theta, vega, rho [6, n], theta per day of the year clock.
        status: Code into `STATUSES` [n].
        forward: Rupees [n].
        source: Code into `SOURCES` [n].
        tte: Years by the convention's clock, from the candle's end [n].
    """

    values: Floats
    status: Codes
    forward: Floats
    source: Codes
    tte: Floats


class OptionCandles:
    """Candles of one option while their forwards are gathered, best source first.

    The caller asks `wanted` which source is next and `lacking` which candles still need it, and
    hands over the candles of that instrument; then `priced` solves all of them at once.

    Args:
        option: The contract.
        candles: Its candles [n].
        ends_s: When each ends, epoch seconds [n].
        instant_s: When the contract dies, epoch seconds.
        convention: Of its underlying.
        clocks: Count the years.
    """

    def __init__(
        self,
        option: Instrument,
        candles: Columns,
        *,
        ends_s: Floats,
        instant_s: float,
        convention: Convention,
        clocks: YearClocks,
    ) -> None:
        self._strike = float(option.strike or 0.0)
        self._flag = -1 if option.option_type is OptionType.PUT else 1
        self._candles = candles
        self._convention = convention
        self._tte = _years(clocks, convention.clock, option.exchange, ends_s, instant_s)
        self._forward: Floats = np.full(candles.size, np.nan)
        self._source: Codes = np.zeros(candles.size, np.uint8)

    @property
    def order(self) -> tuple[ForwardSource, ...]:
        """Where forwards come from, best first."""
        return ORDER[self._convention.model]

    @property
    def lacking(self) -> Ints:
        """When the candles begin that have no forward yet, epoch seconds."""
        rows: Ints = np.flatnonzero(self._source == 0)
        return self._candles.start.take(rows)

    def offer(self, source: ForwardSource, leg: Columns) -> None:
        """Take the forwards that one instrument gives to candles that have none yet.

        Args:
            source: What the instrument is: the future, the strike's other leg, or the spot.
            leg: Its candles; those that begin with no candle of the option are not used.
        """
        closes = _closes_at(self._candles.start, leg)
        forwards = self._forwards(source, closes)
        with np.errstate(invalid="ignore"):
            usable = (self._source == 0) & (forwards > 0.0) & np.isfinite(forwards)
        self._forward[usable] = forwards[usable]
        self._source[usable] = _CODE_OF[source]

    def priced(self) -> PricedCandles:
        """Solve every candle, from its close."""
        rate, dividends = self._convention.rate, self._convention.dividend_yield
        count = self._candles.size
        model: pricing.Model = self._convention.model.value
        with np.errstate(over="ignore"):
            df = np.exp(-rate * self._tte)
            spot = self._forward * np.exp((dividends - rate) * self._tte)
        values, status = pricing.compute(
            np.full(count, self._flag),
            self._candles.close,
            self._forward,
            self._strike,
            self._tte,
            df,
            model=model,
            spot=spot if model == "bsm" else None,
        )
        values[_THETA] *= DAYS_PER_YEAR[YearClock.ACT365] / DAYS_PER_YEAR[self._convention.clock]
        status[self._source == 0] = NO_FORWARD
        return PricedCandles(values, status, self._forward, self._source, self._tte)

    def _forwards(self, source: ForwardSource, closes: Floats) -> Floats:
        """What the closes of an instrument say of the forward, rupees [n]; NaN for nothing."""
        rate, dividends = self._convention.rate, self._convention.dividend_yield
        closes = np.where(closes > 0.0, closes, np.nan)
        # After its end a contract earns no interest.
        left = np.maximum(self._tte, 0.0)
        if source is ForwardSource.FUTURE:
            return closes
        if source is ForwardSource.SPOT:
            return np.asarray(closes * np.exp((rate - dividends) * left))
        own = np.where(self._candles.close > 0.0, self._candles.close, np.nan)
        gap = self._flag * (own - closes)
        return np.asarray(self._strike + gap * np.exp(rate * left))


def ends_of(
    start: Ints,
    interval: CandleInterval,
    exchange: str,
    *,
    calendar: Calendar,
    now_s: float | None = None,
) -> Floats:
    """When candles end: after their length, but not after their session.

    Args:
        start: When they begin, epoch seconds, ascending [n].
        interval: Their length.
        exchange: Whose sessions count.
        calendar: Knows them.
        now_s: The market's time, if the last candle may still be running: then it ends now.

    Returns:
        Epoch seconds [n].
    """
    if not start.size:
        return np.empty(0)
    days, place = np.unique(day_numbers(start), return_inverse=True)
    closes = np.array([_close_of(calendar, exchange, number) for number in days.tolist()])[place]
    ends: Floats = start + np.float64(SECONDS[interval])
    # A candle that begins after the close, by a session this calendar does not know, keeps its
    # length.
    ends[:] = np.where(closes > start, np.minimum(ends, closes), ends)
    # Only the last one can be running: a candle behind it proves that it is over.
    if now_s is not None and start[-1] <= now_s < ends[-1]:
        ends[-1] = now_s
    return ends


def may_run(start: Ints, closed_before: int) -> bool:
    """Whether the last of some candles may still be running; none outlives its day.

    Args:
        start: When they begin, epoch seconds, ascending [n].
        closed_before: Days before this one are over, by number.
    """
    return bool(start.size) and int(day_numbers(start[-1:])[0]) >= closed_before


def death_of(option: Instrument, calendar: Calendar) -> float:
    """When an option dies, epoch seconds; NaN where the calendar cannot tell."""
    if option.expiry is None:
        return np.nan
    try:
        return calendar.expiry_instant(option.exchange, option.expiry).timestamp()
    except CalendarError:
        return np.nan


def _close_of(calendar: Calendar, exchange: str, number: int) -> float:
    """The end of a day's session, epoch seconds; NaN where the calendar cannot tell."""
    day = day_of(number)
    try:
        session = calendar.session(exchange, day)
        # There are candles, so there was a session, if only an unannounced one: the usual close.
        close = calendar.expiry_instant(exchange, day) if session is None else session.close
    except CalendarError:
        return np.nan
    return close.timestamp()


def _closes_at(start: Ints, leg: Columns) -> Floats:
    """The close of the leg's candle that begins with each moment [n]; NaN where there is none."""
    found = np.full(start.size, np.nan)
    if leg.size:
        place = np.minimum(np.searchsorted(leg.start, start), leg.size - 1)
        same = leg.start[place] == start
        found[same] = leg.close[place[same]]
    return found


def _years(
    clocks: YearClocks, clock: YearClock, exchange: str, ends_s: Floats, instant_s: float
) -> Floats:
    """Years from the end of each candle to the death of the contract [n]; NaN if unknown."""
    try:
        return clocks.years(clock, exchange, ends_s, instant_s)
    except CalendarError:
        return np.full(ends_s.shape, np.nan)
