"""The flow of the simulator: a clock moves a market, a feed streams it, a desk trades in it."""

import itertools
import time
from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from libs.common import logs
from libs.common.domain.clock import SystemClock, ist_datetime
from libs.common.domain.market_calendar import CALENDAR
from libs.common.health import Health
from libs.common.http_server import http_server
from libs.common.lifecycle import Lifecycle
from services.simulator.access import Access, json_reply, refusal
from services.simulator.domain.faults import FaultBook
from services.simulator.domain.order_faults import Channel, OrderFaultBook
from services.simulator.domain.rate_limits import RateLimiter
from services.simulator.domain.session_clock import SessionClock, resolve_start
from services.simulator.domain.sessions import Sessions
from services.simulator.errors import FaultError, KiteError
from services.simulator.exchange import Exchange
from services.simulator.feed import Feed
from services.simulator.gtt_desk import GttDesk
from services.simulator.order_desk import OrderDesk
from services.simulator.order_gate import OrderGate
from services.simulator.order_updates import OrderUpdates, Sink
from services.simulator.portfolio_desk import PortfolioDesk
from services.simulator.postbacks import Postbacks
from services.simulator.protocols import TransparentHttp, TransparentWebSocket
from services.simulator.routes.control import ControlRoutes, ReplyFaults
from services.simulator.routes.gtt import GttRoutes
from services.simulator.routes.login import LoginRoutes
from services.simulator.routes.market import MarketRoutes
from services.simulator.routes.orders import OrderRoutes
from services.simulator.routes.portfolio import PortfolioRoutes
from services.simulator.routes.stream import StreamRoute
from services.simulator.routes.user import UserRoutes
from services.simulator.settings import SimulatorSettings

log = logs.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulator:
    """The parts of a running simulator."""

    exchange: Exchange
    feed: Feed
    orders: OrderDesk
    portfolio: PortfolioDesk
    gtt: GttDesk
    updates: OrderUpdates
    postbacks: Postbacks | None
    faults: FaultBook
    order_faults: OrderFaultBook
    sessions: Sessions
    access: Access
    heartbeat_seconds: float


def build(settings: SimulatorSettings) -> Simulator:
    """Put the parts together; takes about a second for the full universe."""
    real_clock = SystemClock()
    start_ns = resolve_start(settings.sim_start, real_now_ns=real_clock.now_ns(), calendar=CALENDAR)
    clock = SessionClock(
        start_ns,
        rate=settings.sim_rate,
        skip_closed=settings.sim_skip_closed,
        calendar=CALENDAR,
    )
    fault_numbers = itertools.count(1)
    faults = FaultBook(time.monotonic, fault_numbers)
    order_faults = OrderFaultBook(time.monotonic, fault_numbers)
    sessions = Sessions(
        settings.accounts(),
        seed=settings.sim_seed,
        market_clock=clock,
        real_clock=real_clock,
    )
    feed = Feed(sessions, faults, outbox_frames=settings.sim_outbox_frames)
    exchange = Exchange(
        clock=clock,
        calendar=CALENDAR,
        feed=feed,
        faults=faults,
        seed=settings.sim_seed,
        size=settings.sim_universe,
        strikes_per_side=settings.sim_strikes_per_side,
        max_contracts=settings.sim_max_contracts,
        tick_interval_seconds=settings.sim_tick_interval_seconds,
        tick_probability=settings.sim_tick_probability,
    )
    orders = OrderDesk(
        exchange,
        calendar=CALENDAR,
        real_clock=real_clock,
        accounts=settings.accounts(),
        funds=settings.sim_funds,
        orders_per_day=settings.sim_orders_per_day,
        partial_fills=settings.sim_partial_fills,
        delay_ms=settings.sim_order_delay_ms,
        reject_in_reply=settings.sim_risk_replies,
        seed=settings.sim_seed,
    )
    exchange.watch(orders.on_step)
    gtt = GttDesk(exchange, orders, settings.accounts())
    exchange.watch(gtt.on_step)
    postbacks = Postbacks(str(settings.sim_postback_url)) if settings.sim_postback_url else None
    sinks: dict[Channel, Sink] = {
        Channel.WEBSOCKET: lambda account, body: feed.send_order(account.api_key, body)
    }
    if postbacks is not None:
        sinks[Channel.POSTBACK] = postbacks.put
    updates = OrderUpdates(order_faults, sinks)
    orders.listeners.append(updates.tell)
    access = Access(sessions, RateLimiter(enabled=settings.sim_rate_limits), real_clock)
    return Simulator(
        exchange=exchange,
        feed=feed,
        orders=orders,
        portfolio=PortfolioDesk(exchange, orders, seed=settings.sim_seed),
        gtt=gtt,
        updates=updates,
        postbacks=postbacks,
        faults=faults,
        order_faults=order_faults,
        sessions=sessions,
        access=access,
        heartbeat_seconds=settings.sim_heartbeat_seconds,
    )


