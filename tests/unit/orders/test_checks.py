"""The checks before sending: each refuses with its code, its field and what would be right."""

import math
from datetime import date

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.orders import (
    Exchange,
    OrderType,
    Product,
    Side,
    Validity,
    Variety,
)
from services.orders.domain.check_context import CheckRules, PriceBand, TargetOrder
from services.orders.domain.checks import (
    check_cancel,
    check_modify,
    check_place,
    recent_of,
    valid_until_ns,
)
from services.orders.domain.order_limits import OrderLimits, OrderUse
from services.orders.errors import OrderRefusedError
from tests.unit.orders import lifecycle_rig
from tests.unit.orders.check_rig import (
    INDEX,
    NOON,
    OPTION,
    SECOND,
    SHARE,
    at,
    cancelling,
    knowing,
    modifying,
    placing,
    share,
    standing,
)

MARKET = {"order_type": OrderType.MARKET, "price": None}
STOP = {"order_type": OrderType.SL, "price": 100.0, "trigger_price": 99.0}
STOP_MARKET = {"order_type": OrderType.SL_M, "price": None, "trigger_price": 99.0}
ICEBERG = {"variety": Variety.ICEBERG, "iceberg_legs": 2, "iceberg_quantity": 65, "quantity": 130}


def refusal(command, context=None) -> OrderRefusedError:
    with pytest.raises(OrderRefusedError) as refused:
        check_place(command, context or knowing())
    assert refused.value.message.strip()
    return refused.value


def test_good_order_becomes_the_arguments_of_one_request():
    checked = check_place(placing(disclosed_quantity=65), knowing())
    assert checked.slices == (65,)
    assert checked.parameters == (
        {
            "variety": "regular",
            "exchange": "NFO",
            "tradingsymbol": "NIFTY26DEC26000CE",
            "transaction_type": "BUY",
            "quantity": 65,
            "disclosed_quantity": 65,
            "product": "NRML",
            "order_type": "LIMIT",
            "price": 100.0,
            "validity": "DAY",
        },
    )
    assert checked.valid_until_ns is None


# The fields' combination.


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"price": None}, "price_missing", "price"),
        ({"price": 0.0}, "price_missing", "price"),
        ({**STOP, "price": None}, "price_missing", "price"),
        ({**MARKET, "price": 100.0}, "price_not_wanted", "price"),
        ({**STOP_MARKET, "price": 100.0}, "price_not_wanted", "price"),
        ({**STOP, "trigger_price": None}, "trigger_missing", "trigger_price"),
        ({**STOP_MARKET, "trigger_price": 0.0}, "trigger_missing", "trigger_price"),
        ({"trigger_price": 99.0}, "trigger_not_wanted", "trigger_price"),
        ({**STOP, "trigger_price": 101.0}, "trigger_beyond_price", "trigger_price"),
        ({**STOP, "transaction_type": Side.SELL}, "trigger_beyond_price", "trigger_price"),
        ({"price": math.nan}, "not_a_number", "price"),
        ({"price": math.inf}, "not_a_number", "price"),
        ({**STOP, "trigger_price": math.nan}, "not_a_number", "trigger_price"),
        ({**MARKET, "market_protection": math.nan}, "not_a_number", "market_protection"),
        ({"validity": Validity.TTL}, "ttl_missing", "validity_ttl"),
        ({"validity_ttl": 5}, "ttl_not_wanted", "validity_ttl"),
        (
            {"exchange": Exchange.MCX, "validity": Validity.IOC},
            "validity_not_for_exchange",
            "validity",
        ),
        ({**ICEBERG, "iceberg_legs": None}, "iceberg_missing", "iceberg_legs"),
        ({**ICEBERG, "iceberg_quantity": None}, "iceberg_missing", "iceberg_quantity"),
        ({**ICEBERG, "quantity": 195}, "iceberg_sum", "iceberg_quantity"),
        ({**ICEBERG, "quantity": 65}, "iceberg_sum", "iceberg_quantity"),
        ({"iceberg_legs": 2}, "iceberg_not_wanted", "iceberg_legs"),
        ({"iceberg_quantity": 65}, "iceberg_not_wanted", "iceberg_quantity"),
        ({"disclosed_quantity": 66}, "disclosed_above_quantity", "disclosed_quantity"),
        ({"variety": Variety.AUCTION}, "variety_not_supported", "variety"),
        ({"variety": Variety.CO}, "trigger_missing", "trigger_price"),
    ],
)
def test_fields_that_contradict_each_other_are_refused_by_name(fields, code, field):
    error = refusal(placing(**fields))
    assert (error.code, error.field) == (code, field)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        MARKET,
        {**MARKET, "price": 0.0, "trigger_price": 0.0},
        STOP,
        STOP_MARKET,
        {**STOP, "transaction_type": Side.SELL, "trigger_price": 101.0},
        {"validity": Validity.TTL, "validity_ttl": 5},
        {"validity": Validity.IOC},
        ICEBERG,
        {"variety": Variety.CO, "trigger_price": 99.0},
    ],
)
def test_fields_that_belong_together_pass(fields):
    checked = check_place(placing(**fields), knowing())
    assert sum(checked.slices) == placing(**fields).quantity


