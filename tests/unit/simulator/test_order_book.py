"""The broker's order book: the life of orders, fills, slices, legs, limits and memory."""

import contextlib
import hashlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from services.simulator.domain.orders import rows
from services.simulator.domain.orders.book import FILLS_AT_MOST, Numbers, OrderBook, Placement
from services.simulator.domain.orders.contract import Contract, Touch
from services.simulator.domain.orders.hours import Hours
from services.simulator.domain.orders.order import (
    SNAPSHOTS_AT_MOST,
    TERMINAL,
    WORKING,
    Order,
    Status,
)
from services.simulator.domain.orders.ticket import Change, OrderType, Ticket, Validity
from services.simulator.errors import DayCapError, InputError, KiteError, MarginError, OrderError
from tests.unit.simulator.order_forms import (
    LOT,
    NOW,
    OPTION,
    SHARE,
    make_book,
    settle,
    statuses,
    ticket,
    touch,
)

NOBODY = touch(bids=(), asks=())
MINUTE = 60_000_000_000


def place(
    book: OrderBook,
    wanted: Ticket | None = None,
    *,
    market: Touch | None = None,
    contract: Contract = OPTION,
    now: Hours = Hours.OPEN,
) -> Placement:
    return book.place(wanted or ticket(), contract, market or touch(), now=now, at_ns=NOW)


def placed(
    book: OrderBook, market: Touch | None = None, contract: Contract = OPTION, **changes: object
) -> Order:
    """An order that has got as far as it gets on its own."""
    order = place(book, ticket("regular", **changes), market=market, contract=contract).order
    settle(book, order, market)
    return order


def status_of(order: Order) -> Status:
    """Its status, which the type checker does not know to be what it was a line before."""
    return order.status


def told(book: OrderBook) -> list[str]:
    return [item.body["status"] for item in book.drain()[1]]


def test_a_marketable_order_takes_every_step_and_is_filled_at_the_offer():
    book = make_book()
    order = placed(book, price=100.2)
    assert statuses(order) == [
        "PUT ORDER REQ RECEIVED",
        "VALIDATION PENDING",
        "OPEN PENDING",
        "OPEN",
        "COMPLETE",
    ]
    row = rows.order_row(order, order.history[-1], book.account)
    assert (row["average_price"], row["filled_quantity"], row["pending_quantity"]) == (100.1, 65, 0)
    assert told(book) == ["OPEN", "COMPLETE"]


def test_before_the_exchange_has_it_an_order_shows_no_exchange_number():
    book = make_book()
    order = placed(book, NOBODY)
    before, after = (
        rows.order_row(order, snapshot, book.account)
        for snapshot in (order.history[0], order.history[-1])
    )
    assert before["exchange_order_id"] is before["exchange_timestamp"] is None
    assert len(after["exchange_order_id"]) == 16
    assert after["exchange_timestamp"] == "2026-11-18 11:00:00"


def test_a_limit_order_rests_until_the_market_comes_to_it():
    book = make_book()
    order = placed(book, price=99.0)
    assert status_of(order) is Status.OPEN
    book.match(order, touch(asks=((9_905, LOT),)), NOW)
    assert status_of(order) is Status.OPEN
    book.match(order, touch(asks=((9_900, LOT),)), NOW)
    assert status_of(order) is Status.COMPLETE


def test_a_market_order_becomes_a_limit_order_at_the_protection_price_and_the_rest_stays_open():
    book = make_book()
    order = placed(
        book,
        touch(asks=((10_010, LOT), (10_200, LOT), (10_500, LOT))),
        order_type="MARKET",
        market_protection=2,
        price=None,
        quantity=3 * LOT,
    )
    assert (order.order_type, order.price) == (OrderType.LIMIT, 10_200)
    assert (order.filled, order.status) == (2 * LOT, Status.OPEN)
    assert order.tags == ("t1", "mktp", "mktp:2.00")
    assert rows.order_row(order, order.history[-1], book.account)["average_price"] == 101.05


def test_an_ioc_order_is_cancelled_with_what_is_left():
    book = make_book()
    market = touch(asks=((10_000, LOT),))
    order = placed(book, market, quantity=2 * LOT, validity="IOC")
    assert status_of(order) is Status.CANCELLED
    row = rows.order_row(order, order.history[-1], book.account)
    # As Kite shows it: what was cancelled is still called pending.
    assert (row["filled_quantity"], row["cancelled_quantity"], row["pending_quantity"]) == (
        LOT,
        LOT,
        LOT,
    )


