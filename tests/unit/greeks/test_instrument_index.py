"""Instruments are found by token in any set, and only what is asked for is decoded."""

import msgspec
import pytest

from libs.common.contracts import codec
from services.greeks.instrument_index import InstrumentIndex
from tests.fakes.kite_frames import FakeMarket

NIFTY = FakeMarket(strikes_each_side=3)
BANKS = FakeMarket(underlying="M&M", spot=52_000.0, step=100.0, first_token=60_000)


def packed(market: FakeMarket, *, first: int = 0) -> bytes:
    found = market.instrument_set()
    return codec.to_msgpack(msgspec.structs.replace(found, instruments=found.instruments[first:]))


@pytest.fixture
def index() -> InstrumentIndex:
    made = InstrumentIndex()
    made.changed("NIFTY", packed(NIFTY))
    made.changed("M_26M", packed(BANKS))
    return made


def test_every_instrument_of_every_set_is_found_by_its_token(index):
    wanted = [*NIFTY.instruments, *BANKS.instruments]
    assert [index.find(item.instrument_token) for item in wanted] == wanted
    assert len(index) == len(wanted)
    assert index.find(1) is None


def test_an_instrument_that_left_its_set_is_not_found(index):
    index.changed("NIFTY", packed(NIFTY, first=2))
    assert index.find(NIFTY.instruments[1].instrument_token) is None
    assert index.find(NIFTY.instruments[2].instrument_token) == NIFTY.instruments[2]
    index.changed("NIFTY", None)
    assert index.find(NIFTY.instruments[2].instrument_token) is None
    assert len(index) == len(BANKS.instruments)


def test_a_token_that_moved_belongs_to_its_newest_set(index):
    moved = msgspec.structs.replace(NIFTY.options[0], underlying="M&M")
    found = msgspec.structs.replace(BANKS.instrument_set(), instruments=(moved,))
    index.changed("M_26M", codec.to_msgpack(found))
    assert index.find(moved.instrument_token) == moved
    index.changed("NIFTY", packed(NIFTY, first=3))
    index.changed("NIFTY", None)
    assert index.find(moved.instrument_token) == moved


@pytest.mark.parametrize(
    "value", [b"", b"\xc1", b"\x80", msgspec.msgpack.encode({"instruments": [{"a": 1}]})]
)
def test_an_unreadable_set_leaves_the_one_before(index, value):
    index.changed("NIFTY", value)
    assert index.find(NIFTY.index.instrument_token) == NIFTY.index


def test_a_row_that_is_no_instrument_is_not_found_and_hides_no_other(index):
    rows = [{"instrument_token": 5}, msgspec.to_builtins(NIFTY.index)]
    index.changed("NIFTY", msgspec.msgpack.encode({"instruments": rows}))
    assert index.find(5) is None
    assert index.find(NIFTY.index.instrument_token) == NIFTY.index
