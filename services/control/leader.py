"""What the leading control process does, round after round: log in, load, price, plan, say."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from datetime import datetime

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusUnavailableError
from libs.common.bus.kv import Bucket
from libs.common.contracts import codec, streams
from libs.common.contracts.messages import ControlStatus, FeedStatus, Source
from libs.common.database import Database
from libs.common.domain.clock import IST
from libs.common.domain.instruments import Instrument
from libs.common.errors import RejectedError, RetryableError
from libs.common.kite.errors import KiteTokenError
from libs.common.kite.rest import KiteRest, quote_time
from libs.common.lifecycle import sleep_unless
from services.control import metrics
from services.control.domain import windows
from services.control.domain.feed_choice import choose_feed, is_any_open
from services.control.domain.planner import Capacity
from services.control.errors import DumpUnusableError, NoSessionError
from services.control.instrument_loader import InstrumentLoader
from services.control.planning import Market, Mirrors, Planning
from services.control.sessions import Sessions
from services.control.settings import ControlSettings

# Rounds follow one another at this pace until the first plan is written.
_EAGER_INTERVAL_SECONDS = 0.3
# Between two rounds the accounts are looked after at this pace: a parked feed waits for it.
_SESSION_INTERVAL_SECONDS = 1.0
_STATUS_INTERVAL_SECONDS = 2.0
# Kite allows one quote call per calendar second and key; this distance never meets one twice.
_QUOTE_INTERVAL_SECONDS = 1.05
# Where any market can be asked for its time.
_CLOCK_SYMBOL = "NSE:NIFTY 50"
# While one of these trades, no simulator stands in.
_EXCHANGES = ("NSE", "NFO", "BSE", "BFO")

log = logs.get_logger(__name__)


class Leader:
    """The work of one leadership term.

    Every step may fail without harming the others: a failed download keeps yesterday's
    instruments, a failed quote keeps the strikes where they are, and PostgreSQL being away stops
    nothing that streams.

    Args:
        bus: The connection.
        database: PostgreSQL.
        sessions: The accounts.
        settings: What to stream and how often to look.
        mirrors: The buckets it reads; they must be ready.
        stand_in: The simulator's accounts, which stream while every exchange is closed; None for
            nobody.
        wall_clock: India's time.

    Attributes:
        planning: Makes the plan; its `run` belongs to the term as the leader's own does.
    """

    def __init__(
        self,
        bus: Bus,
        database: Database,
        sessions: Sessions,
        settings: ControlSettings,
        *,
        mirrors: Mirrors,
        stand_in: Sessions | None = None,
        wall_clock: Callable[[], datetime] = lambda: datetime.now(IST),
    ) -> None:
        self._bus = bus
        self._database = database
        self._own = sessions
        self._stand_in = stand_in
        self._wall_clock = wall_clock
        self._feed = settings.feed_source
        self._settings = settings
        self._status_mirror = mirrors.status
        self._status_bucket = Bucket(bus, streams.STATUS.name)
        self.planning = Planning(
            bus,
            database,
            settings,
            mirrors=mirrors,
            capacities=self._capacities,
        )
        self._loader = InstrumentLoader(bus, database, settings, token_died=self._token_died)
        self._instruments: Mapping[int, Instrument] = {}
        self._universe = windows.Universe(())
        self._chains: dict[str, windows.Chain] = {}
        self._prices: dict[str, float] = {}
        self._market_now: datetime | None = None
        self._next_quote = 0.0

    @property
    def _sessions(self) -> Sessions:
        """The accounts of the feed in force."""
        if self._feed is self._settings.feed_source or self._stand_in is None:
            return self._own
        return self._stand_in

    def stand_in_words(self) -> dict[str, str]:
        """A word per account of the simulator; empty while nobody stands in."""
        return {} if self._stand_in is None else self._stand_in.words()

    def _capacities(self) -> list[Capacity]:
        return self._sessions.capacities()

    def _token_died(self, rest: KiteRest) -> None:
        self._sessions.token_died(rest)

    async def run(self, stop: asyncio.Event) -> None:
        """Lead until `stop` is set."""
        try:
            await self._lead(stop)
        finally:
            await self._own.close()
            if self._stand_in is not None:
                await self._stand_in.close()

    async def _lead(self, stop: asyncio.Event) -> None:
        await self._adopt(stop)
        while not stop.is_set():
            if not await self._round():
                await sleep_unless(stop, _EAGER_INTERVAL_SECONDS)
                continue
            due = time.monotonic() + self._settings.plan_interval_seconds
            feed = self._feed
            while (left := due - time.monotonic()) > 0 and not stop.is_set():
                await sleep_unless(stop, min(left, _SESSION_INTERVAL_SECONDS))
                await self._step("sessions", self._refresh_sessions())
                if self._feed is not feed:
                    break

    async def _adopt(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                await self._own.adopt()
                if self._stand_in is not None:
                    await self._stand_in.adopt()
            except BusUnavailableError as error:
                log.warning("leader.waiting", step="adopt", reason=str(error))
                await sleep_unless(stop, _EAGER_INTERVAL_SECONDS)
            else:
                return

    async def _round(self) -> bool:
        """One round; says whether there is a plan now."""
        everybody = await self._step("sessions", self._refresh_sessions())
        if not everybody and self.planning.outcome is None:
            # The first plan counts on every account that can be logged in: planning with half
            # of them would put everything on that half, and plans are sticky.
            return False
        if self.planning.outcome is None and not self._sessions.usable():
            return False  # Nobody can be asked anything; `/readyz` and the log say so.
        if await self._step("market", self._read_market()):
            await self._step("instruments", self._load_instruments())
            if not self._chains:
                return False
            await self._step("prices", self._read_prices())
        elif self.planning.outcome is None:
            return False
        # Also while Kite cannot be asked: an account that was switched off must stop.
        planned = await self._step("plan", self._make_plan())
        return planned and not self._unpriced()

    async def _step(self, name: str, work: Coroutine[None, None, bool]) -> bool:
        try:
            return await work
        except (RetryableError, RejectedError) as error:
            metrics.ROUNDS_FAILED_TOTAL.labels(step=name).inc()
            log.warning("leader.step_failed", step=name, reason=str(error))
            return False

    async def _refresh_sessions(self) -> bool:
        """Look after the accounts; says whether nothing more is to be expected soon."""
        feeds = self._feeds()
        self._own.notice(feeds)
        self._own.note_lost(self.planning.lost_since_ns())
        # What the last round read may be old: rounds end early while no account is usable.
        live = self._settings.feed_source is Source.LIVE
        settled = await self._own.refresh(self._wall_clock() if live else self._market_now)
        if self._stand_in is not None:
            await self._choose_feed(self._stand_in, feeds)
        return settled

    async def _choose_feed(self, stand_in: Sessions, feeds: Mapping[str, FeedStatus]) -> None:
        """Turn to the simulator when the last exchange has closed, and back at the open."""
        is_open = is_any_open(_EXCHANGES, self._wall_clock())
        if not is_open:
            stand_in.notice(feeds)
            await stand_in.refresh(self._market_now if self._feed is Source.SIM else None)
        chosen = choose_feed(
            configured=self._settings.feed_source,
            mock_allowed=True,
            market_open=is_open,
            mock_ready=stand_in.rest() is not None,
        )
        if chosen is self._feed:
            return
        log.info("feed.turned", source=chosen.value, exchanges_open=is_open)
        metrics.FEED_TURNS_TOTAL.labels(source=chosen.value).inc()
        self._feed = chosen
        self._market_now = None
        self._prices = {}
        self._chains = {}
        self._universe, self._instruments = windows.Universe(()), {}
        self.planning.forget_market()

    def _feeds(self) -> dict[str, FeedStatus]:
        feeds = {}
        for key, value in self._status_mirror.items().items():
            if key.startswith("feed-"):
                status = codec.from_json(FeedStatus, value)
                feeds[status.account] = status
        return feeds

    def _rest(self) -> KiteRest:
        rest = self._sessions.rest()
        if rest is None:
            raise NoSessionError
        return rest

    async def _quote(self, symbols: Iterable[str]) -> dict[str, dict[str, object]]:
        rest = self._rest()
        now = time.monotonic()
        if now < self._next_quote:
            await asyncio.sleep(self._next_quote - now)
        self._next_quote = time.monotonic() + _QUOTE_INTERVAL_SECONDS
        try:
            return await rest.quote(list(symbols))
        except KiteTokenError:
            self._token_died(rest)
            raise

    async def _read_market(self) -> bool:
        """Learn the market's time: the wall clock, or the simulator's."""
        before = self._market_now
        if self._feed is Source.SIM:
            quotes = await self._quote(self._symbols())
            times = [t for t in (quote_time(q) for q in quotes.values()) if t is not None]
            if not times:
                raise DumpUnusableError(reason=f"no quote of {_CLOCK_SYMBOL} tells the time")
            self._market_now = max(times)
            self._take_prices(quotes)
        else:
            self._market_now = self._wall_clock()
        if before is not None and self._market_now.date() != before.date():
            # The sessions have a day of their own, which begins at 06:05: see `session_schedule`.
            log.info("market.new_day", date=self._market_now.date().isoformat())
        return True

    async def _load_instruments(self) -> bool:
        """Have the market day's instruments in memory, in PostgreSQL and on the bus."""
        try:
            await self._loader.refresh(now=self._now(), source=self._feed, origin=self._rest)
        finally:
            # Also when it could not publish: what it has is better than what was before, unless
            # it is still of the market that was left.
            is_ours = self._loader.source is self._feed
            if is_ours and self._loader.instruments is not self._instruments:
                await self._take_instruments(self._loader.instruments)
        return True

    async def _take_instruments(self, instruments: Mapping[int, Instrument]) -> None:
        self._instruments = instruments
        self._universe = await asyncio.to_thread(windows.Universe, instruments.values())
        self._chains = self._universe.chains(self._settings.underlyings)
        unknown = [name for name in self._settings.underlyings if name not in self._chains]
        if unknown and instruments:
            log.warning(
                "underlyings.unknown",
                underlyings=unknown,
                remedy="UNDERLYINGS names what the dumps of INSTRUMENT_EXCHANGES do not have",
            )

    def _now(self) -> datetime:
        if self._market_now is None:
            raise NoSessionError
        return self._market_now

    def _symbols(self) -> list[str]:
        spots = [chain.spot for chain in self._chains.values() if chain.spot is not None]
        return sorted({_CLOCK_SYMBOL, *(f"{s.exchange}:{s.tradingsymbol}" for s in spots)})

    async def _read_prices(self) -> bool:
        if self._feed is Source.SIM and not self._unpriced():
            return True  # The round's first quote brought them.
        self._take_prices(await self._quote(self._symbols()))
        return True

    def _unpriced(self) -> list[str]:
        """Underlyings whose window waits for a first price."""
        return [n for n, c in self._chains.items() if c.spot and n not in self._prices]

    def _take_prices(self, quotes: dict[str, dict[str, object]]) -> None:
        for name, chain in self._chains.items():
            if chain.spot is None:
                continue
            quote = quotes.get(f"{chain.spot.exchange}:{chain.spot.tradingsymbol}")
            price = quote.get("last_price") if quote else None
            if isinstance(price, int | float) and price > 0:
                self._prices[name] = float(price)

    async def _make_plan(self) -> bool:
        return await self.planning.plan(
            Market(
                universe=self._universe,
                chains=self._chains,
                prices=self._prices,
                now=self._now(),
                source=self._feed,
            )
        )

    async def report(self, worker: str, stop: asyncio.Event) -> None:
        """Say every two seconds how the control plane fares."""
        while not await sleep_unless(stop, _STATUS_INTERVAL_SECONDS):
            planning, dump = self.planning, self._loader.dump
            status = ControlStatus(
                worker=worker,
                plan_revision=planning.revision,
                planned=len(planning.outcome.slots) if planning.outcome else 0,
                unplaced=planning.unplaced,
                unplaced_names=planning.unplaced_names(),
                away=planning.outcome.away if planning.outcome else 0,
                instruments=len(self._universe.instruments),
                instruments_revision=dump.revision if dump else 0,
                market_date=dump.market_date if dump else None,
                accounts=self._sessions.words() | planning.account_words(),
                source=self._feed,
                at_ns=time.time_ns(),
            )
            try:
                await self._status_bucket.put("control", codec.to_json(status))
            except BusUnavailableError as error:
                log.warning("status.unsent", reason=str(error))
