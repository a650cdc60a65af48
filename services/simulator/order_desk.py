"""The broker's order desk: the accounts' books, moved by time and by every step of the market."""

import asyncio
import contextlib
import heapq
import itertools
import random
import time
from collections.abc import Callable
from typing import Any

import msgspec

from libs.common import logs
from libs.common.domain.clock import Clock
from libs.common.domain.market_calendar import MarketCalendar
from services.simulator import metrics
from services.simulator.domain.accounts import Account
from services.simulator.domain.orders import rules
from services.simulator.domain.orders.book import Numbers, OrderBook, Placement
from services.simulator.domain.orders.contract import Contract, Touch, contract_of, touch_of
from services.simulator.domain.orders.hours import Hours, hours
from services.simulator.domain.orders.order import Order, Status
from services.simulator.domain.orders.ticket import Change, Ticket
from services.simulator.domain.session_clock import trading_day
from services.simulator.errors import InputError, OrderError
from services.simulator.exchange import Exchange

log = logs.get_logger(__name__)

_TURN_SECONDS = 0.25
_STEPS_TO_THE_EXCHANGE = 3
_EXCHANGES = ("NSE", "BSE", "NFO", "BFO")

Listener = Callable[[Account, dict[str, Any]], None]
"""Is told of an account's order updates: the body of a postback."""


