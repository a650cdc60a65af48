"""From an order that is stored to its request at the broker, against polling and calling directly.

Run `python -m benchmarks.orders`. A real fleet (one worker, one account) places orders one after
another; a proxy before the simulator notes when the first byte of each request comes. In the same
run, in turns, the same orders go the predecessor's way, through a queue in memory that a worker
looks at once a second, and straight through the stock client, which keeps nothing. Then twenty
accounts send at once, with the broker's limits switched off, to see what one machine carries.
"""

import argparse
import asyncio
import contextlib
import re
import statistics
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from kiteconnect import KiteConnect

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.cursor import OrderedCursor, StartPosition, StreamMessage
from libs.common.contracts import streams, subjects
from libs.common.settings import NatsSettings
from services.fleet.loopback import free_ports
from tests.chaos.lab import Lab, LabShape, running_lab
from tests.chaos.load import Contract
from tests.chaos.run import contracts, session_of, until_orders_are_taken

POLL_SECONDS = 1.0
PATIENCE_SECONDS = 180.0
_TAG = re.compile(rb"tag=([A-Za-z0-9]{1,20})")
_UNLIMITED = {
    "SIM_START": "2026-11-18T11:00:00",
    "SIM_RATE_LIMITS": "false",
    "SIM_ORDERS_PER_DAY": "100000",
    "ORDERS_PER_SECOND": "1000",
    "ORDERS_PER_MINUTE": "60000",
    "ORDERS_PER_DAY": "100000",
}


class Proxy:
    """Stands before the simulator and notes when each placement comes in.

    Attributes:
        arrived_ns: When the first byte of the request with a tag came, epoch ns.
    """

    def __init__(self) -> None:
        self._target = "127.0.0.1", 0
        self.arrived_ns: dict[str, int] = {}
        self._changed = asyncio.Event()

    def aim(self, port: int) -> None:
        """Say where the simulator is."""
        self._target = "127.0.0.1", port

    @contextlib.asynccontextmanager
    async def listening(self, port: int) -> AsyncIterator[None]:
        """Serve for the length of a block."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        async with server:
            yield

    async def until(self, count: int) -> None:
        """Wait until so many placements have come."""
        async with asyncio.timeout(PATIENCE_SECONDS):
            while len(self.arrived_ns) < count:
                self._changed.clear()
                await self._changed.wait()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        await asyncio.gather(
            self._pump(reader, back, self._note()), self._pump(there, writer, lambda _: None)
        )

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        look: Callable[[bytes], None],
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                look(data)
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.close()

    def _note(self) -> Callable[[bytes], None]:
        """Look at what one connection sends: the head may come before the body."""
        began_ns = 0
        open_request = b""

        def look(data: bytes) -> None:
            nonlocal began_ns, open_request
            if data.startswith(b"POST /orders"):
                began_ns, open_request = time.time_ns(), b""
            if began_ns:
                open_request += data
                found = _TAG.search(open_request)
                # The tag is the last field but may be cut in two: wait for the whole body.
                if found and _is_whole(open_request):
                    self.arrived_ns.setdefault(found[1].decode(), began_ns)
                    began_ns = 0
                    self._changed.set()

        return look


def _is_whole(request: bytes) -> bool:
    head, _, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return length is not None and len(body) >= int(length[1])


def order(contract: Contract, account: str) -> dict[str, Any]:
    """A market order, as the gateway takes it."""
    return {
        "account": account,
        "exchange": contract.exchange,
        "tradingsymbol": contract.tradingsymbol,
        "transaction_type": "BUY",
        "quantity": contract.lot_size,
        "product": "NRML",
        "order_type": "MARKET",
        "allow_duplicate": True,
    }


class Stored:
    """When the stream has stored each command, by its own clock."""

    def __init__(self) -> None:
        self.at_ns: dict[tuple[str, str], int] = {}

    def take(self, messages: list[StreamMessage]) -> None:
        """Note a batch of commands."""
        for message in messages:
            self.at_ns[subjects.task_of(message.subject)] = message.timestamp_ns


@contextlib.asynccontextmanager
async def watched(bus: Bus) -> AsyncIterator[Stored]:
    """Read ORDER_COMMANDS for the length of a block."""
    stored, stop = Stored(), asyncio.Event()
    cursor = OrderedCursor(
        bus,
        streams.ORDER_COMMANDS.name,
        [subjects.ALL_ORDER_COMMANDS],
        StartPosition.all(),
        stored.take,
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(cursor.run(stop))
        yield stored
        stop.set()


class Fleet:
    """Our way: REST, the stream, a worker."""

    def __init__(self, lab: Lab, client: httpx.AsyncClient) -> None:
        self._lab = lab
        self._client = client
        self.answered_ns: dict[str, int] = {}

    async def place(self, contract: Contract, account: str, task_id: str) -> None:
        """Give an order to the gateway; returns with its 202."""
        answer = await self._client.post(
            f"{self._lab.gateway_url}/orders/place",
            json=order(contract, account),
            headers={"Idempotency-Key": task_id},
        )
        assert answer.status_code == 202, answer.text
        self.answered_ns[task_id] = time.time_ns()


class Polled:
    """The predecessor's way: a queue in memory that somebody looks at once a second."""

    def __init__(self, kite: KiteConnect) -> None:
        self._kite = kite
        self._queue: deque[tuple[Contract, str]] = deque(maxlen=10_000)

    def place(self, contract: Contract, tag: str) -> None:
        """Put an order into the queue."""
        self._queue.append((contract, tag))

    async def run(self) -> None:
        """Send what waits, once a second, until cancelled."""
        while True:
            while self._queue:
                await asyncio.to_thread(send, self._kite, *self._queue.popleft())
            await asyncio.sleep(POLL_SECONDS)


