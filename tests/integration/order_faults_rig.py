"""What the tests of the simulator's order side share: a client, an order that rests, the truth."""

from typing import Any

from kiteconnect import KiteConnect

from libs.common.domain.order_answers import BrokerOrder
from libs.common.kite.orders import KiteOrderBroker
from tests.fakes.simulator import SimulatorProcess, until

SHARE = "RELIANCE"


async def stock_client(simulator: SimulatorProcess, number: int = 1) -> KiteConnect:
    """An unmodified kiteconnect client of an account."""
    return KiteConnect(
        simulator.account(number).api_key,
        access_token=await simulator.token(number),
        root=simulator.url,
        timeout=60,
    )


async def order_broker(
    simulator: SimulatorProcess, number: int = 1, *, patience_seconds: float = 30.0
) -> KiteOrderBroker:
    """The order client of an account, with more patience than it has in service."""
    return KiteOrderBroker(
        simulator.account(number).api_key,
        await simulator.token(number),
        simulator.url,
        deadline_seconds=60.0,
        timeout_seconds=patience_seconds,
    )


def resting_order(client: KiteConnect, quantity: int = 1) -> dict[str, Any]:
    """An order far below the market: it rests until somebody cancels it."""
    last = client.ltp(f"NSE:{SHARE}")[f"NSE:{SHARE}"]["last_price"]
    return {
        "variety": "regular",
        "exchange": "NSE",
        "tradingsymbol": SHARE,
        "transaction_type": "BUY",
        "quantity": quantity,
        "product": "CNC",
        "order_type": "LIMIT",
        "price": round(last * 0.94),
    }


def market_order(side: str, quantity: int = 1, product: str = "MIS") -> dict[str, Any]:
    """An order that is filled at once."""
    return {
        "variety": "regular",
        "exchange": "NSE",
        "tradingsymbol": SHARE,
        "transaction_type": side,
        "quantity": quantity,
        "product": product,
        "order_type": "MARKET",
        "market_protection": -1,
    }


def book(simulator: SimulatorProcess, number: int = 1) -> dict[str, Any]:
    """The whole of an account's book, as the simulator itself sees it."""
    key = simulator.account(number).api_key
    answer = simulator.control("GET", "/sim/orders", params={"api_key": key}).json()
    content: dict[str, Any] = answer["accounts"][key]
    return content


def accepted(simulator: SimulatorProcess, tag: str, number: int = 1) -> int:
    """How many orders a tag has made."""
    return sum(order["tag"] == tag for order in book(simulator, number)["orders"])


async def reaches(broker: KiteOrderBroker, order_id: str, *statuses: str) -> BrokerOrder:
    """Wait until an order has one of the statuses, as its account sees it."""
    found: list[BrokerOrder] = []

    async def arrived() -> bool:
        found[:] = [
            order
            for order in await broker.orders()
            if order.order_id == order_id and order.status in statuses
        ]
        return bool(found)

    await until(arrived, f"{order_id} to become {' or '.join(statuses)}")
    return found[0]
