"""What an order needs to know of its instrument: the contract's rules and its market right now."""

from typing import Final

import msgspec
import numpy as np

from libs.common.domain.expiries import INDEX_RULES
from libs.common.domain.instruments import Kind
from services.simulator.domain.market import Market, Quotes
from services.simulator.domain.orders.ticket import Side
from services.simulator.domain.quote_rows import circuit_paise
from services.simulator.domain.universe import Universe

_LOTS_PER_STOCK_ORDER: Final = 40
"""Ours: the exchanges' freeze quantities of stock derivatives are a list that changes monthly."""

_DEPTH_LEVELS: Final = 5


class Contract(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of one instrument.

    Attributes:
        row: Its row in the universe of the day.
        token: Kite's number.
        exchange: Where it trades.
        tradingsymbol: Kite's symbol.
        kind: Option, future or equity; an index cannot be traded.
        lot: Units per lot, 1 for shares.
        tick_paise: Price step.
        freeze_quantity: Most units of one order, a multiple of the lot; None without a limit.
        underlying_row: Row of what a derivative is written on; its own row for a share.
    """

    row: int
    token: int
    exchange: str
    tradingsymbol: str
    kind: Kind
    lot: int
    tick_paise: int
    freeze_quantity: int | None
    underlying_row: int


class Touch(msgspec.Struct, frozen=True, kw_only=True):
    """The market of one instrument at one moment; prices in paise.

    Attributes:
        last: Last price; the previous close when nothing has traded.
        bids: (price, units) per level, best first; empty without buyers.
        asks: The same of the sellers.
        lower_circuit: Lowest price of the day.
        upper_circuit: Highest price of the day.
        underlying: Last price of what a derivative is written on; its own for a share.
    """

    last: int
    bids: tuple[tuple[int, int], ...]
    asks: tuple[tuple[int, int], ...]
    lower_circuit: int
    upper_circuit: int
    underlying: int

    def against(self, side: Side) -> tuple[tuple[int, int], ...]:
        """Give the levels that an order of a side would meet."""
        return self.asks if side is Side.BUY else self.bids


def contract_of(universe: Universe, exchange: str, tradingsymbol: str) -> Contract | None:
    """Find an instrument; None when it is not listed today or is an index."""
    row = universe.row_of_symbol.get((exchange, tradingsymbol))
    if row is None or universe.is_index[row]:
        return None
    instrument = universe.instruments[row]
    lot = int(universe.lot[row])
    return Contract(
        row=row,
        token=instrument.instrument_token,
        exchange=exchange,
        tradingsymbol=tradingsymbol,
        kind=instrument.kind,
        lot=lot,
        tick_paise=int(universe.tick_paise[row]),
        freeze_quantity=_freeze_quantity(instrument.kind, instrument.underlying, lot),
        # The underlyings are the first rows of the universe, in their own order.
        underlying_row=int(universe.underlying[row]) if universe.is_derivative[row] else row,
    )


def touch_of(market: Market, quotes: Quotes, contract: Contract) -> Touch:
    """Give the market of an instrument."""
    row = contract.row
    depth = market.depth(quotes, np.array([row], np.int64))
    prices, quantities = depth.price[0].tolist(), depth.quantity[0].tolist()
    levels = [(price, units) for price, units in zip(prices, quantities, strict=True)]
    lower, upper = circuit_paise(market, quotes, row)
    return Touch(
        last=int(quotes.last[row]) or int(quotes.close[row]),
        bids=tuple(level for level in levels[:_DEPTH_LEVELS] if level[1]),
        asks=tuple(level for level in levels[_DEPTH_LEVELS:] if level[1]),
        lower_circuit=lower,
        upper_circuit=upper,
        underlying=int(quotes.last[contract.underlying_row]),
    )


def _freeze_quantity(kind: Kind, underlying: str, lot: int) -> int | None:
    if kind is Kind.EQUITY:
        return None
    rules = INDEX_RULES.get(underlying)
    if rules is None:
        return _LOTS_PER_STOCK_ORDER * lot
    return rules.freeze_quantity // lot * lot