class OrderDesk:
    """Takes requests, lets orders take their steps, and matches them with the market.

    All of it happens on the event loop; nothing here waits while a book is being changed.

    Args:
        exchange: The running market.
        calendar: Knows the sessions.
        real_clock: Real time: makes numbers that no earlier process has given.
        accounts: Who may trade.
        funds: Rupees each account begins a day with.
        orders_per_day: Most orders of an account and day.
        partial_fills: Chance that a fill of several lots takes only a part of them.
        delay_ms: How long an order takes to the exchange, on average; each its own time between
            half of it and one and a half.
        reject_in_reply: See `OrderBook`.
        seed: Of delays and fills.
        monotonic: Elapsed real seconds.
    """

    def __init__(
        self,
        exchange: Exchange,
        *,
        calendar: MarketCalendar,
        real_clock: Clock,
        accounts: list[Account],
        funds: float,
        orders_per_day: int,
        partial_fills: float,
        delay_ms: float,
        reject_in_reply: bool,
        seed: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._exchange = exchange
        self._calendar = calendar
        self._monotonic = monotonic
        self._delay_seconds = delay_ms / 1_000
        numbers = Numbers(real_clock.now_ns())
        self._books = {
            account.api_key: OrderBook(
                account,
                numbers,
                funds=funds,
                orders_per_day=orders_per_day,
                partial_fills=partial_fills,
                seed=seed,
                reject_in_reply=reject_in_reply,
            )
            for account in accounts
        }
        self._pace = random.Random(f"{seed}:delays")
        # (when, tie-breaker, book, order, the status in which the step is due): an order that has
        # gone on by a fill meanwhile takes no step.
        self._steps: list[tuple[float, int, OrderBook, Order, Status]] = []
        self._turns = itertools.count()
        self._due = asyncio.Event()
        self._hidden: dict[str, float] = {}
        self._working: dict[int, dict[str, tuple[OrderBook, Order]]] = {}
        self._touched: object = None
        self._touches: dict[int, Touch] = {}
        self._day = exchange.market.universe.day
        self._open: dict[str, bool] = {}
        self._hours_due = monotonic()
        self.listeners: list[Listener] = []

    def book(self, account: Account) -> OrderBook:
        """Give the book of an account, of the present virtual day."""
        self._turn_day()
        return self._books[account.api_key]

    def books(self) -> dict[str, OrderBook]:
        """Give all books by api_key."""
        self._turn_day()
        return dict(self._books)

    def find(self, account: Account, order_id: str) -> Order:
        """Give an order that its account can see.

        Raises:
            OrderError: There is none of that number.
        """
        order = self.book(account).get(order_id)
        if self.is_hidden(order):
            raise OrderError(rules.UNKNOWN_ORDER)
        return order

    def visible(self, account: Account) -> list[Order]:
        """Give what an account's order book shows, oldest first."""
        orders = list(self.book(account))
        return [o for o in orders if not self.is_hidden(o)] if self._hidden else orders

    def is_hidden(self, order: Order) -> bool:
        """Say whether the account cannot see an order yet."""
        until = self._hidden.get(order.order_id)
        return until is not None and self._monotonic() < until

    def look_up(self, exchange: str, tradingsymbol: str) -> tuple[Contract, Touch]:
        """Give an instrument and its market.

        Raises:
            InputError: It is not listed, or cannot be traded.
        """
        contract = self._contract(exchange, tradingsymbol)
        return contract, self._touch(contract)

    def place(self, account: Account, ticket: Ticket, *, hold_seconds: float = 0.0) -> Placement:
        """Take an order in: every request to place one passes here, and exists from here on.

        Args:
            account: Whose.
            ticket: What is asked for.
            hold_seconds: Real seconds for which it goes no further and nobody sees it.

        Raises:
            KiteError: It is refused; nothing exists then.
        """
        book = self.book(account)
        contract = self._contract(ticket.exchange, ticket.tradingsymbol)
        at_ns = self._exchange.clock.now_ns()
        placement = book.place(
            ticket,
            contract,
            self._touch(contract),
            now=self._hours(ticket.exchange, at_ns),
            at_ns=at_ns,
        )
        self._settle(book, hold_seconds)
        metrics.ORDER_REQUESTS_TOTAL.labels(verb="place").inc()
        return placement

    def modify(self, account: Account, order_id: str, change: Change) -> Order:
        """Send a modification on its way.

        Raises:
            KiteError: It is refused.
        """
        book, order = self._find(account, order_id)
        at_ns = self._exchange.clock.now_ns()
        book.modify(order, change, self._touch(order.contract), at_ns)
        self._schedule(book, order)
        metrics.ORDER_REQUESTS_TOTAL.labels(verb="modify").inc()
        return order

    def cancel(self, account: Account, order_id: str) -> Order:
        """Send a cancellation on its way.

        Raises:
            KiteError: It is refused.
        """
        book, order = self._find(account, order_id)
        book.cancel(order, self._exchange.clock.now_ns())
        self._schedule(book, order)
        metrics.ORDER_REQUESTS_TOTAL.labels(verb="cancel").inc()
        return order

    def on_step(self) -> None:
        """Match what rests with the market after a step of it."""
        self._turn_day()
        quotes = self._exchange.quotes
        at_ns = self._exchange.clock.now_ns()
        for row in [row for row in self._working if quotes.ticked[row]]:
            last, bid, ask = int(quotes.last[row]), int(quotes.bid[row]), int(quotes.ask[row])
            reached = [
                pair for pair in self._working[row].values() if pair[1].is_reached(last, bid, ask)
            ]
            if not reached or not self._is_open(reached[0][1].contract.exchange, at_ns):
                continue
            touch = self._touch(reached[0][1].contract)
            for book, order in reached:
                book.match(order, touch, at_ns)
                self._settle(book)
                self._file(book, order)

    async def run(self, stop: asyncio.Event) -> None:
        """Let orders take their steps until stopped."""
        while not stop.is_set():
            self._due.clear()
            pause = self.turn()
            # Stopping waits for a turn at most.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(pause, _TURN_SECONDS)):
                    await self._due.wait()

    def turn(self) -> float:
        """Let every order whose time has come take its step.

        Returns:
            Real seconds until this is to be called again, at most.
        """
        now = self._monotonic()
        if now >= self._hours_due:
            self._hours_due = now + _TURN_SECONDS
            self._turn_hours()
        for _ in range(len(self._steps)):
            if not self._steps or self._steps[0][0] > now:
                break
            _, _, book, order, expected = heapq.heappop(self._steps)
            if order.status is expected and self._books[book.account.api_key].holds(order):
                self._hidden.pop(order.order_id, None)
                self._step(book, order)
        return max(self._steps[0][0] - now, 0.0) if self._steps else _TURN_SECONDS

    def _step(self, book: OrderBook, order: Order) -> None:
        at_ns = self._exchange.clock.now_ns()
        listed = order.contract.token in self._exchange.market.universe.row_of_token
        touch = self._touch(order.contract) if listed else None
        if touch is not None and not self._is_open(order.contract.exchange, at_ns):
            # It came too late: nobody is there to trade with.
            touch = msgspec.structs.replace(touch, bids=(), asks=())
        if book.advance(order, touch, at_ns):
            self._schedule(book, order)
        self._settle(book)
        self._file(book, order)

    def _schedule(self, book: OrderBook, order: Order, hold_seconds: float = 0.0) -> None:
        pause = self._delay_seconds * self._pace.uniform(0.5, 1.5) / _STEPS_TO_THE_EXCHANGE
        due = self._monotonic() + hold_seconds + pause
        heapq.heappush(self._steps, (due, next(self._turns), book, order, order.status))
        self._due.set()

    def _settle(self, book: OrderBook, hold_seconds: float = 0.0) -> None:
        """Set new orders going, and tell what has happened."""
        fresh, news = book.drain()
        for order in fresh:
            metrics.ORDERS_TOTAL.inc()
            if hold_seconds > 0:
                self._hidden[order.order_id] = self._monotonic() + hold_seconds
            if order.status is Status.RECEIVED:
                self._schedule(book, order, hold_seconds)
        for item in news:
            metrics.ORDER_UPDATES_TOTAL.inc()
            for listener in self.listeners:
                listener(book.account, item.body)

    def _file(self, book: OrderBook, order: Order) -> None:
        """Keep the list of what rests at the exchange."""
        row = order.contract.row
        if order.live:
            self._working.setdefault(row, {})[order.order_id] = (book, order)
        elif row in self._working:
            self._working[row].pop(order.order_id, None)
            if not self._working[row]:
                del self._working[row]

    def _turn_hours(self) -> None:
        """End what a close or its own minutes end; let go what waited for an open."""
        self._turn_day()
        at_ns = self._exchange.clock.now_ns()
        for exchange in _EXCHANGES:
            is_open = self._is_open(exchange, at_ns)
            if is_open and not self._open.get(exchange, False):
                for book in self._books.values():
                    for order in book.release_amo(exchange, at_ns):
                        self._schedule(book, order)
            self._open[exchange] = is_open
        for orders in list(self._working.values()):
            for book, order in list(orders.values()):
                closed = not self._open[order.contract.exchange]
                book.expire(order, at_ns, closed=closed)
                if order.is_terminal:
                    self._settle(book)
                    self._file(book, order)
        metrics.ORDERS_RESTING.set(sum(len(orders) for orders in self._working.values()))

    def _turn_day(self) -> None:
        """Empty the books when the market has gone over to another day."""
        universe = self._exchange.market.universe
        if universe.day == self._day:
            return
        self._day = universe.day
        self._working.clear()
        self._steps.clear()
        self._hidden.clear()
        self._open.clear()
        for book in self._books.values():
            book.turn_day()
            for order in book:
                contract = order.contract
                # The same contract has another row every day.
                order.contract = (
                    contract_of(universe, contract.exchange, contract.tradingsymbol) or contract
                )
        log.info("orders.day", day=self._day.isoformat())

    def _find(self, account: Account, order_id: str) -> tuple[OrderBook, Order]:
        return self.book(account), self.find(account, order_id)

    def _contract(self, exchange: str, tradingsymbol: str) -> Contract:
        rules.check_exchange(exchange)
        contract = contract_of(self._exchange.market.universe, exchange, tradingsymbol)
        if contract is None:
            raise InputError(rules.UNKNOWN_INSTRUMENT)
        return contract

    def _touch(self, contract: Contract) -> Touch:
        """Give the market of an instrument; the same one until the market's next step."""
        quotes = self._exchange.quotes
        if self._touched is not quotes:
            self._touched = quotes
            self._touches.clear()
        touch = self._touches.get(contract.token)
        if touch is None:
            touch = touch_of(self._exchange.market, quotes, contract)
            self._touches[contract.token] = touch
        return touch

    def _is_open(self, exchange: str, at_ns: int) -> bool:
        return self._hours(exchange, at_ns) is Hours.OPEN

    def _hours(self, exchange: str, at_ns: int) -> Hours:
        # Between the clock's turn and the market's, an order would go into yesterday's book.
        if trading_day(at_ns, self._calendar) != self._exchange.market.universe.day:
            return Hours.SHUT
        return hours(exchange, at_ns, self._calendar)
