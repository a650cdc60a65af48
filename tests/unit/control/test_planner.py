"""The planner: capacity, pins, pricers, priority, stickiness, homes, determinism."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.contracts import codec
from libs.common.contracts.messages import AccountPlan, StreamMode
from services.control.domain import planner
from services.control.domain.planner import Capacity, Cause, Slot
from services.control.domain.windows import Wanted


def want(
    token,
    underlying="NIFTY",
    *,
    mode=StreamMode.FULL,
    reason="window",
    account=None,
    needs=(),
    distance=0,
):
    return Wanted(
        instrument_token=token,
        underlying=underlying,
        mode=mode,
        reason=reason,
        account=account,
        needs=tuple(needs),
        distance=distance,
    )


def account(name, connections=1, tokens=100):
    return Capacity(account=name, connections=connections, tokens_per_connection=tokens)


wanted_lists = st.lists(
    st.builds(
        want,
        st.integers(1, 400),
        st.sampled_from(["NIFTY", "BANKNIFTY", "M&M"]),
        mode=st.sampled_from(StreamMode),
        reason=st.sampled_from(["explicit", "window", "priced_with"]),
        account=st.sampled_from([None, None, None, "a", "gone"]),
        needs=st.lists(st.integers(1, 400), max_size=3),
        distance=st.integers(0, 10),
    ),
    max_size=150,
)
account_lists = st.lists(
    st.builds(account, st.sampled_from("abcde"), st.integers(1, 3), st.integers(1, 40)),
    max_size=5,
    unique_by=lambda c: c.account,
)
previous_slots = st.dictionaries(
    st.integers(1, 400),
    st.builds(
        Slot,
        st.sampled_from("abcdef"),
        st.integers(0, 3),
        st.sampled_from([None, None, "a", "f", "gone"]),
    ),
    max_size=100,
)
absent = st.sets(st.sampled_from("abcf"), max_size=2)


def places(outcome):
    """Where everything is, whoever's home it is."""
    return {token: (slot.account, slot.connection) for token, slot in outcome.slots.items()}


@given(wanted_lists, account_lists, previous_slots, absent, absent)
def test_no_connection_is_overfilled_and_nothing_is_lost(
    wanted, accounts, previous, lost, returning
):
    outcome = planner.plan(wanted, accounts, previous, lost=lost, returning=returning - lost)
    limits = {c.account: c for c in accounts if c.account not in lost}
    load: dict[tuple[str, int], int] = {}
    for place in places(outcome).values():
        load[place] = load.get(place, 0) + 1
    for (name, connection), count in load.items():
        assert connection < limits[name].connections
        assert count <= limits[name].tokens_per_connection
    placed, unplaced = set(outcome.slots), {u.instrument_token for u in outcome.unplaced}
    assert placed.isdisjoint(unplaced)
    assert placed | unplaced == {w.instrument_token for w in wanted}
    assert len(unplaced) == len(outcome.unplaced)
    assert set(outcome.stranded) <= unplaced
    assert all(slot.account in lost for slot in outcome.stranded.values())
    assert all(slot.home != slot.account for slot in outcome.slots.values())


@given(wanted_lists, account_lists, previous_slots)
def test_pins_hold_unless_others_need_the_instrument_elsewhere(wanted, accounts, previous):
    outcome = planner.plan(wanted, accounts, previous)
    needed = {n for w in wanted for n in w.needs}
    unbound = needed | {w.instrument_token for w in wanted if w.account is None}
    for token, slot in outcome.slots.items():
        pins = {w.account for w in wanted if w.instrument_token == token and w.account}
        assert not pins or slot.account in pins or token in unbound


@given(wanted_lists, account_lists, previous_slots)
def test_what_is_streamed_is_streamed_with_what_prices_it(wanted, accounts, previous):
    outcome = planner.plan(wanted, accounts, previous)
    exist = {w.instrument_token for w in wanted}
    for token in outcome.slots:
        assert set(outcome.wanted[token].needs) & exist <= set(outcome.slots)


