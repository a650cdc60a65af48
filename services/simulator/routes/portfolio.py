"""Positions, holdings, funds and margins over REST: `/portfolio…`, `/user/margins`, `/margins…`."""

from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.simulator.access import Access, form_of, json_of, required, success
from services.simulator.domain.charges import Charges, activity, charges
from services.simulator.domain.margins import (
    OrderMargin,
    basket_row,
    expected_price,
    no_funds_row,
    order_margin,
)
from services.simulator.domain.orders.ticket import OrderType, Product, Side, Variety, read_ticket
from services.simulator.errors import InputError
from services.simulator.order_desk import OrderDesk
from services.simulator.portfolio_desk import PortfolioDesk

_Rupees = Annotated[float, Meta(ge=0, le=10_000_000)]
_Units = Annotated[int, Meta(ge=1, le=100_000_000)]


class _Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """An order whose margin is asked for."""

    exchange: str
    tradingsymbol: str
    transaction_type: Side
    product: Product
    order_type: OrderType
    quantity: _Units
    variety: Variety = Variety.REGULAR
    price: _Rupees = 0.0
    trigger_price: _Rupees = 0.0


class _Filled(msgspec.Struct, frozen=True, kw_only=True):
    """An order whose charges are asked for."""

    exchange: str
    tradingsymbol: str
    transaction_type: Side
    product: Product
    order_type: OrderType
    quantity: _Units
    average_price: _Rupees
    variety: Variety = Variety.REGULAR
    order_id: str = ""


class PortfolioRoutes:
    """What an account holds and can spend.

    Args:
        desk: Works it out.
        orders: Knows the instruments and their market.
        access: Admits requests.
    """

    def __init__(self, desk: PortfolioDesk, orders: OrderDesk, access: Access) -> None:
        self._desk = desk
        self._orders = orders
        self._access = access

    def routes(self) -> list[Route]:
        """All routes of this area."""
        return [
            Route("/portfolio/positions", self.positions, methods=["GET"]),
            Route("/portfolio/positions", self.convert, methods=["PUT"]),
            Route("/portfolio/holdings", self.holdings, methods=["GET"]),
            Route("/portfolio/holdings/auctions", self.auctions, methods=["GET"]),
            Route("/user/margins", self.margins, methods=["GET"]),
            Route("/user/margins/{segment}", self.segment_margins, methods=["GET"]),
            Route("/margins/orders", self.order_margins, methods=["POST"]),
            Route("/margins/basket", self.basket_margins, methods=["POST"]),
            Route("/charges/orders", self.charges, methods=["POST"]),
        ]

    async def positions(self, request: Request) -> Response:
        """Give the day's positions; nothing is carried overnight, so `net` and `day` agree."""
        rows = self._desk.positions(self._access.session(request).account)
        return success({"net": rows, "day": rows})

    async def convert(self, request: Request) -> Response:
        """Carry a position as another product."""
        account = self._access.session(request).account
        form = await form_of(request)
        if required(form, "position_type") != "day":
            raise InputError("Invalid `position_type`. There are only `day` positions.")
        # The fields are those of an order, but for the two products.
        fields = {"product": required(form, "old_product"), "order_type": OrderType.MARKET}
        old = read_ticket(Variety.REGULAR, {**form, **fields})
        new = read_ticket(
            Variety.REGULAR, {**form, **fields, "product": required(form, "new_product")}
        )
        self._desk.convert(
            account,
            old.exchange,
            old.tradingsymbol,
            side=old.side,
            quantity=old.quantity,
            products=(old.product, new.product),
        )
        return success(data=True)

    async def holdings(self, request: Request) -> Response:
        """Give the shares from before."""
        return success(self._desk.holdings(self._access.session(request).account))

    async def auctions(self, request: Request) -> Response:
        """Give what an auction wants of them: nothing, there are no auctions."""
        self._access.session(request)
        return success([])

    async def margins(self, request: Request) -> Response:
        """Give the funds of both segments."""
        account = self._access.session(request).account
        return success({"equity": self._desk.funds(account), "commodity": no_funds_row()})

    async def segment_margins(self, request: Request) -> Response:
        """Give the funds of one segment."""
        account = self._access.session(request).account
        match request.path_params["segment"]:
            case "equity":
                return success(self._desk.funds(account))
            case "commodity":
                return success(no_funds_row())
            case _:
                raise InputError("Invalid `segment`. It is equity or commodity.")

    async def order_margins(self, request: Request) -> Response:
        """Give what each of some orders would hold by itself."""
        self._access.session(request)
        wanted = await json_of(request, list[_Wanted])
        return success([self._margin(order).row() for order in wanted])

    async def basket_margins(self, request: Request) -> Response:
        """Give what some orders would hold together."""
        account = self._access.session(request).account
        wanted = await json_of(request, list[_Wanted])
        query = request.query_params
        # kiteconnect writes a Python bool.
        considered = query.get("consider_positions", "true").lower() == "true"
        held = self._desk.margin_by_underlying(account) if considered else {}
        basket = [self._margin(order) for order in wanted]
        return success(basket_row(basket, held, compact=query.get("mode") == "compact"))

    async def charges(self, request: Request) -> Response:
        """Give what some orders have cost."""
        self._access.session(request)
        filled = await json_of(request, list[_Filled])
        return success([self._note(order) for order in filled])

    def _margin(self, wanted: _Wanted) -> OrderMargin:
        contract, touch = self._orders.look_up(wanted.exchange, wanted.tradingsymbol)
        price = expected_price(wanted.order_type, wanted.price, wanted.trigger_price, touch.last)
        cost = charges(
            activity(contract.kind, wanted.product),
            wanted.transaction_type,
            wanted.quantity,
            price / 100,
        )
        return order_margin(
            contract,
            wanted.product,
            wanted.transaction_type,
            wanted.quantity,
            price=price,
            touch=touch,
            charges=cost,
        )

    def _note(self, filled: _Filled) -> dict[str, object]:
        contract, _ = self._orders.look_up(filled.exchange, filled.tradingsymbol)
        cost: Charges = charges(
            activity(contract.kind, filled.product),
            filled.transaction_type,
            filled.quantity,
            filled.average_price,
        )
        return {
            "transaction_type": filled.transaction_type,
            "tradingsymbol": filled.tradingsymbol,
            "exchange": filled.exchange,
            "variety": filled.variety,
            "product": filled.product,
            "order_type": filled.order_type,
            "quantity": filled.quantity,
            "price": filled.average_price,
            "charges": cost.row(),
        }
