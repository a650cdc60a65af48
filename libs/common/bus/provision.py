"""Makes the server's streams and buckets match their declarations, at start and on reconnect."""

import asyncio
from collections.abc import Iterable, Sequence

import nats.js.errors
from nats.js.api import (
    DiscardPolicy,
    PersistMode,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.errors import (
    STREAM_NAME_IN_USE,
    BusUnavailableError,
    ProvisionError,
    translated,
)
from libs.common.contracts.streams import BucketSpec, StreamSpec
from libs.common.resilience.backoff import Backoff

# The server's max_file or max_memory cannot hold what is declared; it answers with 500.
_INSUFFICIENT_RESOURCES = frozenset({10023, 10028, 10047})
_DEFAULT_DUPLICATE_WINDOW_SECONDS = 120.0

log = logs.get_logger(__name__)


def stream_config(spec: StreamSpec) -> StreamConfig:
    """The server's configuration of a declared stream."""
    window = spec.duplicate_window_seconds
    if window is None:
        window = min(_DEFAULT_DUPLICATE_WINDOW_SECONDS, spec.max_age_seconds)
    return StreamConfig(
        name=spec.name,
        description=spec.purpose,
        subjects=list(spec.subjects),
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        persist_mode=PersistMode.ASYNC if spec.persist_async else None,
        max_age=spec.max_age_seconds,
        max_bytes=spec.max_bytes,
        max_msgs=-1,
        max_consumers=-1,
        max_msgs_per_subject=spec.max_msgs_per_subject,
        max_msg_size=spec.max_msg_size,
        discard=DiscardPolicy.NEW if spec.discard == "new" else DiscardPolicy.OLD,
        discard_new_per_subject=spec.discard_new_per_subject,
        allow_direct=spec.allow_direct,
        duplicate_window=window,
        num_replicas=spec.replicas,
    )


def bucket_config(spec: BucketSpec) -> StreamConfig:
    """The configuration of the stream behind a declared bucket, as every NATS client expects it."""
    window = _DEFAULT_DUPLICATE_WINDOW_SECONDS
    if spec.ttl_seconds is not None:
        window = min(window, spec.ttl_seconds)
    return StreamConfig(
        name=f"KV_{spec.name}",
        description=spec.purpose,
        subjects=[f"$KV.{spec.name}.>"],
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        max_age=spec.ttl_seconds or 0,
        max_bytes=-1,
        max_msgs=-1,
        max_consumers=-1,
        max_msgs_per_subject=spec.history,
        max_msg_size=spec.max_value_size if spec.max_value_size is not None else -1,
        discard=DiscardPolicy.NEW,
        allow_direct=True,
        allow_rollup_hdrs=True,
        allow_msg_ttl=True,
        deny_delete=True,
        duplicate_window=window,
        num_replicas=spec.replicas,
        subject_delete_marker_ttl=spec.limit_marker_ttl_seconds,
    )


async def ensure(
    bus: Bus,
    streams: Iterable[StreamSpec] = (),
    buckets: Iterable[BucketSpec] = (),
    *,
    deadline_seconds: float = 30.0,
    on_reconnect: bool = True,
) -> None:
    """Create what is missing and update what differs; harmless to repeat and to run in parallel.

    Args:
        bus: The connection.
        streams: Declared streams.
        buckets: Declared buckets.
        deadline_seconds: How long a server that is not ready may take.
        on_reconnect: Do the same after every reconnect: a server that lost its disk gets its
            streams back before anybody misses them.

    Raises:
        ProvisionError: If a stream exists with a configuration that cannot be changed in place,
            or the server refuses the declared one.
        BusUnavailableError: If JetStream is not ready within the deadline.
        BusClosedError: If the bus is closed.
    """
    configs = [stream_config(spec) for spec in streams] + [bucket_config(spec) for spec in buckets]
    await _ensure_all(bus, configs, deadline_seconds)

    async def again() -> None:
        await _ensure_all(bus, configs, deadline_seconds)

    if on_reconnect:
        bus.on_reconnect(again)


async def _ensure_all(bus: Bus, configs: Sequence[StreamConfig], deadline_seconds: float) -> None:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + deadline_seconds
    backoff = Backoff(first_seconds=0.1, ceiling_seconds=2.0)
    for config in configs:
        while True:
            bus.require_open()
            try:
                await _ensure_one(bus, config)
            except BusUnavailableError as error:
                # Right after its start the server answers 503, or 500/10077 while it recovers.
                if loop.time() >= deadline:
                    raise
                log.warning("provision.waiting", stream=config.name, error=str(error))
                await asyncio.sleep(backoff.next_seconds())
            else:
                backoff.reset()
                break


async def _ensure_one(bus: Bus, config: StreamConfig) -> None:
    if not bus.is_connected:
        raise BusUnavailableError("not connected")
    with translated():
        try:
            await bus.jetstream.add_stream(config)  # With an equal configuration it does nothing.
        except nats.js.errors.BadRequestError as error:
            if error.err_code != STREAM_NAME_IN_USE:
                raise ProvisionError(name=config.name or "?", reason=str(error)) from error
        except nats.js.errors.ServerError as error:
            if error.err_code not in _INSUFFICIENT_RESOURCES:
                raise
            reason = f"{error.description}: raise jetstream.max_file of the server"
            raise ProvisionError(name=config.name or "?", reason=reason) from error
        else:
            return
        try:
            await bus.jetstream.update_stream(config)
        except nats.js.errors.ServiceUnavailableError:
            raise  # Not ready; `translated` makes it retryable.
        except nats.js.errors.APIError as error:
            # Changes that cannot be made in place come as 400 or as 500; neither goes away.
            raise ProvisionError(name=config.name or "?", reason=str(error)) from error
        log.info("provision.updated", stream=config.name)