@given(wanted_lists, account_lists, previous_slots, st.randoms(use_true_random=False))
def test_plan_does_not_depend_on_any_order(wanted, accounts, previous, rng):
    # One entry per instrument: of several, the first decides the underlying.
    wanted = list({w.instrument_token: w for w in wanted}.values())
    shuffled, wishes = accounts[:], wanted[:]
    rng.shuffle(shuffled)
    rng.shuffle(wishes)
    one = planner.plan(wanted, accounts, previous)
    two = planner.plan(wishes, shuffled, dict(reversed(previous.items())))
    assert (one.slots, one.unplaced) == (two.slots, two.unplaced)


@given(wanted_lists, account_lists, absent, absent)
def test_planning_again_moves_nothing(wanted, accounts, lost, returning):
    first = planner.plan(wanted, accounts, {}, lost=lost, returning=returning)
    again = planner.plan(wanted, accounts, first.slots, lost=lost, returning=returning)
    assert again.slots == first.slots


@given(
    st.lists(st.integers(1, 300), min_size=1, max_size=60, unique=True),
    st.lists(st.integers(301, 600), max_size=200, unique=True),
    st.integers(1, 120),
)
def test_explicit_comes_before_windows_and_windows_from_the_money_outwards(asked, near, room):
    wanted = [want(token, reason="explicit") for token in asked]
    wanted += [want(token, distance=token % 11) for token in near]
    outcome = planner.plan(wanted, [account("a", 1, room)], {})
    placed = outcome.slots.keys()
    if any(u.instrument_token in asked for u in outcome.unplaced):
        assert not placed & set(near)
    farthest = max((token % 11 for token in placed & set(near)), default=0)
    left_out = [token % 11 for token in near if token not in placed]
    assert all(distance >= farthest for distance in left_out)
    assert len(placed) == min(room, len(wanted))


@settings(max_examples=30)
@given(st.integers(0, 2**32))
def test_one_more_instrument_moves_none(seed):
    rng = random.Random(seed)
    wanted = [want(token, rng.choice("PQR"), distance=rng.randint(0, 9)) for token in range(1, 300)]
    accounts = [account(name, 2, 120) for name in "abc"]
    before = planner.plan(wanted, accounts, {})
    after = planner.plan([*wanted, want(1000)], accounts, before.slots)
    assert {t: s for t, s in after.slots.items() if t != 1000} == before.slots
    assert 1000 in after.slots


def test_one_more_explicit_instrument_takes_the_place_farthest_from_the_money():
    wanted = [want(token, distance=token) for token in range(1, 11)]
    accounts = [account("a", 1, 10)]
    before = planner.plan(wanted, accounts, {})
    after = planner.plan([*wanted, want(99, reason="explicit")], accounts, before.slots)
    assert after.slots.keys() == {*range(1, 10), 99}
    assert [(u.instrument_token, u.cause) for u in after.unplaced] == [(10, Cause.NO_ROOM)]
    assert all(after.slots[t] == before.slots[t] for t in range(1, 10))


def test_newcomer_of_equal_rank_does_not_drive_anybody_out():
    accounts = [account("a", 1, 5)]
    before = planner.plan([want(t, reason="explicit") for t in range(10, 15)], accounts, {})
    more = [want(t, reason="explicit") for t in range(1, 15)]
    assert planner.plan(more, accounts, before.slots).slots == before.slots


def test_pricers_are_placed_before_what_they_price():
    wanted = [
        want(1, reason="explicit", needs=(50, 51)),
        want(2, reason="explicit", needs=(50, 51)),
        want(50, reason="priced_with"),
        want(51, reason="priced_with"),
    ]
    outcome = planner.plan(wanted, [account("a", 1, 3)], {})
    assert outcome.slots.keys() == {1, 50, 51}
    assert outcome.unplaced[0].reason == "no account has room"


