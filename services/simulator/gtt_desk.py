"""Watches the market for the accounts' triggers, and places their orders when a price comes."""

import itertools

from libs.common import logs
from services.simulator import metrics
from services.simulator.domain.accounts import Account
from services.simulator.domain.gtt import (
    Gtt,
    GttBook,
    GttRequest,
    GttStatus,
    LegResult,
    check_values,
)
from services.simulator.errors import KiteError
from services.simulator.exchange import Exchange
from services.simulator.order_desk import OrderDesk

log = logs.get_logger(__name__)

_FIRST_ID = 100_000_001


class GttDesk:
    """Keeps the triggers of all accounts.

    Args:
        exchange: The running market.
        orders: Places what is triggered.
        accounts: Who may trade.
    """

    def __init__(self, exchange: Exchange, orders: OrderDesk, accounts: list[Account]) -> None:
        self._exchange = exchange
        self._orders = orders
        self._books = {account.api_key: GttBook(account) for account in accounts}
        self._numbers = itertools.count(_FIRST_ID)

    def book(self, account: Account) -> GttBook:
        """Give the triggers of an account."""
        return self._books[account.api_key]

    def now_ns(self) -> int:
        """Give virtual epoch nanoseconds."""
        return self._exchange.clock.now_ns()

    def place(self, account: Account, request: GttRequest) -> Gtt:
        """Watch for a price from now on.

        Raises:
            KiteError: It is refused.
        """
        contract, touch = self._orders.look_up(request.exchange, request.tradingsymbol)
        check_values(request, touch.last)
        trigger = Gtt(
            next(self._numbers),
            request,
            token=contract.token,
            last_paise=touch.last,
            at_ns=self.now_ns(),
        )
        self.book(account).add(trigger)
        return trigger

    def modify(self, account: Account, number: str, request: GttRequest) -> Gtt:
        """Watch for something else.

        Raises:
            KiteError: It is refused.
        """
        trigger = self.book(account).get_active(number)
        contract, touch = self._orders.look_up(request.exchange, request.tradingsymbol)
        check_values(request, touch.last)
        trigger.token = contract.token
        trigger.change(request, last_paise=touch.last, at_ns=self.now_ns())
        return trigger

    def delete(self, account: Account, number: str) -> Gtt:
        """Watch no longer.

        Raises:
            KiteError: There is no such trigger, or it has ended.
        """
        trigger = self.book(account).get_active(number)
        trigger.end(GttStatus.DELETED, self.now_ns())
        return trigger

    def on_step(self) -> None:
        """Look at the prices after a step of the market."""
        at_ns = self.now_ns()
        rows, quotes = self._exchange.market.universe.row_of_token, self._exchange.quotes
        for book in self._books.values():
            book.expire(at_ns)
            for trigger in book.active():
                row = rows.get(trigger.token)
                if row is None:
                    # The contract has ended, and what watched it with it.
                    trigger.end(GttStatus.EXPIRED, at_ns)
                    continue
                last = int(quotes.last[row])
                leg = trigger.reached(last) if last and quotes.ticked[row] else None
                if leg is not None:
                    self._trigger(book.account, trigger, leg, at_ns)

    def _trigger(self, account: Account, trigger: Gtt, leg: int, at_ns: int) -> None:
        try:
            order = self._orders.place(account, trigger.ticket(leg)).order
        except KiteError as error:
            result = LegResult(at_ns=at_ns, order_id=None, reason=error.message)
        else:
            result = LegResult(at_ns=at_ns, order_id=order.order_id)
        trigger.trigger(leg, result)
        outcome = "refused" if result.order_id is None else "placed"
        metrics.GTT_TRIGGERED_TOTAL.labels(outcome=outcome).inc()
        log.info("gtt.triggered", user=account.user_id, trigger=trigger.id, outcome=outcome)
