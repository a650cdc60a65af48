"""Proof that a stream stores: one acknowledged publish a second beside the unacknowledged flow."""

import asyncio
import time
from collections.abc import Callable

from libs.common import logs
from libs.common.bus import metrics
from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusUnavailableError, RefusedError, translated
from libs.common.contracts import streams

log = logs.get_logger(__name__)


class StreamHeartbeat:
    """Publishes to a stream once a second and waits for the acknowledgement.

    Core publishes get no answer, so nothing else would notice a stream that is missing, full or
    read-only. Use `is_healthy` for readiness.

    Args:
        bus: The connection.
        subject: A subject that the stream captures and that its readers do not filter for.
        stream: The stream that must store, MD_FRAMES unless said; another one answering fails.
        payload: What to publish, asked for each time.
        interval_seconds: From one publish to the next.
        timeout_seconds: How long to wait for the acknowledgement.
    """

    def __init__(
        self,
        bus: Bus,
        subject: str,
        *,
        stream: str = streams.MD_FRAMES.name,
        payload: Callable[[], bytes] = bytes,
        interval_seconds: float = 1.0,
        timeout_seconds: float = 1.0,
    ) -> None:
        self._bus = bus
        self._stream = stream
        self._subject = subject
        self._payload = payload
        self._interval_seconds = interval_seconds
        self._timeout_seconds = timeout_seconds
        self._stored_at: float | None = None
        self._sequence = 0
        self._failing = False
        self._stored = metrics.HEARTBEATS_TOTAL.labels(stream=stream, outcome="stored")
        self._failed = metrics.HEARTBEATS_TOTAL.labels(stream=stream, outcome="failed")

    @property
    def age_seconds(self) -> float:
        """Since the last acknowledgement; infinite before the first."""
        return float("inf") if self._stored_at is None else time.monotonic() - self._stored_at

    @property
    def is_healthy(self) -> bool:
        """Whether the stream stored something within the last three intervals."""
        return self.age_seconds < 3 * self._interval_seconds + self._timeout_seconds

    @property
    def sequence(self) -> int:
        """The stream's sequence at the last acknowledgement; 0 before the first."""
        return self._sequence

    async def run(self, stop: asyncio.Event) -> None:
        """Beat until `stop` is set.

        Raises:
            BusClosedError: If the bus is closed for good before that.
        """
        while not stop.is_set():
            self._bus.require_open()
            await self._beat()
            try:
                async with asyncio.timeout(self._interval_seconds):
                    await stop.wait()
            except TimeoutError:
                continue

    async def _beat(self) -> None:
        try:
            if not self._bus.is_connected:
                # It would wait in the buffer and be stored, unasked, after the reconnect.
                raise BusUnavailableError("not connected")  # noqa: TRY301  # One path for failures.
            with translated():
                ack = await self._bus.jetstream.publish(
                    self._subject,
                    self._payload(),
                    timeout=self._timeout_seconds,
                    stream=self._stream,
                )
        except (BusUnavailableError, RefusedError) as error:
            self._failed.inc()
            if not self._failing:
                log.warning("bus.stream_not_storing", stream=self._stream, error=str(error))
            self._failing = True
            return
        if self._failing:
            log.info("bus.stream_stores_again", stream=self._stream, sequence=ack.seq)
        self._failing = False
        self._stored.inc()
        self._stored_at = time.monotonic()
        self._sequence = ack.seq
