"""Good-till-triggered orders: what is taken, when it is triggered, what is listed."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.simulator.domain.accounts import demo_accounts
from services.simulator.domain.gtt import (
    ACTIVE_AT_MOST,
    Gtt,
    GttBook,
    GttStatus,
    LegResult,
    check_values,
    read_gtt,
)
from services.simulator.errors import InputError, OrderError

DAY_NS = 86_400 * 10**9
START_NS = 1_795_000_000 * 10**9
ACCOUNT = demo_accounts(1, 1)[0]


def form(values, *, kind="single", last=100.0, orders=None, **condition):
    order = {
        "transaction_type": "BUY",
        "quantity": 5,
        "product": "CNC",
        "order_type": "LIMIT",
        "price": 99.5,
    }
    return {
        "type": kind,
        "condition": json.dumps(
            {
                "exchange": "NSE",
                "tradingsymbol": "ITC",
                "trigger_values": values,
                "last_price": last,
                **condition,
            }
        ),
        "orders": json.dumps(orders if orders is not None else [order] * len(values)),
    }


def gtt(values, *, number=1, last_paise=10_000, at_ns=START_NS, kind="single") -> Gtt:
    request = read_gtt(form(values, kind=kind))
    return Gtt(number, request, token=7, last_paise=last_paise, at_ns=at_ns)


@given(st.integers(1, 100_000), st.integers(1, 100_000), st.integers(1, 100_000))
def test_a_single_trigger_waits_until_its_price_is_crossed(value, start, now):
    if value == start:
        return
    reached = gtt([value / 100], last_paise=start).reached(now)
    crossed = now >= value if value > start else now <= value
    assert reached == (0 if crossed else None)


def test_two_legs_watch_both_sides():
    both = gtt([95.0, 110.0], kind="two-leg")
    assert [both.reached(last) for last in (9_400, 9_500, 9_600, 10_999, 11_000)] == [
        0,
        0,
        None,
        None,
        1,
    ]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (form([101.0], kind="triple"), "type"),
        (form([101.0, 102.0]), "single trigger has 1"),
        (form([101.0], kind="two-leg"), "two-leg trigger has 2"),
        (form([102.0, 101.0], kind="two-leg"), "lower one comes first"),
        (form([-1.0]), "condition"),
        (form([101.0], last="much"), "condition"),
        (form([101.0], orders=[]), "single trigger has 1"),
        (form([101.0], orders=[{"transaction_type": "BUY"}]), "orders"),
        (
            form(
                [101.0],
                orders=[
                    {
                        "transaction_type": "BUY",
                        "quantity": 1,
                        "product": "CNC",
                        "order_type": "MARKET",
                        "price": 1,
                    }
                ],
            ),
            "LIMIT",
        ),
        ({"type": "single", "condition": "{", "orders": "[]"}, "condition"),
        ({"type": "single", "orders": "[]"}, "Missing"),
    ],
)
def test_a_malformed_trigger_is_refused_by_its_field(wrong, words):
    with pytest.raises(InputError, match=words):
        read_gtt(wrong)


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([100.1], "single"),
        ([99.9], "single"),
        ([101.0, 102.0], "two-leg"),
        ([98.0, 99.0], "two-leg"),
    ],
)
def test_a_trigger_must_lie_apart_from_the_market(values, kind):
    with pytest.raises(InputError):
        check_values(read_gtt(form(values, kind=kind)), 10_000)
    check_values(read_gtt(form([95.0, 105.0], kind="two-leg")), 10_000)


def test_a_triggered_leg_shows_its_order_and_ends_the_other():
    both = gtt([95.0, 110.0], kind="two-leg")
    both.trigger(1, LegResult(at_ns=START_NS + 1, order_id="42"))
    row = both.row(ACCOUNT)
    assert row["status"] == "triggered"
    assert row["orders"][0]["result"] is None
    result = row["orders"][1]["result"]
    assert result["order_result"] == {"status": "success", "order_id": "42", "rejection_reason": ""}
    assert result["triggered_at"] == 110.0


def test_a_refused_order_tells_why():
    single = gtt([95.0])
    single.trigger(0, LegResult(at_ns=START_NS, order_id=None, reason="No funds."))
    result = single.row(ACCOUNT)["orders"][0]["result"]["order_result"]
    assert (result["status"], result["rejection_reason"]) == ("failed", "No funds.")


def test_ended_triggers_are_listed_for_a_week_and_can_no_longer_be_changed():
    book = GttBook(ACCOUNT)
    book.add(gtt([95.0]))
    book.get_active("1").end(GttStatus.DELETED, START_NS)
    assert [t.id for t in book.listed(START_NS + 6 * DAY_NS)] == [1]
    assert book.listed(START_NS + 7 * DAY_NS) == []
    assert book.get("1").status is GttStatus.DELETED
    for number in ("1", "2", "x", "9" * 30):
        with pytest.raises(OrderError):
            book.get_active(number)


def test_triggers_expire_after_a_year_and_are_bounded():
    book = GttBook(ACCOUNT)
    for number in range(ACTIVE_AT_MOST):
        book.add(gtt([95.0], number=number))
    with pytest.raises(OrderError, match="500"):
        book.add(gtt([95.0], number=ACTIVE_AT_MOST))
    book.expire(START_NS + 364 * DAY_NS)
    assert len(book.active()) == ACTIVE_AT_MOST
    book.expire(START_NS + 365 * DAY_NS)
    assert book.active() == []
    for number in range(2_000):
        trigger = gtt([95.0], number=1_000 + number)
        book.add(trigger)
        trigger.end(GttStatus.DELETED, START_NS)
    assert len(book.listed(START_NS)) <= 1_001
