"""Good-till-triggered orders: a price to watch for, and what to order when it comes."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Final

import msgspec
from msgspec import Meta

from services.simulator.domain.accounts import Account
from services.simulator.domain.orders.rows import wall_clock
from services.simulator.domain.orders.ticket import OrderType, Product, Side, Ticket, Variety
from services.simulator.errors import InputError, OrderError

ACTIVE_AT_MOST: Final = 500
_ENDED_AT_MOST: Final = 1_000
_NS_PER_DAY: Final = 86_400 * 1_000_000_000
_LIFETIME_NS: Final = 365 * _NS_PER_DAY
_LISTED_NS: Final = 7 * _NS_PER_DAY
_CLOSEST: Final = 0.0025
"""The broker's page: a trigger lies at least 0.25 % from the last price."""


class GttType(StrEnum):
    """How many prices are watched.

    Attributes:
        SINGLE: One, on either side of the last price.
        TWO_LEG: One below and one above it; the first that comes cancels the other.
    """

    SINGLE = "single"
    TWO_LEG = "two-leg"


class GttStatus(StrEnum):
    """Where a trigger stands; all but `active` are final."""

    ACTIVE = "active"
    TRIGGERED = "triggered"
    EXPIRED = "expired"
    DELETED = "deleted"


class GttOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What is ordered when the price comes.

    Attributes:
        side: Buy or sell.
        quantity: Units.
        product: How it is carried.
        price: Rupees; it is always a LIMIT order.
    """

    side: Side
    quantity: int
    product: Product
    price: float


class GttRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request for a trigger, well formed but not yet held against the market.

    Attributes:
        type: One price or two.
        exchange: Kite's spelling.
        tradingsymbol: Kite's symbol.
        values: Rupees, ascending; one a leg.
        last_price: The client's idea of it; Kite asks for it.
        orders: One a leg.
    """

    type: GttType
    exchange: str
    tradingsymbol: str
    values: tuple[float, ...]
    last_price: float
    orders: tuple[GttOrder, ...]


_Rupees = Annotated[float, Meta(gt=0, le=10_000_000)]


class _Condition(msgspec.Struct, frozen=True):
    exchange: str
    tradingsymbol: str
    trigger_values: list[_Rupees]
    last_price: _Rupees


class _Order(msgspec.Struct, frozen=True):
    transaction_type: Side
    quantity: Annotated[int, Meta(ge=1, le=100_000_000)]
    product: Product
    price: _Rupees
    order_type: OrderType = OrderType.LIMIT


def read_gtt(form: Mapping[str, str]) -> GttRequest:
    """Read the form of `POST /gtt/triggers`, whose fields `condition` and `orders` are JSON.

    Raises:
        InputError: Names the field that is missing or wrong.
    """
    try:
        kind = GttType(form.get("type", ""))
    except ValueError:
        raise InputError(f"Invalid `type`. It is one of {', '.join(GttType)}.") from None
    condition = _json(form, "condition", _Condition)
    orders = _json(form, "orders", list[_Order])
    legs = 2 if kind is GttType.TWO_LEG else 1
    if len(condition.trigger_values) != legs or len(orders) != legs:
        raise InputError(f"A {kind} trigger has {legs} of `trigger_values` and of `orders`.")
    if legs == 2 and condition.trigger_values[0] >= condition.trigger_values[1]:
        raise InputError("Invalid `trigger_values`. The lower one comes first.")
    if any(order.order_type is not OrderType.LIMIT for order in orders):
        raise InputError("Invalid `order_type`. A trigger places LIMIT orders.")
    return GttRequest(
        type=kind,
        exchange=condition.exchange,
        tradingsymbol=condition.tradingsymbol,
        values=tuple(condition.trigger_values),
        last_price=condition.last_price,
        orders=tuple(
            GttOrder(
                side=order.transaction_type,
                quantity=order.quantity,
                product=order.product,
                price=order.price,
            )
            for order in orders
        ),
    )


def check_values(request: GttRequest, last_paise: int) -> None:
    """Hold a trigger against the market.

    Raises:
        InputError: It would be reached already, or lies too close to be told from it.
    """
    last = last_paise / 100
    if any(abs(value - last) < last * _CLOSEST for value in request.values):
        raise InputError(
            f"Trigger price was too close to the last price {last:.2f}: "
            f"it must differ by {_CLOSEST:.2%} at least."
        )
    if request.type is GttType.TWO_LEG and not request.values[0] < last < request.values[1]:
        raise InputError(f"The last price {last:.2f} must lie between the two trigger prices.")


class LegResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the order of a leg that was triggered.

    Attributes:
        at_ns: When, virtual epoch nanoseconds.
        order_id: The order; None when it was refused.
        reason: Why it was refused; empty when it was not.
    """

    at_ns: int
    order_id: str | None
    reason: str = ""


class Gtt:
    """One trigger of one account.

    Args:
        number: Its `trigger_id`.
        request: What was asked for.
        token: Kite's number of the instrument.
        last_paise: The market's last price.
        at_ns: Virtual epoch nanoseconds.

    Attributes:
        status: Where it stands.
        results: Leg -> what became of its order.
    """

    def __init__(
        self, number: int, request: GttRequest, *, token: int, last_paise: int, at_ns: int
    ) -> None:
        self.id = number
        self.token = token
        self.status = GttStatus.ACTIVE
        self.results: dict[int, LegResult] = {}
        self.created_ns = at_ns
        self.change(request, last_paise=last_paise, at_ns=at_ns)

    def change(self, request: GttRequest, *, last_paise: int, at_ns: int) -> None:
        """Watch for something else from now on."""
        self.request = request
        self.updated_ns = at_ns
        # On which side of the market a single price lay decides which way it must be crossed.
        self._above = tuple(value * 100 > last_paise for value in request.values)

    def end(self, status: GttStatus, at_ns: int) -> None:
        """Watch no longer."""
        self.status = status
        self.updated_ns = at_ns

    def reached(self, last_paise: int) -> int | None:
        """Give the leg whose price has come, or None."""
        for leg, (value, above) in enumerate(zip(self.request.values, self._above, strict=True)):
            limit = round(value * 100)
            if last_paise >= limit if above else last_paise <= limit:
                return leg
        return None

    def ticket(self, leg: int) -> Ticket:
        """Give the order of a leg."""
        order = self.request.orders[leg]
        return Ticket(
            variety=Variety.REGULAR,
            exchange=self.request.exchange,
            tradingsymbol=self.request.tradingsymbol,
            side=order.side,
            quantity=order.quantity,
            product=order.product,
            order_type=OrderType.LIMIT,
            price=order.price,
        )

    def trigger(self, leg: int, result: LegResult) -> None:
        """Note that a leg has been triggered, which ends the other one as well."""
        self.results[leg] = result
        self.end(GttStatus.TRIGGERED, result.at_ns)

    def row(self, account: Account) -> dict[str, Any]:
        """Give it as `GET /gtt/triggers` lists it."""
        request = self.request
        return {
            "id": self.id,
            "user_id": account.user_id,
            "parent_trigger": None,
            "type": request.type,
            "created_at": wall_clock(self.created_ns),
            "updated_at": wall_clock(self.updated_ns),
            "expires_at": wall_clock(self.created_ns + _LIFETIME_NS),
            "status": self.status,
            "condition": {
                "exchange": request.exchange,
                "tradingsymbol": request.tradingsymbol,
                "instrument_token": self.token,
                "trigger_values": request.values,
                "last_price": request.last_price,
            },
            "orders": [self._order_row(leg, account) for leg in range(len(request.orders))],
            "meta": {},
        }

    def _order_row(self, leg: int, account: Account) -> dict[str, Any]:
        request, order = self.request, self.request.orders[leg]
        row = {
            "exchange": request.exchange,
            "tradingsymbol": request.tradingsymbol,
            "product": order.product,
            "order_type": OrderType.LIMIT,
            "transaction_type": order.side,
            "quantity": order.quantity,
            "price": order.price,
        }
        result = self.results.get(leg)
        if result is None:
            return {**row, "result": None}
        placed = {
            "status": "failed" if result.order_id is None else "success",
            "order_id": result.order_id or "",
            "rejection_reason": result.reason,
        }
        details = {
            "account_id": account.user_id,
            "validity": "DAY",
            "meta": "{}",
            "timestamp": wall_clock(result.at_ns),
            "triggered_at": request.values[leg],
            "order_result": placed,
        }
        return {**row, "result": {**row, **details}}


class GttBook:
    """The triggers of one account; they outlive the day.

    Args:
        account: Whose.
    """

    def __init__(self, account: Account) -> None:
        self.account = account
        self._triggers: dict[int, Gtt] = {}

    def add(self, trigger: Gtt) -> None:
        """Take a trigger in.

        Raises:
            OrderError: 500 are active already.
        """
        if len(self.active()) >= ACTIVE_AT_MOST:
            raise OrderError(f"Maximum allowed active triggers exceeded: {ACTIVE_AT_MOST}.")
        self._triggers[trigger.id] = trigger
        ended = [t.id for t in self._triggers.values() if t.status is not GttStatus.ACTIVE]
        for number in ended[: max(len(ended) - _ENDED_AT_MOST, 0)]:
            del self._triggers[number]

    def active(self) -> list[Gtt]:
        """Give those that watch, oldest first."""
        return [t for t in self._triggers.values() if t.status is GttStatus.ACTIVE]

    def listed(self, at_ns: int) -> list[Gtt]:
        """Give those that watch, and those that ended within the last seven days."""
        return [
            trigger
            for trigger in self._triggers.values()
            if trigger.status is GttStatus.ACTIVE or at_ns - trigger.updated_ns < _LISTED_NS
        ]

    def get(self, number: str) -> Gtt:
        """Find a trigger.

        Raises:
            OrderError: There is none of that number.
        """
        found = self._triggers.get(int(number)) if number.isdecimal() and len(number) < 16 else None
        if found is None:
            raise OrderError("Couldn't find that `trigger_id`.")
        return found

    def get_active(self, number: str) -> Gtt:
        """Find a trigger that can still be changed.

        Raises:
            OrderError: There is none of that number, or it has ended.
        """
        found = self.get(number)
        if found.status is not GttStatus.ACTIVE:
            raise OrderError(f"The trigger cannot be changed: it is {found.status}.")
        return found

    def expire(self, at_ns: int) -> None:
        """End those whose year is over."""
        for trigger in self.active():
            if at_ns - trigger.created_ns >= _LIFETIME_NS:
                trigger.end(GttStatus.EXPIRED, at_ns)


def _json(form: Mapping[str, str], name: str, kind: Any) -> Any:
    text = form.get(name, "")
    if not text:
        raise InputError(f"Missing or empty field `{name}`.")
    try:
        return msgspec.json.decode(text.encode(), type=kind)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise InputError(f"Invalid `{name}`: {error}") from None
