"""Positions, holdings, funds, margins, charges and triggers, as the stock client sees them."""

from collections.abc import Iterator
from typing import Any

import pytest
from kiteconnect import KiteConnect
from kiteconnect.exceptions import InputException, OrderException, TokenException

from tests.fakes.simulator import SimulatorProcess, until
from tests.integration.order_faults_rig import SHARE, market_order, stock_client

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    """One simulator for the module; every test trades with an account of its own."""
    process = SimulatorProcess(
        tmp_path_factory.mktemp("simulator"), SIM_DEMO_ACCOUNTS="8", SIM_PARTIAL_FILLS="0"
    )
    process.start()
    yield process
    process.kill()


async def filled(client: KiteConnect, order: dict[str, Any]) -> dict[str, Any]:
    """Place an order and wait until it is filled; its row."""
    order_id = client.place_order(**order)
    await until(
        lambda: client.order_history(order_id)[-1]["status"] == "COMPLETE", f"{order} to be filled"
    )
    row: dict[str, Any] = client.order_history(order_id)[-1]
    return row


def option(client: KiteConnect, side: str = "CE") -> dict[str, Any]:
    """A NIFTY option near the money."""
    spot = client.ltp("NSE:NIFTY 50")["NSE:NIFTY 50"]["last_price"]
    rows = [
        row
        for row in client.instruments("NFO")
        if row["name"] == "NIFTY" and row["instrument_type"] == side
    ]
    nearest: dict[str, Any] = min(rows, key=lambda r: (r["expiry"], abs(r["strike"] - spot)))
    return nearest


def position_of(client: KiteConnect, symbol: str, product: str) -> dict[str, Any]:
    """The row of a position."""
    (row,) = [
        row
        for row in client.positions()["net"]
        if (row["tradingsymbol"], row["product"]) == (symbol, product)
    ]
    found: dict[str, Any] = row
    return found


async def test_a_fresh_account_has_no_positions_and_a_few_shares(simulator) -> None:
    client = await stock_client(simulator, 1)
    assert client.positions() == {"net": [], "day": []}
    holdings = client.holdings()
    assert len(holdings) == 3
    for row in holdings:
        assert row["exchange"] == "NSE"
        assert row["pnl"] == pytest.approx(
            (row["last_price"] - row["average_price"]) * row["quantity"], abs=1e-3
        )
    again = {row["tradingsymbol"]: row["average_price"] for row in client.holdings()}
    assert again == {row["tradingsymbol"]: row["average_price"] for row in holdings}
    assert client.get_auction_instruments() == []


async def test_trades_become_positions_and_move_the_funds(simulator) -> None:
    client = await stock_client(simulator, 2)
    before = client.margins("equity")
    assert before["net"] == before["available"]["opening_balance"]
    bought = await filled(client, market_order("BUY", 10))
    row = position_of(client, SHARE, "MIS")
    assert (row["quantity"], row["buy_quantity"], row["sell_quantity"]) == (10, 10, 0)
    assert row["average_price"] == pytest.approx(bought["average_price"], abs=1e-3)
    assert row["pnl"] == pytest.approx(row["realised"] + row["unrealised"], abs=1e-2)
    assert client.positions()["day"][0]["day_buy_quantity"] == 10
    during = client.margins()["equity"]
    assert during["net"] < before["net"]
    assert during["utilised"]["debits"] > 0
    sold = await filled(client, market_order("SELL", 10))
    flat = position_of(client, SHARE, "MIS")
    earned = (sold["average_price"] - bought["average_price"]) * 10
    assert (flat["quantity"], flat["unrealised"]) == (0, 0)
    assert flat["realised"] == pytest.approx(earned, abs=1e-2)
    after = client.margins("equity")
    assert after["net"] == pytest.approx(before["net"] + earned, abs=0.02)
    assert after["utilised"]["m2m_realised"] == pytest.approx(earned, abs=0.02)
    assert client.margins("commodity")["enabled"] is False
    with pytest.raises(InputException, match="segment"):
        client.margins("bonds")


