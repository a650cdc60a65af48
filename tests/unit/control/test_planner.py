"""The planner: capacity, pins, stickiness, determinism."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.contracts.messages import StreamMode
from services.control.domain import planner
from services.control.domain.planner import Capacity, Slot
from services.control.domain.windows import Wanted


def want(token, underlying="NIFTY", *, mode=StreamMode.FULL, reason="window", account=None):
    return Wanted(
        instrument_token=token, underlying=underlying, mode=mode, reason=reason, account=account
    )


def account(name, connections=1, tokens=100):
    return Capacity(account=name, connections=connections, tokens_per_connection=tokens)


wanted_lists = st.lists(
    st.builds(
        want,
        st.integers(1, 400),
        st.sampled_from(["NIFTY", "BANKNIFTY", "M&M"]),
        mode=st.sampled_from(StreamMode),
        account=st.sampled_from([None, None, None, "a", "gone"]),
    ),
    max_size=150,
)
account_lists = st.lists(
    st.builds(account, st.sampled_from("abcde"), st.integers(1, 3), st.integers(1, 40)),
    max_size=5,
    unique_by=lambda c: c.account,
)
previous_slots = st.dictionaries(
    st.integers(1, 400), st.builds(Slot, st.sampled_from("abcdef"), st.integers(0, 3)), max_size=100
)


@given(wanted_lists, account_lists, previous_slots)
def test_no_connection_is_overfilled_and_nothing_is_lost(wanted, accounts, previous):
    outcome = planner.plan(wanted, accounts, previous)
    limits = {c.account: c for c in accounts}
    load: dict[Slot, int] = {}
    for token, slot in outcome.slots.items():
        load[slot] = load.get(slot, 0) + 1
        pins = {w.account for w in wanted if w.instrument_token == token and w.account}
        assert not pins or slot.account in pins
    for slot, count in load.items():
        assert slot.connection < limits[slot.account].connections
        assert count <= limits[slot.account].tokens_per_connection
    placed, unplaced = set(outcome.slots), {u.instrument_token for u in outcome.unplaced}
    assert placed.isdisjoint(unplaced)
    assert placed | unplaced == {w.instrument_token for w in wanted}


@given(wanted_lists, account_lists, previous_slots, st.randoms(use_true_random=False))
def test_plan_does_not_depend_on_the_order_of_accounts(wanted, accounts, previous, rng):
    shuffled = accounts[:]
    rng.shuffle(shuffled)
    assert (
        planner.plan(wanted, accounts, previous).slots
        == planner.plan(wanted, shuffled, dict(reversed(previous.items()))).slots
    )


@given(wanted_lists, account_lists)
def test_planning_again_moves_nothing(wanted, accounts):
    first = planner.plan(wanted, accounts, {})
    again = planner.plan(wanted, accounts, first.slots)
    assert again.slots == first.slots


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_one_more_instrument_moves_none(seed):
    rng = random.Random(seed)
    wanted = [want(token, rng.choice("PQR")) for token in range(1, 300)]
    accounts = [account(name, 2, 120) for name in "abc"]
    before = planner.plan(wanted, accounts, {})
    after = planner.plan([*wanted, want(1000)], accounts, before.slots)
    assert {t: s for t, s in after.slots.items() if t != 1000} == before.slots
    assert 1000 in after.slots


def test_lost_account_moves_only_its_own_instruments():
    wanted = [want(token, f"U{token % 7}") for token in range(1, 400)]
    accounts = [account(name, 1, 120) for name in "abcde"]
    before = planner.plan(wanted, accounts, {})
    after = planner.plan(wanted, accounts[:-1], before.slots)
    moved = {t for t, slot in after.slots.items() if slot != before.slots[t]}
    assert moved == {t for t, slot in before.slots.items() if slot.account == "e"}


def test_fresh_accounts_share_the_load():
    wanted = [want(token) for token in range(1, 201)]
    outcome = planner.plan(wanted, [account("a", 1, 3000), account("b", 1, 3000)], {})
    load = [sum(s.account == name for s in outcome.slots.values()) for name in "ab"]
    assert load == [100, 100]


def test_second_connection_opens_when_the_first_is_full():
    outcome = planner.plan([want(token) for token in range(1, 151)], [account("a", 3, 100)], {})
    load = [sum(s.connection == number for s in outcome.slots.values()) for number in range(3)]
    assert load == [100, 50, 0]


def test_highest_mode_and_pin_win_when_an_instrument_is_wanted_twice():
    merged = planner.merge(
        [
            want(1, mode=StreamMode.LTP),
            want(1, mode=StreamMode.QUOTE, account="b", reason="explicit"),
        ]
    )
    assert (merged[1].mode, merged[1].account, merged[1].reason) == (
        StreamMode.QUOTE,
        "b",
        "explicit",
    )


def test_what_does_not_fit_says_why():
    outcome = planner.plan([want(1), want(2), want(3, account="x")], [account("a", 1, 1)], {})
    reasons = {u.instrument_token: u.reason for u in outcome.unplaced}
    assert reasons == {2: "no account has room", 3: "account x is not available"}


@given(wanted_lists, account_lists)
def test_plan_survives_the_way_through_its_messages(wanted, accounts):
    outcome = planner.plan(wanted, accounts, {})
    plans = planner.account_plans(
        outcome, [c.account for c in accounts], revision=1, planned_at_ns=0
    )
    assert planner.slots_of(plans) == outcome.slots
    assert set(plans) == {c.account for c in accounts}