def test_a_ttl_order_ends_with_its_minutes_and_any_order_with_the_close():
    book = make_book()
    short = placed(book, NOBODY, validity="TTL", validity_ttl=2)
    day = placed(book, NOBODY)
    for order in (short, day):
        book.expire(order, NOW + 2 * MINUTE - 1, closed=False)
    assert (short.status, day.status) == (Status.OPEN, Status.OPEN)
    for order in (short, day):
        book.expire(order, NOW + 2 * MINUTE, closed=False)
    assert (short.status, day.status) == (Status.CANCELLED, Status.OPEN)
    book.expire(day, NOW + 3 * MINUTE, closed=True)
    assert status_of(day) is Status.CANCELLED


@pytest.mark.parametrize(
    ("side", "trigger", "price", "at"), [("BUY", 101, 102, 10_100), ("SELL", 99, 98, 9_900)]
)
def test_a_stop_loss_order_waits_for_its_trigger(side, trigger, price, at):
    book = make_book()
    order = placed(book, order_type="SL", transaction_type=side, trigger_price=trigger, price=price)
    assert status_of(order) is Status.TRIGGER_PENDING
    book.match(order, touch(), NOW)
    assert status_of(order) is Status.TRIGGER_PENDING
    book.match(order, touch(last=at, bids=((9_890, LOT),), asks=((10_110, LOT),)), NOW)
    assert statuses(order)[-3:] == ["TRIGGER PENDING", "OPEN", "COMPLETE"]
    assert told(book) == ["TRIGGER PENDING", "OPEN", "COMPLETE"]


def test_a_triggered_stop_loss_market_order_is_a_limit_order_at_the_protection_price():
    book = make_book()
    order = placed(book, order_type="SL-M", trigger_price=101, price=None, market_protection=1)
    book.match(order, touch(last=10_100, asks=()), NOW)
    assert (order.status, order.order_type, order.price) == (
        Status.OPEN,
        OrderType.LIMIT,
        10_205,
    )


def test_a_modification_goes_its_own_way_and_is_told_as_an_update():
    book = make_book()
    order = placed(book, NOBODY)
    book.modify(order, Change(price=101.0, quantity=2 * LOT), touch(), NOW)
    assert order.price == 10_000
    settle(book, order, NOBODY)
    assert statuses(order)[4:] == [
        "MODIFY VALIDATION PENDING",
        "MODIFY PENDING",
        "MODIFIED",
        "OPEN",
    ]
    row = rows.order_row(order, order.history[-1], book.account)
    assert (row["price"], row["quantity"], row["modified"]) == (101.0, 2 * LOT, True)
    assert told(book) == ["OPEN", "UPDATE"]


def test_an_order_filled_while_its_modification_travels_stays_complete():
    book = make_book()
    order = placed(book, NOBODY)
    book.modify(order, Change(price=99.0), touch(), NOW)
    book.match(order, touch(asks=((10_000, LOT),)), NOW)
    assert status_of(order) is Status.COMPLETE
    settle(book, order)
    assert (order.status, order.price) == (Status.COMPLETE, 10_000)


def test_a_modification_below_what_was_filled_meanwhile_is_rejected_and_the_order_stays():
    book = make_book()
    order = placed(book, NOBODY, quantity=3 * LOT)
    book.modify(order, Change(quantity=LOT), touch(), NOW)
    book.match(order, touch(asks=((10_000, 2 * LOT),)), NOW)
    settle(book, order, NOBODY)
    assert (order.status, order.quantity, order.filled) == (Status.OPEN, 3 * LOT, 2 * LOT)
    assert "rejected" in (order.status_message or "")


def test_a_cancellation_can_lose_the_race_against_a_fill():
    book = make_book()
    order = placed(book, NOBODY)
    book.cancel(order, NOW)
    assert status_of(order) is Status.CANCEL_PENDING
    book.match(order, touch(asks=((10_000, LOT),)), NOW)
    settle(book, order)
    assert status_of(order) is Status.COMPLETE
    with pytest.raises(OrderError, match="already complete"):
        book.cancel(order, NOW)


