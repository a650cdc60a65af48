"""What the broker takes and what it refuses: forms, contracts, prices, hours, matching."""

import contextlib
from datetime import date
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from libs.common.domain.instruments import Kind
from libs.common.domain.market_calendar import CALENDAR
from services.simulator.domain.orders import matching, rules
from services.simulator.domain.orders.contract import Contract, Touch, contract_of, touch_of
from services.simulator.domain.orders.hours import Hours, hours
from services.simulator.domain.orders.ticket import (
    Side,
    Variety,
    read_change,
    read_ticket,
    read_variety,
)
from services.simulator.errors import InputError
from tests.unit.simulator.markets import at, shared_market
from tests.unit.simulator.order_forms import LOT, OPTION, SHARE, form, ticket, touch

MARKET = shared_market()
QUOTES = MARKET.start(at(11))
LEVELS = st.lists(
    st.tuples(st.integers(1, 40).map(lambda n: n * 5), st.integers(0, 500)), max_size=5
)
IN_CASH: dict[str, Any] = {
    "exchange": "NSE",
    "tradingsymbol": "INFY",
    "product": "CNC",
    "quantity": 7,
}


def check(
    variety: str = "regular",
    contract: Contract = OPTION,
    market: Touch | None = None,
    now: Hours = Hours.OPEN,
    **changes: object,
) -> None:
    rules.check_ticket(ticket(variety, **changes), contract, market or touch(), now)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"order_type": "MARKET", "price": None, "market_protection": -1},
        {"order_type": "MARKET", "price": None, "market_protection": 0.5},
        {"order_type": "SL", "trigger_price": 101, "price": 102},
        {"order_type": "SL", "transaction_type": "SELL", "trigger_price": 99, "price": 98},
        {"order_type": "SL-M", "trigger_price": 101, "price": None, "market_protection": 3},
        {"validity": "IOC"},
        {"validity": "TTL", "validity_ttl": 3},
        {"product": "MIS", "quantity": 1_755},
        {"variety": "co", "product": "MIS", "trigger_price": 95},
        {"variety": "iceberg", "quantity": 10 * LOT, "iceberg_legs": 5, "iceberg_quantity": 130},
        {"quantity": 17_550, "autoslice": "true"},
        {"tag": "x" * 20},
        {"tag": None},
        {"price": "99.95", "disclosed_quantity": 65},
    ],
)
def test_what_kite_takes_is_taken(changes):
    check(**changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"order_type": "MARKET", "price": None}, "Market orders without market protection"),
        (
            {"order_type": "MARKET", "market_protection": 0},
            "Please set market protection or use a Limit order",
        ),
        ({"order_type": "SL-M", "trigger_price": 101}, "Market orders without market protection"),
        ({"price": None}, "`price`"),
        ({"price": 0}, "`price`"),
        ({"price": 100.03}, "Tick size for this script is 0.05"),
        ({"price": 100.0500001}, "Tick size"),
        ({"quantity": 66}, "multiples of lot size 65"),
        ({"quantity": 28 * LOT}, "at most 1755"),
        ({"quantity": 271 * LOT, "autoslice": "true"}, "10 slices"),
        ({"product": "CNC"}, "`product`"),
        ({"product": "MTF"}, "`product`"),
        ({"order_type": "SL", "price": 102}, "`trigger_price`"),
        ({"order_type": "SL", "price": 102, "trigger_price": 101.01}, "Tick size"),
        ({"order_type": "SL", "price": 101, "trigger_price": 102}, "cannot be above"),
        (
            {"order_type": "SL", "price": 98, "trigger_price": 97, "transaction_type": "SELL"},
            "cannot be below",
        ),
        ({"order_type": "SL", "price": 102, "trigger_price": 100}, "should be higher"),
        (
            {"order_type": "SL", "price": 99, "trigger_price": 100, "transaction_type": "SELL"},
            "should be lower",
        ),
        ({"validity": "TTL"}, "`validity_ttl`"),
        ({"disclosed_quantity": 130}, "`disclosed_quantity`"),
        ({"variety": "co", "product": "MIS"}, "`trigger_price`"),
        ({"variety": "co", "trigger_price": 95}, "cover order is MIS"),
        ({"variety": "co", "product": "MIS", "trigger_price": 105}, "should be lower"),
        ({"variety": "co", "product": "MIS", "order_type": "SL"}, "cover order is MARKET"),
        ({"variety": "iceberg", "iceberg_quantity": 65}, "`iceberg_legs`"),
        ({"variety": "iceberg", "iceberg_legs": 1, "iceberg_quantity": 65}, "2 to 50"),
        ({"variety": "iceberg", "iceberg_legs": 2}, "`iceberg_quantity`"),
        ({"variety": "iceberg", "iceberg_legs": 2, "iceberg_quantity": 65}, "makes 1 legs"),
        (
            {"variety": "iceberg", "iceberg_legs": 2, "iceberg_quantity": 40, "quantity": 65},
            "multiples",
        ),
        (
            {"variety": "iceberg", "iceberg_legs": 2, "iceberg_quantity": 65, "validity": "IOC"},
            "cannot be IOC",
        ),
        ({"variety": "auction"}, "`auction_number`"),
        ({"variety": "auction", "auction_number": "1"}, "only shares"),
    ],
)
def test_what_kite_refuses_is_refused_with_the_field_named(changes, words):
    with pytest.raises(InputError, match=words) as caught:
        check(**changes)
    assert caught.value.status == 400


