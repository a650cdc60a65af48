"""The flow of the gateway: bus → fan-out → clients, with REST and the page beside it."""

import asyncio
import logging

from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.types import Receive

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.provision import ensure
from libs.common.contracts import streams
from libs.common.database import Database
from libs.common.errors import FatalError
from libs.common.health import Health
from libs.common.http_server import http_server
from libs.common.lifecycle import Lifecycle
from services.gateway.accounts import AccountDesk
from services.gateway.candles import CandleDesk
from services.gateway.catalog import Catalog
from services.gateway.client import Client
from services.gateway.directory import Directory
from services.gateway.domain.limits import ConnectionQuota
from services.gateway.explanations import ExplanationDesk
from services.gateway.fanout import Fanout
from services.gateway.fleet_state import FleetState
from services.gateway.identity import TokenVerifier
from services.gateway.intake import TickIntake
from services.gateway.market_board import MarketBoard
from services.gateway.order_book import OrderBook
from services.gateway.order_events import OrderEvents
from services.gateway.orders import OrderDesk
from services.gateway.postbacks import PostbackDesk
from services.gateway.routes import accounts as account_routes
from services.gateway.routes import chains, history, instruments, page, rest, ticks
from services.gateway.routes import explanations as explanation_routes
from services.gateway.routes import orders as order_routes
from services.gateway.routes.orders import OrderRoutes
from services.gateway.routes.subscriptions import SubscriptionRoutes
from services.gateway.settings import GatewaySettings
from services.gateway.subscriptions import Subscriptions
from services.gateway.wire import GatewayProtocol, Wire

log = logs.get_logger(__name__)


async def serve(settings: GatewaySettings, life: Lifecycle) -> None:
    """Serve clients until the process stops."""
    # uvicorn's INFO lines hold whole addresses, `?token=` included.
    logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
    assets = await asyncio.to_thread(page.load_assets)

    async with (
        Database.opened(settings) as database,
        Bus.open(settings, name=settings.worker_id) as bus,
    ):
        await ensure(
            bus,
            [streams.MD_LAST, streams.MD_FORWARDS, streams.MD_CHAINS, streams.ORDER_COMMANDS],
            [
                streams.INSTRUMENTS,
                streams.PLAN,
                streams.STATUS,
                streams.ACCOUNTS,
                streams.ORDER_CONTROLS,
            ],
        )
        fanout = Fanout(
            flush_interval_ms=settings.flush_interval_ms,
            stall_seconds=settings.stall_seconds,
            last_values_max=settings.last_values_max,
        )
        directory = Directory(bus, on_forgotten=fanout.forget)
        state = FleetState(
            bus=bus, database=database, directory=directory, fanout=fanout, settings=settings
        )
        directory.start(life)
        await TickIntake(bus, fanout).start(life)
        order_events = OrderEvents()
        await order_events.start(bus, life)
        order_book = OrderBook(database)
        life.spawn(fanout.run(life), name="fanout")
        life.spawn(state.run(life), name="database-probe")
        life.spawn(_fail_with_bus(bus, life), name="bus-closed")

        health = Health(life)
        health.add("nats", state.bus_problem)
        health.add("directory", state.directory_problem)
        app = application(
            settings=settings,
            fanout=fanout,
            directory=directory,
            accounts=AccountDesk(bus),
            candles=CandleDesk(
                bus,
                concurrency=settings.history_concurrency,
                piece_seconds=settings.history_piece_seconds,
            ),
            catalog=Catalog(database),
            board=MarketBoard(bus),
            explanations=ExplanationDesk(bus),
            subscriptions=SubscriptionRoutes(
                Subscriptions(database, directory.is_account), bus, settings
            ),
            orders=OrderRoutes(
                OrderDesk(bus, order_book, order_events, waits_max=settings.order_waits_max),
                order_book,
                PostbackDesk(bus, per_second_max=settings.postbacks_per_second_max),
                directory,
                settings,
            ),
            order_events=order_events,
            state=state,
            health=health,
            assets=assets,
            life=life,
        )
        async with http_server(
            app,
            host=settings.gateway_host,
            port=settings.gateway_port,
            port_setting="GATEWAY_PORT",
            life=life,
            ws=GatewayProtocol,
            ws_max_size=settings.message_bytes_max,
            ws_per_message_deflate=False,
            http="httptools",
            lifespan="off",
        ):
            log.info("gateway.listening", host=settings.gateway_host, port=settings.gateway_port)
            await life.until_stopped()


def application(
    *,
    settings: GatewaySettings,
    fanout: Fanout,
    directory: Directory,
    accounts: AccountDesk,
    candles: CandleDesk,
    catalog: Catalog,
    board: MarketBoard,
    explanations: ExplanationDesk,
    subscriptions: SubscriptionRoutes,
    orders: OrderRoutes,
    order_events: OrderEvents,
    state: FleetState,
    health: Health,
    assets: dict[str, page.Asset],
    life: Lifecycle,
) -> Starlette:
    """Everything that answers at the gateway's port."""
    quota = ConnectionQuota(
        total_max=settings.connections_max, per_user_max=settings.connections_per_user_max
    )
    verifier = TokenVerifier(settings)

    def make_client(wire: Wire, receive: Receive) -> Client:
        return Client(
            wire=wire,
            receive=receive,
            fanout=fanout,
            order_events=order_events,
            directory=directory,
            verifier=verifier,
            quota=quota,
            settings=settings,
        )

    endpoint = ticks.TicksEndpoint(make_client=make_client, quota=quota, stopping=life.stop.is_set)
    return Starlette(
        routes=[
            WebSocketRoute(ticks.PATH, endpoint),
            *health.routes(),
            *rest.routes(catalog=catalog, state=state, settings=settings),
            *account_routes.routes(accounts=accounts, directory=directory, settings=settings),
            *history.routes(desk=candles, settings=settings),
            *chains.routes(board=board, settings=settings),
            *explanation_routes.routes(explanations=explanations, settings=settings),
            *instruments.routes(catalog=catalog, settings=settings),
            *subscriptions.routes(),
            *orders.routes(),
            *page.routes(assets),
        ],
        exception_handlers={
            **rest.ERROR_HANDLERS,
            **account_routes.ERROR_HANDLERS,
            **history.ERROR_HANDLERS,
            **explanation_routes.ERROR_HANDLERS,
            **order_routes.ERROR_HANDLERS,
        },
    )


async def _fail_with_bus(bus: Bus, life: Lifecycle) -> None:
    """End the process when the bus is closed for good; only a new process has a new one."""
    closed = asyncio.create_task(bus.closed.wait())
    stopped = asyncio.create_task(life.stop.wait())
    await asyncio.wait((closed, stopped), return_when=asyncio.FIRST_COMPLETED)
    closed.cancel()
    stopped.cancel()
    if bus.closed.is_set() and not life.stop.is_set():
        raise FatalError("the connection to NATS is closed for good")
