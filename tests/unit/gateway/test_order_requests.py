"""Bodies become commands, keys are keys, and cursors come back as they went."""

import string
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.orders import CancelOrder, ModifyOrder, OrderState, PlaceOrder
from services.gateway.domain import order_requests
from services.gateway.domain.order_requests import OrderPosition
from services.gateway.errors import BadParameterError, IdempotencyKeyError

KEY_LETTERS = string.ascii_letters + string.digits + "-_"
keys = st.text(KEY_LETTERS, min_size=1, max_size=64)


@given(keys)
def test_every_key_of_the_alphabet_is_taken_as_it_is(key):
    if key in order_requests.RESERVED:
        return
    assert order_requests.read_key([key]) == key


@given(st.text(max_size=80).filter(lambda t: not (0 < len(t) <= 64 and set(t) <= set(KEY_LETTERS))))
def test_anything_else_is_no_key(text):
    with pytest.raises(IdempotencyKeyError, match="Idempotency-Key"):
        order_requests.read_key([text])


def test_no_key_is_none_and_several_or_a_reserved_one_are_refused():
    assert order_requests.read_key([]) is None
    for sent in (["a", "a"], ["a", "b"], ["unknown"], ["dead"]):
        with pytest.raises(IdempotencyKeyError):
            order_requests.read_key(sent)


@given(st.text(KEY_LETTERS, min_size=1, max_size=64), st.integers(1, 100))
def test_keys_of_a_batch_are_keys_and_differ_or_the_batch_is_refused(key, count):
    if len(key) > 61:
        with pytest.raises(IdempotencyKeyError, match="61"):
            order_requests.batch_keys(key, count)
        return
    made = order_requests.batch_keys(key, count)
    assert len(set(made)) == count
    assert [order_requests.read_key([one]) for one in made] == made


@given(
    st.datetimes(datetime(1970, 1, 1), datetime(2999, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001  # Bounds of aware ones.
    st.text(min_size=1, max_size=32),
    keys,
)
def test_cursor_leads_back_to_its_place(at, account, task_id):
    position = OrderPosition(accepted_at=at, account=account, task_id=task_id)
    cursor = order_requests.cursor_of(position)
    assert set(cursor) <= set(KEY_LETTERS)
    wanted = order_requests.read_order_filter({"cursor": cursor})
    assert wanted.after == position


@given(st.text(max_size=600))
def test_text_that_is_no_cursor_is_refused_by_name(text):
    try:
        wanted = order_requests.read_order_filter({"cursor": text})
    except BadParameterError as error:
        assert error.field == "cursor"  # noqa: PT017  # Hypothesis may find a cursor.
    else:
        assert wanted.after is not None


@pytest.mark.parametrize("verb", sorted(order_requests.KINDS))
@pytest.mark.parametrize("field", sorted(order_requests.OURS))
def test_body_may_not_name_what_the_gateway_fills_in(verb, field):
    with pytest.raises(BadParameterError, match="unknown field; known: account") as caught:
        order_requests.command_fields(verb, {field: "x"}, task_id="t", now_ns=1)
    assert caught.value.field == field
    known = str(caught.value).partition("known: ")[2].split(", ")
    assert not order_requests.OURS & set(known)


@given(st.none() | st.integers() | st.text() | st.lists(st.integers()))
def test_body_that_is_no_object_is_refused(value):
    with pytest.raises(BadParameterError, match="object") as caught:
        order_requests.command_fields("place", value, task_id="t", now_ns=1, within="orders[4]")
    assert caught.value.field == "orders[4]"


def test_change_and_cancellation_name_exactly_one_order():
    for kind in (ModifyOrder, CancelOrder):
        base = {"account": "a", "task_id": "t", "created_at_ns": 1}
        for target in ({"order_id": "1"}, {"target_task_id": "t"}):
            order_requests.check_target(kind(**base, **target))  # type: ignore[arg-type]
        for target in ({}, {"order_id": "1", "target_task_id": "t"}):
            with pytest.raises(BadParameterError) as caught:
                order_requests.check_target(kind(**base, **target), "orders[0]")  # type: ignore[arg-type]
            assert caught.value.field == "orders[0].order_id"


def test_every_field_of_a_command_but_ours_can_be_given():
    raw = {
        "account": "main",
        "exchange": "NFO",
        "tradingsymbol": "X",
        "transaction_type": "SELL",
        "quantity": 75,
        "product": "MIS",
        "order_type": "SL",
        "price": 10,
        "trigger_price": 11,
        "variety": "iceberg",
        "validity": "TTL",
        "validity_ttl": 5,
        "disclosed_quantity": 0,
        "market_protection": -1,
        "iceberg_legs": 2,
        "iceberg_quantity": 40,
        "allow_duplicate": True,
        "user": "asha",
        "valid_until_ns": 5,
    }
    names = {field.name for field in msgspec.structs.fields(PlaceOrder)}
    assert set(raw) == names - order_requests.OURS
    fields = order_requests.command_fields("place", raw, task_id="t", now_ns=7)
    command = msgspec.convert(fields, PlaceOrder)
    assert (command.task_id, command.created_at_ns, command.price) == ("t", 7, 10.0)


def test_filters_know_every_state():
    for state in OrderState:
        assert order_requests.read_order_filter({"state": state.value}).state == state
