"""Orders in the simulator's real process, placed by the unmodified `kiteconnect` package."""

import asyncio
import datetime as dt
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from kiteconnect import KiteConnect
from kiteconnect.exceptions import (
    GeneralException,
    InputException,
    KiteException,
    NetworkException,
    OrderException,
)

from tests.fakes.simulator import DEADLINE_SECONDS, SimulatorProcess, Stream, until

pytestmark = pytest.mark.integration
LOT = 65
FREEZE = 1_755
NORMAL_LIFE = [
    "PUT ORDER REQ RECEIVED",
    "VALIDATION PENDING",
    "OPEN PENDING",
    "OPEN",
    "COMPLETE",
]


class Trader:
    """A stock client of one account, and an option it trades."""

    def __init__(self, simulator: SimulatorProcess, number: int = 1) -> None:
        account = simulator.account(number)
        token = asyncio.run(simulator.mint(number))
        self.simulator = simulator
        self.kite = KiteConnect(account.api_key, access_token=token, root=simulator.url)
        spot = self.kite.ltp("NSE:NIFTY 50")["NSE:NIFTY 50"]["last_price"]
        calls = [
            row
            for row in self.kite.instruments("NFO")
            if row["name"] == "NIFTY" and row["instrument_type"] == "CE"
        ]
        nearest = min(calls, key=lambda row: (row["expiry"], abs(row["strike"] - spot)))
        self.symbol: str = nearest["tradingsymbol"]

    def place(self, variety: str = "regular", **changes: Any) -> str:
        """Place an order: by default one lot at a price that nobody meets."""
        order: dict[str, Any] = {
            "exchange": "NFO",
            "tradingsymbol": self.symbol,
            "transaction_type": "BUY",
            "quantity": LOT,
            "product": "NRML",
            "order_type": "LIMIT",
            "price": 0.05,
            **changes,
        }
        number: str = self.kite.place_order(variety, **order)
        return number

    def market(self, **changes: Any) -> str:
        """Place an order at the market."""
        return self.place(order_type="MARKET", price=None, market_protection=-1, **changes)

    def place_stop(self, side: str) -> str:
        """Place a stop-loss order a little beyond the last price."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        sign = 1 if side == "BUY" else -1
        while True:
            trigger = round(self.quote()["last_price"] + sign * 0.5, 2)
            try:
                return self.place(
                    order_type="SL",
                    transaction_type=side,
                    trigger_price=trigger,
                    price=round(trigger * (1 + sign * 0.5), 1),
                )
            except InputException:
                # The market was faster.
                assert time.monotonic() < deadline

    def quote(self) -> dict[str, Any]:
        """The option's market."""
        key = f"NFO:{self.symbol}"
        row: dict[str, Any] = self.kite.quote(key)[key]
        return row

    def row(self, order_id: str) -> dict[str, Any]:
        """The order as the order book shows it."""
        return next(row for row in self.kite.orders() if row["order_id"] == order_id)

    def wait(self, order_id: str, *statuses: str) -> dict[str, Any]:
        """Wait until an order stands somewhere."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            row = self.row(order_id)
            if row["status"] in statuses:
                return row
            assert time.monotonic() < deadline, row
            time.sleep(0.02)

    def wait_for_any(self, *order_ids: str) -> str:
        """Wait until one of several orders is complete, and give it."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            for order_id in order_ids:
                if self.row(order_id)["status"] == "COMPLETE":
                    return order_id
            assert time.monotonic() < deadline, self.kite.orders()
            time.sleep(0.02)

    def history(self, order_id: str) -> list[str]:
        """What an order has been through."""
        return [row["status"] for row in self.kite.order_history(order_id)]


@pytest.fixture(scope="module")
def simulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    """One simulator for the module, whose market moves fast."""
    process = SimulatorProcess(
        tmp_path_factory.mktemp("simulator"), SIM_RATE="30", SIM_ORDER_DELAY_MS="10"
    )
    process.start()
    yield process
    process.kill()


@pytest.fixture(scope="module")
def trader(simulator: SimulatorProcess) -> Trader:
    """The first account."""
    return Trader(simulator)


