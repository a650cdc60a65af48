"""Positions, holdings, funds and charges."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.instruments import Kind
from services.simulator.domain import portfolio
from services.simulator.domain.charges import Activity, activity, charges
from services.simulator.domain.margins import basket_row, expected_price, order_margin
from services.simulator.domain.orders.contract import Contract, Touch
from services.simulator.domain.orders.funds import Funds
from services.simulator.domain.orders.ticket import OrderType, Product, Side
from services.simulator.domain.portfolio import Conversion, Fill, Mark, Position, positions

KEY = ("NFO", "NIFTY26NOVFUT")


def fill(side: Side, quantity: int, price: int, at_ns: int, product=Product.NRML) -> Fill:
    return Fill(
        exchange=KEY[0],
        tradingsymbol=KEY[1],
        token=1,
        product=product,
        side=side,
        quantity=quantity,
        price=price,
        at_ns=at_ns,
    )


def conversion(side: Side, quantity: int, at_ns: int) -> Conversion:
    return Conversion(
        exchange=KEY[0],
        tradingsymbol=KEY[1],
        token=1,
        side=side,
        quantity=quantity,
        old=Product.NRML,
        new=Product.MIS,
        at_ns=at_ns,
    )


trades = st.lists(
    st.tuples(
        st.sampled_from(Side),
        st.integers(1, 500),
        st.integers(5, 3_000_000),
        st.sampled_from([Product.NRML, Product.MIS]),
    ),
    max_size=30,
)


@given(trades, st.integers(0, 3_000_000))
def test_realised_and_unrealised_profit_add_up_to_the_money_that_moved(legs, last):
    fills = [fill(s, q, p, at, product) for at, (s, q, p, product) in enumerate(legs)]
    for position in positions(fills).values():
        own = [f for f in fills if f.product is position.product]
        net = sum(f.quantity if f.side is Side.BUY else -f.quantity for f in own)
        money = sum(f.quantity * f.price * (1 if f.side is Side.SELL else -1) for f in own)
        assert position.net == net
        assert position.profit(last) == money + net * last
        total = position.realised + position.unrealised(last)
        assert abs(total - position.profit(last)) <= 1e-6 * max(1.0, position.bought_value)
        assert (position.average > 0) == (net != 0)


@given(trades, st.data())
def test_a_conversion_changes_neither_the_profit_nor_the_units_of_both_together(legs, data):
    fills = [fill(side, quantity, price, at) for at, (side, quantity, price, _) in enumerate(legs)]
    before = positions(fills).get((*KEY, Product.NRML))
    if before is None or before.net == 0:
        return
    side = Side.BUY if before.net > 0 else Side.SELL
    quantity = data.draw(st.integers(1, abs(before.net)))
    moved = positions(fills, [conversion(side, quantity, len(legs))])
    old, new = moved[*KEY, Product.NRML], moved[*KEY, Product.MIS]
    assert old.net + new.net == before.net
    assert abs(new.net) == quantity
    tolerance = 1e-6 * max(1.0, before.bought_value + before.sold_value)
    profit = old.profit(100) + new.profit(100)
    assert abs(profit - before.profit(100)) <= tolerance
    assert abs(new.average - before.average) <= tolerance
    assert min(old.bought, old.sold) >= 0
    assert min(old.bought_value, old.sold_value) >= -tolerance


def test_a_position_row_says_what_kite_says():
    fills = [fill(Side.BUY, 150, 10_000, 1), fill(Side.SELL, 75, 10_400, 2)]
    (position,) = positions(fills).values()
    row = portfolio.position_row(position, Mark(last=10_200, close=9_900))
    assert (row["quantity"], row["average_price"], row["value"]) == (75, 100.0, -7200.0)
    assert (row["realised"], row["unrealised"], row["pnl"]) == (300.0, 150.0, 450.0)
    assert (row["day_buy_quantity"], row["day_sell_price"]) == (150, 104.0)
    assert row["overnight_quantity"] == 0


def test_a_position_that_turns_starts_anew_at_its_last_price():
    (position,) = positions(
        [fill(Side.BUY, 75, 10_000, 1), fill(Side.SELL, 150, 10_100, 2)]
    ).values()
    assert (position.net, position.average, position.realised) == (-75, 10_100, 7_500)


def test_shares_from_before_are_the_same_for_the_same_seed_and_differ_by_owner():
    listed = [(f"SHARE{number}", number) for number in range(10)]

    def shares(owner):
        return portfolio.shares_from_before(listed, lambda _: 10_000, seed=1, owner=owner)

    assert shares("a") == shares("a")
    assert shares("a") != shares("b")
    assert len(shares("a")) == portfolio.HOLDINGS


def test_a_holding_row_shows_what_was_sold_as_used_and_never_more_than_there_is():
    (share,) = portfolio.shares_from_before([("ITC", 5)], lambda _: 40_000, seed=1, owner="a")
    row = portfolio.holding_row(share, share.quantity + 5, Mark(last=41_000, close=40_000))
    assert (row["quantity"], row["used_quantity"]) == (0, share.quantity)
    assert row["day_change_percentage"] == 2.5
    assert len(row["isin"]) == 12


@given(
    st.sampled_from(Activity),
    st.sampled_from(Side),
    st.integers(1, 100_000),
    st.floats(0.05, 100_000),
)
def test_charges_add_up_and_are_never_negative(what, side, quantity, price):
    row = charges(what, side, quantity, price).row()
    parts = ("transaction_tax", "exchange_turnover_charge", "sebi_turnover_charge", "brokerage")
    total = sum(row[name] for name in parts) + row["stamp_duty"] + row["gst"]["total"]
    assert abs(row["total"] - total) < 0.01
    assert min(row[name] for name in parts) >= 0


def test_charges_tax_sold_options_and_delivered_shares_without_brokerage():
    assert charges(Activity.OPTION, Side.BUY, 65, 100).transaction_tax == 0
    assert charges(Activity.OPTION, Side.SELL, 65, 100).transaction_tax > 0
    assert charges(Activity.OPTION, Side.SELL, 65, 100).brokerage == 20
    assert charges(Activity.DELIVERY, Side.BUY, 10, 100).brokerage == 0
    assert activity(Kind.EQUITY, Product.CNC) is Activity.DELIVERY
    assert activity(Kind.EQUITY, Product.MIS) is Activity.INTRADAY


def contract(symbol: str, kind: Kind = Kind.OPTION, *, underlying_row: int = 0) -> Contract:
    return Contract(
        row=9,
        token=9,
        exchange="NFO",
        tradingsymbol=symbol,
        kind=kind,
        lot=65,
        tick_paise=5,
        freeze_quantity=1755,
        underlying_row=underlying_row,
    )


TOUCH = Touch(
    last=10_000,
    bids=((9_995, 65),),
    asks=((10_005, 65),),
    lower_circuit=5,
    upper_circuit=500_000,
    underlying=2_600_000,
)


def margin(symbol: str, side: Side, quantity: int = 65, *, underlying_row: int = 0):
    return order_margin(
        contract(symbol, underlying_row=underlying_row),
        Product.NRML,
        side,
        quantity,
        price=10_000,
        touch=TOUCH,
        charges=charges(Activity.OPTION, side, quantity, 100),
    )


def test_a_basket_that_hedges_itself_holds_less_than_its_orders():
    straddle = [margin("NIFTY26NOV26000CE", Side.SELL), margin("NIFTY26NOV26000PE", Side.SELL)]
    row = basket_row(straddle, {}, compact=False)
    assert row["initial"]["total"] == sum(order.row()["total"] for order in straddle)
    assert row["final"]["total"] == straddle[0].row()["total"]
    assert len(row["orders"]) == 2
    other = margin("BANKNIFTY26NOV58000PE", Side.SELL, underlying_row=1)
    apart = basket_row([straddle[0], other], {}, compact=True)
    assert apart["final"] == apart["initial"], "different underlyings hedge nothing"
    assert apart["orders"] == []
    held = basket_row(straddle, {0: straddle[0].margin}, compact=True)
    assert held["final"]["total"] == 0, "a position holds it already"


def test_a_bought_option_costs_its_premium():
    row = margin("NIFTY26NOV26000CE", Side.BUY).row()
    assert row["option_premium"] == row["total"] == 6_500
    assert row["span"] == 0


def test_the_expected_price_is_the_orders_own_or_the_markets():
    assert expected_price(OrderType.LIMIT, 99.5, 0, 10_000) == 9_950
    assert expected_price(OrderType.SL_M, 0, 98, 10_000) == 9_800
    assert expected_price(OrderType.MARKET, 0, 0, 10_000) == 10_000


@given(trades, st.data())
def test_funds_agree_with_positions_after_a_conversion(legs, data):
    funds = Funds(10**12)
    future = contract(KEY[1], Kind.FUTURE)
    for side, quantity, price, _ in legs:
        funds._move(future, Product.NRML, side, quantity, price, TOUCH)
    held = funds.holdings.get((9, Product.NRML))
    if held is None or held.net == 0:
        return
    fills = [fill(side, quantity, price, at) for at, (side, quantity, price, _) in enumerate(legs)]
    side = Side.BUY if held.net > 0 else Side.SELL
    quantity = data.draw(st.integers(1, abs(held.net)))
    realised = funds.realised
    funds.convert(future, side, quantity, (Product.NRML, Product.MIS), TOUCH)
    moved = positions(fills, [conversion(side, quantity, len(legs))])
    for product in (Product.NRML, Product.MIS):
        assert funds.holdings[9, product].net == moved[*KEY, product].net
    assert abs(funds.realised - realised) <= 1e-6 * max(1.0, abs(realised))
    assert funds.used >= -1e-3


def test_positions_are_plain_values():
    position = Position(exchange="NSE", tradingsymbol="ITC", token=1, product=Product.CNC)
    assert msgspec.to_builtins(position)["net"] == 0
