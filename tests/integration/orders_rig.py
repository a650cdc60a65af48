"""Real orders workers on real servers for tests: accounts at a scripted broker, and a ledger."""

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import datetime
from pathlib import Path
from secrets import token_hex
from typing import Any

import asyncpg
from cryptography.fernet import Fernet
from pydantic import SecretStr

from libs.common.bus.connection import Bus
from libs.common.bus.durable import publish_once
from libs.common.bus.kv import Bucket, snapshot
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import (
    AccountCondition,
    AccountSource,
    AccountState,
    InstrumentSet,
    KiteSession,
    Source,
)
from libs.common.contracts.orders import (
    AccountEvent,
    CancelOrder,
    Exchange,
    ModifyOrder,
    OrderAction,
    OrderCommand,
    OrderControls,
    OrderEvent,
    OrderReply,
    OrderRequest,
    OrdersStatus,
    OrderType,
    PlaceOrder,
    Product,
    Side,
)
from libs.common.domain.clock import IST
from libs.common.domain.instruments import Instrument, Kind, OptionType
from libs.common.kite.sessions import SessionSeal
from libs.common.lifecycle import Lifecycle
from libs.common.settings import load
from services.orders import app
from services.orders.settings import OrdersSettings
from tests.fakes.nats_server import NatsServer, free_port
from tests.fakes.order_counter import TOKEN, OrderCounter
from tests.fakes.service_process import ServiceProcess
from tests.integration.gateway_rig import running_postgres

KEY = Fernet.generate_key().decode()
PATIENCE_SECONDS = 60.0
SYMBOLS = ("NIFTY26DEC25000CE", "NIFTY26DEC25100CE", "NIFTY26DEC25000PE", "BANKNIFTY26DEC55000CE")
SECRET = "api-secret"


