"""Frames built once must be what every WebSocket client reads."""

import json

from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from services.gateway.domain.ws_frames import (
    batch_frame,
    line_of,
    payloads,
    text_frame,
    tick_frame,
)

objects = st.integers(0, 2**32 - 1).flatmap(
    lambda token: st.text(max_size=300).map(
        lambda text: json.dumps({"instrument_token": token, "text": text}).encode()
    )
)


def read(data: bytes) -> list[bytes]:
    """Read frames as a client of the `websockets` package does."""
    client = Protocol(Side.CLIENT)
    client.receive_data(data)
    assert client.parser_exc is None
    frames = [event for event in client.events_received() if isinstance(event, Frame)]
    assert all(frame.opcode is Opcode.TEXT and frame.fin for frame in frames)
    return [bytes(frame.data) for frame in frames]


@given(st.integers(0, 70_000))
def test_every_length_is_framed_as_clients_read_it(length):
    payload = b"x" * length
    assert read(text_frame(payload)) == [payload]


@given(st.lists(objects, max_size=5))
def test_tick_frames_back_to_back_are_separate_messages(lines):
    data = b"".join(map(tick_frame, lines))
    expected = [{"type": "tick", "data": json.loads(line)} for line in lines]
    assert [json.loads(message) for message in read(data)] == expected
    assert list(payloads(data)) == read(data)


@given(objects)
def test_line_comes_back_out_of_its_frame(line):
    assert line_of(tick_frame(line)) == line


def test_line_comes_back_out_of_long_frames():
    for length in (10, 125, 126, 65_535, 65_536, 100_000):
        line = b'{"a":"' + b"x" * length + b'"}'
        assert line_of(tick_frame(line)) == line


@given(st.lists(objects, max_size=5), st.integers(0, 3))
def test_batch_holds_all_ticks_in_order_and_tells_what_was_conflated(lines, conflated):
    [message] = read(batch_frame(map(tick_frame, lines), conflated))
    body = json.loads(message)
    assert body.pop("conflated", 0) == conflated
    assert body == {"type": "ticks", "data": [json.loads(line) for line in lines]}