def send(kite: KiteConnect, contract: Contract, tag: str) -> None:
    """Place an order with the stock client."""
    given = {name: value for name, value in order(contract, "").items() if name != "account"}
    del given["allow_duplicate"]
    kite.place_order(variety="regular", market_protection=-1, tag=tag, **given)


def show(name: str, values_ms: list[float], base: float | None = None) -> float:
    """Print p50 and p99; gives the p50."""
    cuts = statistics.quantiles(values_ms, n=100)
    ratio = "" if base is None else f"   {base / cuts[49]:6.1f}x"
    print(f"  {name:<44} p50 {cuts[49]:8.1f}  p99 {cuts[98]:8.1f} ms{ratio}")
    return cuts[49]


async def latency(count: int, folder: Path) -> None:
    """One order at a time, the three ways in turns."""
    async with running_rig(folder, LabShape(accounts=1, workers=1, ingests=1, durable=True)) as rig:
        lab, bus, proxy, chosen = rig.lab, rig.bus, rig.proxy, rig.contracts
        account = lab.accounts[0].name
        session = await session_of(lab, bus)
        kite = KiteConnect(session.api_key, session.access_token, root=session.api_url)
        polled = Polled(kite)
        polling = asyncio.create_task(polled.run())
        asked_ns: dict[str, int] = {}
        async with httpx.AsyncClient(timeout=30, trust_env=False) as client, watched(bus) as stored:
            fleet = Fleet(lab, client)
            for number in range(count):
                contract = chosen[number % len(chosen)]
                before = len(proxy.arrived_ns)
                await fleet.place(contract, account, f"b{number}")
                await proxy.until(before + 1)
                # At any moment of the poller's second, which would else flatter or punish it.
                await asyncio.sleep(number * 0.618 % POLL_SECONDS)
                asked_ns[f"polled{number}"] = time.time_ns()
                polled.place(contract, f"polled{number}")
                await proxy.until(before + 2)
                asked_ns[f"direct{number}"] = time.time_ns()
                await asyncio.to_thread(send, kite, contract, f"direct{number}")
            sent = await tags_of(lab)
        polling.cancel()
        arrived = proxy.arrived_ns
        print(f"{count} orders each, one at a time, real servers that sync to disk:")
        ours = [(arrived[sent[account, f"b{n}"]] - stored.at_ns[account, f"b{n}"]) / 1e6
                for n in range(count)]  # fmt: skip
        answered = [(arrived[sent[account, f"b{n}"]] - fleet.answered_ns[f"b{n}"]) / 1e6
                    for n in range(count)]  # fmt: skip
        old, direct = (
            [(arrived[f"{way}{n}"] - asked_ns[f"{way}{n}"]) / 1e6 for n in range(count)]
            for way in ("polled", "direct")
        )
        base = show("queue in memory, polled each second", old)
        show("stored in the stream -> request arrives", ours, base)
        show("202 of the gateway -> request arrives", answered)
        show("awaited call, nothing kept", direct)


