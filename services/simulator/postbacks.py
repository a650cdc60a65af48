"""Postbacks: updates of orders posted to the app's address, as Kite posts them."""

import asyncio
import zlib
from collections import deque
from typing import Any, Final

import httpx
import msgspec

from libs.common import logs
from libs.common.lifecycle import sleep_unless
from services.simulator import metrics
from services.simulator.domain.accounts import Account

log = logs.get_logger(__name__)

STATUSES: Final = frozenset({"COMPLETE", "CANCELLED", "REJECTED", "UPDATE"})
"""What Kite posts; the WebSocket tells more."""

_LANES: Final = 4
_WAITING_AT_MOST: Final = 5_000
_TIMEOUT_SECONDS: Final = 5.0
# Ours: whether Kite tries again is not known.
_PAUSES_SECONDS: Final = (0.5, 1.0, 2.0)


class Postbacks:
    """Posts the updates of all accounts; those of one account one after another.

    Args:
        url: Where to.
        waiting_at_most: Updates that may wait in each lane; the newest beyond are dropped.
        pauses_seconds: Pauses between the attempts of one update; one attempt more than pauses.
    """

    def __init__(
        self,
        url: str,
        *,
        waiting_at_most: int = _WAITING_AT_MOST,
        pauses_seconds: tuple[float, ...] = _PAUSES_SECONDS,
    ) -> None:
        self._url = url
        self._waiting_at_most = waiting_at_most
        self._pauses_seconds = pauses_seconds
        self._lanes = [_Lane() for _ in range(_LANES)]

    def put(self, account: Account, body: dict[str, Any]) -> None:
        """Have an update posted, if it is one that Kite posts; never blocks."""
        if body["status"] not in STATUSES:
            return
        # An account keeps its lane, so that a slow answer holds up nobody's order of events.
        lane = self._lanes[zlib.crc32(account.api_key.encode()) % _LANES]
        if len(lane.bodies) >= self._waiting_at_most:
            metrics.POSTBACKS_TOTAL.labels(outcome="dropped").inc()
            return
        lane.bodies.append(msgspec.json.encode(body))
        lane.filled.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Post until stopped; what waits then is dropped and counted."""
        async with (
            httpx.AsyncClient(timeout=_TIMEOUT_SECONDS, trust_env=False) as client,
            asyncio.TaskGroup() as group,
        ):
            workers = [
                group.create_task(self._serve(lane, client, stop), name="postbacks")
                for lane in self._lanes
            ]
            await stop.wait()
            # A receiver that does not answer must not hold the process up.
            for worker in workers:
                worker.cancel()
        for lane in self._lanes:
            metrics.POSTBACKS_TOTAL.labels(outcome="dropped").inc(len(lane.bodies))
            lane.bodies.clear()

    async def _serve(self, lane: "_Lane", client: httpx.AsyncClient, stop: asyncio.Event) -> None:
        while not stop.is_set():
            if not lane.bodies:
                lane.filled.clear()
                await lane.filled.wait()
                continue
            # It stays the first until it is done with: a stop counts it as dropped.
            await self._post(lane.bodies[0], client, stop)
            lane.bodies.popleft()

    async def _post(self, body: bytes, client: httpx.AsyncClient, stop: asyncio.Event) -> None:
        for pause in (*self._pauses_seconds, None):
            reason = await self._try(body, client)
            if reason is None:
                metrics.POSTBACKS_TOTAL.labels(outcome="delivered").inc()
                return
            if pause is None or stop.is_set():
                break
            metrics.POSTBACKS_TOTAL.labels(outcome="retried").inc()
            await sleep_unless(stop, pause)
        metrics.POSTBACKS_TOTAL.labels(outcome="failed").inc()
        log.warning("postback.failed", reason=reason)

    async def _try(self, body: bytes, client: httpx.AsyncClient) -> str | None:
        """Post once; give why it failed, or None."""
        try:
            # Raw JSON, and no content type on which a receiver could rely.
            answer = await client.post(self._url, content=body)
        except httpx.HTTPError as error:
            return f"{type(error).__name__}: {error}"
        return None if answer.is_success else f"HTTP {answer.status_code}"


class _Lane:
    """Updates that wait for one worker."""

    def __init__(self) -> None:
        self.bodies: deque[bytes] = deque()
        self.filled = asyncio.Event()
