"""Which last values are due: the newest tick of every instrument, at most once an interval."""

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

PHASES: Final = 20
"""An interval has so many turns; in each, one slot in twenty may be written. That spreads the
writes evenly, and no instrument needs a timer of its own."""


class Lines:
    """The lines of one tick message, cut apart only when one of them is asked for.

    Args:
        payload: Newline-delimited JSON with a newline at the end.
    """

    __slots__ = ("_ends", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self._ends: list[int] | None = None

    def line(self, row: int) -> bytes:
        """One line without its newline."""
        if self._ends is None:
            found = np.flatnonzero(np.frombuffer(self.payload, np.uint8) == ord("\n"))
            self._ends = found.tolist()
        start = self._ends[row - 1] + 1 if row else 0
        return self.payload[start : self._ends[row]]


class LastValues:
    """The newest unwritten tick of every slot.

    A slot's newest value is given out within one interval (the trailing edge) by a caller who takes
    all, and no slot is given out twice within one. Only a reference to the message is kept until
    then, so a tick that is soon followed by another costs nothing. What was given out stays known
    as the slot's newest line until another tick is made.
    """

    def __init__(self, capacity: int) -> None:
        self._lines: npt.NDArray[np.object_] = np.full(capacity, None, dtype=np.object_)
        self._given: npt.NDArray[np.object_] = np.full(capacity, None, dtype=np.object_)
        self._row: Ints = np.zeros(capacity, np.int64)
        self._due: npt.NDArray[np.bool_] = np.zeros(capacity, np.bool_)
        # By phase, the slot at which the last turn ended.
        self._after: Ints = np.full(PHASES, -1)

    @property
    def waiting(self) -> int:
        """How many are due, in whatever turn."""
        return int(np.count_nonzero(self._due))

    def grow(self, capacity: int) -> None:
        """Make room for more slots."""
        extra = capacity - self._due.size
        if extra > 0:
            nothing = np.full(extra, None, dtype=np.object_)
            self._lines = np.concatenate((self._lines, nothing))
            self._given = np.concatenate((self._given, nothing))
            self._row = np.concatenate((self._row, np.zeros(extra, np.int64)))
            self._due = np.concatenate((self._due, np.zeros(extra, np.bool_)))

    def note(self, slots: Ints, payload: bytes) -> None:
        """A message was made of these slots, one line each, in this order."""
        self._lines[slots] = Lines(payload)
        self._row[slots] = np.arange(slots.size)
        self._due[slots] = True

    def forget(self, slots: Ints) -> None:
        """These slots hold other contracts now: what was noted of the old ones is not theirs."""
        self._lines[slots] = None
        self._given[slots] = None
        self._due[slots] = False

    def newest(self, slot: int) -> bytes | None:
        """The newest line of a slot without its newline, given out or not; None if it has none."""
        lines: Lines | None = self._lines[slot]
        if lines is None:
            given: bytes | None = self._given[slot]
            return given
        return lines.line(int(self._row[slot]))

    def take(self, phase: int, at_most: int | None = None) -> Iterator[tuple[int, bytes]]:
        """Give out what is due in a turn, as (slot, line).

        Args:
            phase: Counts the turns up; there are `PHASES` in an interval.
            at_most: So many; the next turn of this phase goes on where this one ended. None: all.
        """
        first = phase % PHASES
        due = np.flatnonzero(self._due[first::PHASES]) * PHASES + first
        if at_most is not None and due.size > at_most:
            start = int(due.searchsorted(self._after[first], side="right"))
            due = np.concatenate((due[start:], due[:start]))[:at_most]
            if due.size:
                self._after[first] = due[-1]
        yield from self._give(due)

    def take_all(self) -> Iterator[tuple[int, bytes]]:
        """Give out everything that is due: the owner leaves."""
        yield from self._give(np.flatnonzero(self._due))

    def _give(self, slots: Ints) -> Iterator[tuple[int, bytes]]:
        for slot in slots.tolist():
            # Looked up one by one: between two of them the caller may wait, and ticks are noted
            # or forgotten meanwhile.
            if not self._due[slot]:
                continue
            line = self._lines[slot].line(int(self._row[slot]))
            self._lines[slot] = None
            # The line alone: the whole message would be kept for as long as this slot is quiet.
            self._given[slot] = line
            self._due[slot] = False
            yield slot, line
