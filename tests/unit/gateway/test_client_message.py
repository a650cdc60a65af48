"""Whatever a client sends gives a message or an error that says what is wrong."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.websocket import (
    Authenticate,
    DeliveryMode,
    Ping,
    Subscribe,
    Unsubscribe,
)
from services.gateway.domain import client_message
from services.gateway.errors import ClientMessageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"action":"subscribe","tokens":[256265,260105]}', Subscribe(tokens=(256265, 260105))),
        ('{"action":"unsubscribe","tokens":[256265]}', Unsubscribe(tokens=(256265,))),
        ('{"action":"ping"}', Ping()),
        ('{"action":"ping","extra":{"any":[1]}}', Ping()),
        ('{"action":"auth","token":"abc"}', Authenticate(token="abc")),
        (
            '{"action":"subscribe","tokens":[],"mode":"batch","interval_ms":20,"snapshot":false}',
            Subscribe(tokens=(), mode=DeliveryMode.BATCH, interval_ms=20, snapshot=False),
        ),
    ],
)
def test_messages_of_the_protocol_are_understood(text, expected):
    assert client_message.read(text.encode()) == expected


@pytest.mark.parametrize(
    ("text", "code", "field"),
    [
        ("", "invalid_json", None),
        ("hello", "invalid_json", None),
        ('{"action":"ping"', "invalid_json", None),
        ('{"action":"ping"} {}', "invalid_json", None),
        ('{"action":"ping","x":' + "[" * 100_000, "invalid_json", None),
        ("null", "invalid_message", None),
        ("[]", "invalid_message", None),
        ('"ping"', "invalid_message", None),
        ("{}", "invalid_message", "action"),
        ('{"tokens":[1]}', "invalid_message", "action"),
        ('{"action":5}', "invalid_message", "action"),
        ('{"action":"buy"}', "unknown_action", "action"),
        ('{"action":"subscribe"}', "invalid_message", "tokens"),
        ('{"action":"subscribe","tokens":null}', "invalid_message", "tokens"),
        ('{"action":"subscribe","tokens":256265}', "invalid_message", "tokens"),
        ('{"action":"subscribe","tokens":["256265"]}', "invalid_message", "tokens[0]"),
        ('{"action":"subscribe","tokens":[1,true]}', "invalid_message", "tokens[1]"),
        ('{"action":"subscribe","tokens":[1.5]}', "invalid_message", "tokens[0]"),
        ('{"action":"subscribe","tokens":[-1]}', "invalid_message", "tokens[0]"),
        ('{"action":"subscribe","tokens":[4294967296]}', "invalid_message", "tokens[0]"),
        ('{"action":"subscribe","tokens":[1],"mode":"fast"}', "invalid_message", "mode"),
        ('{"action":"subscribe","tokens":[1],"interval_ms":1}', "invalid_message", "interval_ms"),
        ('{"action":"subscribe","tokens":[1],"snapshot":1}', "invalid_message", "snapshot"),
        ('{"action":"auth"}', "invalid_message", "token"),
    ],
)
def test_wrong_input_is_named_by_code_and_field(text, code, field):
    with pytest.raises(ClientMessageError) as caught:
        client_message.read(text.encode())
    assert (caught.value.code, caught.value.field) == (code, field)
    assert caught.value.message


@given(st.binary(max_size=200))
def test_any_bytes_give_a_message_or_a_client_error(data):
    with contextlib.suppress(ClientMessageError):
        assert client_message.read(data) is not None


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=5))
def test_any_tokens_give_a_message_or_a_client_error(tokens):
    data = json.dumps({"action": "subscribe", "tokens": tokens}).encode()
    with contextlib.suppress(ClientMessageError):
        assert isinstance(client_message.read(data), Subscribe)


def test_at_most_twenty_unknown_tokens_are_named():
    error = client_message.unknown_tokens(tuple(range(100)))
    assert error.tokens == tuple(range(20))
    assert "and 80 more" in error.message


def test_repeated_tokens_count_once_in_the_order_given():
    assert client_message.distinct([3, 1, 3, 2, 1]) == (3, 1, 2)
