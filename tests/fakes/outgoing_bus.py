"""The sending side of a bus and a lease, under a test's control."""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet

from libs.common.bus.connection import PublishOutcome
from libs.common.bus.lease import LeaseEnd


class FakeOutgoingBus:
    """Holds what was offered until `flush`, as nats-py's client does.

    Attributes:
        sent: What reached the socket: subject and payload.
        held: What waits in the client.
    """

    def __init__(self) -> None:
        self.sent: list[tuple[str, bytes]] = []
        self.held: list[tuple[str, bytes]] = []
        self.is_connected = True
        self.flushes = True
        self._on_disconnect: list[Callable[[], None]] = []

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait in the client."""
        return sum(len(payload) for _, payload in self.held)

    async def offer(
        self, subject: str, payload: bytes, headers: Mapping[str, str] | None = None
    ) -> PublishOutcome:
        """Take a message."""
        del headers
        self.held.append((subject, payload))
        if self.flushes:
            self.flush()
        return PublishOutcome.SENT

    def flush(self) -> None:
        """Let everything that waits reach the socket."""
        self.sent += self.held
        self.held = []

    def on_disconnect(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Register a callback."""
        self._on_disconnect.append(callback)
        return lambda: self._on_disconnect.remove(callback)

    def withdraw(self, subjects: AbstractSet[str]) -> int:
        """Take back what waits."""
        before = len(self.held)
        self.held = [item for item in self.held if item[0] not in subjects]
        return before - len(self.held)

    def disconnect(self) -> None:
        """Lose the connection."""
        self.is_connected = False
        for callback in list(self._on_disconnect):
            callback()


class FakeLease:
    """A lease that is valid until told otherwise."""

    def __init__(self, resource: str = "a") -> None:
        self.resource = resource
        self.epoch = 1
        self.valid = True
        self.end: LeaseEnd | None = None

    def is_valid(self) -> bool:
        """Whether the resource is still owned."""
        return self.valid

    def remaining_seconds(self) -> float:
        """How long it stays valid: no time once it is not, else a moment at a time."""
        return 0.01 if self.valid else 0.0

    def finish(self, end: LeaseEnd) -> None:
        """End it for good."""
        self.valid = False
        self.end = self.end or end
