"""The conventions of every expiry of a shard, side by side, and what follows from the calendar."""

from datetime import datetime
from typing import Final

import numpy as np
import numpy.typing as npt

from libs.common.contracts.messages import Convention, PricingModel, YearClock
from libs.common.domain.clock import IST
from libs.common.domain.market_calendar import MarketCalendar
from services.greeks.domain.instrument_table import SPOT_EXCHANGE, Expiry
from services.greeks.domain.policy import Policy
from services.greeks.domain.year_clock import SECONDS_PER_YEAR, TRADING_DAYS_PER_YEAR, YearClocks

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

_CLOSING_AUCTIONS: Final = frozenset({"NSE", "BSE"})
_IST_SECONDS: Final = 19_800
_DAY_SECONDS: Final = 86_400


class ExpiryTerms:
    """What pricing needs to know of each expiry besides prices, by expiry id.

    Args:
        calendar: Sessions and closing auctions.
        policy: The conventions.

    Attributes:
        conventions: Convention of each expiry's underlying.
        names: What a tick calls each.
        rate: float64, per year.
        carry: float64, rate less dividend yield, per year.
        is_bsm: bool.
        theta_scale: float64, from theta per calendar day to theta per day of the clock.
        future_age_s: float64, greatest age; quote, spot and smile likewise.
        quote_age_s: float64.
        spot_age_s: float64.
        smile_age_s: float64.
        settlement_s: float64 epoch seconds from which the settlement price is being made; NaN
            where it is not made from a closing price that this calendar knows.
    """

    def __init__(self, calendar: MarketCalendar, policy: Policy) -> None:
        self._calendar = calendar
        self._policy = policy
        self._clocks = YearClocks(calendar)
        self._instant_s: Floats = np.empty(0)
        self._exchange: npt.NDArray[np.object_] = np.empty(0, np.object_)
        self._by_days: Bools = np.empty(0, np.bool_)
        self._frozen_from: dict[tuple[str, int], float] = {}
        self.conventions: list[Convention] = []
        self.names: list[str] = []
        self.rate: Floats = np.empty(0)
        self.carry: Floats = np.empty(0)
        self.is_bsm: Bools = np.empty(0, np.bool_)
        self.theta_scale: Floats = np.empty(0)
        self.future_age_s: Floats = np.empty(0)
        self.quote_age_s: Floats = np.empty(0)
        self.spot_age_s: Floats = np.empty(0)
        self.smile_age_s: Floats = np.empty(0)
        self.settlement_s: Floats = np.empty(0)

    def use(self, expiries: list[Expiry]) -> None:
        """Learn of expiries that were added; those known stay as they are."""
        known = len(self.conventions)
        if known == len(expiries):
            return
        new = [self._policy.of(expiry.underlying) for expiry in expiries[known:]]
        self.conventions += new
        self.names += [convention.name for convention in new]
        every = self.conventions
        self.rate = np.array([c.rate for c in every])
        self.carry = np.array([c.rate - c.dividend_yield for c in every])
        self.is_bsm = np.array([c.model is PricingModel.BSM for c in every])
        self.future_age_s = np.array([c.future_max_age_seconds for c in every])
        self.quote_age_s = np.array([c.quote_max_age_seconds for c in every])
        self.spot_age_s = np.array([c.spot_max_age_seconds for c in every])
        self.smile_age_s = np.array([c.smile_max_age_seconds for c in every])
        self._instant_s = np.array([e.instant_s for e in expiries])
        self._by_days = np.array([c.clock is YearClock.TRADING252 for c in every])
        self.theta_scale = np.where(self._by_days, 365.0 / TRADING_DAYS_PER_YEAR, 1.0)
        self._exchange = np.array([e.exchange for e in expiries], np.object_)
        begun = [self._settlement_s(expiry) for expiry in expiries[known:]]
        self.settlement_s = np.concatenate((self.settlement_s, np.array(begun)))

    def years(self, which: Ints, at_s: Floats | float) -> Floats:
        """Years to expiry by the clock of each expiry.

        Args:
            which: Expiry ids [n].
            at_s: Epoch seconds, [n] or one for all; 0 for a time that nobody knows gives NaN.
        """
        instant_s = self._instant_s[which]
        at_s = np.where(np.greater(at_s, 0.0), at_s, np.nan)
        years: Floats = (instant_s - at_s) / SECONDS_PER_YEAR
        rows = np.flatnonzero(self._by_days[which])
        if rows.size:
            moments_s = np.broadcast_to(at_s, which.shape)
            exchanges = self._exchange[which]
            for exchange in set(exchanges[rows].tolist()):
                some = rows[exchanges[rows] == exchange]
                years[some] = self._clocks.years(
                    YearClock.TRADING252, exchange, moments_s[some], instant_s[some]
                )
        return years

    def trading_years(self, which: Ints, at_s: Floats | float) -> Floats:
        """Years to expiry by `trading252`, whatever the clock of each expiry [n] is."""
        exchanges = self._exchange[which].tolist()
        moments_s = np.broadcast_to(at_s, which.shape)
        return np.array(
            [
                float(self._clocks.years(YearClock.TRADING252, exchange, moment_s, instant_s))
                for exchange, moment_s, instant_s in zip(
                    exchanges, moments_s.tolist(), self._instant_s[which].tolist(), strict=True
                )
            ]
        )

    def settles(self, which: Ints, at_s: Floats | float) -> Bools:
        """Whether the settlement price of each expiry [n] is being made at a moment."""
        settling: Bools = self.settlement_s[which] <= at_s
        return settling

    def spot_may_stand(self, which: Ints, market_s: float) -> Bools:
        """Whether the spot of each expiry [n] may stand still while its options trade on.

        An index is made of the last trades of its shares; from their closing auction on (from
        their close, before there was one) there are none.
        """
        exchanges = self._exchange[which].tolist()
        stands = {name: market_s >= self._stands_from(name, market_s) for name in set(exchanges)}
        return np.array([stands[name] for name in exchanges], np.bool_)

    def _stands_from(self, exchange: str, market_s: float) -> float:
        """From which second of the market's day on; infinite for markets that do not close so."""
        key = (exchange, int(market_s + _IST_SECONDS) // _DAY_SECONDS)
        if key not in self._frozen_from:
            self._frozen_from.clear()  # Of the days before, nobody asks again.
            cash = SPOT_EXCHANGE.get(exchange, "")
            day = datetime.fromtimestamp(market_s, IST).date()
            session = self._calendar.session(cash, day) if cash in _CLOSING_AUCTIONS else None
            start = None if session is None else session.closing_auction or session.close
            self._frozen_from[key] = np.inf if start is None else start.timestamp()
        return self._frozen_from[key]

    def _settlement_s(self, expiry: Expiry) -> float:
        start = self._calendar.settlement_start(expiry.exchange, expiry.day)
        return np.nan if start is None else start.timestamp()
