"""The ledger on a real PostgreSQL: what two workers may and may not do to one row."""

import asyncio
import time
from secrets import token_hex

import pytest
from pydantic import SecretStr

from libs.common.contracts.orders import (
    DeadLetter,
    Exchange,
    OrderEvent,
    OrderState,
    OrderType,
    PlaceOrder,
    Product,
    Side,
)
from libs.common.database import Database, DatabaseUnavailableError
from libs.common.domain.order_fingerprint import fingerprint
from libs.common.settings import DatabaseSettings
from services.orders.domain.intent import Verb, new_intent
from services.orders.domain.lifecycle import advance
from services.orders.domain.lifecycle_events import Acked, Checked, PublishEvent, Sending
from services.orders.errors import KeyTakenError, OrderNumberTakenError, StaleTaskError
from services.orders.ledger import Ledger
from services.orders.task import Task, command_values
from tests.integration.orders_rig import shared_ledger

pytestmark = pytest.mark.integration

NOW = time.time_ns()


@pytest.fixture(scope="module")
def ledger_url(tmp_path_factory):
    with shared_ledger(tmp_path_factory.mktemp("postgres")) as url:
        yield url


@pytest.fixture
async def ledger(ledger_url):
    settings = DatabaseSettings(_env_file=None, database_url=SecretStr(ledger_url))
    async with Database.opened(settings) as database:
        yield Ledger(database)


def task_of(account, task_id="task", **changes):
    values = {
        "account": account,
        "task_id": task_id,
        "created_at_ns": NOW,
        "exchange": Exchange.NFO,
        "tradingsymbol": "X",
        "transaction_type": Side.BUY,
        "quantity": 65,
        "product": Product.NRML,
        "order_type": OrderType.LIMIT,
        "price": 1.5,
        **changes,
    }
    command = PlaceOrder(**values)
    return Task(
        command,
        fingerprint=fingerprint(command_values(command)),
        stream_sequence=7,
        accepted_at_ns=NOW,
        event_count=1,
        valid_until_ns=NOW + 5_000,
    )


def accepted(task):
    return OrderEvent(
        account=task.account,
        task_id=task.task_id,
        seq=1,
        kind="accepted",
        state=OrderState.PENDING,
        at_ns=NOW,
    )


def sending(task):
    """A change that brings the first request of a task to `sending`."""
    intent = new_intent(
        account=task.account,
        task_id=task.task_id,
        leg=0,
        verb=Verb.PLACE,
        parameters={"variety": "regular", "price": 1.5},
        quantity=65,
        exchange="NFO",
        tradingsymbol="X",
    )
    intent = advance(intent, Checked(at_ns=NOW)).intent
    intent = advance(intent, Sending(at_ns=NOW)).intent
    return task.change(intent, tell=[(PublishEvent(kind="sending"), intent)], at_ns=NOW)


@pytest.fixture
def account():
    return f"a{token_hex(4)}"


async def test_command_is_taken_once_and_its_key_is_its_own(ledger, account):
    task = task_of(account)
    assert await ledger.accept(task, accepted(task)) is True
    assert await ledger.accept(task, accepted(task)) is False
    other = task_of(account, quantity=130)
    with pytest.raises(KeyTakenError):
        await ledger.accept(other, accepted(other))
    elsewhere = task_of(f"{account}2", quantity=130)
    assert await ledger.accept(elsewhere, accepted(elsewhere)) is True


async def test_key_that_two_workers_take_at_once_is_taken_by_one(ledger, account):
    task = task_of(account)
    outcomes = await asyncio.gather(*(ledger.accept(task, accepted(task)) for _ in range(8)))
    assert sorted(outcomes) == [False] * 7 + [True]
    assert len(await ledger.unpublished(account, 10)) == 1


async def test_what_was_written_is_read_again(ledger, account):
    task = task_of(account)
    await ledger.accept(task, accepted(task))
    change = sending(task)
    await ledger.apply(task, change)
    task.apply(change)
    (read,) = await ledger.unsettled(account)
    assert read.command == task.command
    assert read.fingerprint == task.fingerprint
    assert (read.state, read.event_count) == (OrderState.SENDING, 2)
    # PostgreSQL keeps microseconds.
    assert read.valid_until_ns == (NOW + 5_000) // 1_000 * 1_000
    (intent,) = read.intents
    assert intent.parameters == {"variety": "regular", "price": 1.5}
    assert intent.attempts == 1
    assert intent.sent_at_ns == NOW // 1_000 * 1_000
    assert await ledger.owners(account, tags=[intent.tag, "tfother"]) == {"task"}
    sends = await ledger.sends(account, NOW - 1_000_000_000)
    assert [(send.verb, send.units) for send in sends] == [(Verb.PLACE, 1)]
    assert await ledger.senders(account, NOW - 1_000_000_000) == ["default"]
    assert await ledger.unsettled_keys(account) == {"task"}