# Whether anything may leave.


def test_kill_switch_stops_orders_and_changes_and_no_cancellation():
    stopped = knowing(kill_switch=True, kill_reason="expiry day")
    error = refusal(placing(), stopped)
    assert error.code == "kill_switch"
    assert "expiry day" in error.message
    with pytest.raises(OrderRefusedError, match="kill switch"):
        check_modify(modifying(price=101.0), standing(), stopped)
    assert check_cancel(cancelling(), standing(), stopped).parameters["order_id"] == "1"


@pytest.mark.parametrize("is_live", [True, False])
def test_made_up_prices_stop_orders_of_live_accounts_alone(is_live):
    context = knowing(is_live=is_live, feed_is_simulated=True)
    if is_live:
        assert refusal(placing(), context).code == "feed_simulated"
    else:
        assert check_place(placing(), context).slices == (65,)


# The contract, its product and its hours.


def test_unknown_contract_is_refused():
    error = refusal(placing(tradingsymbol="NIFTY99"), knowing(instrument=None))
    assert (error.code, error.field) == ("unknown_instrument", "tradingsymbol")
    assert "NFO:NIFTY99" in error.message


@pytest.mark.parametrize(
    ("exchange", "product", "allowed"),
    [
        (Exchange.NSE, Product.CNC, True),
        (Exchange.NSE, Product.MIS, True),
        (Exchange.NSE, Product.MTF, True),
        (Exchange.NSE, Product.NRML, False),
        (Exchange.NFO, Product.NRML, True),
        (Exchange.NFO, Product.MIS, True),
        (Exchange.NFO, Product.CNC, False),
        (Exchange.NFO, Product.MTF, False),
    ],
)
def test_product_goes_with_its_exchange(exchange, product, allowed):
    is_cash = exchange is Exchange.NSE
    command = share(product=product) if is_cash else placing(product=product)
    context = knowing(instrument=SHARE if is_cash else OPTION)
    if allowed:
        assert check_place(command, context).parameters[0]["product"] == product
    else:
        assert refusal(command, context).code == "product_not_for_exchange"


def test_index_cannot_be_ordered():
    command = share(tradingsymbol="NIFTY 50")
    assert refusal(command, knowing(instrument=INDEX)).code == "not_tradable"


@pytest.mark.parametrize(
    ("now_ns", "variety", "code"),
    [
        (at(9, 15), Variety.REGULAR, None),
        (at(9, 5), Variety.REGULAR, "market_closed"),
        (at(15, 39), Variety.REGULAR, None),
        (at(15, 40), Variety.REGULAR, "market_closed"),
        (at(8), Variety.REGULAR, "market_closed"),
        (at(12, day=24), Variety.REGULAR, "market_closed"),
        (at(12, day=28), Variety.REGULAR, "market_closed"),
        (at(12), Variety.AMO, "market_open"),
        (at(20), Variety.AMO, None),
        (at(12, day=28), Variety.AMO, None),
    ],
)
def test_order_goes_to_an_exchange_that_takes_it_now(now_ns, variety, code):
    context = knowing(now_ns=now_ns, market_now_ns=now_ns)
    command = placing(variety=variety, created_at_ns=now_ns)
    if code is None:
        assert check_place(command, context).parameters[0]["variety"] == variety
    else:
        assert refusal(command, context).code == code


