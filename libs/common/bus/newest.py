"""Reads the newest message of a subject, or of several, straight from a stream that keeps it."""

import asyncio
from typing import Final

from libs.common.bus import api
from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusUnavailableError, translated

TIMEOUT_SECONDS: Final = 2.0
_STATUS: Final = "Status"
_NOT_FOUND: Final = "404"


async def newest(bus: Bus, stream: str, subject: str) -> bytes | None:
    """The payload of the newest message of one subject; None if the stream holds none.

    A direct read, which costs the server less than a request to the stream's leader.

    Raises:
        BusUnavailableError: Not connected, no answer, no such stream, or it cannot be read now.
        BusClosedError: The bus is closed.
    """
    bus.require_open()
    if not bus.is_connected:
        raise BusUnavailableError("not connected")
    with translated():
        message = await bus.client.request(
            f"$JS.API.DIRECT.GET.{stream}.{subject}", timeout=TIMEOUT_SECONDS
        )
    status = (message.headers or {}).get(_STATUS)
    if status is None:
        return bytes(message.data)
    if status == _NOT_FOUND:
        return None
    raise BusUnavailableError(f"stream {stream} cannot be read: status {status}")


async def newest_of(bus: Bus, stream: str, subjects: list[str]) -> dict[str, bytes]:
    """The newest payload of each subject that has one, in the order of the subjects.

    Raises:
        BusUnavailableError: As `newest`.
        BusClosedError: The bus is closed.
    """
    found = await asyncio.gather(*(newest(bus, stream, subject) for subject in subjects))
    return {s: payload for s, payload in zip(subjects, found, strict=True) if payload is not None}


async def kept_subjects(bus: Bus, stream: str, pattern: str) -> list[str]:
    """Subjects of which a stream holds a message now, sorted.

    Args:
        bus: The connection.
        stream: Name of the stream.
        pattern: Which subjects, with wildcards.

    Raises:
        BusUnavailableError: Not connected, no answer, or JetStream is not ready.
        RefusedError: There is no such stream.
        BusClosedError: The bus is closed.
    """
    info = await api.call(bus, f"STREAM.INFO.{stream}", {"subjects_filter": pattern})
    return sorted(info["state"].get("subjects") or ())
