"""When to read what from the broker: at intervals, soon after an order event, and at the close."""

from collections.abc import Iterable
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from libs.common.domain.clock import IST, NS_PER_SECOND, ns_of
from libs.common.domain.market_calendar import MarketCalendar

EXCHANGES: Final = ("NSE", "BSE", "NFO", "BFO", "CDS", "BCD", "MCX")
_SEARCH_DAYS: Final = 15
_PAUSE_FACTOR: Final = 10


class Reading(StrEnum):
    """What is read together.

    `book` is orders, trades and positions, which move with every fill; `funds` is holdings and
    margins, which nothing waits for.
    """

    BOOK = "book"
    FUNDS = "funds"


class SyncSchedule:
    """Says which readings are due, on a clock that never runs backwards and that others read.

    Args:
        book_seconds: Between two readings of the book.
        funds_seconds: Between two readings of the funds.
        settle_seconds: How long after an order event the book is read: what belongs to one event
            comes in a burst, and one reading serves it all.
        pause_seconds: Between two readings of the book, whatever happens to orders meanwhile; ten
            times as long as a reading took, if that is more.
        first_close_ns: The next moment after a close at which everything is read; None for none.

    Raises:
        ValueError: A number of seconds is not positive.
    """

    __slots__ = (
        "_at_close_ns",
        "_due_ns",
        "_happened_ns",
        "_intervals_ns",
        "_not_before_ns",
        "_pause_ns",
        "_settle_ns",
    )

    def __init__(
        self,
        *,
        book_seconds: float,
        funds_seconds: float,
        settle_seconds: float,
        pause_seconds: float,
        first_close_ns: int | None = None,
    ) -> None:
        if min(book_seconds, funds_seconds, settle_seconds, pause_seconds) <= 0:
            raise ValueError("the intervals of a schedule must be positive")
        self._intervals_ns = {
            Reading.BOOK: round(book_seconds * NS_PER_SECOND),
            Reading.FUNDS: round(funds_seconds * NS_PER_SECOND),
        }
        self._settle_ns = round(settle_seconds * NS_PER_SECOND)
        self._pause_ns = round(pause_seconds * NS_PER_SECOND)
        # Everything is due at once: after a take-over nobody knows what happened meanwhile.
        self._due_ns = dict.fromkeys(Reading, 0)
        self._at_close_ns = first_close_ns
        self._happened_ns: int | None = None
        # Events do not hasten a reading beyond this: the broker, and this process, need a pause.
        self._not_before_ns = 0

    def due(self, now_ns: int) -> list[Reading]:
        """The readings that are due now, the book first."""
        if self._at_close_ns is not None and now_ns >= self._at_close_ns:
            return list(Reading)
        return [reading for reading in Reading if now_ns >= self._due_ns[reading]]

    def wait_ns(self, now_ns: int) -> int:
        """How long nothing will be due, in nanoseconds; 0 when something is."""
        moments = [*self._due_ns.values()]
        if self._at_close_ns is not None:
            moments.append(self._at_close_ns)
        return max(0, min(moments) - now_ns)

    def happened(self, now_ns: int) -> None:
        """Something happened to an order: read the book soon; more of it changes nothing."""
        self._happened_ns = now_ns
        soon_ns = max(now_ns + self._settle_ns, self._not_before_ns)
        self._due_ns[Reading.BOOK] = min(self._due_ns[Reading.BOOK], soon_ns)

    def done(self, reading: Reading, now_ns: int, *, took_ns: int = 0) -> None:
        """A reading that began at this moment, and took so long, has been stored."""
        self._due_ns[reading] = now_ns + self._intervals_ns[reading]
        if reading is Reading.BOOK:
            self._not_before_ns = now_ns + max(self._pause_ns, _PAUSE_FACTOR * took_ns)
        happened_ns = self._happened_ns
        if reading is Reading.BOOK and happened_ns is not None and happened_ns >= now_ns:
            # It came while the book was being read, which may not show it yet.
            self.happened(happened_ns)

    def failed(self, reading: Reading, now_ns: int, delay_seconds: float) -> None:
        """A reading came to nothing: it is due again after this delay."""
        self._due_ns[reading] = now_ns + max(1, round(delay_seconds * NS_PER_SECOND))
        if reading is Reading.BOOK:
            self._not_before_ns = self._due_ns[reading]

    def closed(self, next_close_ns: int | None) -> None:
        """Everything was read after a close; tell when the next one is."""
        self._at_close_ns = next_close_ns

    def is_closing(self, now_ns: int) -> bool:
        """Whether what is due now is the reading after a close."""
        return self._at_close_ns is not None and now_ns >= self._at_close_ns


def next_close_ns(
    calendar: MarketCalendar,
    after: datetime,
    *,
    margin_seconds: float,
    exchanges: Iterable[str] = EXCHANGES,
) -> int | None:
    """The next moment at which some exchange has been closed for a while.

    Args:
        calendar: Whose closes.
        after: An aware moment; the answer is later.
        margin_seconds: How long after the close: what was not matched is cancelled then.
        exchanges: Which segments count.

    Returns:
        Epoch nanoseconds; None when nothing closes within two weeks.
    """
    margin = timedelta(seconds=margin_seconds)
    local = after.astimezone(IST)
    segments = tuple(exchanges)
    # From yesterday on: a session may end just before midnight and its margin after it.
    for offset in range(-1, _SEARCH_DAYS):
        day = (local + timedelta(days=offset)).date()
        sessions = (calendar.session(exchange, day) for exchange in segments)
        moments = {session.close + margin for session in sessions if session is not None}
        later = [moment for moment in moments if moment > after]
        if later:
            return ns_of(min(later))
    return None
