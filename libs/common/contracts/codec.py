"""How messages become bytes and bytes become messages, in one place."""

from functools import lru_cache
from typing import TypeVar

import msgspec

from libs.common.contracts.messages import Message
from libs.common.errors import RejectedError

M = TypeVar("M", bound=Message)

# The headers of a frame message. They travel as text, so a person with `nats sub` can read them.
HEADER_RECEIVED_AT = "Received-At"
HEADER_FRAME_SEQ = "Frame-Seq"
HEADER_CONNECTION = "Connection"
HEADER_SOURCE = "Source"

# The headers of a request for candles or quotes. Tried: escaped accounts, separated by commas, that
# could not serve it; an account that is asked alone with this header answers at once instead of
# waiting for a limit.
# Timeout-Seconds: how long the caller waits for each answer, when that is less than usual.
HEADER_TRIED = "Tried"
HEADER_TIMEOUT_SECONDS = "Timeout-Seconds"


class DecodeError(RejectedError):
    """These bytes are not the message they should be.

    Attributes:
        message_type: The struct that was expected.
        reason: What is wrong, with the path of the field.
    """

    def __init__(self, *, message_type: str, reason: str) -> None:
        super().__init__(f"not a valid {message_type}: {reason}")
        self.message_type = message_type
        self.reason = reason


@lru_cache(maxsize=128)
def _json_decoder(kind: type[M]) -> msgspec.json.Decoder[M]:
    return msgspec.json.Decoder(kind)


@lru_cache(maxsize=128)
def _msgpack_decoder(kind: type[M]) -> msgspec.msgpack.Decoder[M]:
    return msgspec.msgpack.Decoder(kind)


_JSON_ENCODER = msgspec.json.Encoder()
_MSGPACK_ENCODER = msgspec.msgpack.Encoder()


def to_json(message: Message) -> bytes:
    """Encode a message as JSON; NaN and infinity become null."""
    return _JSON_ENCODER.encode(message)


def from_json(kind: type[M], data: bytes) -> M:
    """Decode and validate a JSON message.

    Raises:
        DecodeError: If the bytes are not JSON or do not fit the struct.
    """
    try:
        message: M = _json_decoder(kind).decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DecodeError(message_type=kind.__name__, reason=str(error)) from error
    return message


def to_msgpack(message: Message) -> bytes:
    """Encode a message as MessagePack: for large sets that people do not read."""
    return _MSGPACK_ENCODER.encode(message)


def from_msgpack(kind: type[M], data: bytes) -> M:
    """Decode and validate a MessagePack message.

    Raises:
        DecodeError: If the bytes are not MessagePack or do not fit the struct.
    """
    try:
        message: M = _msgpack_decoder(kind).decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DecodeError(message_type=kind.__name__, reason=str(error)) from error
    return message
