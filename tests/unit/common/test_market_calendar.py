"""When the Indian markets trade, by dated rules; examples from circulars and recorded days."""

from datetime import UTC, date, datetime, time, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.clock import IST
from libs.common.domain.market_calendar import (
    CALENDAR,
    CalendarError,
    MarketCalendar,
    Phase,
    Session,
)
from libs.common.domain.trading_hours import EXCHANGES, HOURS, Hours

NOV_23 = date(2026, 11, 23)
DAYS = st.dates(date(2024, 1, 1), date(2027, 12, 31))


def at(day: date, text: str) -> datetime:
    return datetime.combine(day, time.fromisoformat(text), IST)


def session(exchange: str, day: date) -> Session:
    found = CALENDAR.session(exchange, day)
    assert found is not None
    return found


def hours(exchange: str, day: date) -> tuple[str, str]:
    found = session(exchange, day)
    return f"{found.open:%H:%M}", f"{found.close:%H:%M}"


@pytest.mark.parametrize("exchange", ["NFO", "BFO"])
def test_derivatives_close_ten_minutes_later_since_august_2026(exchange):
    assert hours(exchange, date(2026, 7, 31)) == ("09:15", "15:30")
    assert hours(exchange, date(2026, 8, 3)) == ("09:15", "15:40")


@pytest.mark.parametrize("exchange", ["NSE", "BSE"])
def test_cash_has_a_closing_auction_since_august_2026(exchange):
    before, since = session(exchange, date(2026, 7, 31)), session(exchange, date(2026, 8, 3))
    assert (before.closing_auction, before.close) == (None, at(before.date, "15:30"))
    assert since.closing_auction == at(since.date, "15:15")
    assert since.close == at(since.date, "15:35")


def test_cash_pre_open_orders_are_taken_longer_since_september_2026():
    assert session("NSE", date(2026, 9, 4)).pre_open_entry_until == at(date(2026, 9, 4), "09:08")
    assert session("NSE", date(2026, 9, 7)).pre_open_entry_until == at(date(2026, 9, 7), "09:10")


def test_derivatives_have_a_pre_open_since_december_2025():
    assert session("NFO", date(2025, 12, 5)).pre_open is None
    assert session("NFO", date(2025, 12, 8)).pre_open == at(date(2025, 12, 8), "09:00")


@pytest.mark.parametrize(
    ("day", "close"),
    [
        (date(2026, 3, 6), "23:55"),
        (date(2026, 3, 9), "23:30"),
        (date(2026, 10, 30), "23:30"),
        (date(2026, 11, 2), "23:55"),
    ],
)
def test_commodities_close_with_the_seasons_of_new_york(day, close):
    assert hours("MCX", day) == ("09:00", close)


def test_currencies_trade_to_five():
    assert hours("CDS", NOV_23) == ("09:00", "17:00")


@pytest.mark.parametrize(
    ("exchange", "clock", "phase"),
    [
        ("NSE", "08:59:59", Phase.CLOSED),
        ("NSE", "09:00:00", Phase.PRE_OPEN),
        ("NSE", "09:14:59", Phase.PRE_OPEN),
        ("NSE", "09:15:00", Phase.OPEN),
        ("NSE", "15:14:59", Phase.OPEN),
        ("NSE", "15:15:00", Phase.CLOSING_AUCTION),
        ("NSE", "15:35:00", Phase.POST_CLOSE),
        ("NSE", "15:59:59", Phase.POST_CLOSE),
        ("NSE", "16:00:00", Phase.CLOSED),
        ("NFO", "09:10:00", Phase.PRE_OPEN),
        ("NFO", "15:39:59", Phase.OPEN),
        ("NFO", "15:40:00", Phase.CLOSED),
        ("MCX", "08:59:59", Phase.CLOSED),
        ("MCX", "23:54:59", Phase.OPEN),
        ("CDS", "17:00:00", Phase.CLOSED),
    ],
)
def test_phases_of_an_ordinary_day(exchange, clock, phase):
    moment = at(NOV_23, clock)
    assert CALENDAR.phase(exchange, moment) is phase
    assert CALENDAR.phase(exchange, moment.astimezone(UTC)) is phase


def test_cash_was_open_to_half_past_three_before_the_closing_auction():
    day = date(2026, 7, 31)
    assert CALENDAR.phase("NSE", at(day, "15:29:59")) is Phase.OPEN
    assert CALENDAR.phase("NSE", at(day, "15:30:00")) is Phase.POST_CLOSE


@pytest.mark.parametrize("exchange", ["NSE", "BSE", "NFO", "BFO"])
@pytest.mark.parametrize("day", [date(2026, 11, 24), date(2026, 1, 15), date(2026, 11, 21)])
def test_shares_and_their_derivatives_rest_on_holidays_and_weekends(exchange, day):
    assert not CALENDAR.is_trading_day(exchange, day)
    assert not CALENDAR.is_business_day(exchange, day)
    assert CALENDAR.session(exchange, day) is None
    assert CALENDAR.phase(exchange, at(day, "12:00")) is Phase.CLOSED


def test_commodities_trade_in_the_evening_of_most_holidays():
    evening = session("MCX", date(2026, 11, 24))
    assert (evening.occasion, evening.open) == ("evening", at(evening.date, "17:00"))
    assert evening.close == at(evening.date, "23:55")


@pytest.mark.parametrize(
    "day", [date(2026, 1, 26), date(2026, 4, 3), date(2026, 10, 2), date(2026, 12, 25)]
)
def test_commodities_rest_all_day_on_the_great_holidays(day):
    assert CALENDAR.session("MCX", day) is None


def test_commodities_trade_only_in_the_morning_of_new_year():
    assert hours("MCX", date(2026, 1, 1)) == ("09:00", "17:00")


