"""ULIDs sort by time, differ by chance, and are the words the specification gives."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.ulid import RANDOM_BYTES, ulid

milliseconds = st.integers(0, 2**48 - 1)
chance = st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES)


def test_words_are_those_of_the_specification():
    assert ulid(0, bytes(10)) == "0" * 26
    assert ulid(2**48 - 1, b"\xff" * 10) == "7" + "Z" * 25
    assert ulid(1469918176385, bytes(10)).startswith("01ARYZ6S41")


@given(milliseconds, milliseconds, chance, chance)
def test_later_ones_sort_later_and_equal_ones_are_equal(first, second, one, other):
    a, b = ulid(first, one), ulid(second, other)
    assert (len(a), len(b)) == (26, 26)
    assert (a < b) == ((first, one) < (second, other))
    assert (a == b) == ((first, one) == (second, other))


@pytest.mark.parametrize(("at_ms", "size"), [(-1, 10), (2**48, 10), (0, 9), (0, 11)])
def test_what_does_not_fit_is_refused(at_ms, size):
    with pytest.raises(ValueError, match=r"at_ms|randomness"):
        ulid(at_ms, bytes(size))
