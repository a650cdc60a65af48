"""Rows of the broker as rows of our tables: days, times, and rows that are none."""

from datetime import UTC, date, datetime

from libs.common.domain.clock import IST
from libs.common.domain.order_answers import read_order_row
from services.orders.domain.broker_rows import order_rows, trade_rows, zoned

# Past midnight in India, before it in UTC.
NOW = datetime(2026, 11, 23, 20, 0, tzinfo=UTC)


def test_naive_times_become_indian_at_any_depth():
    row = {"at": datetime(2026, 11, 24, 9, 15), "meta": {"legs": [datetime(2026, 11, 24)]}}  # noqa: DTZ001  # As kiteconnect gives them.

    assert zoned(row) == {
        "at": datetime(2026, 11, 24, 9, 15, tzinfo=IST),
        "meta": {"legs": [datetime(2026, 11, 24, tzinfo=IST)]},
    }


def test_order_belongs_to_the_indian_day_of_its_time():
    book = [
        read_order_row({"order_id": "1", "order_timestamp": "2026-11-23 15:00:00"}),
        read_order_row({"order_id": "2", "status": "OPEN", "tag": "mine"}),
    ]

    rows = order_rows(book, NOW)

    assert [(row.order_id, row.day) for row in rows] == [
        ("1", date(2026, 11, 23)),
        ("2", date(2026, 11, 24)),
    ]
    assert (rows[1].status, rows[1].tag) == ("OPEN", "mine")


def test_of_two_rows_with_one_number_the_later_counts():
    book = [read_order_row({"order_id": "1", "status": status}) for status in ("OPEN", "COMPLETE")]

    assert [row.status for row in order_rows(book, NOW)] == ["COMPLETE"]


def test_trade_without_its_numbers_is_counted_and_left_out():
    good = {
        "trade_id": "7",
        "order_id": "1",
        "fill_timestamp": datetime(2026, 11, 24, 9, 20, 1),  # noqa: DTZ001  # As kiteconnect gives it.
        "order_timestamp": "09:20:00",
        "quantity": 65,
    }

    rows, unusable = trade_rows([good, {"trade_id": "8"}, {"order_id": "1"}, good], NOW)

    assert unusable == 2
    assert [(r.trade_id, r.order_id, r.day) for r in rows] == [("7", "1", date(2026, 11, 24))]
    assert rows[0].at == datetime(2026, 11, 24, 9, 20, 1, tzinfo=IST)


def test_trade_without_a_date_was_made_now():
    (row,), _ = trade_rows(
        [{"trade_id": 7, "order_id": 1, "order_timestamp": "09:20:00", "fill_timestamp": None}], NOW
    )

    assert (row.trade_id, row.day, row.at) == ("7", date(2026, 11, 24), NOW)