def test_an_order_on_its_way_can_be_neither_modified_nor_cancelled():
    book = make_book()
    order = place(book).order
    with pytest.raises(OrderError, match="being processed"):
        book.cancel(order, NOW)
    with pytest.raises(OrderError, match="being processed"):
        book.modify(order, Change(price=1.0), touch(), NOW)


def test_an_order_refuses_a_fill_or_a_status_that_cannot_be():
    book = make_book()
    order = place(book).order
    with pytest.raises(ValueError, match="cannot be filled"):
        order.fill("1", LOT, 10_000, NOW)
    with pytest.raises(ValueError, match="cannot follow"):
        order.enter(Status.COMPLETE, NOW)
    settle(book, order, NOBODY)
    with pytest.raises(ValueError, match="cannot be filled"):
        order.fill("1", 2 * LOT, 10_000, NOW)
    order.fill("1", LOT, 10_000, NOW)
    with pytest.raises(ValueError, match="cannot follow"):
        order.enter(Status.CANCELLED, NOW)


def test_the_26th_modification_is_refused():
    book = make_book()
    order = placed(book, NOBODY)
    for number in range(25):
        book.modify(order, Change(price=90.0 + number), touch(), NOW)
        settle(book, order, NOBODY)
    with pytest.raises(OrderError, match="25 times"):
        book.modify(order, Change(price=50.0), touch(), NOW)
    assert status_of(order) is Status.OPEN


def test_the_risk_system_rejects_in_the_order_book():
    poor = make_book(funds=6_499)
    order = placed(poor)
    assert status_of(order) is Status.REJECTED
    assert "Insufficient funds" in (order.status_message or "")
    row = rows.order_row(order, order.history[-1], poor.account)
    assert row["exchange_order_id"] is None
    assert row["status_message_raw"].startswith("RMS")
    assert told(poor) == ["REJECTED"]
    far = placed(make_book(), price=5_000.05)
    assert "circuit" in (far.status_message or "")


def test_the_risk_system_rejects_in_the_reply_when_it_is_set_to():
    poor = make_book(funds=6_499, reject_in_reply=True)
    with pytest.raises(MarginError, match="Insufficient funds"):
        place(poor)
    with pytest.raises(OrderError, match="circuit"):
        place(make_book(reject_in_reply=True), ticket(price=5_000.05))
    assert len(poor) == 0
    assert poor.tags == {}


def test_funds_are_held_by_open_orders_and_positions_and_freed_at_the_end():
    book = make_book(funds=20_000)
    resting = placed(book, NOBODY)
    assert book.funds.available == 2_000_000 - 65 * 10_000
    book.cancel(resting, NOW)
    settle(book, resting)
    assert book.funds.available == 2_000_000
    placed(book, price=100.2)
    assert book.funds.available == 2_000_000 - 65 * 10_010
    # Selling what is held needs no margin, and the loss on it is gone.
    placed(book, transaction_type="SELL", price=99.9)
    assert book.funds.available == 2_000_000 - 65 * 20
    assert book.funds.blocked == 0
    short = placed(book, transaction_type="SELL", price=99.9)
    assert status_of(short) is Status.REJECTED


def test_what_is_above_the_freeze_quantity_is_cut_when_that_is_asked_for():
    book = make_book()
    wanted = ticket(quantity=62 * LOT, autoslice="true")
    placement = place(book, wanted, market=NOBODY)
    reply = placement.reply(autoslice=True)
    assert reply["order_id"] == placement.order.order_id
    assert [child["order_id"] for child in reply["children"]] == [
        order.order_id for order in list(book)[1:]
    ]
    assert [order.quantity for order in book] == [27 * LOT, 27 * LOT, 8 * LOT]
    assert all(f"autoslice:{placement.order.order_id}" in order.tags for order in book)
    assert book.tags["t1"].accepted == 1
    assert len(book.tags["t1"].order_ids) == 3
    assert "children" not in placement.reply(autoslice=False)


def test_slices_beyond_the_days_cap_are_errors_among_the_children():
    book = make_book(orders_per_day=2)
    reply = place(book, ticket(quantity=62 * LOT, autoslice="true")).reply(autoslice=True)
    assert [list(child) for child in reply["children"]] == [["order_id"], ["error"]]
    assert reply["children"][1]["error"]["code"] == 429


