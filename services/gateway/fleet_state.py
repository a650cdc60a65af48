"""Gathers what the gateway knows of the fleet, for `/health` and `/readyz`."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Any

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.database import Database
from libs.common.domain.clock import IST
from libs.common.domain.market_calendar import CALENDAR, Phase
from libs.common.lifecycle import Lifecycle, sleep_unless
from services.gateway.directory import Directory
from services.gateway.domain.feed_health import FleetView, report
from services.gateway.fanout import Fanout
from services.gateway.settings import GatewaySettings

_PROBE_INTERVAL_SECONDS = 2.0
_EXCHANGES = ("NSE", "NFO", "BSE", "BFO")

log = logs.get_logger(__name__)


class FleetState:
    """Answers from memory: no request reaches the database or the bus."""

    def __init__(
        self,
        *,
        bus: Bus,
        database: Database,
        directory: Directory,
        fanout: Fanout,
        settings: GatewaySettings,
        now: Callable[[], datetime] = lambda: datetime.now(IST),
    ) -> None:
        self._bus = bus
        self._database = database
        self._directory = directory
        self._fanout = fanout
        self._settings = settings
        self._now = now
        self._database_error: str | None = "not asked yet"
        self._probed = asyncio.Event()

    async def run(self, life: Lifecycle) -> None:
        """Ask the database for a sign of life every two seconds until the process stops."""
        while True:
            error = await self._database.probe()
            if self._probed.is_set() and error != self._database_error:
                log.info("database.state", error=error)
            self._database_error = error
            self._probed.set()
            if await sleep_unless(life.stop, _PROBE_INTERVAL_SECONDS):
                return

    def health(self) -> dict[str, Any]:
        """The body of `GET /health`."""
        directory = self._directory
        view = FleetView(
            environment=self._settings.environment.value,
            plans=directory.plans,
            feeds=directory.feeds,
            nats_connected=self._bus.is_connected,
            directory_ready=directory.is_ready,
            database_error=self._database_error,
            tick_age_seconds=self._fanout.tick_age_seconds,
            source=self._fanout.source,
            market_open=self._market_open(),
            instruments=directory.instruments,
            instruments_at_ns=directory.instruments_at_ns,
        )
        return report(view, tick_patience_seconds=self._settings.tick_patience_seconds)

    def bus_problem(self) -> str | None:
        """Why no ticks can arrive, for `/readyz`."""
        return None if self._bus.is_connected else "not connected"

    def directory_problem(self) -> str | None:
        """Why instruments cannot be judged yet, for `/readyz`."""
        return None if self._directory.is_ready else "buckets not read yet"

    def _market_open(self) -> bool:
        now = self._now()
        return any(CALENDAR.phase(exchange, now) is Phase.OPEN for exchange in _EXCHANGES)
