"""One key, one command: the fingerprint tells a repetition from another wish."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.orders import (
    CancelOrder,
    Exchange,
    OrderType,
    PlaceOrder,
    Product,
    Side,
    Validity,
    Variety,
)
from libs.common.domain.order_fingerprint import fingerprint

prices = st.none() | st.floats(0, 1_000_000) | st.integers(0, 1_000_000).map(float)
commands = st.builds(
    PlaceOrder,
    account=st.text("ABC123", min_size=1, max_size=6),
    task_id=st.text("abc-_", min_size=1, max_size=8),
    user=st.sampled_from(["default", "desk"]),
    created_at_ns=st.integers(0, 2**62),
    valid_until_ns=st.none() | st.integers(0, 2**62),
    exchange=st.sampled_from(Exchange),
    tradingsymbol=st.sampled_from(["NIFTY26DEC26000CE", "INFY"]),
    transaction_type=st.sampled_from(Side),
    quantity=st.integers(1, 1000),
    product=st.sampled_from(Product),
    order_type=st.sampled_from(OrderType),
    variety=st.sampled_from(Variety),
    price=prices,
    trigger_price=prices,
    validity=st.sampled_from(Validity),
    allow_duplicate=st.booleans(),
)


def of(command) -> str:
    return fingerprint(msgspec.to_builtins(command))


@given(commands, st.integers(0, 2**62), st.randoms())
def test_repetition_is_the_same_however_it_was_written_and_whenever_it_was_made(
    command, later, rng
):
    again = msgspec.structs.replace(command, created_at_ns=later)
    fields = list(msgspec.to_builtins(again).items())
    rng.shuffle(fields)
    written = {name: value for name, value in fields if value is not None}
    decoded = msgspec.json.decode(json.dumps(written), type=PlaceOrder)
    assert of(decoded) == of(command)


@given(commands, commands)
def test_other_wish_is_another(one, other):
    same = msgspec.structs.replace(other, created_at_ns=one.created_at_ns) == one
    assert (of(one) == of(other)) is same


def test_verbs_of_one_key_are_told_apart():
    cancel = CancelOrder(account="A", task_id="t", created_at_ns=1, order_id="1")
    assert of(cancel) != fingerprint({**msgspec.to_builtins(cancel), "verb": "modify"})


def test_whole_number_is_the_same_with_and_without_a_point():
    assert fingerprint({"price": 100}) == fingerprint({"price": 100.0})


def test_flag_is_not_taken_for_a_number():
    assert fingerprint({"allow_duplicate": True}) != fingerprint({"allow_duplicate": 1})


def test_what_json_cannot_carry_has_no_fingerprint():
    with pytest.raises(ValueError, match="JSON"):
        fingerprint({"price": float("nan")})
