"""Every fault of the simulator's order side does what it says, and to whom it says."""

import hashlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from kiteconnect import KiteConnect

from libs.common.domain.order_answers import CallFailure
from libs.common.kite.orders import KiteOrderBroker, OrderCallError
from services.orders.domain.outcomes import Outcome, classify
from tests.fakes.scripted_http import ScriptedHttp, answer
from tests.fakes.simulator import SimulatorProcess, Stream, until
from tests.integration.order_faults_rig import (
    accepted,
    book,
    market_order,
    order_broker,
    reaches,
    resting_order,
    stock_client,
)

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    """One simulator for the module."""
    process = SimulatorProcess(tmp_path_factory.mktemp("simulator"))
    process.start()
    yield process
    process.kill()


@pytest.fixture
def simulator(shared: SimulatorProcess) -> Iterator[SimulatorProcess]:
    """The simulator, healed after each test."""
    yield shared
    shared.heal()


@pytest.fixture
async def client(simulator: SimulatorProcess) -> KiteConnect:
    """The stock client of the first account."""
    return await stock_client(simulator)


@pytest.fixture
async def broker(simulator: SimulatorProcess) -> AsyncIterator[KiteOrderBroker]:
    """The order client of the first account."""
    broker = await order_broker(simulator)
    yield broker
    broker.close()


async def failure_of(broker: KiteOrderBroker, order: dict[str, Any], tag: str) -> CallFailure:
    """What placing an order fails with."""
    with pytest.raises(OrderCallError) as caught:
        await broker.place(order, tag)
    return caught.value.failure


async def test_accepted_then_silence_leaves_a_timeout_and_one_order(simulator, client) -> None:
    simulator.fault(kind="accept_then_silence", answer_seconds=30, count=1)
    broker = await order_broker(simulator, patience_seconds=0.5)
    failure = await failure_of(broker, resting_order(client), "tfsilence")
    assert failure.exception == "ReadTimeout"
    assert classify(failure) is Outcome.AMBIGUOUS
    assert [o.tag for o in await (await order_broker(simulator)).orders()].count("tfsilence") == 1
    assert simulator.active_faults() == [], "used up"


@pytest.mark.parametrize("status", [502, 504])
async def test_accepted_then_a_proxys_page_leaves_one_order(
    simulator, client, broker, status
) -> None:
    simulator.fault(kind="accept_then_error", status=status, count=1)
    failure = await failure_of(broker, resting_order(client), f"tfpage{status}")
    assert failure.exception == "DataException"
    assert str(status) in failure.message
    assert classify(failure) is Outcome.AMBIGUOUS
    assert [o.tag for o in await broker.orders()].count(f"tfpage{status}") == 1


async def test_400_that_speaks_of_a_timeout_and_the_order_appears_later(
    simulator, client, broker
) -> None:
    simulator.fault(kind="timed_out_400", count=1, delay_seconds=3)
    failure = await failure_of(broker, resting_order(client), "tflate400")
    assert failure.code == 400
    assert classify(failure) is Outcome.AMBIGUOUS
    assert accepted(simulator, "tflate400") == 1, "it exists"
    hidden = set(book(simulator)["hidden"])
    if hidden:  # Unless the machine slept for so long that it has appeared already.
        assert {o.order_id for o in await broker.orders()}.isdisjoint(hidden) or not set(
            book(simulator)["hidden"]
        )

    async def appeared() -> bool:
        return "tflate400" in [o.tag for o in await broker.orders()]

    await until(appeared, "the order to appear in the book")
    assert accepted(simulator, "tflate400") == 1


async def test_late_order_is_out_of_sight_while_its_caller_times_out(
    simulator, client, broker
) -> None:
    simulator.fault(kind="late_order", count=1, delay_seconds=600, answer_seconds=0.2)
    failure = await failure_of(broker, resting_order(client), "tflate")
    assert "504" in failure.message
    assert classify(failure) is Outcome.AMBIGUOUS
    (order_id,) = book(simulator)["hidden"]
    assert accepted(simulator, "tflate") == 1
    assert order_id not in [o.order_id for o in await broker.orders()]
    with pytest.raises(OrderCallError):
        await broker.order_history(order_id)
    with pytest.raises(OrderCallError):
        await broker.cancel("regular", order_id)


@pytest.mark.parametrize("html", [False, True])
async def test_order_limit_places_nothing(simulator, client, broker, html) -> None:
    simulator.fault(kind="order_limit", html=html, count=1)
    failure = await failure_of(broker, resting_order(client), f"tflimit{html}")
    assert failure.code == 429
    assert classify(failure) is Outcome.LIMITED
    assert accepted(simulator, f"tflimit{html}") == 0
    assert await broker.place(resting_order(client), f"tflimit{html}")


async def test_slow_order_is_placed_after_its_caller_has_gone(simulator, client, broker) -> None:
    simulator.fault(kind="slow_order", delay_seconds=3, count=1)
    hasty = await order_broker(simulator, patience_seconds=0.3)
    failure = await failure_of(hasty, resting_order(client), "tfslow")
    assert classify(failure) is Outcome.AMBIGUOUS

    async def appeared() -> bool:
        return "tfslow" in [o.tag for o in await broker.orders()]

    await until(appeared, "the slow order to be placed")


