"""Keeps the plan right: wishes, windows and accounts in, entries of the bucket `plan` out."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import date, datetime
from typing import Final

import msgspec

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.kv import Mirror
from libs.common.bus.tasks import OwnedTasks
from libs.common.contracts import subjects
from libs.common.contracts.messages import Source
from libs.common.database import Database, DatabaseUnavailableError
from libs.common.errors import RejectedError, RetryableError
from libs.common.lifecycle import sleep_unless
from services.control import metrics
from services.control.account_watch import AccountWatch
from services.control.domain import planner, subscriptions, windows
from services.control.forwards import Forwards
from services.control.plan_store import PlanStore
from services.control.settings import ControlSettings
from services.control.subscription_states import CoverageBook, SubscriptionStates

# How often the accounts and the coverage are looked at.
_LOOK_INTERVAL_SECONDS: Final = 0.5
# Between two batches that go home.
_RETURN_INTERVAL_SECONDS: Final = 1.0
# A wake-up is answered after this pause, so that a burst of requests makes one plan.
_DEBOUNCE_SECONDS: Final = 0.05
_SETTLE_PAUSE_SECONDS: Final = 0.2
_NAMED_MAX: Final = 100
_LOGGED_MAX: Final = 20

log = logs.get_logger(__name__)


class Mirrors(msgspec.Struct, frozen=True, kw_only=True):
    """The buckets that planning reads; each must be running and ready.

    Attributes:
        plans: `plan`.
        status: `status`.
        leases: `leases_accounts`.
        coverage: `coverage`.
    """

    plans: Mirror
    status: Mirror
    leases: Mirror
    coverage: Mirror


class Market(msgspec.Struct, frozen=True, kw_only=True):
    """What the leader has learned of the market.

    Attributes:
        universe: Today's instruments.
        chains: The underlyings that have a window.
        prices: Spot prices in rupees by underlying.
        now: The market's time.
        source: Whose market it is.
    """

    universe: windows.Universe
    chains: Mapping[str, windows.Chain]
    prices: Mapping[str, float]
    now: datetime
    source: Source


class Planning:
    """The plan of one leadership term.

    A plan is made when the leader's round asks for it, soon after a wake-up (`control.wake.v1`),
    and at the next look after an account was lost, came back or came new.

    Args:
        bus: The connection.
        database: PostgreSQL.
        settings: Sizes of the windows, grace and hold-down.
        mirrors: The buckets.
        capacities: The accounts that are counted on, asked at every look.
    """

    def __init__(
        self,
        bus: Bus,
        database: Database,
        settings: ControlSettings,
        *,
        mirrors: Mirrors,
        capacities: Callable[[], list[planner.Capacity]],
    ) -> None:
        self._bus = bus
        self._settings = settings
        self._capacities = capacities
        self._store = PlanStore(bus, database, mirrors.plans)
        self._states = SubscriptionStates(database)
        self._coverage = CoverageBook(mirrors.coverage)
        self._forwards = Forwards(bus)
        self._watch = AccountWatch(
            leases=mirrors.leases,
            status=mirrors.status,
            absent=(slot.home for slot in self._store.slots.values() if slot.home is not None),
            grace_seconds=settings.account_lost_grace_seconds,
            hold_seconds=settings.account_return_hold_seconds,
        )
        self._market: Market | None = None
        self._centres: dict[str, dict[date, windows.Centre]] = {}
        self._refused: dict[int, str] = {}
        self._outcome: planner.Plan | None = None
        self._complained: tuple[planner.Unplaced, ...] = ()
        self._homes: frozenset[str] = frozenset()
        self._planned_for: object = None
        self._next_return = 0.0
        self._planning = asyncio.Lock()
        self._woken = asyncio.Event()
        self._unsettled = asyncio.Event()

    @property
    def outcome(self) -> planner.Plan | None:
        """The last plan of this term; None before the first."""
        return self._outcome

    @property
    def revision(self) -> int:
        """Revision of the newest plan, 0 before the first."""
        return self._store.revision

    def account_words(self) -> dict[str, str]:
        """What is out of the ordinary with the accounts' feeds, a phrase per account."""
        return self._watch.words()

    def lost_since_ns(self) -> dict[str, int]:
        """Since when each lost account has been away, epoch ns."""
        return self._watch.lost_since_ns()

    def unplaced_names(self) -> dict[str, str]:
        """Instruments without a place, by name with the reason; the first hundred.

        Those that found no room come before those that cannot be planned at all.
        """
        unplaced = () if self._outcome is None else self._outcome.unplaced
        reasons = {item.instrument_token: item.reason for item in unplaced} | self._refused
        found = {}
        for token, reason in reasons.items():
            found[self._name(token)] = reason
            if len(found) == _NAMED_MAX:
                break
        return found

    @property
    def unplaced(self) -> int:
        """How many wanted instruments have no place."""
        return len(self._refused) + (len(self._outcome.unplaced) if self._outcome else 0)

    def _name(self, token: int) -> str:
        known = None if self._market is None else self._market.universe.instruments.get(token)
        return f"token {token}" if known is None else f"{known.exchange}:{known.tradingsymbol}"

    async def run(self, stop: asyncio.Event) -> None:
        """Answer wake-ups, watch the accounts and write states until `stop` is set.

        Raises:
            Exception: Whatever one of its tasks raises; the others are ended first.
        """
        quiet = asyncio.Event()
        tasks = OwnedTasks()
        tasks.spawn(self._forwards.run(quiet), name="forwards")
        tasks.spawn(self._keep_planned(quiet), name="keep-planned")
        tasks.spawn(self._keep_settled(quiet), name="keep-settled")
        watches = [asyncio.create_task(event.wait()) for event in (stop, tasks.failed)]
        try:
            await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for watch in watches:
                watch.cancel()
            quiet.set()
            self._woken.set()
            self._unsettled.set()
            await tasks.finish(patience_seconds=0.3)
        tasks.raise_failure()

    # -- when a plan is made -------------------------------------------------------------------

    async def plan(self, market: Market) -> bool:
        """Make the plan for this market, with what people want now; says whether there is one.

        There is none as long as nobody knows what people want: what streams goes on streaming.

        Raises:
            BusUnavailableError: Some entries may not be written; the next plan writes them.
        """
        if not await self._states.read() and not self._states.known:
            return False
        self._market = market
        self._watch.look(c.account for c in self._capacities())
        await self._make()
        return True

    def forget_market(self) -> None:
        """Another market is about to be planned: make no plan until it is known."""
        self._market = None
        self._centres = {}

    async def _keep_planned(self, quiet: asyncio.Event) -> None:
        subscription = await self._bus.subscribe(subjects.WAKE_CONTROL, lambda _: self._woken.set())
        try:
            while not quiet.is_set():
                woken = not await _passed(self._woken, _LOOK_INTERVAL_SECONDS)
                if quiet.is_set():
                    return
                if self._market is None:
                    # The first round is under way; it reads what the wake-up was about.
                    self._woken.clear()
                    await sleep_unless(quiet, _DEBOUNCE_SECONDS)
                    continue
                started = time.monotonic()
                await self._out_of_turn(quiet, woken=woken)
                if woken:
                    # However many wake-ups come, half of the time is left to everything else.
                    await sleep_unless(quiet, time.monotonic() - started)
        finally:
            if not self._bus.closed.is_set():
                await subscription.unsubscribe()

    async def _out_of_turn(self, quiet: asyncio.Event, *, woken: bool) -> None:
        try:
            if woken:
                await sleep_unless(quiet, _DEBOUNCE_SECONDS)
                self._woken.clear()
                await self._states.read()
            self._watch.look(c.account for c in self._capacities())
            if woken or self._standings() != self._planned_for or self._somebody_can_go_home():
                metrics.WAKES_TOTAL.labels(cause="wake" if woken else "account").inc()
                await self._make()
        except (RetryableError, RejectedError) as error:
            metrics.ROUNDS_FAILED_TOTAL.labels(step="plan").inc()
            log.warning("leader.step_failed", step="plan", reason=str(error))

    def _standings(self) -> object:
        """Everything about the accounts that a plan depends on."""
        return self._capacities(), self._watch.lost, self._watch.returning

    def _somebody_can_go_home(self) -> bool:
        if time.monotonic() < self._next_return:
            return False
        away = self._homes - self._watch.lost - self._watch.returning
        return bool(away & {c.account for c in self._capacities()})

    # -- how it is made ------------------------------------------------------------------------

    async def _make(self) -> None:
        # The leader's round and a wake-up may come together; the second plans on the first's.
        async with self._planning:
            market = self._market
            if market is None:
                return
            standings = self._standings()
            asked = subscriptions.explicit(self._states.rows, market.universe, market.now)
            wanted = [*asked.wanted, *self._windows(market)]
            lost = self._watch.lost
            capacities = [c for c in self._capacities() if c.account not in lost]
            outcome = planner.plan(
                wanted,
                capacities,
                self._store.slots,
                lost=lost,
                returning=self._watch.returning,
                return_batch=self._return_batch(),
            )
            if outcome.returned:
                log.info("plan.returning", instruments=outcome.returned)
            self._refused = asked.refused
            self._outcome = outcome
            self._homes = frozenset(s.home for s in outcome.slots.values() if s.home is not None)
            metrics.PLANNED.set(len(outcome.slots))
            metrics.UNPLACED.set(len(outcome.unplaced))
            metrics.AWAY.set(outcome.away)
            accounts = {c.account for c in capacities} | lost
            if await self._store.write(outcome, accounts, planned_at_ns=time.time_ns()):
                metrics.PLANS_TOTAL.inc()
            self._planned_for = standings
            self._complain(outcome)
            self._unsettled.set()

    def _return_batch(self) -> int:
        """How many may go home in this plan: one batch a second, however often plans are made."""
        now = time.monotonic()
        if now < self._next_return:
            return 0
        self._next_return = now + _RETURN_INTERVAL_SECONDS
        return planner.RETURN_BATCH

    def _windows(self, market: Market) -> Iterable[windows.Wanted]:
        for name, chain in market.chains.items():
            expiries = windows.living_expiries(chain, market.now)
            chosen = windows.window(
                chain,
                spot=market.prices.get(name),
                forwards=self._forwards.of(
                    name,
                    expiries[: self._settings.option_expiry_window],
                    source=market.source,
                    now=market.now,
                ),
                now=market.now,
                expiries=self._settings.option_expiry_window,
                otm_levels=self._settings.otm_levels,
                previous=self._centres.get(name, {}),
            )
            self._note_moves(name, chosen.centres)
            yield from chosen.wanted

    def _note_moves(self, name: str, centres: dict[date, windows.Centre]) -> None:
        before = self._centres.get(name, {})
        for expiry, centre in centres.items():
            was = before.get(expiry)
            if was is not None and was.strike != centre.strike:
                metrics.WINDOW_MOVES_TOTAL.inc()
                log.info(
                    "window.moved",
                    underlying=name,
                    expiry=expiry.isoformat(),
                    strike=centre.strike,
                    was=was.strike,
                )
        self._centres[name] = centres

    def _complain(self, outcome: planner.Plan) -> None:
        if outcome.unplaced == self._complained:
            return
        self._complained = outcome.unplaced
        for item in outcome.unplaced[:_LOGGED_MAX]:
            log.warning(
                "plan.unplaced",
                instrument_token=item.instrument_token,
                tradingsymbol=self._name(item.instrument_token),
                cause=item.cause.value,
                reason=item.reason,
            )
        if len(outcome.unplaced) > _LOGGED_MAX:
            log.warning(
                "plan.unplaced_more",
                instruments=len(outcome.unplaced) - _LOGGED_MAX,
                remedy="add an account, or narrow OTM_LEVELS, OPTION_EXPIRY_WINDOW or UNDERLYINGS",
            )

    # -- what the tables say -------------------------------------------------------------------

    async def _keep_settled(self, quiet: asyncio.Event) -> None:
        """Copy the plan and the states to PostgreSQL, apart from planning: it may be away."""
        while not quiet.is_set():
            await _passed(self._unsettled, _LOOK_INTERVAL_SECONDS)
            if self._coverage.refresh() or self._unsettled.is_set():
                self._unsettled.clear()
                if not await self._settle():
                    await sleep_unless(quiet, _LOOK_INTERVAL_SECONDS)
                    self._unsettled.set()
            # Whatever happens, the database has a pause between two writes.
            await sleep_unless(quiet, _SETTLE_PAUSE_SECONDS)

    async def _settle(self) -> bool:
        outcome = self._outcome
        if outcome is None:
            return True
        try:
            if await self._store.save_for_people():
                self._states.forget_entries()
            fleet = subscriptions.Fleet(
                plan=outcome,
                refused=self._refused,
                since=self._store.since,
                coverage=self._coverage.by_account(),
            )
            pins = {row.instrument_token: row.account for row in self._states.rows}
            entries = dict.fromkeys((*outcome.slots, *outcome.stranded))
            await self._states.write(
                subscriptions.conditions(pins, fleet), subscriptions.conditions(entries, fleet)
            )
        except DatabaseUnavailableError as error:
            log.warning("plan.copy_waits", reason=error.reason)
            return False
        return True


async def _passed(event: asyncio.Event, seconds: float) -> bool:
    """Wait for an event; says whether the time has passed without it."""
    return not await sleep_unless(event, seconds)
