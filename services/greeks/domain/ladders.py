"""The streamed strikes of some expiries side by side, and where the money is among them."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from services.greeks.domain.book import Book
from services.greeks.domain.instrument_table import NOBODY, InstrumentTable

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


class Ladders(NamedTuple):
    """The strikes of m expiries of which somebody streams a leg.

    The dump lists hundreds that nobody does: they have no price and count for nothing.

    Attributes:
        ids: Expiry ids [m].
        forward: Rupees [m].
        sizes: How many strikes each has [m]; what lies beyond is padding.
        strikes: Ascending, rupees [m, w]; NaN as padding.
        calls: Slot of each strike's call, or `NOBODY` [m, w].
        puts: Likewise [m, w].
        atm: Position of the strike nearest the forward, the lower of two [m]; 0 without strikes.
    """

    ids: Ints
    forward: Floats
    sizes: Ints
    strikes: Floats
    calls: Ints
    puts: Ints
    atm: Ints

    @classmethod
    def of(cls, ids: Ints, forward: Floats, table: InstrumentTable, book: Book) -> "Ladders":
        """The ladders of some expiries.

        Args:
            ids: Expiry ids [m].
            forward: Of each, rupees [m].
            table: The instruments.
            book: Tells which of them have ticked.
        """
        calls, puts = table.calls[ids], table.puts[ids]
        streamed = np.isfinite(book.seen_s[calls]) | np.isfinite(book.seen_s[puts])
        sizes = streamed.sum(axis=1)
        rows, places = np.nonzero(streamed)
        starts = np.cumsum(sizes) - sizes
        at = (rows, np.arange(rows.size) - starts[rows])
        # One column at least, so that a position can be looked up in every ladder.
        shape = (ids.size, max(int(sizes.max(initial=0)), 1))
        strikes = np.full(shape, np.nan)
        strikes[at] = table.strikes[ids[rows], places]
        legs = np.full((2, *shape), NOBODY)
        legs[0][at] = calls[rows, places]
        legs[1][at] = puts[rows, places]
        distance = np.abs(strikes - forward[:, None])
        return cls(
            ids=ids,
            forward=forward,
            sizes=sizes,
            strikes=strikes,
            calls=legs[0],
            puts=legs[1],
            atm=np.where(np.isfinite(distance), distance, np.inf).argmin(axis=1),
        )

    @property
    def atm_strike(self) -> Floats:
        """The strike nearest the forward, rupees [m]; NaN without strikes."""
        return self.at_the_money(self.strikes)

    @property
    def below(self) -> Bools:
        """Which strikes lie below the forward, so that the put is out of the money [m, w]."""
        return self.strikes < self.forward[:, None]

    @property
    def out_of_the_money(self) -> Ints:
        """Slot of the leg whose volatility is the strike's, or `NOBODY` [m, w]."""
        return np.where(self.below, self.puts, self.calls)

    def at_the_money(self, values: Floats) -> Floats:
        """Of values by strike [m, w], those of the strike nearest the forward [m]."""
        found: Floats = values[np.arange(self.ids.size), self.atm]
        return found

    def straddle(self, book: Book, oldest_s: Floats) -> Floats:
        """Call plus put at the strike nearest the forward, rupees [m]; NaN unless both are known.

        Args:
            book: Newest prices; the middle of bid and ask counts, without one the last price.
            oldest_s: Bid and ask that were seen before this market time do not count [m].
        """
        rows = np.arange(self.ids.size)
        legs = np.stack((self.calls[rows, self.atm], self.puts[rows, self.atm]))
        mids = book.mid(legs, oldest_s)
        prices: Floats = np.where(np.isfinite(mids), mids, book.last_price[legs])
        total: Floats = prices.sum(axis=0)
        return total

    def remembered_smile(self, book: Book, oldest_s: Floats) -> Floats:
        """Volatility of each strike as its newest tick had it [m, w]; NaN where unknown or old.

        Args:
            book: Newest volatilities.
            oldest_s: Those found before this market time do not count [m].
        """
        legs = self.out_of_the_money
        return np.where(book.iv_seen_s[legs] >= oldest_s[:, None], book.iv[legs], np.nan)