async def test_reset_before_places_nothing_and_nobody_can_tell(simulator, client, broker) -> None:
    simulator.fault(kind="reset_before", count=1)
    failure = await failure_of(broker, resting_order(client), "tfbefore")
    assert failure.exception == "ConnectionError"
    assert "reset" in failure.message.lower()
    assert classify(failure) is Outcome.AMBIGUOUS
    assert accepted(simulator, "tfbefore") == 0
    assert await broker.orders() is not None, "the next connection works"


async def test_reset_after_places_one(simulator, client, broker) -> None:
    simulator.fault(kind="reset_after", count=1)
    failure = await failure_of(broker, resting_order(client), "tfafter")
    assert failure.exception == "ConnectionError"
    assert accepted(simulator, "tfafter") == 1


async def test_error_before_places_nothing_and_looks_like_one_after(
    simulator, client, broker
) -> None:
    simulator.fault(kind="error_before", status=503, count=1)
    failure = await failure_of(broker, resting_order(client), "tferror")
    assert classify(failure) is Outcome.AMBIGUOUS
    assert accepted(simulator, "tferror") == 0


async def test_modify_and_cancel_are_struck_as_well(simulator, client, broker) -> None:
    order = resting_order(client)
    order_id = await broker.place(order, "tfverbs")
    await reaches(broker, order_id, "OPEN")
    simulator.fault(kind="accept_then_error", verb="cancel", count=1)
    assert await broker.modify("regular", order_id, {"price": order["price"] - 1}) == order_id
    await reaches(broker, order_id, "OPEN")
    with pytest.raises(OrderCallError) as caught:
        await broker.cancel("regular", order_id)
    assert caught.value.failure.code == 502
    row = await reaches(broker, order_id, "CANCELLED")
    assert row.price == order["price"] - 1


async def test_a_refusal_of_the_orders_own_does_not_use_a_fault_up(
    simulator, client, broker
) -> None:
    simulator.fault(kind="accept_then_error", count=1)
    failure = await failure_of(broker, resting_order(client) | {"tradingsymbol": "NOPE"}, "tfown")
    assert classify(failure) is Outcome.REFUSED
    assert [fault["fired"] for fault in simulator.active_faults()] == [0]


async def test_a_fault_of_one_account_leaves_the_others_alone(simulator, client, broker) -> None:
    simulator.fault(kind="order_limit", api_key=simulator.account(2).api_key)
    assert await broker.place(resting_order(client), "tfmine")
    failure = await failure_of(await order_broker(simulator, 2), resting_order(client), "tfhers")
    assert classify(failure) is Outcome.LIMITED


async def test_tokens_die_between_two_calls(simulator, client) -> None:
    simulator.fault(kind="token_death", api_key=simulator.account(3).api_key, count=1)
    third = await order_broker(simulator, 3)
    order_id = await third.place(resting_order(client), "tflast")
    failure = await failure_of(third, resting_order(client), "tfdead")
    assert classify(failure) is Outcome.SESSION_REFUSED
    simulator._tokens.pop(3)
    fresh = await order_broker(simulator, 3)
    assert [o.order_id for o in await fresh.orders()] == [order_id]


async def test_chaos_strikes_by_its_seed_and_what_it_accepts_exists_once(simulator, client) -> None:
    async def run(number: int) -> list[str]:
        key = simulator.account(number).api_key
        fault = simulator.fault(
            kind="order_chaos",
            api_key=key,
            probability=0.6,
            seed=11,
            kinds=[
                "accept_then_error",
                "error_before",
                "reset_after",
                "order_limit",
                "lost_update",
            ],
        )
        broker = await order_broker(simulator, number)
        outcomes = []
        for count in range(25):
            try:
                await broker.place(resting_order(client), f"tfchaos{count}")
                outcomes.append("placed")
            except OrderCallError as error:
                placed = accepted(simulator, f"tfchaos{count}", number)
                outcomes.append(f"{error.failure.exception} {error.failure.code} {placed}")
        simulator.control("DELETE", "/sim/faults", params={"id": fault["id"]})
        tags = [order["tag"] for order in book(simulator, number)["orders"]]
        assert len(tags) == len(set(tags)), "no tag made two orders"
        return outcomes

    first, second = await run(2), await run(4)
    assert first == second, "the same seed strikes the same requests"
    assert len(set(first)) >= 4, first