def test_closed_market_says_when_it_opens():
    context = knowing(market_now_ns=at(16, 30, day=27))
    assert "2026-11-30 09:15" in refusal(placing(), context).message


def test_shares_have_an_opening_auction_and_a_closing_price_session():
    for now_ns in (at(9, 5), at(15, 20), at(15, 55)):
        context = knowing(instrument=SHARE, market_now_ns=now_ns)
        assert check_place(share(), context).slices == (10,)


def test_market_that_keeps_its_own_hours_is_not_asked_for_them():
    context = knowing(market_now_ns=None, now_ns=at(3), is_live=False)
    assert check_place(placing(product=Product.MIS), context).slices == (65,)


@pytest.mark.parametrize(
    ("now_ns", "is_refused"), [(at(15, 24), False), (at(15, 25), True), (at(15, 35), True)]
)
def test_intraday_order_is_refused_once_the_broker_closes_such_positions(now_ns, is_refused):
    context = knowing(market_now_ns=now_ns)
    if is_refused:
        error = refusal(placing(product=Product.MIS), context)
        assert (error.code, error.field) == ("square_off_passed", "product")
        assert "NRML" in error.message
    else:
        assert check_place(placing(product=Product.MIS), context).slices
    assert check_place(placing(), context).slices


def test_contract_is_refused_from_the_moment_it_dies():
    expires_today = msgspec.structs.replace(OPTION, expiry=date(2026, 11, 25))
    alive = knowing(instrument=expires_today, market_now_ns=at(15, 39))
    assert check_place(placing(), alive).slices
    dead = knowing(instrument=expires_today, market_now_ns=at(15, 40))
    assert refusal(placing(variety=Variety.AMO), dead).code == "contract_expired"


# Lot, tick, freeze quantity, band.


@given(st.integers(1, 20_000))
def test_quantity_is_whole_lots_or_refused_with_the_nearest(quantity):
    if quantity % 65 == 0:
        if quantity <= 17_550:
            assert sum(check_place(placing(quantity=quantity), knowing()).slices) == quantity
        return
    error = refusal(placing(quantity=quantity))
    assert error.code == "off_lot"
    below = quantity - quantity % 65
    assert str(below + 65) in error.message


@given(st.integers(1, 4_000_000), st.sampled_from([0.05, 0.01, 0.1, 0.0025, 1.0]))
def test_every_price_on_the_tick_passes_however_it_was_computed(ticks, tick):
    instrument = msgspec.structs.replace(OPTION, tick_size=tick)
    context = knowing(instrument=instrument)
    for price in (ticks * tick, round(ticks * tick, 6), sum([tick / 10] * 10) * ticks):
        sent = check_place(placing(price=price), context).parameters[0]["price"]
        assert sent == pytest.approx(ticks * tick, rel=1e-9)
        # And it is spelled as people write it, without the noise.
        assert len(repr(sent)) <= 12


@given(st.integers(1, 400_000), st.integers(1, 4))
def test_price_between_two_ticks_is_refused_with_both(ticks, hundredths):
    price = round(ticks * 0.05 + hundredths / 100, 2)
    error = refusal(placing(price=price))
    assert (error.code, error.field) == ("off_tick", "price")
    below = f"{ticks * 0.05:.2f}".rstrip("0").rstrip(".")
    assert f"nearest is {below} or" in error.message


def test_trigger_is_held_to_the_tick_too():
    error = refusal(placing(**{**STOP, "trigger_price": 99.01}))
    assert (error.code, error.field) == ("off_tick", "trigger_price")


@pytest.mark.parametrize(
    ("quantity", "slices"),
    [
        (1755, (1755,)),
        (1820, (1755, 65)),
        (3510, (1755, 1755)),
        (17_550, (1755,) * 10),
    ],
)
def test_order_above_the_freeze_quantity_is_cut(quantity, slices):
    checked = check_place(placing(quantity=quantity, disclosed_quantity=100), knowing())
    assert checked.slices == slices
    assert [one["quantity"] for one in checked.parameters] == list(slices)
    assert [one["disclosed_quantity"] for one in checked.parameters] == [
        min(100, units) for units in slices
    ]