def test_a_market_order_lives_as_it_does_at_kite(trader):
    order_id = trader.market(tag="alpha")
    assert len(order_id) >= 15
    row = trader.wait(order_id, "COMPLETE")
    assert trader.history(order_id) == NORMAL_LIFE
    assert row["order_type"] == "LIMIT"
    assert row["tag"] == "alpha"
    assert row["tags"] == ["alpha", "mktp"]
    assert (row["filled_quantity"], row["pending_quantity"]) == (LOT, 0)
    assert 0 < row["average_price"] <= row["price"]
    assert isinstance(row["order_timestamp"], dt.datetime)
    assert isinstance(row["exchange_timestamp"], dt.datetime)
    assert isinstance(row["exchange_update_timestamp"], str)
    (fill,) = trader.kite.order_trades(order_id)
    assert fill in trader.kite.trades()
    assert fill["quantity"] == LOT
    assert fill["exchange_order_id"] == row["exchange_order_id"]
    assert isinstance(fill["fill_timestamp"], dt.datetime)
    assert len(fill["order_timestamp"]) == 8


def test_a_resting_order_is_modified_and_cancelled(trader):
    order_id = trader.place(tag="rests")
    trader.wait(order_id, "OPEN")
    assert trader.kite.modify_order("regular", order_id, price=0.1, quantity=2 * LOT) == order_id
    deadline = time.monotonic() + DEADLINE_SECONDS
    while trader.history(order_id)[-2:] != ["MODIFIED", "OPEN"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    row = trader.row(order_id)
    assert (row["price"], row["quantity"], row["modified"]) == (0.1, 2 * LOT, True)
    assert trader.kite.cancel_order("regular", order_id) == order_id
    row = trader.wait(order_id, "CANCELLED")
    assert (row["cancelled_quantity"], row["filled_quantity"]) == (2 * LOT, 0)
    with pytest.raises(OrderException, match="already cancelled") as caught:
        trader.kite.cancel_order("regular", order_id)
    assert caught.value.code == 400
    with pytest.raises(OrderException, match="Couldn't find"):
        trader.kite.order_history("77")


def test_a_resting_order_is_filled_when_the_market_comes_to_it(trader):
    depth = trader.quote()["depth"]
    bid, ask = depth["buy"][0]["price"], depth["sell"][0]["price"]
    # Wherever the market goes, it goes to one of them.
    buying = trader.place(price=bid)
    selling = trader.place(price=ask, transaction_type="SELL")
    trader.wait_for_any(buying, selling)
    for order_id in (buying, selling):
        row = trader.row(order_id)
        if row["filled_quantity"]:
            better = (
                row["average_price"] <= bid
                if row["transaction_type"] == "BUY"
                else (row["average_price"] >= ask)
            )
            assert better


def test_a_stop_loss_order_waits_for_its_trigger_and_is_filled(trader):
    buying, selling = trader.place_stop("BUY"), trader.place_stop("SELL")
    # Wherever the market goes, it triggers one of them.
    done = trader.wait_for_any(buying, selling)
    assert trader.history(done)[3:] == ["TRIGGER PENDING", "OPEN", "COMPLETE"]


def test_an_immediate_order_that_meets_nobody_is_cancelled(trader):
    order_id = trader.place(validity="IOC")
    trader.wait(order_id, "CANCELLED")
    assert trader.history(order_id)[-2:] == ["OPEN", "CANCELLED"]


def test_a_cover_order_has_a_stop_loss_that_exits(trader):
    last = trader.quote()["last_price"]
    main = trader.place(
        "co",
        order_type="MARKET",
        price=None,
        market_protection=-1,
        product="MIS",
        trigger_price=round(last * 0.5, 1),
    )
    trader.wait(main, "COMPLETE")
    (stop,) = (row for row in trader.kite.orders() if row["parent_order_id"] == main)
    trader.wait(stop["order_id"], "TRIGGER PENDING")
    trader.kite.exit_order("co", stop["order_id"], parent_order_id=main)
    assert trader.wait(stop["order_id"], "COMPLETE")["transaction_type"] == "SELL"


def test_an_iceberg_shows_one_leg_after_the_other(trader):
    first = trader.place(
        "iceberg",
        order_type="MARKET",
        price=None,
        market_protection=-1,
        quantity=3 * LOT,
        iceberg_legs=3,
        iceberg_quantity=LOT,
        tag="berg",
    )
    deadline = time.monotonic() + DEADLINE_SECONDS
    while True:
        legs = [row for row in trader.kite.orders() if row["tag"] == "berg"]
        if [row["status"] for row in legs] == ["COMPLETE"] * 3:
            break
        assert time.monotonic() < deadline, legs
        time.sleep(0.02)
    assert legs[0]["order_id"] == first
    assert [row["meta"]["iceberg"]["leg"] for row in legs] == [1, 2, 3]
    assert {row["variety"] for row in legs} == {"iceberg"}


def test_an_order_above_the_freeze_quantity_is_cut_on_request(trader):
    wanted: dict[str, Any] = {
        "exchange": "NFO",
        "tradingsymbol": trader.symbol,
        "transaction_type": "BUY",
        "quantity": FREEZE + LOT,
        "product": "NRML",
        "order_type": "LIMIT",
        "price": 0.05,
        "tag": "cut",
    }
    answer = trader.kite.place_autoslice_order("regular", **wanted)
    (child,) = answer["children"]
    assert trader.row(answer["order_id"])["quantity"] == FREEZE
    row = trader.row(child["order_id"])
    assert (row["quantity"], row["tag"]) == (LOT, "cut")
    assert f"autoslice:{answer['order_id']}" in row["tags"]


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"tag": "x" * 21}, InputException, "tag"),
        ({"quantity": LOT + 1}, InputException, "multiples of lot size 65"),
        ({"quantity": FREEZE + LOT}, InputException, "at most 1755"),
        ({"price": 0.07}, InputException, "Tick size"),
        ({"price": None}, InputException, "price"),
        ({"product": "CNC"}, InputException, "product"),
        ({"tradingsymbol": "NIFTY99JAN1CE"}, InputException, "expired or does not exist"),
        ({"exchange": "NSE", "tradingsymbol": "NIFTY 50"}, InputException, "does not exist"),
        ({"exchange": "MOON"}, InputException, "exchange"),
        ({"quantity": 0}, InputException, "quantity"),
        (
            {"order_type": "MARKET", "price": None},
            InputException,
            "Market orders without market protection are not allowed via API",
        ),
        ({"variety": "amo"}, InputException, "market is open"),
        ({"variety": "bo"}, InputException, "variety"),
    ],
)
def test_what_the_door_refuses_is_an_exception_with_code_400_and_no_order(
    trader, changes, kind, words
):
    before = len(trader.kite.orders())
    with pytest.raises(kind, match=words) as caught:
        trader.place(**changes)
    assert caught.value.code == 400
    assert len(trader.kite.orders()) == before


