"""Reading the newest message of a subject straight from a stream."""

import pytest

from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusUnavailableError, RefusedError
from libs.common.bus.newest import kept_subjects, newest, newest_of
from libs.common.bus.provision import ensure
from libs.common.contracts.streams import StreamSpec
from tests.integration.conftest import settings_for, until

pytestmark = pytest.mark.integration

STREAM = StreamSpec(
    name="NEWEST",
    purpose="One message per subject, of a test.",
    subjects=("newest.>",),
    max_age_seconds=600,
    max_bytes=1_000_000,
    max_msgs_per_subject=1,
)


@pytest.fixture
async def stream(nats_server, bus) -> str:
    del nats_server
    await ensure(bus, [STREAM], [])
    return STREAM.name


async def keep(bus: Bus, subject: str, payload: bytes) -> None:
    await bus.jetstream.publish(subject, payload)


async def test_the_newest_payload_is_given_as_it_was_published(stream, bus):
    await keep(bus, "newest.a", b"old")
    await keep(bus, "newest.a", b"\x00new\r\n")
    assert await newest(bus, stream, "newest.a") == b"\x00new\r\n"


async def test_an_empty_payload_is_a_message_too(stream, bus):
    await keep(bus, "newest.a", b"")
    assert await newest(bus, stream, "newest.a") == b""


async def test_a_subject_without_a_message_has_none(stream, bus):
    assert await newest(bus, stream, "newest.none") is None
    assert await newest_of(bus, stream, ["newest.none"]) == {}


async def test_several_are_given_in_the_order_they_were_asked_for(stream, bus):
    for letter in "abc":
        await keep(bus, f"newest.{letter}", letter.encode())
    found = await newest_of(bus, stream, ["newest.c", "newest.x", "newest.a"])
    assert list(found.items()) == [("newest.c", b"c"), ("newest.a", b"a")]


async def test_subjects_are_those_that_hold_a_message(stream, bus):
    assert await kept_subjects(bus, stream, "newest.>") == []
    for subject in ("newest.b.2", "newest.a.1", "newest.b.1"):
        await keep(bus, subject, b"x")
    assert await kept_subjects(bus, stream, "newest.>") == [
        "newest.a.1",
        "newest.b.1",
        "newest.b.2",
    ]
    assert await kept_subjects(bus, stream, "newest.b.*") == ["newest.b.1", "newest.b.2"]


async def test_a_stream_that_is_not_there_is_an_error(bus):
    with pytest.raises(BusUnavailableError):
        await newest(bus, "NO_SUCH_STREAM", "newest.a")
    with pytest.raises(RefusedError):
        await kept_subjects(bus, "NO_SUCH_STREAM", "newest.>")


async def test_without_a_connection_nobody_waits(nats_server, stream):
    async with Bus.open(settings_for(nats_server), name="reader") as bus:
        await until(lambda: bus.is_connected)
        nats_server.kill()
        await until(lambda: not bus.is_connected)
        with pytest.raises(BusUnavailableError, match="not connected"):
            await newest(bus, stream, "newest.a")
