"""Order books written by table are byte for byte those of the encoder."""

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts import codec
from libs.common.contracts.messages import Depth, DepthLevel
from services.greeks.domain.book_texts import BookTexts
from services.greeks.domain.packets import Depth as Books

TEXTS = BookTexts()
"""One for all examples: what a call leaves behind must not be seen in the next."""


def books_of(levels: list[tuple[int, int, int]]) -> Books:
    """Books of ten levels each, as (paise, quantity, orders)."""
    columns = np.array(levels, np.int64).reshape(-1, 10, 3)
    return Books(columns[:, :, 0] / 100.0, columns[:, :, 1], columns[:, :, 2])


def encoded(books: Books) -> list[bytes]:
    """The same by way of the message."""
    found = []
    for prices, quantities, orders in zip(*(part.tolist() for part in books), strict=True):
        levels = [
            DepthLevel(price=price, quantity=quantity, orders=count)
            for price, quantity, count in zip(prices, quantities, orders, strict=True)
        ]
        found.append(
            codec.to_json(
                Depth(
                    buy=tuple(level for level in levels[:5] if level.quantity),
                    sell=tuple(level for level in levels[5:] if level.quantity),
                )
            )
        )
    return found


def written(books: Books) -> list[bytes] | None:
    texts = TEXTS.of(books)
    return None if texts is None else [msgspec.json.encode(text) for text in texts]


paise = st.one_of(st.integers(0, 2_000), st.integers(0, 0xFFFF_FFFF))
quantities = st.one_of(st.just(0), st.integers(1, 12_000), st.integers(1, 99_999_999))
level = st.tuples(paise, quantities, st.integers(0, 9_999))
book = st.lists(level, min_size=10, max_size=10)


@given(st.lists(book, min_size=1, max_size=5))
def test_any_books_are_written_as_the_encoder_writes_them(found):
    books = books_of([item for levels in found for item in levels])
    assert written(books) == encoded(books)


def test_every_number_of_digits_is_written():
    numbers = [10**digits + offset for digits in range(8) for offset in (-1, 0, 1)]
    levels = [
        (number * 100 + 5, number or 1, number % 10_000) for number in numbers if number < 10**7
    ]
    levels += [(number, number, 1) for number in (1, 10, 99, 100, 101, 110, 99_999_999)]
    levels += [(1, 1, 1)] * (-len(levels) % 10)
    books = books_of(levels)
    assert written(books) == encoded(books)


def test_more_books_than_one_piece_keep_their_order():
    rng = np.random.default_rng(5)
    shape = (500, 10)
    books = Books(
        rng.integers(0, 10**7, shape) / 100.0, rng.integers(0, 3, shape), rng.integers(0, 9, shape)
    )
    assert written(books) == encoded(books)


@pytest.mark.parametrize(
    ("price", "quantity", "orders"),
    [(83.1225, 1, 1), (1.0, 100_000_000, 1), (1.0, 1, 10_000), (float("nan"), 1, 1)],
)
def test_books_with_a_number_that_has_no_place_are_left_to_the_encoder(price, quantity, orders):
    books = books_of([(100, 5, 2)] * 20)
    for column, value in zip(books, (price, quantity, orders), strict=True):
        column[1, 7] = value
    assert TEXTS.of(books) is None