def test_an_option_is_not_streamed_unpriced_and_says_so():
    wanted = [
        want(1, reason="explicit", needs=(50, 51)),
        want(50, reason="priced_with"),
        want(51, reason="priced_with"),
        want(2, reason="explicit"),
    ]
    outcome = planner.plan(wanted, [account("a", 1, 3)], {2: Slot("a", 0)})
    assert 1 not in outcome.slots
    found = {u.instrument_token: u for u in outcome.unplaced}
    assert found[1].cause is Cause.UNPRICED
    assert "the 2 instruments that price it" in found[1].reason


def test_an_index_pinned_to_a_missing_account_still_prices_the_window():
    wanted = [
        want(1, reason="explicit", account="gone"),
        want(1, reason="priced_with"),
        want(2, needs=(1,)),
    ]
    outcome = planner.plan(wanted, [account("a")], {})
    assert outcome.slots == {1: Slot("a", 0), 2: Slot("a", 0)}


def test_pinned_instrument_takes_the_place_of_one_that_can_go_elsewhere():
    wanted = [want(token, distance=token) for token in range(1, 11)]
    accounts = [account("a", 1, 10), account("b", 1, 10)]
    before = {token: Slot("a", 0) for token in range(1, 11)}
    outcome = planner.plan([*wanted, want(99, reason="explicit", account="a")], accounts, before)
    assert outcome.slots[99].account == "a"
    assert {t for t, slot in outcome.slots.items() if slot.account == "b"} == {10}


def test_lost_account_moves_only_its_own_instruments_and_they_remember_it():
    wanted = [want(token, f"U{token % 7}") for token in range(1, 400)]
    accounts = [account(name, 1, 120) for name in "abcde"]
    before = planner.plan(wanted, accounts, {})
    after = planner.plan(wanted, accounts[:-1], before.slots, lost={"e"})
    moved = {t for t, slot in after.slots.items() if slot != before.slots[t]}
    assert moved == {t for t, slot in before.slots.items() if slot.account == "e"}
    assert {after.slots[t].home for t in moved} == {"e"}
    assert after.away == len(moved)


def test_account_that_is_back_gets_nothing_until_it_has_proved_well_and_then_all_in_batches():
    wanted = [want(token) for token in range(1, 301)]
    accounts = [account(name, 1, 300) for name in "abc"]
    start = planner.plan(wanted, accounts, {})
    away = planner.plan(wanted, accounts, start.slots, lost={"c"})
    held = planner.plan(wanted, accounts, away.slots, returning={"c"})
    assert held.slots == away.slots

    batches, now = [], held
    while now.away:
        now = planner.plan(wanted, accounts, now.slots, return_batch=40)
        batches.append(now.returned)
    assert batches == [40, 40, 20]
    assert {t: s.account for t, s in now.slots.items()} == {
        t: s.account for t, s in start.slots.items()
    }


def test_nobody_goes_home_without_a_budget():
    wanted = [want(1)]
    outcome = planner.plan(
        wanted, [account("a"), account("b")], {1: Slot("b", 0, "a")}, return_batch=0
    )
    assert outcome.slots == {1: Slot("b", 0, "a")}


def test_home_outlives_a_second_loss():
    previous = {1: Slot("b", 0, "a")}
    accounts = [account("c")]
    outcome = planner.plan([want(1)], accounts, previous, lost={"a", "b"})
    assert outcome.slots == {1: Slot("c", 0, "a")}
    # And when the first home is back at that moment, it goes there at once.
    both = [account("a"), account("c")]
    outcome = planner.plan([want(1)], both, previous, lost={"b"}, return_batch=0)
    assert outcome.slots == {1: Slot("a", 0)}


def test_home_that_is_no_longer_configured_is_forgotten():
    outcome = planner.plan([want(1)], [account("b")], {1: Slot("b", 0, "removed")})
    assert outcome.slots == {1: Slot("b", 0)}


