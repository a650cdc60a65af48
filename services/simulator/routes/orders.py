"""Orders over REST: `/orders…`, `/trades`, and the whole of the books at `/sim/orders`."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.simulator.access import Access, form_of, json_reply, success
from services.simulator.domain.orders import rows
from services.simulator.domain.orders.book import OrderBook
from services.simulator.domain.orders.ticket import read_change, read_ticket, read_variety
from services.simulator.domain.rate_limits import RequestClass
from services.simulator.errors import FaultError
from services.simulator.order_desk import OrderDesk
from services.simulator.order_gate import HOLD_SECONDS


class OrderRoutes:
    """Placing, changing and reading orders.

    Args:
        desk: Keeps the books.
        access: Admits requests.
    """

    def __init__(self, desk: OrderDesk, access: Access) -> None:
        self._desk = desk
        self._access = access

    def routes(self) -> list[Route]:
        """All routes of this area."""
        return [
            Route("/orders", self.orders, methods=["GET"]),
            Route("/trades", self.trades, methods=["GET"]),
            Route("/orders/{variety}", self.place, methods=["POST"]),
            Route("/orders/{order_id}", self.history, methods=["GET"]),
            Route("/orders/{order_id}/trades", self.order_trades, methods=["GET"]),
            Route("/orders/{variety}/{order_id}", self.modify, methods=["PUT"]),
            Route("/orders/{variety}/{order_id}", self.cancel, methods=["DELETE"]),
            Route("/sim/orders", self.books, methods=["GET"]),
        ]

    async def place(self, request: Request) -> Response:
        """Place an order."""
        account = self._access.session(request, RequestClass.ORDER).account
        ticket = read_ticket(read_variety(request.path_params["variety"]), await form_of(request))
        # A fault may keep the order out of sight for a while.
        hold_seconds = getattr(request.state, HOLD_SECONDS, 0.0)
        placement = self._desk.place(account, ticket, hold_seconds=hold_seconds)
        return success(placement.reply(autoslice=ticket.autoslice))

    async def modify(self, request: Request) -> Response:
        """Modify an open order."""
        account = self._access.session(request, RequestClass.ORDER).account
        read_variety(request.path_params["variety"])
        change = read_change(await form_of(request))
        order = self._desk.modify(account, request.path_params["order_id"], change)
        return success({"order_id": order.order_id})

    async def cancel(self, request: Request) -> Response:
        """Cancel an open order, or exit a cover order."""
        account = self._access.session(request, RequestClass.ORDER).account
        read_variety(request.path_params["variety"])
        order = self._desk.cancel(account, request.path_params["order_id"])
        return success({"order_id": order.order_id})

    async def orders(self, request: Request) -> Response:
        """Give the orders of the day."""
        account = self._access.session(request).account
        visible = self._desk.visible(account)
        return success([rows.encoded_row(order, account) for order in visible])

    async def history(self, request: Request) -> Response:
        """Give what an order has been through, oldest first."""
        account = self._access.session(request).account
        order = self._desk.find(account, request.path_params["order_id"])
        return success([rows.order_row(order, snapshot, account) for snapshot in order.history])

    async def trades(self, request: Request) -> Response:
        """Give the fills of the day."""
        account = self._access.session(request).account
        pairs = self._desk.book(account).trades()
        return success([rows.trade_row(order, trade) for order, trade in pairs])

    async def order_trades(self, request: Request) -> Response:
        """Give the fills of an order."""
        account = self._access.session(request).account
        order = self._desk.find(account, request.path_params["order_id"])
        return success([rows.trade_row(order, trade) for trade in order.trades])

    async def books(self, request: Request) -> Response:
        """Show the books of all accounts, or of `?api_key=`, what is hidden from them included."""
        books = self._desk.books()
        wanted = request.query_params.get("api_key")
        if wanted is not None and wanted not in books:
            raise FaultError("api_key", "is unknown; give one of the accounts' keys, or none")
        chosen = books if wanted is None else {wanted: books[wanted]}
        return json_reply({"accounts": {key: self._book(book) for key, book in chosen.items()}})

    def _book(self, book: OrderBook) -> dict[str, Any]:
        account = book.account
        return {
            "user_id": account.user_id,
            "placed_today": book.placed_today,
            "funds_available": book.funds.available / 100,
            "orders": [rows.encoded_row(order, account) for order in book],
            "hidden": [order.order_id for order in book if self._desk.is_hidden(order)],
            "trades": [rows.trade_row(order, trade) for order, trade in book.trades()],
            # How often a request with this tag was taken in, and which orders it made.
            "tags": book.tags,
        }
