"""Which instruments the strike windows want: ATM and its neighbours, and what prices them."""

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime

import msgspec

from libs.common.contracts.messages import StreamMode
from libs.common.domain.instruments import Instrument, Kind
from libs.common.domain.market_calendar import CALENDAR

# The centre stays until the price is this share of a step beyond the midpoint between two
# strikes: a price that swings around the midpoint then moves nothing.
_HYSTERESIS = 0.25


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """An instrument that should be streamed.

    Attributes:
        instrument_token: The instrument.
        underlying: Its underlying, which decides the shard.
        mode: How much of it.
        reason: `explicit`, `window` or `priced_with` (needed to price others).
        account: The only account that may stream it, or None.
    """

    instrument_token: int
    underlying: str
    mode: StreamMode
    reason: str
    account: str | None = None


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """One underlying's instruments, arranged for windows.

    Attributes:
        underlying: Name.
        spot: The index or equity itself; None when the dump has none.
        futures: By expiry, nearest first.
        options: Expiry to strike to the tokens at that strike.
        exchange: Where its derivatives trade, such as `NFO`.
    """

    underlying: str
    spot: Instrument | None
    futures: tuple[Instrument, ...]
    options: dict[date, dict[float, tuple[int, ...]]]
    exchange: str


def chains(instruments: Iterable[Instrument], underlyings: Sequence[str]) -> dict[str, Chain]:
    """Arrange the instruments of the named underlyings; others are passed over."""
    names = set(underlyings)
    spots: dict[str, Instrument] = {}
    futures: dict[str, list[Instrument]] = defaultdict(list)
    options: dict[str, dict[date, dict[float, list[int]]]] = defaultdict(
        lambda: defaultdict(lambda: defaultdict(list))
    )
    exchanges: dict[str, str] = {}
    for item in instruments:
        if item.underlying not in names:
            continue
        if item.kind is Kind.OPTION and item.expiry is not None and item.strike is not None:
            options[item.underlying][item.expiry][item.strike].append(item.instrument_token)
            exchanges[item.underlying] = item.exchange
        elif item.kind is Kind.FUTURE and item.expiry is not None:
            futures[item.underlying].append(item)
            exchanges.setdefault(item.underlying, item.exchange)
        elif item.kind in (Kind.INDEX, Kind.EQUITY):
            # A stock listed twice: the exchange of its derivatives is not known here, NSE leads.
            held = spots.get(item.underlying)
            if held is None or (held.exchange != "NSE" and item.exchange == "NSE"):
                spots[item.underlying] = item
    return {
        name: Chain(
            underlying=name,
            spot=spots.get(name),
            futures=tuple(sorted(futures[name], key=lambda f: (f.expiry, f.instrument_token))),
            options={
                expiry: {strike: tuple(sorted(tokens)) for strike, tokens in strikes.items()}
                for expiry, strikes in sorted(options[name].items())
            },
            exchange=exchanges.get(name, "NFO"),
        )
        for name in underlyings
        if name in spots or name in futures or name in options
    }


def living_expiries(chain: Chain, now: datetime) -> list[date]:
    """Option expiries whose contracts still trade at `now`, nearest first."""
    return [
        expiry for expiry in chain.options if CALENDAR.expiry_instant(chain.exchange, expiry) > now
    ]


def centre_strike(strikes: Sequence[float], price: float, previous: float | None) -> float:
    """The strike a window is built around.

    Args:
        strikes: Ascending, not empty.
        price: The underlying's price.
        previous: Today's centre; it is kept while the price is near enough.
    """
    index = bisect_left(strikes, price)
    near = [strikes[i] for i in (index - 1, index) if 0 <= i < len(strikes)]
    nearest = min(near, key=lambda strike: (abs(strike - price), strike))
    if previous is None or previous == nearest or previous not in strikes:
        return nearest
    step = abs(nearest - previous)
    midpoint = (nearest + previous) / 2
    beyond = (price - midpoint) if nearest > previous else (midpoint - price)
    return nearest if beyond > _HYSTERESIS * step else previous


class Window(msgspec.Struct, frozen=True, kw_only=True):
    """The instruments of one underlying's window, and the centres to remember."""

    wanted: tuple[Wanted, ...]
    centres: dict[date, float]


def window(
    chain: Chain,
    *,
    price: float | None,
    now: datetime,
    expiries: int,
    otm_levels: int,
    previous: Mapping[date, float],
) -> Window:
    """Choose an underlying's window.

    Without a price only what does not need one is wanted: the spot and the futures.

    Args:
        chain: The underlying's instruments.
        price: Its spot price, in rupees.
        now: The market's time.
        expiries: How many expiries ahead.
        otm_levels: How many strikes on each side of the centre.
        previous: Centre by expiry from the last time.
    """
    wanted: list[Wanted] = []

    def want(token: int, mode: StreamMode, reason: str) -> None:
        wanted.append(
            Wanted(instrument_token=token, underlying=chain.underlying, mode=mode, reason=reason)
        )

    if chain.spot is not None:
        want(chain.spot.instrument_token, StreamMode.FULL, "priced_with")
    for future in chain.futures:
        if (
            future.expiry is not None
            and CALENDAR.expiry_instant(chain.exchange, future.expiry) > now
        ):
            want(future.instrument_token, StreamMode.FULL, "priced_with")
    centres: dict[date, float] = {}
    if price is not None and price > 0:
        for expiry in living_expiries(chain, now)[:expiries]:
            by_strike = chain.options[expiry]
            strikes = sorted(by_strike)
            centre = centre_strike(strikes, price, previous.get(expiry))
            centres[expiry] = centre
            at = strikes.index(centre)
            for strike in strikes[max(0, at - otm_levels) : at + otm_levels + 1]:
                for token in by_strike[strike]:
                    want(token, StreamMode.FULL, "window")
    return Window(wanted=tuple(wanted), centres=centres)
