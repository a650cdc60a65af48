"""Buckets and mirrors on a real server, with the markers that TTLs leave behind."""

import asyncio
from typing import Any

import pytest

from libs.common.bus.connection import Bus
from libs.common.bus.errors import (
    BusClosedError,
    BusUnavailableError,
    KeyExistsError,
    WrongRevisionError,
)
from libs.common.bus.kv import Bucket, Mirror
from libs.common.bus.provision import ensure
from libs.common.contracts.streams import BucketSpec
from tests.integration.conftest import running, settings_for, until

pytestmark = pytest.mark.integration


@pytest.fixture
def make_bucket(shared_bus):
    """Provision a bucket and give its door."""

    async def make(name, **changes):
        await ensure(shared_bus, [], [BucketSpec(name=name, purpose="test", **changes)])
        return Bucket(shared_bus, name)

    return make


async def test_key_is_written_read_and_deleted(make_bucket):
    bucket = await make_bucket("kv_basic")

    assert await bucket.get("a.b") is None
    revision = await bucket.put("a.b", b"one")
    entry = await bucket.get("a.b")
    assert entry is not None
    assert (entry.key, entry.value, entry.revision) == ("a.b", b"one", revision)
    await bucket.delete("a.b")
    assert await bucket.get("a.b") is None


async def test_empty_value_is_a_value(make_bucket):
    bucket = await make_bucket("kv_empty")
    await bucket.put("k", b"")

    entry = await bucket.get("k")

    assert entry is not None
    assert entry.value == b""
    with pytest.raises(KeyExistsError):
        await bucket.create("k", b"")


async def test_only_one_of_many_creators_wins(make_bucket):
    bucket = await make_bucket("kv_create")

    outcomes = await asyncio.gather(
        *(bucket.create("k", str(number).encode()) for number in range(20)), return_exceptions=True
    )

    won = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, int)]
    assert len(won) == 1
    assert all(isinstance(outcome, int | KeyExistsError) for outcome in outcomes)
    entry = await bucket.get("k")
    assert entry is not None
    assert entry.value == str(won[0]).encode()


async def test_deleted_key_can_be_created_again(make_bucket):
    bucket = await make_bucket("kv_again")
    first = await bucket.create("k", b"1")
    await bucket.delete("k", last=first)

    second = await bucket.create("k", b"2")

    assert second > first


async def test_write_with_an_old_revision_is_refused(make_bucket):
    bucket = await make_bucket("kv_cas")
    first = await bucket.put("k", b"1")
    second = await bucket.update("k", b"2", last=first)

    with pytest.raises(WrongRevisionError, match=f"not at revision {first}"):
        await bucket.update("k", b"3", last=first)
    with pytest.raises(WrongRevisionError):
        await bucket.delete("k", last=first)
    entry = await bucket.get("k")
    assert entry is not None
    assert (entry.value, entry.revision) == (b"2", second)


async def test_expired_key_has_no_value_and_can_be_created_over_its_marker(make_bucket, shared_bus):
    bucket = await make_bucket("kv_ttl", ttl_seconds=1, limit_marker_ttl_seconds=60)
    changes: list[Any] = []
    mirror = Mirror(shared_bus, "kv_ttl", lambda key, value: changes.append((key, value)))
    async with running(mirror.run):
        first = await bucket.create("k", b"1")
        await until(lambda: changes == [("k", b"1"), ("k", None)])
        raw = await shared_bus.jetstream.get_msg("KV_kv_ttl", subject="$KV.kv_ttl.k")
        assert "Nats-Marker-Reason" in (raw.headers or {})

        assert await bucket.get("k") is None
        assert await bucket.create("k", b"2") > first
        await until(lambda: mirror.get("k") == b"2")


@pytest.mark.parametrize("key", ["", ".a", "a.", "M&M", "a b", "a*", "a>"])
async def test_key_that_nats_does_not_allow_is_refused_with_the_way_out(make_bucket, key):
    bucket = await make_bucket("kv_keys")

    with pytest.raises(ValueError, match="escape"):
        await bucket.put(key, b"")


async def test_missing_bucket_is_unavailable(shared_bus):
    bucket = Bucket(shared_bus, "kv_missing")

    with pytest.raises(BusUnavailableError, match="does not exist"):
        await bucket.get("k")
    with pytest.raises(BusUnavailableError):
        await bucket.put("k", b"")


