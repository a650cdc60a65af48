"""Rows of the broker's order book: read whatever their types, never guessed, never lost."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.clock import IST
from libs.common.domain.order_answers import BrokerOrder, OrderRowError, read_order_row

ROW = {
    "order_id": "1912345678901234567",
    "status": "OPEN",
    "tag": "tfabc",
    "tags": ["tfabc", "mktp:2.00"],
    "exchange": "NFO",
    "tradingsymbol": "NIFTY26DEC26000CE",
    "transaction_type": "BUY",
    "quantity": 130,
    "filled_quantity": 65.0,
    "pending_quantity": "65",
    "average_price": 101.5,
    "price": 102,
    "trigger_price": 0,
    "order_type": "LIMIT",
    "product": "NRML",
    "variety": "regular",
    "validity": "DAY",
    "status_message": None,
    "order_timestamp": "2026-11-25 10:15:00",
    "parent_order_id": None,
    "meta": {},
}
anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.datetimes()
    | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


def test_row_is_read_with_its_numbers_and_its_time_in_india():
    order = read_order_row(ROW)
    assert (order.quantity, order.filled_quantity, order.pending_quantity) == (130, 65, 65)
    assert order.average_price == 101.5
    assert order.order_timestamp == datetime(2026, 11, 25, 4, 45, tzinfo=UTC)
    assert order.raw == ROW


def test_naive_time_of_the_client_library_is_indian_and_its_text_is_kept_as_evidence():
    order = read_order_row({**ROW, "order_timestamp": datetime(2026, 11, 25, 10, 15)})  # noqa: DTZ001
    assert order.order_timestamp == datetime(2026, 11, 25, 10, 15, tzinfo=IST)
    assert order.raw["order_timestamp"] == "2026-11-25 10:15:00"


@given(
    st.dictionaries(st.sampled_from([*ROW, "strange"]), anything),
    st.text("0123456789", min_size=1, max_size=20),
)
def test_strange_values_never_hide_an_order_nor_its_tag(strange, order_id):
    row = {**ROW, **strange, "order_id": order_id, "tags": ["tfabc"]}
    order = read_order_row(row)
    assert order.order_id == order_id
    assert order.carries("tfabc")
    assert order.filled_quantity >= 0
    assert json.loads(json.dumps(order.raw, allow_nan=False)) == order.raw


@pytest.mark.parametrize("row", [None, "text", 3, [], {}, {"order_id": ""}, {"order_id": None}])
def test_row_without_a_number_cannot_be_read(row):
    with pytest.raises(OrderRowError, match=r"row|order_id"):
        read_order_row(row)


def test_number_that_came_as_a_number_is_kept_as_text():
    assert read_order_row({"order_id": 151220000000000}).order_id == "151220000000000"


@pytest.mark.parametrize(
    ("tag", "tags", "carried"),
    [
        ("tfabc", (), True),
        (None, ("mktp", "tfabc"), True),
        ("tfabcd", ("tfab",), False),
        (None, (), False),
    ],
)
def test_tag_counts_alone_or_among_the_brokers_own(tag, tags, carried):
    assert BrokerOrder(order_id="1", tag=tag, tags=tags).carries("tfabc") is carried


@pytest.mark.parametrize("status", ["COMPLETE", "CANCELLED", "REJECTED", "LAPSED"])
def test_last_words_are_final(status):
    assert BrokerOrder(order_id="1", status=status).is_final


@given(st.text(max_size=20))
def test_status_that_nobody_knows_is_never_final(status):
    order = read_order_row({"order_id": "1", "status": f"{status} PENDING"})
    assert not order.is_final