def test_shares_are_bought_in_any_number_for_delivery_but_not_carried_as_derivatives():
    check(contract=SHARE, **IN_CASH, price=100)
    with pytest.raises(InputError, match="`product`"):
        check(contract=SHARE, **{**IN_CASH, "product": "NRML"})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"tag": "x" * 21}, "20 characters"),
        ({"quantity": None}, "`quantity`"),
        ({"quantity": 0}, "`quantity`"),
        ({"quantity": -65}, "`quantity`"),
        ({"quantity": "6_5"}, "`quantity`"),
        ({"quantity": "65.0"}, "`quantity`"),
        ({"quantity": "9" * 5_000}, "`quantity`"),
        ({"quantity": "٦٥"}, "`quantity`"),
        ({"price": "nan"}, "`price`"),
        ({"price": "inf"}, "`price`"),
        ({"price": -1}, "`price`"),
        ({"price": "cheap"}, "`price`"),
        ({"market_protection": -2}, "`market_protection`"),
        ({"market_protection": 101}, "`market_protection`"),
        ({"exchange": ""}, "`exchange`"),
        ({"tradingsymbol": None}, "`tradingsymbol`"),
        ({"transaction_type": "HOLD"}, "BUY, SELL"),
        ({"order_type": "BEST"}, "`order_type`"),
        ({"product": "BO"}, "`product`"),
        ({"validity": "GTC"}, "`validity`"),
    ],
)
def test_a_malformed_form_is_refused_with_the_field_named(changes, words):
    with pytest.raises(InputError, match=words):
        ticket(**changes)


def test_a_variety_or_exchange_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match="`variety`"):
        read_variety("bo")
    with pytest.raises(InputError, match="`exchange`"):
        rules.check_exchange("MOON")
    rules.check_exchange("MCX")


@given(st.dictionaries(st.sampled_from(list(form(validity_ttl=1, iceberg_legs=2))), st.text()))
def test_no_form_breaks_the_reader(changes):
    for read in (lambda fields: read_ticket(Variety.REGULAR, fields), read_change):
        with contextlib.suppress(InputError):
            read({**form(), **changes})


def test_an_absent_field_of_a_modification_leaves_things_as_they_are():
    change = read_change({"variety": "regular", "order_id": "1", "price": "5.5"})
    assert change.price == 5.5
    assert [change.quantity, change.order_type, change.trigger_price, change.validity] == [None] * 4


@pytest.mark.parametrize(
    ("now", "changes", "taken"),
    [
        (Hours.OPEN, {}, True),
        (Hours.OPEN, {"variety": "amo"}, False),
        (Hours.AFTER_MARKET, {"variety": "amo"}, True),
        (Hours.AFTER_MARKET, {}, True),
        (Hours.AFTER_MARKET, {"validity": "IOC"}, False),
        (Hours.AFTER_MARKET, {"variety": "co", "product": "MIS", "trigger_price": 95}, False),
        (Hours.SHUT, {}, False),
        (Hours.SHUT, {"variety": "amo"}, False),
    ],
)
def test_hours_decide_which_varieties_are_taken(now, changes, taken):
    if taken:
        check(now=now, **changes)
        return
    with pytest.raises(InputError):
        check(now=now, **changes)


@pytest.mark.parametrize(
    ("exchange", "moment", "expected"),
    [
        ("NFO", at(9, 14, 59), Hours.SHUT),
        ("NFO", at(9, 15), Hours.OPEN),
        ("NFO", at(15, 39, 59), Hours.OPEN),
        ("NFO", at(15, 40), Hours.SHUT),
        ("NFO", at(15, 45), Hours.AFTER_MARKET),
        ("NFO", at(9, 9, 59), Hours.AFTER_MARKET),
        ("NSE", at(8, 57), Hours.AFTER_MARKET),
        ("NSE", at(9), Hours.SHUT),
        ("NSE", at(15, 36), Hours.SHUT),
        ("NSE", at(16), Hours.AFTER_MARKET),
        ("NSE", at(12, day=date(2026, 11, 22)), Hours.AFTER_MARKET),
        ("NFO", at(12, day=date(2026, 11, 24)), Hours.AFTER_MARKET),
    ],
)
def test_orders_outside_the_session_are_kept_or_refused(exchange, moment, expected):
    assert hours(exchange, moment, CALENDAR) is expected


