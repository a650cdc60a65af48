"""Requests about subscriptions: what they may say, and what becomes of each item."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain.subscription_requests import (
    BULK_MAX,
    BulkClaims,
    Claim,
    Known,
    OutcomeKind,
    Registry,
    RequestedMode,
    Withdrawal,
    accept,
)

KNOWN = [
    Known(instrument_token=t, tradingsymbol=f"S{t}", segment="NFO-OPT", exchange="NFO")
    for t in (1, 2, 3)
]
REGISTRY = Registry(
    by_token={k.instrument_token: k for k in KNOWN},
    by_symbol={(k.exchange, k.tradingsymbol): k for k in KNOWN},
)


def sort(*claims, pins=(), accounts=("a", "b")):
    return accept(claims, REGISTRY, pins=pins, is_account=accounts.__contains__)


def claim(token, **changes):
    return Claim(instrument_token=token, **changes)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"tradingsymbol": "S1"},
        {"exchange": "NFO"},
        {"instrument_token": 1, "exchange": "NFO"},
        {"instrument_token": 1, "subscriber": "*"},
        {"instrument_token": 1, "requested_mode": "ltp"},
        {"instrument_token": 1, "colour": "red"},
        {"instrument_token": -1},
    ],
)
def test_claim_that_is_not_one_is_refused(body):
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(body, Claim)


def test_defaults_are_a_full_unpinned_claim_of_the_default_subscriber():
    found = msgspec.convert({"instrument_token": 1}, Claim)
    assert found == Claim(
        instrument_token=1,
        requested_mode=RequestedMode.FULL,
        account_id=None,
        subscriber="default",
    )


def test_a_withdrawal_may_mean_everybody():
    found = msgspec.convert({"instrument_token": 1, "subscriber": "*"}, Withdrawal)
    assert (found.subscriber, found.requested_mode) == ("*", None)


def test_bulk_is_bounded():
    items = [{"instrument_token": 1}]
    assert len(msgspec.convert({"instruments": items * BULK_MAX}, BulkClaims).instruments) == 9000
    for count in (0, BULK_MAX + 1):
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert({"instruments": items * count}, BulkClaims)


def test_symbol_and_token_name_the_same_claim():
    found = sort(claim(1), Claim(tradingsymbol="S1", exchange="NFO"))
    assert len(found.rows) == 1
    assert found.places[0] == found.places[1]


def test_unknown_instrument_is_rejected_with_its_place():
    found = sort(claim(1), claim(99))
    assert found.outcomes[1].outcome is OutcomeKind.REJECTED
    assert found.outcomes[1].error is not None
    assert "99" in found.outcomes[1].error.message
    assert 0 not in found.outcomes


def test_first_pin_stands_against_other_subscribers():
    found = sort(claim(1, account_id="b", subscriber="y"), pins=[(1, "x", "a")])
    assert found.outcomes[0].error is not None
    assert found.outcomes[0].error.code == "pinned_elsewhere"
    # Its own older pin is no obstacle.
    assert not sort(claim(1, account_id="b", subscriber="x"), pins=[(1, "x", "a")]).outcomes
    # Neither is the same account.
    assert not sort(claim(1, account_id="a", subscriber="y"), pins=[(1, "x", "a")]).outcomes


def test_two_accounts_for_one_subscriber_in_one_request_contradict():
    found = sort(claim(1, account_id="a"), claim(1, account_id="b", requested_mode="LTP"))
    assert found.outcomes[1].error is not None
    assert found.outcomes[1].error.code == "contradiction"


def test_unknown_account_is_rejected():
    found = sort(claim(1, account_id="z"))
    assert found.outcomes[0].error is not None
    assert found.outcomes[0].error.code == "unknown_account"


@given(
    st.lists(
        st.builds(
            Claim,
            instrument_token=st.integers(1, 5),
            requested_mode=st.sampled_from(RequestedMode),
            account_id=st.sampled_from([None, None, "a", "b", "z"]),
            subscriber=st.sampled_from(["x", "y", "z"]),
        ),
        max_size=40,
    ),
    st.lists(st.tuples(st.integers(1, 3), st.sampled_from("xyz"), st.just("a")), max_size=3),
)
def test_every_item_has_one_fate_and_no_instrument_two_accounts(claims, pins):
    found = sort(*claims, pins=pins)
    assert found.outcomes.keys() | found.places.keys() == set(range(len(claims)))
    assert found.outcomes.keys().isdisjoint(found.places)
    pinned: dict[int, set[str]] = {}
    said: dict[tuple[int, str], set[str | None]] = {}
    for row in found.rows:
        if row.account is not None:
            pinned.setdefault(row.instrument_token, set()).add(row.account)
        said.setdefault((row.instrument_token, row.subscriber), set()).add(row.account)
    assert all(len(accounts) == 1 for accounts in pinned.values())
    assert all(len(accounts) == 1 for accounts in said.values())
    keys = [(row.instrument_token, row.mode, row.subscriber) for row in found.rows]
    assert len(keys) == len(set(keys))
