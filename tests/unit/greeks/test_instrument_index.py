"""Instruments are found by token in any set, and only what is asked for is decoded."""

import msgspec
import pytest

from libs.common.contracts import codec
from services.greeks.instrument_index import InstrumentIndex
from tests.fakes.kite_frames import FakeMarket

NIFTY = FakeMarket(strikes_each_side=3)
OTHER = FakeMarket(underlying="M&M", spot=52_000.0, step=100.0, first_token=60_000)


def packed(market: FakeMarket, *, first: int = 0) -> bytes:
    found = market.instrument_set()
    return codec.to_msgpack(msgspec.structs.replace(found, instruments=found.instruments[first:]))


class Scene:
    """An index over a bucket of two sets."""

    def __init__(self) -> None:
        self.bucket: dict[str, bytes] = {}
        self.index = InstrumentIndex(self.bucket.get)
        self.put("NIFTY", packed(NIFTY))
        self.put("M_26M", packed(OTHER))

    def put(self, key: str, value: bytes | None) -> None:
        """Change the bucket as its mirror does."""
        if value is None:
            del self.bucket[key]
        else:
            self.bucket[key] = value
        self.index.note(key)

    async def find(self, token: int):
        """The instrument of a token alone."""
        found = await self.index.find(token)
        return None if found is None else found.instrument


async def test_every_instrument_of_every_set_is_found_by_its_token():
    scene = Scene()
    for item in (*NIFTY.instruments, *OTHER.instruments):
        assert await scene.find(item.instrument_token) == item
    assert await scene.find(1) is None


async def test_what_is_found_brings_its_underlyings_set_along():
    found = await Scene().index.find(NIFTY.options[0].instrument_token)
    assert found is not None
    assert found.of_underlying == NIFTY.instrument_set()


async def test_an_instrument_that_left_its_set_is_not_found():
    scene = Scene()
    gone, stays = NIFTY.instruments[1], NIFTY.instruments[2]
    scene.put("NIFTY", packed(NIFTY, first=2))
    assert await scene.find(gone.instrument_token) is None
    assert await scene.find(stays.instrument_token) == stays
    scene.put("NIFTY", None)
    assert await scene.find(stays.instrument_token) is None
    assert await scene.find(OTHER.index.instrument_token) == OTHER.index


@pytest.mark.parametrize("old_first", [True, False])
async def test_a_token_that_moves_is_found_where_it_is_now_in_either_order(old_first):
    scene = Scene()
    moved = msgspec.structs.replace(NIFTY.options[0], underlying="M&M")
    token = moved.instrument_token
    assert await scene.find(token) == NIFTY.options[0]
    left = msgspec.structs.replace(NIFTY.instrument_set(), instruments=(NIFTY.index,))
    joined = msgspec.structs.replace(OTHER.instrument_set(), instruments=(moved,))
    changes = [("NIFTY", codec.to_msgpack(left)), ("M_26M", codec.to_msgpack(joined))]
    for key, value in changes if old_first else reversed(changes):
        scene.put(key, value)
        await scene.find(1)
    assert await scene.find(token) == moved
    scene.put("NIFTY", None)
    assert await scene.find(token) == moved


@pytest.mark.parametrize(
    "value", [b"", b"\xc1", b"\x80", msgspec.msgpack.encode({"instruments": [{"a": 1}]})]
)
async def test_an_unreadable_set_leaves_the_one_before(value):
    scene = Scene()
    assert await scene.find(NIFTY.index.instrument_token) == NIFTY.index
    scene.put("NIFTY", value)
    assert await scene.find(NIFTY.index.instrument_token) == NIFTY.index
