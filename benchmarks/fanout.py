"""WebSocket fan-out: the gateway's outbox against an await per client, in the same run.

Run `python -m benchmarks.fanout`. Both servers are uvicorn processes with the same loop and parser,
fed from memory with the same ticks; the baseline is the predecessor's design: decode each tick,
then `json.dumps` and `await send_text` for each subscriber in turn. What counts is the ratio of
processor time per delivered tick, and what others get while one client does not read.
"""

import argparse
import asyncio
import json
import logging
import socket
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import uvloop
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

from libs.common.http_server import http_server
from libs.common.lifecycle import Lifecycle
from services.gateway.domain.outbox import Outbox
from services.gateway.fanout import Fanout
from services.gateway.wire import GatewayProtocol, ProtocolWire, Wire, protocol_in

CLIENTS = 100
FEW_CLIENTS = 10
TOKENS = 100
LINES_PER_MESSAGE = 4
REPEATS = 3
SECONDS = 2.0
STALL_SECONDS = 6.0
FLUSH_INTERVAL_MS = 5.0
BATCH_INTERVAL_MS = 50
DELIVERIES_PER_SECOND = 20_000
"""Of the paced loads: within what the baseline can do."""


def lines() -> list[bytes]:
    """One tick of some 380 bytes for each instrument."""
    return [
        json.dumps(
            {
                "instrument_token": 10_000 + token,
                "tradingsymbol": f"NIFTY26DEC{20_000 + token}CE",
                **{f"field_{n}": 123.45 + n for n in range(16)},
                "greeks_ts": 1_795_410_000_000_000_000,
                "source": "sim",
            },
            separators=(",", ":"),
        ).encode()
        for token in range(TOKENS)
    ]


# -- the two servers -------------------------------------------------------------------------------


class OutboxClient:
    """A subscriber of the gateway's fan-out."""

    def __init__(self, fanout: Fanout, wire: Wire) -> None:
        self.connection_id = "bench"
        self.outbox = Outbox()
        self.wire = wire
        self._fanout = fanout
        fanout.watch(wire, self.connection_id)
        wire.attach(self)

    def wire_resumed(self) -> None:
        """It reads again."""
        self._fanout.wake(self)

    def wire_lost(self) -> None:
        """It is gone."""
        self._fanout.unwatch(self.wire)


