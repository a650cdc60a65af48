"""Faults on demand: what can be broken, for whom, how often and for how long."""

import itertools
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any, Final

import msgspec

from services.simulator.domain.faults_in_force import FaultsInForce
from services.simulator.errors import FaultError


class FaultKind(StrEnum):
    """Everything that can go wrong with a broker, as tests need it.

    Attributes:
        SILENT_SOCKET: Sockets stay open and say nothing, not even heartbeats.
        DROPPED_SOCKET: Open sockets are closed cleanly (1000).
        RESET: Open sockets are reset (TCP RST).
        TRUNCATED_FRAME: Frames lose their last third.
        GARBAGE_FRAME: Frames are replaced by noise of the same length.
        ODD_PACKET: Frames get one more packet, of a length that no client knows.
        REFUSED_HANDSHAKE: New sockets are refused with an HTTP status.
        DEAD_TOKEN: All access tokens minted so far die, and their sockets are closed.
        SLOW_REPLIES: REST answers come late.
        ERROR_REPLIES: REST answers are an error, in JSON or as a proxy's HTML page.
        BURST: Every instrument ticks in every step, and steps come faster.
        TEXT_MESSAGE: Open sockets get a text message.
        TRUNCATED_DUMP: Instrument dumps end in the middle of a row.
        EMPTY_DUMP: Instrument dumps have no rows.
        SHRUNKEN_DUMP: Instrument dumps have a third of their rows.
        DUPLICATE_TOKEN: Instrument dumps list two contracts with one token.
        REUSED_TOKEN: Instrument dumps list another contract under the token of one.
    """

    SILENT_SOCKET = "silent_socket"
    DROPPED_SOCKET = "dropped_socket"
    RESET = "reset"
    TRUNCATED_FRAME = "truncated_frame"
    GARBAGE_FRAME = "garbage_frame"
    ODD_PACKET = "odd_packet"
    REFUSED_HANDSHAKE = "refused_handshake"
    DEAD_TOKEN = "dead_token"  # noqa: S105  # The name of a fault.
    SLOW_REPLIES = "slow_replies"
    ERROR_REPLIES = "error_replies"
    BURST = "burst"
    TEXT_MESSAGE = "text_message"
    TRUNCATED_DUMP = "truncated_dump"
    EMPTY_DUMP = "empty_dump"
    SHRUNKEN_DUMP = "shrunken_dump"
    DUPLICATE_TOKEN = "duplicate_token"  # noqa: S105  # The name of a fault.
    REUSED_TOKEN = "reused_token"  # noqa: S105  # As above.


IMMEDIATE: Final = frozenset(
    {FaultKind.DROPPED_SOCKET, FaultKind.RESET, FaultKind.DEAD_TOKEN, FaultKind.TEXT_MESSAGE}
)
"""Done at once to what is connected; the others stay until they are used up or over."""

DUMP_KINDS: Final = frozenset(
    {
        FaultKind.TRUNCATED_DUMP,
        FaultKind.EMPTY_DUMP,
        FaultKind.SHRUNKEN_DUMP,
        FaultKind.DUPLICATE_TOKEN,
        FaultKind.REUSED_TOKEN,
    }
)
"""Strike instrument dumps, of all exchanges or of one."""

