"""Searching instruments: every parameter is read strictly and told in SQL as a value."""

import re
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.gateway.domain.instrument_query import (
    PARAMETERS,
    TOKENS_MAX,
    Day,
    InstrumentQuery,
    conditions,
    read_lookup,
    read_query,
)
from services.gateway.errors import BadParameterError


def test_nothing_asked_is_everything_of_the_current_dump():
    query = read_query([])
    assert query == InstrumentQuery()
    assert (query.day, query.limit, query.offset) == (Day.CURRENT, 100, 0)
    assert conditions(query) == ([], [])


def test_every_parameter_is_read():
    query = read_query(
        [
            ("instrument_token", "1,2"),
            ("symbol", "nifty26novfut"),
            ("symbol_prefix", "nifty"),
            ("name", "ni"),
            ("q", " nifty  26000 ce"),
            ("underlying", "NIFTY"),
            ("exchange", "nfo"),
            ("segment", "nfo-opt"),
            ("kind", "option"),
            ("expiry", "2026-11-24"),
            ("strike", "26000"),
            ("strike_min", "25000.5"),
            ("strike_max", "27000"),
            ("option_type", "CE"),
            ("planned", "true"),
            ("reused", "false"),
            ("market_date", "2026-11-23"),
            ("limit", "5"),
            ("offset", "10"),
            ("instrument_token", "3"),
        ]
    )
    assert query == InstrumentQuery(
        tokens=(1, 2, 3),
        symbol="nifty26novfut",
        symbol_prefix="nifty",
        name="ni",
        words=("nifty", "26000", "ce"),
        underlying="NIFTY",
        exchange="NFO",
        segment="NFO-OPT",
        kind="option",
        expiry=date(2026, 11, 24),
        strike=26000.0,
        strike_min=25000.5,
        strike_max=27000.0,
        option_type="CE",
        planned=True,
        reused=False,
        market_date=date(2026, 11, 23),
        limit=5,
        offset=10,
    )
    clauses, values = conditions(query, first=3)
    assert len(clauses) == len(values) + 2, "planned and reused have no value"
    told = re.findall(r"\$(\d+)", " ".join(dict.fromkeys(clauses)))
    assert {int(number) for number in told} == set(range(3, 3 + len(values)))


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ([("symbl", "X")], "symbl"),
        ([("symbol", "")], "symbol"),
        ([("symbol", "X" * 65)], "symbol"),
        ([("q", "  ")], "q"),
        ([("q", "a b c d e f g h i")], "q"),
        ([("q", "a\x00b")], "q"),
        ([("strike", "nan")], "strike"),
        ([("strike", "-1")], "strike"),
        ([("strike", "1e5")], "strike"),
        ([("strike_min", "2"), ("strike_max", "1")], "strike_min"),
        ([("option_type", "ce")], "option_type"),
        ([("reused", "yes")], "reused"),
        ([("day", "yesterday")], "day"),
        ([("market_date", "2026-13-01")], "market_date"),
        ([("day", "previous"), ("market_date", "2026-11-23")], "market_date"),
        ([("instrument_token", "0")], "instrument_token"),
        ([("instrument_token", "4294967296")], "instrument_token"),
        ([("instrument_token", "1,,2")], "instrument_token"),
        ([("instrument_token", ",".join(map(str, range(1, 502))))], "instrument_token"),
        ([("instrument_token", str(n)) for n in range(1, 502)], "instrument_token"),
        ([("kind", "option"), ("kind", "future")], "kind"),
    ],
)
def test_wrong_parameter_is_named(parameters, field):
    with pytest.raises(BadParameterError) as caught:
        read_query(parameters)
    assert caught.value.field == field
    assert field in str(caught.value)


def test_as_many_tokens_as_allowed_are_taken_and_repetitions_count_once():
    text = ",".join(str(n) for n in range(1, TOKENS_MAX + 1))
    assert len(read_query([("instrument_token", text)]).tokens) == TOKENS_MAX
    assert read_query([("instrument_token", "7,7"), ("instrument_token", "7")]).tokens == (7,)


def test_one_instrument_may_be_asked_of_another_day():
    query = read_lookup("256265", [("day", "previous")])
    assert (query.tokens, query.day, query.limit) == ((256265,), Day.PREVIOUS, 1)
    for token, parameters in (("NIFTY", []), ("1", [("kind", "option")])):
        with pytest.raises(BadParameterError):
            read_lookup(token, parameters)


def test_special_characters_of_like_are_taken_literally():
    _, values = conditions(read_query([("name", "50%_\\x")]))
    assert values == ["%50\\%\\_\\\\x%"]


@given(st.lists(st.tuples(st.one_of(st.sampled_from(sorted(PARAMETERS)), st.text()), st.text())))
def test_any_parameters_give_a_query_or_name_one_of_them(parameters):
    try:
        query = read_query(parameters)
    except BadParameterError as error:
        # Both outcomes are right, by the text.
        assert any(name.startswith(error.field) for name, _ in parameters) or error.field  # noqa: PT017
        return
    # No text of a client becomes part of the statement.
    for clause in conditions(query)[0]:
        assert re.fullmatch(r"[a-z_. =<>$0-9()A-Z:\[\]]+", clause)


def test_an_empty_name_of_an_unknown_parameter_is_refused():
    with pytest.raises(BadParameterError):
        read_query([("", "x")])