def test_the_legs_of_an_iceberg_follow_one_another_and_count_for_the_day():
    book = make_book()
    wanted = ticket("iceberg", quantity=5 * LOT, iceberg_legs=3, iceberg_quantity=2 * LOT)
    place(book, wanted)
    for leg in range(3):
        order = list(book)[leg]
        settle(book, order, touch(asks=((10_000, 100 * LOT),)))
    legs = list(book)
    assert [order.quantity for order in legs] == [2 * LOT, 2 * LOT, LOT]
    assert [order.meta["iceberg"]["leg"] for order in legs] == [1, 2, 3]
    assert legs[2].meta["iceberg"]["remaining_quantity"] == 0
    assert {order.parent_order_id for order in legs} == {None, legs[0].order_id}
    assert book.placed_today == 3


def test_a_cancelled_leg_is_the_last_one():
    book = make_book()
    order = place(
        book, ticket("iceberg", quantity=4 * LOT, iceberg_legs=2, iceberg_quantity=2 * LOT)
    ).order
    settle(book, order, NOBODY)
    book.cancel(order, NOW)
    settle(book, order)
    assert len(book) == 1


def test_a_cover_order_is_followed_by_its_stop_loss_which_exits_at_the_market():
    book = make_book()
    place(book, ticket("co", product="MIS", price=100.2, trigger_price=95))
    settle(book, next(iter(book)))
    main, stop = book
    assert stop.parent_order_id == main.order_id
    settle(book, stop)
    assert (main.status, stop.status) == (Status.COMPLETE, Status.TRIGGER_PENDING)
    assert (stop.ticket.side, stop.trigger, stop.quantity) == ("SELL", 9_500, LOT)
    book.cancel(stop, NOW)
    settle(book, stop)
    assert statuses(stop)[-3:] == ["CANCEL PENDING", "OPEN", "COMPLETE"]


def test_an_auction_order_waits_for_an_auction_that_does_not_come():
    book = make_book()
    order = place(
        book,
        ticket(
            "auction",
            exchange="NSE",
            tradingsymbol="INFY",
            product="CNC",
            transaction_type="SELL",
            quantity=1,
            price=90,
            auction_number="7",
        ),
        contract=SHARE,
    ).order
    settle(book, order)
    assert status_of(order) is Status.OPEN
    row = rows.order_row(order, order.history[-1], book.account)
    assert row["auction_number"] == "7"


def test_outside_hours_a_regular_order_waits_for_the_open():
    book = make_book()
    order = place(book, now=Hours.AFTER_MARKET).order
    settle(book, order)
    assert (order.status, order.variety) == (Status.AMO_RECEIVED, "amo")
    assert book.release_amo("NSE", NOW) == []
    book.turn_day()
    assert list(book) == [order]
    assert book.tags["t1"].accepted == 1
    assert book.release_amo("NFO", NOW) == [order]
    settle(book, order, touch(asks=((10_000, LOT),)))
    assert status_of(order) is Status.COMPLETE


def test_an_order_whose_contract_died_overnight_is_rejected():
    book = make_book()
    order = place(book, now=Hours.AFTER_MARKET).order
    book.release_amo("NFO", NOW)
    assert not book.advance(order, None, NOW)
    assert status_of(order) is Status.REJECTED
    assert "expired" in (order.status_message or "")


def test_the_day_has_a_cap_which_refused_orders_count_for():
    book = make_book(orders_per_day=2)
    with pytest.raises(InputError):
        place(book, ticket(quantity=1))
    place(book)
    with pytest.raises(DayCapError, match="Maximum allowed order requests exceeded") as caught:
        place(book)
    assert caught.value.status == 429
    book.turn_day()
    place(book)


def test_the_turn_of_the_day_empties_the_book():
    book = make_book()
    order = placed(book)
    book.turn_day()
    assert len(book) == 0
    assert book.tags == {}
    assert book.placed_today == 0
    assert not book.holds(order)
    with pytest.raises(OrderError, match="Couldn't find"):
        book.get(order.order_id)


