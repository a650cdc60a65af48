"""Positions, holdings and funds of the accounts, as their fills and the market leave them."""

from typing import Any

from libs.common.domain.instruments import Kind
from services.simulator.domain import margins, portfolio
from services.simulator.domain.accounts import Account
from services.simulator.domain.orders import rules
from services.simulator.domain.orders.funds import margin_per_unit
from services.simulator.domain.orders.ticket import Product, Side
from services.simulator.domain.portfolio import Conversion, Fill, Mark, Position
from services.simulator.errors import InputError, MarginError, OrderError
from services.simulator.exchange import Exchange
from services.simulator.order_desk import OrderDesk


class PortfolioDesk:
    """Works out what the accounts hold.

    Args:
        exchange: The running market.
        orders: Keeps the books of the day.
        seed: Of the shares that accounts have from before.
    """

    def __init__(self, exchange: Exchange, orders: OrderDesk, *, seed: int) -> None:
        self._exchange = exchange
        self._orders = orders
        self._seed = seed
        self._day = exchange.market.universe.day
        self._conversions: dict[str, list[Conversion]] = {}
        self._held_before: dict[str, list[portfolio.Share]] = {}

    def positions(self, account: Account) -> list[dict[str, Any]]:
        """Give the rows of the day's positions, flat ones included."""
        found = self._positions(account).values()
        return [portfolio.position_row(position, self._mark(position.token)) for position in found]

    def holdings(self, account: Account) -> list[dict[str, Any]]:
        """Give the rows of the shares from before."""
        found = self._positions(account)
        rows = []
        for share in self._shares(account):
            delivery = found.get(("NSE", share.tradingsymbol, Product.CNC))
            sold = max(-delivery.net, 0) if delivery else 0
            rows.append(portfolio.holding_row(share, sold, self._mark(share.token)))
        return rows

    def funds(self, account: Account) -> dict[str, Any]:
        """Give the account's equity funds."""
        unrealised = sum(
            position.unrealised(self._mark(position.token).last)
            for position in self._positions(account).values()
        )
        funds = self._orders.book(account).funds
        return margins.funds_row(funds, self._kind, unrealised)

    def margin_by_underlying(self, account: Account) -> dict[int, float]:
        """Give the margin, paise, that positions hold on each underlying, by its row."""
        universe = self._exchange.market.universe
        held: dict[int, float] = {}
        for (token, _), holding in self._orders.book(account).funds.holdings.items():
            row = universe.row_of_token.get(token)
            if row is not None and universe.is_derivative[row]:
                underlying = int(universe.underlying[row])
                premium = self._kind(token) is Kind.OPTION and holding.net > 0
                held[underlying] = held.get(underlying, 0.0) + (0.0 if premium else holding.used)
        return held

    def convert(
        self,
        account: Account,
        exchange: str,
        tradingsymbol: str,
        *,
        side: Side,
        quantity: int,
        products: tuple[Product, Product],
    ) -> None:
        """Carry a part of a position as another product from now on.

        Args:
            account: Whose.
            exchange: Where.
            tradingsymbol: Of what.
            side: BUY for a position that was bought.
            quantity: Units.
            products: What it is and what it shall become.

        Raises:
            KiteError: There is no such position, or it cannot be carried like that.
        """
        old, new = products
        contract, touch = self._orders.look_up(exchange, tradingsymbol)
        position = self._positions(account).get((exchange, tradingsymbol, old))
        held = 0 if position is None else position.net * (1 if side is Side.BUY else -1)
        if quantity > held:
            raise OrderError(
                f"Invalid `quantity`. Only {max(held, 0)} of {tradingsymbol} in {old} are held."
            )
        if new is old:
            raise InputError("Invalid `new_product`. It is the same as `old_product`.")
        rules.check_product(new, contract)
        funds = self._orders.book(account).funds
        before = margin_per_unit(contract, old, side, touch.last, touch)
        after = margin_per_unit(contract, new, side, touch.last, touch)
        missing = round((after - before) * quantity) - funds.available
        if missing > 0:
            raise MarginError(f"Insufficient funds. {missing / 100:.2f} more are needed.")
        funds.convert(contract, side, quantity, products, touch)
        self._conversions.setdefault(account.api_key, []).append(
            Conversion(
                exchange=exchange,
                tradingsymbol=tradingsymbol,
                token=contract.token,
                side=side,
                quantity=quantity,
                old=old,
                new=new,
                at_ns=self._exchange.clock.now_ns(),
            )
        )

    def _positions(self, account: Account) -> dict[tuple[str, str, Product], Position]:
        book = self._orders.book(account)
        today = self._exchange.market.universe.day
        if today != self._day:
            self._day = today
            self._conversions.clear()
        fills = [
            Fill(
                exchange=order.contract.exchange,
                tradingsymbol=order.contract.tradingsymbol,
                token=order.contract.token,
                product=order.ticket.product,
                side=order.ticket.side,
                quantity=trade.quantity,
                price=trade.price,
                at_ns=trade.at_ns,
            )
            for order, trade in book.trades()
        ]
        return portfolio.positions(fills, self._conversions.get(account.api_key, []))

    def _shares(self, account: Account) -> list[portfolio.Share]:
        # Drawn once: what they were bought at does not change with the day.
        if account.api_key not in self._held_before:
            universe = self._exchange.market.universe
            # The underlyings are the first rows of the universe.
            listed = [
                (row.tradingsymbol, row.instrument_token)
                for row in universe.instruments[: len(universe.underlyings)]
                if row.exchange == "NSE" and row.kind is Kind.EQUITY
            ]
            self._held_before[account.api_key] = portfolio.shares_from_before(
                listed,
                lambda token: self._mark(token).close,
                seed=self._seed,
                owner=account.api_key,
            )
        return self._held_before[account.api_key]

    def _mark(self, token: int) -> Mark:
        quotes = self._exchange.quotes
        row = self._exchange.market.universe.row_of_token.get(token)
        if row is None:
            return Mark(0, 0)
        close = int(quotes.close[row])
        return Mark(int(quotes.last[row]) or close, close)

    def _kind(self, token: int) -> Kind | None:
        universe = self._exchange.market.universe
        row = universe.row_of_token.get(token)
        return None if row is None else universe.instruments[row].kind
