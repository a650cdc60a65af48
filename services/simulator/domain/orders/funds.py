"""What an account can still spend: simple margins, so that an order can be too large for it."""

from typing import Final

import msgspec

from libs.common.domain.instruments import Kind
from services.simulator.domain.orders.contract import Contract, Touch
from services.simulator.domain.orders.order import Order
from services.simulator.domain.orders.ticket import Product, Side

_DERIVATIVE_SHARE: Final = 0.12
_INTRADAY_SHARE: Final = 0.20


class Holding(msgspec.Struct):
    """The net quantity of one instrument in one product.

    Attributes:
        net: Units, negative when sold.
        average: Paise at which they were entered.
        used: Paise of margin.
    """

    net: int = 0
    average: float = 0.0
    used: float = 0.0


class Funds:
    """The money of one account on one day, in paise.

    A long option and a share cost their price, an intraday share a fifth of it; a future and a
    short option hold 12 % of the underlying's value. Realised profit can be spent at once.

    Args:
        total: What the day began with.
    """

    def __init__(self, total: int) -> None:
        self.total = total
        self.realised = 0.0
        self.blocked = 0
        self.used = 0.0
        self.holdings: dict[tuple[int, Product], Holding] = {}

    @property
    def available(self) -> int:
        """What a new order may need at most."""
        return int(self.total + self.realised - self.used) - self.blocked

    def required(self, order: Order, price: int, touch: Touch) -> int:
        """Give what an order needs beyond what its account holds already.

        Args:
            order: Which one; only its open quantity counts.
            price: The worst price at which it may be filled.
            touch: The market of its instrument.
        """
        side = order.ticket.side
        held = self.holdings.get((order.contract.token, order.ticket.product))
        net = held.net if held else 0
        opposite = -net if side is Side.BUY else net
        added = max(order.open_quantity - max(opposite, 0), 0)
        return round(
            added * margin_per_unit(order.contract, order.ticket.product, side, price, touch)
        )

    def block(self, order: Order, amount: int) -> None:
        """Hold money for an open order, instead of what it held before."""
        self.blocked += amount - order.blocked
        order.blocked = amount

    def book(self, order: Order, quantity: int, price: int, touch: Touch) -> None:
        """Move the position and its margin by a fill."""
        ticket = order.ticket
        self._move(order.contract, ticket.product, ticket.side, quantity, price, touch)

    def convert(
        self,
        contract: Contract,
        side: Side,
        quantity: int,
        products: tuple[Product, Product],
        touch: Touch,
    ) -> None:
        """Carry a part of a position as another product from now on, at what it was entered at.

        Args:
            contract: Of what.
            side: BUY for a position that was bought.
            quantity: Units, at most those of the position.
            products: What it was and what it becomes.
            touch: The market of its instrument.
        """
        old, new = products
        average = self.holdings[contract.token, old].average
        self._move(contract, old, side.other, quantity, average, touch)
        self._move(contract, new, side, quantity, average, touch)

    def _move(
        self,
        contract: Contract,
        product: Product,
        side: Side,
        quantity: int,
        price: float,
        touch: Touch,
    ) -> None:
        held = self.holdings.setdefault((contract.token, product), Holding())
        sign = 1 if side is Side.BUY else -1
        closing = min(quantity, max(-held.net * sign, 0))
        if closing:
            self.realised += closing * (price - held.average) * -sign
            freed = held.used * closing / abs(held.net)
            held.used -= freed
            self.used -= freed
            held.net += sign * closing
        opening = quantity - closing
        if opening:
            before = abs(held.net)
            held.average = (held.average * before + price * opening) / (before + opening)
            held.net += sign * opening
            margin = opening * margin_per_unit(contract, product, side, price, touch)
            held.used += margin
            self.used += margin


def margin_per_unit(
    contract: Contract, product: Product, side: Side, price: float, touch: Touch
) -> float:
    """Give what one unit more costs or holds, paise."""
    if contract.kind is Kind.EQUITY:
        intraday = product in {Product.MIS, Product.CO}
        # Delivery of shares one has needs no money; which shares those are is not checked.
        delivery = 0.0 if side is Side.SELL else float(price)
        return price * _INTRADAY_SHARE if intraday else delivery
    if contract.kind is Kind.OPTION and side is Side.BUY:
        return float(price)
    return _DERIVATIVE_SHARE * (price if contract.kind is Kind.FUTURE else touch.underlying)
