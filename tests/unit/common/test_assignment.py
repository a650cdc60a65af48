"""Tests of the sharing of resources among members."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.assignment import assign

NAMES = st.text(min_size=1, max_size=8)
RESOURCES = st.sets(NAMES, max_size=40)
MEMBERS = st.sets(NAMES, min_size=1, max_size=8)


@given(RESOURCES, MEMBERS)
def test_every_resource_has_one_live_owner(resources, members):
    owners = assign(resources, members)

    assert set(owners) == resources
    assert set(owners.values()) <= members


@given(RESOURCES, MEMBERS)
def test_loads_differ_by_at_most_one(resources, members):
    loads = Counter(assign(resources, members).values())
    counts = [loads[member] for member in members]

    assert max(counts) - min(counts) <= 1


@given(st.lists(NAMES, max_size=20), st.lists(NAMES, min_size=1, max_size=5), st.randoms())
def test_order_and_repeats_of_the_names_change_nothing(resources, members, rng):
    expected = assign(resources, members)
    rng.shuffle(resources)
    rng.shuffle(members)

    assert assign(resources * 2, members * 2) == expected


@given(RESOURCES)
def test_a_single_member_takes_everything(resources):
    assert assign(resources, ["only"]) == dict.fromkeys(resources, "only")


def test_without_members_nobody_owns_anything():
    assert assign(["a", "b"], []) == {}


def test_the_result_is_the_callers_own_copy():
    assign(["a"], ["m"]).clear()

    assert assign(["a"], ["m"]) == {"a": "m"}


@given(st.integers(1, 64), st.integers(1, 7), st.integers(0, 1_000))
def test_a_member_that_comes_or_goes_moves_little_besides_its_share(count, members, salt):
    resources = [str(number) for number in range(count)]
    before = [f"worker-{salt}-{number}" for number in range(members)]
    few, many = assign(resources, before), assign(resources, [*before, f"worker-{salt}-new"])
    share = -(-count // (members + 1))

    moved = sum(few[resource] != many[resource] for resource in resources)

    # Its share must move; where all are full, one move may push a chain of others.
    assert moved <= 3 * share + members


def test_movement_is_close_to_the_least_possible_on_average():
    resources = [str(number) for number in range(16)]
    moved = least = 0
    for salt in range(200):
        for members in range(1, 6):
            before = [f"w{salt}-{number}" for number in range(members)]
            few, many = assign(resources, before), assign(resources, [*before, f"w{salt}-new"])
            moved += sum(few[resource] != many[resource] for resource in resources)
            least += len(resources) // (members + 1)

    assert moved <= 1.4 * least