class OutboxServer:
    """The gateway's own path from a bus message to the transport."""

    def __init__(self, *, batch: bool) -> None:
        self._batch = batch
        self.fanout = Fanout(
            flush_interval_ms=FLUSH_INTERVAL_MS, stall_seconds=600, last_values_max=10_000
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client."""
        await receive()
        await send({"type": "websocket.accept"})
        protocol = protocol_in(scope)
        assert protocol is not None
        client = OutboxClient(self.fanout, ProtocolWire(protocol))
        tokens = [10_000 + token for token in range(TOKENS)]
        self.fanout.join(client)
        self.fanout.subscribe(client, tokens, snapshot=False)
        if self._batch:
            self.fanout.send_batches(client, BATCH_INTERVAL_MS)
        while (await receive())["type"] != "websocket.disconnect":
            pass
        self.fanout.leave(client, tokens)

    async def publish(self, payload: bytes) -> None:
        """Take one message of the bus."""
        self.fanout.publish(payload)


class AwaitServer:
    """An await per client and tick, as the predecessor did it."""

    def __init__(self) -> None:
        self._subscribers: dict[int, set[WebSocket]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one client."""
        client = WebSocket(scope, receive, send)
        await client.accept()
        for token in range(TOKENS):
            self._subscribers.setdefault(10_000 + token, set()).add(client)
        try:
            while True:
                await client.receive_text()
        except WebSocketDisconnect:
            for clients in self._subscribers.values():
                clients.discard(client)

    async def publish(self, payload: bytes) -> None:
        """Take one message of the bus."""
        for line in payload.split(b"\n"):
            tick = json.loads(line)
            for client in list(self._subscribers.get(tick["instrument_token"], ())):
                await client.send_text(json.dumps({"type": "tick", "data": tick}))


async def serve(design: str, port: int) -> None:
    """Run one server; `/run` publishes for a while and answers with the processor time."""
    logging.disable(logging.CRITICAL)
    server: Any = AwaitServer() if design == "await" else OutboxServer(batch=design == "batch")
    every = lines()
    payloads = [
        b"\n".join(every[start : start + LINES_PER_MESSAGE])
        for start in range(0, TOKENS, LINES_PER_MESSAGE)
    ]

    async def run(request: Request) -> JSONResponse:
        per_second = float(request.query_params["messages_per_second"])
        seconds = float(request.query_params["seconds"])
        before = time.process_time()
        began = time.monotonic()
        published = 0
        while (now := time.monotonic()) < began + seconds:
            wait = began + published / per_second - now if per_second else 0
            await asyncio.sleep(max(0, wait))
            try:
                async with asyncio.timeout_at(asyncio.get_running_loop().time() + seconds):
                    await server.publish(payloads[published % len(payloads)])
            except TimeoutError:
                break  # A client that does not read holds the baseline up for ever.
            published += 1
        await asyncio.sleep(0.2)
        return JSONResponse({"cpu_seconds": time.process_time() - before, "messages": published})

    app = Starlette(routes=[WebSocketRoute("/ws", server), Route("/run", run)])
    async with http_server(
        app,
        host="127.0.0.1",
        port=port,
        port_setting="--port",
        life=Lifecycle(),
        ws=GatewayProtocol,
        ws_per_message_deflate=False,
        ws_ping_interval=None,
        http="httptools",
        lifespan="off",
    ):
        print("ready", flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


# -- the load --------------------------------------------------------------------------------------


class Reader(asyncio.Protocol):
    """Counts the ticks that arrive, without parsing them."""

    ticks = 0

    def data_received(self, data: bytes) -> None:
        """Count; a token cut in two by a chunk is missed, one in some hundred."""
        self.ticks += data.count(b'"instrument_token"')


def connected(port: int, *, window_bytes: int | None = None) -> socket.socket:
    """Shake hands."""
    client = socket.socket()
    if window_bytes:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)
    client.connect(("127.0.0.1", port))
    protocol = ClientProtocol(parse_uri(f"ws://127.0.0.1:{port}/ws"))
    protocol.send_request(protocol.connect())
    client.sendall(b"".join(protocol.data_to_send()))
    client.recv(4096)
    return client


async def measure(
    design: str, *, saturated: bool = False, stalled: bool = False
) -> tuple[float, float]:
    """Load one server.

    Args:
        design: Which one.
        saturated: As fast as it takes ticks; else at the paced rate.
        stalled: With few clients and one more that never reads, for long enough to fill its
            buffers.

    Returns:
        Processor microseconds per delivered tick, and ticks delivered a second; of a stalled run
        in its last third.
    """
    clients = FEW_CLIENTS if stalled else CLIENTS
    seconds = STALL_SECONDS if stalled else SECONDS
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.fanout",
        "--serve",
        design,
        "--port",
        str(port),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    )
    assert process.stdout is not None
    await process.stdout.readline()
    loop = asyncio.get_running_loop()
    readers = []
    for _ in range(clients):
        sock = await asyncio.to_thread(connected, port)
        sock.setblocking(False)
        _, reader = await loop.create_connection(Reader, sock=sock)
        readers.append(reader)
    deaf = await asyncio.to_thread(connected, port, window_bytes=4096) if stalled else None
    rate = 0 if saturated else DELIVERIES_PER_SECOND / clients / LINES_PER_MESSAGE
    stream, writer = await asyncio.open_connection("127.0.0.1", port)
    path = f"/run?messages_per_second={rate}&seconds={seconds}"
    writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    await asyncio.sleep(seconds * 2 / 3)
    early = sum(reader.ticks for reader in readers)
    await asyncio.sleep(seconds / 3)
    delivered = sum(reader.ticks for reader in readers)
    speed = (delivered - early) / (seconds / 3)
    cost = 0.0
    if deaf is None:
        answer = json.loads((await stream.read()).partition(b"\r\n\r\n")[2])
        cost = answer["cpu_seconds"] * 1e6 / max(1, sum(reader.ticks for reader in readers))
    else:
        deaf.close()
    writer.close()
    process.kill()
    await process.wait()
    return cost, speed


async def compare() -> None:
    """Measure all designs in turn and print the tables."""
    print(f"{CLIENTS} clients x {TOKENS} instruments, {REPEATS} interleaved rounds, medians")
    for name, load in (
        ("saturated", {"saturated": True}),
        (f"paced, {DELIVERIES_PER_SECOND:,} deliveries a second", {}),
    ):
        print(f"\n{name}\n  {'design':8} {'cpu us/tick':>12} {'ticks/s':>12} {'await / it':>11}")
        found = await rounds(load)
        base = statistics.median(cost for cost, _ in found["await"])
        for design, results in found.items():
            cost = statistics.median(c for c, _ in results)
            speed = statistics.median(s for _, s in results)
            print(f"  {design:8} {cost:12.2f} {speed:12,.0f} {base / cost:11.1f}")
    print(
        f"\npaced, {FEW_CLIENTS} clients and one that never reads: what the others get in the end"
    )
    for design, results in (await rounds({"stalled": True})).items():
        print(f"  {design:8} {statistics.median(s for _, s in results):12,.0f} ticks/s")


async def rounds(load: dict[str, bool]) -> dict[str, list[tuple[float, float]]]:
    """Measure every design `REPEATS` times, interleaved."""
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(REPEATS):
        for design in ("await", "outbox", "batch"):
            found.setdefault(design, []).append(await measure(design, **load))
    return found


def main() -> None:
    """Compare, or be one of the servers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", choices=["await", "outbox", "batch"])
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.serve:
        uvloop.run(serve(arguments.serve, arguments.port))
    else:
        uvloop.run(compare())


if __name__ == "__main__":
    main()
