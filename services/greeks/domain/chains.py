"""Chains and volatility curves: the strikes of whole expiries, all priced at one moment."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from libs.common.contracts.messages import (
    Chain,
    ChainSide,
    ForwardSource,
    GreeksFrom,
    IvStatus,
    Source,
    VolCurve,
)
from services.greeks.domain.book import Book
from services.greeks.domain.chain_pricer import (
    FROM_NOTHING,
    GREEKS_FROM,
    STATUS_NAMES,
    Contracts,
    Engine,
    borrow_smile,
    marked,
    solve,
)
from services.greeks.domain.expiry_terms import ExpiryTerms
from services.greeks.domain.forward import NONE, SOURCES, Forwards
from services.greeks.domain.instrument_table import NOBODY, InstrumentTable
from services.greeks.domain.ladders import Ladders
from services.greeks.domain.vol_curve import (
    atm_volatility,
    max_pain,
    total_open_interest,
    wing_volatilities,
)

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

CHAIN_PHASES: Final = 5
"""An interval has so many turns, and an expiry its turn in one of them: that spreads the work, and
no expiry needs a timer of its own."""

TURN_ROWS: Final = 512
"""Options priced at once: enough for numpy, and a bound on how long the event loop waits."""

SKEW_AGE_NS: Final = 5_000_000_000
"""A risk reversal older than this is no news beside a forward."""

_NS_PER_SECOND: Final = 1_000_000_000
_FLOATS: Final = (
    "last_price",
    "bid",
    "ask",
    "iv",
    "bid_iv",
    "ask_iv",
    "delta",
    "gamma",
    "theta",
    "vega",
    "rho",
)
_SOURCES: Final = {
    code: ForwardSource(name) for code, name in enumerate(SOURCES) if name is not None
}
_COUNTS: Final = ("instrument_token", "volume", "oi")
_STATUSES: Final = np.array([*map(IvStatus, STATUS_NAMES), None], np.object_)
_UNLISTED: Final = len(STATUS_NAMES)
"""In place of a status, of contracts that are not listed."""
_ORIGINS: Final = np.array(
    [None if name is None else GreeksFrom(name) for name in GREEKS_FROM], np.object_
)


class Pair(NamedTuple):
    """What is published of one expiry at one moment.

    Attributes:
        expiry_id: Which expiry.
        chain: The strikes around the money.
        curve: What all its strikes say together.
    """

    expiry_id: int
    chain: Chain
    curve: VolCurve


class Stamp(NamedTuple):
    """When and of what market something is made.

    Attributes:
        market_s: Market time, epoch seconds; 0 before the first stamp.
        epoch: The lease term.
        greeks_ts: Epoch nanoseconds of the wall clock.
        source: `live` or `sim`.
    """

    market_s: int
    epoch: int
    greeks_ts: int
    source: Source


class Chains:
    """Which expiries of a shard have news since their last chain, and their newest skew.

    Attributes:
        touched: bool by expiry id: one of its options, its future or its spot has ticked.
    """

    __slots__ = ("_skew", "_skew_ns", "touched")

    def __init__(self) -> None:
        self.touched: Bools = np.zeros(0, np.bool_)
        self._skew: Floats = np.zeros(0)
        self._skew_ns: Ints = np.zeros(0, np.int64)

    def grow(self, count: int) -> None:
        """Make room for more expiries; what is there stays."""
        extra = count - self.touched.size
        if extra > 0:
            self.touched = np.concatenate((self.touched, np.zeros(extra, np.bool_)))
            self._skew = np.concatenate((self._skew, np.full(extra, np.nan)))
            self._skew_ns = np.concatenate((self._skew_ns, np.zeros(extra, np.int64)))

    def forget(self) -> None:
        """Another market speaks: nothing of the old one is news."""
        self.touched[:] = False
        self._skew[:] = np.nan

    def due(self, phase: int) -> Ints:
        """Ids of the expiries with news whose turn it is.

        Args:
            phase: Counts the turns up; there are `CHAIN_PHASES` in an interval.
        """
        first = phase % CHAIN_PHASES
        return np.flatnonzero(self.touched[first::CHAIN_PHASES]) * CHAIN_PHASES + first

    def note(self, curve: VolCurve, expiry_id: int) -> None:
        """Remember the skew of a curve."""
        skew = curve.risk_reversal_25d
        self._skew[expiry_id] = np.nan if skew is None else skew
        self._skew_ns[expiry_id] = curve.greeks_ts

    def skews(self, ids: Ints, now_ns: int) -> Floats:
        """Newest risk reversal of some expiries [m]; NaN where unknown or too old."""
        fresh = self._skew_ns[ids] >= now_ns - SKEW_AGE_NS
        return np.where(fresh, self._skew[ids], np.nan)


def streamed_options(ids: Ints, table: InstrumentTable, book: Book) -> Ints:
    """How many options of each expiry have ticked [m]."""
    legs = np.concatenate((table.calls[ids], table.puts[ids]), axis=1)
    count: Ints = np.isfinite(book.seen_s[legs]).sum(axis=1)
    return count


def turns(ids: Ints, sizes: Ints) -> Iterator[Ints]:
    """Expiries in groups of at most `TURN_ROWS` options; one that has more is alone.

    Args:
        ids: Expiry ids [m].
        sizes: How many options each has [m].
    """
    first = rows = 0
    for place, size in enumerate(sizes.tolist()):
        if place > first and rows + size > TURN_ROWS:
            yield ids[first:place]
            first, rows = place, 0
        rows += size
    if first < ids.size:
        yield ids[first:]


def chains_of(
    ids: Ints,
    stamp: Stamp,
    table: InstrumentTable,
    book: Book,
    forwards: Forwards,
    terms: ExpiryTerms,
    *,
    each_side: int,
    engine: Engine,
) -> Iterator[Pair]:
    """Price some expiries, all in one call of the engine, and spell their chains and curves.

    Every volatility is solved now, with the forward of now: a chain whose strikes remember
    different forwards has kinks that no market made.

    Args:
        ids: Expiry ids, each once; those without a forward or a streamed strike are left out.
        stamp: When this is.
        table: The instruments.
        book: Their newest prices.
        forwards: Their forwards.
        terms: Conventions of the expiries.
        each_side: Strikes on each side of the money that a chain shows.
        engine: What solves.
    """
    ids = ids[np.isfinite(forwards.forward[ids]) & (forwards.source[ids] != NONE)]
    ladders = Ladders.of(ids, forwards.forward[ids], table, book)
    if not ladders.sizes.all():
        ids = ids[ladders.sizes > 0]
        ladders = Ladders.of(ids, forwards.forward[ids], table, book)
    if not ids.size:
        return
    shown = _Shown.of(ladders, each_side)
    rows = _Rows.of(ladders, shown)
    priced = _price(rows, ladders, stamp, table, book, forwards, terms, engine)
    curves = _Curves.of(ladders, priced.smile, float(stamp.market_s), book, terms)
    sides = _sides(rows, shown, priced, table, book)
    settles = terms.settles(ids, float(stamp.market_s)).tolist()
    strikes = _cut(shown, ladders.strikes).tolist()
    smiles = _cut(shown, priced.smile).tolist()
    spots = book.last_price[table.spot[ids]]
    known = np.isfinite(priced.smile)
    for row, expiry_id in enumerate(ids.tolist()):
        expiry = table.expiries[expiry_id]
        size = int(shown.size[row])
        start = int(shown.first[row] - ladders.atm[row])
        common: dict[str, Any] = {
            "underlying": expiry.underlying,
            "expiry": expiry.day,
            "forward": float(ladders.forward[row]),
            "forward_source": _SOURCES[int(forwards.source[expiry_id])],
            "tte": float(curves.tte[row]),
            "settlement": settles[row],
            "convention": terms.conventions[expiry_id],
            "atm_strike": float(curves.atm_strike[row]),
            "epoch": stamp.epoch,
            "exchange_ts": stamp.market_s * _NS_PER_SECOND or None,
            "greeks_ts": stamp.greeks_ts,
            "source": stamp.source,
        }
        calls, puts = (_side(side, row, size) for side in sides)
        yield Pair(
            expiry_id=expiry_id,
            chain=Chain(
                spot=or_none(spots[row]),
                offsets=tuple(range(start, start + size)),
                strikes=tuple(strikes[row][:size]),
                smile_iv=tuple(smiles[row][:size]),
                calls=calls,
                puts=puts,
                **common,
            ),
            curve=VolCurve(
                **curves.fields(row),
                strikes=tuple(ladders.strikes[row, known[row]].tolist()),
                smile_iv=tuple(priced.smile[row, known[row]].tolist()),
                **common,
            ),
        )


def or_none(value: float) -> float | None:
    """The number, or None for one that does not exist."""
    return float(value) if np.isfinite(value) else None


class _Shown(NamedTuple):
    """Which part of m ladders a chain shows.

    Attributes:
        first: Position of its lowest strike [m].
        size: How many strikes it has [m].
        places: Positions of the strikes, side by side; beyond `size` without meaning [m, v].
    """

    first: Ints
    size: Ints
    places: Ints

    @classmethod
    def of(cls, ladders: Ladders, each_side: int) -> "_Shown":
        first = np.maximum(ladders.atm - each_side, 0)
        size = np.minimum(ladders.atm + each_side + 1, ladders.sizes) - first
        places = first[:, None] + np.arange(int(size.max()))
        return cls(first, size, np.minimum(places, ladders.strikes.shape[1] - 1))

    def within(self, rows: Ints, places: Ints) -> Bools:
        """Whether places of some ladders are shown."""
        first = self.first[rows]
        return (places >= first) & (places < first + self.size[rows])


class _Rows(NamedTuple):
    """The n options that are priced: those that are shown, and those that make the smile.

    Attributes:
        slots: Slot of each [n].
        side: 0 for calls, 1 for puts [n].
        row: Its ladder [n].
        place: Its strike's position there [n].
        is_smile: Whether it is its strike's out-of-the-money leg [n].
        is_shown: Whether the chain shows it [n].
    """

    slots: Ints
    side: Ints
    row: Ints
    place: Ints
    is_smile: Bools
    is_shown: Bools

    @classmethod
    def of(cls, ladders: Ladders, shown: _Shown) -> "_Rows":
        legs = np.stack((ladders.calls, ladders.puts))
        side, row, place = np.nonzero(legs != NOBODY)
        is_smile = (side == 1) == ladders.below[row, place]
        is_shown = shown.within(row, place)
        chosen = np.flatnonzero(is_smile | is_shown)
        side, row, place = side[chosen], row[chosen], place[chosen]
        return cls(legs[side, row, place], side, row, place, is_smile[chosen], is_shown[chosen])


class _Priced(NamedTuple):
    """What n options and the strikes of m ladders were solved to; NaN where there is no value.

    Attributes:
        bid: Rupees, of what is shown [n].
        ask: Likewise [n].
        vols: iv, bid_iv, ask_iv [3, n].
        greeks: delta, gamma, theta, vega, rho [5, n].
        status: Code into `STATUS_NAMES` [n].
        origin: Code into `GREEKS_FROM` [n].
        smile: Of each strike's out-of-the-money leg, if that ticked lately [m, w].
    """

    bid: Floats
    ask: Floats
    vols: tuple[Floats, Floats, Floats]
    greeks: Floats
    status: npt.NDArray[np.uint8]
    origin: npt.NDArray[np.uint8]
    smile: Floats


def _price(
    rows: _Rows,
    ladders: Ladders,
    stamp: Stamp,
    table: InstrumentTable,
    book: Book,
    forwards: Forwards,
    terms: ExpiryTerms,
    engine: Engine,
) -> _Priced:
    slots, market_s = rows.slots, float(stamp.market_s)
    ids, forward = ladders.ids[rows.row], ladders.forward[rows.row]
    contracts = Contracts.of(slots, forward, market_s, table, terms)
    # Beyond what is shown only the volatility of the last price counts.
    bid = np.where(rows.is_shown, book.bid[slots], np.nan)
    ask = np.where(rows.is_shown, book.ask[slots], np.nan)
    solved = solve(contracts, book.last_price[slots], bid, ask, engine=engine)
    smile = np.full(ladders.strikes.shape, np.nan)
    is_fresh = book.iv_seen_s[slots] >= market_s - contracts.smile_age_s
    makes = np.flatnonzero(rows.is_smile & is_fresh)
    smile[rows.row[makes], rows.place[makes]] = solved.iv[makes]
    in_the_money = contracts.flag * (forward - contracts.strike) > 0.0
    smile_iv = smile[rows.row, rows.place]
    origin = borrow_smile(contracts, solved, smile_iv, in_the_money=in_the_money)
    return _Priced(
        bid=bid,
        ask=ask,
        vols=(solved.iv, solved.bid_iv, solved.ask_iv),
        greeks=solved.greeks,
        status=marked(
            solved.status, bid, ask, is_stale=forwards.is_stale[ids], source=forwards.source[ids]
        ),
        origin=origin,
        smile=smile,
    )


class _Curves(NamedTuple):
    """The numbers of m curves; NaN, or -1 for open interest, where there is none."""

    tte: Floats
    atm_strike: Floats
    atm_iv: Floats
    straddle: Floats
    call_iv: Floats
    put_iv: Floats
    call_oi: Ints
    put_oi: Ints
    max_pain: Floats

    @classmethod
    def of(
        cls, ladders: Ladders, smile: Floats, market_s: float, book: Book, terms: ExpiryTerms
    ) -> "_Curves":
        tte = terms.years(ladders.ids, market_s)
        wings = wing_volatilities(ladders.strikes, smile, ladders.forward, tte)
        call_oi, put_oi = book.oi[ladders.calls], book.oi[ladders.puts]
        return cls(
            tte=tte,
            atm_strike=ladders.atm_strike,
            atm_iv=atm_volatility(ladders.strikes, smile, ladders.forward, ladders.atm),
            straddle=ladders.straddle(book, market_s - terms.quote_age_s[ladders.ids]),
            call_iv=wings.call,
            put_iv=wings.put,
            call_oi=total_open_interest(call_oi),
            put_oi=total_open_interest(put_oi),
            max_pain=max_pain(ladders.strikes, call_oi, put_oi),
        )

    def fields(self, row: int) -> dict[str, Any]:
        """Those of one curve that may be missing."""
        atm, call, put = self.atm_iv[row], self.call_iv[row], self.put_iv[row]
        call_oi, put_oi = int(self.call_oi[row]), int(self.put_oi[row])
        return {
            "atm_iv": or_none(atm),
            "straddle": or_none(self.straddle[row]),
            "call_iv_25d": or_none(call),
            "put_iv_25d": or_none(put),
            "risk_reversal_25d": or_none(call - put),
            "butterfly_25d": or_none(0.5 * (call + put) - atm),
            "call_oi": call_oi if call_oi >= 0 else None,
            "put_oi": put_oi if put_oi >= 0 else None,
            "put_call_oi_ratio": put_oi / call_oi if call_oi > 0 and put_oi >= 0 else None,
            "max_pain": or_none(self.max_pain[row]),
        }


_Columns = dict[str, list[list[Any]]]
"""Columns of one side of m chains: by field, ladder, strike."""


def _sides(
    rows: _Rows, shown: _Shown, priced: _Priced, table: InstrumentTable, book: Book
) -> tuple[_Columns, _Columns]:
    """Lay what is shown side by side, one list per column and ladder."""
    at = np.flatnonzero(rows.is_shown)
    slots, place = rows.slots[at], rows.place[at] - shown.first[rows.row[at]]
    where = (rows.side[at], rows.row[at], place)
    shape = (2, *shown.places.shape)
    values = (book.last_price[rows.slots], priced.bid, priced.ask, *priced.vols, *priced.greeks)
    floats = np.full((len(_FLOATS), *shape), np.nan)
    floats[:, *where] = np.stack(values)[:, at]
    counts = np.full((len(_COUNTS), *shape), None, np.object_)
    for column, numbers in zip(counts, (table.token, book.volume, book.oi), strict=True):
        known = numbers[slots].astype(np.object_)
        known[numbers[slots] < 0] = None
        column[where] = known
    status = np.full(shape, _UNLISTED)
    status[where] = priced.status[at]
    origin = np.full(shape, FROM_NOTHING)
    origin[where] = priced.origin[at]
    columns = {
        **dict(zip(_FLOATS, floats.tolist(), strict=True)),
        **dict(zip(_COUNTS, counts.tolist(), strict=True)),
        "iv_status": _STATUSES[status].tolist(),
        "greeks_from": _ORIGINS[origin].tolist(),
    }
    calls = {name: both[0] for name, both in columns.items()}
    puts = {name: both[1] for name, both in columns.items()}
    return calls, puts


def _side(columns: _Columns, row: int, size: int) -> ChainSide:
    """The calls or puts of one chain."""
    return ChainSide(**{name: tuple(column[row][:size]) for name, column in columns.items()})


def _cut(shown: _Shown, values: Floats) -> Floats:
    """Of values by strike [m, w], those that are shown [m, v]."""
    return np.take_along_axis(values, shown.places, axis=1)