def test_numbers_are_long_unique_and_grow_with_real_time():
    numbers = Numbers(1_795_000_000_000_000_000)
    ids = [numbers.order_id() for _ in range(100)]
    later = Numbers(1_795_000_000_001_000_000).order_id()
    assert sorted({*ids, later}, key=int) == [*ids, later]
    assert {len(text) for text in ids} == {19}
    assert len({numbers.trade_id(), numbers.trade_id()}) == 2


def test_an_update_carries_the_postbacks_checksum_and_no_tags():
    book = make_book()
    order = placed(book)
    body = book.drain()[1][-1].body
    text = order.order_id + body["order_timestamp"] + book.account.api_secret
    assert body["checksum"] == hashlib.sha256(text.encode()).hexdigest()
    assert body["user_id"] == book.account.user_id
    assert "tags" not in body
    assert "modified" not in body
    assert body["unfilled_quantity"] == 65 - body["filled_quantity"]


def test_the_encoded_row_is_the_row_as_it_is_now():
    book = make_book()
    order = placed(book, NOBODY)

    def shown() -> Any:
        return msgspec.json.decode(rows.encoded_row(order, book.account))

    assert shown()["status"] == "OPEN"
    book.cancel(order, NOW)
    assert shown()["status"] == "CANCEL PENDING"


def test_an_order_in_very_many_parts_neither_fills_the_memory_nor_lasts_for_ever():
    book = make_book()
    order = placed(
        book, NOBODY, SHARE, exchange="NSE", tradingsymbol="INFY", product="CNC", quantity=5_000
    )
    for _ in range(FILLS_AT_MOST):
        book.match(order, touch(asks=((10_000, 1),)), NOW)
    assert status_of(order) is Status.OPEN
    assert len(order.history) <= SNAPSHOTS_AT_MOST
    book.match(order, touch(asks=((10_000, 1),)), NOW)
    assert status_of(order) is Status.COMPLETE
    assert order.history[-1].filled == 5_000


@given(chance=st.floats(0, 1), lots=st.integers(1, 27))
def test_partial_fills_are_whole_lots_and_come_to_an_end(chance, lots):
    book = make_book(partial_fills=chance)
    order = placed(book, NOBODY, quantity=lots * LOT)
    for _ in range(1_000):
        if order.is_terminal:
            break
        book.match(order, touch(asks=((10_000, 100 * LOT),)), NOW)
    assert status_of(order) is Status.COMPLETE
    assert all(trade.quantity % LOT == 0 for trade in order.trades)


