"""The WebSocket side: connections with bounded outboxes, and who gets which frame."""

import asyncio
from collections import deque
from collections.abc import Iterator

import msgspec
import numpy as np

from libs.common import logs
from services.simulator import metrics, transports
from services.simulator.domain.encoding import NOTHING, Batch, Plan, encode, plan_of, union
from services.simulator.domain.faults import Fault, FaultBook, FaultKind
from services.simulator.domain.market import Market, Quotes
from services.simulator.domain.sessions import Session, Sessions
from services.simulator.domain.subscriptions import (
    CONNECTIONS_PER_KEY,
    Rejected,
    Subscriptions,
    parse_command,
)

log = logs.get_logger(__name__)

_HEARTBEAT = b"\x00"
_GARBAGE_SEED = 0


class Outbox:
    """What waits for one connection's socket; the oldest frame goes when it is full.

    Args:
        capacity: Frames at most; texts (commands' errors) share it.
    """

    def __init__(self, capacity: int) -> None:
        self._items: deque[bytes | str] = deque(maxlen=capacity)
        self._filled = asyncio.Event()
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: bytes | str) -> None:
        """Add a frame (bytes) or a text message; never blocks."""
        if len(self._items) == self._items.maxlen:
            self.dropped += 1
            metrics.FRAMES_DROPPED_TOTAL.inc()
        self._items.append(item)
        self._filled.set()

    async def get(self, patience_seconds: float) -> bytes | str | None:
        """Take the oldest item, or None when nothing came within the patience."""
        if not self._items:
            self._filled.clear()
            try:
                async with asyncio.timeout(patience_seconds):
                    await self._filled.wait()
            except TimeoutError:
                return None
        return self._items.popleft() if self._items else None


class Connection:
    """One WebSocket of one session.

    Args:
        session: Whose.
        transport: The TCP transport below the WebSocket, for faults.
        outbox_frames: Capacity of the outbox.
    """

    def __init__(
        self, session: Session, transport: asyncio.Transport | None, outbox_frames: int
    ) -> None:
        self.session = session
        self.outbox = Outbox(outbox_frames)
        self.subscriptions = Subscriptions()
        self.plan: Plan = NOTHING
        self.close_requested = asyncio.Event()
        self.frames_sent = 0
        self._transport = transport

    @property
    def api_key(self) -> str:
        """The app whose limits count."""
        return self.session.account.api_key

    def abort(self) -> None:
        """Drop the TCP connection without a word."""
        if self._transport is not None:
            self._transport.abort()

    def reset(self) -> None:
        """Break the TCP connection with RST."""
        if self._transport is not None:
            transports.reset(self._transport)


