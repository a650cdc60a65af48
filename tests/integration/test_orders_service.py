"""Orders from the command to the broker and back, on real servers."""

import time

import pytest

from libs.common.bus.connection import Bus
from libs.common.contracts.messages import Source
from libs.common.contracts.orders import OrderAction, OrderType, Resolution, Side
from tests.fakes.order_counter import (
    Behaviour,
    limited,
    refused,
    session_dead,
    unclear,
)
from tests.integration.conftest import settings_for
from tests.integration.orders_rig import SYMBOLS, running_rig, shared_ledger, until

pytestmark = [pytest.mark.integration, pytest.mark.timeout(240)]


@pytest.fixture(scope="module")
def ledger_url(tmp_path_factory):
    with shared_ledger(tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture
async def rig(nats_server, ledger_url, tmp_path):
    async with (
        Bus.open(settings_for(nats_server), name="test") as bus,
        running_rig(bus, nats_server, ledger_url, tmp_path) as rig,
    ):
        yield rig


async def told(rig, command, *kinds):
    """Wait until events of these kinds were told of a task; gives its whole history."""

    async def all_there():
        events = await rig.events(command)
        return events if set(kinds) <= {event.kind for event in events} else None

    return await until(all_there)


# -- what usually happens ----------------------------------------------------------------------


async def test_order_goes_to_the_broker_and_its_history_is_told(rig):
    order = rig.place(rig.main)
    async with rig.worker():
        await rig.send(order)
        await rig.until_state(order, "open")
        (intent,) = await rig.intents(order)
        assert rig.counter.accepted == {intent["tag"]: 1}
        rig.counter.set(
            intent["order_id"], status="COMPLETE", filled_quantity=65, average_price=99.5
        )
        await rig.until_state(order, "complete")

        async def is_told():
            events = await rig.events(order)
            return events if events[-1].state == "complete" else None

        events = await until(is_told)
    assert [event.kind for event in events][:4] == [
        "accepted",
        "checked",
        "sending",
        "acknowledged",
    ]
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert events[-1].filled_quantity == 65
    assert events[-1].average_price == 99.5


async def test_order_above_the_freeze_quantity_is_sliced_and_every_slice_sent_once(rig):
    order = rig.place(rig.main, quantity=65 * 60)
    async with rig.worker():
        await rig.send(order)
        await rig.until_state(order, "open")
        intents = await rig.intents(order)
        events = await told(rig, order, "acknowledged")
    assert len(intents) == 3
    assert sum(intent["quantity"] for intent in intents) == 65 * 60
    assert rig.counter.accepted == dict.fromkeys([i["tag"] for i in intents], 1)
    assert [event.kind for event in events].count("checked") == 1


async def test_refused_order_says_why_and_nothing_leaves(rig):
    order = rig.place(rig.main, price=100.01)
    async with rig.worker():
        await rig.send(order)
        await rig.until_state(order, "rejected")
        events = await told(rig, order, "refused")
    assert not rig.counter.requests
    assert events[-1].code == "off_tick"


async def test_brokers_refusal_ends_the_task_with_its_words(rig):
    rig.counter.script.append(refused("Insufficient funds. Required margin is 5 rupees."))
    order = rig.place(rig.main)
    async with rig.worker():
        await rig.send(order)
        await rig.until_state(order, "rejected")
        events = await told(rig, order, "refused")
    assert "Insufficient funds" in events[-1].message
    assert len(rig.counter.requests) == 1


async def test_placements_of_an_instrument_wait_for_each_others_answer_others_do_not(rig):
    rig.counter.usual = Behaviour(delay_seconds=0.4)
    first, second = rig.place(rig.main), rig.place(rig.main, price=101.0)
    other = rig.place(rig.main, tradingsymbol=SYMBOLS[1])
    async with rig.worker():
        await rig.send(first, second, other)
        for order in (first, second, other):
            await rig.until_state(order, "open")
        times = {
            command: (
                await rig.rows(
                    "SELECT sent_at, tradingsymbol FROM order_intents WHERE task_id = $1"
                    " AND account = $2",
                    command.task_id,
                    rig.main,
                )
            )[0]["sent_at"]
            for command in (first, second, other)
        }
    assert (times[second] - times[first]).total_seconds() >= 0.4
    assert times[other] < times[second]


async def test_same_command_again_is_one_order_and_a_changed_one_is_a_dead_letter(rig):
    order = rig.place(rig.main)
    async with rig.worker():
        await rig.send(order)
        await rig.until_state(order, "open")
        # Somebody empties the stream by hand, and both come again.
        await rig.bus.jetstream.purge_stream("ORDER_COMMANDS")
        await rig.send(order)
        await rig.bus.jetstream.purge_stream("ORDER_COMMANDS")
        changed = rig.place(rig.main, task_id=order.task_id, quantity=130)
        await rig.send(changed)
        await until(lambda: rig.dead_letters(rig.main))
        marker = rig.place(rig.main, price=50.0)
        await rig.send(marker)
        await rig.until_state(marker, "open")
    assert len(rig.counter.requests) == 2
    (row,) = await rig.rows("SELECT * FROM order_dead_letters WHERE account = $1", rig.main)
    assert row["code"] == "key_taken"


async def test_command_that_cannot_be_read_is_kept_whole_and_blocks_nobody(rig):
    async with rig.worker():
        await rig.send_bytes(rig.main, "bad-1", b"{no json")
        await rig.send_bytes(
            rig.main,
            "bad-2",
            b'{"verb":"place","account":"other","task_id":"bad-2","created_at_ns":1,'
            b'"exchange":"NFO","tradingsymbol":"X","transaction_type":"BUY","quantity":1,'
            b'"product":"NRML","order_type":"MARKET"}',
        )
        await rig.send_bytes(
            rig.main,
            "bad-3",
            b'{"verb":"cancel","account":"' + rig.main.encode() + b'","task_id":"bad-3",'
            b'"created_at_ns":1,"surprise":1}',
        )
        order = rig.place(rig.main)
        await rig.send(order)
        await rig.until_state(order, "open")
        rows = await rig.rows(
            "SELECT * FROM order_dead_letters WHERE account = $1 ORDER BY task_id", rig.main
        )
        letters = await rig.dead_letters(rig.main)
        events = await rig.events(rig.place(rig.main, task_id="bad-1"))
    assert [row["code"] for row in rows] == ["bad_request"] * 3
    assert rows[0]["command"] == "{no json"
    assert rows[1]["field"] == "account"
    assert "surprise" in rows[2]["message"]
    assert len(letters) == 3
    assert [(event.kind, event.state) for event in events] == [("refused", "rejected")]


async def test_command_for_an_unknown_account_is_given_up_after_a_while(rig):
    async with rig.worker(orders_stray_seconds=0.5):
        stray = rig.place("nobody")
        await rig.send(stray)
        await until(lambda: rig.dead_letters("nobody"))
        order = rig.place(rig.main)
        await rig.send(order)
        await rig.until_state(order, "open")
    rows = await rig.rows(
        "SELECT code FROM order_dead_letters WHERE account = 'nobody' AND task_id = $1",
        stray.task_id,
    )
    assert [row["code"] for row in rows] == ["unknown_account"]
    assert len(rig.counter.requests) == 1


# -- outcomes that are not clear ---------------------------------------------------------------


async def test_unclear_answer_of_an_accepted_order_is_adopted_and_never_sent_again(rig):
    rig.counter.script.append(unclear(accepts=True, visible_after_seconds=0.5))
    order = rig.place(rig.main)
    async with rig.worker():
        await rig.send(order)
        events = await told(rig, order, "unknown", "adopted")
        await rig.until_state(order, "open")
    assert len(rig.counter.requests) == 1
    assert not rig.counter.doubled
    assert "sending" in [event.kind for event in events]


async def test_unclear_answer_of_no_order_waits_for_a_person_with_the_evidence(rig):
    rig.counter.script.append(unclear(accepts=False))
    order = rig.place(rig.main)
    async with rig.worker():
        await rig.send(order)
        await rig.until_state(order, "absent")
        status = await rig.until_status(rig.main, lambda s: s.absent == 1)
        events = await told(rig, order, "absent")
    assert len(rig.counter.requests) == 1
    assert events[-1].evidence["looks"] >= 3
    assert status.unknown == 0


async def test_unknown_order_does_not_hold_up_others(rig):
    rig.counter.script.append(unclear(accepts=False))
    first, second = rig.place(rig.main), rig.place(rig.main, price=101.0)
    async with rig.worker(orders_unknown_window_seconds=600):
        await rig.send(first, second)
        await rig.until_state(second, "open")
        assert await rig.state(first) == "unknown"


async def test_person_decides_to_send_again_under_a_new_tag(rig):
    rig.counter.script.append(unclear(accepts=False))
    order = rig.place(rig.main)
    async with rig.worker():
        await rig.send(order)
        await rig.until_state(order, "absent")
        reply = await rig.ask(
            rig.main,
            OrderAction.RESOLVE,
            task_id=order.task_id,
            resolution=Resolution.RESEND,
            by="ann",
            reason="the broker says it never came",
        )
        assert reply.error is None
        await rig.until_state(order, "open")
        intents = await rig.intents(order)
    assert [intent["leg"] for intent in intents] == [0, 1]
    assert intents[1]["replaces"] == intents[0]["tag"]
    assert rig.counter.accepted == {intents[1]["tag"]: 1}


async def test_person_adopts_or_gives_up_an_absent_order(rig):
    rig.counter.script.extend([unclear(accepts=False), unclear(accepts=False)])
    adopted, given_up = rig.place(rig.main), rig.place(rig.main, price=101.0)
    async with rig.worker():
        await rig.send(adopted, given_up)
        await rig.until_state(adopted, "absent")
        await rig.until_state(given_up, "absent")
        placed = rig.counter.add(exchange="NFO", tradingsymbol=SYMBOLS[0], quantity=65)
        reply = await rig.ask(
            rig.main,
            OrderAction.RESOLVE,
            task_id=adopted.task_id,
            resolution=Resolution.ADOPT,
            order_id=placed["order_id"],
        )
        assert reply.error is None, reply.error
        reply = await rig.ask(
            rig.main,
            OrderAction.RESOLVE,
            task_id=given_up.task_id,
            resolution=Resolution.ABSENT,
        )
        assert reply.error is None, reply.error
        await rig.until_state(adopted, "open")
        assert await rig.until_state(given_up, "failed")
        again = await rig.ask(
            rig.main,
            OrderAction.RESOLVE,
            task_id=given_up.task_id,
            resolution=Resolution.ABSENT,
        )
        unknown = await rig.ask(
            rig.main, OrderAction.RESOLVE, task_id="nobody", resolution=Resolution.ABSENT
        )
    assert again.error is not None
    assert again.error.code == "conflict"
    assert unknown.error is not None
    assert unknown.error.code == "not_found"


async def test_broker_that_does_not_answer_in_time_leaves_the_outcome_unknown(rig):
    rig.counter.script.append(Behaviour(delay_seconds=6.0, visible_after_seconds=1.5))
    order = rig.place(rig.main)
    async with rig.worker(orders_call_seconds=0.5):
        await rig.send(order)
        await told(rig, order, "unknown", "adopted")
        await rig.until_state(order, "open")
    assert len(rig.counter.requests) == 1


async def test_order_that_shows_before_its_answer_comes_is_taken_at_its_row(rig):
    rig.counter.script.append(Behaviour(delay_seconds=2.0))
    order = rig.place(rig.main)
    async with rig.worker():
        await rig.send(order)
        events = await told(rig, order, "acknowledged")
        await rig.until_state(order, "open")
    assert "unknown" not in [event.kind for event in events]
    assert len(rig.counter.requests) == 1


async def test_answers_that_prove_nothing_was_placed_are_tried_again_with_the_same_tag(rig):
    rig.counter.script.append(limited())
    order = rig.place(rig.main)
    async with rig.worker():
        await rig.send(order)
        await rig.until_state(order, "open")
        (intent,) = await rig.intents(order)
    assert intent["attempts"] == 2
    tags = [form["tag"] for _, _, form in rig.counter.requests]
    assert tags == [intent["tag"]] * 2
    assert rig.counter.accepted == {intent["tag"]: 1}


async def test_refused_session_holds_orders_until_a_newer_one_comes(rig):
    rig.counter.script.append(session_dead())
    order = rig.place(rig.main)
    async with rig.worker():
        await rig.send(order)
        await told(rig, order, "held")

        async def is_told():
            return [e for e in await rig.account_events(rig.main) if e.kind == "session_refused"]

        await until(is_told)
        assert await rig.state(order) == "retrying"
        await rig.log_in(rig.main)
        await rig.until_state(order, "open")
    assert len(rig.counter.requests) == 2
    assert not rig.counter.doubled


async def test_open_breaker_holds_orders_in_their_order_and_lets_them_go_later(rig):
    rig.counter.script.extend([unclear(accepts=False), unclear(accepts=False)])
    broken = [rig.place(rig.main, price=100.0 + n) for n in range(2)]
    held = [rig.place(rig.main, price=200.0 + n) for n in range(3)]
    async with rig.worker(
        orders_breaker_failures=2,
        orders_breaker_seconds=1.0,
        orders_breaker_probes=1,
    ):
        await rig.send(*broken, *held)
        for order in held:
            await rig.until_state(order, "open")
        events = [e.kind for e in await rig.account_events(rig.main)]
        history = await told(rig, held[0], "held")
    prices = [float(form["price"]) for _, _, form in rig.counter.requests]
    assert prices == [100.0, 101.0, 200.0, 201.0, 202.0]
    assert "breaker_opened" in events
    assert "held" in [event.kind for event in history]


# -- changes and cancellations -----------------------------------------------------------------


async def test_change_and_cancellation_follow_their_order(rig):
    order = rig.place(rig.main)
    async with rig.worker():
        await rig.send(order)
        change = rig.modify(rig.main, target_task_id=order.task_id, price=105.0)
        await rig.send(change)
        await rig.until_state(change, "complete")
        assert rig.counter.rows()[0]["price"] == 105.0
        cancel = rig.cancel(rig.main, target_task_id=order.task_id)
        await rig.send(cancel)
        await rig.until_state(cancel, "complete")
        await rig.until_state(order, "cancelled")
    assert [method for method, _, _ in rig.counter.requests] == ["POST", "PUT", "DELETE"]


async def test_cancellation_that_comes_with_its_order_waits_for_the_acknowledgement(rig):
    rig.counter.script.append(Behaviour(delay_seconds=0.5))
    order = rig.place(rig.main)
    async with rig.worker():
        await rig.send(order)
        await until(lambda: rig.counter.requests)
        cancel = rig.cancel(rig.main, target_task_id=order.task_id)
        await rig.send(cancel)
        await rig.until_state(cancel, "complete")
        await rig.until_state(order, "cancelled")


async def test_cancellation_of_an_order_that_has_not_left_withdraws_it(rig):
    rig.counter.script.append(Behaviour(delay_seconds=1.0))
    first, second = rig.place(rig.main), rig.place(rig.main, price=101.0)
    async with rig.worker():
        await rig.send(first)
        await until(lambda: rig.counter.requests)
        await rig.send(second)
        cancel = rig.cancel(rig.main, target_task_id=second.task_id)
        await rig.send(cancel)
        await rig.until_state(second, "cancelled")
        await rig.until_state(cancel, "complete")
        await rig.until_state(first, "open")
    assert len(rig.counter.requests) == 1


async def test_cancellation_of_every_slice_cancels_each(rig):
    order = rig.place(rig.main, quantity=65 * 60)
    async with rig.worker():
        await rig.send(order)
        await rig.until_state(order, "open")
        cancel = rig.cancel(rig.main, target_task_id=order.task_id)
        await rig.send(cancel)
        await rig.until_state(cancel, "complete")
        await rig.until_state(order, "cancelled")
    assert [row["status"] for row in rig.counter.rows()] == ["CANCELLED"] * 3


async def test_order_placed_elsewhere_is_changed_and_cancelled_by_its_number(rig):
    async with rig.worker():
        await rig.until_status(rig.main, lambda s: s.ready)
        row = rig.counter.add(
            exchange="NFO", tradingsymbol=SYMBOLS[0], quantity=65, price=10.0, product="NRML"
        )
        change = rig.modify(rig.main, order_id=row["order_id"], price=11.0)
        await rig.send(change)
        await rig.until_state(change, "complete")
        cancel = rig.cancel(rig.main, order_id=row["order_id"])
        await rig.send(cancel)
        await rig.until_state(cancel, "complete")
        missing = rig.cancel(rig.main, order_id="123")
        await rig.send(missing)
        await rig.until_state(missing, "rejected")
        events = await told(rig, missing, "refused")
    assert events[-1].code == "unknown_order"


async def test_change_of_an_order_that_never_came_fails_with_the_reason(rig):
    rig.counter.script.append(refused())
    order = rig.place(rig.main)
    async with rig.worker():
        await rig.send(order)
        change = rig.modify(rig.main, target_task_id=order.task_id, price=105.0)
        cancel = rig.cancel(rig.main, target_task_id=order.task_id)
        unknown = rig.cancel(rig.main, target_task_id="no-such-task")
        await rig.send(change, cancel, unknown)
        codes = {}
        for command in (change, cancel, unknown):
            await rig.until_state(command, "rejected")
            codes[command.task_id] = (await told(rig, command, "refused"))[-1].code
    assert codes[change.task_id] == "order_never_came"
    assert codes[cancel.task_id] == "order_never_came"
    assert codes[unknown.task_id] == "unknown_task"


async def test_unclear_cancellation_is_settled_by_reading_the_order(rig):
    order = rig.place(rig.main)
    async with rig.worker():
        await rig.send(order)
        await rig.until_state(order, "open")
        rig.counter.script.append(unclear(accepts=True))
        done = rig.cancel(rig.main, target_task_id=order.task_id)
        await rig.send(done)
        await rig.until_state(done, "complete")
        other = rig.place(rig.main, price=101.0)
        await rig.send(other)
        await rig.until_state(other, "open")
        rig.counter.script.append(unclear(accepts=False))
        lost = rig.cancel(rig.main, target_task_id=other.task_id)
        await rig.send(lost)
        await rig.until_state(lost, "rejected")
        (intent,) = await rig.intents(lost)
    assert intent["code"] == "not_applied"
    assert [method for method, _, _ in rig.counter.requests].count("DELETE") == 2


# -- switches and limits -----------------------------------------------------------------------


async def test_kill_switch_lets_nothing_but_cancellations_leave(rig):
    order = rig.place(rig.main)
    async with rig.worker():
        await rig.send(order)
        await rig.until_state(order, "open")
        await rig.switch(rig.main, on=True)
        await rig.until_status(rig.main, lambda s: s.kill_switch)
        stopped = rig.place(rig.main, price=101.0)
        await rig.send(stopped)
        await rig.until_state(stopped, "rejected")
        cancel = rig.cancel(rig.main, target_task_id=order.task_id)
        await rig.send(cancel)
        await rig.until_state(order, "cancelled")
        await rig.switch(rig.main, on=False)
        await rig.until_status(rig.main, lambda s: not s.kill_switch)
        allowed = rig.place(rig.main, price=102.0)
        await rig.send(allowed)
        await rig.until_state(allowed, "open")

        async def both_told():
            codes = [e.code for e in await rig.account_events(rig.main) if e.kind == "kill_switch"]
            return codes == ["on", "off"]

        await until(both_told)


async def test_orders_leave_no_faster_than_the_limits(rig):
    orders = [
        rig.place(rig.main, tradingsymbol=SYMBOLS[n % 4], quantity=30 if n % 4 == 3 else 65)
        for n in range(12)
    ]
    orders = [o for o in orders if o.tradingsymbol != SYMBOLS[3]]
    async with rig.worker(orders_per_second=3, orders_spare_per_second=0):
        await rig.send(*orders)
        for order in orders:
            await rig.until_state(order, "open")
    arrived = rig.counter.arrived_ns
    assert len(arrived) == len(orders)
    for earlier, later in zip(arrived, arrived[3:], strict=False):
        assert later - earlier > 0.9e9


async def test_order_past_its_end_is_not_sent(rig):
    order = rig.place(rig.main, valid_until_ns=time.time_ns() - 1)
    market = rig.place(
        rig.main,
        order_type=OrderType.MARKET,
        price=None,
        created_at_ns=time.time_ns() - 60_000_000_000,
    )
    async with rig.worker():
        await rig.send(order, market)
        for command in (order, market):
            await rig.until_state(command, "rejected", "failed")
            assert (
                await rig.rows(
                    "SELECT code FROM order_tasks WHERE account = $1 AND task_id = $2",
                    rig.main,
                    command.task_id,
                )
            )[0]["code"] == "expired"
    assert not rig.counter.requests


async def test_order_that_looks_like_the_one_before_is_refused_unless_it_is_meant(rig):
    first, double = rig.place(rig.main), rig.place(rig.main)
    meant = rig.place(rig.main, allow_duplicate=True)
    other = rig.place(rig.main, transaction_type=Side.SELL)
    async with rig.worker(orders_duplicate_seconds=60):
        await rig.send(first, double, meant, other)
        await rig.until_state(double, "rejected")
        for order in (first, meant, other):
            await rig.until_state(order, "open")
    assert len(rig.counter.requests) == 3


async def test_limits_in_force_can_be_asked_for(rig):
    order = rig.place(rig.main)
    async with rig.worker():
        await rig.send(order)
        await rig.until_state(order, "open")
        reply = await rig.ask(rig.main, OrderAction.LIMITS)
        synced = await rig.ask(rig.main, OrderAction.SYNC)
    assert reply.error is None
    assert reply.result["used"]["day"] == 1
    assert reply.result["breaker"] == "closed"
    assert synced.result["order_book_read"] is True


async def test_live_account_with_a_simulated_feed_may_not_order(rig):
    from libs.common.bus.kv import Bucket
    from libs.common.contracts import codec, streams
    from libs.common.contracts.messages import ControlStatus

    await rig.log_in(rig.main, source=Source.LIVE)
    status = ControlStatus(
        worker="c",
        plan_revision=1,
        planned=0,
        unplaced=0,
        instruments=0,
        instruments_revision=1,
        source=Source.SIM,
        at_ns=1,
    )
    await Bucket(rig.bus, streams.STATUS.name).put("control", codec.to_json(status))
    order = rig.place(rig.main)
    async with rig.worker():
        await rig.send(order)
        await rig.until_state(order, "rejected")
        events = await told(rig, order, "refused")
    assert events[-1].code == "feed_simulated"
    assert not rig.counter.requests


async def test_more_commands_than_may_wait_stay_in_the_stream_and_come_later(rig):
    rig.counter.usual = Behaviour(delay_seconds=0.1)
    orders = [rig.place(rig.main, price=100.0 + n) for n in range(12)]
    async with rig.worker(orders_waiting=2):
        await rig.send(*orders)
        await until(lambda: rig.counter.requests)
        taken = await rig.rows(
            "SELECT count(*) AS n FROM order_tasks WHERE account = $1 AND state = 'pending'",
            rig.main,
        )
        assert taken[0]["n"] <= 3
        for order in orders:
            await rig.until_state(order, "open")
    assert [float(form["price"]) for _, _, form in rig.counter.requests] == [
        order.price for order in orders
    ]


async def test_without_its_safety_the_same_worker_doubles_orders(rig):
    """The proof of the proof: these tests would notice."""
    rig.counter.script.append(unclear(accepts=True, visible_after_seconds=600))
    order = rig.place(rig.main)
    async with rig.worker(orders_unsafe_resend=True):
        await rig.send(order)
        await until(lambda: rig.counter.doubled)
