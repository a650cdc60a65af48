"""Prices options: volatilities of last, bid and ask, Greeks, and a status a row."""

from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from libs.common.contracts.messages import GreeksFrom, IvStatus
from services.greeks.domain.book import Book
from services.greeks.domain.expiry_terms import ExpiryTerms
from services.greeks.domain.forward import NONE
from services.greeks.domain.instrument_table import NOBODY, InstrumentTable
from services.greeks.domain.pricing import WIRE_NAMES, Model, Quoted, Status, greeks_at

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint8]

NO_FORWARD: Final = len(WIRE_NAMES)
"""Status code of a row whose expiry has no forward yet; follows those of the engine."""
STATUS_NAMES: Final[tuple[str, ...]] = (*WIRE_NAMES, IvStatus.NO_FORWARD.value)
"""Wire names by status code."""
GREEKS_FROM: Final[tuple[str | None, ...]] = (None, GreeksFrom.IV.value, GreeksFrom.SMILE_IV.value)
"""Wire names by code of the volatility behind the Greeks; 0 stands for no Greeks."""
FROM_NOTHING, FROM_IV, FROM_SMILE = range(3)

_UNUSABLE: Final = np.zeros(len(STATUS_NAMES), np.bool_)
# The option's own price says nothing of the volatility, but its strike's other leg may.
_UNUSABLE[[Status.NO_PRICE, Status.BELOW_INTRINSIC, Status.ABOVE_MAX]] = True


class Engine(Protocol):
    """`services.greeks.domain.pricing.compute_quotes`, or an engine that can stand in for it."""

    def __call__(  # noqa: D102  # The class says it; the parameters are documented there.
        self,
        flag: npt.ArrayLike,
        price: npt.ArrayLike,
        forward: npt.ArrayLike,
        strike: npt.ArrayLike,
        tte: npt.ArrayLike,
        df: npt.ArrayLike,
        /,
        *,
        model: Model,
        spot: npt.ArrayLike | None = None,
    ) -> Quoted: ...


class Contracts(NamedTuple):
    """n options and what each is priced with at its moment.

    Attributes:
        flag: int8, 1 call, -1 put [n].
        strike: Rupees [n].
        forward: Rupees [n], NaN for none.
        tte: Years by the clock of the convention [n].
        df: Discount factor [n].
        spot: Rupees, that goes with the forward [n]; used by BSM.
        is_bsm: Which are priced by BSM [n].
        theta_scale: From theta per calendar day to theta per day of the clock [n].
        smile_age_s: How old a volatility of the strike may be [n].
    """

    flag: npt.NDArray[np.int8]
    strike: Floats
    forward: Floats
    tte: Floats
    df: Floats
    spot: Floats
    is_bsm: npt.NDArray[np.bool_]
    theta_scale: Floats
    smile_age_s: Floats

    @classmethod
    def of(
        cls,
        slots: Ints,
        forward: Floats,
        at_s: Floats | float,
        table: InstrumentTable,
        terms: ExpiryTerms,
    ) -> "Contracts":
        """The options at these slots.

        Args:
            slots: [n].
            forward: Rupees [n].
            at_s: The moment each is priced for, epoch seconds, [n] or one.
            table: The instruments.
            terms: Their conventions.
        """
        expiry = table.expiry_id[slots]
        tte = terms.years(expiry, at_s)
        return cls(
            flag=table.flag[slots],
            strike=table.strike[slots],
            forward=forward,
            tte=tte,
            df=np.exp(-terms.rate[expiry] * tte),
            spot=forward * np.exp(-terms.carry[expiry] * tte),
            is_bsm=terms.is_bsm[expiry],
            theta_scale=terms.theta_scale[expiry],
            smile_age_s=terms.smile_age_s[expiry],
        )

    def take(self, rows: Ints) -> "Contracts":
        """Those at these positions."""
        return Contracts(
            flag=self.flag[rows],
            strike=self.strike[rows],
            forward=self.forward[rows],
            tte=self.tte[rows],
            df=self.df[rows],
            spot=self.spot[rows],
            is_bsm=self.is_bsm[rows],
            theta_scale=self.theta_scale[rows],
            smile_age_s=self.smile_age_s[rows],
        )

    def greeks_at(self, vol: Floats) -> Floats:
        """delta, gamma, theta, vega, rho [5, n] at given volatilities [n]."""
        terms = (self.flag, self.forward, self.strike, self.tte, self.df, vol)
        greeks = greeks_at(*terms)
        rows = np.flatnonzero(self.is_bsm)
        if rows.size:
            some = tuple(column[rows] for column in terms)
            greeks[:, rows] = greeks_at(*some, model="bsm", spot=self.spot[rows])
        greeks[_THETA] *= self.theta_scale
        return greeks


