"""The order desk: delays, held orders, matching at market steps, hours and days."""

from collections.abc import Iterator
from typing import Any

import pytest

from libs.common.domain.clock import IST, SystemClock, ist_datetime, ns_of
from libs.common.domain.instruments import Kind
from libs.common.domain.market_calendar import CALENDAR
from services.simulator.app import build
from services.simulator.domain.accounts import Account, demo_accounts
from services.simulator.domain.orders.order import Order
from services.simulator.domain.orders.ticket import Change, Ticket
from services.simulator.errors import InputError, OrderError
from services.simulator.order_desk import OrderDesk
from services.simulator.settings import SimulatorSettings
from tests.unit.simulator.order_forms import LOT, ticket

ONE, TWO = demo_accounts(2, 1)


def stands(order: Order) -> str:
    """Where an order stands; a call, so that the type checker does not think to know it."""
    return order.status.value


class Elapsed:
    """Real time that a test moves."""

    seconds = 0.0

    def __call__(self) -> float:
        """Seconds."""
        return self.seconds


class Rig:
    """A desk over a market that moves when a test says so.

    Args:
        start: Virtual Indian time.
        skip_closed: Whether the night is stepped over.
    """

    def __init__(self, start: str = "2026-11-18T11:00:00", *, skip_closed: bool = True) -> None:
        settings = SimulatorSettings(
            sim_start=start, sim_strikes_per_side=3, sim_skip_closed=skip_closed
        )
        self.exchange = build(settings).exchange
        self.elapsed = Elapsed()
        self.told: list[tuple[Account, dict[str, Any]]] = []
        self.desk = OrderDesk(
            self.exchange,
            calendar=CALENDAR,
            real_clock=SystemClock(),
            accounts=[ONE, TWO],
            funds=1e9,
            orders_per_day=5_000,
            partial_fills=0.0,
            delay_ms=100,
            reject_in_reply=False,
            seed=1,
            monotonic=self.elapsed,
        )
        self.desk.listeners.append(lambda account, body: self.told.append((account, body)))
        universe = self.exchange.market.universe
        self.row, self.symbol = next(
            (row, item.tradingsymbol)
            for row, item in enumerate(universe.instruments)
            if item.underlying == "NIFTY" and item.kind is Kind.OPTION
        )

    def ticket(self, variety: str = "regular", **changes: object) -> Ticket:
        """A limit order that nobody meets."""
        return ticket(variety, tradingsymbol=self.symbol, **{"price": 0.05, **changes})

    def place(self, hold_seconds: float = 0.0, account: Account = ONE, **changes: object) -> Order:
        """Place it."""
        wanted = self.ticket("regular", **changes)
        return self.desk.place(account, wanted, hold_seconds=hold_seconds).order

    def wait(self, seconds: float) -> None:
        """Let real time pass, in fifty parts."""
        for _ in range(50):
            self.elapsed.seconds += seconds / 50
            self.desk.turn()

    def jump(self, moment: str) -> None:
        """Let virtual time pass."""
        at = ist_datetime(0).fromisoformat(moment).replace(tzinfo=IST)
        self.exchange.clock.jump_to(ns_of(at))


@pytest.fixture
def rig() -> Iterator[Rig]:
    """A market at eleven on a Wednesday."""
    made = Rig()
    yield made
    made.exchange.close()


def test_an_order_takes_its_time_to_the_exchange(rig):
    order = rig.place()
    rig.desk.turn()
    assert stands(order) == "PUT ORDER REQ RECEIVED"
    rig.wait(0.049)
    assert not order.live
    rig.wait(0.101)
    assert stands(order) == "OPEN"
    assert [(account.user_id, body["status"]) for account, body in rig.told] == [("SIM001", "OPEN")]


