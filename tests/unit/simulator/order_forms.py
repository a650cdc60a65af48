"""Tickets, contracts and markets for the tests of orders."""

from libs.common.domain.instruments import Kind
from services.simulator.domain.accounts import demo_accounts
from services.simulator.domain.orders.book import Numbers, OrderBook
from services.simulator.domain.orders.contract import Contract, Touch
from services.simulator.domain.orders.order import Order
from services.simulator.domain.orders.ticket import Ticket, read_ticket, read_variety
from tests.unit.simulator.markets import at

LOT = 65
NOW = at(11)
LEVEL = ((10_000, 100 * LOT),)
OPTION = Contract(
    row=9,
    token=12_345_602,
    exchange="NFO",
    tradingsymbol="NIFTY26NOV26000CE",
    kind=Kind.OPTION,
    lot=LOT,
    tick_paise=5,
    freeze_quantity=1_755,
    underlying_row=0,
)
SHARE = Contract(
    row=10,
    token=5_120_257,
    exchange="NSE",
    tradingsymbol="INFY",
    kind=Kind.EQUITY,
    lot=1,
    tick_paise=10,
    freeze_quantity=None,
    underlying_row=10,
)


def form(**changes: object) -> dict[str, str]:
    """The form of a limit order for one lot, as kiteconnect sends it."""
    fields: dict[str, object] = {
        "exchange": "NFO",
        "tradingsymbol": OPTION.tradingsymbol,
        "transaction_type": "BUY",
        "quantity": LOT,
        "product": "NRML",
        "order_type": "LIMIT",
        "price": 100.0,
        "tag": "t1",
        **changes,
    }
    return {name: str(value) for name, value in fields.items() if value is not None}


def ticket(variety: str = "regular", **changes: object) -> Ticket:
    """The same, read."""
    return read_ticket(read_variety(variety), form(**changes))


def touch(
    last: int = 10_000,
    bids: tuple[tuple[int, int], ...] = ((9_990, 100 * LOT),),
    asks: tuple[tuple[int, int], ...] = ((10_010, 100 * LOT),),
) -> Touch:
    """A market around a hundred rupees; prices in paise."""
    return Touch(
        last=last,
        bids=bids,
        asks=asks,
        lower_circuit=5,
        upper_circuit=500_000,
        underlying=2_600_000,
    )


def make_book(
    *,
    funds: float = 1e9,
    orders_per_day: int = 5_000,
    partial_fills: float = 0.0,
    reject_in_reply: bool = False,
) -> OrderBook:
    """The book of the first demo account."""
    return OrderBook(
        demo_accounts(1, 1)[0],
        Numbers(1_795_000_000_000_000_000),
        funds=funds,
        orders_per_day=orders_per_day,
        partial_fills=partial_fills,
        seed=1,
        reject_in_reply=reject_in_reply,
    )


def settle(book: OrderBook, order: Order, market: Touch | None = None) -> None:
    """Let an order take steps until it waits for something else than time."""
    while book.advance(order, market or touch(), NOW):
        pass


def statuses(order: Order) -> list[str]:
    """What an order has been through."""
    return [snapshot.status.value for snapshot in order.history]
