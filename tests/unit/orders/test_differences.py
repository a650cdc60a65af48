"""The broker's book against the ledger: what is told, what is not, and how often."""

import itertools
from dataclasses import replace
from datetime import date

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.orders import OrderState
from libs.common.domain.order_answers import BrokerOrder
from services.orders.domain.differences import (
    Confirmation,
    Difference,
    DifferenceCode,
    LedgerOrder,
    compare,
    our_tags,
)
from services.orders.domain.tags import tag_of

TODAY = date(2026, 11, 24)
# How the broker spells the states that both sides have a word for.
SPELLING = {
    OrderState.ACKED: ("PUT ORDER REQ RECEIVED", "VALIDATION PENDING", "OPEN PENDING"),
    OrderState.OPEN: ("OPEN", "TRIGGER PENDING", "MODIFY PENDING", "A WORD OF TOMORROW"),
    OrderState.COMPLETE: ("COMPLETE",),
    OrderState.CANCELLED: ("CANCELLED", "LAPSED"),
    OrderState.REJECTED: ("REJECTED",),
}


def ledger_order(number: int = 1, **changes) -> LedgerOrder:
    order = LedgerOrder(
        task_id=f"task-{number}",
        leg=0,
        tag=tag_of("main", f"task-{number}", 0),
        state=OrderState.OPEN,
        exchange="NFO",
        tradingsymbol="NIFTY26DEC26000CE",
        transaction_type="BUY",
        quantities=frozenset({65}),
        order_id=f"{number:018}",
        filled_quantity=0,
    )
    return replace(order, **changes)


def row_of(order: LedgerOrder, **changes) -> BrokerOrder:
    """The broker's row of an order of which both sides say the same."""
    row = BrokerOrder(
        order_id=order.order_id or "9" * 18,
        status=SPELLING[order.state][0] if order.state in SPELLING else "OPEN",
        tag=order.tag,
        exchange=order.exchange,
        tradingsymbol=order.tradingsymbol,
        transaction_type=order.transaction_type,
        quantity=min(order.quantities),
        filled_quantity=order.filled_quantity,
    )
    return msgspec.structs.replace(row, **changes)


def codes(differences: list[Difference]) -> list[str]:
    return [difference.code.value for difference in differences]


@st.composite
def ledgers(draw):
    """Orders of both sides' making, each with a row that says the same."""
    numbers = draw(st.lists(st.integers(1, 500), unique=True, max_size=12))
    orders, rows = [], []
    for number in numbers:
        state = draw(st.sampled_from(list(SPELLING)))
        quantity = draw(st.integers(1, 1800))
        order = ledger_order(
            number,
            state=state,
            leg=draw(st.integers(0, 9)),
            exchange=draw(st.sampled_from(["NFO", "NSE"])),
            transaction_type=draw(st.sampled_from(["BUY", "SELL"])),
            quantities=frozenset({quantity, draw(st.integers(1, 1800))}),
            filled_quantity=draw(st.integers(0, quantity)),
        )
        status = draw(st.sampled_from(SPELLING[state]))
        tag_in_list = draw(st.booleans())
        orders.append(order)
        rows.append(
            row_of(
                order,
                status=status,
                quantity=quantity,
                tag=None if tag_in_list else order.tag,
                tags=(order.tag, "mktp") if tag_in_list else (),
            )
        )
    strangers = draw(st.integers(0, 3))
    rows += [
        row_of(ledger_order(900 + number), tag=draw(st.sampled_from([None, "mine", "tf1"])))
        for number in range(strangers)
    ]
    return orders, draw(st.permutations(rows))


@given(ledgers())
def test_sides_that_say_the_same_do_not_differ_whatever_others_trade(both):
    orders, book = both

    assert compare(book, orders) == []


@given(ledgers(), st.data())
def test_each_disagreement_is_found_alone_and_by_its_code(both, data):
    orders, book = both
    if not orders:
        return
    order = data.draw(st.sampled_from(orders))
    wrong, code = data.draw(
        st.sampled_from(
            [
                ({"order_id": "another"}, "order_id"),
                ({"tradingsymbol": "NIFTY26DEC26100CE"}, "instrument"),
                ({"exchange": "BFO"}, "instrument"),
                ({"transaction_type": "EITHER"}, "side"),
                ({"quantity": 1801}, "quantity"),
                ({"filled_quantity": order.filled_quantity + 1}, "fills"),
            ]
        )
    )
    changed = [
        msgspec.structs.replace(row, **wrong) if order.tag in our_tags(row) else row for row in book
    ]

    found = compare(changed, orders)

    assert [(d.code.value, d.task_id, d.leg) for d in found] == [(code, order.task_id, order.leg)]
    assert order.task_id in found[0].message
    assert found[0].evidence["tag"] == order.tag