async def test_without_connection_nothing_is_sent_later(nats_server, bus):
    await ensure(bus, [], [BucketSpec(name="kv_away", purpose="test")])
    bucket = Bucket(bus, "kv_away")
    nats_server.kill()
    await until(lambda: not bus.is_connected)

    with pytest.raises(BusUnavailableError, match="not connected"):
        await bucket.put("k", b"late")
    nats_server.start()
    await until(lambda: bus.is_connected)

    assert await bucket.get("k") is None


async def test_closed_bus_says_so(shared_nats_server):
    async with Bus.open(settings_for(shared_nats_server), name="test") as bus:
        await bus.client.close()
        with pytest.raises(BusClosedError):
            await Bucket(bus, "kv_any").get("k")


async def test_mirror_follows_the_bucket(make_bucket, shared_bus):
    bucket = await make_bucket("kv_mirror")
    await bucket.put("old", b"1")
    await bucket.put("gone", b"1")
    await bucket.delete("gone")
    changes: list[Any] = []
    mirror = Mirror(shared_bus, "kv_mirror", lambda key, value: changes.append((key, value)))

    async with running(mirror.run):
        await mirror.ready()
        assert mirror.items() == {"old": b"1"}
        revision = await bucket.put("new", b"2")
        await bucket.delete("old")
        await until(lambda: mirror.items() == {"new": b"2"})

    assert changes == [("old", b"1"), ("new", b"2"), ("old", None)]
    entry = mirror.entry("new")
    assert entry is not None
    assert entry.revision == revision
    assert ("new" in mirror, "old" in mirror, list(mirror), len(mirror)) == (
        True,
        False,
        ["new"],
        1,
    )


async def test_mirror_of_an_empty_bucket_is_ready(make_bucket, shared_bus):
    await make_bucket("kv_none")
    mirror = Mirror(shared_bus, "kv_none")
    async with running(mirror.run):
        await asyncio.wait_for(mirror.ready(), 5)
    assert mirror.items() == {}


async def test_mirror_sees_only_the_keys_it_asks_for(make_bucket, shared_bus):
    bucket = await make_bucket("kv_some")
    mirror = Mirror(shared_bus, "kv_some", keys="feed.*")
    async with running(mirror.run):
        await bucket.put("feed.1", b"1")
        await bucket.put("other.1", b"1")
        await bucket.put("feed.2", b"2")
        await until(lambda: len(mirror) == 2)
    assert sorted(mirror) == ["feed.1", "feed.2"]


async def test_error_of_the_callback_ends_the_mirror_and_its_waiters(make_bucket, shared_bus):
    bucket = await make_bucket("kv_raise")
    await bucket.put("k", b"1")

    def broken(key, value):
        raise LookupError(key, value)

    mirror = Mirror(shared_bus, "kv_raise", broken)
    run = asyncio.create_task(mirror.run(asyncio.Event()))

    with pytest.raises(BusUnavailableError, match="ended before it was ready"):
        await mirror.ready()
    with pytest.raises(LookupError):
        await run


@pytest.mark.parametrize("how", ["kill", "stop"])
async def test_mirror_goes_on_after_a_restart_without_repeating_itself(nats_server, bus, how):
    await ensure(bus, [], [BucketSpec(name="kv_restart", purpose="test")])
    bucket = Bucket(bus, "kv_restart")
    changes: list[Any] = []
    mirror = Mirror(bus, "kv_restart", lambda key, value: changes.append((key, value)))
    async with running(mirror.run):
        await mirror.ready()
        await bucket.put("a", b"1")
        await until(lambda: mirror.items() == {"a": b"1"})
        getattr(nats_server, how)()
        await until(lambda: not bus.is_connected)
        nats_server.start()
        await until(lambda: bus.is_connected)
        await bucket.put("b", b"2")
        await until(lambda: "b" in mirror)

    assert changes == [("a", b"1"), ("b", b"2")]


async def test_mirror_drops_what_the_server_lost(nats_server, bus):
    await ensure(bus, [], [BucketSpec(name="kv_lost", purpose="test")])
    bucket = Bucket(bus, "kv_lost")
    changes: list[Any] = []
    mirror = Mirror(bus, "kv_lost", lambda key, value: changes.append((key, value)))
    async with running(mirror.run):
        await bucket.put("a", b"1")
        await until(lambda: mirror.items() == {"a": b"1"})
        nats_server.kill()
        nats_server.wipe()
        nats_server.start()
        await until(lambda: mirror.items() == {})
        await until(lambda: bus.is_connected)
        await bucket.put("a", b"2")  # The same revision as before, with another value.
        await until(lambda: mirror.items() == {"a": b"2"})

    assert changes == [("a", b"1"), ("a", None), ("a", b"2")]
