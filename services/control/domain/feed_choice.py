"""Which market the fleet streams now: the exchanges', or the simulator while those are closed."""

from collections.abc import Iterable
from datetime import datetime

from libs.common.contracts.messages import Source
from libs.common.domain.market_calendar import CALENDAR, MarketCalendar, Phase

# Trading after the close happens at the closing price: nothing moves any more.
_IN_SESSION = frozenset({Phase.PRE_OPEN, Phase.OPEN, Phase.CLOSING_AUCTION})


def is_any_open(
    exchanges: Iterable[str], now: datetime, calendar: MarketCalendar = CALENDAR
) -> bool:
    """Whether an exchange is in session, its pre-open and closing auction included.

    Args:
        exchanges: Such as `NSE` and `NFO`.
        now: With a zone.
        calendar: The dated calendar.
    """
    return any(calendar.phase(exchange, now) in _IN_SESSION for exchange in exchanges)


def choose_feed(
    *, configured: Source, mock_allowed: bool, market_open: bool, mock_ready: bool
) -> Source:
    """The feed that should be in force.

    The simulator stands in only while every exchange is closed, and only when it can be used: an
    unreachable simulator leaves the live feed, silent as it is, where it was.

    Args:
        configured: What FEED_SOURCE says; `sim` never changes.
        mock_allowed: ENABLE_MOCK_DATA.
        market_open: Whether any exchange is in session, by India's clock.
        mock_ready: Whether an account of the simulator has a session.
    """
    if configured is Source.LIVE and mock_allowed and mock_ready and not market_open:
        return Source.SIM
    return configured