def test_more_slices_than_allowed_are_refused():
    error = refusal(placing(quantity=17_615))
    assert (error.code, error.field) == ("above_freeze", "quantity")
    assert "17550" in error.message


def test_iceberg_is_not_cut_and_its_legs_keep_to_the_freeze_quantity():
    whole = placing(**{**ICEBERG, "quantity": 3510, "iceberg_quantity": 1755})
    checked = check_place(whole, knowing())
    assert (checked.slices, checked.day_units) == ((3510,), 2)
    error = refusal(placing(**{**ICEBERG, "quantity": 3640, "iceberg_quantity": 1820}))
    assert (error.code, error.field) == ("above_freeze", "iceberg_quantity")
    error = refusal(placing(**{**ICEBERG, "quantity": 130, "iceberg_quantity": 70}))
    assert (error.code, error.field) == ("off_lot", "iceberg_quantity")


@pytest.mark.parametrize(
    ("price", "is_inside"), [(49.95, False), (50, True), (150, True), (150.05, False)]
)
def test_price_outside_the_days_band_is_refused(price, is_inside):
    context = knowing(band=PriceBand(lower=50, upper=150))
    if is_inside:
        assert check_place(placing(price=price), context).slices
    else:
        error = refusal(placing(price=price), context)
        assert (error.code, error.field) == ("outside_band", "price")
        assert "50 to 150" in error.message


# Market protection.


@pytest.mark.parametrize("fields", [MARKET, STOP_MARKET])
@pytest.mark.parametrize(("asked", "sent"), [(None, -1.0), (-1.0, -1.0), (2.5, 2.5), (100.0, 100)])
def test_market_order_never_leaves_without_protection(fields, asked, sent):
    checked = check_place(placing(**fields, market_protection=asked), knowing())
    assert checked.parameters[0]["market_protection"] == sent


@pytest.mark.parametrize(
    ("fields", "protection", "code"),
    [
        (MARKET, 0.0, "protection_off"),
        (STOP_MARKET, 0.0, "protection_off"),
        (MARKET, -0.5, "protection_range"),
        ({}, 2.0, "protection_not_wanted"),
        (STOP, -1.0, "protection_not_wanted"),
    ],
)
def test_protection_that_kite_would_not_take_is_refused(fields, protection, code):
    error = refusal(placing(**fields, market_protection=protection))
    assert (error.code, error.field) == (code, "market_protection")


# Limits.


@pytest.mark.parametrize("whose", ["account", "user"])
@pytest.mark.parametrize(
    ("limits", "use", "code"),
    [
        (OrderLimits(max_quantity=64), OrderUse(), "limit_quantity"),
        (OrderLimits(max_value=6_499), OrderUse(), "limit_value"),
        (OrderLimits(max_orders_per_day=5), OrderUse(orders_today=5), "limit_orders_per_day"),
        (OrderLimits(max_open_orders=5), OrderUse(open_orders=5), "limit_open_orders"),
        (OrderLimits(exchanges=frozenset({Exchange.NSE})), OrderUse(), "limit_exchange"),
        (OrderLimits(products=frozenset({Product.MIS})), OrderUse(), "limit_product"),
        (OrderLimits(exchanges=frozenset()), OrderUse(), "limit_exchange"),
    ],
)
def test_limit_of_the_account_or_the_user_refuses(whose, limits, use, code):
    context = knowing(**{f"{whose}_limits": limits, f"{whose}_use": use})
    error = refusal(placing(), context)
    assert error.code == code
    assert error.message.startswith("account AB1234" if whose == "account" else "user desk")


def test_order_exactly_at_its_limits_passes():
    limits = OrderLimits(
        max_quantity=65,
        max_value=6_500,
        max_orders_per_day=5,
        max_open_orders=5,
        exchanges=frozenset({Exchange.NFO}),
        products=frozenset({Product.NRML}),
    )
    use = OrderUse(orders_today=4, open_orders=4)
    assert check_place(placing(), knowing(account_limits=limits, account_use=use)).slices


def test_every_slice_counts_as_an_order():
    context = knowing(user_limits=OrderLimits(max_open_orders=2))
    assert refusal(placing(quantity=5_265), context).code == "limit_open_orders"


