"""Which subscribed instruments do not tick although they should."""

from collections.abc import Set as AbstractSet
from typing import Final

import msgspec
import numpy as np
import numpy.typing as npt

_NEVER: Final = -1
_NS_PER_SECOND: Final = 1_000_000_000

Times = npt.NDArray[np.int64]


class Silent(msgspec.Struct, frozen=True, kw_only=True):
    """The instruments of an account that do not tick; ascending tokens.

    Attributes:
        pending: No tick yet, and none is overdue: not subscribed at the broker yet, still within
            the deadline, or outside the session.
        no_data: Subscribed in session for longer than the deadline, and never a tick.
        stale: Ticked before, but not for long although the session is open.
    """

    pending: tuple[int, ...] = ()
    no_data: tuple[int, ...] = ()
    stale: tuple[int, ...] = ()


class Coverage:
    """When each planned instrument was last heard of, as arrays beside the table of shards.

    Waiting counts from the latest of: subscribed, last ticked, session opened. So nothing is
    overdue at the opening bell, and a night makes nobody stale.

    Times are nanoseconds of one clock that never runs backwards.

    Args:
        no_data_seconds: An instrument without any tick for so long has no data.
        stale_seconds: An instrument whose last tick is older is stale.
    """

    def __init__(self, *, no_data_seconds: float, stale_seconds: float) -> None:
        self._no_data_ns = int(no_data_seconds * _NS_PER_SECOND)
        self._stale_ns = int(stale_seconds * _NS_PER_SECOND)
        self._tokens: Times = np.empty(0, np.int64)
        self._ticked: Times = np.empty(0, np.int64)
        self._subscribed: Times = np.empty(0, np.int64)
        self._opened: dict[int, int] = {}

    def use_tokens(self, tokens: Times) -> None:
        """Take the instruments of a new plan; what is known of those that stay is kept.

        Args:
            tokens: int64[n], ascending: the table whose places `saw` is given.
        """
        ticked = np.full(tokens.size, _NEVER, np.int64)
        subscribed = ticked.copy()
        old, new = self._places(tokens)
        ticked[new] = self._ticked[old]
        subscribed[new] = self._subscribed[old]
        self._tokens, self._ticked, self._subscribed = tokens, ticked, subscribed

    def saw(self, places: Times, at_ns: int) -> None:
        """Note ticks; a few microseconds for hundreds of packets.

        Args:
            places: Where their tokens stand in the table.
            at_ns: When they came.
        """
        self._ticked[places] = at_ns

    def look(self, subscribed: Times, open_segments: AbstractSet[int], at_ns: int) -> Silent:
        """Say who is silent now.

        Args:
            subscribed: int64[m], the tokens that the open connections have asked for.
            open_segments: Low bytes of the tokens that trade now.
            at_ns: Now.
        """
        self._note_subscribed(subscribed, at_ns)
        self._opened = {segment: self._opened.get(segment, at_ns) for segment in open_segments}
        opened_by_segment = np.full(256, _NEVER, np.int64)
        opened_by_segment[list(self._opened)] = list(self._opened.values())
        opened = opened_by_segment[self._tokens & 0xFF]
        is_open = opened != _NEVER
        never = self._ticked == _NEVER
        waiting_ns = at_ns - np.maximum(self._subscribed, opened)
        overdue = (self._subscribed != _NEVER) & is_open & (waiting_ns > self._no_data_ns)
        quiet_ns = at_ns - np.maximum(self._ticked, opened)
        stale = ~never & is_open & (quiet_ns > self._stale_ns)
        return Silent(
            pending=tuple(self._tokens[never & ~overdue].tolist()),
            no_data=tuple(self._tokens[never & overdue].tolist()),
            stale=tuple(self._tokens[stale].tolist()),
        )

    def _note_subscribed(self, subscribed: Times, at_ns: int) -> None:
        places, _ = self._places(subscribed)
        since = np.full(self._tokens.size, _NEVER, np.int64)
        known = self._subscribed[places]
        since[places] = np.where(known == _NEVER, at_ns, known)
        self._subscribed = since

    def _places(self, tokens: Times) -> tuple[Times, Times]:
        """Where in the table each of these stands that it has, and where it stands in `tokens`."""
        if not self._tokens.size:
            none = np.empty(0, np.int64)
            return none, none
        places = np.minimum(self._tokens.searchsorted(tokens), self._tokens.size - 1)
        held = (self._tokens[places] == tokens).nonzero()[0]
        return places[held], held
