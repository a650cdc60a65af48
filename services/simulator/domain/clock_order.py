"""An order to the virtual clock: jump to a moment, change the pace, keep or skip closed hours."""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from libs.common.domain.clock import IST, ns_of
from services.simulator.errors import FaultError


class ClockOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `POST /sim/clock` takes; every part may be left out.

    Attributes:
        to: ISO date and time to go on at; without a zone it is Indian time.
        rate: Virtual seconds per real second.
        skip_closed: Whether closed hours are stepped over.
    """

    to: str | None = None
    rate: Annotated[float, Meta(gt=0, le=1_000)] | None = None
    skip_closed: bool | None = None

    @property
    def at_ns(self) -> int | None:
        """The moment to go on at, epoch nanoseconds.

        Raises:
            FaultError: It is no date and time.
        """
        if self.to is None:
            return None
        try:
            moment = datetime.fromisoformat(self.to)
        except ValueError:
            raise FaultError("to", "must be a date and time like 2026-11-23T15:39:50") from None
        return ns_of(moment if moment.tzinfo else moment.replace(tzinfo=IST))


def parse_order(body: bytes) -> ClockOrder:
    """Read an order.

    Raises:
        FaultError: Names the field and what would be right.
    """
    try:
        order = msgspec.json.decode(body, type=ClockOrder)
    except (msgspec.DecodeError, ValueError) as error:
        raise FaultError("body", f'must be like {{"to": "…", "rate": 1}}: {error}') from None
    if order == ClockOrder():
        raise FaultError("body", "must hold at least one of to, rate and skip_closed")
    return order