@pytest.mark.parametrize(
    ("order", "field"),
    [
        ({"kind": "order_storm"}, "kind"),
        ({"kind": "order_limit", "probability": 0}, "probability"),
        ({"kind": "order_limit", "api_key": "nobody"}, "api_key"),
        ({"kind": "order_limit", "kinds": ["slow_order"]}, "kinds"),
        ({"kind": "order_chaos", "kinds": ["order_chaos"]}, "kinds"),
        ({"kind": "late_order", "verb": "cancel"}, "verb"),
        ({"kind": "late_update", "verb": "place"}, "verb"),
        ({"kind": "slow_order", "channel": "postback"}, "channel"),
        ({"kind": "slow_order", "delay_seconds": 601}, "delay_seconds"),
        ({"kind": "slow_order", "colour": "red"}, "colour"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused_by_its_field(simulator, order, field) -> None:
    refused = simulator.control("POST", "/sim/faults", json=order)
    assert refused.status_code == 400
    assert refused.json()["error"]["field"] == field


def test_faults_of_both_sides_are_listed_and_lifted_by_one_number(simulator) -> None:
    first = simulator.fault(kind="slow_replies")
    second = simulator.fault(kind="slow_order")
    assert [f["id"] for f in simulator.active_faults()] == [first["id"], second["id"]]
    lifted = simulator.control("DELETE", "/sim/faults", params={"id": second["id"]}).json()
    assert lifted == {"lifted": 1}
    assert [f["kind"] for f in simulator.active_faults()] == ["slow_replies"]


async def updates_of(stream: Stream, order_id: str, last: str) -> list[str]:
    """The statuses told of an order until one of them comes."""
    seen: list[str] = []
    while not seen or seen[-1] != last:
        message = await stream.text()
        if message["type"] == "order" and message["data"]["order_id"] == order_id:
            seen.append(message["data"]["status"])
    return seen


async def test_updates_are_doubled(simulator, client, broker) -> None:
    simulator.fault(kind="duplicate_update", channel="websocket", delay_seconds=0)
    async with simulator.stream() as stream:
        order_id = await broker.place(resting_order(client), "tfdouble")
        assert await updates_of(stream, order_id, "OPEN") == ["OPEN"]
        assert await updates_of(stream, order_id, "OPEN") == ["OPEN"]


async def test_lost_updates_never_come(simulator, client, broker) -> None:
    simulator.fault(kind="lost_update", count=1)
    async with simulator.stream() as stream:
        order_id = await broker.place(resting_order(client), "tflost")
        await reaches(broker, order_id, "OPEN")
        await broker.cancel("regular", order_id)
        assert await updates_of(stream, order_id, "CANCELLED") == ["CANCELLED"]


async def test_late_updates_come_when_their_time_has_come(simulator, client, broker) -> None:
    async with simulator.stream() as stream:
        simulator.fault(kind="late_update", count=1, delay_seconds=600)
        order_id = await broker.place(resting_order(client), "tfnotyet")
        await reaches(broker, order_id, "OPEN")
        await broker.cancel("regular", order_id)
        assert await updates_of(stream, order_id, "CANCELLED") == ["CANCELLED"]
        simulator.fault(kind="late_update", count=1, delay_seconds=0.2)
        order_id = await broker.place(resting_order(client), "tfbelated")
        assert await updates_of(stream, order_id, "OPEN") == ["OPEN"]


async def test_reordered_updates_let_the_next_one_pass(simulator, client, broker) -> None:
    simulator.fault(kind="reordered_update", count=1, delay_seconds=60)
    async with simulator.stream() as stream:
        order_id = await broker.place(resting_order(client), "tfreordered")
        await reaches(broker, order_id, "OPEN")
        await broker.cancel("regular", order_id)
        assert await updates_of(stream, order_id, "OPEN") == ["CANCELLED", "OPEN"]


async def test_postbacks_carry_a_checksum_are_retried_and_may_be_doubled(tmp_path) -> None:
    accept, fail = answer(200, {}), answer(503, {})
    with ScriptedHttp(fail, accept) as hook:
        simulator = SimulatorProcess(tmp_path, SIM_POSTBACK_URL=f"{hook.url}/postback?from=kite")
        simulator.start()
        try:
            client = await stock_client(simulator)
            broker = await order_broker(simulator)
            order_id = await broker.place(resting_order(client), "tfpostback")
            await reaches(broker, order_id, "OPEN")
            await broker.cancel("regular", order_id)
            await until(lambda: len(hook.requests) >= 2, "the second attempt of the postback")
            simulator.fault(kind="duplicate_update", channel="postback", delay_seconds=0)
            second = await broker.place(market_order("BUY"), "tfpostbuy")
            await until(
                lambda: sum(second.encode() in r for r in hook.requests) >= 2,
                "the same postback twice",
            )
        finally:
            simulator.kill()
    head, _, body = hook.requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /postback?from=kite HTTP/1.1")
    assert body == hook.requests[1].partition(b"\r\n\r\n")[2], "tried again as it was"
    told = json.loads(body)
    assert (told["order_id"], told["status"]) == (order_id, "CANCELLED"), "OPEN is not posted"
    secret = simulator.account().api_secret
    text = f"{order_id}{told['order_timestamp']}{secret}"
    assert told["checksum"] == hashlib.sha256(text.encode()).hexdigest()
    assert secret not in body.decode()
    doubled = [
        json.loads(r.partition(b"\r\n\r\n")[2]) for r in hook.requests if second.encode() in r
    ]
    assert doubled[0] == doubled[1]
    assert doubled[0]["status"] in {"COMPLETE", "UPDATE"}