async def until(
    condition: Callable[[], object | Awaitable[object]],
    what: Callable[[], object] = lambda: "nothing known",
    seconds: float = PATIENCE_SECONDS,
) -> Any:
    """Wait for a condition with a generous deadline; gives what it gave."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"never came true; now: {what()}"
        await asyncio.sleep(0.02)


def instruments() -> list[Instrument]:
    """The contracts that can be ordered."""
    found = []
    for number, symbol in enumerate(SYMBOLS):
        underlying = "BANKNIFTY" if symbol.startswith("BANK") else "NIFTY"
        found.append(
            Instrument(
                instrument_token=256 * (number + 1) + 2,
                exchange_token=number + 1,
                tradingsymbol=symbol,
                name=underlying,
                exchange="NFO",
                segment="NFO-OPT",
                underlying=underlying,
                kind=Kind.OPTION,
                strike=25_000.0,
                option_type=OptionType.CALL,
                lot_size=65,
                tick_size=0.05,
            )
        )
    return found


class OrdersRig:
    """What orders reads, written as others do, and ways to start it.

    Args:
        bus: A connection of the test's own.
        nats_server: Where workers connect.
        database_url: The ledger's.
        counter: The broker of every account.
        folder: For the logs of processes.
    """

    def __init__(
        self,
        bus: Bus,
        nats_server: NatsServer,
        database_url: str,
        counter: OrderCounter,
        folder: Path,
    ) -> None:
        self.bus = bus
        self.counter = counter
        self.database_url = database_url
        self._nats = nats_server
        self._folder = folder
        self._seal = SessionSeal(SecretStr(KEY))
        self.accounts: list[str] = []
        # A contract that can be ordered; tests at another broker put theirs here.
        self.option = instruments()[0]
        self._number = 0
        self._mint = time.time_ns()

    @property
    def main(self) -> str:
        """The first account."""
        return self.accounts[0]

    async def prepare(self, *accounts: str) -> None:
        """Make the streams, and accounts that are logged in."""
        await ensure(self.bus, streams.STREAMS, streams.BUCKETS)
        rows = instruments()
        for underlying in sorted({row.underlying for row in rows}):
            entry = InstrumentSet(
                underlying=underlying,
                revision=1,
                market_date=datetime.now(IST).date(),
                instruments=tuple(row for row in rows if row.underlying == underlying),
            )
            await Bucket(self.bus, streams.INSTRUMENTS.name).put(
                subjects.escape(underlying), codec.to_msgpack(entry)
            )
        for account in accounts:
            await self.add_account(account)
            await self.log_in(account)

    async def add_account(self, account: str) -> None:
        """Let control know an account."""
        state = AccountState(
            account=account,
            source=AccountSource.ENVIRONMENT,
            condition=AccountCondition.READY,
            connections=1,
            tokens_per_connection=3_000,
            at_ns=time.time_ns(),
        )
        await Bucket(self.bus, streams.ACCOUNTS.name).put(
            subjects.escape(account), codec.to_json(state)
        )

    async def log_in(self, account: str, **changes: Any) -> KiteSession:
        """Give an account a newer session."""
        self._mint += 1
        values: dict[str, Any] = {
            "account": account,
            "api_key": f"key-{account}",
            "access_token": TOKEN,
            "user_id": f"U{account.upper()}",
            "ws_url": "ws://127.0.0.1:1",
            "api_url": self.counter.url,
            "source": Source.SIM,
            "minted_at_ns": self._mint,
            "api_secret": SECRET,
            **changes,
        }
        session = KiteSession(**values)
        await Bucket(self.bus, streams.KITE_SESSIONS.name).put(
            subjects.escape(account), self._seal.seal(session)
        )
        return session

    async def log_out(self, account: str) -> None:
        """Take an account's session away."""
        await Bucket(self.bus, streams.KITE_SESSIONS.name).delete(subjects.escape(account))

    async def switch(self, account: str, *, on: bool) -> None:
        """Set the kill switch."""
        controls = OrderControls(kill_switch=on, reason="test", by="person", at_ns=time.time_ns())
        await Bucket(self.bus, streams.ORDER_CONTROLS.name).put(
            subjects.escape(account), codec.to_json(controls)
        )

    # -- workers -------------------------------------------------------------------------------

    def environment(self, **settings: Any) -> dict[str, str]:
        """The settings of a worker, as environment variables."""
        values = {
            "environment": "test",
            "nats_url": self._nats.url,
            "database_url": self.database_url,
            "account_encryption_key": KEY,
            "orders_unknown_window_seconds": 1.0,
            "orders_poll_seconds": 0.1,
            "orders_quiet_poll_seconds": 0.2,
            "orders_duplicate_seconds": 0,
            "orders_call_seconds": 3.0,
            "orders_per_second": 500,
            "orders_per_minute": 20_000,
            **settings,
        }
        return {name.upper(): str(value) for name, value in values.items()}

    @asynccontextmanager
    async def worker(self, name: str = "one", **settings: Any) -> AsyncIterator[Lifecycle]:
        """Run a worker in this process until the block ends."""
        life = Lifecycle()
        given = {key.lower(): value for key, value in self.environment(**settings).items()}
        ready = load(
            OrdersSettings,
            _env_file=None,
            worker_id=name,
            health_port=free_port(),
            **given,
        )
        task = asyncio.create_task(app.serve(ready, life))
        try:
            yield life
        finally:
            life.request_stop("end of the test")
            await task
        if life.failure is not None:
            raise life.failure

    def process(self, name: str, **settings: Any) -> ServiceProcess:
        """A worker as a process of its own, not started."""
        return ServiceProcess(self._folder, "orders", name, **self.environment(**settings))

    async def expire_leases(self) -> None:
        """Let the leases of dead workers end now instead of some seconds later."""
        found = await snapshot(self.bus, streams.LEASES_ORDERS.name, patience_seconds=10.0)
        for key in found or {}:
            await Bucket(self.bus, streams.LEASES_ORDERS.name).delete(key)

    # -- commands ------------------------------------------------------------------------------

    def place(self, account: str, task_id: str | None = None, **changes: Any) -> PlaceOrder:
        """A placement that passes every check."""
        self._number += 1
        values: dict[str, Any] = {
            "account": account,
            "task_id": task_id or f"task-{self._number}",
            "created_at_ns": time.time_ns(),
            "exchange": Exchange.NFO,
            "tradingsymbol": SYMBOLS[0],
            "transaction_type": Side.BUY,
            "quantity": 65,
            "product": Product.NRML,
            "order_type": OrderType.LIMIT,
            "price": 100.0,
            **changes,
        }
        return PlaceOrder(**values)

    def modify(self, account: str, task_id: str | None = None, **changes: Any) -> ModifyOrder:
        """A change."""
        self._number += 1
        name = task_id or f"task-{self._number}"
        return ModifyOrder(account=account, task_id=name, created_at_ns=time.time_ns(), **changes)

    def cancel(self, account: str, task_id: str | None = None, **changes: Any) -> CancelOrder:
        """A cancellation."""
        self._number += 1
        name = task_id or f"task-{self._number}"
        return CancelOrder(account=account, task_id=name, created_at_ns=time.time_ns(), **changes)

    async def send(self, *commands: OrderCommand) -> None:
        """Store commands, as the gateway does."""
        for command in commands:
            await self.send_bytes(command.account, command.task_id, codec.to_json(command))

    async def send_bytes(self, account: str, task_id: str, payload: bytes) -> None:
        """Store anything on the subject of a command."""
        subject = subjects.order_command(account, task_id)
        await publish_once(
            self.bus, streams.ORDER_COMMANDS.name, subject, payload, timeout_seconds=10.0
        )

    async def ask(self, account: str, action: OrderAction, **fields: Any) -> OrderReply:
        """Ask the worker that holds an account."""
        request = OrderRequest(action=action, **fields)
        answer = await self.bus.request(
            subjects.rpc_orders_of(account), codec.to_json(request), 20.0
        )
        return codec.from_json(OrderReply, answer.payload)

    # -- what came of them ---------------------------------------------------------------------

    async def rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        """Ask the ledger."""
        connection = await asyncpg.connect(self.database_url, timeout=10)
        try:
            return [dict(row) for row in await connection.fetch(query, *values)]
        finally:
            await connection.close()

    async def state(self, command: OrderCommand) -> str | None:
        """Where a task stands; None while the ledger does not know it."""
        rows = await self.rows(
            "SELECT state FROM order_tasks WHERE account = $1 AND task_id = $2",
            command.account,
            command.task_id,
        )
        return rows[0]["state"] if rows else None

    async def until_state(self, command: OrderCommand, *states: str) -> str:
        """Wait until a task stands at one of these."""
        last: list[Any] = [None]

        async def reached() -> bool:
            rows = await self.rows(
                "SELECT state, code, message FROM order_tasks WHERE account = $1 AND task_id = $2",
                command.account,
                command.task_id,
            )
            last[0] = rows[0] if rows else None
            return last[0] is not None and last[0]["state"] in states

        await until(reached, what=lambda: f"{command.task_id} is {last[0]}")
        state: str = last[0]["state"]
        return state

    async def intents(self, command: OrderCommand) -> list[dict[str, Any]]:
        """The requests of a task."""
        return await self.rows(
            "SELECT * FROM order_intents WHERE account = $1 AND task_id = $2 ORDER BY leg",
            command.account,
            command.task_id,
        )

    async def events(self, command: OrderCommand) -> list[OrderEvent]:
        """The history of a task as it was told on the bus, repetitions left out."""
        subject = subjects.order_event(command.account, command.task_id)
        found = [codec.from_json(OrderEvent, p) for p in await self._stream(subject)]
        return list({event.seq: event for event in found}.values())

    async def account_events(self, account: str) -> list[AccountEvent]:
        """What was told of an account as a whole."""
        subject = subjects.order_account_event(account)
        return [codec.from_json(AccountEvent, p) for p in await self._stream(subject)]

    async def _stream(self, subject: str, stream: str = streams.ORDER_EVENTS.name) -> list[bytes]:
        payloads: list[bytes] = []
        sequence = 0
        while True:
            try:
                message = await self.bus.jetstream.get_msg(
                    stream, seq=sequence + 1, subject=subject, next=True
                )
            except Exception as error:
                if type(error).__name__ == "NotFoundError":
                    return payloads
                raise
            payloads.append(message.data or b"")
            sequence = message.seq or 0

    async def dead_letters(self, account: str) -> list[bytes]:
        """What was told of commands that will not be carried out."""
        return await self._stream(subjects.dead_letter(account), streams.ORDER_DEAD.name)

    async def status(self, account: str) -> OrdersStatus | None:
        """What the holder of an account says."""
        entry = await Bucket(self.bus, streams.STATUS.name).get(
            f"orders-{subjects.escape(account)}"
        )
        return None if entry is None else codec.from_json(OrdersStatus, entry.value)

    async def until_status(
        self, account: str, condition: Callable[[OrdersStatus], bool]
    ) -> OrdersStatus:
        """Wait until the holder of an account says something."""
        found: list[OrdersStatus | None] = [None]

        async def reached() -> bool:
            found[0] = await self.status(account)
            return found[0] is not None and condition(found[0])

        await until(reached, what=lambda: found[0])
        assert found[0] is not None
        return found[0]


@asynccontextmanager
async def running_rig(
    bus: Bus, nats_server: NatsServer, database_url: str, folder: Path, accounts: int = 1
) -> AsyncIterator[OrdersRig]:
    """A rig with accounts that no other test has, logged in at a scripted broker."""
    async with OrderCounter().served() as counter:
        rig = OrdersRig(bus, nats_server, database_url, counter, folder)
        rig.accounts = [f"a{token_hex(4)}" for _ in range(accounts)]
        await rig.prepare(*rig.accounts)
        yield rig


@contextmanager
def shared_ledger(folder: Path) -> Iterator[str]:
    """A PostgreSQL for several tests, each with accounts of its own; gives its address."""
    ready: queue.Queue[str | BaseException] = queue.Queue()
    loop = asyncio.new_event_loop()
    stop = asyncio.Event()

    async def serve() -> None:
        async with running_postgres(folder) as postgres:
            ready.put(postgres.url)
            await stop.wait()

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as error:
            ready.put(error)
            raise
        finally:
            loop.close()

    thread = threading.Thread(target=run, name="postgres", daemon=True)
    thread.start()
    url = ready.get(timeout=120)
    if isinstance(url, BaseException):
        raise url
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(60)
