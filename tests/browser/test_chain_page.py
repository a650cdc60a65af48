"""The page at `/` in a real browser: a live chain whose values move, and what it says of itself."""

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from playwright.async_api import Page, expect

from libs.common.bus.connection import Bus
from libs.common.settings import Environment
from tests.integration.conftest import settings_for
from tests.integration.gateway_rig import (
    Gateway,
    Market,
    running_gateway,
    running_postgres,
    token,
)

NOTHING = "\u2013"  # What the page shows for a value that does not exist.

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]


@asynccontextmanager
async def moving(bus: Bus, market: Market) -> AsyncIterator[None]:
    """Publish each instrument twice a second, on a forward that swings."""

    async def publish() -> None:
        step = 0
        while True:
            market.forward = 24_310 + 9 * math.sin(step / 7)
            await market.publish(bus, market.instruments[step % 5 :: 5])
            step += 1
            await asyncio.sleep(0.1)

    task = asyncio.create_task(publish())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


@pytest.fixture
async def market() -> Market:
    return Market(strikes=41)


@pytest.fixture
async def gateway(nats_server, tmp_path, market) -> AsyncIterator[Gateway]:
    async with (
        running_postgres(tmp_path) as postgres,
        running_gateway(
            nats_server.url,
            postgres.url,
            environment=Environment.DEV,
            dev_token_enabled=True,
        ) as gateway,
        Bus.open(settings_for(nats_server), name="market") as bus,
    ):
        await market.fill(postgres.url)
        await market.announce(bus)
        async with moving(bus, market):
            yield gateway


@pytest.fixture
async def page(browser) -> AsyncIterator[Page]:
    context = await browser.new_context(
        viewport={"width": 1440, "height": 900}, color_scheme="dark"
    )
    page = await context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on(
        "console",
        lambda message: problems.append(message.text) if message.type == "error" else None,
    )
    yield page
    await context.close()
    assert problems == []


async def test_page_shows_a_live_chain_whose_values_move(gateway, page, market, results):
    await page.goto(gateway.url)

    await expect(page.locator("#link")).to_have_text("live")
    await expect(page.locator("#rows tr")).to_have_count(41)
    await expect(page.locator("#source")).to_have_text("SIM")
    await expect(page.locator("#forward-source")).to_have_text("future")
    await expect(page.locator("tr[data-atm]")).to_have_count(1)
    await expect(page.locator("#rate")).not_to_have_text(NOTHING)
    strike = await page.locator("tr[data-atm] th").inner_text()
    assert abs(float(strike.replace(",", "")) - market.forward) <= 50

    price = page.locator("tr[data-atm] td.call.last_price")
    first = await price.inner_text()
    await expect(price).not_to_have_text(first)
    for column in ("iv", "delta", "gamma", "theta", "vega", "oi", "bid", "ask"):
        text = await page.locator(f"tr[data-atm] td.put.{column}").inner_text()
        assert text.strip() not in {"", NOTHING}, column
    title = await page.locator("tr[data-atm] td.call.iv").get_attribute("title")
    assert title is not None
    assert title.startswith("ok: ")
    assert (await page.locator("td.iv[data-status=below_intrinsic]").first.inner_text()) == NOTHING

    await page.screenshot(path=results / "chain-dark.png")
    await page.locator("#theme").click()
    await page.screenshot(path=results / "chain-light.png")
    await page.set_viewport_size({"width": 390, "height": 780})
    await expect(page.locator("tr[data-atm]")).to_be_in_viewport()
    await page.screenshot(path=results / "chain-phone.png")


async def test_at_the_money_row_stands_in_the_middle(gateway, page):
    await page.goto(gateway.url)
    row = page.locator("tr[data-atm]")
    await expect(row).to_be_in_viewport()

    async def off_centre() -> float:
        box = await row.bounding_box()
        scroll = await page.locator("#scroll").bounding_box()
        assert box is not None
        assert scroll is not None
        distance: float = abs((box["y"] + box["height"] / 2) - (scroll["y"] + scroll["height"] / 2))
        return distance

    assert await off_centre() < 90


async def test_page_comes_back_by_itself_when_the_bus_was_away(gateway, page, nats_server):
    await page.goto(gateway.url)
    await expect(page.locator("#link")).to_have_text("live")
    await asyncio.to_thread(nats_server.restart)

    price = page.locator("tr[data-atm] td.call.last_price")
    before = await price.inner_text()
    await expect(price).not_to_have_text(before, timeout=20_000)


async def test_token_in_the_address_is_used_and_taken_out_of_it(gateway, page):
    await page.goto(f"{gateway.url}/?token={token()}")

    await expect(page.locator("#link")).to_have_text("live")
    assert "token" not in page.url


async def test_layout_does_not_shift_while_values_move(gateway, page):
    await page.add_init_script(
        """
        window.shifts = 0;
        new PerformanceObserver((list) => {
          for (const entry of list.getEntries()) window.shifts += entry.value;
        }).observe({ type: "layout-shift", buffered: true });
        """
    )
    await page.goto(gateway.url)
    await expect(page.locator("tr[data-atm]")).to_have_count(1)
    await page.evaluate("window.shifts = 0")
    price = page.locator("tr[data-atm] td.call.last_price")
    for _ in range(5):
        before = await price.inner_text()
        await expect(price).not_to_have_text(before)

    assert await page.evaluate("window.shifts") < 0.01
