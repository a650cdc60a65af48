"""Faults that wait for their occasion: at most a hundred, each until its time or count is up."""

from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from services.simulator.errors import FaultError

_AT_MOST: Final = 100


class Entry(Protocol):
    """A fault in force."""

    @property
    def id(self) -> int:
        """Its number."""

    @property
    def until_seconds(self) -> float | None:
        """Its end on the monotonic clock, None for no end."""

    @property
    def is_used_up(self) -> bool:
        """Whether it has struck as often as it may."""


E = TypeVar("E", bound=Entry)


class FaultsInForce(Generic[E]):
    """Faults by number, oldest first.

    Args:
        monotonic_seconds: Elapsed real time.
    """

    def __init__(self, monotonic_seconds: Callable[[], float]) -> None:
        self._now = monotonic_seconds
        self._entries: dict[int, E] = {}

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to look through, as on nearly every request."""
        return not self._entries

    def get(self, number: int) -> E | None:
        """The fault of a number, if it still waits."""
        return self._entries.get(number)

    def end_of(self, seconds: float | None) -> float | None:
        """When a fault of so many seconds ends, if it begins now.

        Raises:
            FaultError: There is no room for another one.
        """
        if len(self.active()) >= _AT_MOST:
            raise FaultError("kind", f"{_AT_MOST} faults are in force; delete some first")
        return None if seconds is None else self._now() + seconds

    def put(self, entry: E) -> None:
        """Put a fault into force."""
        self._entries[entry.id] = entry

    def remove(self, number: int | None) -> int:
        """Lift one fault, or all; give how many were lifted."""
        doomed = [entry.id for entry in self.active() if number is None or entry.id == number]
        for key in doomed:
            del self._entries[key]
        return len(doomed)

    def active(self) -> list[E]:
        """Give the faults in force, oldest first; what is over is forgotten."""
        now = self._now()
        for entry in list(self._entries.values()):
            over = entry.until_seconds is not None and entry.until_seconds <= now
            if over or entry.is_used_up:
                del self._entries[entry.id]
        return list(self._entries.values())
