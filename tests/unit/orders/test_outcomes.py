"""What a failed call proves: nothing, unless it is in the short list of what does."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kiteconnect import exceptions

from libs.common.domain.order_answers import CallFailure
from services.orders.domain.outcomes import BrokerHealth, Outcome, classify, health, is_day_cap

NAMES = [
    "InputException",
    "OrderException",
    "MarginException",
    "HoldingException",
    "UserException",
    "GeneralException",
    "TokenException",
    "PermissionException",
    "NetworkException",
    "DataException",
    "ReadTimeout",
    "ConnectionError",
    "KeyError",
    "JSONDecodeError",
    "DeadlineExceeded",
]
codes = st.none() | st.sampled_from([200, 400, 401, 403, 404, 428, 429, 500, 502, 503, 504])
words = st.sampled_from(
    [
        "",
        "Insufficient funds. Check the orderbook for open orders.",
        "Order request timed out. Please check the order book and confirm before placing again.",
        "Request time-out",
        "Too many requests",
        "Something went wrong",
        "Invalid `price`.",
        "Unknown Content-Type (text/html) with response: (b'<title>502 Bad Gateway</title>')",
        "Unknown Content-Type (text/html) with response: (b'<h1>429 Too Many Requests</h1>')",
        "Gateway timed out",
    ]
) | st.text(max_size=40)
failures = st.builds(
    CallFailure,
    exception=st.sampled_from(NAMES) | st.text(max_size=12),
    code=codes | st.integers(0, 999),
    message=words,
    request_sent=st.booleans(),
)
REASONED = set(NAMES[:6])


def is_proven(failure: CallFailure) -> bool:
    """The list of architecture and fact sheet, written down a second time."""
    if not failure.request_sent:
        return True
    text = failure.message.lower()
    if "timed out" in text or "time-out" in text or "check the order book" in text:
        return False
    if failure.code == 400:
        return failure.exception in REASONED and bool(text.strip())
    if failure.code in {403, 428, 429}:
        return True
    return failure.code == 502 and "429" in text and text.startswith("unknown content-type")


@given(failures)
def test_nothing_but_what_is_proven_is_ever_believed(failure):
    if classify(failure) is not Outcome.AMBIGUOUS:
        assert is_proven(failure)


@given(failures)
def test_only_what_was_not_sent_or_was_limited_may_be_sent_again(failure):
    outcome = classify(failure)
    if outcome in {Outcome.NOT_SENT, Outcome.LIMITED}:
        assert not failure.request_sent or "429" in f"{failure.code} {failure.message}"


@given(failures)
def test_not_sent_is_said_only_of_what_did_not_leave(failure):
    assert (classify(failure) is Outcome.NOT_SENT) is not failure.request_sent


@pytest.mark.parametrize(
    ("exception", "code", "message", "outcome"),
    [
        ("InputException", 400, "Invalid `tradingsymbol`.", Outcome.REFUSED),
        ("OrderException", 400, "Market orders without market protection are not", Outcome.REFUSED),
        (
            "MarginException",
            400,
            "Insufficient funds. Required margin is 95417.84. Check the orderbook for open orders.",
            Outcome.REFUSED,
        ),
        ("GeneralException", 400, "Holdings of the day are used up", Outcome.REFUSED),
        (
            "OrderException",
            400,
            "Order request timed out. Please check the order book and confirm before placing again",
            Outcome.AMBIGUOUS,
        ),
        ("OrderException", 400, "Timed out, check order book", Outcome.AMBIGUOUS),
        ("GeneralException", 400, "Something went wrong, try again", Outcome.AMBIGUOUS),
        ("GeneralException", 400, " ", Outcome.AMBIGUOUS),
        ("NetworkException", 400, "Could not reach the OMS", Outcome.AMBIGUOUS),
        ("OrderException", 500, "Order could not be placed", Outcome.AMBIGUOUS),
        ("InputException", 422, "Unprocessable", Outcome.AMBIGUOUS),
        ("GeneralException", 404, "Requested resource was not found", Outcome.AMBIGUOUS),
        ("TokenException", 403, "Incorrect `api_key` or `access_token`.", Outcome.SESSION_REFUSED),
        ("TokenException", 500, "Incorrect `api_key` or `access_token`.", Outcome.AMBIGUOUS),
        (
            "PermissionException",
            403,
            "Insufficient permission for that call.",
            Outcome.NOT_PERMITTED,
        ),
        ("GeneralException", 403, "IP is not whitelisted", Outcome.NOT_PERMITTED),
        ("GeneralException", 428, "Authorise the holdings", Outcome.NEEDS_AUTHORISATION),
        ("NetworkException", 429, "Too many requests", Outcome.LIMITED),
        ("DataException", 429, "HTTP 429: Unknown Content-Type (text/html)", Outcome.LIMITED),
        ("DataException", 502, "HTTP 403: Unknown Content-Type (text/html)", Outcome.AMBIGUOUS),
        ("NetworkException", 503, "Too many requests", Outcome.AMBIGUOUS),
        ("NetworkException", 504, "Gateway timed out", Outcome.AMBIGUOUS),
        ("DataException", 502, "Couldn't parse the JSON response: b'{'", Outcome.AMBIGUOUS),
        ("ReadTimeout", None, "Read timed out. (read timeout=7)", Outcome.AMBIGUOUS),
        ("ConnectionError", None, "Connection reset by peer", Outcome.AMBIGUOUS),
        ("KeyError", None, "'content-type'", Outcome.AMBIGUOUS),
    ],
)
def test_answers_as_seen_in_the_wild(exception, code, message, outcome):
    assert classify(CallFailure(exception, code, message, request_sent=True)) is outcome


@pytest.mark.parametrize(
    ("page", "outcome"),
    [
        ("<html><head><title>429 Too Many Requests</title></head></html>", Outcome.LIMITED),
        ("<html><body><h1>Too Many Requests</h1></body></html>", Outcome.LIMITED),
        ("Too Many Requests", Outcome.LIMITED),
        ("429 Too Many Requests", Outcome.LIMITED),
        ("<html><title>502 Bad Gateway</title>Ray ID: 429ab</html>", Outcome.AMBIGUOUS),
        ("<html><title>504 Gateway Time-out</title></html>", Outcome.AMBIGUOUS),
        (
            "<title>503 Service Unavailable</title><h1>Too Many Requests</h1>",
            Outcome.AMBIGUOUS,
        ),
        ("<html>order 429 accepted</html>", Outcome.AMBIGUOUS),
    ],
)
def test_page_of_the_limiter_is_known_by_its_heading_alone(page, outcome):
    message = f"Unknown Content-Type (text/html) with response: ({page.encode()!r})"
    assert classify(CallFailure("DataException", 502, message, request_sent=True)) is outcome


def test_endless_message_proves_nothing_and_takes_no_time_to_say_so():
    endless = "check " * 1_000_000
    failure = CallFailure("OrderException", 400, endless, request_sent=True)
    assert classify(failure) is Outcome.AMBIGUOUS
    page = f"Unknown Content-Type (text/html) with response: (b'{endless}')"
    failure = CallFailure("DataException", 502, page, request_sent=True)
    assert classify(failure) is Outcome.AMBIGUOUS


@pytest.mark.parametrize("name", NAMES[:1] + NAMES[1:2] + NAMES[5:10])
def test_names_are_those_of_the_client_library(name):
    assert hasattr(exceptions, name)


@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (None, BrokerHealth.ANSWERED),
        (Outcome.REFUSED, BrokerHealth.ANSWERED),
        (Outcome.NEEDS_AUTHORISATION, BrokerHealth.ANSWERED),
        (Outcome.AMBIGUOUS, BrokerHealth.FAILED),
        (Outcome.NOT_SENT, BrokerHealth.FAILED),
        (Outcome.LIMITED, BrokerHealth.SILENT),
        (Outcome.SESSION_REFUSED, BrokerHealth.SILENT),
        (Outcome.NOT_PERMITTED, BrokerHealth.SILENT),
    ],
)
def test_breaker_hears_of_faults_and_not_of_refusals(outcome, said):
    assert health(outcome) is said


def test_cap_of_the_day_is_told_from_the_limit_of_a_second():
    cap = CallFailure("NetworkException", 429, "Maximum allowed order requests exceeded.", True)
    limit = CallFailure("NetworkException", 429, "Too many requests", True)
    assert is_day_cap(cap)
    assert not is_day_cap(limit)
