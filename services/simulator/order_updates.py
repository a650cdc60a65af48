"""Order updates on their way to accounts, over both channels, with what goes wrong there."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from services.simulator import metrics
from services.simulator.domain.accounts import Account
from services.simulator.domain.order_faults import Channel, OrderFaultBook, OrderFaultKind

_WAITING_AT_MOST: Final = 10_000

Sink = Callable[[Account, dict[str, Any]], None]
"""Takes an update at once; it must not block."""


class OrderUpdates:
    """Hands every update to every channel, unless a fault strikes it.

    Args:
        faults: The faults in force.
        sinks: Where each channel's updates go.
    """

    def __init__(self, faults: OrderFaultBook, sinks: Mapping[Channel, Sink]) -> None:
        self._faults = faults
        self._sinks = sinks
        self._waiting: set[asyncio.TimerHandle] = set()
        self._overtaken: dict[tuple[Channel, str], list[Callable[[], None]]] = {}

    def tell(self, account: Account, body: dict[str, Any]) -> None:
        """Tell an account of one of its orders."""
        for channel, sink in self._sinks.items():
            self._tell(channel, sink, account, body)

    def close(self) -> None:
        """Forget what waits."""
        for handle in self._waiting:
            handle.cancel()
        self._waiting.clear()
        self._overtaken.clear()

    def _tell(self, channel: Channel, sink: Sink, account: Account, body: dict[str, Any]) -> None:
        verdict = self._faults.strike_update(channel, account.api_key)
        if verdict is not None:
            metrics.FAULTS_TOTAL.labels(kind=verdict.kind.value).inc()
        key = (channel, account.api_key)
        kind = verdict.kind if verdict else None
        delay = verdict.delay_seconds if verdict else 0.0
        overtaken = self._overtaken.pop(key, [])
        match kind:
            case None:
                sink(account, body)
            case OrderFaultKind.DUPLICATE_UPDATE:
                sink(account, body)
                self._later(delay, lambda: sink(account, body))
            case OrderFaultKind.LATE_UPDATE:
                self._later(delay, lambda: sink(account, body))
            case OrderFaultKind.REORDERED_UPDATE:
                once = _Once(lambda: sink(account, body))
                self._overtaken.setdefault(key, []).append(once)
                self._later(delay, once)
            case _:
                pass
        # What was to be overtaken by this one follows it, whatever became of this one.
        for follow in overtaken:
            follow()

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        if len(self._waiting) >= _WAITING_AT_MOST:
            # Bounded: an update beyond comes now instead.
            work()
            return

        def due() -> None:
            self._waiting.discard(handle)
            work()

        handle = asyncio.get_running_loop().call_later(seconds, due)
        self._waiting.add(handle)


class _Once:
    """Does something the first time it is called."""

    def __init__(self, work: Callable[[], None]) -> None:
        self._work: Callable[[], None] | None = work

    def __call__(self) -> None:
        work, self._work = self._work, None
        if work is not None:
            work()
