"""What is known of every instrument of a shard before the first packet, as structure of arrays."""

from collections.abc import Callable, Iterable
from datetime import date, datetime
from itertools import chain
from math import inf
from typing import Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from libs.common.contracts import subjects
from libs.common.contracts.messages import InstrumentSet
from libs.common.domain.clock import ns_of
from libs.common.domain.instruments import Instrument, Kind, OptionType
from libs.common.errors import RejectedError
from services.greeks.domain.fragments import head_of

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Objects = npt.NDArray[np.object_]

ExpiryInstant = Callable[[str, date], datetime]
"""Instant at which contracts of (exchange, expiry date) die; a RejectedError if not known."""

NOBODY: Final = 0
"""A slot that no instrument has: its prices are NaN for ever, so it needs no mask anywhere."""

_FIRST_CAPACITY: Final = 256
_NS_PER_SECOND: Final = 1_000_000_000
SPOT_EXCHANGE: Final = {"NFO": "NSE", "BFO": "BSE", "CDS": "NSE", "MCX": "MCX"}
"""Where an option's underlying is traded; others have their spot nowhere that we stream."""


class Expiry(msgspec.Struct, kw_only=True):
    """One expiry of one underlying: what a forward is made for.

    Attributes:
        underlying_id: Index into `InstrumentTable.underlyings`.
        underlying: Its name.
        exchange: Where the contracts are listed.
        day: Last trading day.
        instant_s: Epoch seconds at which they die.
        future: Slot of the listed future, or `NOBODY`.
        strikes: Ascending strikes in rupees, float64[k].
        calls: Slot of each strike's call, or `NOBODY`, int64[k].
        puts: Slot of each strike's put, or `NOBODY`, int64[k].
        subject: Where its forward is published.
        chain_subject: Where its chain is published.
        vol_subject: Where its volatility curve is published.
    """

    underlying_id: int
    underlying: str
    exchange: str
    day: date
    instant_s: float
    future: int
    strikes: Floats
    calls: Ints
    puts: Ints
    subject: str
    chain_subject: str
    vol_subject: str


class BarSource(NamedTuple):
    """An instrument whose ticks make the bars of its underlying.

    Attributes:
        slot: Its slot.
        token: Its token.
        from_s: The first second for which it does, epoch seconds.
        until_s: From then on it does not.
    """

    slot: int
    token: int
    from_s: float
    until_s: float


