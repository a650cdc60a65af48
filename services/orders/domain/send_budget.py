"""How many requests may leave for an account: per second, per minute, per day and per order."""

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import msgspec

from libs.common.domain.clock import ist_datetime
from libs.common.resilience.calendar_limiter import CalendarLimiter
from services.orders.domain.intent import Verb
from services.orders.errors import OrderRefusedError

if TYPE_CHECKING:
    from datetime import date

__all__ = ["BudgetUse", "PastSend", "SendBudget", "SendLimits"]

_SECONDS_PER_MINUTE: Final = 60.0


class SendLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What leaves for one account; Kite's own limits less what is kept spare.

    Kite counts 10 a second, 400 a minute and 5000 a day per account, over all its apps and
    platforms, and 25 changes per order (Kite Connect, exceptions page and support FAQ).

    Attributes:
        per_second: Placements and changes in any second.
        spare_per_second: What cancellations may use on top of it.
        per_minute: Placements and changes in any minute.
        spare_per_minute: What cancellations may use on top of it.
        per_day: Placements in one Indian day; a leg of an iceberg counts as one. At the broker's
            cap not even a position can be closed, so that some are left for a person.
        modifications_per_order: Changes of one order.
        margin_seconds: Makes every window longer: requests that leave a second apart may arrive
            closer together.
    """

    per_second: int = 9
    spare_per_second: int = 1
    per_minute: int = 380
    spare_per_minute: int = 20
    per_day: int = 4900
    modifications_per_order: int = 25
    margin_seconds: float = 0.05


class PastSend(msgspec.Struct, frozen=True, kw_only=True):
    """A request that left, as the ledger remembers it.

    Attributes:
        at_ns: When, epoch ns.
        verb: What it did.
        order_id: The order it was about; None for placements.
        units: What it counted for the day's cap, with placements.
    """

    at_ns: int
    verb: Verb
    order_id: str | None = None
    units: int = 1


class BudgetUse(msgspec.Struct, frozen=True, kw_only=True):
    """What of the limits is used now.

    Attributes:
        second: Requests of the last second.
        minute: Requests of the last minute.
        day: Placements of this Indian day.
    """

    second: int
    minute: int
    day: int


class SendBudget:
    """The limits of one account, all of which a request must pass before it leaves.

    Every request counts in the second and in the minute; only placements count in the day. A
    request that the broker refused counts, too: the broker counts it.

    Args:
        limits: The figures.
    """

    __slots__ = ("_changes", "_day", "_limits", "_minute", "_second", "_today")

    def __init__(self, limits: SendLimits | None = None) -> None:
        self._limits = limits or SendLimits()
        self._second = CalendarLimiter(
            self._limits.per_second + self._limits.spare_per_second,
            spare=self._limits.spare_per_second,
            margin_seconds=self._limits.margin_seconds,
        )
        self._minute = CalendarLimiter(
            self._limits.per_minute + self._limits.spare_per_minute,
            spare=self._limits.spare_per_minute,
            margin_seconds=self._limits.margin_seconds,
            window_seconds=_SECONDS_PER_MINUTE,
        )
        self._day: date | None = None
        self._today = 0
        # An order lives for one day, so its changes are forgotten with the day.
        self._changes: Counter[str] = Counter()

    @property
    def limits(self) -> SendLimits:
        """The figures."""
        return self._limits

    def restore(self, sends: Iterable[PastSend], now_ns: int) -> None:
        """Count what left before this process held the account.

        Args:
            sends: Of this Indian day at least, in any order; older ones change nothing.
            now_ns: Epoch ns.
        """
        past = sorted(sends, key=lambda send: send.at_ns)
        times = [send.at_ns for send in past]
        self._second.restore(times)
        self._minute.restore(times)
        self._turn_day(now_ns)
        for send in past:
            if ist_datetime(send.at_ns).date() == self._day:
                self._count_for_day(send.verb, send.order_id, send.units)

    def wait_ns(self, verb: Verb, now_ns: int) -> int:
        """How long a request of this kind would have to wait now, in nanoseconds."""
        spare = verb is Verb.CANCEL
        return max(
            self._second.wait_ns(now_ns, may_use_spare=spare),
            self._minute.wait_ns(now_ns, may_use_spare=spare),
        )

    def try_acquire(
        self, verb: Verb, now_ns: int, *, order_id: str | None = None, units: int = 1
    ) -> int:
        """Take a request if it may leave now.

        Args:
            verb: What it does.
            now_ns: Epoch ns; a clock that is put back only makes the wait longer once.
            order_id: The order that a change is about.
            units: What a placement counts for the day's cap: the legs of an iceberg.

        Returns:
            0 when it may leave, and is counted; else how many nanoseconds to wait before asking
            again, and nothing is counted.

        Raises:
            OrderRefusedError: Waiting does not help: `day_cap`, or `modifications_used_up`.
        """
        self._turn_day(now_ns)
        self._refuse_used_up(verb, order_id, units)
        wait_ns = self.wait_ns(verb, now_ns)
        if wait_ns == 0:
            spare = verb is Verb.CANCEL
            self._second.try_acquire(now_ns, may_use_spare=spare)
            self._minute.try_acquire(now_ns, may_use_spare=spare)
            self._count_for_day(verb, order_id, units)
        return wait_ns

    def refused(self, now_ns: int) -> None:
        """The broker's limiter refused a request: leave the rest of its second alone."""
        self._second.refused(now_ns)

    def used(self, now_ns: int) -> BudgetUse:
        """What of the limits is used now; `now_ns` is epoch ns."""
        self._turn_day(now_ns)
        return BudgetUse(
            second=self._second.used(now_ns), minute=self._minute.used(now_ns), day=self._today
        )

    def _refuse_used_up(self, verb: Verb, order_id: str | None, units: int) -> None:
        if verb is Verb.PLACE and self._today + units > self._limits.per_day:
            raise OrderRefusedError(
                "day_cap",
                f"{self._today} orders of {self._limits.per_day} have left today; the "
                "rest of the broker's cap is kept for people: close positions in Kite itself",
            )
        if verb is Verb.MODIFY and order_id is not None:
            changes = self._changes[order_id]
            if changes >= self._limits.modifications_per_order:
                raise OrderRefusedError(
                    "modifications_used_up",
                    f"order {order_id} was changed {changes} times today, which is all the broker "
                    "allows; cancel it and place a new one",
                )

    def _count_for_day(self, verb: Verb, order_id: str | None, units: int) -> None:
        if verb is Verb.PLACE:
            self._today += units
        elif verb is Verb.MODIFY and order_id is not None:
            self._changes[order_id] += 1

    def _turn_day(self, now_ns: int) -> None:
        day = ist_datetime(now_ns).date()
        if self._day is None or day > self._day:
            self._day = day
            self._today = 0
            self._changes.clear()