_THETA: Final = 2


class Solved(NamedTuple):
    """n options solved, each by itself; NaN where a value does not exist.

    Attributes:
        iv: From the last price, per year [n].
        bid_iv: From the bid [n].
        ask_iv: From the ask [n].
        greeks: delta, gamma, theta, vega, rho at `iv` [5, n].
        status: Code of the engine [n]: why there is, or is not, an `iv`.
    """

    iv: Floats
    bid_iv: Floats
    ask_iv: Floats
    greeks: Floats
    status: Codes


def solve(
    contracts: Contracts, last: Floats, bid: Floats, ask: Floats, *, engine: Engine
) -> Solved:
    """Solve the volatilities of n options, all in one call of the engine.

    Args:
        contracts: The options.
        last: Rupees [n], NaN for none; bid and ask likewise.
        bid: [n].
        ask: [n].
        engine: What solves.
    """
    has_book = bool(np.isfinite(bid).any() or np.isfinite(ask).any())
    prices = np.stack((last, bid, ask)) if has_book else last[None]
    flag, strike, forward, tte, df = contracts[:5]
    found = engine(flag, prices, forward, strike, tte, df, model="black76")
    greeks = found.values[1:]
    rows = np.flatnonzero(contracts.is_bsm)
    if rows.size:
        # The volatility is the same by both models: the forward carries the difference.
        greeks[:, rows] = engine(
            *(flag[rows], last[None, rows], forward[rows], strike[rows], tte[rows], df[rows]),
            model="bsm",
            spot=contracts.spot[rows],
        ).values[1:]
    greeks[_THETA] *= contracts.theta_scale
    nothing = np.full(last.size, np.nan)
    return Solved(
        iv=found.values[0],
        bid_iv=found.iv[1] if has_book else nothing,
        ask_iv=found.iv[2] if has_book else nothing,
        greeks=greeks,
        status=found.status[0],
    )


def borrow_smile(
    contracts: Contracts,
    solved: Solved,
    smile_iv: Floats,
    *,
    in_the_money: npt.NDArray[np.bool_],
) -> Codes:
    """Give in-the-money rows without a usable volatility the Greeks of their strike's.

    Args:
        contracts: The options.
        solved: What they were solved to; its Greeks are written to.
        smile_iv: Of the strikes' out-of-the-money legs [n].
        in_the_money: Which rows are [n].

    Returns:
        Code into `GREEKS_FROM` of every row [n].
    """
    origin = np.where(np.isfinite(solved.iv), FROM_IV, FROM_NOTHING).astype(np.uint8)
    rows = np.flatnonzero(in_the_money & _UNUSABLE[solved.status] & np.isfinite(smile_iv))
    if rows.size:
        solved.greeks[:, rows] = contracts.take(rows).greeks_at(smile_iv[rows])
        origin[rows] = np.where(np.isfinite(solved.greeks[0, rows]), FROM_SMILE, FROM_NOTHING)
    return origin


def marked(
    status: Codes, bid: Floats, ask: Floats, *, is_stale: npt.NDArray[np.bool_], source: Codes
) -> Codes:
    """Statuses [n] with what the market says of solved rows: crossed, old or missing forward."""
    solved = (status == Status.OK) | (status == Status.LOW_VEGA)
    status = status.copy()
    status[solved & (bid > ask)] = Status.CROSSED
    status[solved & is_stale] = Status.STALE_FORWARD
    status[source == NONE] = NO_FORWARD
    return status


