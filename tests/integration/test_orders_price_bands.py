"""Price bands come of the account's own quotes, are kept, and never hold an order up for long."""

import asyncio
import contextlib

import msgspec

from libs.common.bus.service import RequestService
from libs.common.contracts import codec, subjects
from libs.common.contracts.messages import QuoteReply, QuoteRequest
from services.orders.domain.check_context import PriceBand
from services.orders.price_bands import PriceBands
from tests.integration.conftest import running, until


@contextlib.asynccontextmanager
async def quoting(bus, account, quotes):
    """Answer the quotes of an account; gives what was asked for."""
    asked = []

    async def answer(request):
        names = codec.from_json(QuoteRequest, request.payload).instruments
        asked.append(names)
        rows = {n: msgspec.Raw(msgspec.json.encode(quotes[n])) for n in names if n in quotes}
        await request.respond(codec.to_json(QuoteReply(quotes=rows, account=account)))

    async with RequestService.opened(
        bus,
        name="quotes",
        version="1.0.0",
        description="quotes of a test",
        queue_group="quotes",
        concurrency=4,
        stop_seconds=1.0,
    ) as service:
        await service.serve(
            subjects.rpc_quote_of(account), answer, name="quotes", refusal=lambda _: b"{}"
        )
        yield asked


def limits(lower, upper):
    return {"lower_circuit_limit": lower, "upper_circuit_limit": upper}


async def test_band_is_asked_once_and_then_known(shared_bus):
    bands = PriceBands(shared_bus, wait_seconds=5.0)
    quotes = {"NFO:A": limits(10.05, 90.5), "NSE:INDEX": limits(0, 0)}
    async with quoting(shared_bus, "desk1", quotes) as asked, running(bands.run):
        assert await bands.of("desk1", "NFO:A") == PriceBand(lower=10.05, upper=90.5)
        assert await bands.of("desk1", "NFO:A") == PriceBand(lower=10.05, upper=90.5)
        assert await bands.of("desk1", "NSE:INDEX") is None
        assert await bands.of("desk1", "NFO:GONE") is None
    assert asked == [("NFO:A",), ("NSE:INDEX",), ("NFO:GONE",)]


async def test_account_without_quotes_is_not_waited_for_twice(shared_bus):
    bands = PriceBands(shared_bus, wait_seconds=5.0)
    async with quoting(shared_bus, "desk1", {"NFO:A": limits(1, 2)}) as asked, running(bands.run):
        assert await bands.of("desk2", "NFO:A") is None
        async with asyncio.timeout(2.5):
            assert await bands.of("desk2", "NFO:A") is None
    assert asked == []


async def test_band_that_comes_late_serves_the_next_order(shared_bus):
    bands = PriceBands(shared_bus, wait_seconds=0.001)
    async with quoting(shared_bus, "desk1", {"NFO:A": limits(1, 2)}) as asked:
        assert await bands.of("desk1", "NFO:A") is None
        async with running(bands.run):
            await until(lambda: asked)
            await until(lambda: bands._known)
    assert await bands.of("desk1", "NFO:A") == PriceBand(lower=1, upper=2)


async def test_no_band_is_asked_for_when_they_are_left_to_the_broker(shared_bus):
    bands = PriceBands(shared_bus, wait_seconds=0.0)
    async with quoting(shared_bus, "desk1", {"NFO:A": limits(1, 2)}) as asked, running(bands.run):
        assert await bands.of("desk1", "NFO:A") is None
    assert asked == []
