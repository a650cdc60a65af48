"""Which instruments tell the forward of an option: its future, its other leg, its spot."""

from collections.abc import Iterable
from itertools import chain
from typing import NamedTuple

from libs.common.domain.instruments import Instrument, Kind
from services.greeks.domain.instrument_table import SPOT_EXCHANGE


class Legs(NamedTuple):
    """What stands behind one option; None where nothing like it is listed.

    Attributes:
        future: Of the same exchange and expiry.
        partner: The put of a call's strike, the call of a put's.
        spot: The index or share.
    """

    future: Instrument | None = None
    partner: Instrument | None = None
    spot: Instrument | None = None


def legs_of(option: Instrument, instruments: Iterable[Instrument]) -> Legs:
    """Find the legs among the instruments of the option's underlying.

    A share listed on both exchanges has the price of the one that settles the contract.
    """
    future = partner = None
    spots: dict[str, Instrument] = {}
    for item in instruments:
        if item.expiry is None:
            if item.kind in {Kind.INDEX, Kind.EQUITY}:
                spots[item.exchange] = item
        elif (item.exchange, item.expiry) != (option.exchange, option.expiry):
            continue
        elif item.kind is Kind.FUTURE:
            future = item
        elif item.strike == option.strike and item.option_type is not option.option_type:
            partner = item
    home = SPOT_EXCHANGE.get(option.exchange, "")
    spot = next((spots[e] for e in chain((home,), sorted(spots)) if e in spots), None)
    return Legs(future, partner, spot)