def test_what_the_risk_system_refuses_is_an_order_that_is_rejected(trader):
    order_id = trader.place(price=90_000)
    row = trader.wait(order_id, "REJECTED")
    assert "circuit" in row["status_message"]
    assert row["status_message_raw"]
    assert row["exchange_order_id"] is row["exchange_timestamp"] is None
    assert trader.history(order_id)[-1] == "REJECTED"


async def order_text(stream: Stream) -> dict[str, Any]:
    while True:
        text = await stream.text()
        if text["type"] == "order":
            body: dict[str, Any] = text["data"]
            return body


async def test_order_updates_come_on_every_socket_of_the_account_and_on_no_other(simulator):
    async def place(client: httpx.AsyncClient) -> str:
        answer = await client.post(
            "/orders/regular",
            data={
                "exchange": "NFO",
                "tradingsymbol": symbol,
                "transaction_type": "BUY",
                "quantity": LOT,
                "product": "NRML",
                "order_type": "LIMIT",
                "price": 0.05,
                "validity": "IOC",
            },
        )
        number: str = answer.json()["data"]["order_id"]
        return number

    async with (
        await simulator.client(2) as two,
        await simulator.client(3) as three,
        simulator.stream(2) as first,
        simulator.stream(2) as second,
        simulator.stream(3) as other,
    ):
        dump = (await two.get("/instruments/NFO")).text.splitlines()
        symbols = [line.split(",")[2] for line in dump]
        symbol = next(name for name in symbols if name.startswith("NIFTY2") and name[-2:] == "CE")
        mine = await place(two)
        for stream in (first, second):
            opened, ended = await order_text(stream), await order_text(stream)
            assert [opened["status"], ended["status"]] == ["OPEN", "CANCELLED"]
            assert opened["order_id"] == ended["order_id"] == mine
            account = simulator.account(2)
            text = mine + ended["order_timestamp"] + account.api_secret
            assert ended["checksum"] == hashlib.sha256(text.encode()).hexdigest()
            assert ended["user_id"] == account.user_id
        theirs = await place(three)
        assert (await order_text(other))["order_id"] == theirs


