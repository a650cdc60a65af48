"""When an order may go to an exchange, and how it may be carried there."""

from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from types import MappingProxyType
from typing import Final

from libs.common.contracts.orders import Exchange, PlaceOrder, Product, Variety
from libs.common.domain.clock import IST, ist_datetime
from libs.common.domain.instruments import Instrument, Kind
from libs.common.domain.market_calendar import MarketCalendar, Phase, Session
from services.orders.errors import OrderRefusedError

__all__ = ["book_day", "check_hours", "check_product", "is_day_over", "square_off"]

_CASH: Final = frozenset({Exchange.NSE, Exchange.BSE})
_IN_CASH: Final = frozenset({Product.CNC, Product.MIS, Product.MTF})
_IN_DERIVATIVES: Final = frozenset({Product.NRML, Product.MIS})

# The broker's times for closing intraday positions (support pages of before the closing auction;
# later ones were not seen). Orders that would open one afterwards are refused by the broker.
_SQUARE_OFF: Final[Mapping[str, time]] = MappingProxyType(
    {
        "NSE": time(15, 20),
        "BSE": time(15, 20),
        "NFO": time(15, 25),
        "BFO": time(15, 25),
        "CDS": time(16, 45),
        "BCD": time(16, 45),
    }
)
_COMMODITY_SQUARE_OFF: Final = timedelta(minutes=25)
# Between one day's book and the next the broker's day turns in the small hours.
_BOOK_TURNS_AT: Final = time(6, 0)


def check_product(command: PlaceOrder, instrument: Instrument) -> None:
    """Refuse what cannot be traded at all, or not be carried that way.

    Raises:
        OrderRefusedError: `not_tradable` or `product_not_for_exchange`.
    """
    if instrument.kind is Kind.INDEX:
        raise OrderRefusedError(
            "not_tradable",
            f"{instrument.key} is an index, which nobody can order: order its future, an option "
            "or a fund",
            "tradingsymbol",
        )
    is_cash = command.exchange in _CASH
    allowed = _IN_CASH if is_cash else _IN_DERIVATIVES
    if command.product not in allowed:
        kinds = "shares" if is_cash else "derivatives"
        raise OrderRefusedError(
            "product_not_for_exchange",
            f"{command.product} does not go with {kinds} at {command.exchange}: use "
            f"{' or '.join(sorted(allowed))}",
            "product",
        )


def check_hours(
    command: PlaceOrder, instrument: Instrument, at_ns: int, calendar: MarketCalendar
) -> None:
    """Refuse an order that the exchange would not take now.

    Kite turns a regular order outside the hours into one for the next morning. Nobody asked for
    that, so it is refused; whoever wants it says `amo`.

    Args:
        command: The order.
        instrument: Of it.
        at_ns: Epoch ns of the market's clock.
        calendar: The hours.

    Raises:
        OrderRefusedError: `contract_expired`, `market_closed`, `market_open` or
            `square_off_passed`.
    """
    now = ist_datetime(at_ns)
    exchange = command.exchange.value
    expiry = instrument.expiry
    if expiry is not None and now >= calendar.expiry_instant(instrument.exchange, expiry):
        raise OrderRefusedError(
            "contract_expired",
            f"{instrument.key} expired on {expiry}: order a later contract",
            "tradingsymbol",
        )
    phase = calendar.phase(exchange, now)
    if command.variety is Variety.AMO:
        if phase in {Phase.OPEN, Phase.CLOSING_AUCTION}:
            raise OrderRefusedError(
                "market_open",
                f"{exchange} trades now, and variety amo is for the hours in which it does not: "
                "use regular",
                "variety",
            )
        return
    session = calendar.session(exchange, now.date())
    if not _takes_orders(phase, instrument, session):
        raise OrderRefusedError(
            "market_closed",
            f"{exchange} takes no orders for {instrument.tradingsymbol} now, it opens at "
            f"{_next_open(exchange, now, calendar):%Y-%m-%d %H:%M} Indian time: order then, or "
            "with variety amo",
            "variety",
        )
    closes_at = None if session is None else square_off(session)
    if command.product is Product.MIS and closes_at is not None and now >= closes_at:
        raise OrderRefusedError(
            "square_off_passed",
            f"the broker has been closing MIS positions at {exchange} since "
            f"{closes_at:%H:%M}: use {'CNC' if command.exchange in _CASH else 'NRML'}",
            "product",
        )


def square_off(session: Session) -> datetime | None:
    """When the broker begins to close intraday positions.

    Returns:
        An aware moment in Indian time; None where it is not known: special sessions of an hour.
    """
    if session.segment in {"MCX", "NCO"}:
        return session.close - _COMMODITY_SQUARE_OFF
    at = _SQUARE_OFF.get(session.segment)
    if at is None:
        return None
    moment = datetime.combine(session.date, at, IST)
    return moment if session.open < moment <= session.close else None


def book_day(exchange: str, variety: str, at_ns: int, calendar: MarketCalendar) -> date:
    """The day whose order book at the broker shows an order.

    Args:
        exchange: Where.
        variety: Kite's counter; an `amo` order belongs to the session it waits for.
        at_ns: When it was sent, or asked for; epoch ns of the market's clock.
        calendar: The sessions.
    """
    now = ist_datetime(at_ns)
    today = now.date()
    if variety != Variety.AMO:
        return today
    session = calendar.session(exchange, today)
    if session is not None and now < session.close:
        return today
    return calendar.next_trading_day(exchange, today)


def is_day_over(
    exchange: str, variety: str, at_ns: int, now_ns: int, calendar: MarketCalendar
) -> bool:
    """Whether the broker's book no longer shows an order, so that its absence proves nothing.

    Args:
        exchange: Where.
        variety: Kite's counter.
        at_ns: When it was sent, or asked for; epoch ns of the market's clock.
        now_ns: Epoch ns of the same clock.
        calendar: The sessions.
    """
    day = book_day(exchange, variety, at_ns, calendar)
    turns = datetime.combine(day + timedelta(days=1), _BOOK_TURNS_AT, IST)
    return ist_datetime(now_ns) >= turns


def _takes_orders(phase: Phase, instrument: Instrument, session: Session | None) -> bool:
    match phase:
        case Phase.OPEN | Phase.CLOSING_AUCTION:
            return True
        case Phase.PRE_OPEN:
            # The opening auction of derivatives is for futures alone.
            return session is not None and instrument.kind is not Kind.OPTION
        case Phase.POST_CLOSE:
            return instrument.kind is Kind.EQUITY
        case Phase.CLOSED:
            return False


def _next_open(exchange: str, now: datetime, calendar: MarketCalendar) -> datetime:
    session = calendar.session(exchange, now.date())
    if session is None or now >= session.open:
        day = calendar.next_trading_day(exchange, now.date())
        session = calendar.session(exchange, day)
    # `next_trading_day` gives only days with a session.
    assert session is not None  # noqa: S101
    return session.open
