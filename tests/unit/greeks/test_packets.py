"""Decoding many frames as one equals decoding them one by one."""

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from libs.common.kite.frames import ABSENT, decode_columns, encode_frame, frame_of
from services.greeks.domain.packets import read_frames
from tests.fakes.kite_frames import FakeMarket

MARKET = FakeMarket(strikes_each_side=2)
FULL = frame_of(MARKET.full(MARKET.options[:3]))
MIXED = frame_of(
    MARKET.index_packet(), MARKET.full(MARKET.options[:2]), MARKET.quote(MARKET.options[2:4])
)
LTP = frame_of(MARKET.ltp(MARKET.options[:2]))
STRANGE = b"\x00\x02\x00\x05abcde" + LTP[2 : 2 + 10]
EMPTY = encode_frame([])
BAD = (b"", b"\x00", FULL[:-1], LTP + b"\x00\x00", b"\x00\x01" + LTP[2:])

good = st.sampled_from([FULL, MIXED, LTP, STRANGE, EMPTY])


def rows(payloads):
    packets, bad = read_frames(payloads)
    depth = packets.depth(np.flatnonzero(packets.has_depth))
    told: list[Any] = [
        packets.token, packets.last_price, packets.bid, packets.ask, packets.bid_qty,
        packets.ask_qty, packets.volume, packets.oi, packets.exchange_ts_s, packets.mode,
    ]  # fmt: skip
    return packets, [list(map(repr, column.tolist())) for column in told], depth, bad


@given(st.lists(st.one_of(good, st.sampled_from(BAD)), max_size=8))
def test_frames_decode_together_as_they_do_alone(payloads):
    packets, together, depth, bad = rows(payloads)
    alone = [rows([payload]) for payload in payloads]
    assert together == [[value for a in alone for value in a[1][i]] for i in range(len(together))]
    assert [b.position for b in bad] == [i for i, a in enumerate(alone) if a[3]]
    assert packets.frame.tolist() == [i for i, a in enumerate(alone) for _ in range(len(a[0]))]
    books = [a[2].prices for a in alone if len(a[2].prices)]
    if books:
        assert depth.prices.tolist() == np.concatenate(books).tolist()


def test_a_selection_keeps_the_book_of_its_packet():
    packets, _ = read_frames([MIXED, FULL])
    some = packets.take(np.array([5, 1]))
    assert some.has_depth.tolist() == [True, True]
    for position, origin in enumerate((5, 1)):
        book = some.depth(np.array([position]))
        assert book.prices.tolist() == packets.depth(np.array([origin])).prices.tolist()
        assert book.prices[0, 0] == some.bid[position]


def test_books_of_several_sources_are_those_of_the_decoder():
    # A frame with a packet of unknown length keeps them from being joined.
    packets, _ = read_frames([MIXED, STRANGE, LTP, FULL])
    rows = np.flatnonzero(packets.has_depth)[::-1]
    books = packets.depth(rows)
    whole = [decode_columns(payload) for payload in (MIXED, FULL)]
    for name in ("prices", "quantities", "orders"):
        expected = np.concatenate(
            [getattr(columns.depth, name)[columns.bid_qty != ABSENT] for columns in whole]
        )[::-1]
        np.testing.assert_array_equal(getattr(books, name), expected)


def test_two_wrong_frames_that_would_be_right_together_are_still_wrong():
    # One holds a packet too many, the other one too few.
    first = b"\x00\x01" + LTP[2:]
    second = b"\x00\x03" + LTP[2:]
    packets, bad = read_frames([first, second])
    assert len(packets) == 0
    assert [b.position for b in bad] == [0, 1]
