"""Cuts what was fetched into rounds in which every instrument has at most one packet."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


class Rounds(NamedTuple):
    """Packets in the order in which they are worked on.

    Attributes:
        rows: Positions of packets, one array per round; rounds follow one another in time.
        conflated: How many packets a newer one of the same instrument made obsolete.
    """

    rows: list[Ints]
    conflated: int


def newest_only(slots: Ints) -> Rounds:
    """Keep the newest packet of every instrument: for a reader that is behind.

    Args:
        slots: Slot of every packet, oldest first [n].
    """
    rows = np.sort(_last_of_each(slots))
    return Rounds([rows] if rows.size else [], slots.size - rows.size)


def every_packet(slots: Ints, frames: Ints) -> Rounds:
    """Keep every packet; frames that share no instrument are worked on together.

    The packets of one instrument within one frame came at one moment: the newest stays.

    Args:
        slots: Slot of every packet, oldest first [n].
        frames: Index of the frame of every packet, ascending [n].
    """
    if not slots.size:
        return Rounds([], 0)
    # The frame in which each packet's instrument was seen before: a stable sort by slot puts an
    # instrument's packets next to one another, oldest first.
    order = np.argsort(slots, kind="stable")
    sorted_slots, sorted_frames = slots[order], frames[order]
    repeated = sorted_slots[1:] == sorted_slots[:-1]
    before = np.full(slots.size, -1)
    before[order[1:]] = np.where(repeated, sorted_frames[:-1], -1)
    obsolete = np.zeros(slots.size, np.bool_)
    obsolete[order[:-1]] = repeated & (sorted_frames[1:] == sorted_frames[:-1])
    starts = np.concatenate(([0], np.flatnonzero(frames[1:] != frames[:-1]) + 1))
    # Per frame the newest earlier frame with which it shares an instrument.
    before[before == frames] = -1
    shared = np.maximum.reduceat(before, starts)
    rounds = [
        np.flatnonzero(~obsolete[first:last]) + first
        for first, last in _spans(starts.tolist(), frames[starts].tolist(), shared.tolist(), slots)
    ]
    return Rounds(rounds, int(np.count_nonzero(obsolete)))


def _spans(
    starts: list[int], names: list[int], shared: list[int], slots: Ints
) -> Iterator[tuple[int, int]]:
    """First and end position of every round."""
    first, first_frame = 0, names[0]
    for start, name, clash in zip(starts, names, shared, strict=True):
        if clash >= first_frame:
            yield first, start
            first, first_frame = start, name
    yield first, slots.size


def _last_of_each(slots: Ints) -> Ints:
    """Position of the last packet of every slot, in no order."""
    if not slots.size:
        return np.empty(0, np.int64)
    order = np.argsort(slots, kind="stable")
    ends = np.concatenate((np.flatnonzero(np.diff(slots[order])), [slots.size - 1]))
    newest: Ints = order[ends]
    return newest
