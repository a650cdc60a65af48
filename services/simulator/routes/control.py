"""The simulator's own endpoints: faults on demand, the clock, and a look inside."""

import asyncio
import time

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from libs.common.domain.clock import ist_datetime
from services.simulator import metrics
from services.simulator.access import api_key_of, json_reply
from services.simulator.domain.clock_order import parse_order
from services.simulator.domain.faults import (
    IMMEDIATE,
    ActiveFault,
    FaultBook,
    FaultKind,
)
from services.simulator.domain.order_faults import (
    ActiveOrderFault,
    OrderFault,
    OrderFaultBook,
    parse_any_fault,
)
from services.simulator.domain.sessions import Sessions
from services.simulator.errors import FaultError
from services.simulator.exchange import Exchange
from services.simulator.feed import Feed

_OWN_PATHS = ("/sim/", "/livez", "/readyz", "/metrics")


class ControlRoutes:
    """`/sim/faults`, `/sim/clock` and `/sim/state`.

    Args:
        exchange: The running market.
        feed: The connections.
        faults: The faults in force.
        order_faults: Those of the order side.
        sessions: Know the api_keys.
    """

    def __init__(
        self,
        exchange: Exchange,
        feed: Feed,
        faults: FaultBook,
        order_faults: OrderFaultBook,
        sessions: Sessions,
    ) -> None:
        self._exchange = exchange
        self._feed = feed
        self._faults = faults
        self._order_faults = order_faults
        self._sessions = sessions
        self._last_look = (time.monotonic(), 0)

    def routes(self) -> list[Route]:
        """All routes of this area."""
        return [
            Route("/sim/faults", self.list_faults, methods=["GET"]),
            Route("/sim/faults", self.add_fault, methods=["POST"]),
            Route("/sim/faults", self.lift_faults, methods=["DELETE"]),
            Route("/sim/clock", self.set_clock, methods=["POST"]),
            Route("/sim/state", self.state),
        ]

    async def list_faults(self, request: Request) -> Response:
        """Give the faults in force."""
        del request
        entries: list[ActiveFault | ActiveOrderFault] = [
            *self._faults.active(),
            *self._order_faults.active(),
        ]
        rows = [_fault_row(entry) for entry in sorted(entries, key=lambda entry: entry.id)]
        return json_reply({"faults": rows})

    async def add_fault(self, request: Request) -> Response:
        """Put a fault into force, or do it at once."""
        fault = parse_any_fault(await request.body(), self._sessions.api_keys)
        if isinstance(fault, OrderFault):
            return json_reply(_fault_row(self._order_faults.add(fault)), 201)
        entry = self._faults.add(fault)
        row = _fault_row(entry)
        if fault.kind in IMMEDIATE:
            row["connections_hit"] = self._feed.strike_now(fault)
        return json_reply(row, 201)

    async def lift_faults(self, request: Request) -> Response:
        """Lift the fault `?id=`, or all."""
        text = request.query_params.get("id")
        if text is not None and not text.isdecimal():
            raise FaultError("id", "must be the number of a fault")
        number = None if text is None else int(text)
        lifted = self._faults.remove(number) + self._order_faults.remove(number)
        return json_reply({"lifted": lifted})

    async def set_clock(self, request: Request) -> Response:
        """Set the virtual clock; the answer shows it."""
        order = parse_order(await request.body())
        clock = self._exchange.clock
        at_ns = order.at_ns
        if at_ns is not None:
            try:
                clock.jump_to(at_ns)
            except ValueError as error:
                raise FaultError("to", f"must lie ahead: {error}") from None
        clock.set_pace(rate=order.rate, skip_closed=order.skip_closed)
        return json_reply(
            {
                "clock": ist_datetime(clock.now_ns()).isoformat(),
                "rate": clock.rate,
                "skip_closed": clock.skip_closed,
            }
        )

    async def state(self, request: Request) -> Response:
        """Show clock, connections and rates."""
        del request
        now_ns = self._exchange.clock.now_ns()
        looked, before = self._last_look
        moment = time.monotonic()
        ticks = self._feed.ticks_sent
        self._last_look = (moment, ticks)
        return json_reply(
            {
                "clock": ist_datetime(now_ns).isoformat(),
                "rate": self._exchange.clock.rate,
                "open": self._exchange.is_open,
                "day": self._exchange.market.universe.day.isoformat(),
                "instruments": len(self._exchange.market.universe),
                "steps": self._exchange.steps,
                "frames_sent": self._feed.frames_sent,
                "ticks_sent": ticks,
                # Since the last look at this page.
                "ticks_per_second": round((ticks - before) / max(moment - looked, 1e-3), 1),
                "accounts": self._accounts(),
            }
        )

    def _accounts(self) -> dict[str, object]:
        rows: dict[str, object] = {}
        for api_key in self._sessions.api_keys:
            own = [c for c in self._feed if c.api_key == api_key]
            rows[api_key] = {
                "connections": len(own),
                # Since the last look at this page: no look in between could miss it.
                "connections_peak": self._feed.peak(api_key),
                "tokens": sum(len(c.subscriptions.modes) for c in own),
                "frames_sent": sum(c.frames_sent for c in own),
                "frames_waiting": sum(len(c.outbox) for c in own),
                "frames_dropped": sum(c.outbox.dropped for c in own),
            }
        return rows


class ReplyFaults:
    """ASGI middleware that delays or replaces REST replies when a fault asks for it.

    Args:
        app: What is wrapped.
        faults: The faults in force.
    """

    def __init__(self, app: ASGIApp, faults: FaultBook) -> None:
        self._app = app
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["path"].startswith(_OWN_PATHS):
            await self._app(scope, receive, send)
            return
        api_key = api_key_of(Request(scope))
        slow = self._faults.strike(FaultKind.SLOW_REPLIES, api_key, scope["path"])
        if slow is not None:
            metrics.FAULTS_TOTAL.labels(kind=slow.kind.value).inc()
            await asyncio.sleep(slow.milliseconds / 1_000)
        failed = self._faults.strike(FaultKind.ERROR_REPLIES, api_key, scope["path"])
        if failed is None:
            await self._app(scope, receive, send)
            return
        metrics.FAULTS_TOTAL.labels(kind=failed.kind.value).inc()
        status = failed.status or 502
        response = (
            Response(f"<html><h1>{status}</h1></html>", status, media_type="text/html")
            if failed.html
            else json_reply(
                {
                    "status": "error",
                    "message": "A fault of the simulator.",
                    "error_type": failed.error_type,
                    "data": None,
                },
                status,
            )
        )
        await response(scope, receive, send)


def _fault_row(entry: ActiveFault | ActiveOrderFault) -> dict[str, object]:
    row: dict[str, object] = msgspec.to_builtins(entry.fault)
    return {"id": entry.id, **row, "fired": entry.fired}