async def test_a_position_is_converted(simulator) -> None:
    client = await stock_client(simulator, 3)
    await filled(client, market_order("BUY", 10))
    conversion = {
        "exchange": "NSE",
        "tradingsymbol": SHARE,
        "transaction_type": "BUY",
        "position_type": "day",
        "quantity": 4,
        "old_product": "MIS",
        "new_product": "CNC",
    }
    utilised = client.margins("equity")["utilised"]["debits"]
    assert client.convert_position(**conversion) is True
    assert position_of(client, SHARE, "MIS")["quantity"] == 6
    moved = position_of(client, SHARE, "CNC")
    assert moved["quantity"] == 4
    assert moved["average_price"] == position_of(client, SHARE, "MIS")["average_price"]
    assert client.margins("equity")["utilised"]["debits"] > utilised, "delivery costs more"
    with pytest.raises(OrderException, match="Only 6"):
        client.convert_position(**conversion | {"quantity": 7})
    with pytest.raises(OrderException, match="Only 0"):
        client.convert_position(**conversion | {"transaction_type": "SELL"})
    with pytest.raises(InputException, match="product"):
        client.convert_position(**conversion | {"new_product": "NRML"})
    with pytest.raises(InputException, match="position_type"):
        client.convert_position(**conversion | {"position_type": "overnight"})


async def test_sold_shares_are_used_holdings(simulator) -> None:
    client = await stock_client(simulator, 4)
    share = client.holdings()[0]
    order = market_order("SELL", 2, "CNC") | {"tradingsymbol": share["tradingsymbol"]}
    await filled(client, order)
    (row,) = [row for row in client.holdings() if row["tradingsymbol"] == share["tradingsymbol"]]
    assert (row["used_quantity"], row["quantity"]) == (2, share["quantity"] - 2)


async def test_margins_of_orders_and_baskets(simulator) -> None:
    client = await stock_client(simulator, 5)
    call, put = option(client, "CE"), option(client, "PE")
    orders = [
        {
            "exchange": "NFO",
            "tradingsymbol": row["tradingsymbol"],
            "transaction_type": "SELL",
            "variety": "regular",
            "product": "NRML",
            "order_type": "MARKET",
            "quantity": row["lot_size"],
            "price": 0,
            "trigger_price": 0,
        }
        for row in (call, put)
    ]
    rows = client.order_margins(orders)
    assert [row["tradingsymbol"] for row in rows] == [o["tradingsymbol"] for o in orders]
    for row in rows:
        assert row["total"] == pytest.approx(row["span"] + row["exposure"], abs=0.01)
        assert row["charges"]["total"] > row["charges"]["brokerage"] > 0
    basket = client.basket_order_margins(orders)
    assert basket["initial"]["total"] == pytest.approx(sum(r["total"] for r in rows), rel=0.05)
    assert basket["final"]["total"] < basket["initial"]["total"]
    assert len(basket["orders"]) == 2
    assert client.basket_order_margins(orders, mode="compact")["orders"] == []
    long_call = client.order_margins([orders[0] | {"transaction_type": "BUY"}])[0]
    assert long_call["total"] == long_call["option_premium"] > 0
    with pytest.raises(InputException):
        client.order_margins([orders[0] | {"quantity": 0}])
    with pytest.raises(InputException):
        client.order_margins([orders[0] | {"tradingsymbol": "NOPE"}])


async def test_the_charges_of_a_days_orders(simulator) -> None:
    client = await stock_client(simulator, 5)
    order = {
        "order_id": "11",
        "exchange": "NSE",
        "tradingsymbol": SHARE,
        "transaction_type": "SELL",
        "variety": "regular",
        "product": "MIS",
        "order_type": "MARKET",
        "quantity": 100,
        "average_price": 1_000.0,
    }
    (note,) = client.get_virtual_contract_note([order])
    assert note["price"] == 1_000.0
    cost = note["charges"]
    assert (cost["brokerage"], cost["transaction_tax"]) == (20.0, 25.0)
    assert cost["gst"]["total"] == pytest.approx(
        0.18
        * (cost["brokerage"] + cost["exchange_turnover_charge"] + cost["sebi_turnover_charge"]),
        abs=1e-3,
    )


def gtt_order(row: dict[str, Any], side: str, price: float) -> dict[str, Any]:
    """The order of a trigger's leg."""
    return {
        "transaction_type": side,
        "quantity": row["lot_size"],
        "order_type": "LIMIT",
        "product": "NRML",
        "price": round(price, 1),
    }


