"""Explains an option's Greeks: every input with its age, the forward's candidates, other views."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from libs.common.contracts.messages import (
    Convention,
    ExplainedParity,
    ExplainedPrice,
    ExplainedView,
    Explanation,
    ForwardSource,
    GreeksFrom,
    IvStatus,
    PricingModel,
    Source,
    YearClock,
)
from libs.common.domain.clock import IST
from libs.common.domain.instruments import Instrument, OptionType
from services.greeks.domain import convention_views
from services.greeks.domain.book import Book
from services.greeks.domain.chain_pricer import (
    GREEKS_FROM,
    STATUS_NAMES,
    Contracts,
    Engine,
    borrow_smile,
    marked,
    solve,
)
from services.greeks.domain.convention_views import (
    CALENDAR_DAYS_PER_YEAR,
    NSE_RATE,
    PER_TRADING_DAY,
    Inputs,
    View,
    or_none,
    percent,
    told_of,
    years_of_seconds,
)
from services.greeks.domain.expiry_terms import ExpiryTerms
from services.greeks.domain.forward import SOURCES, Forwards, parity_forwards
from services.greeks.domain.instrument_table import NOBODY, Expiry, InstrumentTable
from services.greeks.domain.policy import Policy
from services.greeks.domain.year_clock import DAYS_PER_YEAR, TRADING_DAYS_PER_YEAR

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

_NS_PER_SECOND: Final = 1_000_000_000
_SHOWN_MAX: Final = 3
"""So many times the strikes of a parity forward are shown, when those nearest cannot be used."""
_MODELS: Final = {PricingModel.BLACK76: "Black-76", PricingModel.BSM: "Black-Scholes-Merton"}
_NAMES: Final = {
    ForwardSource.FUTURE: "future",
    ForwardSource.SYNTHETIC: "synthetic future",
    ForwardSource.SPOT: "spot",
}
_CLOCKS: Final = {
    YearClock.ACT365: ("seconds over 365 days", "calendar"),
    YearClock.TRADING252: ("session time over 252 trading days", "trading"),
}
_NSE_SAYS: Final = (
    f"Black-Scholes on the spot, rate {percent(NSE_RATE)}, whole calendar days to the expiry date "
    "over 365, own last price; theta per calendar day. How NSE counts the last day is not "
    "published: here none is left on it, and nothing is computed."
)
_SENSIBULL_SAYS: Final = (
    "Black-76 on the future of the expiry, for want of one on the synthetic future, rate 0 %, "
    "session time over 252 trading days, volatility of the strike's out-of-the-money leg; theta "
    "per trading day. Whether Sensibull counts fractions of a day is not published: here it does."
)


class Market(NamedTuple):
    """The state of a shard, as far as it explains anything; nothing of it is changed.

    Attributes:
        table: The instruments.
        book: Their newest prices.
        forwards: The forward of every expiry.
        terms: What each expiry is priced by.
        policy: Decisions of the operator.
        market_s: Market time, epoch seconds; 0 before the first timestamp.
        source: Of the newest frame; None before the first.
        engine: What solves volatilities.
    """

    table: InstrumentTable
    book: Book
    forwards: Forwards
    terms: ExpiryTerms
    policy: Policy
    market_s: float
    source: str | None
    engine: Engine


class _Parity(NamedTuple):
    """The parity forward of an expiry, as it would be made now.

    Attributes:
        strikes: Those nearest the money, by distance.
        usable: How many strikes of the whole ladder have two usable books.
        forward: Median of those taken, rupees; NaN if they are too few.
        without_rate: The same at rate 0.
    """

    strikes: tuple[ExplainedParity, ...]
    usable: int
    forward: float
    without_rate: float


def explain(
    market: Market, slot: int, *, at_s: float, shard: int, epoch: int, now_ns: int
) -> Explanation | None:
    """Explain the Greeks that a tick of an option would carry now.

    Args:
        market: The shard's state.
        slot: Of the option.
        at_s: The moment that it is priced for, epoch seconds at the exchange.
        shard: Number of the shard.
        epoch: Lease term.
        now_ns: Wall clock, epoch nanoseconds.

    Returns:
        None if the slot holds no option that the newest instrument sets know.
    """
    item = market.table.instrument_at(slot)
    if item is None or item.option_type is None or item.strike is None or item.expiry is None:
        return None
    option = _Option(market, slot, item, at_s)
    return option.explained(item.option_type, shard=shard, epoch=epoch, now_ns=now_ns)


class _Option:
    """One option and everything around it."""

    def __init__(self, market: Market, slot: int, item: Instrument, at_s: float) -> None:
        self.market = market
        self.slot = slot
        self.item = item
        self.at_s = at_s
        table, book, forwards = market.table, market.book, market.forwards
        self.expiry_id = int(table.expiry_id[slot])
        self.expiry: Expiry = table.expiries[self.expiry_id]
        self.convention: Convention = market.terms.conventions[self.expiry_id]
        self.flag = int(table.flag[slot])
        self.forward = float(forwards.forward[self.expiry_id])
        self.source = int(forwards.source[self.expiry_id])
        self.is_stale = bool(forwards.is_stale[self.expiry_id])
        self.strike = float(table.strike[slot])
        self.last = float(book.last_price[slot])
        self.bid = float(book.bid[slot])
        self.ask = float(book.ask[slot])
        self.which: Ints = np.array([self.expiry_id])
        self.seconds_left = float(table.instant_s[self.expiry_id]) - self.at_s

    def explained(
        self, option_type: OptionType, *, shard: int, epoch: int, now_ns: int
    ) -> Explanation:
        market, item, convention = self.market, self.item, self.convention
        table, book, terms = market.table, market.book, market.terms
        contracts = Contracts.of(
            np.array([self.slot]), np.array([self.forward]), np.array([self.at_s]), table, terms
        )
        prices = (np.array([value]) for value in (self.last, self.bid, self.ask))
        solved = solve(contracts, *prices, engine=market.engine)
        in_the_money = contracts.flag * (self.forward - self.strike) > 0.0
        leg = int(table.partner[self.slot]) if in_the_money[0] else self.slot
        smile_iv, smile_leg = self._smile(leg, float(solved.iv[0]))
        origin = borrow_smile(contracts, solved, np.array([smile_iv]), in_the_money=in_the_money)
        status = marked(
            solved.status,
            np.array([self.bid]),
            np.array([self.ask]),
            is_stale=np.array([self.is_stale]),
            source=np.array([self.source], np.uint8),
        )
        future = self._price(int(table.future[self.expiry_id]), terms.future_age_s)
        spot = self._price(int(table.spot[self.expiry_id]), terms.spot_age_s)
        parity = self._parity()
        ours = self._our_view(contracts)
        others = (
            self._nse_view(spot),
            self._sensibull_view(future, parity),
            self._spot_view(spot),
        )
        views: list[ExplainedView] = [
            convention_views.shown(
                ours,
                float(solved.iv[0]),
                solved.greeks[:, 0],
                IvStatus(STATUS_NAMES[int(status[0])]),
            ),
            *convention_views.solved_views(
                others,
                ours,
                float(solved.iv[0]),
                flag=self.flag,
                strike=self.strike,
                engine=market.engine,
            ),
        ]
        source, greeks_from = SOURCES[self.source], GREEKS_FROM[int(origin[0])]
        has_time = market.market_s > 0
        if not has_time and not book.seq[self.slot]:
            # Nobody knows the time, and no tick has claimed to.
            views = [msgspec.structs.replace(view, tte=None, days=None) for view in views]
        return Explanation(
            instrument_token=item.instrument_token,
            tradingsymbol=item.tradingsymbol,
            underlying=item.underlying,
            expiry=self.expiry.day,
            strike=self.strike,
            option_type=option_type,
            seq=int(book.seq[self.slot]),
            market_time=int(market.market_s) * _NS_PER_SECOND if has_time else None,
            priced_at=int(self.at_s) * _NS_PER_SECOND if has_time else None,
            expiry_instant=round(self.expiry.instant_s) * _NS_PER_SECOND,
            seconds_left=self.seconds_left if has_time else None,
            settlement=bool(terms.settles(self.which, self.at_s)[0]),
            last_price=self._price(self.slot, None),
            bid=self._price(self.slot, terms.quote_age_s, value=self.bid),
            ask=self._price(self.slot, terms.quote_age_s, value=self.ask),
            forward=or_none(self.forward),
            forward_source=None if source is None else ForwardSource(source),
            forward_stale=self.is_stale,
            forward_says=self._forward_says(future, spot, parity),
            future=future,
            parity=parity.strikes,
            parity_forward=or_none(parity.forward),
            spot=spot,
            convention=convention,
            smile_leg=smile_leg,
            smile_iv=or_none(smile_iv),
            bid_iv=or_none(solved.bid_iv[0]),
            ask_iv=or_none(solved.ask_iv[0]),
            greeks_from=None if greeks_from is None else GreeksFrom(greeks_from),
            views=tuple(views),
            shard=shard,
            epoch=epoch,
            greeks_ts=now_ns,
            source=None if market.source is None else Source(market.source),
        )

    # -- inputs --------------------------------------------------------------------------------

    def _symbol(self, slot: int) -> str | None:
        item = self.market.table.instrument_at(slot)
        return None if item is None else item.tradingsymbol

    def _price(
        self, slot: int, limits_s: Floats | None, *, value: float | None = None
    ) -> ExplainedPrice:
        """A price of a slot, by default its last one, with an age limit of the expiry or none."""
        market = self.market
        seen_s = float(market.book.seen_s[slot])
        price = float(market.book.last_price[slot]) if value is None else value
        limit_s = np.inf if limits_s is None else float(limits_s[self.expiry_id])
        is_seen = bool(np.isfinite(seen_s))
        return ExplainedPrice(
            value=or_none(price),
            tradingsymbol=self._symbol(slot),
            exchange_ts=int(seen_s) * _NS_PER_SECOND if is_seen else None,
            stamped=bool(market.book.stamped[slot]),
            age_seconds=market.market_s - seen_s if is_seen else None,
            max_age_seconds=or_none(limit_s),
            fresh=bool(np.isfinite(price)) and seen_s >= market.market_s - limit_s,
        )

    def _smile(self, leg: int, own_iv: float) -> tuple[float, ExplainedPrice]:
        """The strike's volatility, and the leg whose it is."""
        market, book = self.market, self.market.book
        limit_s = float(market.terms.smile_age_s[self.expiry_id])
        price = self._price(leg, None)
        age_s = price.age_seconds
        if leg == self.slot:
            # Solved this moment, as it is for a tick.
            smile_iv = own_iv
        else:
            iv_seen_s = float(book.iv_seen_s[leg])
            is_young = leg != NOBODY and iv_seen_s >= market.market_s - limit_s
            smile_iv = float(book.iv[leg]) if is_young else np.nan
            age_s = or_none(market.market_s - iv_seen_s)
        return smile_iv, msgspec.structs.replace(
            price,
            age_seconds=age_s,
            max_age_seconds=limit_s,
            fresh=bool(np.isfinite(smile_iv)),
        )

    def _parity(self) -> _Parity:
        market, expiry = self.market, self.expiry
        book, policy = market.book, market.policy
        strikes, calls, puts = expiry.strikes, expiry.calls, expiry.puts
        oldest_s = market.market_s - float(market.terms.quote_age_s[self.expiry_id])
        call_mids, put_mids = book.mid(calls, oldest_s), book.mid(puts, oldest_s)
        gap = call_mids - put_mids
        usable = np.isfinite(gap)
        tte = max(float(market.terms.years(self.which, market.market_s)[0]), 0.0)
        growth = float(np.exp(market.terms.rate[self.expiry_id] * tte))
        near = self._near(strikes, gap)
        order = np.argsort(np.abs(strikes - near), kind="stable")
        taken = order[usable[order]][: policy.parity_strikes]
        # Those that are nearer and cannot be used stand between: they are the question.
        reach = int(np.flatnonzero(order == taken[-1])[0]) + 1 if taken.size else 0
        reach = min(max(reach, policy.parity_strikes), _SHOWN_MAX * policy.parity_strikes)
        rows = [row for row in order.tolist() if row in {*order[:reach].tolist(), *taken.tolist()}]
        forwards = strikes + gap * growth
        medians = [
            parity_forwards(
                strikes[taken][None],
                call_mids[taken][None],
                put_mids[taken][None],
                np.array([near]),
                np.array([grown]),
                take=policy.parity_strikes,
                at_least=policy.parity_strikes_min,
            ).forward[0]
            for grown in (growth, 1.0)
        ]
        chosen = set(taken.tolist())
        return _Parity(
            strikes=tuple(
                ExplainedParity(
                    strike=float(strikes[row]),
                    call_mid=or_none(call_mids[row]),
                    put_mid=or_none(put_mids[row]),
                    call_age_seconds=or_none(market.market_s - book.seen_s[calls[row]]),
                    put_age_seconds=or_none(market.market_s - book.seen_s[puts[row]]),
                    forward=or_none(forwards[row]),
                    taken=row in chosen,
                )
                for row in rows
            ),
            usable=int(usable.sum()),
            forward=float(medians[0]),
            without_rate=float(medians[1]),
        )

    def _near(self, strikes: Floats, gap: Floats) -> float:
        """Where the money is thought to be, as the forward's choice thinks it."""
        book, table = self.market.book, self.market.table
        future = float(book.last_price[table.future[self.expiry_id]])
        spot = float(book.last_price[table.spot[self.expiry_id]])
        for price in (self.forward, future, spot):
            if np.isfinite(price):
                return price
        even = np.where(np.isfinite(gap), np.abs(gap), np.inf)
        at = int(even.argmin())
        return float(strikes[at] if np.isfinite(even[at]) else self.strike)

    def _forward_says(self, future: ExplainedPrice, spot: ExplainedPrice, parity: _Parity) -> str:
        """Why this forward, in words."""
        needed = self.market.policy.parity_strikes_min
        few = f"{parity.usable} strikes have two fresh books, {needed} are needed"
        against = {
            ForwardSource.FUTURE: _against(future, "the future"),
            ForwardSource.SYNTHETIC: few if parity.usable < needed else None,
            ForwardSource.SPOT: _against(spot, "the spot"),
        }
        order = list(against)
        stands = None
        if self.convention.model is PricingModel.BSM:
            # BSM is about the spot, as long as its shares trade.
            order.insert(0, order.pop())
            if self.market.terms.spot_may_stand(self.which, self.market.market_s)[0]:
                stands = "the spot may stand still, since its shares do not trade freely"
        name = SOURCES[self.source]
        if name is None:
            return f"no price has made one yet: {_joined(against.values())}"
        source = ForwardSource(name)
        if self.is_stale:
            return f"nothing was fresh, so the newest stays: {_joined(against.values())}"
        better = order[: order.index(source)]
        says = _joined(
            [
                stands if source is not ForwardSource.SPOT else None,
                *(against[other] for other in better),
            ]
        )
        taken = f"the {_NAMES[source]}"
        says = f"{says}; so {taken} is taken" if says else f"{taken} comes first"
        if against[source] is not None:
            says += f"; nothing of the expiry has come since, and now {against[source]}"
        return says

    # -- views ---------------------------------------------------------------------------------

    def _our_view(self, contracts: Contracts) -> View:
        convention = self.convention
        is_bsm = convention.model is PricingModel.BSM
        source, base = SOURCES[self.source], "no price of the underlying"
        if source is not None:
            base = f"the {_NAMES[ForwardSource(source)]}"
            # The one is worked out of the other, at the rate of the convention.
            if is_bsm and source != ForwardSource.SPOT:
                source = f"spot implied by {base}"
                base = f"the {source}"
            elif source == ForwardSource.SPOT and not is_bsm:
                base = f"the forward from {base}"
        inputs = Inputs(
            flag=self.flag,
            price=self.last,
            is_bsm=is_bsm,
            underlying=float(contracts.spot[0]) if is_bsm else self.forward,
            rate=convention.rate,
            dividend_yield=convention.dividend_yield,
            tte=float(contracts.tte[0]),
        )
        clock, day = _CLOCKS[convention.clock]
        says = [
            f"{_MODELS[convention.model]} on {base}",
            f"rate {percent(convention.rate)}",
            clock,
            f"own last price; theta per {day} day",
        ]
        if convention.dividend_yield:
            says.insert(2, f"dividend yield {percent(convention.dividend_yield)}")
        return self._view(
            "tickfleet",
            ", ".join(says) + ".",
            inputs,
            source=source,
            is_stale=self.is_stale,
            leg=self.slot,
            days=inputs.tte * DAYS_PER_YEAR[convention.clock],
            clock=f"{day} days over {DAYS_PER_YEAR[convention.clock]}",
            theta_scale=float(contracts.theta_scale[0]),
        )

    def _nse_view(self, spot: ExplainedPrice) -> View:
        today = datetime.fromtimestamp(self.at_s, IST).date()
        days = float((self.expiry.day - today).days)
        inputs = self._on_spot(spot, rate=NSE_RATE, tte=days / CALENDAR_DAYS_PER_YEAR)
        return self._view(
            "nse",
            _NSE_SAYS,
            inputs,
            source=_spot_source(spot),
            is_stale=not spot.fresh,
            leg=self.slot,
            days=days,
            clock="whole calendar days over 365",
        )

    def _spot_view(self, spot: ExplainedPrice) -> View:
        convention = self.convention
        tte = years_of_seconds(self.seconds_left)
        inputs = self._on_spot(
            spot, rate=convention.rate, dividend_yield=convention.dividend_yield, tte=tte
        )
        dividends = (
            f"dividend yield {percent(convention.dividend_yield)}, "
            if convention.dividend_yield
            else ""
        )
        return self._view(
            "spot_bsm",
            f"Black-Scholes-Merton on the spot, rate {percent(convention.rate)}, {dividends}"
            "seconds over 365 days, own last price; theta per calendar day.",
            inputs,
            source=_spot_source(spot),
            is_stale=not spot.fresh,
            leg=self.slot,
            days=tte * CALENDAR_DAYS_PER_YEAR,
            clock="calendar days over 365",
        )

    def _sensibull_view(self, future: ExplainedPrice, parity: _Parity) -> View:
        source: str | None
        if future.value is not None:
            underlying, source, is_stale = (
                future.value,
                ForwardSource.FUTURE.value,
                not future.fresh,
            )
        else:
            underlying, is_stale = parity.without_rate, False
            source = ForwardSource.SYNTHETIC.value if np.isfinite(underlying) else None
        in_the_money = self.flag * (underlying - self.strike) > 0.0
        table = self.market.table
        leg = int(table.partner[self.slot]) if in_the_money else self.slot
        tte = float(self.market.terms.trading_years(self.which, self.at_s)[0])
        inputs = Inputs(
            flag=-self.flag if in_the_money else self.flag,
            price=float(self.market.book.last_price[leg]),
            is_bsm=False,
            underlying=underlying,
            rate=0.0,
            dividend_yield=0.0,
            tte=tte,
        )
        return self._view(
            "sensibull",
            _SENSIBULL_SAYS,
            inputs,
            source=source,
            is_stale=is_stale,
            leg=leg,
            days=tte * TRADING_DAYS_PER_YEAR,
            clock="trading days over 252",
            theta_scale=PER_TRADING_DAY,
        )

    def _on_spot(
        self, spot: ExplainedPrice, *, rate: float, tte: float, dividend_yield: float = 0.0
    ) -> Inputs:
        return Inputs(
            flag=self.flag,
            price=self.last,
            is_bsm=True,
            underlying=np.nan if spot.value is None else spot.value,
            rate=rate,
            dividend_yield=dividend_yield,
            tte=tte,
        )

    def _view(
        self,
        name: str,
        says: str,
        inputs: Inputs,
        *,
        source: str | None,
        is_stale: bool,
        leg: int,
        days: float,
        clock: str,
        theta_scale: float = 1.0,
    ) -> View:
        price_of = self._symbol(leg)
        book = self.market.book
        return View(
            name=name,
            says=says,
            inputs=inputs,
            told=told_of(
                inputs,
                price_of=price_of,
                underlying_source=source,
                clock=f"{days:.4g} {clock}",
            ),
            underlying_source=source,
            is_stale=is_stale,
            is_crossed=bool(book.bid[leg] > book.ask[leg]),
            price_of=price_of,
            days=days,
            theta_scale=theta_scale,
            is_alive=self.seconds_left > 0.0,
        )


def _against(price: ExplainedPrice, name: str) -> str | None:
    """What speaks against a candidate; None if nothing does."""
    if price.fresh:
        return None
    if price.tradingsymbol is None:
        return f"{name} is not listed"
    if price.value is None or price.age_seconds is None:
        return f"{name} has no price"
    return f"{name} is {price.age_seconds:g} s old, at most {price.max_age_seconds:g} s count"


def _joined(reasons: Iterable[str | None]) -> str:
    return ", ".join(reason for reason in reasons if reason)


def _spot_source(spot: ExplainedPrice) -> str | None:
    return None if spot.value is None else ForwardSource.SPOT.value
