"""What a client asks for: order forms as they come over the wire, read strictly."""

import math
from collections.abc import Mapping
from enum import StrEnum
from typing import Final, TypeVar

import msgspec

from services.simulator.errors import InputError

E = TypeVar("E", bound=StrEnum)

_TAG_AT_MOST: Final = 20
_LARGEST_QUANTITY: Final = 10_000_000
_LARGEST_RUPEES: Final = 10_000_000.0
_LONGEST_TEXT: Final = 64


class Variety(StrEnum):
    """Which counter an order goes to."""

    REGULAR = "regular"
    AMO = "amo"
    CO = "co"
    ICEBERG = "iceberg"
    AUCTION = "auction"


class Side(StrEnum):
    """Kite's `transaction_type`."""

    BUY = "BUY"
    SELL = "SELL"

    @property
    def other(self) -> "Side":
        """The opposite side."""
        return Side.SELL if self is Side.BUY else Side.BUY


class OrderType(StrEnum):
    """How the price is found."""

    MARKET = "MARKET"
    LIMIT = "LIMIT"
    SL = "SL"
    SL_M = "SL-M"


class Product(StrEnum):
    """How the position is carried."""

    CNC = "CNC"
    NRML = "NRML"
    MIS = "MIS"
    MTF = "MTF"
    CO = "CO"


class Validity(StrEnum):
    """How long the exchange keeps an order."""

    DAY = "DAY"
    IOC = "IOC"
    TTL = "TTL"


