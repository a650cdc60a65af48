"""A gateway on real servers for tests, and a small market that publishes as the fleet does."""

import asyncio
import json
import math
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import jwt
import websockets

from libs.common.bus.connection import Bus
from libs.common.bus.kv import Bucket
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import (
    AccountPlan,
    FeedState,
    FeedStatus,
    ForwardSource,
    InstrumentSet,
    IvStatus,
    Ohlc,
    PlannedConnection,
    PlannedGroup,
    Source,
    StreamMode,
    Tick,
)
from libs.common.domain.instruments import Instrument, Kind, OptionType
from libs.common.lifecycle import Lifecycle
from libs.common.settings import Environment
from services.control import schema
from services.fleet.postgres_server import PostgresServer, usable_identity
from services.fleet.supervisor import running
from services.gateway import app
from services.gateway.settings import GatewaySettings
from tests.fakes.nats_server import free_port

SECRET = "a-secret-of-more-than-thirty-two-characters"
NOWHERE = "postgresql://nobody:nothing@127.0.0.1:1/none"
DEADLINE_SECONDS = 20.0


def token(
    user: str = "tester", *, seconds: float = 600, secret: str = SECRET, **changes: Any
) -> str:
    """Make a token; a claim changed to None is left out."""
    claims: dict[str, Any] = {
        "sub": user,
        "name": "Tess Ter",
        "email": f"{user}@example.org",
        "exp": int(time.time() + seconds),
        "iss": "tickfleet",
        "aud": "tickfleet-ws",
        **changes,
    }
    return jwt.encode({k: v for k, v in claims.items() if v is not None}, secret, "HS256")


