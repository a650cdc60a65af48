"""Which exchange segments should tick now."""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Final

from libs.common.domain.market_calendar import MarketCalendar, Phase

EXCHANGE_OF_SEGMENT: Final[Mapping[int, str]] = MappingProxyType(
    {
        1: "NSE",
        2: "NFO",
        3: "CDS",
        4: "BSE",
        5: "BFO",
        6: "BCD",
        7: "MCX",
        # Indices: those that options are written on tick while shares trade.
        9: "NSE",
        12: "NCO",
    }
)
"""Exchange, as the calendar spells it, by segment: the low byte of a token."""

ALL_SEGMENTS: Final = frozenset(range(256))


def open_segments(calendar: MarketCalendar, now: datetime) -> frozenset[int]:
    """The segments in continuous trading; in an auction nothing need tick.

    Args:
        calendar: Knows the sessions.
        now: An aware moment.
    """
    open_exchanges = {
        exchange
        for exchange in set(EXCHANGE_OF_SEGMENT.values())
        if calendar.phase(exchange, now) is Phase.OPEN
    }
    return frozenset(
        segment for segment, exchange in EXCHANGE_OF_SEGMENT.items() if exchange in open_exchanges
    )
