"""Raw requests to the JetStream API, for what nats-py offers only in part or with bugs."""

from datetime import UTC, datetime
from typing import Any

import msgspec

from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusUnavailableError, RefusedError, translated

_SECOND_NS = 1_000_000_000


async def call(
    bus: Bus, operation: str, body: dict[str, Any] | None = None, *, timeout_seconds: float = 2.0
) -> dict[str, Any]:
    """Send one request to `$JS.API.<operation>` and give its decoded answer.

    Raises:
        BusUnavailableError: Not connected, no answer, or JetStream is not ready.
        RefusedError: JetStream answered with an error; carries its `err_code`.
        BusClosedError: The bus is closed.
    """
    bus.require_open()
    if not bus.is_connected:
        raise BusUnavailableError("not connected")
    payload = msgspec.json.encode(body) if body is not None else b""
    with translated():
        msg = await bus.client.request(f"$JS.API.{operation}", payload, timeout=timeout_seconds)
    answer: dict[str, Any] = msgspec.json.decode(msg.data)
    error = answer.get("error")
    if error is not None:
        if error.get("code", 500) >= 500:
            raise BusUnavailableError(error.get("description", "server error"))
        raise RefusedError(code=error.get("err_code"), reason=error.get("description", "?"))
    return answer


def rfc3339_of(timestamp_ns: int) -> str:
    """Spell an epoch timestamp (ns, UTC) as the server reads it, without losing nanoseconds."""
    seconds, fraction_ns = divmod(timestamp_ns, _SECOND_NS)
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}.{fraction_ns:09d}Z"


def ns_of_rfc3339(text: str) -> int:
    """Read a server's timestamp (always UTC, up to nine decimals) as epoch ns."""
    whole, _, fraction = text.removesuffix("Z").partition(".")
    seconds = int(datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp())
    return seconds * _SECOND_NS + int(fraction.ljust(9, "0") or 0)
