"""Whatever is ordered, whenever: it is refused with a reason, or what leaves is right."""

import json
from decimal import Decimal
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.common.contracts.orders import (
    CancelOrder,
    Exchange,
    ModifyOrder,
    OrderCommand,
    OrderType,
    PlaceOrder,
    Product,
    Side,
    Validity,
    Variety,
)
from services.orders.domain.check_context import CheckContext, PriceBand, TargetOrder
from services.orders.domain.checks import check_cancel, check_modify, check_place
from services.orders.domain.order_limits import OrderLimits, OrderUse
from services.orders.errors import OrderRefusedError
from tests.unit.orders.check_rig import NOON, OPTION, SHARE

prices = st.none() | st.floats(0, 10_000) | st.integers(0, 200_000).map(lambda n: n * 0.05)
DAY_NS = 86_400 * 1_000_000_000
moments = st.integers(NOON - 300 * DAY_NS, NOON + 30 * DAY_NS)
mostly_noon = st.just(NOON) | st.just(NOON) | st.just(NOON) | moments | st.none()
limits = st.builds(
    OrderLimits,
    max_quantity=st.none() | st.integers(0, 2_000),
    max_value=st.none() | st.floats(0, 10_000_000),
    max_orders_per_day=st.none() | st.integers(0, 20),
    max_open_orders=st.none() | st.integers(0, 20),
    exchanges=st.none() | st.frozensets(st.sampled_from(Exchange)),
    products=st.none() | st.frozensets(st.sampled_from(Product)),
)
uses = st.builds(OrderUse, orders_today=st.integers(0, 20), open_orders=st.integers(0, 20))
contexts = st.builds(
    CheckContext,
    now_ns=st.just(NOON),
    market_now_ns=mostly_noon,
    instrument=st.sampled_from([*[OPTION] * 7, None]),
    last_price=st.none() | st.floats(0, 10_000),
    band=st.none() | st.builds(PriceBand, lower=st.floats(0, 10), upper=st.floats(10, 10_000)),
    kill_switch=st.sampled_from([False, False, False, True]),
    is_live=st.booleans(),
    feed_is_simulated=st.sampled_from([False, False, False, True]),
    account_limits=st.just(OrderLimits()) | limits,
    account_use=uses,
    user_limits=st.just(OrderLimits()) | limits,
    user_use=uses,
)
common: dict[str, st.SearchStrategy[Any]] = {
    "account": st.just("AB1234"),
    "task_id": st.just("task-1"),
    "created_at_ns": st.integers(NOON - 10**11, NOON + 10**11),
    "valid_until_ns": st.none() | st.integers(NOON - 10**9, NOON + 10**11),
}


def mostly(usual: st.SearchStrategy[Any], strange: st.SearchStrategy[Any]) -> Any:
    """The usual in seven of eight cases."""
    return st.integers(0, 7).flatmap(lambda drawn: strange if drawn == 7 else usual)