class Feed:
    """All WebSocket connections.

    Args:
        sessions: Tell whether a connection's token is still alive.
        faults: What goes wrong on purpose.
        outbox_frames: Capacity of each outbox.
    """

    def __init__(self, sessions: Sessions, faults: FaultBook, *, outbox_frames: int) -> None:
        self._sessions = sessions
        self._faults = faults
        self._outbox_frames = outbox_frames
        self._connections: set[Connection] = set()
        self._peaks: dict[str, int] = {}
        self._wanted: Plan | None = NOTHING
        self._market: Market | None = None
        self._quotes: Quotes | None = None
        self._garbage = np.random.default_rng(_GARBAGE_SEED)
        self.ticks_sent = 0
        self.frames_sent = 0

    def __iter__(self) -> Iterator[Connection]:
        return iter(self._connections)

    def __len__(self) -> int:
        return len(self._connections)

    def connect(
        self, session: Session, transport: asyncio.Transport | None = None
    ) -> Connection | None:
        """Admit a connection, or give None when its key has three already."""
        key = session.account.api_key
        open_before = sum(other.api_key == key for other in self._connections)
        if open_before >= CONNECTIONS_PER_KEY:
            return None
        self._peaks[key] = max(self._peaks.get(key, 0), open_before + 1)
        connection = Connection(session, transport, self._outbox_frames)
        self._connections.add(connection)
        metrics.CONNECTIONS.set(len(self._connections))
        return connection

    def disconnect(self, connection: Connection) -> None:
        """Forget a connection and its subscriptions."""
        self._connections.discard(connection)
        self._wanted = None
        metrics.CONNECTIONS.set(len(self._connections))

    def peak(self, api_key: str) -> int:
        """Give how many connections a key had at most since this was last asked."""
        now = sum(other.api_key == api_key for other in self._connections)
        peak = max(now, self._peaks.get(api_key, 0))
        self._peaks[api_key] = now
        return peak

    def change_market(self, market: Market, quotes: Quotes) -> None:
        """Go over to another day's market; every subscription gets a new snapshot."""
        self._market, self._quotes = market, quotes
        for connection in self._connections:
            connection.plan = plan_of(market.universe, connection.subscriptions.modes)
            self._send_snapshot(connection, connection.plan)
        self._wanted = None

    def handle_text(self, connection: Connection, text: str) -> None:
        """Carry out what a client sent; what is wrong with it goes back as an `error` text."""
        command = parse_command(text)
        if isinstance(command, Rejected):
            connection.outbox.put(text_message("error", command.message))
            return
        fresh, rejected = connection.subscriptions.apply(command)
        if rejected is not None:
            connection.outbox.put(text_message("error", rejected.message))
        if self._market is None:
            return
        universe = self._market.universe
        connection.plan = plan_of(universe, connection.subscriptions.modes)
        self._wanted = None
        modes = {token: connection.subscriptions.modes[token] for token in fresh}
        self._send_snapshot(connection, plan_of(universe, modes))

    def wanted(self) -> Plan:
        """Give what at least one connection wants."""
        if self._wanted is None:
            self._wanted = union(connection.plan for connection in self._connections)
        return self._wanted

    def publish(self, batch: Batch | None, quotes: Quotes) -> None:
        """Give every connection its part of a step; None when nobody wanted anything."""
        self._quotes = quotes
        if batch is None:
            return
        for connection in self._connections:
            self._send_batch(connection, batch, connection.plan)

    def send_order(self, api_key: str, body: object) -> None:
        """Tell all connections of a key about one of its orders."""
        own = [c for c in self._connections if c.api_key == api_key]
        if own:
            text = text_message("order", body)
            for connection in own:
                connection.outbox.put(text)

    def hang_up_dead(self) -> None:
        """Close the connections whose access token has died."""
        for connection in self._connections:
            if not self._sessions.is_alive(connection.session):
                connection.close_requested.set()

    def is_silent(self, connection: Connection) -> bool:
        """Say whether a fault keeps everything from this connection."""
        return self._faults.find(FaultKind.SILENT_SOCKET, connection.api_key) is not None

    def spoil(self, frame: bytes, api_key: str) -> bytes:
        """Give the frame as it shall leave: changed when a fault strikes it."""
        if self._strike(FaultKind.TRUNCATED_FRAME, api_key):
            return frame[: max(len(frame) * 2 // 3, 5)]
        if self._strike(FaultKind.GARBAGE_FRAME, api_key):
            return self._garbage.bytes(len(frame))
        fault = self._strike(FaultKind.ODD_PACKET, api_key)
        if fault is not None:
            count = int.from_bytes(frame[:2], "big") + 1
            odd = fault.length.to_bytes(2, "big") + self._garbage.bytes(fault.length)
            return count.to_bytes(2, "big") + frame[2:] + odd
        return frame

    def heartbeat(self) -> bytes:
        """Give the one-byte sign of life."""
        return _HEARTBEAT

    def strike_now(self, fault: Fault) -> int:
        """Do an immediate fault; give how many connections it hit."""
        if fault.kind is FaultKind.DEAD_TOKEN:
            self._sessions.kill_tokens(fault.api_key)
        hit = [c for c in self._connections if fault.api_key in {None, c.api_key}][: fault.count]
        for connection in hit:
            match fault.kind:
                case FaultKind.RESET:
                    connection.reset()
                case FaultKind.TEXT_MESSAGE:
                    connection.outbox.put(text_message(fault.type, fault.data))
                case _:
                    connection.close_requested.set()
        metrics.FAULTS_TOTAL.labels(kind=fault.kind.value).inc()
        return len(hit)

    def _strike(self, kind: FaultKind, api_key: str) -> Fault | None:
        fault = self._faults.strike(kind, api_key)
        if fault is not None:
            metrics.FAULTS_TOTAL.labels(kind=kind.value).inc()
        return fault

    def _send_snapshot(self, connection: Connection, plan: Plan) -> None:
        if self._market is None or self._quotes is None:
            return
        batch = encode(self._market, self._quotes, plan, ticked_only=False)
        self._send_batch(connection, batch, plan)

    def _send_batch(self, connection: Connection, batch: Batch, plan: Plan) -> None:
        for frame in batch.frames(plan):
            packets = int.from_bytes(frame[:2], "big")
            self.ticks_sent += packets
            metrics.TICKS_TOTAL.inc(packets)
            connection.outbox.put(frame)


def text_message(kind: str, data: object) -> str:
    """Give the text of an `order`, `error` or `message`."""
    return msgspec.json.encode({"type": kind, "data": data}).decode()
