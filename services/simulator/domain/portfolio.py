"""What an account holds: positions out of the day's fills, and a few shares from before."""

import hashlib
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec

from services.simulator.domain.orders.ticket import Product, Side

HOLDINGS: Final = 3
"""Shares that each account has from before."""

_OLDEST_LOT, _LARGEST_LOT = 5, 200


class Mark(msgspec.Struct, frozen=True):
    """What an instrument is worth; paise.

    Attributes:
        last: Last price.
        close: The previous session's.
    """

    last: int
    close: int


class Fill(msgspec.Struct, frozen=True, kw_only=True):
    """A trade, as far as positions care.

    Attributes:
        exchange: Where.
        tradingsymbol: Of what.
        token: Kite's number of it.
        product: How it is carried.
        side: Bought or sold.
        quantity: Units, at least 1.
        price: Paise.
        at_ns: Virtual epoch nanoseconds.
    """

    exchange: str
    tradingsymbol: str
    token: int
    product: Product
    side: Side
    quantity: int
    price: int
    at_ns: int


class Conversion(msgspec.Struct, frozen=True, kw_only=True):
    """A part of a position that is carried as another product from some moment on.

    Attributes:
        exchange: Where.
        tradingsymbol: Of what.
        token: Kite's number of it.
        side: BUY for a position that was bought.
        quantity: Units, at most those of the position.
        old: What it was.
        new: What it becomes.
        at_ns: Virtual epoch nanoseconds.
    """

    exchange: str
    tradingsymbol: str
    token: int
    side: Side
    quantity: int
    old: Product
    new: Product
    at_ns: int


class Position(msgspec.Struct, kw_only=True):
    """One instrument in one product over a day; money in paise.

    Attributes:
        exchange: Where.
        tradingsymbol: Of what.
        token: Kite's number of it.
        product: How it is carried.
        net: Units, negative when sold.
        average: What the open units were entered at; 0 without any.
        realised: Profit of the closed ones.
        bought, bought_value: Units and money of all purchases.
        sold, sold_value: The same of all sales.
    """

    exchange: str
    tradingsymbol: str
    token: int
    product: Product
    net: int = 0
    average: float = 0.0
    realised: float = 0.0
    bought: int = 0
    bought_value: float = 0.0
    sold: int = 0
    sold_value: float = 0.0

    def trade(self, side: Side, quantity: int, price: float) -> None:
        """Move by a purchase or a sale."""
        if side is Side.BUY:
            self.bought += quantity
            self.bought_value += quantity * price
        else:
            self.sold += quantity
            self.sold_value += quantity * price
        sign = 1 if side is Side.BUY else -1
        closing = min(quantity, max(-self.net * sign, 0))
        self.realised += closing * (price - self.average) * -sign
        self.net += sign * closing
        opening = quantity - closing
        if opening:
            before = abs(self.net)
            self.average = (self.average * before + price * opening) / (before + opening)
            self.net += sign * opening
        if self.net == 0:
            self.average = 0.0

    def take(self, side: Side, quantity: int) -> float:
        """Take units out as if they had never been entered here; give what they cost each."""
        average = self.average
        if side is Side.BUY:
            self.bought -= quantity
            self.bought_value -= quantity * average
            self.net -= quantity
        else:
            self.sold -= quantity
            self.sold_value -= quantity * average
            self.net += quantity
        if self.net == 0:
            self.average = 0.0
        return average

    def profit(self, last: int) -> float:
        """Give realised and unrealised profit, paise."""
        return self.sold_value - self.bought_value + self.net * last

    def unrealised(self, last: int) -> float:
        """Give the profit of the open units, paise."""
        return self.net * (last - self.average)


def positions(
    fills: Iterable[Fill], conversions: Iterable[Conversion] = ()
) -> dict[tuple[str, str, Product], Position]:
    """Give the positions that a day's events leave, flat ones included.

    Args:
        fills: Trades, in any order.
        conversions: Each possible at its moment.

    Returns:
        By (exchange, tradingsymbol, product), in the order of their first event.
    """
    found: dict[tuple[str, str, Product], Position] = {}

    def position(event: Fill | Conversion, product: Product) -> Position:
        return found.setdefault(
            (event.exchange, event.tradingsymbol, product),
            Position(
                exchange=event.exchange,
                tradingsymbol=event.tradingsymbol,
                token=event.token,
                product=product,
            ),
        )

    events: list[Fill | Conversion] = [*fills, *conversions]
    for event in sorted(events, key=lambda event: event.at_ns):
        if isinstance(event, Fill):
            position(event, event.product).trade(event.side, event.quantity, event.price)
        else:
            average = position(event, event.old).take(event.side, event.quantity)
            position(event, event.new).trade(event.side, event.quantity, average)
    return found


