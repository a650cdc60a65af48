"""Keeps the newest forward of every expiry at hand, so that windows can follow it."""

import asyncio
from collections.abc import Collection
from datetime import date, datetime, timedelta

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.cursor import OrderedCursor, StartPosition, StreamMessage
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import Forward, Source
from libs.common.domain.clock import ist_datetime
from services.control import metrics

# By the market's clock. Greeks publishes a forward whenever a price moves it, several times a
# second while the market is open.
_MAX_AGE = timedelta(seconds=60)

log = logs.get_logger(__name__)


class Forwards:
    """The newest messages of the stream MD_FORWARDS.

    Args:
        bus: The connection.
    """

    def __init__(self, bus: Bus) -> None:
        self._newest: dict[str, bytes] = {}
        self._decoded: dict[str, tuple[bytes, Forward | None]] = {}
        self._cursor = OrderedCursor(
            bus,
            streams.MD_FORWARDS.name,
            [subjects.ALL_FORWARDS],
            StartPosition.last_per_subject(),
            self._take,
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Keep the copy current until `stop` is set; raises as OrderedCursor does."""
        await self._cursor.run(stop)

    def _take(self, messages: list[StreamMessage]) -> None:
        # Decoded only when a plan asks for it: most are replaced before.
        for message in messages:
            self._newest[message.subject] = message.payload

    def of(
        self, underlying: str, expiries: Collection[date], *, source: Source, now: datetime
    ) -> dict[date, float]:
        """Fresh forwards of an underlying, in rupees by expiry.

        A forward of another feed (the simulator's, in a stream that was live since), one without
        an exchange time, and one that is older than a minute of market time are left out.
        """
        found = {}
        for expiry in expiries:
            forward = self._read(subjects.forward(underlying, expiry))
            if (
                forward is not None
                and forward.feed is source
                and forward.forward > 0
                and forward.exchange_ts is not None
                and abs(now - ist_datetime(forward.exchange_ts)) <= _MAX_AGE
            ):
                found[expiry] = forward.forward
        return found

    def _read(self, subject: str) -> Forward | None:
        payload = self._newest.get(subject)
        if payload is None:
            return None
        held = self._decoded.get(subject)
        if held is not None and held[0] is payload:
            return held[1]
        try:
            forward: Forward | None = codec.from_json(Forward, payload)
        except codec.DecodeError as error:
            log.warning("forward.unreadable", subject=subject, reason=error.reason)
            metrics.FORWARDS_UNREADABLE_TOTAL.inc()
            forward = None
        self._decoded[subject] = (payload, forward)
        return forward
