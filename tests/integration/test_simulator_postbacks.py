"""Postbacks reach a receiver in order, are tried again, and never wait without bound."""

import asyncio
import json
from typing import Any

import pytest

from services.simulator import metrics
from services.simulator.domain.accounts import demo_accounts
from services.simulator.postbacks import Postbacks
from tests.fakes.scripted_http import ScriptedHttp, answer, hang_up, reset, silence
from tests.integration.conftest import running, until

pytestmark = pytest.mark.integration
ACCOUNT = demo_accounts(1, 1)[0]


def body(number: int, status: str = "COMPLETE") -> dict[str, Any]:
    """An update."""
    return {"order_id": str(number), "status": status}


def counted(outcome: str) -> float:
    """How many postbacks ended so."""
    value: float = metrics.POSTBACKS_TOTAL.labels(outcome=outcome)._value.get()
    return value


def numbers(server: ScriptedHttp) -> list[str]:
    """The orders that the receiver was told of."""
    return [json.loads(r.partition(b"\r\n\r\n")[2])["order_id"] for r in server.requests]


async def test_the_updates_of_an_account_come_one_after_another_and_only_those_kite_posts() -> None:
    with ScriptedHttp(answer(200, {})) as server:
        postbacks = Postbacks(server.url)
        async with running(postbacks.run):
            for number in range(20):
                postbacks.put(ACCOUNT, body(number))
                postbacks.put(ACCOUNT, body(100 + number, "OPEN"))
            await until(lambda: len(server.requests) == 20, 30)
    assert numbers(server) == [str(number) for number in range(20)]


async def test_what_fails_is_tried_again_and_given_up_before_the_next() -> None:
    failed, delivered = counted("failed"), counted("delivered")
    with ScriptedHttp(answer(500, {}), hang_up, reset, answer(200, {})) as server:
        postbacks = Postbacks(server.url, pauses_seconds=(0.0, 0.0))
        async with running(postbacks.run):
            postbacks.put(ACCOUNT, body(1))
            postbacks.put(ACCOUNT, body(2))
            await until(lambda: counted("delivered") == delivered + 1, 30)
    assert numbers(server) == ["1", "1", "1", "2"]
    assert counted("failed") == failed + 1


async def test_more_than_may_wait_are_dropped_and_a_stop_waits_for_no_receiver() -> None:
    dropped = counted("dropped")
    with ScriptedHttp(silence) as server:
        postbacks = Postbacks(server.url, waiting_at_most=3)
        async with running(postbacks.run):
            for number in range(5):
                postbacks.put(ACCOUNT, body(number))
            assert counted("dropped") == dropped + 2, "the newest go"
            await until(lambda: len(server.requests) == 1, 30)
        assert counted("dropped") == dropped + 5, "what a stop leaves is counted"
    assert numbers(server) == ["0"]


async def test_a_receiver_that_is_not_there_stops_nobody() -> None:
    failed = counted("failed")
    postbacks = Postbacks("http://127.0.0.1:9/", pauses_seconds=())
    async with running(postbacks.run):
        postbacks.put(ACCOUNT, body(1))
        await until(lambda: counted("failed") == failed + 1, 30)
    await asyncio.sleep(0)
