"""When the broker is read: intervals, bursts of events, failures, and the close."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.clock import IST, ns_of
from libs.common.domain.market_calendar import CALENDAR
from services.orders.domain.sync_schedule import Reading, SyncSchedule, next_close_ns

SECOND = 1_000_000_000


def schedule(first_close_ns: int | None = None) -> SyncSchedule:
    return SyncSchedule(
        book_seconds=30,
        funds_seconds=60,
        settle_seconds=1,
        pause_seconds=5,
        first_close_ns=first_close_ns,
    )


def finished(first_close_ns: int | None = None) -> SyncSchedule:
    """One whose readings were both done at zero."""
    made = schedule(first_close_ns)
    for reading in Reading:
        made.done(reading, 0)
    return made


def test_everything_is_due_at_once_after_a_take_over():
    assert schedule().due(0) == [Reading.BOOK, Reading.FUNDS]
    assert schedule().wait_ns(0) == 0


def test_book_is_due_after_its_interval_and_funds_after_theirs():
    made = finished()

    assert made.due(29 * SECOND) == []
    assert made.wait_ns(29 * SECOND) == SECOND
    assert made.due(30 * SECOND) == [Reading.BOOK]
    assert made.due(60 * SECOND) == [Reading.BOOK, Reading.FUNDS]


def test_burst_of_events_moves_the_book_once_to_a_moment_after_the_first():
    made = finished()
    for at in (5.0, 5.2, 5.9):
        made.happened(round(at * SECOND))

    assert made.wait_ns(6 * SECOND - 1) == 1
    assert made.due(6 * SECOND) == [Reading.BOOK]


def test_event_never_puts_a_reading_off():
    made = finished()
    made.happened(round(29.5 * SECOND))

    assert made.due(30 * SECOND) == [Reading.BOOK]


def test_event_during_a_reading_calls_for_another_one():
    made = finished()
    made.happened(7 * SECOND)
    made.done(Reading.BOOK, 6 * SECOND)

    assert made.due(11 * SECOND - 1) == []
    assert made.due(11 * SECOND) == [Reading.BOOK]


def test_event_before_a_reading_is_served_by_it():
    made = finished()
    made.happened(5 * SECOND)
    made.done(Reading.BOOK, 6 * SECOND)

    assert made.due(35 * SECOND) == []


def test_failed_reading_is_due_again_after_its_delay_alone():
    made = finished()
    made.failed(Reading.BOOK, 30 * SECOND, 4)

    assert made.due(33 * SECOND) == []
    assert made.due(34 * SECOND) == [Reading.BOOK]


def test_events_do_not_hasten_the_attempt_after_a_failure():
    made = finished()
    made.failed(Reading.BOOK, 30 * SECOND, 10)
    made.happened(31 * SECOND)

    assert made.due(39 * SECOND) == []
    assert made.due(40 * SECOND) == [Reading.BOOK]

    made.done(Reading.BOOK, 40 * SECOND)
    made.happened(47 * SECOND)
    assert made.due(48 * SECOND) == [Reading.BOOK]


def test_steady_events_leave_a_pause_that_grows_with_what_a_reading_costs():
    made = finished()
    made.done(Reading.FUNDS, 30 * SECOND)
    made.done(Reading.BOOK, 30 * SECOND, took_ns=2 * SECOND)
    made.happened(31 * SECOND)

    assert made.due(50 * SECOND - 1) == []
    assert made.due(50 * SECOND) == [Reading.BOOK]


def test_close_makes_everything_due_once():
    made = finished(first_close_ns=10 * SECOND)

    assert made.wait_ns(0) == 10 * SECOND
    assert made.due(10 * SECOND) == [Reading.BOOK, Reading.FUNDS]
    assert made.is_closing(10 * SECOND)
    made.closed(None)
    assert made.due(10 * SECOND) == []


@given(
    st.lists(
        st.tuples(
            st.integers(0, 5_000), st.sampled_from(["done", "failed", "happened"]), st.booleans()
        ),
        max_size=30,
    )
)
def test_waiting_as_long_as_told_always_leads_to_something_due(steps):
    made, now = schedule(), 0
    for milliseconds, what, is_book in steps:
        now += milliseconds * 1_000_000
        reading = Reading.BOOK if is_book else Reading.FUNDS
        if what == "done":
            made.done(reading, now)
        elif what == "failed":
            made.failed(reading, now, 2.5)
        else:
            made.happened(now)
        wait = made.wait_ns(now)
        assert 0 <= wait <= 60 * SECOND
        assert made.due(now + wait)
        assert wait == 0 or not made.due(now + wait - 1)


@pytest.mark.parametrize("seconds", [0, -1])
def test_interval_must_be_positive(seconds):
    with pytest.raises(ValueError, match="must be positive"):
        SyncSchedule(book_seconds=seconds, funds_seconds=60, settle_seconds=1, pause_seconds=5)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        # Currencies at 17:00, equities at 15:40 derivatives and 15:35 cash, commodities at night.
        ("2026-11-18T12:00:00", "2026-11-18T15:37:00"),
        ("2026-11-18T15:38:00", "2026-11-18T15:42:00"),
        ("2026-11-18T16:59:00", "2026-11-18T17:02:00"),
        ("2026-11-18T20:00:00", "2026-11-18T23:57:00"),
        ("2026-11-18T23:58:00", "2026-11-19T15:37:00"),
        # Over a weekend.
        ("2026-11-21T10:00:00", "2026-11-23T15:37:00"),
    ],
)
def test_next_close_is_the_first_of_any_segment_with_its_margin(after, expected):
    moment = datetime.fromisoformat(after).replace(tzinfo=IST)

    found = next_close_ns(CALENDAR, moment, margin_seconds=120)

    assert found == ns_of(datetime.fromisoformat(expected).replace(tzinfo=IST))


def test_segment_that_closes_never_soon_gives_none():
    moment = datetime(2026, 11, 18, 12, tzinfo=IST)

    assert next_close_ns(CALENDAR, moment, margin_seconds=120, exchanges=()) is None
