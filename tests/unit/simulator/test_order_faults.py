"""The book of the order side's faults, and updates that go astray."""

import asyncio
import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.simulator.domain.accounts import demo_accounts
from services.simulator.domain.faults import Fault
from services.simulator.domain.order_faults import (
    UPDATE_KINDS,
    Channel,
    Ending,
    OrderFault,
    OrderFaultBook,
    OrderFaultKind,
    Verb,
    parse_any_fault,
)
from services.simulator.errors import FaultError
from services.simulator.order_updates import OrderUpdates

ACCOUNT, OTHER = demo_accounts(2, 1)


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        """Elapsed seconds."""
        return self.seconds


def book_with(*orders: dict[str, Any], clock: Clock | None = None) -> OrderFaultBook:
    book = OrderFaultBook(clock or Clock(), itertools.count(1))
    for order in orders:
        fault = parse_any_fault(msgspec.json.encode(order), ["sim1key", "sim2key"])
        assert isinstance(fault, OrderFault)
        book.add(fault)
    return book


def test_faults_of_the_market_are_still_read():
    assert isinstance(parse_any_fault(b'{"kind": "slow_replies"}', []), Fault)
    for body in (b"[]", b"{", b'{"kind": []}', b'{"kind": {"a": 1}}', b"{}"):
        with pytest.raises(FaultError):
            parse_any_fault(body, [])


def test_an_unknown_kind_is_told_all_the_kinds():
    with pytest.raises(FaultError) as caught:
        parse_any_fault(b'{"kind": "storm"}', [])
    assert caught.value.field == "kind"
    assert "order_chaos" in caught.value.fix
    assert "slow_replies" in caught.value.fix


def test_a_fault_ends_by_count_by_time_and_by_hand():
    clock = Clock()
    book = book_with(
        {"kind": "reset_before", "count": 2}, {"kind": "order_limit", "seconds": 5}, clock=clock
    )
    kinds = []
    for _ in range(3):
        verdict = book.strike(Verb.PLACE, "sim1key")
        assert verdict is not None
        kinds.append(verdict.kind)
    assert kinds == ["reset_before", "reset_before", "order_limit"]
    clock.seconds = 5.0
    assert book.strike(Verb.PLACE, "sim1key") is None
    book.add(OrderFault(kind=OrderFaultKind.SLOW_ORDER))
    assert book.remove(99) == 0
    assert book.remove(None) == 1


def test_a_strike_that_hit_nothing_can_be_taken_back():
    book = book_with({"kind": "accept_then_error", "count": 1})
    verdict = book.strike(Verb.PLACE, None)
    assert verdict is not None
    book.give_back(verdict)
    assert book.strike(Verb.CANCEL, None) is not None


def test_a_fault_is_for_its_account_and_verb():
    book = book_with({"kind": "slow_order", "api_key": "sim1key", "verb": "modify"})
    assert book.strike(Verb.MODIFY, "sim2key") is None
    assert book.strike(Verb.PLACE, "sim1key") is None
    assert book.strike(Verb.MODIFY, "sim1key") is not None


@pytest.mark.parametrize("kind", ["late_order", "timed_out_400"])
def test_late_orders_are_only_placed_ones(kind):
    book = book_with({"kind": kind})
    assert book.strike(Verb.CANCEL, None) is None
    verdict = book.strike(Verb.PLACE, None)
    assert verdict is not None
    assert verdict.hold_seconds == {"late_order": 85.0, "timed_out_400": 8.0}[kind]


@given(st.sampled_from(sorted(set(OrderFaultKind) - UPDATE_KINDS)), st.integers(0, 50))
def test_only_three_kinds_keep_an_order_out_and_none_of_them_answers_normally(kind, seed):
    book = book_with({"kind": kind, "seed": seed})
    for _ in range(20):
        verdict = book.strike(Verb.PLACE, None)
        assert verdict is not None, "with a probability of 1 it always strikes"
        if not verdict.accept:
            assert verdict.kind in {"order_limit", "reset_before", "error_before"}
            assert verdict.ending is not Ending.ANSWER
        assert verdict.wait_seconds >= 0
        assert verdict.hold_seconds <= 85


@given(st.integers(0, 1_000), st.floats(0.05, 0.95))
def test_the_same_seed_strikes_the_same_requests_however_many_updates_come(seed, probability):
    order = {"kind": "order_chaos", "seed": seed, "probability": probability}
    quiet, busy = book_with(order), book_with(order)
    for count in range(40):
        for _ in range(count % 3):
            busy.strike_update(Channel.WEBSOCKET, "sim1key")
        assert quiet.strike(Verb.PLACE, "sim1key") == busy.strike(Verb.PLACE, "sim1key")