class Ticket(msgspec.Struct, frozen=True, kw_only=True):
    """A request to place an order, well formed but not yet checked against any instrument.

    Attributes:
        variety: Of the path.
        exchange: Kite's spelling, such as `NFO`.
        tradingsymbol: Kite's symbol.
        side: Buy or sell.
        quantity: Units, at least 1.
        product: How it is carried.
        order_type: As asked for.
        price: Rupees; 0 when absent.
        trigger_price: Rupees; 0 when absent.
        validity: As asked for.
        validity_ttl: Minutes, with TTL; 0 otherwise.
        disclosed_quantity: Units shown to the market; 0 for all.
        market_protection: Percent, -1 for the broker's own, 0 when absent.
        iceberg_legs: With `iceberg`, else 0.
        iceberg_quantity: With `iceberg`, units per leg, else 0.
        auction_number: With `auction`, else empty.
        autoslice: Cut what exceeds the freeze quantity.
        tag: The client's mark, None when absent.
    """

    variety: Variety
    exchange: str
    tradingsymbol: str
    side: Side
    quantity: int
    product: Product
    order_type: OrderType
    price: float = 0.0
    trigger_price: float = 0.0
    validity: Validity = Validity.DAY
    validity_ttl: int = 0
    disclosed_quantity: int = 0
    market_protection: float = 0.0
    iceberg_legs: int = 0
    iceberg_quantity: int = 0
    auction_number: str = ""
    autoslice: bool = False
    tag: str | None = None


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A request to modify an order; None leaves a field as it is.

    Attributes:
        quantity: The new total, what has been filled included.
        order_type: How the price is found from now on.
        price: Rupees.
        trigger_price: Rupees.
        validity: DAY, IOC or TTL.
        validity_ttl: Minutes.
        disclosed_quantity: Units.
        market_protection: Percent or -1.
    """

    quantity: int | None = None
    order_type: OrderType | None = None
    price: float | None = None
    trigger_price: float | None = None
    validity: Validity | None = None
    validity_ttl: int | None = None
    disclosed_quantity: int | None = None
    market_protection: float | None = None


def read_variety(text: str) -> Variety:
    """Read the variety in a path.

    Raises:
        InputError: There is no such variety.
    """
    return _word(Variety, "variety", text)


def read_ticket(variety: Variety, form: Mapping[str, str]) -> Ticket:
    """Read the form of `POST /orders/{variety}`.

    Raises:
        InputError: Names the first field that is missing or malformed.
    """
    tag = form.get("tag") or None
    if tag is not None and len(tag) > _TAG_AT_MOST:
        raise InputError(f"Invalid `tag`. It can be at most {_TAG_AT_MOST} characters long.")
    return Ticket(
        variety=variety,
        exchange=_text(form, "exchange"),
        tradingsymbol=_text(form, "tradingsymbol"),
        side=_word(Side, "transaction_type", _text(form, "transaction_type")),
        quantity=_whole(form, "quantity", lowest=1, required=True) or 0,
        product=_word(Product, "product", _text(form, "product")),
        order_type=_word(OrderType, "order_type", _text(form, "order_type")),
        price=_number(form, "price") or 0.0,
        trigger_price=_number(form, "trigger_price") or 0.0,
        validity=_word(Validity, "validity", form.get("validity") or Validity.DAY),
        validity_ttl=_whole(form, "validity_ttl") or 0,
        disclosed_quantity=_whole(form, "disclosed_quantity") or 0,
        market_protection=_number(form, "market_protection", lowest=-1, highest=100) or 0.0,
        iceberg_legs=_whole(form, "iceberg_legs") or 0,
        iceberg_quantity=_whole(form, "iceberg_quantity") or 0,
        auction_number=form.get("auction_number", "")[:_LONGEST_TEXT],
        autoslice=form.get("autoslice", "").lower() == "true",
        tag=tag,
    )


def read_change(form: Mapping[str, str]) -> Change:
    """Read the form of `PUT /orders/{variety}/{order_id}`.

    Raises:
        InputError: Names the first malformed field.
    """
    order_type, validity = form.get("order_type"), form.get("validity")
    return Change(
        quantity=_whole(form, "quantity", lowest=1),
        order_type=_word(OrderType, "order_type", order_type) if order_type else None,
        price=_number(form, "price"),
        trigger_price=_number(form, "trigger_price"),
        validity=_word(Validity, "validity", validity) if validity else None,
        validity_ttl=_whole(form, "validity_ttl"),
        disclosed_quantity=_whole(form, "disclosed_quantity"),
        market_protection=_number(form, "market_protection", lowest=-1, highest=100),
    )


def _text(form: Mapping[str, str], name: str) -> str:
    value = form.get(name, "")
    if not value:
        raise InputError(f"Missing or empty field `{name}`.")
    return value[:_LONGEST_TEXT]


def _word(words: type[E], name: str, text: str) -> E:
    try:
        return words(text)
    except ValueError:
        raise InputError(f"Invalid `{name}`. It is one of {', '.join(words)}.") from None


def _whole(
    form: Mapping[str, str], name: str, *, lowest: int = 0, required: bool = False
) -> int | None:
    text = _text(form, name) if required else form.get(name, "")
    if not text:
        return None
    # `int` would take "1_000" and other scripts' digits as well.
    if not (text.lstrip("+-").isdecimal() and text.isascii()) or len(text) > _LONGEST_TEXT:
        raise InputError(f"Invalid `{name}`. It must be a whole number.")
    value = int(text) if len(text) <= len(str(_LARGEST_QUANTITY)) else _LARGEST_QUANTITY + 1
    if not lowest <= value <= _LARGEST_QUANTITY:
        raise InputError(f"Invalid `{name}`. It must be {lowest} to {_LARGEST_QUANTITY}.")
    return value


def _number(
    form: Mapping[str, str], name: str, *, lowest: float = 0.0, highest: float = _LARGEST_RUPEES
) -> float | None:
    text = form.get(name, "")
    if not text:
        return None
    try:
        value = float(text[:_LONGEST_TEXT])
    except ValueError:
        raise InputError(f"Invalid `{name}`. It must be a number.") from None
    if not (math.isfinite(value) and lowest <= value <= highest):
        raise InputError(f"Invalid `{name}`. It must be {lowest:g} to {highest:g}.")
    return value
