"""Last values: at most once an interval, the newest always in the end."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.greeks.domain.last_values import PHASES, LastValues

SLOTS = 45
steps = st.lists(
    st.lists(st.integers(1, SLOTS - 1), unique=True, min_size=1, max_size=8), max_size=60
)


def payload(slots, number):
    return b"".join(b"%d@%d\n" % (slot, number) for slot in slots)


@given(steps)
def test_newest_value_is_given_out_within_an_interval_and_at_most_once_in_it(batches):
    values = LastValues(SLOTS)
    newest: dict[int, int] = {}
    given_at: dict[int, int] = {}
    for turn in range(len(batches) + PHASES):
        if turn < len(batches):
            slots = batches[turn]
            values.note(np.array(slots), payload(slots, turn))
            newest.update(dict.fromkeys(slots, turn))
        for slot, line in values.take(turn):
            assert line == b"%d@%d" % (slot, newest.pop(slot))
            assert turn - given_at.get(slot, -PHASES) >= PHASES
            given_at[slot] = turn
    assert not newest


def test_what_was_given_out_is_not_given_again():
    values = LastValues(SLOTS)
    values.note(np.array([3, 4]), b"a\nb\n")
    assert [list(values.take(phase)) for phase in (3, 4, 3, 4)] == [
        [(3, b"a")],
        [(4, b"b")],
        [],
        [],
    ]


def test_growing_keeps_what_is_due():
    values = LastValues(4)
    values.note(np.array([3]), b"a\n")
    values.grow(100)
    values.note(np.array([99]), b"z\n")
    assert list(values.take(3)) == [(3, b"a")]
    assert list(values.take(99)) == [(99, b"z")]


def test_forgotten_slot_has_nothing_to_give_and_the_others_do():
    values = LastValues(SLOTS)
    values.note(np.array([1, 2, 3]), payload([1, 2, 3], 0))
    values.forget(np.array([2]))
    assert [slot for slot, _ in values.take_all()] == [1, 3]
    values.note(np.array([2]), payload([2], 1))
    assert list(values.take_all()) == [(2, b"2@1")]


def test_what_changes_between_two_values_is_given_as_it_is_then():
    values = LastValues(SLOTS)
    values.note(np.array([1, 2, 3, 4]), payload([1, 2, 3, 4], 0))
    giving = values.take_all()
    assert next(giving) == (1, b"1@0")
    values.note(np.array([3, 2]), payload([3, 2], 1))
    values.forget(np.array([4]))
    assert list(giving) == [(2, b"2@1"), (3, b"3@1")]


def test_a_bounded_turn_goes_on_where_the_one_before_ended():
    values = LastValues(10 * PHASES)
    slots = np.arange(3, 10 * PHASES, PHASES)
    values.note(slots, b"x\n" * slots.size)
    given = []
    for _ in range(5):
        given += [slot for slot, _ in values.take(3, 4)]
        # Slots that tick all the time must not keep the others waiting.
        values.note(slots[:4], b"x\n" * 4)
    assert given[:10] == slots.tolist()
    assert given[10:12] == slots[:2].tolist()
    assert values.waiting
