"""The bounded line of requests that wait for a call within Kite's limit."""

import asyncio
import time
from collections.abc import Callable

from libs.common.resilience.calendar_limiter import CalendarLimiter
from services.ingest import metrics

_NS_PER_SECOND = 1_000_000_000


class WaitingLine:
    """Gives out the calls of one limiter, in the order in which they were asked for.

    Args:
        limiter: Of one api_key and kind of call.
        call: Kind of call, for metrics.
        at_most: Who comes while so many wait is sent away.
        now_ns: A clock that never runs backwards.
    """

    def __init__(
        self,
        limiter: CalendarLimiter,
        *,
        call: str,
        at_most: int,
        now_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self._limiter = limiter
        self._at_most = at_most
        self._now_ns = now_ns
        # First come, first served: its waiters are woken in order.
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._gauge = metrics.WAITING.labels(call=call)
        self._waits = {
            outcome: metrics.WAITS_TOTAL.labels(call=call, outcome=outcome)
            for outcome in ("served", "late", "full")
        }

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._waiting

    @property
    def expected_seconds(self) -> float:
        """When somebody who came now would have their turn."""
        wait = self._limiter.wait_ns(self._now_ns()) / _NS_PER_SECOND
        return wait + self._waiting / self._limiter.usable

    def try_take(self) -> bool:
        """Take a call if one is free and nobody waits."""
        return self._waiting == 0 and self._limiter.try_acquire(self._now_ns()) == 0

    async def take(self, until: float) -> bool:
        """Wait for a call.

        Args:
            until: Give up then; on the clock of `time.monotonic`, in seconds.

        Returns:
            False at once when too many wait or the turn would come too late, and false later
            when it came too late after all.
        """
        if self._waiting >= self._at_most:
            self._waits["full"].inc()
            return False
        if time.monotonic() + self.expected_seconds > until:
            self._waits["late"].inc()
            return False
        self._waiting += 1
        self._gauge.inc()
        try:
            async with asyncio.timeout(until - time.monotonic()), self._turn:
                await self._own_turn()
        except TimeoutError:
            self._waits["late"].inc()
            return False
        finally:
            self._waiting -= 1
            self._gauge.dec()
        self._waits["served"].inc()
        return True

    async def _own_turn(self) -> None:
        wait_ns = self._limiter.try_acquire(self._now_ns())
        while wait_ns:
            # A sleep may end a little early, and Kite may refuse a call meanwhile.
            await asyncio.sleep(wait_ns / _NS_PER_SECOND)
            wait_ns = self._limiter.try_acquire(self._now_ns())

    def refused(self) -> None:
        """Kite itself refused a call for its limit: leave the rest of its second alone."""
        self._limiter.refused(self._now_ns())
