"""WebSocket text frames, built once and sent to every client (RFC 6455 §5.2, unmasked)."""

from collections.abc import Iterable, Iterator

_FIN_TEXT = b"\x81"
_TICK_HEAD = b'{"type":"tick","data":'
_TICK_TAIL = b"}"
_TICK_AROUND = len(_TICK_HEAD) + len(_TICK_TAIL)
_USUAL_START = 4 + len(_TICK_HEAD)
_USUAL_END = -len(_TICK_TAIL)
_TICKS_HEAD = b'{"type":"ticks","data":['


def text_frame(payload: bytes) -> bytes:
    """Put the header of a final, unmasked text frame before a UTF-8 payload."""
    return _header(len(payload)) + payload


def tick_frame(line: bytes) -> bytes:
    """Build the frame of one `tick` message around a published JSON object.

    The same bytes serve every client: frames of a server are not masked.
    """
    return b"".join((_header(len(line) + _TICK_AROUND), _TICK_HEAD, line, _TICK_TAIL))


def line_of(frame: bytes) -> bytes:
    """Give back the JSON object that `tick_frame` wrapped."""
    return frame[_payload_start(frame) + len(_TICK_HEAD) : -len(_TICK_TAIL)]


def batch_frame(frames: Iterable[bytes], conflated: int = 0) -> bytes:
    """Build the frame of one `ticks` message from frames of single ticks.

    Args:
        frames: Made by `tick_frame`.
        conflated: How many older ticks these replaced; 0 is left out.
    """
    tail = b'],"conflated":%d}' % conflated if conflated else b"]}"
    # Nearly every tick has 126 to 65 535 bytes: spare those two calls each.
    lines = [
        frame[_USUAL_START:_USUAL_END] if frame[1] == 126 else line_of(frame) for frame in frames
    ]
    return text_frame(b"".join((_TICKS_HEAD, b",".join(lines), tail)))


def payloads(data: bytes) -> Iterator[bytes]:
    """Split frames that stand back to back into their payloads, for servers that frame anew."""
    position = 0
    while position < len(data):
        start, length = _extent(data, position)
        yield data[start : start + length]
        position = start + length


def _header(length: int) -> bytes:
    if length < 126:
        return _FIN_TEXT + length.to_bytes(1, "big")
    if length < 65_536:
        return b"\x81\x7e" + length.to_bytes(2, "big")
    return b"\x81\x7f" + length.to_bytes(8, "big")


def _payload_start(frame: bytes) -> int:
    code = frame[1]
    if code < 126:
        return 2
    return 4 if code == 126 else 10


def _extent(data: bytes, position: int) -> tuple[int, int]:
    code = data[position + 1]
    if code < 126:
        return position + 2, code
    if code == 126:
        return position + 4, int.from_bytes(data[position + 2 : position + 4], "big")
    return position + 10, int.from_bytes(data[position + 2 : position + 10], "big")