def test_chaos_strikes_about_as_often_as_asked_and_draws_all_it_is_given():
    kinds = ["order_limit", "reset_after", "late_update"]
    book = book_with({"kind": "order_chaos", "probability": 0.3, "seed": 4, "kinds": kinds})
    struck = [book.strike(Verb.PLACE, None) for _ in range(1_000)]
    drawn = [verdict.kind for verdict in struck if verdict is not None]
    assert 230 < len(drawn) < 370
    assert set(drawn) == {"order_limit", "reset_after"}
    told = [book.strike_update(Channel.POSTBACK, "sim1key") for _ in range(1_000)]
    assert {verdict.kind for verdict in told if verdict is not None} == {"late_update"}


def test_chaos_kills_no_token_unless_told_to():
    book = book_with({"kind": "order_chaos"})
    for _ in range(500):
        verdict = book.strike(Verb.PLACE, None)
        assert verdict is not None
        assert not verdict.kills_tokens


def test_chaos_delays_by_at_most_what_it_is_given():
    book = book_with(
        {"kind": "order_chaos", "kinds": ["late_order"], "delay_seconds": 4, "answer_seconds": 1}
    )
    verdicts = [book.strike(Verb.PLACE, None) for _ in range(200)]
    holds = [verdict.hold_seconds for verdict in verdicts if verdict is not None]
    assert 0.4 <= min(holds) < max(holds) <= 4
    assert max(v.answer_seconds for v in verdicts if v is not None) <= 1


def test_a_hundred_faults_are_enough():
    book = book_with(*[{"kind": "slow_order"}] * 100)
    with pytest.raises(FaultError):
        book.add(OrderFault(kind=OrderFaultKind.SLOW_ORDER))


class Ears:
    """Hears what is told, on one channel."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, int]] = []

    def __call__(self, account, body) -> None:
        """Hear an update."""
        self.heard.append((account.api_key, body["n"]))


def updates_under(*orders: dict[str, Any]) -> tuple[OrderUpdates, Ears, Ears]:
    socket, hook = Ears(), Ears()
    sinks = {Channel.WEBSOCKET: socket, Channel.POSTBACK: hook}
    return OrderUpdates(book_with(*orders), sinks), socket, hook


async def test_updates_go_to_every_channel_at_once():
    updates, socket, hook = updates_under()
    updates.tell(ACCOUNT, {"n": 1})
    assert socket.heard == hook.heard == [("sim1key", 1)]


async def test_a_reordered_update_follows_the_next_one_of_its_account_and_channel():
    updates, socket, hook = updates_under(
        {"kind": "reordered_update", "channel": "websocket", "count": 1, "delay_seconds": 600}
    )
    updates.tell(ACCOUNT, {"n": 1})
    updates.tell(OTHER, {"n": 2})
    updates.tell(ACCOUNT, {"n": 3})
    updates.tell(ACCOUNT, {"n": 4})
    assert [n for key, n in socket.heard if key == "sim1key"] == [3, 1, 4]
    assert [n for key, n in hook.heard if key == "sim1key"] == [1, 3, 4]
    updates.close()


async def test_a_reordered_update_that_nothing_follows_comes_in_the_end_and_once():
    updates, socket, _ = updates_under(
        {"kind": "reordered_update", "channel": "websocket", "count": 1, "delay_seconds": 0}
    )
    updates.tell(ACCOUNT, {"n": 1})
    async with asyncio.timeout(10):
        while not socket.heard:  # noqa: ASYNC110  # A timer of the loop has no event.
            await asyncio.sleep(0)
    updates.tell(ACCOUNT, {"n": 2})
    assert [n for _, n in socket.heard] == [1, 2]


async def test_lost_doubled_and_late_updates():
    updates, socket, _ = updates_under(
        {"kind": "lost_update", "channel": "websocket", "count": 1},
        {"kind": "duplicate_update", "channel": "websocket", "count": 1, "delay_seconds": 0},
        {"kind": "late_update", "channel": "websocket", "count": 1, "delay_seconds": 0},
    )
    for number in (1, 2, 3):
        updates.tell(ACCOUNT, {"n": number})
    async with asyncio.timeout(10):
        while len(socket.heard) < 3:  # noqa: ASYNC110  # As above.
            await asyncio.sleep(0)
    assert sorted(n for _, n in socket.heard) == [2, 2, 3]


async def test_closing_forgets_what_waits():
    updates, socket, _ = updates_under({"kind": "late_update", "delay_seconds": 0})
    updates.tell(ACCOUNT, {"n": 1})
    updates.close()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert socket.heard == []
