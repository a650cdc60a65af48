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
from services.greeks.domain.tick_encoding import spelled

TEXTS = BookTexts()
"""One for all examples: what a call leaves behind must not be seen in the next."""


def books_of(levels: list[tuple[int, int, int]]) -> Books:
    """Books of ten levels each, as (paise, quantity, orders)."""
    columns = np.array(levels, np.uint32).reshape(-1, 10, 3)
    words = np.stack((columns[:, :, 1], columns[:, :, 0], columns[:, :, 2]))
    return Books(words, np.full(len(columns), 100.0))


def encoded(books: Books) -> list[bytes]:
    """The same by way of the message."""
    found = []
    columns = (books.prices.tolist(), books.quantities.tolist(), books.orders.tolist())
    for prices, quantities, orders in zip(*columns, strict=True):
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


def written(books: Books) -> list[bytes | None]:
    return [None if text is None else msgspec.json.encode(text) for text in TEXTS.of(books)]


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
    levels = np.stack(
        (rng.integers(0, 10**7, shape), rng.integers(0, 3, shape), rng.integers(0, 9, shape)), -1
    )
    books = books_of(levels.tolist())
    assert written(books) == encoded(books)


def odd_books(divisor=100.0, price=100, quantity=5, orders=2):
    """Three books, of which the second has this beside common values."""
    books = books_of([(100, 5, 2)] * 30)
    books.words[:, 1, 7] = quantity, price, orders
    books.divisors[1] = divisor
    return books


odd_values = pytest.mark.parametrize(
    "value",
    [
        {"divisor": 1e7, "price": 831_225_000},
        {"quantity": 100_000_000},
        {"quantity": 0xFFFF_FFFF},
        {"orders": 10_000},
        {"orders": 65_535},
    ],
    ids=str,
)


@odd_values
def test_a_number_without_a_place_leaves_only_its_own_book_to_the_encoder(value):
    books = odd_books(**value)
    first, odd, last = encoded(books)
    assert odd not in {first, last}
    assert written(books) == [first, None, last]


@odd_values
def test_books_of_any_numbers_become_ticks_as_the_encoder_writes_them(value):
    books = odd_books(**value)
    many = Books(books.words.repeat(20, axis=1), books.divisors.repeat(20))
    assert [msgspec.json.encode(book) for book in spelled(many, TEXTS)] == encoded(many)


def test_the_greatest_numbers_of_the_wire_are_written():
    books = books_of([(0xFFFF_FFFF, 99_999_999, 9_999)] * 10)
    assert written(books) == encoded(books)