def test_account_in_its_hold_down_takes_what_has_no_other_place():
    wanted = [want(token) for token in range(1, 151)]
    outcome = planner.plan(wanted, [account("a"), account("b")], {}, returning={"a"})
    load = [sum(s.account == name for s in outcome.slots.values()) for name in "ab"]
    assert load == [50, 100]


def test_what_nobody_else_can_take_stays_with_the_lost_account():
    wanted = [want(token) for token in range(1, 151)]
    accounts = [account("a"), account("b")]
    before = planner.plan(wanted, accounts, {})
    after = planner.plan(wanted, accounts, before.slots, lost={"b"})
    assert len(after.slots) == 100
    assert len(after.stranded) == 50
    assert {u.cause for u in after.unplaced} == {Cause.ACCOUNT_LOST}
    plans = planner.account_plans(after, ["a", "b"], revision=2, planned_at_ns=0)
    assert (plans["a"].total, plans["b"].total) == (100, 50)
    # The account is back: they are there already, nothing has to move.
    again = planner.plan(wanted, accounts, planner.slots_of(plans), returning={"b"})
    assert len(again.slots) == 150
    assert all(again.slots[t].account == "b" for t in after.stranded)


def test_lost_account_keeps_an_empty_entry():
    outcome = planner.plan([want(1)], [account("a")], {}, lost={"b"})
    plans = planner.account_plans(outcome, ["a", "b"], revision=1, planned_at_ns=0)
    assert plans["b"].connections == ()


def test_fresh_accounts_share_the_load():
    wanted = [want(token) for token in range(1, 201)]
    outcome = planner.plan(wanted, [account("a", 1, 3000), account("b", 1, 3000)], {})
    load = [sum(s.account == name for s in outcome.slots.values()) for name in "ab"]
    assert load == [100, 100]


def test_second_connection_opens_when_the_first_is_full():
    outcome = planner.plan([want(token) for token in range(1, 151)], [account("a", 3, 100)], {})
    load = [sum(s.connection == number for s in outcome.slots.values()) for number in range(3)]
    assert load == [100, 50, 0]


def test_highest_mode_pin_needs_and_least_distance_win_when_wanted_twice():
    merged = planner.merge(
        [
            want(1, mode=StreamMode.LTP, needs=(5,), distance=4),
            want(1, mode=StreamMode.QUOTE, account="b", reason="explicit", needs=(6,), distance=0),
        ]
    )
    assert merged[1] == want(
        1, mode=StreamMode.QUOTE, account="b", reason="explicit", needs=(5, 6), distance=0
    )


@pytest.mark.parametrize(("lost", "cause"), [((), Cause.PIN_UNKNOWN), (("x",), Cause.PIN_LOST)])
def test_what_does_not_fit_says_why(lost, cause):
    pinned = want(3, account="x", reason="explicit")
    full = [want(4, account="a", reason="explicit"), want(5, account="a", reason="explicit")]
    outcome = planner.plan(
        [want(1), pinned, *full], [account("a", 1, 1), account("b", 1, 0)], {}, lost=lost
    )
    causes = {u.instrument_token: u.cause for u in outcome.unplaced}
    assert causes == {1: Cause.NO_ROOM, 3: cause, 5: Cause.PIN_FULL}
    assert "x" in outcome.unplaced[0].reason
    assert cause.passes == bool(lost)


@given(wanted_lists, account_lists, previous_slots, absent)
def test_plan_survives_the_way_through_its_messages(wanted, accounts, previous, lost):
    outcome = planner.plan(wanted, accounts, previous, lost=lost)
    names = {c.account for c in accounts} | lost
    plans = planner.account_plans(outcome, names, revision=1, planned_at_ns=0)
    wire = {
        name: codec.from_json(AccountPlan, codec.to_json(entry)) for name, entry in plans.items()
    }
    assert planner.slots_of(wire) == {**outcome.slots, **outcome.stranded}
    assert set(plans) == names
