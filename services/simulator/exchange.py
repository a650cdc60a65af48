"""The running market: moves it with the clock and hands every step's frames to the feed."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from typing import TypeVar

import numpy as np

from libs.common import logs
from libs.common.domain.clock import ns_of
from libs.common.domain.market_calendar import MarketCalendar
from libs.common.lifecycle import sleep_unless
from services.simulator import metrics
from services.simulator.domain.encoding import Batch, Plan, encode
from services.simulator.domain.faults import FaultBook, FaultKind
from services.simulator.domain.market import Market, Quotes
from services.simulator.domain.paths import Paths, path_seconds
from services.simulator.domain.session_clock import MARKET, SessionClock, trading_day
from services.simulator.domain.universe import UniverseSize, build_universe, members
from services.simulator.feed import Feed

T = TypeVar("T")

log = logs.get_logger(__name__)

_SHORTEST_PAUSE_SECONDS = 0.001
_CLOSED_PAUSE_SECONDS = 0.25


class Exchange:
    """Owns the market of the present virtual day and the thread in which it is computed.

    Args:
        clock: Virtual time.
        calendar: Knows the sessions.
        feed: Gets the frames.
        faults: May ask for a burst.
        seed: Of the market.
        size: Of the universe.
        strikes_per_side: See `build_universe`.
        max_contracts: See `build_universe`.
        tick_interval_seconds: Real seconds between steps.
        tick_probability: See `Market`.
    """

    def __init__(
        self,
        *,
        clock: SessionClock,
        calendar: MarketCalendar,
        feed: Feed,
        faults: FaultBook,
        seed: int,
        size: UniverseSize,
        strikes_per_side: int | None,
        max_contracts: int,
        tick_interval_seconds: float,
        tick_probability: float,
    ) -> None:
        self.clock = clock
        self._calendar = calendar
        self._feed = feed
        self._faults = faults
        self._seed = seed
        self._size = size
        self._strikes_per_side = strikes_per_side
        self._max_contracts = max_contracts
        self._interval_seconds = tick_interval_seconds
        self._tick_probability = tick_probability
        self._paths = Paths(seed, members(size))
        # One thread: numpy must not hold up heartbeats and logins on the event loop.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="market")
        self.market, self.quotes = self._open_day(self._today(), clock.now_ns())
        feed.change_market(self.market, self.quotes)
        self.steps = 0
        self._watchers: list[Callable[[], None]] = []

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call something after every step of the market; it must not block."""
        self._watchers.append(watcher)

    def close(self) -> None:
        """Let the market's thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    @property
    def is_open(self) -> bool:
        """Whether F&O trades at the present virtual moment."""
        return self.clock.is_open(self.clock.now_ns())

    async def run(self, stop: asyncio.Event) -> None:
        """Move the market until stopped."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while not stop.is_set():
            await self.turn_the_day()
            self._feed.hang_up_dead()
            burst = self._faults.find(FaultKind.BURST, None)
            if self.is_open:
                await self._step(all_tick=burst is not None)
                pause = self._interval_seconds / (burst.factor if burst else 1)
            else:
                pause = _CLOSED_PAUSE_SECONDS
            # Steps keep their pace; what a slow one lost is not made up for by a rush of others.
            due = max(due + pause, loop.time())
            await sleep_unless(stop, max(due - loop.time(), _SHORTEST_PAUSE_SECONDS))

    async def turn_the_day(self) -> None:
        """Open another market when the clock has come to another trading day."""
        today = self._today()
        if today == self.market.universe.day:
            return
        self.market, self.quotes = await self._compute(
            lambda: self._open_day(today, self.clock.now_ns())
        )
        log.info("market.day", day=today.isoformat(), instruments=len(self.market.universe))
        self._feed.change_market(self.market, self.quotes)

    async def _step(self, *, all_tick: bool) -> None:
        started = time.perf_counter()
        wanted = self._feed.wanted()
        now_ns = self.clock.now_ns()
        if now_ns <= self.quotes.at_ns:
            return
        self.quotes, batch = await self._compute(
            lambda: _advance(self.market, self.quotes, now_ns, wanted, all_tick=all_tick)
        )
        self.steps += 1
        self._feed.publish(batch, self.quotes)
        for watcher in self._watchers:
            watcher()
        metrics.STEP_SECONDS.observe(time.perf_counter() - started)

    async def _compute(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)

    def _today(self) -> date:
        return trading_day(self.clock.now_ns(), self._calendar)

    def _open_day(self, day: date, now_ns: int) -> tuple[Market, Quotes]:
        # The strikes surround the level at which the last session ended: all day the same ones.
        before = self._calendar.session(MARKET, self._calendar.previous_trading_day(MARKET, day))
        closed_ns = ns_of(before.close) if before else now_ns
        levels = self._paths.spot(np.arange(len(self._paths.members)), path_seconds(closed_ns))
        universe = build_universe(
            day,
            [float(level) for level in levels],
            size=self._size,
            strikes_per_side=self._strikes_per_side,
            max_contracts=self._max_contracts,
        )
        market = Market(
            universe,
            self._paths,
            seed=self._seed,
            calendar=self._calendar,
            tick_probability=self._tick_probability,
        )
        return market, market.start(now_ns)


def _advance(
    market: Market, quotes: Quotes, now_ns: int, wanted: Plan, *, all_tick: bool
) -> tuple[Quotes, Batch | None]:
    following = market.advance(quotes, now_ns, all_tick=all_tick)
    if not any(rows.size for rows in wanted):
        return following, None
    return following, encode(market, following, wanted, ticked_only=True)