def test_a_held_order_exists_but_neither_moves_nor_shows_until_its_time(rig):
    order = rig.place(hold_seconds=85)
    rig.wait(80)
    assert rig.desk.visible(ONE) == []
    assert rig.desk.book(ONE).tags["t1"].accepted == 1
    for attempt in (
        lambda: rig.desk.find(ONE, order.order_id),
        lambda: rig.desk.cancel(ONE, order.order_id),
        lambda: rig.desk.modify(ONE, order.order_id, Change(price=1.0)),
    ):
        with pytest.raises(OrderError, match="Couldn't find"):
            attempt()
    rig.wait(6)
    assert rig.desk.visible(ONE) == [order]
    assert stands(order) == "OPEN"


def test_accounts_do_not_see_each_other(rig):
    order = rig.place()
    assert rig.desk.visible(TWO) == []
    with pytest.raises(OrderError):
        rig.desk.cancel(TWO, order.order_id)


def test_a_step_of_the_market_fills_what_it_has_come_to_and_leaves_the_rest(rig):
    quotes = rig.exchange.quotes
    cheap = rig.place()
    rig.wait(1)
    rig.desk.on_step()
    assert stands(cheap) == "OPEN"
    bid, ask = int(quotes.bid[rig.row]), int(quotes.ask[rig.row])
    near = rig.place(price=bid / 100)
    rig.wait(1)
    assert stands(near) == "OPEN"
    # The sellers come down to the bid.
    quotes.ask[rig.row] = bid
    rig.exchange.quotes = type(quotes)(**{name: getattr(quotes, name) for name in quotes.__slots__})
    rig.desk.on_step()
    assert bid < ask
    assert stands(near) == "COMPLETE"
    assert near.trades[0].price == bid
    assert stands(cheap) == "OPEN"
    rig.desk.on_step()
    assert len(near.trades) == 1


async def test_the_close_ends_what_rests_and_the_next_open_begins_what_waited():
    rig = Rig("2026-11-18T15:39:00", skip_closed=False)
    resting = rig.place()
    rig.wait(1)
    assert stands(resting) == "OPEN"
    rig.jump("2026-11-18T15:40:00")
    rig.wait(1)
    assert stands(resting) == "CANCELLED"
    rig.jump("2026-11-18T18:00:00")
    waiting = rig.place()
    rig.wait(1)
    assert stands(waiting) == "AMO REQ RECEIVED"
    rig.jump("2026-11-19T09:15:01")
    rig.wait(1)
    # Tomorrow's market is not there yet, and yesterday's takes nothing any more.
    assert stands(waiting) == "AMO REQ RECEIVED"
    with pytest.raises(InputError, match="closed"):
        rig.place()
    await rig.exchange.turn_the_day()
    rig.wait(1)
    assert stands(waiting) == "OPEN"
    rig.exchange.close()


def test_an_order_that_reaches_a_closed_exchange_meets_nobody():
    rig = Rig("2026-11-18T15:39:00", skip_closed=False)
    order = rig.place(price=1_000, order_type="LIMIT", quantity=LOT)
    rig.jump("2026-11-18T15:40:00")
    rig.wait(1)
    assert stands(order) == "CANCELLED"
    assert order.trades == []
    rig.exchange.close()


async def test_another_day_empties_the_books_but_for_what_waits_for_the_open():
    rig = Rig("2026-11-18T15:39:00", skip_closed=False)
    gone = rig.place()
    rig.jump("2026-11-18T18:00:00")
    kept = rig.place(tag="amo")
    rig.jump("2026-11-19T06:00:01")
    await rig.exchange.turn_the_day()
    rig.wait(1)
    assert rig.desk.visible(ONE) == [kept]
    assert set(rig.desk.books()[ONE.api_key].tags) == {"amo"}
    with pytest.raises(OrderError):
        rig.desk.find(ONE, gone.order_id)
    universe = rig.exchange.market.universe
    assert universe.instruments[kept.contract.row].tradingsymbol == rig.symbol
    rig.exchange.close()
