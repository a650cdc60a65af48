"""Which instruments the strike windows want: ATM and its neighbours, and what prices them."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import Final

import msgspec

from libs.common.contracts.messages import StreamMode
from libs.common.domain.instruments import Instrument, Kind
from libs.common.domain.market_calendar import CALENDAR, CalendarError

EXPLICIT: Final = "explicit"
WINDOW: Final = "window"
PRICED_WITH: Final = "priced_with"

DWELL: Final = timedelta(seconds=60)
"""A centre that moved stays for so long, by the market's clock, unless the price jumps."""
# The centre stays until the price is this share of a step beyond the midpoint between two
# strikes: a price that swings around the midpoint then moves nothing.
_HYSTERESIS = 0.25
# A price beyond the strike so many places from the centre is a jump: waiting would leave the
# window's outer half, where nobody trades, on one side and nothing on the other.
_JUMP_STRIKES = 2


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """An instrument that should be streamed.

    Attributes:
        instrument_token: The instrument.
        underlying: Its underlying, which decides the shard.
        mode: How much of it.
        reason: `explicit`, `window` or `priced_with` (needed to price others).
        account: The only account that may stream it, or None.
        needs: What prices it; streamed whenever it is.
        distance: Strikes from the money: the nearest come first when room is short.
    """

    instrument_token: int
    underlying: str
    mode: StreamMode
    reason: str
    account: str | None = None
    needs: tuple[int, ...] = ()
    distance: int = 0


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """One underlying's instruments, arranged for windows.

    Attributes:
        underlying: Name.
        spot: The index or equity itself; None when the dump has none.
        futures: By expiry, nearest first.
        options: Expiry to strike, both ascending, to the tokens at that strike.
        exchange: Where its derivatives trade, such as `NFO`.
    """

    underlying: str
    spot: Instrument | None
    futures: tuple[Instrument, ...]
    options: dict[date, dict[float, tuple[int, ...]]]
    exchange: str

    def pricing(self, expiry: date | None) -> tuple[Instrument, ...]:
        """What a contract of this expiry is priced with: the spot and that expiry's futures."""
        spot = () if self.spot is None else (self.spot,)
        return (*spot, *(future for future in self.futures if future.expiry == expiry))


class Universe:
    """Today's instruments by token and by underlying; chains are arranged when asked for.

    Args:
        instruments: One dump.
    """

    def __init__(self, instruments: Iterable[Instrument]) -> None:
        self.instruments: dict[int, Instrument] = {}
        self._members: dict[str, list[Instrument]] = defaultdict(list)
        self._chains: dict[str, Chain | None] = {}
        for item in instruments:
            self.instruments[item.instrument_token] = item
            self._members[item.underlying].append(item)

    def chain(self, underlying: str) -> Chain | None:
        """The chain of an underlying; None when the dump does not have it."""
        if underlying not in self._chains:
            members = self._members.get(underlying, ())
            self._chains[underlying] = chain_of(underlying, members)
        return self._chains[underlying]

    def chains(self, underlyings: Iterable[str]) -> dict[str, Chain]:
        """The chains of the named underlyings; names that the dump does not have are left out."""
        found = ((name, self.chain(name)) for name in underlyings)
        return {name: chain for name, chain in found if chain is not None}


def chain_of(underlying: str, members: Iterable[Instrument]) -> Chain | None:
    """Arrange the instruments of one underlying; None when there are none."""
    spot: Instrument | None = None
    futures: list[Instrument] = []
    options: dict[date, dict[float, list[int]]] = defaultdict(lambda: defaultdict(list))
    exchange: str | None = None
    seen = False
    for item in members:
        seen = True
        if item.kind is Kind.OPTION and item.expiry is not None and item.strike is not None:
            options[item.expiry][item.strike].append(item.instrument_token)
            exchange = item.exchange
        elif item.kind is Kind.FUTURE and item.expiry is not None:
            futures.append(item)
            exchange = exchange or item.exchange
        elif item.kind in (Kind.INDEX, Kind.EQUITY) and (
            # A stock listed twice: the exchange of its derivatives is not known here, NSE leads.
            spot is None or (spot.exchange != "NSE" and item.exchange == "NSE")
        ):
            spot = item
    if not seen:
        return None
    return Chain(
        underlying=underlying,
        spot=spot,
        futures=tuple(sorted(futures, key=lambda f: (f.expiry or date.max, f.instrument_token))),
        options={
            expiry: {strike: tuple(sorted(tokens)) for strike, tokens in sorted(strikes.items())}
            for expiry, strikes in sorted(options.items())
        },
        exchange=exchange or "NFO",
    )


def has_expired(item: Instrument, now: datetime) -> bool:
    """Whether a contract no longer trades at `now`; what never expires has not."""
    return item.expiry is not None and _is_over(item.exchange, item.expiry, now)


def _is_over(exchange: str, expiry: date, now: datetime) -> bool:
    instant = _instant(exchange, expiry)
    # An exchange whose hours the calendar does not know: its contracts live out their day.
    return expiry < now.date() if instant is None else instant <= now


@lru_cache(maxsize=4096)
def _instant(exchange: str, expiry: date) -> datetime | None:
    try:
        return CALENDAR.expiry_instant(exchange, expiry)
    except CalendarError:
        return None


def living_expiries(chain: Chain, now: datetime) -> list[date]:
    """Option expiries whose contracts still trade at `now`, nearest first."""
    return [expiry for expiry in chain.options if not _is_over(chain.exchange, expiry, now)]


