"""Key-value buckets: single keys with compare-and-set, and a live mirror of a whole bucket.

Written on plain JetStream calls instead of nats-py's KeyValue, which mistakes the markers that a
TTL leaves behind for values: its `get` gives None as a value and its `create` refuses the key.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from inspect import isawaitable

import msgspec
import nats.js.errors

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.cursor import OrderedCursor, StartPosition, StreamMessage
from libs.common.bus.errors import (
    BusUnavailableError,
    KeyExistsError,
    RefusedError,
    WrongRevisionError,
    is_wrong_sequence,
    translated,
)

_EXPECTED_LAST = "Nats-Expected-Last-Subject-Sequence"
_OPERATION = "KV-Operation"
_MARKER_REASON = "Nats-Marker-Reason"
_KEY_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=./")

log = logs.get_logger(__name__)


class Entry(msgspec.Struct, frozen=True, gc=False):
    """The current value of a key.

    Attributes:
        key: The key.
        value: Its bytes.
        revision: Its sequence in the bucket's stream; grows with every write to the bucket.
    """

    key: str
    value: bytes
    revision: int


class Bucket:
    """Single keys of a bucket. All calls wait for the server.

    All raise BusUnavailableError when there is no answer (the effect of a write is then unknown)
    or no such bucket, BusClosedError when the bus is closed, and ValueError for a key with
    characters that NATS does not allow: use `libs.common.contracts.subjects.escape`.

    Args:
        bus: The connection.
        name: The bucket's name; it must have been provisioned.
        timeout_seconds: How long one call may wait.
    """

    def __init__(self, bus: Bus, name: str, *, timeout_seconds: float = 2.0) -> None:
        self.name = name
        self._bus = bus
        self._stream = f"KV_{name}"
        self._prefix = f"$KV.{name}."
        self._timeout_seconds = timeout_seconds

    async def get(self, key: str) -> Entry | None:
        """Read a key; None if it has no value, never had one, or its value expired."""
        entry, _ = await self._read(key)
        return entry

    async def put(self, key: str, value: bytes) -> int:
        """Write a key, whatever it holds; gives the new revision."""
        return await self._write(key, value, {})

    async def create(self, key: str, value: bytes) -> int:
        """Write a key that has no value; gives the revision.

        Raises:
            KeyExistsError: If it has one, or somebody else was faster.
        """
        expected = 0
        # At most three rounds: a tombstone is found, then expires before we replace it.
        for _ in range(3):
            try:
                return await self.update(key, value, last=expected)
            except WrongRevisionError:
                entry, revision = await self._read(key)
                if entry is not None:
                    raise KeyExistsError(key, entry.revision) from None
                # Deleted or expired: what lies there is a marker, or nothing any more.
                expected = revision
        raise KeyExistsError(key, expected)

    async def update(self, key: str, value: bytes, *, last: int) -> int:
        """Write a key if its newest revision is `last`; gives the new revision.

        Raises:
            WrongRevisionError: If it is not.
        """
        try:
            return await self._write(key, value, {_EXPECTED_LAST: str(last)})
        except _WrongSequenceError as error:
            raise WrongRevisionError(key, last) from error

    async def delete(self, key: str, *, last: int | None = None) -> None:
        """Delete a key; with `last` only if that is its newest revision.

        Raises:
            WrongRevisionError: If it is not.
        """
        headers = {_OPERATION: "DEL"}
        if last is not None:
            headers[_EXPECTED_LAST] = str(last)
        try:
            await self._write(key, b"", headers)
        except _WrongSequenceError as error:
            raise WrongRevisionError(key, last or 0) from error

    async def _write(self, key: str, value: bytes, headers: dict[str, str]) -> int:
        self._check(key)
        with translated():
            try:
                ack = await self._bus.jetstream.publish(
                    self._prefix + key,
                    value,
                    timeout=self._timeout_seconds,
                    headers=dict(headers) if headers else None,
                )
            except nats.js.errors.APIError as error:
                if is_wrong_sequence(error):
                    raise _WrongSequenceError(str(error)) from error
                raise
        return ack.seq

    async def _read(self, key: str) -> tuple[Entry | None, int]:
        """The live entry, if any, and the revision of whatever lies at the key (0: nothing)."""
        self._check(key)
        with translated():
            try:
                raw = await self._bus.jetstream.get_msg(self._stream, subject=self._prefix + key)
            except nats.js.errors.NotFoundError as error:
                if error.err_code == 10059:  # The bucket itself is missing; provisioning brings it.
                    raise BusUnavailableError(f"bucket {self.name} does not exist") from error
                return None, 0
        revision = raw.seq or 0
        if _is_removal(raw.headers):
            return None, revision
        return Entry(key, raw.data or b"", revision), revision

    def _check(self, key: str) -> None:
        check_key(key)
        self._bus.require_open()
        if not self._bus.is_connected:
            # nats-py would buffer the write and send it after the reconnect, long given up.
            raise BusUnavailableError("not connected")


def check_key(key: str) -> None:
    """Refuse a key that NATS does not allow.

    Raises:
        ValueError: Names the key and the way out.
    """
    if not key or key[0] == "." or key[-1] == "." or not _KEY_CHARACTERS.issuperset(key):
        raise ValueError(
            f"key {key!r} may hold only letters, digits and -_=./ and no dot at its ends: "
            "escape names with libs.common.contracts.subjects.escape"
        )


class _WrongSequenceError(RefusedError):
    def __init__(self, reason: str) -> None:
        super().__init__(code=None, reason=reason)


def _is_removal(headers: dict[str, str] | None) -> bool:
    if not headers:
        return False
    # The server's own markers (age, purge) carry no KV-Operation.
    return headers.get(_OPERATION) in {"DEL", "PURGE"} or _MARKER_REASON in headers


class Mirror:
    """A copy of a bucket in memory, kept current until `run` ends.

    It reads everything again after a reconnect and drops what is no longer there, so it is right
    within a moment of the server's return even if entries expired while nobody looked.

    Args:
        bus: The connection.
        bucket: The bucket's name; it may appear later.
        on_change: Called with the key and its new value, or None when the key has none any more;
            in the order of the writes. What it raises ends `run`.
        keys: Mirror only these, NATS wildcards allowed.
        heartbeat_seconds: See OrderedCursor.
    """

    def __init__(
        self,
        bus: Bus,
        bucket: str,
        on_change: Callable[[str, bytes | None], Awaitable[None] | None] | None = None,
        *,
        keys: str = ">",
        heartbeat_seconds: float = 0.5,
    ) -> None:
        self.bucket = bucket
        self._prefix = f"$KV.{bucket}."
        self._on_change = on_change
        self._entries: dict[str, Entry] = {}
        self._missing: set[str] = set()
        self._ready = asyncio.Event()
        self._ended = asyncio.Event()
        self._cursor = OrderedCursor(
            bus,
            f"KV_{bucket}",
            [self._prefix + keys],
            StartPosition.last_per_subject(),
            self._apply,
            heartbeat_seconds=heartbeat_seconds,
            replay=True,
            on_replay=self._begin_replay,
            on_caught_up=self._end_replay,
        )

    def get(self, key: str) -> bytes | None:
        """The value of a key, None if it has none."""
        entry = self._entries.get(key)
        return None if entry is None else entry.value

    def entry(self, key: str) -> Entry | None:
        """The value of a key with its revision."""
        return self._entries.get(key)

    def items(self) -> dict[str, bytes]:
        """A snapshot of all keys and values."""
        return {key: entry.value for key, entry in self._entries.items()}

    def entries(self) -> dict[str, Entry]:
        """A snapshot of all keys with their revisions."""
        return dict(self._entries)

    def __contains__(self, key: object) -> bool:
        """Whether a key has a value."""
        return key in self._entries

    def __iter__(self) -> Iterator[str]:
        """The keys, as of now."""
        return iter(list(self._entries))

    def __len__(self) -> int:
        """How many keys have a value."""
        return len(self._entries)

    @property
    def is_ready(self) -> bool:
        """Whether the bucket has been read once."""
        return self._ready.is_set()

    async def ready(self) -> None:
        """Wait until the bucket has been read once; `run` must be running.

        Raises:
            BusUnavailableError: If `run` ended before that.
        """
        waits = [asyncio.create_task(event.wait()) for event in (self._ready, self._ended)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.wait(waits)
        if not self._ready.is_set():
            raise BusUnavailableError(f"the mirror of {self.bucket} ended before it was ready")

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the copy current until `stop` is set.

        Raises:
            BusClosedError: If the bus is closed for good before that.
            Exception: Whatever `on_change` raises.
        """
        try:
            await self._cursor.run(stop)
        finally:
            self._ended.set()

    def _begin_replay(self) -> None:
        self._missing = set(self._entries)

    async def _end_replay(self) -> None:
        missing, self._missing = self._missing, set()
        for key in missing:
            await self._remove(key)
        self._ready.set()

    async def _apply(self, messages: list[StreamMessage]) -> None:
        for message in messages:
            key = message.subject[len(self._prefix) :]
            self._missing.discard(key)
            if _is_removal(message.headers):
                await self._remove(key)
                continue
            entry = Entry(key, message.payload, message.sequence)
            if self._entries.get(key) == entry:
                continue  # Read again after a reconnect, unchanged.
            self._entries[key] = entry
            await self._tell(key, entry.value)

    async def _remove(self, key: str) -> None:
        if self._entries.pop(key, None) is not None:
            await self._tell(key, None)

    async def _tell(self, key: str, value: bytes | None) -> None:
        if self._on_change is not None:
            outcome = self._on_change(key, value)
            if isawaitable(outcome):
                await outcome


async def snapshot(
    bus: Bus, bucket: str, *, patience_seconds: float | None = None
) -> dict[str, bytes] | None:
    """Read a whole bucket once.

    Args:
        bus: The connection.
        bucket: The bucket's name.
        patience_seconds: Give None when it could not be read by then, as when it does not exist
            yet; without a limit the bucket is waited for.

    Raises:
        BusClosedError: If the bus is closed for good.
    """
    mirror, stop = Mirror(bus, bucket), asyncio.Event()
    reading = asyncio.create_task(mirror.run(stop), name=f"snapshot-{bucket}")
    try:
        async with asyncio.timeout(patience_seconds):
            await mirror.ready()
    except TimeoutError:
        return None
    finally:
        stop.set()
        await reading
    return mirror.items()
