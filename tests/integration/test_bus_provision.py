"""Streams and buckets are made as declared, and heartbeats prove that a stream stores."""

import asyncio
from typing import Any

import pytest

from libs.common.bus import metrics
from libs.common.bus.connection import Bus
from libs.common.bus.errors import ProvisionError
from libs.common.bus.provision import ensure
from libs.common.bus.publisher import StreamHeartbeat
from libs.common.contracts import streams
from libs.common.contracts.streams import BucketSpec, StreamSpec
from tests.fakes.nats_server import NatsServer
from tests.integration.conftest import running, settings_for, until

pytestmark = pytest.mark.integration


def spec(name, **changes):
    fields: dict[str, Any] = {
        "name": name,
        "purpose": "test",
        "subjects": (f"{name}.>",),
        "max_age_seconds": 60,
        "max_bytes": 1_000_000,
        **changes,
    }
    return StreamSpec(**fields)


async def config_of(bus, stream):
    return (await bus.jetstream.stream_info(stream)).config


async def test_everything_declared_is_accepted_twice_and_in_parallel(nats_server, bus):
    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    async with Bus.open(settings_for(nats_server), name="other") as other:
        await asyncio.gather(
            ensure(bus, streams.STREAMS, streams.BUCKETS),
            ensure(other, streams.STREAMS, streams.BUCKETS),
        )

    frames = await config_of(bus, "MD_FRAMES")
    assert (frames.persist_mode, frames.storage, frames.max_age) == ("async", "file", 600)
    leases = await config_of(bus, "KV_leases_shards")
    assert (leases.max_age, leases.subject_delete_marker_ttl, leases.max_msgs_per_subject) == (
        3,
        1,
        1,
    )
    assert leases.persist_mode != "async"
    assert leases.allow_direct


async def test_changed_declaration_updates_the_stream_and_keeps_its_messages(shared_bus):
    await ensure(shared_bus, [spec("PROVCHANGE")])
    await shared_bus.jetstream.publish("PROVCHANGE.a", b"")

    await ensure(shared_bus, [spec("PROVCHANGE", max_age_seconds=30, max_bytes=2_000_000)])

    info = await shared_bus.jetstream.stream_info("PROVCHANGE")
    assert (info.config.max_age, info.config.max_bytes, info.state.messages) == (30, 2_000_000, 1)


async def test_last_value_and_command_streams_are_made_as_declared(shared_bus):
    await ensure(
        shared_bus,
        [
            spec(
                "PROVCMD",
                persist_async=False,
                max_msgs_per_subject=1,
                discard="new",
                discard_new_per_subject=True,
                duplicate_window_seconds=20,
            )
        ],
        [BucketSpec(name="prov_sized", purpose="test", history=3, max_value_size=100)],
    )

    command = await config_of(shared_bus, "PROVCMD")
    assert (command.discard, command.discard_new_per_subject, command.duplicate_window) == (
        "new",
        True,
        20,
    )
    bucket = await config_of(shared_bus, "KV_prov_sized")
    assert (bucket.max_msgs_per_subject, bucket.max_msg_size) == (3, 100)


async def test_change_that_cannot_be_made_in_place_names_the_stream(shared_bus):
    await ensure(shared_bus, [spec("PROVFIXED", persist_async=True)])

    with pytest.raises(ProvisionError, match="PROVFIXED") as caught:
        await ensure(shared_bus, [spec("PROVFIXED", persist_async=False)])
    assert caught.value.name == "PROVFIXED"


async def test_subjects_of_another_stream_are_refused(shared_bus):
    await ensure(shared_bus, [spec("PROVONE")])

    with pytest.raises(ProvisionError, match="overlap"):
        await ensure(shared_bus, [spec("PROVTWO", subjects=("PROVONE.a",))])


async def test_stream_larger_than_the_server_allows_says_what_to_raise(shared_bus):
    with pytest.raises(ProvisionError, match="max_file"):
        await ensure(shared_bus, [spec("PROVHUGE", max_bytes=10**13)])


async def test_streams_come_back_after_the_server_lost_its_disk(nats_server, bus):
    await ensure(bus, [spec("PROVBACK")], [BucketSpec(name="prov_back", purpose="test")])
    nats_server.kill()
    await until(lambda: not bus.is_connected)
    nats_server.wipe()
    nats_server.start()
    await until(lambda: bus.is_connected)

    async with asyncio.timeout(10):
        while len(names := await stream_names(bus)) < 2:  # noqa: ASYNC110  # Another client's doing.
            await asyncio.sleep(0.05)
    assert names == {"PROVBACK", "KV_prov_back"}


async def stream_names(bus):
    return {info.config.name for info in await bus.jetstream.streams_info()}


async def test_heartbeat_is_healthy_while_the_stream_stores_and_only_then(tmp_path):
    server = NatsServer(tmp_path)
    server.start()
    try:
        async with Bus.open(settings_for(server), name="test") as bus:
            beat = StreamHeartbeat(
                bus,
                "BEAT.beat",
                stream="BEAT",
                payload=lambda: b"alive",
                interval_seconds=0.1,
                timeout_seconds=0.2,
            )
            async with running(beat.run):
                await until(lambda: failed("BEAT") >= 1)
                assert not beat.is_healthy
                assert beat.age_seconds == float("inf")
                await ensure(bus, [spec("BEAT")])
                await until(lambda: beat.is_healthy)
                assert beat.sequence >= 1
                server.kill()
                await until(lambda: not beat.is_healthy)
                server.start()
                await until(lambda: beat.is_healthy)
    finally:
        server.kill()


async def test_another_stream_that_answers_is_no_heartbeat(shared_bus):
    await ensure(shared_bus, [spec("BEATOTHER")])
    beat = StreamHeartbeat(
        shared_bus, "BEATOTHER.beat", stream="BEATMINE", interval_seconds=0.05, timeout_seconds=0.2
    )
    async with running(beat.run):
        await until(lambda: failed("BEATMINE") >= 2)
    assert not beat.is_healthy


def failed(stream):
    return metrics.HEARTBEATS_TOTAL.labels(stream=stream, outcome="failed")._value.get()