class InstrumentTable:
    """Gives every instrument a slot that it keeps, and every expiry an id that it keeps.

    Arrays named after a property of an instrument have one entry per slot; their length is
    `capacity` and grows, so hold no reference to one across `apply`. Slots are not given away
    again: a sequence number counts per instrument for a whole lease term, and a dump brings a
    few hundred new contracts a day.

    Args:
        expiry_instant: The dated calendar's answer to when contracts die.

    Attributes:
        undated: How many instruments were left out because the calendar does not know when they
            die (an exchange it has no hours of).
        underlyings: Names by underlying id.
        tick_subjects: Where each underlying's ticks go.
        expiries: All expiries by expiry id; without contracts once they left the dump.
        underlying_id: int64, -1 for a slot without instrument.
        expiry_id: int64, -1 unless a derivative.
        flag: int8, 1 call, -1 put, 0 no option.
        strike: float64 rupees, NaN unless an option.
        expiry_s: float64 epoch seconds, NaN unless a derivative.
        partner: int64, slot of the other option of the strike, or `NOBODY`.
        tick_size: float64 rupees.
        token: int64.
        head: The beginning of each instrument's ticks, up to the option type (msgspec.Raw).
        last_subject: Where each instrument's last value goes.
        strikes: float64[expiries, k], padded with NaN.
        calls: int64[expiries, k], padded with `NOBODY`.
        puts: int64[expiries, k], likewise.
        future: int64[expiries].
        spot: int64[expiries], slot of the index or share, or `NOBODY`.
        underlying_of_expiry: int64[expiries].
        instant_s: float64[expiries].
    """

    def __init__(self, expiry_instant: ExpiryInstant) -> None:
        self._expiry_instant = expiry_instant
        self._instruments: dict[int, Instrument] = {}
        self._slot_of: dict[int, int] = {}
        self._tokens_of: dict[str, frozenset[int]] = {}
        self._underlying_ids: dict[str, int] = {}
        self._expiry_ids: dict[tuple[str, str, date], int] = {}
        self._expiry_ids_of: dict[str, list[int]] = {}
        self._spot_of: dict[str, dict[str, int]] = {}
        self._used = 1
        self._sorted: tuple[Ints, Ints] | None = None
        self._instants: dict[tuple[str, date], float | None] = {}
        self.undated = 0
        self.underlyings: list[str] = []
        self.tick_subjects: list[str] = []
        self.expiries: list[Expiry] = []
        capacity = _FIRST_CAPACITY
        self.underlying_id: Ints = np.full(capacity, -1)
        self.expiry_id: Ints = np.full(capacity, -1)
        self.flag: npt.NDArray[np.int8] = np.zeros(capacity, np.int8)
        self.strike: Floats = np.full(capacity, np.nan)
        self.expiry_s: Floats = np.full(capacity, np.nan)
        self.partner: Ints = np.full(capacity, NOBODY)
        self.tick_size: Floats = np.full(capacity, np.nan)
        self.token: Ints = np.full(capacity, -1)
        self.head: Objects = np.full(capacity, None, dtype=np.object_)
        self.last_subject: Objects = np.full(capacity, "", dtype=np.object_)
        self._index_expiries()

    @property
    def capacity(self) -> int:
        """Length of the arrays by slot."""
        return self.token.size

    def __len__(self) -> int:
        """How many instruments the newest sets hold."""
        return len(self._instruments)

    def slots_of(self, tokens: Ints) -> Ints:
        """The slot of every token, `NOBODY` for tokens that no set holds."""
        if self._sorted is None:
            ordered = sorted(self._instruments)
            self._sorted = (
                np.array(ordered, np.int64),
                np.array([self._slot_of[token] for token in ordered], np.int64),
            )
        known, slots = self._sorted
        if not known.size:
            return np.full(tokens.size, NOBODY)
        position = np.minimum(known.searchsorted(tokens), known.size - 1)
        return np.where(known[position] == tokens, slots[position], NOBODY)

    def slot_of(self, token: int) -> int:
        """The slot of one token, or `NOBODY`."""
        return self._slot_of[token] if token in self._instruments else NOBODY

    def instrument_at(self, slot: int) -> Instrument | None:
        """What the newest sets say of the instrument at a slot; None if they do not know it."""
        return self._instruments.get(int(self.token[slot]))

    def apply(self, update: InstrumentSet) -> list[int]:
        """Replace what is known of one underlying.

        Instruments that stay keep their slot, those that left become unknown.

        Returns:
            Slots whose token now means another contract: their prices must be forgotten.
        """
        underlying = update.underlying
        wanted = {
            item.instrument_token: item for item in update.instruments if self._can_expire(item)
        }
        self.undated += len(update.instruments) - len(wanted)
        held = self._tokens_of.get(underlying, frozenset())
        for token in held - wanted.keys():
            del self._instruments[token]
        self._take_from_others({t for t in wanted if t in self._instruments and t not in held})
        self._tokens_of[underlying] = frozenset(wanted)
        self._sorted = None
        if underlying not in self._underlying_ids:
            self._underlying_ids[underlying] = len(self.underlyings)
            self.underlyings.append(underlying)
            self.tick_subjects.append(subjects.tick(underlying))
        self._reserve(len(wanted))
        reused = [
            slot
            for item in wanted.values()
            if (slot := self._place(item, self._underlying_ids[underlying])) is not None
        ]
        self._group(underlying, wanted.values())
        self._index_expiries()
        return reused

    def bar_sources(self, underlying: str) -> list[BarSource]:
        """The instruments that make an underlying's bars, at most one for any second.

        The index or share; only without one the futures, each from the end of the one before.
        """
        spots = self._spot_of.get(underlying, {})
        if spots:
            # A share listed on both exchanges: its price is made at NSE.
            slot = next(spots[e] for e in chain(("NSE",), sorted(spots)) if e in spots)
            return [BarSource(slot, int(self.token[slot]), -inf, inf)]
        expiries = [self.expiries[i] for i in self._expiry_ids_of.get(underlying, ())]
        futures = sorted((e.instant_s, e.future) for e in expiries if e.future != NOBODY)
        sources = []
        from_s = -inf
        for until_s, slot in futures:
            sources.append(BarSource(slot, int(self.token[slot]), from_s, until_s))
            from_s = until_s
        return sources

    def forget(self, underlying: str) -> None:
        """All instruments of an underlying become unknown."""
        if underlying in self._underlying_ids:
            self.apply(
                InstrumentSet(
                    underlying=underlying, revision=0, market_date=date.min, instruments=()
                )
            )

    def _take_from_others(self, tokens: set[int]) -> None:
        """Tokens move to another underlying: what held them lets go of them now.

        Its own next set, which may come later or never, must not take them away again.
        """
        if not tokens:
            return
        for name, held in self._tokens_of.items():
            if not held.isdisjoint(tokens):
                left = self._tokens_of[name] = held - tokens
                self._group(name, [self._instruments[token] for token in left])

    def _can_expire(self, item: Instrument) -> bool:
        return item.expiry is None or self._instant(item.exchange, item.expiry) is not None

    def _instant(self, exchange: str, day: date) -> float | None:
        """Epoch seconds at which contracts of a day die; None if the calendar cannot tell."""
        key = (exchange, day)
        if key not in self._instants:
            try:
                self._instants[key] = ns_of(self._expiry_instant(exchange, day)) / _NS_PER_SECOND
            except RejectedError:
                self._instants[key] = None
        return self._instants[key]

    def _reserve(self, more: int) -> None:
        needed = self._used + more
        if needed <= self.capacity:
            return
        extra = max(needed, 2 * self.capacity) - self.capacity
        self.underlying_id = np.concatenate((self.underlying_id, np.full(extra, -1)))
        self.expiry_id = np.concatenate((self.expiry_id, np.full(extra, -1)))
        self.flag = np.concatenate((self.flag, np.zeros(extra, np.int8)))
        self.strike = np.concatenate((self.strike, np.full(extra, np.nan)))
        self.expiry_s = np.concatenate((self.expiry_s, np.full(extra, np.nan)))
        self.partner = np.concatenate((self.partner, np.full(extra, NOBODY)))
        self.tick_size = np.concatenate((self.tick_size, np.full(extra, np.nan)))
        self.token = np.concatenate((self.token, np.full(extra, -1)))
        self.head = np.concatenate((self.head, np.full(extra, None, dtype=np.object_)))
        self.last_subject = np.concatenate((self.last_subject, np.full(extra, "", np.object_)))

    def _place(self, item: Instrument, underlying_id: int) -> int | None:
        """Write an instrument into its slot; gives the slot if it held another contract."""
        token = item.instrument_token
        before = self._instruments.get(token)
        if before == item:
            return None
        self._instruments[token] = item
        slot = self._slot_of.get(token)
        is_new = slot is None
        if slot is None:
            slot = self._used
            self._used += 1
            self._slot_of[token] = slot
        self.token[slot] = token
        self.underlying_id[slot] = underlying_id
        self.flag[slot] = _FLAGS[item.option_type]
        self.strike[slot] = np.nan if item.strike is None else item.strike
        self.tick_size[slot] = item.tick_size
        self.head[slot] = head_of(item)
        self.last_subject[slot] = subjects.last(item.underlying, token)
        same = before is not None and _contract(before) == _contract(item)
        return None if is_new or same else slot

    def _group(self, underlying: str, instruments: Iterable[Instrument]) -> None:
        """Build the expiries of an underlying from its instruments."""
        spots: dict[str, int] = {}
        futures: dict[int, int] = {}
        legs: dict[int, dict[float, list[int]]] = {}
        for item in instruments:
            slot = self._slot_of[item.instrument_token]
            self.partner[slot] = NOBODY
            if item.expiry is None:
                spots[item.exchange] = slot
                self.expiry_id[slot] = -1
                self.expiry_s[slot] = np.nan
                continue
            expiry_id = self._expiry(underlying, item.exchange, item.expiry)
            self.expiry_id[slot] = expiry_id
            self.expiry_s[slot] = self.expiries[expiry_id].instant_s
            if item.kind is Kind.FUTURE:
                futures[expiry_id] = slot
            elif item.strike is not None:
                pair = legs.setdefault(expiry_id, {}).setdefault(item.strike, [NOBODY, NOBODY])
                pair[item.option_type is OptionType.PUT] = slot
        self._spot_of[underlying] = spots
        for expiry_id in self._expiry_ids_of.get(underlying, ()):
            expiry = self.expiries[expiry_id]
            ladder = sorted(legs.get(expiry_id, {}).items())
            expiry.future = futures.get(expiry_id, NOBODY)
            expiry.strikes = np.array([strike for strike, _ in ladder], np.float64)
            expiry.calls = np.array([pair[0] for _, pair in ladder], np.int64)
            expiry.puts = np.array([pair[1] for _, pair in ladder], np.int64)
            both = (expiry.calls != NOBODY) & (expiry.puts != NOBODY)
            self.partner[expiry.calls[both]] = expiry.puts[both]
            self.partner[expiry.puts[both]] = expiry.calls[both]

    def _expiry(self, underlying: str, exchange: str, day: date) -> int:
        key = (underlying, exchange, day)
        expiry_id = self._expiry_ids.get(key)
        if expiry_id is None:
            expiry_id = self._expiry_ids[key] = len(self.expiries)
            self._expiry_ids_of.setdefault(underlying, []).append(expiry_id)
            none = np.empty(0, np.int64)
            self.expiries.append(
                Expiry(
                    underlying_id=self._underlying_ids[underlying],
                    underlying=underlying,
                    exchange=exchange,
                    day=day,
                    instant_s=self._instant(exchange, day) or np.nan,
                    future=NOBODY,
                    strikes=np.empty(0),
                    calls=none,
                    puts=none,
                    subject=subjects.forward(underlying, day),
                    chain_subject=subjects.chain(underlying, day),
                    vol_subject=subjects.vol_curve(underlying, day),
                )
            )
        return expiry_id

    def _index_expiries(self) -> None:
        """Lay the ladders of all expiries side by side."""
        expiries = self.expiries
        shape = (len(expiries), max((e.strikes.size for e in expiries), default=0))
        self.strikes: Floats = np.full(shape, np.nan)
        self.calls: Ints = np.full(shape, NOBODY)
        self.puts: Ints = np.full(shape, NOBODY)
        for row, expiry in enumerate(expiries):
            k = expiry.strikes.size
            self.strikes[row, :k] = expiry.strikes
            self.calls[row, :k] = expiry.calls
            self.puts[row, :k] = expiry.puts
        self.future: Ints = np.array([e.future for e in expiries], np.int64)
        self.spot: Ints = np.array([self._spot(e) for e in expiries], np.int64)
        self.underlying_of_expiry: Ints = np.array([e.underlying_id for e in expiries], np.int64)
        self.instant_s: Floats = np.array([e.instant_s for e in expiries], np.float64)

    def _spot(self, expiry: Expiry) -> int:
        spots = self._spot_of.get(expiry.underlying, {})
        home = SPOT_EXCHANGE.get(expiry.exchange, "")
        # A share listed on both exchanges: the price of the exchange that settles the contract.
        return next((spots[e] for e in chain((home,), sorted(spots)) if e in spots), NOBODY)


_FLAGS: Final = {OptionType.CALL: 1, OptionType.PUT: -1, None: 0}


def _contract(item: Instrument) -> tuple[object, ...]:
    """What makes a contract itself; lot and tick size may change while it lives."""
    return (item.tradingsymbol, item.exchange, item.expiry, item.strike, item.option_type)
