"""Kite frames built straight from the byte layout, so that tests do not trust our own encoders."""

import struct
from collections.abc import Callable
from random import Random

from hypothesis import strategies as st

U32 = 0xFFFF_FFFF
SEGMENTS = (1, 2, 3, 4, 5, 6, 7, 9, 12)
LENGTHS = (8, 28, 32, 44, 184)
INDEX_LENGTHS = (28, 32)


def frame_of_bodies(bodies: list[bytes]) -> bytes:
    """Glue packet bodies together as Kite does."""
    parts = [struct.pack(">H", len(bodies))]
    for body in bodies:
        parts += (struct.pack(">H", len(body)), body)
    return b"".join(parts)


def random_body(random: Random, length: int, token: int | None = None) -> bytes:
    """One body of a given length with arbitrary fields and a token of a real segment."""
    if token is None:
        segment = 9 if length in INDEX_LENGTHS else random.choice(SEGMENTS)
        token = random.randrange(1 << 24) << 8 | segment
    return struct.pack(">I", token) + random.randbytes(length - 4)


def random_frame(random: Random, count: int, pick_length: Callable[[], int]) -> bytes:
    """A frame of ``count`` packets whose lengths come from ``pick_length``."""
    return frame_of_bodies([random_body(random, pick_length()) for _ in range(count)])


def mixed_length(random: Random) -> int:
    """A length as on a busy connection: 55 % full, 20 % quote, 15 % ltp, 10 % index."""
    return random.choices((184, 44, 8, 28, 32), (55, 20, 15, 5, 5))[0]


def bodies(lengths: st.SearchStrategy[int]) -> st.SearchStrategy[bytes]:
    """Packet bodies: any fields, any segment, a length drawn from ``lengths``."""
    words = st.integers(0, U32) | st.sampled_from((0, 1, 99, 100, U32))
    token = st.builds(
        lambda number, segment: number << 8 | segment,
        st.integers(0, (1 << 24) - 1),
        st.sampled_from(SEGMENTS) | st.integers(0, 255),
    )

    def body(length: int) -> st.SearchStrategy[bytes]:
        count = (length + 3) // 4 - 1
        return st.builds(
            lambda token, rest: struct.pack(f">{1 + count}I", token, *rest)[:length],
            token,
            st.lists(words, min_size=count, max_size=count),
        )

    return lengths.flatmap(body)


def frames(
    *, unknown_lengths: bool = True, min_packets: int = 0, max_packets: int = 12
) -> st.SearchStrategy[bytes]:
    """Valid frames: uniform and mixed, with packets of unknown length in between if wanted."""
    known = st.sampled_from(LENGTHS)
    any_length = known | st.integers(4, 300) if unknown_lengths else known
    mixed = st.lists(bodies(any_length), min_size=min_packets, max_size=max_packets)
    uniform = any_length.flatmap(
        lambda length: st.lists(bodies(st.just(length)), min_size=min_packets, max_size=max_packets)
    )
    return (mixed | uniform).map(frame_of_bodies)
