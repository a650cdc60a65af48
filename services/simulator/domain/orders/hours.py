"""When an exchange takes orders, and when they are kept for its next session."""

from datetime import time
from enum import StrEnum
from typing import Final

from libs.common.domain.clock import ist_datetime
from libs.common.domain.market_calendar import MarketCalendar

_DERIVATIVES: Final = frozenset({"NFO", "BFO"})
# The broker's page on after-market orders; it speaks of the closes before August 2026.
_CASH_WINDOW: Final = (time(16, 0), time(8, 58))
_DERIVATIVES_WINDOW: Final = (time(15, 45), time(9, 10))


class Hours(StrEnum):
    """What happens to an order that comes now.

    Attributes:
        OPEN: It goes to the exchange.
        AFTER_MARKET: It is kept for the next session.
        SHUT: It is refused: too late for this session, or too close to the next.
    """

    OPEN = "open"
    AFTER_MARKET = "after_market"
    SHUT = "shut"


def hours(exchange: str, at_ns: int, calendar: MarketCalendar) -> Hours:
    """Say what happens to an order at a moment.

    Args:
        exchange: NSE, BSE, NFO or BFO.
        at_ns: Epoch nanoseconds.
        calendar: Knows the sessions.
    """
    now = ist_datetime(at_ns)
    session = calendar.session(exchange, now.date())
    if session is None:
        return Hours.AFTER_MARKET
    if session.open <= now < session.close:
        return Hours.OPEN
    begins, ends = _DERIVATIVES_WINDOW if exchange in _DERIVATIVES else _CASH_WINDOW
    if now < session.open:
        return Hours.AFTER_MARKET if now.time() < ends else Hours.SHUT
    late = now.time() >= begins
    return Hours.AFTER_MARKET if late else Hours.SHUT
