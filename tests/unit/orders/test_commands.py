"""Commands as they come over the bus: what is no command says why."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.orders import CancelOrder, ModifyOrder, PlaceOrder
from services.orders.dead_letters import TEXT_BYTES, text_of
from services.orders.errors import OrderRefusedError
from services.orders.intake import read_command

PLACE = {
    "verb": "place",
    "account": "main",
    "task_id": "t-1",
    "created_at_ns": 1,
    "exchange": "NFO",
    "tradingsymbol": "X",
    "transaction_type": "BUY",
    "quantity": 65,
    "product": "NRML",
    "order_type": "MARKET",
}


def read(**changes):
    body = {key: value for key, value in (PLACE | changes).items() if value is not None}
    return read_command(msgspec.json.encode(body), "main", "t-1")


def test_each_verb_is_a_command_of_its_own():
    assert isinstance(read(), PlaceOrder)
    common = {"account": "main", "task_id": "t-1", "created_at_ns": 1, "order_id": "5"}
    for verb, kind in (("modify", ModifyOrder), ("cancel", CancelOrder)):
        payload = msgspec.json.encode({"verb": verb, **common})
        assert isinstance(read_command(payload, "main", "t-1"), kind)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"quantity": -1}, "quantity"),
        ({"quantity": 1.5}, "quantity"),
        ({"quantity": "65"}, "quantity"),
        ({"exchange": "MOON"}, "exchange"),
        ({"transaction_type": None}, "transaction_type"),
        ({"task_id": "t-2"}, "task_id"),
        ({"account": "other"}, "account"),
    ],
)
def test_wrong_field_is_named(changes, field):
    with pytest.raises(OrderRefusedError) as caught:
        read(**changes)
    assert caught.value.code == "bad_request"
    assert caught.value.field == field


@pytest.mark.parametrize("changes", [{"surprise": 1}, {"verb": "buy"}, {"verb": None}])
def test_what_is_no_command_is_refused(changes):
    with pytest.raises(OrderRefusedError):
        read(**changes)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_command_or_refused(payload):
    with pytest.raises(OrderRefusedError):
        read_command(payload, "main", "t-1")


@given(st.binary(max_size=200))
def test_any_bytes_can_be_kept_as_text(payload):
    text = text_of(payload)
    assert "\x00" not in text
    text.encode("utf-8")


def test_long_command_is_cut_off():
    assert len(text_of(b"x" * (TEXT_BYTES + 5))) == TEXT_BYTES
