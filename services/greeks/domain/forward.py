"""One forward per expiry: listed future, put-call parity next to the money, or spot."""

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from libs.common.contracts.messages import ForwardSource
from services.greeks.domain.book import Book
from services.greeks.domain.expiry_terms import ExpiryTerms
from services.greeks.domain.instrument_table import InstrumentTable
from services.greeks.domain.policy import Policy

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

SOURCES: Final[tuple[str | None, ...]] = (
    None,
    ForwardSource.FUTURE.value,
    ForwardSource.SYNTHETIC.value,
    ForwardSource.SPOT.value,
)
"""Wire names by source code; 0 stands for no forward yet."""
NONE, FUTURE, SYNTHETIC, SPOT = range(4)


class Parity(NamedTuple):
    """Parity forwards of m expiries.

    Attributes:
        forward: Median, rupees [m]; NaN with fewer usable strikes than asked for.
        dispersion: Greatest less smallest of those taken, rupees [m]; NaN likewise.
    """

    forward: Floats
    dispersion: Floats


def parity_forwards(
    strikes: Floats,
    call_mids: Floats,
    put_mids: Floats,
    near: Floats,
    growth: Floats,
    *,
    take: int = 5,
    at_least: int = 3,
) -> Parity:
    """Median of `K + (C - P)·e^{rT}` over the usable strikes nearest the money.

    Args:
        strikes: float64[m, k], rupees; NaN where a ladder is shorter.
        call_mids: float64[m, k], rupees; NaN where the book cannot be used.
        put_mids: float64[m, k], likewise.
        near: float64[m], where the money is thought to be, rupees; NaN if nobody knows, then it
            is where call and put cost the same.
        growth: float64[m], e^{rT}.
        take: How many strikes are taken at most.
        at_least: With fewer there is no forward: one wrong quote would be believed.
    """
    m, k = strikes.shape
    if not k:
        return Parity(np.full(m, np.nan), np.full(m, np.nan))
    gap = call_mids - put_mids
    value = gap * growth[:, None]
    forwards = strikes + value
    # Where call and put lie further apart than the strike is worth, one of them is no price; a
    # strike so deep in the money is not one of the nearest.
    usable = np.abs(value) < strikes
    lost = np.flatnonzero(~np.isfinite(near))
    if lost.size:
        near = near.copy()
        even = np.where(usable[lost], np.abs(gap[lost]), np.inf).argmin(axis=1)
        near[lost] = strikes[lost, even]
    distance = np.where(usable, np.abs(strikes - near[:, None]), np.inf)
    if k > take:
        nearest = np.argpartition(distance, take - 1, axis=1)[:, :take]
        distance = np.take_along_axis(distance, nearest, axis=1)
        forwards = np.take_along_axis(forwards, nearest, axis=1)
    # What cannot be used sorts behind everything that can.
    ordered = np.sort(np.where(np.isfinite(distance), forwards, np.inf), axis=1)
    count = np.isfinite(ordered).sum(axis=1)
    rows = np.arange(m)
    last = np.maximum(count - 1, 0)
    middle = 0.5 * (ordered[rows, last // 2] + ordered[rows, (last + 1) // 2])
    spread = ordered[rows, last] - np.where(count > 0, ordered[:, 0], 0.0)
    known = count >= at_least
    return Parity(np.where(known, middle, np.nan), np.where(known, spread, np.nan))


class Forwards:
    """The forward of every expiry of a shard, by expiry id.

    Attributes:
        forward: float64, rupees; NaN before the first.
        source: uint8 code into `SOURCES`.
        dispersion: float64, rupees; NaN unless synthetic.
        is_stale: bool: nothing fresh was at hand, the forward is the newest there is.
        touched: bool: changed since it was last published.
    """

    __slots__ = ("dispersion", "forward", "is_stale", "source", "touched")

    def __init__(self, count: int) -> None:
        self.forward: Floats = np.full(count, np.nan)
        self.source: npt.NDArray[np.uint8] = np.zeros(count, np.uint8)
        self.dispersion: Floats = np.full(count, np.nan)
        self.is_stale: Bools = np.zeros(count, np.bool_)
        self.touched: Bools = np.zeros(count, np.bool_)

    def grow(self, count: int) -> None:
        """Make room for more expiries; what is there stays."""
        extra = count - self.forward.size
        if extra <= 0:
            return
        empty = Forwards(extra)
        for name in Forwards.__slots__:
            setattr(self, name, np.concatenate((getattr(self, name), getattr(empty, name))))

    def forget(self) -> None:
        """Forget every forward."""
        self.forward[:] = np.nan
        self.dispersion[:] = np.nan
        self.source[:] = NONE
        self.is_stale[:] = False
        self.touched[:] = False

    def update(
        self,
        which: Ints,
        table: InstrumentTable,
        book: Book,
        market_s: float,
        terms: ExpiryTerms,
        policy: Policy,
    ) -> None:
        """Choose the forward of some expiries anew.

        Black-76 believes the future first, then parity, then the spot. BSM is about the spot, and
        asks the others only when it is old or its shares are in their closing auction.

        Args:
            which: Expiry ids [m], each once.
            table: The instruments.
            book: Their newest prices.
            market_s: Market time, epoch seconds.
            terms: Rates, and how old a price may be.
            policy: How many strikes make a parity forward.
        """
        if not which.size:
            return
        tte = np.maximum(terms.years(which, market_s), 0.0)
        growth = np.exp(terms.rate[which] * tte)
        future, spot = table.future[which], table.spot[which]
        by_future = book.last_price[future]
        by_spot = book.last_price[spot] * np.exp(terms.carry[which] * tte)
        future_fresh = book.seen_s[future] >= market_s - terms.future_age_s[which]
        spot_fresh = book.seen_s[spot] >= market_s - terms.spot_age_s[which]

        # Worst first, each better source overwrites: an old one is used, and called stale.
        forward, source = self.forward[which], self.source[which]
        dispersion = np.full(which.size, np.nan)
        stale = np.ones(which.size, np.bool_)
        unknown = ~np.isfinite(forward)
        for prices, code in ((by_spot, SPOT), (by_future, FUTURE)):
            usable = unknown & np.isfinite(prices)
            forward[usable], source[usable] = prices[usable], code
        by_spot_now = spot_fresh & np.isfinite(by_spot)
        forward[by_spot_now], source[by_spot_now] = by_spot[by_spot_now], SPOT
        stale[by_spot_now] = False
        settled = by_spot_now & terms.is_bsm[which]
        if settled.any():
            settled &= ~terms.spot_may_stand(which, market_s)
        chosen = future_fresh & np.isfinite(by_future) & ~settled
        forward[chosen], source[chosen], stale[chosen] = by_future[chosen], FUTURE, False

        rest = np.flatnonzero(~(chosen | settled))
        if rest.size:
            ids = which[rest]
            oldest_s = (market_s - terms.quote_age_s[ids])[:, None]
            near = self.forward[ids]
            near = np.where(np.isfinite(near), near, by_future[rest])
            near = np.where(np.isfinite(near), near, by_spot[rest])
            parity = parity_forwards(
                table.strikes[ids],
                book.mid(table.calls[ids], oldest_s),
                book.mid(table.puts[ids], oldest_s),
                near,
                growth[rest],
                take=policy.parity_strikes,
                at_least=policy.parity_strikes_min,
            )
            known = np.isfinite(parity.forward)
            rows = rest[known]
            forward[rows], source[rows], stale[rows] = parity.forward[known], SYNTHETIC, False
            dispersion[rows] = parity.dispersion[known]

        self.forward[which] = forward
        self.source[which] = source
        self.dispersion[which] = dispersion
        self.is_stale[which] = stale
        self.touched[which] = np.isfinite(forward)
