"""What trading costs: brokerage, taxes and fees, as a contract note lists them.

The rates are those that brokers published for 2026, simplified where they depend on what the
simulator does not have (states, promotions, clearing): plausible figures, not a tax advice.
"""

from enum import StrEnum
from typing import Any, Final

import msgspec

from libs.common.domain.instruments import Kind
from services.simulator.domain.orders.ticket import Product, Side

_FLAT_RUPEES: Final = 20.0
_BROKERAGE_SHARE: Final = 0.0003
_GST_SHARE: Final = 0.18
_SEBI_SHARE: Final = 0.000001


class Activity(StrEnum):
    """What is charged alike."""

    DELIVERY = "delivery"
    INTRADAY = "intraday"
    FUTURE = "future"
    OPTION = "option"


class _Rates(msgspec.Struct, frozen=True):
    """Shares of the turnover.

    Attributes:
        tax_buy: Securities transaction tax on purchases.
        tax_sell: The same on sales.
        exchange: The exchange's fee on both.
        stamp: Stamp duty on purchases.
    """

    tax_buy: float
    tax_sell: float
    exchange: float
    stamp: float


_RATES: Final = {
    Activity.DELIVERY: _Rates(0.001, 0.001, 0.0000297, 0.00015),
    Activity.INTRADAY: _Rates(0.0, 0.00025, 0.0000297, 0.00003),
    Activity.FUTURE: _Rates(0.0, 0.0005, 0.0000173, 0.00002),
    Activity.OPTION: _Rates(0.0, 0.0015, 0.0003503, 0.00003),
}


class Charges(msgspec.Struct, frozen=True, kw_only=True):
    """The charges of one order, rupees.

    Attributes:
        transaction_tax: Securities transaction tax.
        exchange_turnover_charge: The exchange's fee.
        sebi_turnover_charge: The regulator's fee.
        brokerage: The broker's.
        stamp_duty: On purchases.
        gst: On brokerage and fees.
    """

    transaction_tax: float = 0.0
    exchange_turnover_charge: float = 0.0
    sebi_turnover_charge: float = 0.0
    brokerage: float = 0.0
    stamp_duty: float = 0.0
    gst: float = 0.0

    @property
    def total(self) -> float:
        """The sum."""
        shares: tuple[float, ...] = msgspec.structs.astuple(self)
        return round(sum(shares), 4)

    def row(self) -> dict[str, Any]:
        """Give them as Kite shows them."""
        return {
            "transaction_tax": self.transaction_tax,
            "transaction_tax_type": "stt",
            "exchange_turnover_charge": self.exchange_turnover_charge,
            "sebi_turnover_charge": self.sebi_turnover_charge,
            "brokerage": self.brokerage,
            "stamp_duty": self.stamp_duty,
            "gst": {"igst": self.gst, "cgst": 0, "sgst": 0, "total": self.gst},
            "total": self.total,
        }

    def plus(self, other: "Charges") -> "Charges":
        """Add those of another order."""
        mine, others = msgspec.structs.asdict(self), msgspec.structs.asdict(other)
        return Charges(**{name: round(mine[name] + others[name], 4) for name in mine})


def activity(kind: Kind, product: Product) -> Activity:
    """Say what is traded, for its charges."""
    if kind is Kind.OPTION:
        return Activity.OPTION
    if kind is Kind.FUTURE:
        return Activity.FUTURE
    return Activity.DELIVERY if product in {Product.CNC, Product.MTF} else Activity.INTRADAY


def charges(what: Activity, side: Side, quantity: float, price: float) -> Charges:
    """Give the charges of an order.

    Args:
        what: Kind of trading.
        side: Bought or sold.
        quantity: Units.
        price: Rupees, of the average fill.
    """
    turnover, rates = quantity * price, _RATES[what]
    buys = side is Side.BUY
    match what:
        case Activity.DELIVERY:
            brokerage = 0.0
        case Activity.OPTION:
            brokerage = _FLAT_RUPEES if turnover else 0.0
        case _:
            brokerage = min(_FLAT_RUPEES, turnover * _BROKERAGE_SHARE)
    exchange, sebi = turnover * rates.exchange, turnover * _SEBI_SHARE
    return Charges(
        transaction_tax=round(turnover * (rates.tax_buy if buys else rates.tax_sell), 4),
        exchange_turnover_charge=round(exchange, 4),
        sebi_turnover_charge=round(sebi, 4),
        brokerage=round(brokerage, 4),
        stamp_duty=round(turnover * rates.stamp, 4) if buys else 0.0,
        gst=round((brokerage + exchange + sebi) * _GST_SHARE, 4),
    )
