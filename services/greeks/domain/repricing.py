"""Which options must be priced anew although no packet of theirs came, and which of them first."""

from typing import Final

import numpy as np
import numpy.typing as npt

from services.greeks.domain.expiry_terms import ExpiryTerms
from services.greeks.domain.forward import Forwards
from services.greeks.domain.instrument_table import InstrumentTable

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Codes = npt.NDArray[np.uint8]

MAX_AGE_SECONDS: Final = 60.0
"""Market time after which theta and time to expiry of a quiet option are told anew, even though
nothing moved."""
EXPIRING_SECONDS: Final = 60.0
"""An option with less left is `expiring`."""

_NS_PER_SECOND: Final = 1_000_000_000
_STALE: Final = np.uint8(0x80)
"""Marks the source code of a forward that nothing fresh supports."""
_EXPIRED: Final = 2


class Repricing:
    """What every option was priced with last, by slot; everything else follows by comparison.

    Args:
        capacity: Slots.
        interval_seconds: An option is not priced anew earlier after it was priced.
    """

    __slots__ = ("_at_s", "_forward", "_interval_ns", "_priced_ns", "_support")

    def __init__(self, capacity: int, interval_seconds: float) -> None:
        self._interval_ns = int(interval_seconds * _NS_PER_SECOND)
        self._forward: Floats = np.full(capacity, np.nan)
        self._support: Codes = np.zeros(capacity, np.uint8)
        # NaN: nothing is held of the slot; -inf: nothing of it was published in this term.
        self._at_s: Floats = np.full(capacity, np.nan)
        self._priced_ns: Ints = np.zeros(capacity, np.int64)

    def grow(self, capacity: int) -> None:
        """Make room for more slots."""
        extra = capacity - self._at_s.size
        if extra > 0:
            self._forward = np.concatenate((self._forward, np.full(extra, np.nan)))
            self._support = np.concatenate((self._support, np.zeros(extra, np.uint8)))
            self._at_s = np.concatenate((self._at_s, np.full(extra, np.nan)))
            self._priced_ns = np.concatenate((self._priced_ns, np.zeros(extra, np.int64)))

    def note(
        self,
        slots: Ints,
        *,
        forward: Floats,
        source: Codes,
        is_stale: Bools,
        at_s: Floats | float,
        now_ns: int,
    ) -> None:
        """Options were priced; of a slot that comes several times the last counts.

        Args:
            slots: [n].
            forward: Rupees [n], NaN for none.
            source: Code into `forward.SOURCES` [n].
            is_stale: Whether nothing fresh supported the forward [n].
            at_s: The moment each was priced for, epoch seconds at the exchange, [n] or one.
            now_ns: The worker's clock.
        """
        self._forward[slots] = forward
        self._support[slots] = _support(source, is_stale)
        self._at_s[slots] = at_s
        self._priced_ns[slots] = now_ns

    def forget(self, slots: Ints | slice = slice(None)) -> None:
        """What is held of these slots is another market's or another contract's."""
        self._at_s[slots] = np.nan

    def owe(self, slots: Ints) -> None:
        """What is held of these slots was not published: it is due."""
        self._at_s[slots[~np.isnan(self._at_s[slots])]] = -np.inf

    def due(
        self,
        table: InstrumentTable,
        forwards: Forwards,
        terms: ExpiryTerms,
        market_s: float,
        now_ns: int,
        *,
        among: Ints | None = None,
    ) -> Ints:
        """Slots of the options that must be priced anew now, longest waiting first.

        These are options of which a packet is held, that were not yet priced as expired, were
        priced at least the interval ago, and for which one of these holds: their forward moved,
        appeared, or became fresh or stale; their last minute, their end or the making of their
        settlement price began; they were priced for a moment `MAX_AGE_SECONDS` ago.

        Args:
            table: The instruments.
            forwards: Of every expiry.
            terms: When the settlement price of each is made.
            market_s: Market time, epoch seconds.
            now_ns: The clock of `note`. One that is set back by more than the interval makes
                nobody wait.
            among: Only these slots are asked about; all if None.
        """
        asked: Ints | slice = slice(None) if among is None else among
        waited = np.abs(now_ns - self._priced_ns[asked]) >= self._interval_ns
        ready = waited & ~np.isnan(self._at_s[asked])
        slots = np.flatnonzero(ready) if among is None else among[ready]
        if not slots.size:
            return slots
        expiry = table.expiry_id[slots]
        at_s = self._at_s[slots]
        before = _phase(table.expiry_s[slots] - at_s)
        forward, held = forwards.forward[expiry], self._forward[slots]
        moved = (forward != held) & ~(np.isnan(forward) & np.isnan(held))
        support = _support(forwards.source[expiry], forwards.is_stale[expiry])
        moved |= support != self._support[slots]
        moved |= market_s - at_s >= MAX_AGE_SECONDS
        moved |= _phase(table.expiry_s[slots] - market_s) != before
        moved |= terms.settles(expiry, market_s) != terms.settles(expiry, at_s)
        due = slots[moved & (before < _EXPIRED)]
        longest_first: Ints = due[np.argsort(self._priced_ns[due], kind="stable")]
        return longest_first

    def moment_s(self, slot: int, forward: float) -> float:
        """The moment for which an option was priced last; NaN unless that was with this forward."""
        at_s = float(self._at_s[slot])
        return at_s if np.isfinite(at_s) and self._forward[slot] == forward else np.nan

    @property
    def held(self) -> Ints:
        """Slots of which a packet is held."""
        return np.flatnonzero(~np.isnan(self._at_s))

    @property
    def interval_ns(self) -> int:
        """The least time between two pricings of an option; 0 if none is priced anew."""
        return self._interval_ns


def _phase(left_s: Floats) -> Ints:
    """0 while an option lives, 1 in its last minute, 2 when no time is left."""
    phases = np.zeros(left_s.size, np.int64)
    phases[left_s < EXPIRING_SECONDS] = 1
    phases[left_s <= 0.0] = _EXPIRED
    return phases


def _support(source: Codes, is_stale: Bools) -> Codes:
    return source | np.where(is_stale, _STALE, np.uint8(0))