@st.composite
def orders(draw: st.DrawFn) -> PlaceOrder:
    """Orders whose fields mostly belong together, so that the later checks are reached."""
    order_type = draw(st.sampled_from(OrderType))
    variety = draw(mostly(st.just(Variety.REGULAR), st.sampled_from(Variety)))
    validity = draw(mostly(st.just(Validity.DAY), st.sampled_from(Validity)))
    exchange = draw(mostly(st.just(Exchange.NFO), st.sampled_from(Exchange)))
    is_cash = exchange in {Exchange.NSE, Exchange.BSE}
    ticks = draw(st.integers(1, 100_000))
    has_price = order_type in {OrderType.LIMIT, OrderType.SL}
    has_trigger = order_type in {OrderType.SL, OrderType.SL_M} or variety is Variety.CO
    is_iceberg = variety is Variety.ICEBERG
    lots = draw(st.integers(1, 300))
    return PlaceOrder(
        account="AB1234",
        task_id="task-1",
        created_at_ns=draw(common["created_at_ns"]),
        valid_until_ns=draw(common["valid_until_ns"]),
        exchange=exchange,
        tradingsymbol=OPTION.tradingsymbol,
        transaction_type=draw(st.sampled_from(Side)),
        quantity=draw(mostly(st.just(lots * 65), st.integers(1, 20_000))),
        product=draw(
            mostly(st.just(Product.CNC if is_cash else Product.NRML), st.sampled_from(Product))
        ),
        order_type=order_type,
        variety=variety,
        price=draw(mostly(st.just(ticks * 0.05 if has_price else None), prices)),
        trigger_price=draw(mostly(st.just(ticks * 0.05 if has_trigger else None), prices)),
        validity=validity,
        validity_ttl=5 if validity is Validity.TTL else None,
        disclosed_quantity=draw(mostly(st.none(), st.integers(0, 2_000))),
        market_protection=draw(mostly(st.none(), st.sampled_from([-1.0, 0.0, 2.5]))),
        iceberg_legs=draw(mostly(st.just(2 if is_iceberg else None), st.integers(2, 50))),
        iceberg_quantity=65 * ((lots + 1) // 2) if is_iceberg else None,
    )


changes = st.builds(
    ModifyOrder,
    **common,
    order_id=st.sampled_from(["1", None]),
    quantity=st.none() | st.integers(1, 2_000),
    order_type=st.none() | st.sampled_from(OrderType),
    price=prices,
    trigger_price=prices,
    validity=st.none() | st.sampled_from(Validity),
    disclosed_quantity=st.none() | st.integers(0, 2_000),
    market_protection=st.none() | st.sampled_from([-1.0, 0.0, 2.5]),
)
targets = st.builds(
    TargetOrder,
    order_id=st.just("1"),
    status=st.sampled_from(["", "OPEN", "COMPLETE"]),
    variety=st.sampled_from(Variety).map(str),
    exchange=st.sampled_from(["NFO", "NSE", ""]),
    transaction_type=st.sampled_from(["BUY", "SELL", ""]),
    product=st.sampled_from(["NRML", "CNC", ""]),
    order_type=st.sampled_from([*map(str, OrderType), "", "NEW"]),
    quantity=st.integers(0, 2_000),
    filled_quantity=st.integers(0, 2_000),
    price=prices,
    trigger_price=prices,
    is_final=st.booleans(),
)


def is_explained(refused: OrderRefusedError, command: OrderCommand) -> bool:
    """Whether a refusal has a code, a sentence, and a field that the sender can find."""
    known = {*command.__struct_fields__, None}
    return bool(refused.code and len(refused.message) > 20 and refused.field in known)


def is_on_tick(price: float, tick: float) -> bool:
    return Decimal(repr(price)) % Decimal(repr(tick)) == 0


@settings(max_examples=250)
@given(orders(), contexts)
def test_placement_is_refused_with_a_reason_or_leaves_right(command, context):
    if command.exchange in {Exchange.NSE, Exchange.BSE} and context.instrument is not None:
        context = msgspec.structs.replace(context, instrument=SHARE)
    try:
        checked = check_place(command, context)
    except OrderRefusedError as refused:
        assert is_explained(refused, command)  # noqa: PT017  # Whether it is refused is drawn.
        return
    assert not context.kill_switch
    assert sum(checked.slices) == command.quantity
    assert len(checked.slices) <= 10
    assert checked.valid_until_ns is None or checked.valid_until_ns >= context.now_ns
    for units, sent in zip(checked.slices, checked.parameters, strict=True):
        is_right(units, sent, command)


def is_right(units: int, sent: dict[str, Any], command: PlaceOrder) -> None:
    """Assert what must hold of every request that leaves."""
    assert sent["quantity"] == units
    assert units % 65 == 0 or command.exchange in {Exchange.NSE, Exchange.BSE}
    assert ("market_protection" in sent) is (sent["order_type"] in {"MARKET", "SL-M"})
    assert sent.get("market_protection") != 0
    assert ("price" in sent) is (sent["order_type"] in {"LIMIT", "SL"})
    for name in ("price", "trigger_price"):
        if name in sent and command.exchange not in {Exchange.NSE, Exchange.BSE}:
            assert is_on_tick(sent[name], 0.05)
            assert abs(sent[name] - getattr(command, name)) < 0.05 / 1000
    assert json.loads(json.dumps(sent, allow_nan=False)) == sent
    assert "account" not in sent
    assert "user" not in sent


@settings(max_examples=150)
@given(changes, targets, contexts)
def test_change_is_refused_with_a_reason_or_leaves_right(command, target, context):
    try:
        checked = check_modify(command, target, context)
    except OrderRefusedError as refused:
        assert is_explained(refused, command)  # noqa: PT017
        return
    assert not context.kill_switch
    assert not target.is_final
    assert checked.parameters["order_id"] == "1"
    assert checked.parameters.get("market_protection") != 0
    if command.quantity is not None:
        assert command.quantity > target.filled_quantity


@given(targets, contexts)
def test_nothing_but_its_age_and_the_orders_end_holds_up_a_cancellation(target, context):
    command = CancelOrder(account="AB1234", task_id="t", created_at_ns=NOON, order_id="1")
    if target.is_final:
        return
    assert check_cancel(command, target, context).parameters["order_id"] == "1"
