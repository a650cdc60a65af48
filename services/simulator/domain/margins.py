"""Funds and margins as the REST API shows them: of an account, of orders, of a basket."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import msgspec

from libs.common.domain.instruments import Kind
from services.simulator.domain.charges import Charges
from services.simulator.domain.orders.contract import Contract, Touch
from services.simulator.domain.orders.funds import Funds, margin_per_unit
from services.simulator.domain.orders.ticket import OrderType, Product, Side

_SPAN_SHARE: Final = 0.8
"""Ours: the rest of a derivative's margin is called exposure."""

_AVAILABLE: Final = (
    "adhoc_margin",
    "cash",
    "opening_balance",
    "live_balance",
    "collateral",
    "intraday_payin",
)
_UTILISED: Final = (
    "debits",
    "exposure",
    "m2m_realised",
    "m2m_unrealised",
    "option_premium",
    "payout",
    "span",
    "holding_sales",
    "turnover",
    "liquid_collateral",
    "stock_collateral",
    "delivery",
)


def funds_row(
    funds: Funds, kind_of: Callable[[int], Kind | None], unrealised: float
) -> dict[str, Any]:
    """Give the `equity` of `GET /user/margins`.

    Args:
        funds: The account's.
        kind_of: Token -> what it is; None when it is no longer listed.
        unrealised: Profit of the open positions, paise.
    """
    span = premium = delivery = 0.0
    for (token, product), held in funds.holdings.items():
        kind = kind_of(token)
        if kind is Kind.EQUITY and product in {Product.CNC, Product.MTF}:
            delivery += held.used
        elif kind is Kind.OPTION and held.net > 0:
            premium += held.used
        else:
            span += held.used
    debits = funds.used + funds.blocked - funds.realised
    return {
        "enabled": True,
        "net": _rupees(funds.available),
        "available": dict.fromkeys(_AVAILABLE, 0)
        | {
            "cash": _rupees(funds.total),
            "opening_balance": _rupees(funds.total),
            "live_balance": _rupees(funds.available),
        },
        "utilised": dict.fromkeys(_UTILISED, 0)
        | {
            "debits": _rupees(debits),
            "exposure": _rupees(span * (1 - _SPAN_SHARE)),
            "m2m_realised": _rupees(funds.realised),
            "m2m_unrealised": _rupees(unrealised),
            "option_premium": _rupees(premium),
            "span": _rupees(span * _SPAN_SHARE),
            "delivery": _rupees(delivery),
        },
    }


def no_funds_row() -> dict[str, Any]:
    """Give the `commodity` of `GET /user/margins`: no commodities are traded here."""
    return {
        "enabled": False,
        "net": 0,
        "available": dict.fromkeys(_AVAILABLE, 0),
        "utilised": dict.fromkeys(_UTILISED, 0),
    }


class OrderMargin(msgspec.Struct, frozen=True, kw_only=True):
    """What one order would hold; paise.

    Attributes:
        contract: Of what.
        side: Bought or sold.
        premium: Cost of an option that is bought.
        margin: Margin of a future or a short option.
        cash: Money for shares.
        charges: What it would cost.
    """

    contract: Contract
    side: Side
    premium: float = 0.0
    margin: float = 0.0
    cash: float = 0.0
    charges: Charges

    @property
    def total(self) -> float:
        """Everything but the charges."""
        return self.premium + self.margin + self.cash

    def row(self) -> dict[str, Any]:
        """Give it as `POST /margins/orders` lists it."""
        return {
            "type": "equity",
            "tradingsymbol": self.contract.tradingsymbol,
            "exchange": self.contract.exchange,
            "span": _rupees(self.margin * _SPAN_SHARE),
            "exposure": _rupees(self.margin * (1 - _SPAN_SHARE)),
            "option_premium": _rupees(self.premium),
            "additional": 0,
            "bo": 0,
            "cash": _rupees(self.cash),
            "var": 0,
            "pnl": {"realised": 0, "unrealised": 0},
            "leverage": 1,
            "charges": self.charges.row(),
            "total": _rupees(self.total),
        }


