"""Tasks in memory: their state, their events, and how they are found."""

from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.orders import (
    Exchange,
    OrderState,
    OrderType,
    PlaceOrder,
    Product,
    Side,
)
from services.orders.domain.intent import Verb, new_intent, replacement_of
from services.orders.domain.lifecycle import advance
from services.orders.domain.lifecycle_events import (
    Acked,
    Checked,
    PublishEvent,
    Refused,
    Sending,
)
from services.orders.task import Task
from services.orders.task_book import TaskBook


def task_of(task_id="t", *, user="default", sequence=1, at_ns=1_000, quantity=65):
    command = PlaceOrder(
        account="main",
        task_id=task_id,
        user=user,
        created_at_ns=at_ns,
        exchange=Exchange.NFO,
        tradingsymbol="X",
        transaction_type=Side.BUY,
        quantity=quantity,
        product=Product.NRML,
        order_type=OrderType.LIMIT,
        price=1.0,
    )
    return Task(
        command,
        fingerprint=task_id,
        stream_sequence=sequence,
        accepted_at_ns=at_ns,
        event_count=1,
    )


def leg_of(task, leg, *events):
    intent = new_intent(
        account="main", task_id=task.task_id, leg=leg, verb=Verb.PLACE, parameters={}, quantity=65
    )
    for event in events:
        intent = advance(intent, event).intent
    return intent


def put(task, *intents):
    task.apply(task.change(*intents, at_ns=2_000))


CHECKED = Checked(at_ns=1)
SENDING = Sending(at_ns=2)


def acked(order_id):
    return Acked(at_ns=3, order_id=order_id)


def test_task_stands_where_its_requests_stand():
    task = task_of()
    assert task.is_unsent
    put(task, leg_of(task, 0, CHECKED), leg_of(task, 1, CHECKED))
    states = [(task.state, task.is_unsent)]
    put(task, leg_of(task, 0, CHECKED, SENDING))
    states.append((task.state, task.is_unsent))
    assert states == [(OrderState.CHECKED, True), (OrderState.SENDING, False)]


def test_events_are_numbered_and_never_go_back_in_time():
    task = task_of(at_ns=1_000)
    told = PublishEvent(kind="updated")
    change = task.change(tell=[(told, None), (told, None)], at_ns=500)
    assert [event.seq for event in change.events] == [2, 3]
    assert [event.at_ns for event in change.events] == [1_000, 1_000]
    task.apply(change)
    later = task.change(tell=[(told, None)], at_ns=5_000)
    assert (later.events[0].seq, later.events[0].at_ns) == (4, 5_000)


def test_replacement_stands_for_the_slice_that_it_replaces():
    task = task_of()
    first, second = leg_of(task, 0, CHECKED, SENDING), leg_of(task, 1, CHECKED)
    again = replacement_of(first, leg=2, valid_until_ns=None)
    put(task, first, second, again)
    assert [intent.leg for intent in task.placed()] == [2, 1]
    assert task.placed(0) == [again]
    assert task.placed(5) == []


def test_change_wakes_who_waits_for_the_task_or_follows_it():
    task, follower = task_of("a"), task_of("b")
    task.followers.add(follower)
    put(task, leg_of(task, 0, CHECKED))
    assert task.changed.is_set()
    assert follower.changed.is_set()


def test_book_finds_tasks_by_tag_and_number_until_many_more_have_settled(monkeypatch):
    monkeypatch.setattr("services.orders.task_book.SETTLED_KEPT", 2)
    book = TaskBook()
    tasks = []
    for number in range(4):
        task = book.add(task_of(f"t{number}", sequence=number))
        tag = leg_of(task, 0).tag
        put(task, leg_of(task, 0, CHECKED, SENDING, acked(f"n{number}")))
        book.note(task)
        assert book.with_tag(tag) is task
        assert book.with_number(f"n{number}") is task
        tasks.append(task)
    assert book.open() == tasks
    for task in tasks:
        done = task.intents[0]
        put(
            task,
            type(done)(
                **{f: getattr(done, f) for f in done.__struct_fields__}
                | {"state": OrderState.COMPLETE}
            ),
        )
        book.note(task)
    assert len(book) == 0
    assert book.with_number("n0") is None
    assert book.with_number("n3") is tasks[3]
    assert book.get("t0") is None


def test_book_finds_the_changes_of_an_order_until_they_are_at_their_end():
    book = TaskBook()
    task = book.add(task_of("change"))
    change = new_intent(
        account="main",
        task_id="change",
        leg=0,
        verb=Verb.CANCEL,
        parameters={},
        order_id="n1",
    )
    put(task, change)
    book.note(task)

    assert book.changes_of("n1") == [(task, change.tag)]
    assert book.changes_of("n2") == []

    put(task, advance(change, Refused(at_ns=3, code="late", message="it is at its end")).intent)
    book.note(task)

    assert book.changes_of("n1") == []


def test_added_again_a_task_is_the_one_that_is_there():
    book = TaskBook()
    first = book.add(task_of("t"))
    assert book.add(task_of("t")) is first


def test_guard_against_doubles_forgets_what_was_refused():
    book = TaskBook()
    one, other = book.add(task_of("one")), book.add(task_of("other", at_ns=2_000))
    assert [r.task_id for r in book.recent(0, but="other")] == ["one"]
    assert [r.task_id for r in book.recent(1_500, but="")] == ["other"]
    put(one, leg_of(one, 0, CHECKED, Refused(at_ns=3, code="x", message="y")))
    book.note(one)
    assert book.recent(0, but="other") == ()
    assert other.is_unsent


@given(st.lists(st.tuples(st.sampled_from(["ann", "bob"]), st.booleans()), max_size=8))
def test_use_counts_what_is_open_and_what_may_still_leave(orders):
    book = TaskBook()
    for number, (user, is_sent) in enumerate(orders):
        task = book.add(task_of(f"t{number}", user=user, sequence=number))
        if is_sent:
            put(task, leg_of(task, 0, CHECKED, SENDING, acked(f"n{number}")))
            book.note(task)
    for user in ("ann", "bob", None):
        own = [is_sent for who, is_sent in orders if user in {who, None}]
        use = book.use(user, sum(own), but="")
        assert use.open_orders == len(own)
        assert use.orders_today == len(own)