def test_value_of_a_market_order_is_that_of_its_last_price_and_needs_one():
    limits = OrderLimits(max_value=6_500)
    context = knowing(account_limits=limits, last_price=100.0)
    assert check_place(placing(**MARKET), context).slices
    assert refusal(placing(**MARKET), knowing(account_limits=limits, last_price=100.5)).code == (
        "limit_value"
    )
    error = refusal(placing(**MARKET), knowing(account_limits=limits))
    assert error.code == "limit_value"
    assert "limit price" in error.message


# Doubles, and age.


def test_order_that_looks_like_the_one_before_is_refused_unless_it_is_meant():
    before = recent_of(placing(task_id="task-0"), NOON - 2 * SECOND)
    context = knowing(recent=(before,))
    error = refusal(placing(), context)
    assert (error.code, error.field) == ("looks_duplicate", "allow_duplicate")
    assert "task-0" in error.message
    assert check_place(placing(allow_duplicate=True), context).slices


@pytest.mark.parametrize(
    "difference",
    [
        {"user": "other"},
        {"quantity": 130},
        {"transaction_type": Side.SELL},
        {"price": 100.05},
        {"tradingsymbol": "NIFTY26DEC26000PE"},
        {"product": Product.MIS},
        MARKET,
    ],
)
def test_order_that_differs_is_no_double(difference):
    before = recent_of(placing(task_id="task-0", **difference), NOON - SECOND)
    assert check_place(placing(), knowing(recent=(before,))).slices


def test_double_guard_forgets_and_never_takes_an_order_for_its_own_double():
    old = recent_of(placing(task_id="task-0"), NOON - 3 * SECOND)
    own = recent_of(placing(), NOON)
    assert check_place(placing(), knowing(recent=(old, own))).slices
    off = CheckRules(duplicate_seconds=0)
    before = recent_of(placing(task_id="task-0"), NOON)
    assert check_place(placing(), knowing(recent=(before,), rules=off)).slices


@pytest.mark.parametrize(
    ("fields", "lives_seconds"), [(MARKET, 30), (STOP_MARKET, 30), ({}, None), (STOP, None)]
)
def test_only_orders_at_any_price_grow_too_old_by_themselves(fields, lives_seconds):
    until = valid_until_ns(placing(**fields), CheckRules())
    assert until == (None if lives_seconds is None else NOON + lives_seconds * SECOND)


def test_order_is_not_sent_after_its_end():
    command = placing(valid_until_ns=NOON)
    assert check_place(command, knowing()).valid_until_ns == NOON
    error = refusal(command, knowing(now_ns=NOON + 1))
    assert (error.code, error.field) == ("expired", "valid_until_ns")
    assert refusal(placing(**MARKET), knowing(now_ns=NOON + 31 * SECOND)).code == "expired"


def test_checks_fail_in_their_order():
    everything_wrong = placing(
        price=None, quantity=66, product=Product.CNC, valid_until_ns=NOON - SECOND
    )
    context = knowing(kill_switch=True, feed_is_simulated=True, market_now_ns=at(3))
    assert refusal(everything_wrong, context).code == "price_missing"
    shaped = placing(quantity=66, product=Product.CNC, price=100.01, valid_until_ns=NOON - SECOND)
    assert refusal(shaped, context).code == "kill_switch"
    context = knowing(feed_is_simulated=True, market_now_ns=at(3))
    assert refusal(shaped, context).code == "feed_simulated"
    assert refusal(shaped, knowing(market_now_ns=at(3))).code == "product_not_for_exchange"
    carried = placing(quantity=66, price=100.01, valid_until_ns=NOON - SECOND)
    assert refusal(carried, knowing(market_now_ns=at(3))).code == "market_closed"
    assert refusal(carried).code == "off_lot"
    assert refusal(placing(price=100.01, valid_until_ns=NOON - SECOND)).code == "off_tick"
    assert refusal(placing(valid_until_ns=NOON - SECOND)).code == "expired"


# Changes.


def change_refusal(command, target=None, context=None) -> OrderRefusedError:
    with pytest.raises(OrderRefusedError) as refused:
        check_modify(command, target or standing(), context or knowing())
    return refused.value