def order_margin(
    contract: Contract,
    product: Product,
    side: Side,
    quantity: int,
    *,
    price: float,
    touch: Touch,
    charges: Charges,
) -> OrderMargin:
    """Give what an order would hold by itself.

    Args:
        contract: Of what.
        product: How it would be carried.
        side: Bought or sold.
        quantity: Units.
        price: Paise at which it is expected to be filled.
        touch: The market of its instrument.
        charges: What it would cost.
    """
    amount = quantity * margin_per_unit(contract, product, side, price, touch)
    if contract.kind is Kind.EQUITY:
        return OrderMargin(contract=contract, side=side, cash=amount, charges=charges)
    if contract.kind is Kind.OPTION and side is Side.BUY:
        return OrderMargin(contract=contract, side=side, premium=amount, charges=charges)
    return OrderMargin(contract=contract, side=side, margin=amount, charges=charges)


def expected_price(order_type: OrderType, price: float, trigger_price: float, last: int) -> float:
    """Give the paise at which an order is expected to be filled.

    Args:
        order_type: How its price is found.
        price: Rupees, 0 when absent.
        trigger_price: Rupees, 0 when absent.
        last: The market's last price, paise.
    """
    match order_type:
        case OrderType.LIMIT | OrderType.SL if price:
            return price * 100
        case OrderType.SL_M if trigger_price:
            return trigger_price * 100
        case _:
            return float(last)


def basket_row(
    orders: Iterable[OrderMargin], held: Mapping[int, float], *, compact: bool
) -> dict[str, Any]:
    """Give the answer to `POST /margins/basket`.

    Of the margins on one underlying only the larger side counts in the end, as the other one
    hedges it; what the account holds on it already is taken off, too.

    Args:
        orders: The basket.
        held: Row of the underlying -> paise of margin that positions hold; empty when they are
            not to be considered.
        compact: Whether the rows of the orders are left out.
    """
    basket = list(orders)
    sides: dict[int, dict[bool, float]] = {}
    for order in basket:
        of_side = sides.setdefault(order.contract.underlying_row, {True: 0.0, False: 0.0})
        of_side[_gains_when_rising(order)] += order.margin
    final_margin = sum(
        max(max(of_side.values()) - held.get(row, 0.0), 0.0) for row, of_side in sides.items()
    )
    charges = Charges()
    for order in basket:
        charges = charges.plus(order.charges)
    initial = _sum_row(
        sum(o.premium for o in basket), sum(o.margin for o in basket), sum(o.cash for o in basket)
    )
    final = _sum_row(sum(o.premium for o in basket), final_margin, sum(o.cash for o in basket))
    return {
        "initial": initial,
        "final": final,
        "orders": [] if compact else [order.row() for order in basket],
        "charges": charges.row(),
    }


def _gains_when_rising(order: OrderMargin) -> bool:
    put = order.contract.tradingsymbol.endswith("PE") and order.contract.kind is Kind.OPTION
    return (order.side is Side.BUY) != put


def _sum_row(premium: float, margin: float, cash: float) -> dict[str, Any]:
    return {
        "type": "",
        "tradingsymbol": "",
        "exchange": "",
        "span": _rupees(margin * _SPAN_SHARE),
        "exposure": _rupees(margin * (1 - _SPAN_SHARE)),
        "option_premium": _rupees(premium),
        "additional": 0,
        "bo": 0,
        "cash": _rupees(cash),
        "var": 0,
        "pnl": {"realised": 0, "unrealised": 0},
        "leverage": 0,
        "charges": Charges().row(),
        "total": _rupees(premium + margin + cash),
    }


def _rupees(paise: float) -> float:
    return round(paise / 100, 4)
