"""Rounds and conflation."""

from collections import defaultdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.greeks.domain.batching import every_packet, newest_only

frames = st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=10), max_size=12)


def columns(batch):
    slots = np.array([slot for frame in batch for slot in frame], np.int64)
    names = np.array([i for i, frame in enumerate(batch) for _ in frame], np.int64)
    return slots, names


@given(frames)
def test_every_packet_but_older_ones_of_the_same_frame_is_in_one_round(batch):
    slots, names = columns(batch)
    rounds = every_packet(slots, names)
    rows = np.concatenate(rounds.rows) if rounds.rows else np.empty(0, np.int64)
    kept = {
        (i, slot): j for j, (i, slot) in enumerate(zip(names.tolist(), slots.tolist(), strict=True))
    }
    assert sorted(rows.tolist()) == sorted(kept.values())
    assert rounds.conflated == slots.size - rows.size


@given(frames)
def test_no_instrument_is_twice_in_a_round_and_its_packets_keep_their_order(batch):
    slots, names = columns(batch)
    history = defaultdict(list)
    last_frame = -1
    for rows in every_packet(slots, names).rows:
        assert rows.size
        assert np.unique(slots[rows]).size == rows.size
        assert (np.diff(rows) > 0).all()
        assert names[rows].min() > last_frame
        last_frame = int(names[rows].max())
        for row in rows.tolist():
            history[int(slots[row])].append(row)
    for rows_of_slot in history.values():
        assert rows_of_slot == sorted(rows_of_slot)


def test_frames_without_a_common_instrument_are_worked_on_together():
    slots, names = columns([[1, 2], [3], [4, 5], [1]])
    assert [rows.tolist() for rows in every_packet(slots, names).rows] == [[0, 1, 2, 3, 4], [5]]


@given(frames)
def test_conflation_keeps_the_newest_packet_of_each_instrument_and_counts_the_rest(batch):
    slots, _ = columns(batch)
    rounds = newest_only(slots)
    newest = {slot: row for row, slot in enumerate(slots.tolist())}
    rows = rounds.rows[0].tolist() if rounds.rows else []
    assert rows == sorted(newest.values())
    assert rounds.conflated == slots.size - len(rows)
