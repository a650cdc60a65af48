"""Which set holds a token, while sets change, move and break."""

import msgspec
import pytest

from libs.common.contracts import codec
from services.greeks.instrument_index import InstrumentIndex
from tests.fakes.kite_frames import FakeMarket


class Sets:
    """The bucket, as bytes, and an index that is told of every change."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        self.index = InstrumentIndex(self.values.get)

    def put(self, key, instruments):
        """Write a set."""
        held = FakeMarket(strikes_each_side=0).instrument_set()
        changed = msgspec.structs.replace(held, underlying=key, instruments=tuple(instruments))
        self.put_raw(key, codec.to_msgpack(changed))

    def put_raw(self, key, value):
        """Write any bytes."""
        self.values[key] = value
        self.index.note(key)

    def remove(self, key):
        """Take a set away."""
        del self.values[key]
        self.index.note(key)

    async def holder(self, token):
        """The underlying of the set that a token is found in."""
        found = await self.index.find(token)
        if found is None:
            return None
        assert found.instrument.instrument_token == token
        return found.of_underlying.underlying


ITEMS = FakeMarket(strikes_each_side=1).instruments
FIRST, SECOND, THIRD = (item.instrument_token for item in ITEMS[:3])


@pytest.fixture
def sets():
    return Sets()


async def test_token_is_found_with_all_others_of_its_underlying(sets):
    assert sets.index.is_empty
    sets.put("A", ITEMS[:2])
    sets.put("B", ITEMS[2:])
    assert not sets.index.is_empty
    assert [await sets.holder(token) for token in (FIRST, SECOND, THIRD, 7)] == [
        "A",
        "A",
        "B",
        None,
    ]
    found = await sets.index.find(THIRD)
    assert found is not None
    assert found.of_underlying.instruments == tuple(ITEMS[2:])


@pytest.mark.parametrize("old_first", [True, False])
async def test_token_that_moves_is_found_where_it_is_now_in_either_order(sets, old_first):
    sets.put("A", ITEMS[:2])
    await sets.holder(FIRST)
    changes = [("A", ITEMS[1:2]), ("B", ITEMS[:1])]
    for key, items in changes if old_first else reversed(changes):
        sets.put(key, items)
        await sets.holder(SECOND)
    assert (await sets.holder(FIRST), await sets.holder(SECOND)) == ("B", "A")


async def test_set_that_is_gone_takes_its_tokens_along(sets):
    sets.put("A", ITEMS[:2])
    assert await sets.holder(FIRST) == "A"
    sets.remove("A")
    assert await sets.holder(FIRST) is None
    assert sets.index.is_empty


async def test_set_that_cannot_be_read_hides_no_other(sets):
    sets.put("A", ITEMS[:2])
    sets.put_raw("B", b"\xc1")
    assert await sets.holder(FIRST) == "A"
    sets.put_raw("A", b"\xc1")
    assert await sets.holder(FIRST) is None