def position_row(position: Position, mark: Mark) -> dict[str, Any]:
    """Give a position as `GET /portfolio/positions` lists it, under `net` and `day` alike.

    Nothing is carried overnight: the day begins flat, so the day's figures are all there are.
    """
    traded = {
        "buy_quantity": position.bought,
        "buy_price": _each(position.bought_value, position.bought),
        "buy_value": _rupees(position.bought_value),
        "sell_quantity": position.sold,
        "sell_price": _each(position.sold_value, position.sold),
        "sell_value": _rupees(position.sold_value),
    }
    profit = _rupees(position.profit(mark.last))
    return {
        "tradingsymbol": position.tradingsymbol,
        "exchange": position.exchange,
        "instrument_token": position.token,
        "product": position.product,
        "quantity": position.net,
        "overnight_quantity": 0,
        "multiplier": 1,
        "average_price": _rupees(position.average),
        "close_price": mark.close / 100,
        "last_price": mark.last / 100,
        "value": _rupees(position.sold_value - position.bought_value),
        "pnl": profit,
        "m2m": profit,
        "unrealised": _rupees(position.unrealised(mark.last)),
        "realised": _rupees(position.realised),
        **traded,
        "buy_m2m": traded["buy_value"],
        "sell_m2m": traded["sell_value"],
        **{f"day_{name}": value for name, value in traded.items()},
    }


class Share(msgspec.Struct, frozen=True):
    """Shares of one kind that an account has from before.

    Attributes:
        tradingsymbol: Of what, on NSE.
        token: Kite's number of it.
        quantity: Units.
        average: Paise at which they were bought.
    """

    tradingsymbol: str
    token: int
    quantity: int
    average: int


def shares_from_before(
    listed: Sequence[tuple[str, int]], close_of: Callable[[int], int], *, seed: int, owner: str
) -> list[Share]:
    """Give the shares of an account: the same ones for the same seed, owner and listing.

    Args:
        listed: (tradingsymbol, token) of the shares there are.
        close_of: Token -> previous close, paise.
        seed: The simulator's.
        owner: The account's api_key.
    """
    draws = random.Random(f"{seed}:{owner}:holdings")
    chosen = draws.sample(list(listed), min(HOLDINGS, len(listed)))
    return [
        Share(
            tradingsymbol=symbol,
            token=token,
            quantity=draws.randint(_OLDEST_LOT, _LARGEST_LOT),
            average=round(close_of(token) * draws.uniform(0.7, 1.1)),
        )
        for symbol, token in chosen
    ]


def holding_row(share: Share, sold: int, mark: Mark) -> dict[str, Any]:
    """Give shares as `GET /portfolio/holdings` lists them.

    Args:
        share: What is held.
        sold: Units of it sold today for delivery: they are `used`, and leave in the night.
        mark: What it is worth.
    """
    change = mark.last - mark.close
    return {
        "tradingsymbol": share.tradingsymbol,
        "exchange": "NSE",
        "instrument_token": share.token,
        "isin": _isin(share.tradingsymbol),
        "product": "CNC",
        "price": 0,
        "quantity": share.quantity - min(sold, share.quantity),
        "used_quantity": min(sold, share.quantity),
        "t1_quantity": 0,
        "realised_quantity": share.quantity,
        "authorised_quantity": 0,
        "authorised_date": None,
        "authorisation": {},
        "opening_quantity": share.quantity,
        "short_quantity": 0,
        "collateral_quantity": 0,
        "collateral_type": "",
        "discrepancy": False,
        "average_price": share.average / 100,
        "last_price": mark.last / 100,
        "close_price": mark.close / 100,
        "pnl": _rupees((mark.last - share.average) * share.quantity),
        "day_change": _rupees(change),
        "day_change_percentage": round(change * 100 / mark.close, 4) if mark.close else 0.0,
        "mtf": {
            "quantity": 0,
            "used_quantity": 0,
            "average_price": 0,
            "value": 0,
            "initial_margin": 0,
        },
    }


def _isin(tradingsymbol: str) -> str:
    """Make up a number of the right shape; the market's are made up as well."""
    digits = int.from_bytes(hashlib.sha256(tradingsymbol.encode()).digest()[:4], "big")
    return f"INE{digits % 1_000:03d}S01{digits // 1_000 % 1_000:03d}"


def _rupees(paise: float) -> float:
    return round(paise / 100, 4)


def _each(value: float, quantity: int) -> float:
    return _rupees(value / quantity) if quantity else 0.0
