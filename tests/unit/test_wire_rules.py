"""The rules that lines of the wire are held against do find what is wrong."""

import json

import pytest

from tests.fakes.wire_rules import GREEKS, problems_of

GOOD = {
    "instrument_token": 1, "kind": "option", "last_price": 10.0, "bid": 9.95, "ask": None,
    "iv": 0.15, "bid_iv": 0.14, "ask_iv": None, "smile_iv": 0.15, "delta": 0.5, "gamma": 0.001,
    "theta": -3.0, "vega": 5.0, "rho": -0.01, "iv_status": "ok", "greeks_from": "iv",
}  # fmt: skip
BLANK = dict.fromkeys(("iv", *GREEKS, "greeks_from"))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {**BLANK, "iv_status": "no_price"},
        {"iv": None, "iv_status": "below_intrinsic", "greeks_from": "smile_iv"},
        {**BLANK, "iv_status": None, "kind": "future"},
    ],
)
def test_a_good_line_has_no_problems(change):
    assert problems_of(json.dumps(GOOD | change).encode()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"iv": float("nan")},
        {"theta": float("-inf")},
        {"iv": 0.0},
        {"bid_iv": 0},
        {"vega": 0.0},
        {"last_price": 0.0},
        {"bid": -1.0},
        {"iv_status": None},
        {"iv_status": "no_price"},
        {"iv": None},
        {"gamma": None},
        {"greeks_from": None},
        {**BLANK, "iv_status": "expired", "greeks_from": "iv"},
        {"iv": None, "iv_status": "expiring", "greeks_from": "smile_iv"},
        {"kind": "future"},
        {"depth": {"buy": [{"price": float("inf")}]}},
    ],
    ids=str,
)
def test_a_line_that_lies_is_found(change):
    assert problems_of(json.dumps(GOOD | change).encode())


def test_a_number_beyond_float64_is_found():
    assert problems_of(b'{"instrument_token": 1, "change": 1e999}')


def test_entries_of_a_chain_are_held_against_the_same_rules():
    columns = {name: [value, value] for name, value in GOOD.items()}
    del columns["kind"]
    good = {"calls": columns, "puts": columns, "smile_iv": [0.15, None]}
    assert problems_of(json.dumps(good).encode()) == []
    for name, value in {"iv": [0.15, 0.0], "rho": [None, -1.0]}.items():
        bad = {"calls": columns, "puts": columns | {name: value}}
        assert problems_of(json.dumps(bad).encode())
    unlisted = {name: [None] for name in columns}
    assert problems_of(json.dumps({"calls": unlisted}).encode()) == []