async def test_of_two_workers_one_moves_a_request_and_the_other_writes_nothing(ledger, account):
    first, second = task_of(account), task_of(account)
    await ledger.accept(first, accepted(first))
    # Even when they say the very same: whoever believes that it was written sends.
    outcomes = await asyncio.gather(
        *(ledger.apply(task, sending(task)) for task in (first, second)), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == [
        "NoneType",
        "StaleTaskError",
    ]
    (read,) = await ledger.tasks(account, ["task"])
    assert read.event_count == 2
    assert len(read.intents) == 1


async def test_change_from_a_state_that_is_no_longer_writes_nothing(ledger, account):
    task = task_of(account)
    await ledger.accept(task, accepted(task))
    change = sending(task)
    await ledger.apply(task, change)
    task.apply(change)
    (successor,) = await ledger.tasks(account, ["task"])
    acked = advance(successor.intents[0], Acked(at_ns=NOW, order_id="1")).intent
    await ledger.apply(
        successor,
        successor.change(acked, tell=[(PublishEvent(kind="adopted"), acked)], at_ns=NOW),
    )
    late = advance(task.intents[0], Acked(at_ns=NOW, order_id="2")).intent
    with pytest.raises(StaleTaskError):
        await ledger.apply(
            task, task.change(late, tell=[(PublishEvent(kind="acknowledged"), late)], at_ns=NOW)
        )
    (read,) = await ledger.tasks(account, ["task"])
    assert read.intents[0].order_id == "1"


async def test_change_whose_answer_was_lost_is_known_again(ledger, account):
    task = task_of(account)
    await ledger.accept(task, accepted(task))
    change = sending(task)
    await ledger.apply(task, change)
    # Its first attempt raised on the way back; the same again succeeds and writes nothing more.
    await ledger.apply(task, change, again=True)
    with pytest.raises(StaleTaskError):
        await ledger.apply(
            task,
            task.change(
                *change.intents,
                tell=[(PublishEvent(kind="sending", message="other"), change.intents[0])],
                at_ns=NOW,
            ),
            again=True,
        )
    assert len(await ledger.unpublished(account, 10)) == 2


async def test_number_of_an_order_belongs_to_one_request(ledger, account):
    tasks = [task_of(account, f"task-{n}") for n in range(2)]
    for number, task in enumerate(tasks):
        await ledger.accept(task, accepted(task))
        change = sending(task)
        await ledger.apply(task, change)
        task.apply(change)
        acked = advance(task.intents[0], Acked(at_ns=NOW, order_id="same")).intent
        change = task.change(acked, tell=[(PublishEvent(kind="acknowledged"), acked)], at_ns=NOW)
        if number == 0:
            await ledger.apply(task, change)
        else:
            with pytest.raises(OrderNumberTakenError):
                await ledger.apply(task, change)
    assert await ledger.owners(account, order_ids=["same"]) == {"task-0"}


async def test_events_are_unpublished_until_they_are_noted(ledger, account):
    task = task_of(account)
    await ledger.accept(task, accepted(task))
    change = sending(task)
    await ledger.apply(task, change)
    events = await ledger.unpublished(account, 10)
    assert [event.kind for event in events] == ["accepted", "sending"]
    await ledger.note_published(account, events[:1])
    assert [e.kind for e in await ledger.unpublished(account, 10)] == ["sending"]
    await ledger.note_published(account, events)
    assert await ledger.unpublished(account, 10) == []


async def test_command_is_buried_once(ledger, account):
    letter = DeadLetter(
        account=account,
        task_id="x",
        code="bad_request",
        message="m",
        command="{}",
        at_ns=NOW,
    )
    await ledger.bury(letter, 5)
    await ledger.bury(letter, 5)
    async with ledger._database.acquire() as connection:
        count = await connection.fetchval(
            "SELECT count(*) FROM order_dead_letters WHERE account = $1", account
        )
    assert count == 1


async def test_absent_postgresql_is_told_as_such():
    settings = DatabaseSettings(
        _env_file=None, database_url=SecretStr("postgresql://nobody@127.0.0.1:1/none")
    )
    async with Database.opened(settings) as database:
        task = task_of("a")
        with pytest.raises(DatabaseUnavailableError):
            await Ledger(database).accept(task, accepted(task))