async def throughput(count: int, folder: Path) -> None:
    """Twenty accounts at once."""
    shape = LabShape(accounts=20, workers=2, ingests=1, durable=True)
    async with running_rig(folder, shape) as rig:
        lab, proxy, chosen = rig.lab, rig.proxy, rig.contracts
        async with (
            httpx.AsyncClient(timeout=60, trust_env=False) as client,
            watched(rig.bus) as stored,
        ):
            fleet = Fleet(lab, client)
            began = time.monotonic()

            async def one(account: str) -> None:
                for number in range(count):
                    await fleet.place(chosen[number % len(chosen)], account, f"b{number}")

            async with asyncio.TaskGroup() as group:
                for account in lab.accounts:
                    group.create_task(one(account.name))
            total = count * len(lab.accounts)
            await proxy.until(total)
            seconds = time.monotonic() - began
            sent = await tags_of(lab)
        ages = [
            (proxy.arrived_ns[tag] - stored.at_ns[key]) / 1e6
            for key, tag in sent.items()
            if key in stored.at_ns
        ]
        print(
            f"{total} orders over {len(lab.accounts)} accounts and 2 workers, as fast as it goes:"
        )
        print(f"  {total / seconds:.0f} orders/s through gateway, stream, ledger and broker")
        show("stored in the stream -> request arrives", ages)


@dataclass(frozen=True, slots=True)
class Rig:
    """A lab whose sessions lead to the simulator by way of the proxy.

    Attributes:
        lab: The fleet.
        bus: A connection of ours.
        proxy: Knows when requests came.
        contracts: What can be traded.
    """

    lab: Lab
    bus: Bus
    proxy: Proxy
    contracts: list[Contract]


@contextlib.asynccontextmanager
async def running_rig(folder: Path, shape: LabShape) -> AsyncIterator[Rig]:
    """Start everything and wait until orders are taken."""
    (port,) = free_ports(1)
    proxy = Proxy()
    variables = {**_UNLIMITED, "KITE_API_URL": f"http://127.0.0.1:{port}"}

    def aim(lab: Lab) -> None:
        proxy.aim(int(lab.simulator_url.rpartition(":")[2]))

    async with (
        proxy.listening(port),
        running_lab(folder, shape, variables, on_made=aim) as lab,
        Bus.open(NatsSettings(nats_url=lab.nats.url), name="benchmark") as bus,
    ):
        await until_orders_are_taken(lab, bus)
        yield Rig(lab, bus, proxy, await contracts(lab, bus))


async def tags_of(lab: Lab) -> dict[tuple[str, str], str]:
    """The tag of the only request of each task."""
    rows = await lab.query("SELECT account, task_id, tag FROM order_intents WHERE leg = 0")
    return {(row["account"], row["task_id"]): row["tag"] for row in rows}


def main() -> None:
    """Run both parts."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.orders")
    parser.add_argument("--orders", type=int, default=200, help="of each way, one at a time")
    parser.add_argument("--each", type=int, default=50, help="per account, all at once")
    arguments = parser.parse_args()
    logs.configure(service="benchmark", worker_id="benchmark", level="warning", style="console")
    with tempfile.TemporaryDirectory(prefix="tickfleet-orders-") as folder:
        asyncio.run(latency(arguments.orders, Path(folder) / "one"))
        asyncio.run(throughput(arguments.each, Path(folder) / "many"))


if __name__ == "__main__":
    main()
