"""The order of starting, and the time each level has for stopping."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.fleet.domain.ordering import levels, stop_budget_seconds


def test_names_without_requirements_share_the_first_level():
    assert levels({"a": (), "b": (), "c": ("a", "b"), "d": ("c",)}) == [["a", "b"], ["c"], ["d"]]


def test_circle_is_named():
    with pytest.raises(ValueError, match="circle: a, b"):
        levels({"a": ("b",), "b": ("a",), "c": ()})


def test_unknown_requirement_is_named():
    with pytest.raises(ValueError, match="a requires ghost, which does not exist"):
        levels({"a": ("ghost",)})


@given(st.lists(st.sets(st.integers(0, 11)), max_size=12))
def test_everything_stands_after_what_it_requires(edges):
    requires = {
        str(index): tuple(str(other) for other in sorted(others) if other < index)
        for index, others in enumerate(edges)
    }
    place = {name: n for n, level in enumerate(levels(requires)) for name in level}

    assert place.keys() == requires.keys()
    assert all(place[other] < place[name] for name, needed in requires.items() for other in needed)


@given(st.floats(0, 100), st.integers(0, 20))
def test_no_level_takes_the_time_of_those_that_stop_after_it(remaining, levels_left):
    budget = stop_budget_seconds(remaining, levels_left)

    assert 0 <= budget <= remaining
    assert budget >= 0.39 * remaining
    assert levels_left == 0 or budget <= 0.86 * remaining


def test_time_that_is_used_up_leaves_no_budget():
    assert stop_budget_seconds(-1.0, 2) == 0.0