def priced_with(item: Instrument, chain: Chain) -> tuple[Wanted, ...]:
    """What must be streamed so that the options and futures of `item`'s expiry can be priced.

    Nothing for an index or an equity, which are the price themselves.
    """
    if item.kind not in (Kind.OPTION, Kind.FUTURE):
        return ()
    return tuple(_pricer(needed, chain.underlying) for needed in chain.pricing(item.expiry))


def _pricer(item: Instrument, underlying: str) -> Wanted:
    return Wanted(
        instrument_token=item.instrument_token,
        underlying=underlying,
        mode=StreamMode.FULL,
        reason=PRICED_WITH,
    )


class Centre(msgspec.Struct, frozen=True):
    """The strike a window is built around.

    Attributes:
        strike: Rupees.
        moved_at: When it came there, market time.
    """

    strike: float
    moved_at: datetime


def centre_strike(strikes: Sequence[float], price: float, previous: float | None) -> float:
    """The strike that price and hysteresis ask for, whatever the time.

    Args:
        strikes: Ascending, not empty, at any distances from one another.
        price: The underlying's price.
        previous: The present centre; it is kept while the price is near enough.
    """
    at = _nearest(strikes, price)
    nearest = strikes[at]
    if previous is None or previous == nearest or _place(strikes, previous) is None:
        return nearest
    # The strike before the nearest on the way there: between the two lies the line to cross.
    before = strikes[at - 1] if nearest > previous else strikes[at + 1]
    line = (nearest + before) / 2 + _HYSTERESIS * (nearest - before)
    crossed = price > line if nearest > previous else price < line
    return nearest if crossed else before


def move_centre(
    strikes: Sequence[float], price: float, held: Centre | None, now: datetime
) -> Centre:
    """The centre after a look at the price.

    It moves when the price has crossed the line between two strikes by a quarter of their
    distance, and then not again for `DWELL`, unless the price has jumped beyond the second strike
    from it. A clock that ran backwards (another market day of a simulator) holds nothing up.

    Args:
        strikes: Ascending, not empty.
        price: The forward or the spot.
        held: The centre of the last look; None at the first.
        now: The market's time.
    """
    place = None if held is None else _place(strikes, held.strike)
    if held is None or place is None:
        return Centre(strikes[_nearest(strikes, price)], now)
    strike = centre_strike(strikes, price, held.strike)
    if strike == held.strike:
        return held
    low, high = place - _JUMP_STRIKES, place + _JUMP_STRIKES
    jumped = (low >= 0 and price < strikes[low]) or (high < len(strikes) and price > strikes[high])
    dwelling = timedelta(0) <= now - held.moved_at < DWELL
    return held if dwelling and not jumped else Centre(strike, now)


def _nearest(strikes: Sequence[float], price: float) -> int:
    """Place of the strike nearest a price; the lower of two."""
    index = bisect_left(strikes, price)
    near = [i for i in (index - 1, index) if 0 <= i < len(strikes)]
    return min(near, key=lambda i: abs(strikes[i] - price))


def _place(strikes: Sequence[float], strike: float) -> int | None:
    index = bisect_left(strikes, strike)
    return index if index < len(strikes) and strikes[index] == strike else None


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The instruments of one underlying's window, and the centres to remember."""

    wanted: tuple[Wanted, ...]
    centres: dict[date, Centre]


def window(
    chain: Chain,
    *,
    spot: float | None,
    forwards: Mapping[date, float],
    now: datetime,
    expiries: int,
    otm_levels: int,
    previous: Mapping[date, Centre],
) -> Window:
    """Choose an underlying's window.

    Every expiry follows its own forward, or the spot while it has none. Without any price a centre
    stays where it was, and an expiry that never had one has no window yet: then only the spot and
    the futures are wanted.

    Args:
        chain: The underlying's instruments.
        spot: Its spot price, in rupees.
        forwards: Fresh forwards by expiry, in rupees.
        now: The market's time.
        expiries: How many expiries ahead.
        otm_levels: How many strikes on each side of the centre.
        previous: Centre by expiry from the last time.
    """
    wanted: list[Wanted] = []
    if chain.spot is not None:
        wanted.append(_pricer(chain.spot, chain.underlying))
    wanted.extend(
        _pricer(future, chain.underlying)
        for future in chain.futures
        if not has_expired(future, now)
    )
    centres: dict[date, Centre] = {}
    for expiry in living_expiries(chain, now)[:expiries]:
        by_strike = chain.options[expiry]
        strikes = tuple(by_strike)
        held = previous.get(expiry)
        price = forwards.get(expiry, spot)
        if price is not None and price > 0:
            centres[expiry] = move_centre(strikes, price, held, now)
        elif held is not None and _place(strikes, held.strike) is not None:
            centres[expiry] = held
        else:
            continue
        at = strikes.index(centres[expiry].strike)
        needs = tuple(item.instrument_token for item in chain.pricing(expiry))
        first = max(0, at - otm_levels)
        for place, strike in enumerate(strikes[first : at + otm_levels + 1], start=first):
            wanted.extend(
                Wanted(
                    instrument_token=token,
                    underlying=chain.underlying,
                    mode=StreamMode.FULL,
                    reason=WINDOW,
                    needs=needs,
                    distance=abs(place - at),
                )
                for token in by_strike[strike]
            )
    return Window(wanted=tuple(wanted), centres=centres)