class Quotes(NamedTuple):
    """n packets of options, with the forward as it was when each of them came.

    Attributes:
        slots: Slot of the option [n]; one that is quoted in several rounds comes several times.
        rounds: Number of the round of each packet, counted from 0 [n].
        at_s: The moment each is priced for, epoch seconds at the exchange [n].
        last: Rupees [n], NaN for none; bid and ask likewise.
        bid: [n].
        ask: [n].
        forward: Rupees [n], NaN for none.
        source: Code into `forward.SOURCES` [n].
        is_stale: Whether nothing fresh supported the forward [n].
    """

    slots: Ints
    rounds: Ints
    at_s: Floats
    last: Floats
    bid: Floats
    ask: Floats
    forward: Floats
    source: Codes
    is_stale: npt.NDArray[np.bool_]


class Priced(NamedTuple):
    """n options priced; NaN where a value does not exist.

    Attributes:
        iv: From the last price, per year [n].
        bid_iv: From the bid [n].
        ask_iv: From the ask [n].
        smile_iv: Of the strike's out-of-the-money leg [n].
        greeks: delta, gamma, theta, vega, rho [5, n] at `iv`, or at `smile_iv` for
            in-the-money rows whose own volatility is unusable.
        greeks_from: Code into `GREEKS_FROM` [n]: at which of the two.
        status: Code into `STATUS_NAMES` [n]: why there is, or is not, an `iv`.
        forward: Rupees [n].
        source: Code into `forward.SOURCES` [n].
        tte: Years [n].
    """

    iv: Floats
    bid_iv: Floats
    ask_iv: Floats
    smile_iv: Floats
    greeks: Floats
    greeks_from: Codes
    status: Codes
    forward: Floats
    source: Codes
    tte: Floats


def price_options(
    quotes: Quotes,
    table: InstrumentTable,
    book: Book,
    market_s: float,
    *,
    terms: ExpiryTerms,
    engine: Engine,
    are_packets: bool = True,
) -> Priced:
    """Price the options of one or more rounds, all in one call of the engine.

    Args:
        quotes: What is priced [n].
        table: The instruments.
        book: Newest volatilities; those found are written into it.
        market_s: Market time, epoch seconds.
        terms: Conventions of the expiries.
        engine: What solves.
        are_packets: Whether packets came. A volatility that is only computed anew stays as old as
            its packet.
    """
    slots, rounds, at_s, last, bid, ask, forward, source, is_stale = quotes
    n = slots.size
    contracts = Contracts.of(slots, forward, at_s, table, terms)
    solved = solve(contracts, last, bid, ask, engine=engine)

    # The strike's volatility is that of its out-of-the-money leg, this one or the other.
    in_the_money = contracts.flag * (forward - contracts.strike) > 0.0
    leg = np.where(in_the_money, table.partner[slots], slots)
    oldest_s = market_s - contracts.smile_age_s
    smile_iv = np.empty(n)
    for rows in _each_round(rounds):
        book.iv[slots[rows]] = solved.iv[rows]
        if are_packets:
            book.iv_seen_s[slots[rows]] = market_s
        legs = leg[rows]
        fresh = book.iv_seen_s[legs] >= oldest_s[rows]
        smile_iv[rows] = np.where(fresh & (legs != NOBODY), book.iv[legs], np.nan)
    origin = borrow_smile(contracts, solved, smile_iv, in_the_money=in_the_money)
    return Priced(
        iv=solved.iv,
        bid_iv=solved.bid_iv,
        ask_iv=solved.ask_iv,
        smile_iv=smile_iv,
        greeks=solved.greeks,
        greeks_from=origin,
        status=marked(solved.status, bid, ask, is_stale=is_stale, source=source),
        forward=forward,
        source=source,
        tte=contracts.tte,
    )


def _each_round(rounds: Ints) -> Iterator[Ints | slice]:
    """The rows of every round, in time."""
    if not rounds.size:
        return
    newest = int(rounds.max())
    if not newest:
        yield slice(None)
        return
    for number in range(newest + 1):
        yield np.flatnonzero(rounds == number)