def create_app(simulator: Simulator, health: Health) -> Starlette:
    """Put the routes together."""
    exchange, feed, sessions = simulator.exchange, simulator.feed, simulator.sessions
    stream = StreamRoute(
        sessions, feed, simulator.faults, heartbeat_seconds=simulator.heartbeat_seconds
    )
    routes = [
        stream.route(),
        *LoginRoutes(sessions).routes(),
        *UserRoutes(sessions, simulator.access, exchange.clock).routes(),
        *MarketRoutes(exchange, simulator.access, simulator.faults).routes(),
        *OrderRoutes(simulator.orders, simulator.access).routes(),
        *PortfolioRoutes(simulator.portfolio, simulator.orders, simulator.access).routes(),
        *GttRoutes(simulator.gtt, simulator.access).routes(),
        *ControlRoutes(exchange, feed, simulator.faults, simulator.order_faults, sessions).routes(),
        *health.routes(),
    ]
    return Starlette(
        routes=routes,
        middleware=[
            Middleware(ReplyFaults, faults=simulator.faults),
            Middleware(OrderGate, faults=simulator.order_faults, sessions=sessions),
        ],
        exception_handlers={
            KiteError: _kite_error,
            FaultError: _fault_error,
            HTTPException: _http_error,
            Exception: _unexpected_error,
        },
    )


async def serve(settings: SimulatorSettings, life: Lifecycle) -> None:
    """Run the simulator until the process stops."""
    simulator = build(settings)
    exchange = simulator.exchange
    log.info(
        "market.open",
        clock=ist_datetime(exchange.clock.now_ns()).isoformat(),
        instruments=len(exchange.market.universe),
        accounts=len(simulator.sessions.api_keys),
    )
    health = Health(life)
    health.add("market", lambda: None if exchange.steps or not exchange.is_open else "first step")
    async with http_server(
        create_app(simulator, health),
        host=settings.sim_host,
        port=settings.sim_port,
        port_setting="SIM_PORT",
        life=life,
        lifespan="off",
        http=TransparentHttp,
        ws=TransparentWebSocket,
        # Kite never pings, and its client takes an unsolicited pong for a promise of more.
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        ws_max_size=1 << 20,
    ):
        life.spawn(exchange.run(life.stop), name="market")
        life.spawn(simulator.orders.run(life.stop), name="orders")
        if simulator.postbacks is not None:
            life.spawn(simulator.postbacks.run(life.stop), name="postbacks")
        try:
            await life.until_stopped()
        finally:
            simulator.updates.close()
            exchange.close()


async def _kite_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, KiteError)  # noqa: S101  # Starlette's type of handlers is wider.
    return refusal(error)


async def _fault_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, FaultError)  # noqa: S101  # As above.
    return json_reply({"error": {"field": error.field, "fix": error.fix}}, 400)


async def _http_error(request: Request, error: Exception) -> Response:
    del request
    assert isinstance(error, HTTPException)  # noqa: S101  # As above.
    return refusal(KiteError(error.status_code, "GeneralException", "Route not found"))


async def _unexpected_error(request: Request, error: Exception) -> Response:
    log.error("request.failed", path=request.url.path, exc_info=error)
    return refusal(KiteError(500, "GeneralException", "Something went wrong in the simulator."))