_FRAME_KINDS: Final = frozenset(
    {FaultKind.TRUNCATED_FRAME, FaultKind.GARBAGE_FRAME, FaultKind.ODD_PACKET}
)
_UNCOUNTED: Final = frozenset({FaultKind.SILENT_SOCKET, FaultKind.BURST})
_KITE_LENGTHS: Final = frozenset({8, 28, 32, 44, 184})
_RANGES: Final = (
    ("count", 1, 1_000_000),
    ("status", 400, 599),
    ("milliseconds", 1, 600_000),
    ("length", 0, 1_000),
    ("factor", 2, 100),
)


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A request for a fault.

    Attributes:
        kind: What breaks.
        api_key: Whose; None means everybody's.
        count: How many sockets, frames, handshakes or replies; None means no limit (frames: 1
            unless `seconds` is given).
        seconds: For how long, in real time; None means until deleted.
        status: HTTP status of `refused_handshake` (default 503) and `error_replies` (502).
        milliseconds: Delay of `slow_replies`.
        length: Bytes of the packet that `odd_packet` adds.
        factor: How many times faster `burst` ticks.
        path: `slow_replies`, `error_replies`: only paths that start so.
        exchange: Faults of dumps: only rows of this exchange.
        error_type: Of `error_replies`.
        html: `error_replies` answers with an HTML page, as a proxy would.
        type: `text_message`: `message`, `error` or `order`.
        data: `text_message`: its data.
    """

    kind: FaultKind
    api_key: str | None = None
    count: int | None = None
    seconds: float | None = None
    status: int | None = None
    milliseconds: int = 1_000
    length: int = 10
    factor: int = 10
    path: str = "/"
    exchange: str | None = None
    error_type: str = "GeneralException"
    html: bool = False
    type: str = "message"
    data: Any = "This is a message from the simulator."


def parse_fault(body: bytes, known_keys: list[str]) -> Fault:
    """Read a fault request.

    Args:
        body: A JSON object with the fields of `Fault`.
        known_keys: The api_keys that exist.

    Raises:
        FaultError: Names the offending field and what would be right.
    """
    try:
        fault = msgspec.json.decode(body, type=Fault)
    except msgspec.ValidationError as error:
        raise as_fault_error(error, FaultKind) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FaultError("body", f"must be a JSON object: {error}") from error
    for field, reason in _problems(fault, known_keys):
        raise FaultError(field, reason)
    if fault.kind in _FRAME_KINDS and fault.count is None and fault.seconds is None:
        return msgspec.structs.replace(fault, count=1)
    return fault


def as_fault_error(error: msgspec.ValidationError, kinds: type[StrEnum]) -> FaultError:
    """Find the field in msgspec's message, which names it in one of two ways.

    Args:
        error: What msgspec raised.
        kinds: What `kind` may be.
    """
    text, _, place = str(error).partition(" - at `$.")
    if place:
        field = place.rstrip("`")
    else:
        field = text.split("`")[-2] if "field" in text and "`" in text else "body"
    if field == "kind":
        text = f"must be one of {', '.join(kinds)}"
    return FaultError(field, text)


def _problems(fault: Fault, known_keys: list[str]) -> Iterator[tuple[str, str]]:
    if fault.api_key is not None and fault.api_key not in known_keys:
        yield "api_key", "is unknown; give one of the accounts' keys, or null for all"
    if fault.count is not None and fault.kind in _UNCOUNTED:
        yield "count", f"has no meaning for {fault.kind}; use seconds"
    if fault.seconds is not None and not 0 < fault.seconds <= 86_400:
        yield "seconds", "must be above 0 and at most 86400, or null for no limit"
    for field, lowest, highest in _RANGES:
        value = getattr(fault, field)
        if value is not None and not lowest <= value <= highest:
            yield field, f"must be {lowest} to {highest}"
    if fault.length in _KITE_LENGTHS:
        yield "length", "must be a length that Kite does not use"
    if not fault.path.startswith("/"):
        yield "path", "must start with /"
    if fault.exchange is not None and fault.kind not in DUMP_KINDS:
        yield (
            "exchange",
            f"has no meaning for {fault.kind}; it is for {', '.join(sorted(DUMP_KINDS))}",
        )
    if fault.type not in {"message", "error", "order"}:
        yield "type", "must be message, error or order"


class ActiveFault(msgspec.Struct, kw_only=True):
    """A fault that waits for its occasion.

    Attributes:
        id: For `DELETE /sim/faults?id=`.
        fault: What was asked for.
        until_seconds: End on the monotonic clock, None for no end.
        fired: How often it has struck.
    """

    id: int
    fault: Fault
    until_seconds: float | None
    fired: int = 0

    @property
    def is_used_up(self) -> bool:
        """Whether it has struck as often as it may."""
        return self.fault.count is not None and self.fired >= self.fault.count


class FaultBook:
    """The faults that are in force.

    Args:
        monotonic_seconds: Elapsed real time.
        numbers: Gives each fault its number; another book may draw on the same.
    """

    def __init__(
        self,
        monotonic_seconds: Callable[[], float],
        numbers: Iterator[int] | None = None,
    ) -> None:
        self._in_force: FaultsInForce[ActiveFault] = FaultsInForce(monotonic_seconds)
        self._ids = numbers or itertools.count(1)

    def add(self, fault: Fault) -> ActiveFault:
        """Put a fault into force; one that is immediate is only given a number.

        Raises:
            FaultError: 100 faults are in force already.
        """
        until = self._in_force.end_of(fault.seconds)
        entry = ActiveFault(id=next(self._ids), fault=fault, until_seconds=until)
        if fault.kind not in IMMEDIATE:
            self._in_force.put(entry)
        return entry

    def remove(self, number: int | None) -> int:
        """Lift one fault, or all; give how many were lifted."""
        return self._in_force.remove(number)

    def active(self) -> list[ActiveFault]:
        """Give the faults in force, oldest first; what is over is forgotten."""
        return self._in_force.active()

    def find(self, kind: FaultKind, api_key: str | None, path: str = "/") -> Fault | None:
        """Give the oldest matching fault without using it up."""
        entry = self._match(kind, api_key, path)
        return entry.fault if entry else None

    def strike(self, kind: FaultKind, api_key: str | None, path: str = "/") -> Fault | None:
        """Give the oldest matching fault and count it as having struck once."""
        entry = self._match(kind, api_key, path)
        if entry is None:
            return None
        entry.fired += 1
        return entry.fault

    def strike_dump(self, api_key: str | None, exchange: str) -> list[Fault]:
        """Give what is wrong with one dump, counting each as having struck once.

        Args:
            api_key: Who asks.
            exchange: Whose dump; empty for that of all exchanges.
        """
        struck = []
        for entry in self.active():
            fault = entry.fault
            ours = fault.api_key in {None, api_key} and (
                not exchange or fault.exchange in {None, exchange}
            )
            if fault.kind in DUMP_KINDS and ours:
                entry.fired += 1
                struck.append(fault)
        return struck

    def _match(self, kind: FaultKind, api_key: str | None, path: str) -> ActiveFault | None:
        if self._in_force.is_empty:
            return None
        for entry in self.active():
            fault = entry.fault
            ours = fault.kind is FaultKind.BURST or fault.api_key in {None, api_key}
            if fault.kind is kind and ours and path.startswith(fault.path):
                return entry
        return None