def test_the_control_page_shows_whole_books_and_how_often_a_tag_was_taken(trader):
    for _ in range(2):
        trader.place(tag="twice")
    page = trader.simulator.control("GET", "/sim/orders?api_key=sim1key").json()
    (book,) = page["accounts"].values()
    assert book["user_id"] == "SIM001"
    assert book["tags"]["twice"]["accepted"] == 2
    assert len(book["tags"]["twice"]["order_ids"]) == 2
    assert [row["order_id"] for row in book["orders"]] == [
        row["order_id"] for row in trader.kite.orders()
    ]
    everybody = trader.simulator.control("GET", "/sim/orders").json()["accounts"]
    assert len(everybody) == 4
    assert trader.simulator.control("GET", "/sim/orders?api_key=no").status_code == 400


def test_orders_need_a_session(simulator):
    stranger = KiteConnect("sim1key", access_token="wrong", root=simulator.url)
    with pytest.raises(KiteException) as caught:
        stranger.orders()
    assert caught.value.code == 403


def test_a_poor_account_is_refused_in_the_reply_and_the_day_has_a_cap(tmp_path):
    simulator = SimulatorProcess(
        tmp_path, SIM_FUNDS="100", SIM_RISK_REPLIES="true", SIM_ORDERS_PER_DAY="3"
    )
    try:
        simulator.start()
        trader = Trader(simulator)
        with pytest.raises(GeneralException, match="Insufficient funds") as poor:
            trader.place(price=10)
        assert poor.value.code == 400
        assert trader.kite.orders() == []
        trader.place()
        trader.place()
        with pytest.raises(
            NetworkException, match="Maximum allowed order requests exceeded"
        ) as capped:
            trader.place()
        assert capped.value.code == 429
        assert len(trader.kite.orders()) == 2
    finally:
        simulator.kill()


async def test_orders_have_ten_requests_per_calendar_second(tmp_path):
    simulator = SimulatorProcess(tmp_path, SIM_RATE_LIMITS="true")
    try:
        simulator.start()
        async with await simulator.client() as client:

            async def bursts_into_the_limit() -> bool:
                # All within one calendar second, unless the attempt straddles two.
                started = int(time.time())
                answers = await asyncio.gather(
                    *(client.delete("/orders/regular/77") for _ in range(14))
                )
                if int(time.time()) != started:
                    return False
                codes = sorted(answer.status_code for answer in answers)
                assert codes[-4:] == [429] * 4
                assert set(codes[:-4]) <= {400, 429}
                refused = next(answer for answer in answers if answer.status_code == 429)
                assert refused.json()["error_type"] == "NetworkException"
                return True

            await until(bursts_into_the_limit, "fourteen requests in one calendar second")
    finally:
        simulator.kill()


def test_after_hours_an_order_waits_for_the_next_open(tmp_path):
    simulator = SimulatorProcess(
        tmp_path,
        SIM_START="2026-11-18T18:00:00",
        SIM_SKIP_CLOSED="false",
        SIM_ORDER_DELAY_MS="10",
        # Enough that tomorrow lists today's middle as well.
        SIM_STRIKES_PER_SIDE="25",
    )
    try:
        simulator.start()
        trader = Trader(simulator)
        waiting = trader.place(tag="early")
        row = trader.row(waiting)
        assert (row["status"], row["variety"]) == ("AMO REQ RECEIVED", "amo")
        doomed = trader.place("amo")
        trader.kite.cancel_order("amo", doomed)
        trader.wait(doomed, "CANCELLED")
        simulator.control(
            "POST", "/sim/clock", json={"to": "2026-11-19T09:15:01"}
        ).raise_for_status()
        deadline = time.monotonic() + DEADLINE_SECONDS
        while True:
            page = simulator.control("GET", "/sim/orders?api_key=sim1key").json()
            rows = page["accounts"]["sim1key"]["orders"]
            if [row["status"] for row in rows] == ["OPEN"]:
                break
            assert time.monotonic() < deadline, rows
            time.sleep(0.05)
        assert rows[0]["order_id"] == waiting
        assert rows[0]["exchange_timestamp"].startswith("2026-11-19 09:15")
    finally:
        simulator.kill()