@given(
    side=st.sampled_from(list(Side)),
    limit=st.integers(1, 40).map(lambda n: n * 5),
    lots=st.integers(1, 50),
    lot=st.sampled_from([1, 25, 65]),
    levels=LEVELS,
    share=st.floats(0, 1),
)
def test_a_fill_is_within_quantity_limit_supply_and_whole_lots(
    side, limit, lots, lot, levels, share
):
    ranked = tuple(sorted(levels, reverse=side is Side.SELL))
    taken = matching.fills(side, limit, lots * lot, ranked, lot=lot, share=share)
    assert sum(units for units, _ in taken) <= lots * lot
    assert all(units > 0 and units % lot == 0 for units, _ in taken)
    assert all(price <= limit if side is Side.BUY else price >= limit for _, price in taken)
    for price in {price for _, price in taken}:
        supply = sum(units for level, units in ranked if level == price)
        assert sum(units for units, level in taken if level == price) <= supply
    prices = [price for _, price in taken]
    assert prices == sorted(prices, reverse=side is Side.SELL)


@given(
    side=st.sampled_from(list(Side)),
    lots=st.integers(1, 50),
    levels=LEVELS,
)
def test_an_order_without_luck_takes_all_that_is_within_its_limit(side, lots, levels):
    ranked = tuple(sorted(levels, reverse=side is Side.SELL))
    taken = matching.fills(side, 100, lots, ranked, lot=1)
    within = sum(u for price, u in ranked if (price <= 100 if side is Side.BUY else price >= 100))
    assert sum(units for units, _ in taken) == min(lots, within)


@pytest.mark.parametrize(
    ("contract", "last", "percent"),
    [
        (OPTION, 999, 5),
        (OPTION, 1_000, 3),
        (OPTION, 10_000, 2),
        (OPTION, 50_000, 1),
        (SHARE, 9_999, 2),
        (SHARE, 10_000, 1),
        (SHARE, 50_000, 0.5),
    ],
)
def test_the_brokers_own_protection_narrows_with_the_price(contract, last, percent):
    assert matching.protection_percent(contract, last, -1) == percent
    assert matching.protection_percent(contract, last, 7) == 7


@given(
    last=st.integers(5, 400_000),
    percent=st.floats(0.01, 100),
    side=st.sampled_from(list(Side)),
)
def test_a_protection_price_is_on_the_grid_within_the_circuit_and_beyond_the_last(
    last, percent, side
):
    assume(last % 5 == 0)
    market = touch(last=last)
    price = matching.protection_price(OPTION, market, side, percent)
    assert price % OPTION.tick_paise == 0
    assert market.lower_circuit <= price <= market.upper_circuit
    assert price >= last if side is Side.BUY else price <= last


def test_contracts_know_their_lots_ticks_and_freeze_quantities():
    universe = MARKET.universe

    def first(underlying: str, kind: Kind) -> Contract:
        item = next(
            i for i in universe.instruments if i.underlying == underlying and i.kind is kind
        )
        contract = contract_of(universe, item.exchange, item.tradingsymbol)
        assert contract is not None
        return contract

    nifty, bank = first("NIFTY", Kind.OPTION), first("BANKNIFTY", Kind.FUTURE)
    assert (nifty.lot, nifty.tick_paise, nifty.freeze_quantity) == (65, 5, 1_755)
    assert (bank.lot, bank.freeze_quantity) == (30, 600)
    stock = first("INFY", Kind.OPTION)
    assert stock.freeze_quantity == 40 * stock.lot
    share = first("INFY", Kind.EQUITY)
    assert (share.lot, share.freeze_quantity) == (1, None)
    assert contract_of(universe, "NSE", "NIFTY 50") is None
    assert contract_of(universe, "NFO", "NOPE") is None


def test_a_touch_shows_the_books_best_prices_first_and_the_quotes_circuit():
    universe = MARKET.universe
    item = next(i for i in universe.instruments if i.kind is Kind.EQUITY)
    contract = contract_of(universe, item.exchange, item.tradingsymbol)
    assert contract is not None
    market = touch_of(MARKET, QUOTES, contract)
    assert market.bids[0][0] == int(QUOTES.bid[contract.row])
    assert market.asks[0][0] == int(QUOTES.ask[contract.row])
    assert market.against(Side.BUY) == market.asks
    assert [p for p, _ in market.asks] == sorted(p for p, _ in market.asks)
    assert market.lower_circuit < market.last < market.upper_circuit
    assert market.underlying == market.last