def test_change_sends_what_changes_to_the_counter_of_the_order():
    checked = check_modify(modifying(price=101.0, quantity=65), standing(variety="amo"), knowing())
    assert checked.parameters == {
        "variety": "amo",
        "order_id": "1",
        "quantity": 65,
        "price": 101.0,
    }


@pytest.mark.parametrize(
    ("fields", "target", "code"),
    [
        ({}, {}, "nothing_to_change"),
        ({"order_id": None, "price": 101.0}, {}, "which_order"),
        ({"target_task_id": "t", "price": 101.0}, {}, "which_order"),
        ({"price": 101.0}, {"is_final": True, "status": "COMPLETE"}, "order_settled"),
        ({"price": 101.01}, {}, "off_tick"),
        ({"price": math.nan}, {}, "not_a_number"),
        ({"quantity": 66}, {}, "off_lot"),
        ({"quantity": 65}, {"filled_quantity": 65}, "below_filled"),
        ({"quantity": 1820}, {}, "above_freeze"),
        ({"disclosed_quantity": 131}, {}, "disclosed_above_quantity"),
        ({"order_type": OrderType.SL}, {}, "trigger_missing"),
        ({"order_type": OrderType.SL, "trigger_price": 101.0}, {}, "trigger_beyond_price"),
        ({"order_type": OrderType.MARKET, "price": 101.0}, {}, "price_not_wanted"),
        ({"order_type": OrderType.MARKET, "market_protection": 0.0}, {}, "protection_off"),
        ({"market_protection": 2.0}, {}, "protection_not_wanted"),
        ({"trigger_price": 99.0}, {}, "trigger_not_wanted"),
        ({"validity": Validity.TTL}, {}, "ttl_missing"),
        ({"price": 101.0, "valid_until_ns": NOON - 1}, {}, "expired"),
    ],
)
def test_change_that_makes_no_sense_is_refused(fields, target, code):
    assert change_refusal(modifying(**fields), standing(**target)).code == code


def test_limit_order_becomes_a_protected_market_order_without_its_price():
    checked = check_modify(modifying(order_type=OrderType.MARKET), standing(), knowing())
    assert checked.parameters["market_protection"] == -1.0
    assert "price" not in checked.parameters
    assert checked.valid_until_ns == NOON + 30 * SECOND


def test_change_keeps_to_band_and_limits_and_counts_as_no_order():
    band = knowing(band=PriceBand(lower=50, upper=150))
    assert change_refusal(modifying(price=151.0), context=band).code == "outside_band"
    limited = knowing(
        account_limits=OrderLimits(max_value=13_000, max_open_orders=1, max_orders_per_day=1),
        account_use=OrderUse(orders_today=1, open_orders=1),
    )
    assert check_modify(modifying(price=100.0), standing(), limited).parameters["price"] == 100.0
    assert change_refusal(modifying(price=100.05), context=limited).code == "limit_value"


def test_order_of_a_contract_that_the_dump_lacks_can_be_changed():
    context = knowing(instrument=None)
    assert check_modify(modifying(price=101.01), standing(), context).parameters["price"] == 101.01


def test_cancellation_names_the_order_and_its_counter():
    checked = check_cancel(cancelling(), standing(variety="iceberg"), knowing())
    assert checked.parameters == {"variety": "iceberg", "order_id": "1"}
    with pytest.raises(OrderRefusedError, match="is COMPLETE"):
        check_cancel(cancelling(), standing(is_final=True, status="COMPLETE"), knowing())
    with pytest.raises(OrderRefusedError, match="exactly one"):
        check_cancel(cancelling(target_task_id="t"), standing(), knowing())


def test_target_is_read_from_the_row_or_else_from_what_was_sent():
    sent = lifecycle_rig.placing(order_id="1", filled_quantity=65)
    target = TargetOrder.of_intent(sent)
    assert (target.order_type, target.price, target.filled_quantity) == ("LIMIT", 100.0, 65)
    assert not target.is_final
    shown = TargetOrder.of_row(lifecycle_rig.row("COMPLETE", exchange="NFO"))
    assert (shown.is_final, shown.price, shown.trigger_price) == (True, 100.0, None)
    with pytest.raises(ValueError, match="number"):
        TargetOrder.of_intent(lifecycle_rig.placing())
