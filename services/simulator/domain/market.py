"""The market of one trading day: from the paths to quotes, trades, volume and order books.

`Market.start` gives the state at a moment, `Market.advance` the next one; both are pure, so equal
seeds and equal moments give equal markets. One call moves all contracts at once with numpy.
"""

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from libs.common.domain.clock import NS_PER_SECOND, ns_of
from libs.common.domain.market_calendar import MarketCalendar
from services.simulator.domain import black76
from services.simulator.domain.noise import key_of, mix
from services.simulator.domain.paths import SESSION_SECONDS, Paths, Smile, path_seconds
from services.simulator.domain.session_clock import MARKET
from services.simulator.domain.universe import Universe

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

_DEPTH_LEVELS: Final = 5
_INDEX_LOTS_PER_DAY: Final = 3_000_000.0
_PRICINGS_AT_START: Final = 200_000
_U16: Final = np.uint64(0xFFFF)


@dataclass(frozen=True, slots=True, eq=False)
class Quotes:
    """What the exchange shows of every instrument at one moment; prices in paise.

    Attributes:
        at_ns: Virtual epoch nanoseconds.
        ticked: bool[n], what changed in the last step.
        last: int64[n], 0 when never traded; likewise `open`, `high`, `low`.
        last_quantity: int64[n] units.
        average: int64[n], volume-weighted.
        volume: int64[n] units of the day, never falling.
        open, high, low: int64[n].
        close: int64[n], the previous session's.
        last_trade_s: int64[n] epoch seconds, 0 when never traded.
        changed_ms: int64[n] epoch milliseconds of the last tick.
        oi, oi_low: int64[n] units; the highest is the present one, as it never falls in a day.
        bid, ask: int64[n], 0 when that side of the book is empty.
    """

    at_ns: int
    ticked: Flags
    last: Ints
    last_quantity: Ints
    average: Ints
    volume: Ints
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    last_trade_s: Ints
    changed_ms: Ints
    oi: Ints
    oi_low: Ints
    bid: Ints
    ask: Ints

    @property
    def at_seconds(self) -> int:
        """Whole virtual epoch seconds."""
        return self.at_ns // NS_PER_SECOND


@dataclass(frozen=True, slots=True, eq=False)
class Depth:
    """Five levels per side; bids in columns 0..4, asks in 5..9, best first; zeros when empty.

    Attributes:
        price: int64[k, 10] paise.
        quantity: int64[k, 10] units.
        orders: int64[k, 10].
        buy_quantity: int64[k] units, all levels, seen or not.
        sell_quantity: int64[k] units.
    """

    price: Ints
    quantity: Ints
    orders: Ints
    buy_quantity: Ints
    sell_quantity: Ints


def day_share(seconds_since_open: NDArray[np.float64] | float) -> Floats:
    """Give the share of a day's business done by then: brisk at both ends, slow at noon."""
    share = np.clip(np.asarray(seconds_since_open, np.float64) / SESSION_SECONDS, 0.0, 1.0)
    return np.asarray(share + 0.08 * np.sin(2 * np.pi * share))


