"""Postbacks: only who knows the app's secret can make one."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.orders.desk_requests import is_genuine

SECRET = "secret"


def body(order_id="1", stamp="2026-11-25 10:00:00", secret=SECRET):
    checksum = hashlib.sha256(f"{order_id}{stamp}{secret}".encode()).hexdigest()
    return {"order_id": order_id, "order_timestamp": stamp, "checksum": checksum}


def test_checksum_of_number_time_and_secret_is_genuine():
    assert is_genuine(body(), SECRET)
    assert is_genuine(body() | {"checksum": body()["checksum"].upper()}, SECRET)


@pytest.mark.parametrize(
    "forged",
    [
        body(secret="guess"),
        body() | {"order_id": "2"},
        body() | {"order_timestamp": "2026-11-25 10:00:01"},
        body() | {"checksum": ""},
        body() | {"checksum": None},
        body() | {"checksum": "ü" * 64},
        body() | {"order_id": 1},
        {"checksum": body()["checksum"]},
        [],
        None,
        "text",
    ],
)
def test_everything_else_is_not(forged):
    assert not is_genuine(forged, SECRET)


@given(st.dictionaries(st.sampled_from(["order_id", "order_timestamp", "checksum"]), st.text()))
def test_any_body_is_answered(posted):
    assert is_genuine(posted, SECRET) in {True, False}