class Gateway:
    """A running gateway, in this process or another."""

    def __init__(self, settings: GatewaySettings, life: Lifecycle | None = None) -> None:
        self.settings = settings
        self.life = life or Lifecycle()

    @property
    def url(self) -> str:
        """Root of REST and page."""
        return f"http://127.0.0.1:{self.settings.gateway_port}"

    @property
    def ws_url(self) -> str:
        """Address of the WebSocket, without a token."""
        return f"ws://127.0.0.1:{self.settings.gateway_port}/ws/ticks"

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """Ask REST."""
        async with httpx.AsyncClient(timeout=10) as client:
            return await client.get(self.url + path, headers=headers)

    async def send(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> httpx.Response:
        """Ask REST to change something; text and bytes go as they are, all else as JSON."""
        raw = body if isinstance(body, str | bytes) else None
        async with httpx.AsyncClient(timeout=60) as client:
            return await client.request(
                method,
                self.url + path,
                content=raw if raw is not None or body is None else json.dumps(body),
                headers={"Content-Type": "application/json", **headers},
            )

    @asynccontextmanager
    async def client(self, jwt_token: str | None = None, **options: Any) -> AsyncIterator["Peer"]:
        """Connect with a token in the address and take the greeting."""
        address = f"{self.ws_url}?token={jwt_token or token()}"
        async with websockets.connect(address, max_size=None, **options) as socket:
            peer = Peer(socket)
            peer.greeting = await peer.next("connected")
            yield peer


class Peer:
    """A WebSocket client that waits for messages by type."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self.socket = socket
        self.greeting: dict[str, Any] = {}
        self.skipped: list[dict[str, Any]] = []

    async def say(self, **message: Any) -> None:
        """Send one message."""
        await self.socket.send(json.dumps(message))

    async def receive(self) -> dict[str, Any]:
        """Take the next message, whatever it is."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            message: dict[str, Any] = json.loads(await self.socket.recv())
        return message

    async def next(self, kind: str) -> dict[str, Any]:
        """Take messages until one of this type; the others are kept in `skipped`."""
        while (message := await self.receive())["type"] != kind:
            self.skipped.append(message)
        return message

    async def subscribe(self, *tokens: int, **more: Any) -> dict[str, Any]:
        """Subscribe and give the answer."""
        await self.say(action="subscribe", tokens=list(tokens), **more)
        return await self.next("subscribed")

    async def closed(self) -> int:
        """Read to the end; gives the close code."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            await self.socket.wait_closed()
        return self.socket.close_code or 0


@asynccontextmanager
async def running_gateway(
    nats_url: str, database_url: str = NOWHERE, **settings: Any
) -> AsyncIterator[Gateway]:
    """Run a gateway in this process until the block ends."""
    values: dict[str, Any] = {
        "environment": Environment.TEST,
        "nats_url": nats_url,
        "database_url": database_url,
        "gateway_port": free_port(),
        "jwt_secret": SECRET,
        "api_key_enabled": False,
        **settings,
    }
    life = Lifecycle(deadline_seconds=5)
    gateway = Gateway(GatewaySettings(**values), life)
    serving = asyncio.create_task(app.serve(gateway.settings, life))
    try:
        await until_ready(gateway, serving)
        yield gateway
    finally:
        life.request_stop("the test is over")
        async with asyncio.timeout(DEADLINE_SECONDS):
            await serving
    if life.failure is not None:
        raise life.failure


async def until_ready(gateway: Gateway, serving: "asyncio.Task[None] | None" = None) -> None:
    """Wait until `/readyz` says so."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            if serving is not None and serving.done():
                serving.result()
                raise AssertionError("the gateway ended while starting")
            try:
                if (await gateway.get("/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.02)


async def until_health(gateway: Gateway, status: str) -> dict[str, Any]:
    """Wait until `/health` has this status; gives its body."""
    async with asyncio.timeout(DEADLINE_SECONDS):
        while True:
            body: dict[str, Any] = (await gateway.get("/health")).json()
            if body["status"] == status:
                return body
            await asyncio.sleep(0.05)


class Market:
    """One chain of NIFTY with its index, priced by Black-76 on a forward that a test moves."""

    def __init__(
        self, *, strikes: int = 21, forward: float = 24_310.0, expiry: date | None = None
    ) -> None:
        self.forward = forward
        self.expiry = expiry or (datetime.now(UTC).date() + timedelta(days=9))
        self.tte = 9.27 / 365
        self.seq = 0
        self.index = _instrument(256265, "NIFTY 50", kind=Kind.INDEX, segment="INDICES")
        first = round(forward / 50) * 50 - strikes // 2 * 50
        self.options = [
            _instrument(
                10_000_000 + 2 * row + side,
                f"NIFTY{self.expiry:%y%b}".upper() + f"{first + 50 * row}{right.value}",
                kind=Kind.OPTION,
                segment="NFO-OPT",
                strike=float(first + 50 * row),
                expiry=self.expiry,
                option_type=right,
            )
            for row in range(strikes)
            for side, right in enumerate(OptionType)
        ]

    @property
    def instruments(self) -> list[Instrument]:
        """The index and all options."""
        return [self.index, *self.options]

    @property
    def tokens(self) -> list[int]:
        """Of all instruments."""
        return [i.instrument_token for i in self.instruments]

    def tick(self, instrument: Instrument, **changes: Any) -> Tick:
        """The instrument's state now."""
        self.seq += 1
        now = time.time_ns()
        values: dict[str, Any] = {
            "instrument_token": instrument.instrument_token,
            "tradingsymbol": instrument.tradingsymbol,
            "underlying": "NIFTY",
            "kind": instrument.kind,
            "expiry": instrument.expiry,
            "strike": instrument.strike,
            "option_type": instrument.option_type,
            "last_price": round(self.forward - 24.35, 2),
            "change": round((self.forward - 24_250) / 242.5, 2),
            "ohlc": Ohlc(open=24_200.0, high=24_400.0, low=24_180.0, close=24_250.0),
            "seq": self.seq,
            "epoch": 1,
            "exchange_ts": now,
            "ingest_ts": now,
            "greeks_ts": now,
            "source": Source.SIM,
        }
        if instrument.strike is not None:
            values |= self._option(instrument)
        return Tick(**{**values, **changes})

    def _option(self, instrument: Instrument) -> dict[str, Any]:
        strike = instrument.strike or 0.0
        moneyness = math.log(strike / self.forward)
        iv = 0.128 - 0.35 * moneyness + 4 * moneyness**2
        sign = 1 if instrument.option_type is OptionType.CALL else -1
        root = iv * math.sqrt(self.tte)
        d1 = (-moneyness + root**2 / 2) / root
        density = math.exp(-(d1**2) / 2) / math.sqrt(2 * math.pi)
        price = sign * (self.forward * _normal(sign * d1) - strike * _normal(sign * (d1 - root)))
        shown = max(0.05, round(price / 0.05) * 0.05)
        deep = price - max(0.0, sign * (self.forward - strike)) < 12.0
        return {
            "last_price": round(shown, 2),
            "bid": round(max(0.05, shown - 0.15), 2),
            "ask": round(shown + 0.2, 2),
            "bid_qty": 750,
            "ask_qty": 900,
            "volume": 125_000,
            "oi": int(5_200_000 * math.exp(-(((moneyness * 60) - sign * 0.6) ** 2)) / 75) * 75,
            "iv": None if deep else iv,
            "bid_iv": None if deep else iv - 0.002,
            "ask_iv": None if deep else iv + 0.002,
            "smile_iv": iv,
            "delta": sign * _normal(sign * d1),
            "gamma": density / (self.forward * root),
            "theta": -self.forward * density * iv / (2 * math.sqrt(self.tte)) / 365,
            "vega": self.forward * density * math.sqrt(self.tte) / 100,
            "rho": 0.0,
            "iv_status": IvStatus.BELOW_INTRINSIC if deep else IvStatus.OK,
            "forward": round(self.forward, 2),
            "forward_source": ForwardSource.FUTURE,
            "tte": self.tte,
        }

    async def announce(self, bus: Bus, *, account: str = "acc1") -> None:
        """Write instruments, plan and a streaming feed into the buckets."""
        found = InstrumentSet(
            underlying="NIFTY",
            revision=1,
            market_date=datetime.now(UTC).date(),
            instruments=tuple(self.instruments),
        )
        group = PlannedGroup(underlying="NIFTY", mode=StreamMode.FULL, tokens=tuple(self.tokens))
        plan = AccountPlan(
            account=account,
            revision=1,
            connections=(PlannedConnection(groups=(group,)),),
            planned_at_ns=time.time_ns(),
        )
        await Bucket(bus, streams.INSTRUMENTS.name).put("NIFTY", codec.to_msgpack(found))
        await Bucket(bus, streams.PLAN.name).put(subjects.escape(account), codec.to_json(plan))
        await self.report(bus, FeedState.STREAMING, account=account)

    async def report(self, bus: Bus, state: FeedState, *, account: str = "acc1") -> None:
        """Say how the account's feed fares."""
        status = FeedStatus(
            account=account,
            worker="ingest-1",
            state=state,
            connections=1,
            tokens=len(self.tokens),
            frames_total=10,
            ticks_total=100,
            dropped_total=0,
            plan_revision=1,
            last_frame_ns=time.time_ns(),
            at_ns=time.time_ns(),
        )
        key = f"feed-{subjects.escape(account)}"
        await Bucket(bus, streams.STATUS.name).put(key, codec.to_json(status))

    async def publish(self, bus: Bus, instruments: Iterable[Instrument] | None = None) -> None:
        """Publish one tick of each instrument, as greeks does: one message, a line each."""
        chosen = self.instruments if instruments is None else instruments
        lines = [codec.to_json(self.tick(i)) for i in chosen]
        assert await bus.publish(subjects.tick("NIFTY"), b"\n".join(lines) + b"\n")

    async def store_last(self, bus: Bus, ticks: Iterable[Tick]) -> None:
        """Publish last values and wait until the stream has them."""
        for tick in ticks:
            subject = subjects.last(tick.underlying, tick.instrument_token)
            await bus.jetstream.publish(subject, codec.to_json(tick))

    async def fill(self, database_url: str, *, account: str = "acc1") -> None:
        """Write instruments and plan into migrated tables."""
        connection = await asyncpg.connect(database_url)
        try:
            revision = await connection.fetchval(
                "INSERT INTO instrument_dumps (market_date, source, row_count, skipped_count, "
                "is_current) VALUES (current_date, 'sim', $1, 0, true) RETURNING revision",
                len(self.instruments),
            )
            await connection.executemany(
                "INSERT INTO instrument_rows VALUES "
                "($1,$2,$3,$4,$5,$6,$7,$8,$9,$10,$11,$12,$13,$14)",
                [
                    (
                        revision,
                        i.instrument_token,
                        i.exchange_token,
                        i.tradingsymbol,
                        i.name,
                        i.exchange,
                        i.segment,
                        i.underlying,
                        i.kind.value,
                        i.strike,
                        i.expiry,
                        i.option_type.value if i.option_type else None,
                        i.lot_size,
                        i.tick_size,
                    )
                    for i in self.instruments
                ],
            )
            await connection.executemany(
                "INSERT INTO plan_entries VALUES ($1, $2, 0, 'full', 'window', 1)",
                [(i.instrument_token, account) for i in self.instruments],
            )
        finally:
            await connection.close()


def _normal(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def _instrument(number: int, symbol: str, *, kind: Kind, segment: str, **more: Any) -> Instrument:
    return Instrument(
        instrument_token=number,
        exchange_token=number // 256,
        tradingsymbol=symbol,
        name="NIFTY",
        exchange="NFO" if kind is Kind.OPTION else "NSE",
        segment=segment,
        underlying="NIFTY",
        kind=kind,
        lot_size=75 if kind is Kind.OPTION else 0,
        tick_size=0.05,
        **more,
    )


@asynccontextmanager
async def running_postgres(
    directory: Path, *, port: int | None = None
) -> AsyncIterator[PostgresServer]:
    """A PostgreSQL of one's own with the fleet's schema; the same directory, the same rows."""
    server = PostgresServer(
        directory=directory,
        port=port or free_port(),
        identity=await usable_identity(),
        durable=False,
    )
    await server.prepare()
    async with running(server.child()):
        await asyncio.to_thread(schema.upgrade, server.url)
        yield server
