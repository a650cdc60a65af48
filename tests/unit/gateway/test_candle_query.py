"""How `GET /history` reads moments."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.candle_spans import LAST_SECOND
from libs.common.domain.clock import IST
from services.gateway.domain.candle_query import read_candle_query, read_moment
from services.gateway.errors import BadParameterError, BadSpanError


def iso(second: int) -> str:
    return datetime.fromtimestamp(second, IST).isoformat()


@pytest.mark.parametrize(
    ("text", "is_end", "moment"),
    [
        ("1795405500", False, "2026-11-23T09:15:00+05:30"),
        ("2026-11-23", False, "2026-11-23T00:00:00+05:30"),
        ("2026-11-23", True, "2026-11-23T23:59:59+05:30"),
        ("2026-11-23T09:15", True, "2026-11-23T09:15:00+05:30"),
        ("2026-11-23 09:15:30", False, "2026-11-23T09:15:30+05:30"),
        ("2026-11-23T09:15:00+05:30", False, "2026-11-23T09:15:00+05:30"),
        ("2026-11-23T03:45:00Z", False, "2026-11-23T09:15:00+05:30"),
    ],
)
def test_moment_is_indian_unless_it_names_a_zone(text, is_end, moment):
    assert iso(read_moment("from_ts", text, is_end=is_end)) == moment


@given(st.integers(0, LAST_SECOND))
def test_every_second_is_read_back_by_both_spellings(second):
    assert read_moment("from_ts", str(second)) == second
    assert read_moment("from_ts", iso(second)) == second


@given(st.text(max_size=30))
def test_any_text_is_a_moment_or_an_error_with_the_name(text):
    field = "to_ts"
    try:
        found = read_moment(field, text)
    except BadParameterError as error:
        found, field = 0, error.field
    assert (0 <= found <= LAST_SECOND, field) == (True, "to_ts")


def test_plus_that_became_a_space_is_explained():
    with pytest.raises(BadParameterError, match="%2B"):
        read_moment("from_ts", "2026-11-23T09:15:00 05:30")


def test_end_must_come_after_the_beginning():
    items = [("instrument_token", "1"), ("from_ts", "2026-11-23"), ("to_ts", "2026-11-22")]
    with pytest.raises(BadSpanError) as raised:
        read_candle_query(items)
    assert raised.value.field == "to_ts"
    same_day = [*items[:2], ("to_ts", "2026-11-23")]
    assert read_candle_query(same_day).end - read_candle_query(same_day).start == 86_399