class _OrderLife(RuleBasedStateMachine):
    """Anything may happen to an order in any order; what must hold, holds throughout."""

    def __init__(self) -> None:
        """An account that may trade, with an order of every kind."""
        super().__init__()
        self.book = make_book(partial_fills=0.5)
        self.ended: dict[str, tuple[int, Status, int]] = {}
        self.seen: dict[str, int] = {}
        self.now = NOW

    def any_order(self, pick: int) -> Order:
        orders = list(self.book)
        return orders[pick % len(orders)]

    @rule(
        variety=st.sampled_from(["regular", "regular", "co", "iceberg"]),
        order_type=st.sampled_from(["LIMIT", "MARKET", "SL", "SL-M"]),
        validity=st.sampled_from(["DAY", "IOC", "TTL"]),
        side=st.sampled_from(["BUY", "SELL"]),
        lots=st.integers(1, 30),
        price=st.integers(1_900, 2_100),
        trigger=st.integers(1_900, 2_100),
        now=st.sampled_from([Hours.OPEN, Hours.OPEN, Hours.AFTER_MARKET]),
    )
    def place(self, variety, order_type, validity, side, lots, price, trigger, now):
        wanted = ticket(
            variety,
            order_type=order_type,
            transaction_type=side,
            validity=validity,
            validity_ttl=1,
            quantity=lots * LOT,
            price=price / 20,
            trigger_price=trigger / 20,
            market_protection=-1,
            product="MIS",
            iceberg_legs=2,
            iceberg_quantity=-(-lots // 2) * LOT,
        )
        # What the door refuses is the rules' own test.
        with contextlib.suppress(KiteError):
            place(self.book, wanted, now=now)

    @precondition(lambda self: len(self.book) > 0)
    @rule(pick=st.integers(0, 1_000), last=st.integers(1_800, 2_200), lots=st.integers(0, 5))
    def step(self, pick, last, lots):
        self.book.advance(self.any_order(pick), self.market(last, lots), self.now)

    @precondition(lambda self: len(self.book) > 0)
    @rule(pick=st.integers(0, 1_000), last=st.integers(1_800, 2_200), lots=st.integers(0, 5))
    def match(self, pick, last, lots):
        order = self.any_order(pick)
        before = len(order.trades)
        self.book.match(order, self.market(last, lots), self.now)
        fresh = order.trades[before:]
        assert sum(trade.quantity for trade in fresh) <= (lots + 1) * LOT
        buying = order.ticket.side == "BUY"
        for trade in fresh:
            assert trade.price <= order.limit if buying else trade.price >= order.limit

    @precondition(lambda self: len(self.book) > 0)
    @rule(
        pick=st.integers(0, 1_000),
        lots=st.none() | st.integers(1, 30),
        price=st.none() | st.integers(1_900, 2_100),
        order_type=st.none() | st.sampled_from(list(OrderType)),
        validity=st.none() | st.sampled_from(list(Validity)),
    )
    def modify(self, pick, lots, price, order_type, validity):
        change = Change(
            quantity=lots and lots * LOT,
            price=price and price / 20,
            trigger_price=price and price / 20,
            order_type=order_type,
            validity=validity,
            validity_ttl=1,
            market_protection=-1.0,
        )
        with contextlib.suppress(KiteError):
            self.book.modify(self.any_order(pick), change, touch(), self.now)

    @precondition(lambda self: len(self.book) > 0)
    @rule(pick=st.integers(0, 1_000))
    def cancel(self, pick):
        order = self.any_order(pick)
        may = order.status in WORKING
        try:
            self.book.cancel(order, self.now)
        except OrderError:
            assert not may
        else:
            assert may

    @precondition(lambda self: len(self.book) > 0)
    @rule(pick=st.integers(0, 1_000), closed=st.booleans())
    def expire(self, pick, closed):
        self.now += MINUTE
        self.book.expire(self.any_order(pick), self.now, closed=closed)

    @rule()
    def open_market(self):
        self.book.release_amo("NFO", self.now)

    @staticmethod
    def market(last: int, lots: int) -> Touch:
        paise = last * 5
        return touch(
            last=paise,
            bids=((paise - 5, lots * LOT), (paise - 20, LOT)),
            asks=((paise + 5, lots * LOT), (paise + 20, LOT)),
        )

    @invariant()
    def fills_add_up_and_never_exceed_the_quantity(self):
        for order in self.book:
            assert 0 <= order.filled <= order.quantity
            assert order.filled == sum(trade.quantity for trade in order.trades)
            assert order.value == sum(trade.quantity * trade.price for trade in order.trades)
            assert order.filled % LOT == 0
            assert (order.status is Status.COMPLETE) == (order.filled == order.quantity)

    @invariant()
    def what_has_ended_never_changes(self):
        for order in self.book:
            now = (len(order.history), order.status, order.filled)
            if order.order_id in self.ended:
                assert self.ended[order.order_id] == now
            elif order.status in TERMINAL:
                self.ended[order.order_id] = now
                assert not order.live
                assert order.blocked == 0

    @invariant()
    def the_history_only_grows_and_ends_in_the_present(self):
        for order in self.book:
            last = order.history[-1]
            assert last.status is order.status
            assert (last.filled, last.quantity) == (order.filled, order.quantity)
            assert (last.price, last.order_type) == (order.price, order.order_type)
            assert len(order.history) >= self.seen.get(order.order_id, 1)
            assert all(snapshot.status not in TERMINAL for snapshot in order.history[:-1])
            self.seen[order.order_id] = len(order.history)

    @invariant()
    def blocked_money_is_that_of_the_open_orders(self):
        assert self.book.funds.blocked == sum(order.blocked for order in self.book)
        assert all(order.blocked >= 0 for order in self.book)

    @invariant()
    def every_tag_knows_its_orders(self):
        numbers = [number for use in self.book.tags.values() for number in use.order_ids]
        assert len(numbers) == len(set(numbers))
        tagged = [order.order_id for order in self.book if order.ticket.tag]
        assert sorted(numbers) == sorted(tagged)


TestOrderLife = _OrderLife.TestCase
