"""Prices the options of a batch: volatilities of last, bid and ask, Greeks, and a status a row."""

from collections.abc import Iterator
from typing import Final, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from libs.common.contracts.messages import IvStatus
from services.greeks.domain.book import Book
from services.greeks.domain.forward import NONE, SECONDS_PER_YEAR
from services.greeks.domain.instrument_table import NOBODY, InstrumentTable
from services.greeks.domain.policy import Policy
from services.greeks.domain.pricing import WIRE_NAMES, Model, Status, greeks_at

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Codes = npt.NDArray[np.uint8]

NO_FORWARD: Final = len(WIRE_NAMES)
"""Status code of a row whose expiry has no forward yet; follows those of the engine."""
STATUS_NAMES: Final[tuple[str, ...]] = (*WIRE_NAMES, IvStatus.NO_FORWARD.value)
"""Wire names by status code."""

_UNUSABLE: Final = np.zeros(len(STATUS_NAMES), np.bool_)
# The option's own price says nothing of the volatility, but its strike's other leg may.
_UNUSABLE[[Status.NO_PRICE, Status.BELOW_INTRINSIC, Status.ABOVE_MAX]] = True


class Engine(Protocol):
    """`services.greeks.domain.pricing.compute`, or an engine that can stand in for it."""

    def __call__(  # noqa: D102  # The class says it; the parameters are documented at `compute`.
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
    ) -> tuple[Floats, Codes]: ...


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
        status: Code into `STATUS_NAMES` [n]: why there is, or is not, an `iv`.
        forward: Rupees [n].
        source: Code into `forward.SOURCES` [n].
        tte: ACT/365 years [n].
    """

    iv: Floats
    bid_iv: Floats
    ask_iv: Floats
    smile_iv: Floats
    greeks: Floats
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
    policy: Policy,
    engine: Engine,
) -> Priced:
    """Price the options of one or more rounds, all in one call of the engine.

    Args:
        quotes: What is priced [n].
        table: The instruments.
        book: Newest volatilities; those found are written into it.
        market_s: Market time, epoch seconds.
        policy: Model, rate, ages.
        engine: What solves.
    """
    slots, rounds, at_s, last, bid, ask, forward, source, is_stale = quotes
    n = slots.size
    flag, strike = table.flag[slots], table.strike[slots]
    tte = (table.expiry_s[slots] - at_s) / SECONDS_PER_YEAR
    df = np.exp(-policy.rate * tte)

    has_book = bool(np.isfinite(bid).any() or np.isfinite(ask).any())
    copies = 3 if has_book else 1
    values, codes = engine(
        np.tile(flag, copies),
        np.concatenate((last, bid, ask)) if has_book else last,
        np.tile(forward, copies),
        np.tile(strike, copies),
        np.tile(tte, copies),
        np.tile(df, copies),
        model=policy.model,
    )
    iv, greeks, status = values[0, :n], values[1:, :n], codes[:n].copy()
    nothing = np.full(n, np.nan)
    bid_iv = values[0, n : 2 * n] if has_book else nothing
    ask_iv = values[0, 2 * n :] if has_book else nothing

    # The strike's volatility is that of its out-of-the-money leg, this one or the other.
    in_the_money = flag * (forward - strike) > 0.0
    leg = np.where(in_the_money, table.partner[slots], slots)
    smile_iv = np.empty(n)
    for rows in _each_round(rounds):
        book.iv[slots[rows]] = iv[rows]
        book.iv_seen_s[slots[rows]] = market_s
        legs = leg[rows]
        fresh = book.iv_seen_s[legs] >= market_s - policy.smile_max_age_seconds
        smile_iv[rows] = np.where(fresh & (legs != NOBODY), book.iv[legs], np.nan)
    borrow = np.flatnonzero(in_the_money & _UNUSABLE[status] & np.isfinite(smile_iv))
    if borrow.size:
        greeks[:, borrow] = greeks_at(
            flag[borrow],
            forward[borrow],
            strike[borrow],
            tte[borrow],
            df[borrow],
            smile_iv[borrow],
            model=policy.model,
        )

    solved = (status == Status.OK) | (status == Status.LOW_VEGA)
    status[solved & (bid > ask)] = Status.CROSSED
    status[solved & is_stale] = Status.STALE_FORWARD
    status[source == NONE] = NO_FORWARD
    return Priced(iv, bid_iv, ask_iv, smile_iv, greeks, status, forward, source, tte)


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