@pytest.mark.parametrize("day", [date(2025, 2, 1), date(2026, 2, 1)])
def test_budget_weekend_is_a_full_session_but_no_business_day(day):
    assert hours("NFO", day) == ("09:15", "15:30")
    assert session("NSE", day).occasion == "budget"
    assert not CALENDAR.is_business_day("NSE", day)
    assert not CALENDAR.is_trading_day("CDS", day)


def test_muhurat_is_one_hour_on_a_closed_day():
    day = date(2025, 10, 21)
    assert hours("NSE", day) == ("13:45", "14:45")
    assert CALENDAR.phase("NFO", at(day, "14:00")) is Phase.OPEN
    assert CALENDAR.phase("NFO", at(day, "12:00")) is Phase.CLOSED
    assert session("NSE", date(2026, 11, 8)).occasion == "muhurat"


def test_neighbouring_trading_days_step_over_holidays_and_weekends():
    assert CALENDAR.next_trading_day("NFO", NOV_23) == date(2026, 11, 25)
    assert CALENDAR.previous_trading_day("NFO", date(2026, 11, 25)) == NOV_23
    assert CALENDAR.previous_trading_day("NFO", NOV_23) == date(2026, 11, 20)
    assert CALENDAR.business_day_on_or_before("NFO", date(2026, 11, 24)) == NOV_23
    assert CALENDAR.business_day_on_or_before("NFO", NOV_23) == NOV_23


def test_expiry_does_not_move_onto_a_muhurat_day():
    assert CALENDAR.business_day_on_or_before("NFO", date(2025, 10, 21)) == date(2025, 10, 20)


@pytest.mark.parametrize(
    ("exchange", "expiry", "clock"),
    [
        ("NFO", date(2026, 7, 28), "15:30"),
        ("NFO", NOV_23, "15:40"),
        ("BFO", date(2026, 8, 13), "15:40"),
        ("BFO", date(2026, 7, 30), "15:30"),
        ("CDS", date(2026, 11, 26), "12:30"),
        ("MCX", date(2026, 11, 18), "23:55"),
        ("MCX", date(2026, 7, 20), "23:30"),
    ],
)
def test_contract_dies_at_the_close_of_its_day(exchange, expiry, clock):
    assert CALENDAR.expiry_instant(exchange, expiry) == at(expiry, clock)


def test_expiry_of_the_dump_is_believed_on_a_day_that_looks_closed():
    assert CALENDAR.expiry_instant("NFO", date(2026, 11, 24)) == at(date(2026, 11, 24), "15:40")
    assert CALENDAR.expiry_instant("NFO", date(2031, 1, 5)) == at(date(2031, 1, 5), "15:40")


@pytest.mark.parametrize("exchange", ["NSE", "BSE"])
def test_shares_never_expire(exchange):
    with pytest.raises(CalendarError, match="never expire"):
        CALENDAR.expiry_instant(exchange, NOV_23)


def test_unknown_exchange_is_named_with_the_known_ones():
    for ask in (CALENDAR.session, CALENDAR.is_business_day, CALENDAR.expiry_instant):
        with pytest.raises(CalendarError, match=r"'NYSE' is unknown; known are .*NFO"):
            ask("NYSE", NOV_23)


def test_naive_moment_is_refused():
    with pytest.raises(CalendarError, match="time zone"):
        CALENDAR.phase("NSE", datetime(2026, 11, 23, 10))  # noqa: DTZ001 -- the point.


@given(exchange=st.sampled_from(sorted(EXCHANGES)), day=DAYS)
def test_every_session_is_in_order_on_its_day_in_indian_time(exchange, day):
    found = CALENDAR.session(exchange, day)
    assert CALENDAR.is_trading_day(exchange, day) is (found is not None)
    if found is None:
        assert CALENDAR.phase(exchange, at(day, "12:00")) is Phase.CLOSED
        return
    moments = [
        found.pre_open,
        found.pre_open_entry_until,
        found.open,
        found.closing_auction,
        found.close,
        found.post_close_until,
    ]
    present = [moment for moment in moments if moment is not None]
    assert present == sorted(set(present))
    assert {moment.date() for moment in present} == {day}
    assert all(moment.utcoffset() == timedelta(hours=5, minutes=30) for moment in present)
    assert CALENDAR.phase(exchange, found.open) is not Phase.CLOSED


@given(exchange=st.sampled_from(sorted(EXCHANGES)), day=DAYS)
def test_next_and_previous_trading_day_are_inverse(exchange, day):
    after = CALENDAR.next_trading_day(exchange, day)
    assert after > day
    assert CALENDAR.is_trading_day(exchange, after)
    before = CALENDAR.previous_trading_day(exchange, after)
    assert before == day if CALENDAR.is_trading_day(exchange, day) else before < day


def test_rows_of_hours_ascend():
    for rows in HOURS.values():
        days = [row.effective_from for row in rows]
        assert days == sorted(set(days))


def closed_for_ever() -> MarketCalendar:
    first = date(2026, 1, 1)
    return MarketCalendar(
        weekday_closures=[first + timedelta(days=n) for n in range(-800, 800)],
        hours={"NFO": (Hours(effective_from=first, open=time(9), close=time(10)),)},
        special_sessions=(),
        known_until=first,
    )


def test_search_without_end_is_an_error():
    calendar = closed_for_ever()
    for ask in (calendar.next_trading_day, calendar.business_day_on_or_before):
        with pytest.raises(CalendarError, match="NFO"):
            ask("NFO", date(2026, 2, 2))


def test_day_before_the_first_known_hours_is_an_error():
    with pytest.raises(CalendarError, match="before the first hours"):
        closed_for_ever().session("NFO", date(2025, 12, 31))
