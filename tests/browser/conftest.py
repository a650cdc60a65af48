"""A real browser and real servers for the page's tests."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, async_playwright

from tests.integration.conftest import nats_server

__all__ = ["nats_server"]

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
]
RESULTS = Path(__file__).parents[2] / "tmp" / "test-results"


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    """Playwright starts its driver as a subprocess of this loop."""
    return "asyncio"


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of the browser."""
    if not Path(CHROMIUM).exists():
        pytest.skip(f"no Chromium at {CHROMIUM}: install it, or name one in CHROMIUM")
    return CHROMIUM


@pytest.fixture
async def browser(chromium: str) -> AsyncIterator[Browser]:
    """Chromium as the distribution packages it."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS)
        yield browser
        await browser.close()


@pytest.fixture(scope="session")
def results() -> Path:
    """Where screenshots go."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    return RESULTS
