"""The order panel in a real browser: an order by mouse and by keys, its states, and the switch."""

import re
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Page, expect

from libs.common.bus.connection import Bus
from libs.common.bus.kv import Bucket
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams
from libs.common.contracts.orders import OrderControls, OrderState
from libs.common.settings import Environment
from tests.browser.test_chain_page import market, page
from tests.fakes.orders_worker import OrdersWorker
from tests.integration.conftest import settings_for
from tests.integration.gateway_rig import Gateway, running_gateway, running_postgres
from tests.integration.test_gateway_orders import announce

__all__ = ["market", "page"]

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


@pytest.fixture
async def bus(nats_server) -> AsyncIterator[Bus]:
    async with Bus.open(settings_for(nats_server), name="market") as bus:
        await ensure(bus, streams.ORDER_STREAMS, [streams.ACCOUNTS, streams.ORDER_CONTROLS])
        await announce(bus, "main")
        yield bus


@pytest.fixture
async def postgres(tmp_path):
    async with running_postgres(tmp_path) as postgres:
        yield postgres


@pytest.fixture
async def gateway(nats_server, postgres, bus, market) -> AsyncIterator[Gateway]:
    async with running_gateway(
        nats_server.url, postgres.url, environment=Environment.DEV, dev_token_enabled=True
    ) as gateway:
        await market.fill(postgres.url)
        await market.announce(bus)
        await market.publish(bus)
        yield gateway


@pytest.fixture
async def worker(bus, postgres, gateway) -> AsyncIterator[OrdersWorker]:
    async with OrdersWorker(bus, postgres.url, "main").running() as worker:
        yield worker


@pytest.fixture
async def chain(gateway, page, market) -> Page:
    """The page with a chain on it."""
    await page.goto(gateway.url)
    await expect(page.locator("#rows tr")).to_have_count(len(market.options) // 2)
    await expect(page.locator("#link")).to_have_text("live")
    shown: Page = page
    return shown


async def test_click_on_a_strike_fills_the_ticket_and_its_order_is_followed(
    chain, worker, market, results
):
    option = market.options[20]
    await chain.locator(f'td.bid[data-token="{option.instrument_token}"]').click()
    await expect(chain.locator("#orders")).to_be_visible()
    await expect(chain.locator("#ticket-symbol")).to_have_value(option.tradingsymbol)
    await expect(chain.locator("#ticket-sell")).to_be_checked()
    await expect(chain.locator("#ticket-account")).to_have_value("main")
    await chain.locator("#ticket-lots").fill("2")
    await expect(chain.locator("#ticket-units")).to_have_text("\u00d7 75 = 150 units")
    await chain.locator("#ticket-price").fill("101.5")
    await chain.locator("#ticket-send").click()

    await expect(chain.locator("#ticket-outcome")).to_contain_text(
        f"SELL 150 {option.tradingsymbol} LIMIT 101.50: "
    )
    row = chain.locator("#orders-list > li").first
    await expect(row.locator(".order-state")).to_have_text("open")
    await row.locator("summary").click()
    await expect(row.locator(".order-events li")).to_have_count(4)
    await expect(row.locator(".order-events li").first).to_have_text(
        re.compile(r"^\d\d:\d\d:\d\d\.\d{3} accepted$")
    )
    await chain.screenshot(path=results / "orders.png")

    # Somebody else's order appears without a reload, and so does what becomes of it.
    worker.steps = lambda _: (OrderState.SENDING, OrderState.UNKNOWN)
    await row.locator("button").click()
    await expect(chain.locator("#orders-list > li")).to_have_count(2)
    newest = chain.locator("#orders-list > li").first
    await expect(newest.locator(".order-what")).to_contain_text("cancel page-")
    await expect(newest.locator(".order-state")).to_have_text("unknown")


async def test_order_is_sent_with_the_keyboard_alone(chain, worker, market):
    await chain.locator("#orders-toggle").focus()
    await chain.keyboard.press("Enter")
    await expect(chain.locator("#ticket-symbol")).to_be_focused()
    await chain.keyboard.type(market.options[10].tradingsymbol)
    await chain.locator("#ticket-type").focus()
    await chain.keyboard.type("MARKET")
    await expect(chain.locator("#ticket-price")).to_be_disabled()
    await chain.locator("#ticket-lots").focus()
    await chain.keyboard.press("Enter")
    await expect(chain.locator("#ticket-outcome")).to_contain_text("BUY 75")
    await expect(chain.locator("#orders-list > li")).to_have_count(1)
    await chain.keyboard.press("Escape")
    await expect(chain.locator("#orders")).to_be_hidden()
    await expect(chain.locator("#orders-toggle")).to_be_focused()


async def test_order_without_an_answer_is_asked_for_again_with_its_key(chain, worker, market):
    sent: list[tuple[str, str]] = []

    async def lose(route):
        sent.append((route.request.headers["idempotency-key"], route.request.post_data))
        if len(sent) == 1:
            # It reaches the gateway; the answer does not come back.
            await route.fetch()
            await route.fulfill(status=200, content_type="text/plain", body="cut o")
            return
        await route.continue_()

    await chain.route("**/orders/place*", lose)
    await chain.locator(f'td.ask[data-token="{market.options[20].instrument_token}"]').click()
    await chain.locator("#ticket-price").fill("7")
    await chain.locator("#ticket-send").click()
    await expect(chain.locator("#ticket-outcome")).to_have_attribute("data-kind", "unsure")
    await expect(chain.locator("#ticket-lots")).to_be_disabled()
    await chain.locator("#ticket-send").click()
    await expect(chain.locator("#ticket-outcome")).to_contain_text("BUY 75")
    await expect(chain.locator("#ticket-lots")).to_be_enabled()
    assert len(sent) == 2
    assert sent[0] == sent[1]
    await expect(chain.locator("#orders-list > li")).to_have_count(1)


async def test_kill_switch_asks_before_it_is_turned(chain, bus):
    await chain.locator("#orders-toggle").click()
    await expect(chain.locator("#ticket-account")).to_have_value("main")
    await chain.locator("#kill").click()
    await expect(chain.locator("#kill-question")).to_contain_text("Stop all orders of main?")
    await chain.keyboard.press("Escape")
    await expect(chain.locator("#kill-dialog")).to_be_hidden()
    await expect(chain.locator("#orders")).to_be_visible()
    assert await Bucket(bus, streams.ORDER_CONTROLS.name).get("main") is None

    await chain.locator("#kill").click()
    await chain.locator("#kill-reason").fill("runaway")
    await chain.locator("#kill-yes").click()
    await expect(chain.locator("#kill")).to_have_attribute("aria-pressed", "true")
    entry = await Bucket(bus, streams.ORDER_CONTROLS.name).get("main")
    assert entry is not None
    controls = codec.from_json(OrderControls, entry.value)
    assert (controls.kill_switch, controls.reason, controls.by) == (True, "runaway", "dev")
    await chain.locator("#kill").click()
    await expect(chain.locator("#kill-question")).to_contain_text("leave again?")
    await chain.locator("#kill-yes").click()
    await expect(chain.locator("#kill")).to_have_attribute("aria-pressed", "false")