async def test_triggers_are_kept_changed_and_deleted(simulator) -> None:
    client = await stock_client(simulator, 6)
    row = option(client)
    symbol = row["tradingsymbol"]
    last = client.ltp(f"NFO:{symbol}")[f"NFO:{symbol}"]["last_price"]
    order = gtt_order(row, "BUY", last)
    number = client.place_gtt("single", symbol, "NFO", [last * 100], last, [order])["trigger_id"]
    (listed,) = client.get_gtts()
    assert listed == client.get_gtt(number)
    assert (listed["status"], listed["type"]) == ("active", "single")
    assert listed["orders"][0]["result"] is None
    assert listed["condition"]["instrument_token"] == row["instrument_token"]
    legs = [gtt_order(row, "SELL", last / 2), gtt_order(row, "SELL", last * 2)]
    changed = client.modify_gtt(
        number, "two-leg", symbol, "NFO", [last / 100, last * 100], last, legs
    )
    assert changed == {"trigger_id": number}
    assert client.get_gtt(number)["type"] == "two-leg"
    assert client.delete_gtt(number) == {"trigger_id": number}
    assert client.get_gtt(number)["status"] == "deleted"
    for call in (lambda: client.delete_gtt(number), lambda: client.get_gtt(1)):
        with pytest.raises(OrderException):
            call()
    # A share does not move by a quarter of a percent between two calls; an option may.
    share = client.ltp(f"NSE:{SHARE}")[f"NSE:{SHARE}"]["last_price"]
    with pytest.raises(InputException, match="too close"):
        client.place_gtt("single", SHARE, "NSE", [share], share, [order])
    stranger = await stock_client(simulator, 7)
    with pytest.raises(OrderException):
        stranger.get_gtt(number)


async def test_a_price_that_comes_triggers_its_order(tmp_path) -> None:
    simulator = SimulatorProcess(tmp_path)
    simulator.start()
    try:
        client = await stock_client(simulator)
        row = option(client)
        symbol = row["tradingsymbol"]
        last = client.ltp(f"NFO:{symbol}")[f"NFO:{symbol}"]["last_price"]
        around = [last * 0.97, last * 1.03]
        singles = [
            client.place_gtt("single", symbol, "NFO", [v], last, [gtt_order(row, "BUY", v)])
            for v in around
        ]
        legs = [gtt_order(row, "SELL", value) for value in around]
        both = client.place_gtt("two-leg", symbol, "NFO", around, last, legs)["trigger_id"]
        bad = gtt_order(row, "SELL", last) | {"quantity": row["lot_size"] + 1}
        refused = client.place_gtt("two-leg", symbol, "NFO", around, last, [bad, bad])
        # An option does not stand still for hours: an hour a minute until a price has come.
        simulator.control("POST", "/sim/clock", json={"rate": 60}).raise_for_status()
        await until(lambda: client.get_gtt(both)["status"] == "triggered", "the trigger's price")
        simulator.control("POST", "/sim/clock", json={"rate": 1}).raise_for_status()
        results = [leg["result"] for leg in client.get_gtt(both)["orders"]]
        (result,) = [result for result in results if result is not None]
        placed = result["order_result"]
        assert placed["status"] == "success"
        orders = {order["order_id"]: order for order in client.orders()}
        order = orders[placed["order_id"]]
        assert (order["transaction_type"], order["order_type"]) == ("SELL", "LIMIT")
        assert order["quantity"] == row["lot_size"]
        single = [client.get_gtt(number["trigger_id"]) for number in singles]
        assert "triggered" in {trigger["status"] for trigger in single}, "it crossed one of them"
        failed = client.get_gtt(refused["trigger_id"])
        (why,) = [leg["result"]["order_result"] for leg in failed["orders"] if leg["result"]]
        assert why["status"] == "failed"
        assert why["rejection_reason"]
    finally:
        simulator.kill()


async def test_everything_here_needs_a_session(simulator) -> None:
    stranger = KiteConnect("sim1key", access_token="wrong", root=simulator.url)
    calls = (
        stranger.positions,
        stranger.holdings,
        stranger.get_auction_instruments,
        stranger.margins,
        stranger.get_gtts,
        lambda: stranger.order_margins([]),
        lambda: stranger.basket_order_margins([]),
        lambda: stranger.get_virtual_contract_note([]),
        lambda: stranger.delete_gtt(1),
    )
    for call in calls:
        with pytest.raises(TokenException):
            call()


async def test_a_body_that_is_no_json_is_refused(simulator) -> None:
    async with await simulator.client(1) as client:
        for path in ("/margins/orders", "/margins/basket", "/charges/orders"):
            answer = await client.post(path, content=b"{")
            assert answer.status_code == 400
            assert answer.json()["error_type"] == "InputException"
            too_large = await client.post(path, content=b"[" + b" " * 70_000)
            assert too_large.status_code == 400
