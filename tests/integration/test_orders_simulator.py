"""Orders against the simulator's real process: the wire, the states and the rules of Kite."""

import asyncio
from datetime import datetime

import httpx
import pytest

from libs.common.bus.connection import Bus
from libs.common.bus.kv import Bucket
from libs.common.contracts import codec, streams
from libs.common.contracts.messages import InstrumentSet
from libs.common.contracts.orders import OrderType
from libs.common.domain.clock import IST
from libs.common.domain.instruments import Kind, parse_dump
from tests.fakes.simulator import SimulatorProcess
from tests.integration.conftest import settings_for
from tests.integration.orders_rig import running_rig, shared_ledger

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def ledger_url(tmp_path_factory):
    with shared_ledger(tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture(scope="module")
def simulator(tmp_path_factory):
    process = SimulatorProcess(tmp_path_factory.mktemp("simulator"))
    process.start()
    yield process
    process.kill()


@pytest.fixture
async def rig(nats_server, ledger_url, tmp_path, simulator):
    async with (
        Bus.open(settings_for(nats_server), name="test") as bus,
        running_rig(bus, nats_server, ledger_url, tmp_path) as rig,
    ):
        account = simulator.account(1)
        token = await simulator.mint(1)
        await rig.log_in(
            rig.main,
            api_key=account.api_key,
            access_token=token,
            user_id=account.user_id,
            api_url=simulator.url,
            api_secret=account.api_secret,
        )
        async with httpx.AsyncClient() as client:
            answer = await client.get(
                f"{simulator.url}/instruments",
                headers={"Authorization": f"token {account.api_key}:{token}"},
            )
            quote = await client.get(
                f"{simulator.url}/quote/ltp?i=NSE:NIFTY+50",
                headers={"Authorization": f"token {account.api_key}:{token}"},
            )
        spot = quote.json()["data"]["NSE:NIFTY 50"]["last_price"]
        rows = (await asyncio.to_thread(parse_dump, answer.content)).instruments
        nifty = tuple(row for row in rows if row.underlying == "NIFTY")
        await Bucket(bus, streams.INSTRUMENTS.name).put(
            "NIFTY",
            codec.to_msgpack(
                InstrumentSet(
                    underlying="NIFTY",
                    revision=2,
                    market_date=datetime.now(IST).date(),
                    instruments=nifty,
                )
            ),
        )
        options = [row for row in nifty if row.kind is Kind.OPTION and row.strike and row.expiry]
        rig.option = min(options, key=lambda row: (row.expiry, abs(row.strike - spot)))
        yield rig


def books(simulator):
    """The simulator's own books of all accounts."""
    return httpx.get(f"{simulator.url}/sim/orders", timeout=20).json()


async def test_protected_market_order_is_filled(rig, simulator):
    order = rig.place(
        rig.main,
        tradingsymbol=rig.option.tradingsymbol,
        quantity=rig.option.lot_size,
        order_type=OrderType.MARKET,
        price=None,
    )
    async with rig.worker():
        await rig.send(order)
        await rig.until_state(order, "complete")
        (intent,) = await rig.intents(order)
    assert intent["filled_quantity"] == rig.option.lot_size
    assert intent["average_price"] > 0
    accounts = books(simulator)["accounts"].values()
    assert [book["tags"][intent["tag"]] for book in accounts if intent["tag"] in book["tags"]]


async def test_resting_order_is_changed_and_cancelled(rig):
    order = rig.place(
        rig.main,
        tradingsymbol=rig.option.tradingsymbol,
        quantity=rig.option.lot_size,
        price=rig.option.tick_size,
    )
    async with rig.worker():
        await rig.send(order)
        await rig.until_state(order, "open")
        change = rig.modify(rig.main, target_task_id=order.task_id, price=2 * rig.option.tick_size)
        await rig.send(change)
        await rig.until_state(change, "complete")
        cancel = rig.cancel(rig.main, target_task_id=order.task_id)
        await rig.send(cancel)
        await rig.until_state(cancel, "complete")
        await rig.until_state(order, "cancelled")
