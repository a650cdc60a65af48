"""When each client in batch mode is due: a timing wheel that spreads clients over its slots."""

from typing import Generic, TypeVar

SLOT_MS = 10

T = TypeVar("T")


class FlushWheel(Generic[T]):
    """Calls (hashable) members in turn, each about every `interval_ms`, few at a time.

    A hashed timing wheel (Varghese and Lauck, 1987) with one slot per 10 ms and one turn per
    second, so that joining, leaving and advancing cost the same however many members there are.
    """

    def __init__(self, *, span_ms: int = 1000) -> None:
        self._slots: list[dict[T, int]] = [{} for _ in range(span_ms // SLOT_MS + 1)]
        self._slot_of: dict[T, int] = {}
        self._position = 0
        self._spread = 0

    def __len__(self) -> int:
        return len(self._slot_of)

    def join(self, member: T, interval_ms: int) -> None:
        """Add a member, or change its interval.

        The first turn comes at any time within the interval: consecutive members get different
        slots, so that clients that come together are not written to together.

        Raises:
            ValueError: If the interval is not between one slot and one turn of the wheel.
        """
        steps = interval_ms // SLOT_MS
        if not 1 <= steps < len(self._slots):
            raise ValueError(f"interval_ms must be {SLOT_MS} to {(len(self._slots) - 1) * SLOT_MS}")
        self.leave(member)
        self._spread += 1
        self._place(member, steps, 1 + self._spread % steps)

    def leave(self, member: T) -> None:
        """Remove a member; unknown ones are ignored."""
        slot = self._slot_of.pop(member, None)
        if slot is not None:
            del self._slots[slot][member]

    def advance(self) -> list[T]:
        """Move by one slot and give the members that are due; each is placed for its next turn."""
        self._position = (self._position + 1) % len(self._slots)
        due = self._slots[self._position]
        self._slots[self._position] = {}
        for member, steps in due.items():
            self._place(member, steps, steps)
        return list(due)

    def _place(self, member: T, steps: int, ahead: int) -> None:
        slot = (self._position + ahead) % len(self._slots)
        self._slots[slot][member] = steps
        self._slot_of[member] = slot
