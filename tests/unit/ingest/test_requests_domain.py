"""Requests for candles and quotes: what is wrong with one, and who serves it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts import codec
from libs.common.contracts.messages import (
    CandleInterval,
    HistoryRequest,
    QuoteRequest,
    RpcError,
)
from libs.common.contracts.request_checks import candles_problem, patience_seconds, unreadable
from services.ingest.domain import handover, request_checks
from services.ingest.domain.handover import Failure
from services.ingest.errors import AccountFailedError

names = st.text(min_size=1, max_size=8)


def failed(failure, reason="", retry_after_seconds=None):
    return AccountFailedError("a", failure.value, reason, retry_after_seconds=retry_after_seconds)


@given(st.lists(names, unique=True, max_size=8), st.data())
def test_every_account_that_was_not_tried_is_asked_exactly_once(accounts, data):
    tried = data.draw(st.lists(st.sampled_from(accounts), unique=True)) if accounts else []
    found = handover.others(accounts, tried)
    assert sorted(found) == sorted(set(accounts) - set(tried))


def test_holders_start_at_different_accounts():
    firsts = {handover.others(["a", "b", "c"], [own])[0] for own in ("a", "b", "c")}
    assert firsts == {"a", "b", "c"}


@given(st.lists(names, max_size=5), names)
def test_header_names_exactly_those_tried(tried, other):
    header = handover.tried_header(tried)
    assert all(handover.was_tried(header, account) for account in tried)
    assert handover.was_tried(header, other) is (other in tried)
    assert header.isascii()


@pytest.mark.parametrize(
    ("failures", "code", "retry_after"),
    [
        ([], "no_account", None),
        ([failed(Failure.NO_SESSION), failed(Failure.NO_RESPONDER)], "no_account", None),
        ([failed(Failure.SESSION_REFUSED), failed(Failure.NOT_PERMITTED)], "no_account", None),
        ([failed(Failure.NO_SESSION), failed(Failure.UNAVAILABLE)], "unavailable", None),
        ([failed(Failure.NO_ANSWER)], "unavailable", None),
        (
            [
                failed(Failure.UNAVAILABLE),
                failed(Failure.LIMITED, retry_after_seconds=0.7),
                failed(Failure.CROWDED, retry_after_seconds=0.4),
            ],
            "rate_limited",
            0.4,
        ),
        ([failed(Failure.CROWDED)], "rate_limited", 1.0),
    ],
)
def test_most_hopeful_failure_decides_the_verdict(failures, code, retry_after):
    for order in itertools.permutations(failures):
        attempts = {f"account{place}": failure for place, failure in enumerate(order)}
        error = handover.verdict(attempts)
        assert (error.code, error.retry_after_seconds) == (code, retry_after)
        assert all(account in error.message for account in attempts)


def test_every_code_of_another_holder_has_a_meaning():
    assert handover.failure_of("rate_limited") is Failure.LIMITED
    assert handover.failure_of("no_account") is Failure.NO_SESSION
    assert handover.failure_of("unavailable") is Failure.UNAVAILABLE
    assert handover.failure_of("a code of a later version") is Failure.UNAVAILABLE


def history(**changes):
    values = {
        "instrument_token": 256265,
        "interval": CandleInterval.MINUTE,
        "start": 1_795_000_000,
        "end": 1_795_100_000,
        **changes,
    }
    return HistoryRequest(**values)


def test_good_requests_have_no_problem():
    assert candles_problem(history()) is None
    assert candles_problem(history(end=1_795_000_000)) is None
    day = history(interval=CandleInterval.DAY, start=0, continuous=True)
    assert candles_problem(day) is None
    quotes = QuoteRequest(instruments=("NSE:NIFTY 50", "NSE:M&M", "BFO:SENSEX26NOVFUT", "256265"))
    assert request_checks.quote_problem(quotes) is None


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"end": 1_794_999_999}, "end", "before start"),
        ({"end": 1_795_100_000_000}, "end", "milliseconds"),
        ({"start": 1_795_000_000_000, "end": 1_795_100_000_000}, "start", "milliseconds"),
        ({"continuous": True}, "continuous", "day candles"),
        ({"start": 0}, "start", "6000 days of minute"),
    ],
)
def test_problem_of_a_history_request_names_the_field(changes, field, words):
    problem = candles_problem(history(**changes))
    assert problem is not None
    assert (problem.code, problem.field) == ("bad_request", field)
    assert words in problem.message


@pytest.mark.parametrize(
    "name", ["", "NIFTY", "nse:X", "NSE:", "NSE:\n", "12345678901", "NSE:" + "X" * 65, "NSE:X\x00"]
)
def test_problem_of_a_quote_request_names_the_place(name):
    problem = request_checks.quote_problem(QuoteRequest(instruments=("NSE:A", name)))
    assert problem is not None
    assert problem.field == "instruments[1]"


@given(st.lists(st.integers(1, 300).map(str), max_size=600), st.integers(1, 250))
def test_chunks_hold_every_instrument_once_and_are_small_enough(instruments, at_once):
    found = list(request_checks.chunks(instruments, at_once))
    assert [name for chunk in found for name in chunk] == list(dict.fromkeys(instruments))
    assert all(0 < len(chunk) <= at_once for chunk in found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0.5", 0.5), ("20", 20.0), ("500", 20.0), ("0", None), ("-1", None), ("nan", None),
     ("inf", None), ("soon", None), ("", None)],
)  # fmt: skip
def test_patience_is_what_the_caller_says_within_what_is_usual(text, expected):
    found = patience_seconds({codec.HEADER_TIMEOUT_SECONDS: text}, 20.0)
    if expected is None:
        assert isinstance(found, RpcError)
        assert found.field == codec.HEADER_TIMEOUT_SECONDS
    else:
        assert found == expected
    assert patience_seconds({}, 20.0) == 20.0


@pytest.mark.parametrize(
    ("kind", "payload", "field"),
    [
        (HistoryRequest, b"", None),
        (HistoryRequest, b"7", None),
        (HistoryRequest, b'{"instrument_token": 1, "interval": "day", "start": 1}', "end"),
        (HistoryRequest, b'{"instrument_token": "x"}', "instrument_token"),
        (QuoteRequest, b'{"instruments": ["NSE:A", 5]}', "instruments[1]"),
    ],
)
def test_bytes_that_are_no_request_are_a_bad_request_naming_the_field(kind, payload, field):
    with pytest.raises(codec.DecodeError) as caught:
        codec.from_json(kind, payload)
    error = unreadable(caught.value)
    assert (error.code, error.field) == ("bad_request", field)


def test_unknown_token_is_told_apart_from_other_refusals():
    unknown = request_checks.refused_by_kite("invalid token")
    assert (unknown.code, unknown.field) == ("not_found", "instrument_token")
    assert request_checks.refused_by_kite("invalid from date").code == "bad_request"