@pytest.mark.parametrize("state", list(OrderState))
@pytest.mark.parametrize("status", ["OPEN", "COMPLETE", "CANCELLED", "REJECTED", "LAPSED"])
def test_state_differs_unless_the_ledger_means_what_the_broker_says(state, status):
    order = ledger_order(state=state)

    found = compare([row_of(order, status=status)], [order])

    agrees = status in SPELLING.get(state, ()) or (status == "OPEN" and state is OrderState.ACKED)
    assert codes(found) == ([] if agrees else ["state"])


@pytest.mark.parametrize("state", list(OrderState))
def test_order_that_the_broker_does_not_have_is_missing_only_while_the_ledger_calls_it_open(state):
    found = compare([], [ledger_order(state=state)])

    assert codes(found) == (["missing"] if state in {OrderState.ACKED, OrderState.OPEN} else [])


def test_our_tag_that_the_ledger_does_not_know_is_told_with_what_it_is():
    order = ledger_order(7)

    (found,) = compare([row_of(order)], [])

    assert found.code is DifferenceCode.UNKNOWN_TAG
    assert (found.tag, found.order_id) == (order.tag, order.order_id)
    assert "BUY 65 NFO:NIFTY26DEC26000CE" in found.broker


def test_one_tag_on_two_orders_is_told_with_both_numbers():
    order = ledger_order()
    second = row_of(order, order_id="2" * 18)

    found = compare([row_of(order), second], [order])

    assert codes(found) == ["placed_twice"]
    assert found[0].broker == f"{order.order_id}, {second.order_id}"


def test_slices_that_the_broker_made_itself_are_not_a_second_order():
    order = ledger_order(quantities=frozenset({3600}))
    parent = row_of(order, quantity=3600)
    child = row_of(order, order_id="child", quantity=1800, parent_order_id=parent.order_id)

    assert compare([parent, child], [order]) == []


def test_order_adopted_by_its_number_is_compared_without_a_tag():
    order = ledger_order(state=OrderState.COMPLETE, filled_quantity=65)
    row = row_of(order, tag=None, filled_quantity=65)

    assert compare([row], [order]) == []
    assert codes(compare([msgspec.structs.replace(row, status="OPEN")], [order])) == ["state"]


def test_quantity_that_a_change_asked_for_is_no_difference():
    order = ledger_order(quantities=frozenset({65, 130}))

    assert compare([row_of(order, quantity=130)], [order]) == []


def differences_of(*numbers: int) -> list[Difference]:
    return compare([], [ledger_order(number) for number in numbers])


def test_difference_is_told_at_the_second_look_and_never_again_that_day():
    confirmation, seen = Confirmation(), differences_of(1)

    looks = [confirmation.confirmed(TODAY, seen) for _ in range(5)]

    assert looks == [[], seen, [], [], []]


def test_new_day_begins_anew():
    confirmation, seen = Confirmation(), differences_of(1)
    confirmation.confirmed(TODAY, seen)
    confirmation.confirmed(TODAY, seen)
    tomorrow = date(2026, 11, 25)

    assert confirmation.confirmed(tomorrow, seen) == []
    assert confirmation.confirmed(tomorrow, seen) == seen


@given(st.lists(st.sets(st.integers(1, 5)), max_size=12))
def test_only_what_two_looks_in_a_row_saw_is_told_and_each_once(looks):
    confirmation, told = Confirmation(), []
    before: set[int] = set()
    for look in looks:
        news = confirmation.confirmed(TODAY, differences_of(*look))
        assert {d.task_id for d in news} <= {f"task-{number}" for number in look & before}
        told += [d.key for d in news]
        before = look

    repeated = {n for one, two in itertools.pairwise(looks) for n in one & two}
    assert len(told) == len(set(told)) == len(repeated)