class Market:
    """All instruments of one trading day.

    Args:
        universe: Which instruments.
        paths: How they move; its members are the universe's underlyings.
        seed: For everything that is not a path: books, trades, volumes.
        calendar: Session times and the instants at which expiries die.
        tick_probability: Chance that the most active instruments tick in a step; the quietest
            tick a quarter as often, so that from 4 on everything ticks in every step.
    """

    def __init__(
        self,
        universe: Universe,
        paths: Paths,
        *,
        seed: int,
        calendar: MarketCalendar,
        tick_probability: float,
    ) -> None:
        self.universe = universe
        self.paths = paths
        self.calendar = calendar
        session = calendar.session(MARKET, universe.day)
        cash = calendar.session("NSE", universe.day)
        if session is None or cash is None:
            raise LookupError(f"the market calendar knows no session on {universe.day}")
        self.open_ns, self.close_ns = ns_of(session.open), ns_of(session.close)
        self._cash_close_ns = min(ns_of(cash.close), self.close_ns)
        before = calendar.session(MARKET, calendar.previous_trading_day(MARKET, universe.day))
        if before is None:
            raise LookupError(f"the market calendar knows no session before {universe.day}")
        self.previous_close_ns = ns_of(before.close)

        self.expiry_ns = np.array(
            [
                ns_of(
                    calendar.expiry_instant(
                        universe.underlyings[item.underlying].derivatives or MARKET, item.day
                    )
                )
                for item in universe.expiries
            ],
            np.int64,
        )
        self._expiry_member = np.array([item.underlying for item in universe.expiries], np.int64)
        self.smile_keys = np.stack(
            [
                paths.smile_keys(universe.underlyings[e.underlying].name, e.day.isoformat())
                for e in universe.expiries
            ],
            axis=1,
        )
        self._keys = mix(np.uint64(key_of(seed, "books")), universe.tokens)
        self._members = np.arange(len(universe.underlyings))
        self._is_option = universe.flag != 0
        self._option_rows = np.flatnonzero(self._is_option)
        self._future_rows = np.flatnonzero((universe.expiry >= 0) & ~self._is_option)
        self._spot_rows = np.flatnonzero(universe.expiry < 0)
        self._plan_the_day(tick_probability)

    def _plan_the_day(self, tick_probability: float) -> None:
        """Fix what depends on where the day starts: who is active, who has no book."""
        universe = self.universe
        smile = self.smile(self.previous_close_ns)
        self.money = np.zeros(len(universe))
        rows = self._option_rows
        self.money[rows] = smile.take(universe.expiry[rows]).moneyness(universe.strike[rows])
        rank = np.zeros(len(universe))
        ranks = np.array([item.rank for item in universe.expiries], np.float64)
        derivative = universe.expiry >= 0
        rank[derivative] = ranks[universe.expiry[derivative]]
        activity = np.array([item.activity for item in universe.underlyings])[universe.underlying]
        chance = np.exp(-0.5 * self.money**2 - 0.9 * rank)
        self.lots_per_day = np.where(
            self._is_option,
            _INDEX_LOTS_PER_DAY * activity * chance + 8,
            # A future has fewer lots than the options around it, a share has single units.
            np.where(derivative, 60_000 * activity * np.exp(-rank) + 50, 40_000_000 * activity),
        )
        self.lots_per_day[universe.is_index] = 0
        self.lots_open = np.where(derivative, 0.4 * self.lots_per_day + 20, 0)
        liquid = np.clip(np.log10(self.lots_per_day + 1) / 5, 0.25, 1.0)
        liquid[self._spot_rows] = 1.0
        self._threshold = np.minimum(liquid * tick_probability, 1.0)
        wide = np.clip(0.35 / np.sqrt(activity + 1e-9), 1.0, 5.0) * (1 + 0.3 * rank)
        self._spread_share = wide * np.where(
            self._is_option, 0.0015 * (1 + self.money**2), np.where(derivative, 4e-5, 8e-5)
        )
        # Deep in the money the spread follows the underlying, not the little time value.
        self._spread_money = np.where(self._is_option, 2e-5 * wide, 0.0)
        luck = (mix(self._keys, universe.day.toordinal()) & _U16) / 65_536
        far = np.abs(self.money)
        self._no_book = self._is_option & (far > 2.2) & (luck < 0.06)
        self._no_bid = self._no_book | (self._is_option & (far > 1.8) & (luck < 0.12))
        self._levels_per_book = np.clip(self.lots_per_day / 5_000, 3, 40).astype(np.int64)

    def smile(self, at_ns: int) -> Smile:
        """Give forward and smile of every expiry at a moment."""
        return self.paths.smile(self._expiry_member, self.smile_keys, self.expiry_ns, at_ns)

    def values(self, at_ns: int) -> Floats:
        """Give the model value of every instrument in rupees; float64[n].

        An index and a share stand still once the cash market has closed, while the forwards of
        their derivatives go on.

        Args:
            at_ns: Epoch nanoseconds.
        """
        universe = self.universe
        result = np.empty(len(universe))
        cash_ns = min(at_ns, self._cash_close_ns) if at_ns >= self.open_ns else at_ns
        spot = self.paths.spot(self._members, path_seconds(cash_ns))
        result[self._spot_rows] = spot[universe.underlying[self._spot_rows]]
        smile = self.smile(at_ns)
        result[self._future_rows] = smile.forward[universe.expiry[self._future_rows]]
        rows = self._option_rows
        own = smile.take(universe.expiry[rows])
        strike = universe.strike[rows]
        sigma = own.volatility(own.moneyness(strike))
        result[rows] = black76.price(universe.flag[rows], own.forward, strike, own.years, sigma)
        return result

    def start(self, at_ns: int) -> Quotes:
        """Give the state at a moment of the day as if trading had been watched since the open.

        High, low and average come from a coarse grid over the hours before (all instruments are
        priced at each of its points).

        Args:
            at_ns: Epoch nanoseconds; held within the session.
        """
        universe = self.universe
        at_ns = min(max(at_ns, self.open_ns), self.close_ns)
        count = len(universe)
        points = int(np.clip(_PRICINGS_AT_START // count, 8, 48))
        grid = np.linspace(self.open_ns, at_ns, points).astype(np.int64)
        path = [self._on_grid(self.values(int(moment))) for moment in np.unique(grid)]
        traded = ~self._no_book
        zero = np.zeros(count, np.int64)
        opened = np.where(traded, path[0], 0)
        empty = Quotes(
            at_ns=at_ns,
            ticked=np.ones(count, np.bool_),
            last=np.where(traded, path[-1], 0),
            last_quantity=np.where(universe.is_index | ~traded, 0, universe.lot),
            average=np.where(traded & ~universe.is_index, np.mean(path, axis=0), 0).astype(
                np.int64
            ),
            volume=np.where(traded, self._volume(at_ns), 0),
            open=opened,
            high=np.where(traded, np.max(path, axis=0), 0),
            low=np.where(traded, np.min(path, axis=0), 0),
            close=self._on_grid(self.values(self.previous_close_ns)),
            last_trade_s=np.where(traded, at_ns // NS_PER_SECOND, 0),
            changed_ms=np.full(count, at_ns // 1_000_000, np.int64),
            oi=self.open_interest(at_ns),
            oi_low=self.open_interest(self.open_ns),
            bid=zero,
            ask=zero,
        )
        bid, ask, _ = self._book(path[-1] / 100, self._draw(at_ns))
        return replace(empty, bid=bid, ask=ask)

    def advance(self, quotes: Quotes, at_ns: int, *, all_tick: bool = False) -> Quotes:
        """Give the state at a later moment.

        Args:
            quotes: The state before.
            at_ns: Epoch nanoseconds within the session.
            all_tick: Whether every instrument ticks, as in a burst.
        """
        bits = self._draw(at_ns)
        ticked = np.ones(bits.shape, np.bool_) if all_tick else _part(bits, 0) < self._threshold
        if at_ns >= self._cash_close_ns:
            ticked[self._spot_rows] = False
        bid, ask, value = self._book(self.values(at_ns), bits)
        volume = np.maximum(self._volume(at_ns), quotes.volume)
        index = self.universe.is_index
        traded = ticked & ~self._no_book & ((volume > quotes.volume) | index)
        # A trade takes place at the bid, at the ask, or (rarely) inside the spread.
        place = _part(bits, 3)
        price = np.where((place < 0.5) & (bid > 0), bid, ask)
        price = np.where(index | (price == 0), value, price)
        last = np.where(traded, price, quotes.last)
        added = np.where(traded, volume - quotes.volume, 0)
        volume = np.where(traded, volume, quotes.volume)
        average = quotes.average + (last - quotes.average) * (added / np.maximum(volume, 1))
        seconds = at_ns // NS_PER_SECOND
        return Quotes(
            at_ns=at_ns,
            ticked=ticked,
            last=last,
            last_quantity=np.where(added > 0, added, quotes.last_quantity),
            average=np.where(added > 0, np.rint(average), quotes.average).astype(np.int64),
            volume=volume,
            open=quotes.open,
            high=np.maximum(quotes.high, last),
            low=np.minimum(quotes.low, last),
            close=quotes.close,
            last_trade_s=np.where(traded, seconds, quotes.last_trade_s),
            changed_ms=np.where(ticked, at_ns // 1_000_000, quotes.changed_ms),
            oi=np.maximum(self.open_interest(at_ns), quotes.oi),
            oi_low=quotes.oi_low,
            bid=np.where(ticked, bid, quotes.bid),
            ask=np.where(ticked, ask, quotes.ask),
        )

    def depth(self, quotes: Quotes, rows: Ints) -> Depth:
        """Give the order books of some instruments; the same again until the instrument ticks.

        Args:
            quotes: The state.
            rows: int64[k].
        """
        universe = self.universe
        levels = np.arange(2 * _DEPTH_LEVELS)
        counter = quotes.changed_ms[rows, None] * 16 + levels
        bits = mix(self._keys[rows, None], counter)
        gaps = 1 + (bits & np.uint64(1)).astype(np.int64)
        gaps[:, [0, _DEPTH_LEVELS]] = 0
        tick = universe.tick_paise[rows, None]
        bid, ask = quotes.bid[rows, None], quotes.ask[rows, None]
        price = np.concatenate(
            (
                bid - tick * np.cumsum(gaps[:, :_DEPTH_LEVELS], axis=1),
                ask + tick * np.cumsum(gaps[:, _DEPTH_LEVELS:], axis=1),
            ),
            axis=1,
        )
        there = np.concatenate(
            (
                (price[:, :_DEPTH_LEVELS] > 0) & (bid > 0),
                np.broadcast_to(ask > 0, (len(rows), _DEPTH_LEVELS)),
            ),
            axis=1,
        )
        limit = self._levels_per_book[rows, None]
        lots = np.where(there, 1 + (bits >> np.uint64(8) & _U16).astype(np.int64) % limit, 0)
        orders = np.minimum(lots, 1 + (bits >> np.uint64(32) & _U16).astype(np.int64) % 30)
        quantity = lots * universe.lot[rows, None]
        unseen = (bits[:, 0] >> np.uint64(48)).astype(np.int64) % (20 * limit[:, 0])
        unseen *= universe.lot[rows]
        seen_buy = quantity[:, :_DEPTH_LEVELS].sum(axis=1)
        seen_sell = quantity[:, _DEPTH_LEVELS:].sum(axis=1)
        return Depth(
            price=np.where(there, price, 0),
            quantity=quantity,
            orders=orders,
            buy_quantity=np.where(seen_buy > 0, seen_buy + unseen, 0),
            sell_quantity=np.where(seen_sell > 0, seen_sell + unseen, 0),
        )

    def open_interest(self, at_ns: int) -> Ints:
        """Give the open interest in units; it grows by a tenth over the day; int64[n]."""
        share = float(day_share((at_ns - self.open_ns) / NS_PER_SECOND))
        lots = np.floor(self.lots_open * (1 + 0.1 * share)).astype(np.int64)
        return np.asarray(lots * self.universe.lot)

    def _volume(self, at_ns: int) -> Ints:
        share = float(day_share((at_ns - self.open_ns) / NS_PER_SECOND))
        lots = np.floor(self.lots_per_day * share).astype(np.int64)
        return np.asarray(lots * self.universe.lot)

    def _draw(self, at_ns: int) -> NDArray[np.uint64]:
        return mix(self._keys, at_ns // 1_000_000)

    def _on_grid(self, rupees: Floats) -> Ints:
        """Round to the price step, at least one step."""
        tick = self.universe.tick_paise
        steps = np.maximum(np.rint(rupees * 100 / tick), 1)
        return np.asarray(steps.astype(np.int64) * tick)

    def _book(self, values: Floats, bits: NDArray[np.uint64]) -> tuple[Ints, Ints, Ints]:
        """Give best bid, best ask and the value on the price grid, all in paise."""
        universe = self.universe
        tick = universe.tick_paise
        half = (
            0.3 * tick
            + values * 100 * self._spread_share
            + universe.strike * 100 * self._spread_money
        )
        paise = values * 100
        bid = np.floor((paise - half * (0.3 + 1.4 * _part(bits, 1))) / tick).astype(np.int64) * tick
        ask = np.ceil((paise + half * (0.3 + 1.4 * _part(bits, 2))) / tick).astype(np.int64) * tick
        bid = np.maximum(bid, 0)
        ask = np.maximum(ask, bid + tick)
        no_bid, no_ask = self._no_bid | universe.is_index, self._no_book | universe.is_index
        return (
            np.where(no_bid, 0, bid),
            np.where(no_ask, 0, ask),
            self._on_grid(values),
        )


def _part(bits: NDArray[np.uint64], number: int) -> Floats:
    """Give one of the four 16-bit uniform numbers in a draw."""
    return np.asarray((bits >> np.uint64(16 * number) & _U16) / 65_536)
