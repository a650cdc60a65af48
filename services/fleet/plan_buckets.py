"""Reads the buckets that tell how the subscription plan fares."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.kv import snapshot
from libs.common.contracts import codec
from libs.common.contracts.messages import (
    AccountPlan,
    AccountState,
    ControlStatus,
    FeedCoverage,
    FeedStatus,
    Message,
)
from libs.common.contracts.streams import ACCOUNTS, COVERAGE, PLAN, STATUS
from libs.common.settings import NatsSettings
from services.fleet.domain.plan_report import PlanReport, plan_report

_BUCKET_SECONDS = 3.0

log = logs.get_logger(__name__)
M = TypeVar("M", bound=Message)


async def read_plan(settings: NatsSettings) -> PlanReport:
    """Ask the bus for plan, feeds, coverage and accounts.

    Raises:
        ConnectDeadlineError: NATS cannot be reached.
    """
    async with Bus.open(settings, name="tickfleet-plan") as bus:
        plans, status, coverage, accounts = await asyncio.gather(
            *(_entries(bus, bucket.name) for bucket in (PLAN, STATUS, COVERAGE, ACCOUNTS))
        )
    feeds = {key: value for key, value in status.items() if key.startswith("feed-")}
    control = {key: value for key, value in status.items() if key == "control"}
    leaders = _decoded(ControlStatus, control, codec.from_json)
    return plan_report(
        plans=_decoded(AccountPlan, plans, codec.from_json),
        feeds=_decoded(FeedStatus, feeds, codec.from_json),
        coverages=_decoded(FeedCoverage, coverage, codec.from_msgpack),
        accounts=_decoded(AccountState, accounts, codec.from_json),
        control=leaders[0] if leaders else None,
    )


async def _entries(bus: Bus, bucket: str) -> dict[str, bytes]:
    """Read a whole bucket; nothing when it does not exist yet."""
    return await snapshot(bus, bucket, patience_seconds=_BUCKET_SECONDS) or {}


def _decoded(
    kind: type[M], entries: dict[str, bytes], decode: Callable[[type[M], bytes], M]
) -> list[M]:
    """Decode what can be decoded; what cannot comes from another version and is named."""
    found = []
    for key, value in entries.items():
        try:
            found.append(decode(kind, value))
        except codec.DecodeError as error:
            log.warning("plan.undecodable", key=key, reason=error.reason)
    return found
