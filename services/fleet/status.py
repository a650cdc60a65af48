"""Asks a running fleet how it is: who is alive, who owns what, and how fast it works."""

import asyncio
import time
from collections.abc import Mapping

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusUnavailableError, ConnectDeadlineError
from libs.common.bus.kv import snapshot
from libs.common.contracts.streams import (
    LEASES_ACCOUNTS,
    LEASES_CONTROL,
    LEASES_ORDERS,
    LEASES_SHARDS,
)
from libs.common.settings import NatsSettings
from services.fleet.data_directory import FleetState, ProcessState
from services.fleet.domain.ownership import Ownership, ownership
from services.fleet.domain.rates import rates_per_second
from services.fleet.loopback import fetch

_BUS_SECONDS = 3.0
_BUCKET_SECONDS = 1.5
_LEASE_BUCKETS = tuple(
    bucket.name for bucket in (LEASES_CONTROL, LEASES_ACCOUNTS, LEASES_SHARDS, LEASES_ORDERS)
)


class ProcessReport(msgspec.Struct, frozen=True, kw_only=True):
    """One process, as seen from outside.

    Attributes:
        name: Such as `greeks-2`.
        service: Such as `greeks`.
        pid: None while it does not run.
        state: As the supervisor sees it.
        restarts: How often it was started again.
        ready: What its `/readyz` says now; for a database what the supervisor says.
        reasons: Why it is not ready, by check.
        owns: What it holds by lease, such as `account sim1`.
        rates: Growth per second of each of its counters.
    """

    name: str
    service: str
    pid: int | None
    state: str
    restarts: int
    ready: bool
    reasons: dict[str, str]
    owns: tuple[str, ...]
    rates: dict[str, float]


class StatusReport(msgspec.Struct, frozen=True, kw_only=True):
    """The whole fleet.

    Attributes:
        pid: Of the fleet process.
        up: Whether it has been up.
        health: What the first gateway's `/health` says now; None when it does not answer.
        uptime_seconds: Since the fleet was started.
        dashboard: Address of the page.
        nats_url: For clients.
        bus_reachable: Whether the leases could be read.
        unowned: Leases whose holder is none of the fleet's processes.
        processes: In starting order.
    """

    pid: int
    up: bool
    health: str | None
    uptime_seconds: int
    dashboard: str
    nats_url: str
    bus_reachable: bool
    unowned: dict[str, tuple[str, ...]]
    processes: tuple[ProcessReport, ...]

    @property
    def is_well(self) -> bool:
        """Whether every process is ready and the gateway is content."""
        return self.health == "ok" and all(process.ready for process in self.processes)


async def status(state: FleetState, interval_seconds: float) -> StatusReport:
    """Ask every process and the bus.

    Args:
        state: The running fleet, from its data directory.
        interval_seconds: Between the two readings that rates are made from.
    """
    owners, first = await asyncio.gather(_owners(state), _counters(state))
    started = time.monotonic()
    await asyncio.sleep(interval_seconds)
    second, readiness, health = await asyncio.gather(
        _counters(state), _readiness(state), _health(state)
    )
    seconds = max(time.monotonic() - started, 1e-3)
    held = owners or {}
    names = {process.name for process in state.processes}
    return StatusReport(
        pid=state.pid,
        up=state.up,
        health=health,
        uptime_seconds=max(0, int(time.time()) - state.started_at_seconds),
        dashboard=f"{state.gateway_urls[0]}/",
        nats_url=state.nats_url,
        bus_reachable=owners is not None,
        unowned={member: owned for member, owned in held.items() if member not in names},
        processes=tuple(
            ProcessReport(
                name=process.name,
                service=process.service,
                pid=process.pid,
                state=process.state,
                restarts=process.restarts,
                ready=not reasons,
                reasons=reasons,
                owns=held.get(process.name, ()),
                rates=rates_per_second(first[process.name], second[process.name], seconds),
            )
            for process, reasons in zip(state.processes, readiness, strict=True)
        ),
    )


async def _owners(state: FleetState) -> Ownership | None:
    """Read the leases; None when the bus does not answer."""
    settings = NatsSettings(nats_url=state.nats_url, nats_connect_deadline_seconds=_BUS_SECONDS)
    try:
        async with Bus.open(settings, name="tickfleet-status") as bus:
            buckets = await asyncio.gather(*(_entries(bus, name) for name in _LEASE_BUCKETS))
    except (ConnectDeadlineError, BusUnavailableError):
        return None
    return ownership(dict(zip(_LEASE_BUCKETS, buckets, strict=True)))


async def _entries(bus: Bus, bucket: str) -> Mapping[str, bytes]:
    """Read a whole bucket; nothing when it does not exist yet."""
    return await snapshot(bus, bucket, patience_seconds=_BUCKET_SECONDS) or {}


async def _counters(state: FleetState) -> dict[str, dict[str, float]]:
    """Read the fleet's own counters of every process, added up over their labels."""

    async def read(process: ProcessState) -> dict[str, float]:
        response = await fetch(f"{process.url}/metrics") if process.url else None
        totals: dict[str, float] = {}
        if response is None or not response.is_success:
            return totals
        for family in text_string_to_metric_families(response.text):
            if family.type != "counter" or not family.name.startswith("tickfleet_"):
                continue
            for sample in family.samples:
                if sample.name.endswith("_total"):
                    totals[sample.name] = totals.get(sample.name, 0.0) + sample.value
        return totals

    readings = await asyncio.gather(*(read(process) for process in state.processes))
    return {
        process.name: reading for process, reading in zip(state.processes, readings, strict=True)
    }


async def _readiness(state: FleetState) -> list[dict[str, str]]:
    """Ask every process whether it is ready; gives the reasons why not."""

    async def ask(process: ProcessState) -> dict[str, str]:
        if process.url is None:
            return {} if process.state == "ready" else {"supervisor": process.state}
        response = await fetch(f"{process.url}/readyz")
        if response is None:
            return {"process": f"does not answer ({process.state})"}
        if response.is_success:
            return {}
        try:
            failing = response.json()["failing"]
            return {str(check): str(reason) for check, reason in failing.items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            return {"readyz": f"HTTP {response.status_code}"}

    return list(await asyncio.gather(*(ask(process) for process in state.processes)))


async def _health(state: FleetState) -> str | None:
    response = await fetch(f"{state.gateway_urls[0]}/health")
    if response is None:
        return None
    try:
        return str(response.json()["status"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {response.status_code}"
