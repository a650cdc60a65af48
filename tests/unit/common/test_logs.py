"""Logs: what must never stand in a line does not."""

import json
import logging

import pytest
import structlog

from libs.common import logs


@pytest.fixture
def lines(capsys):
    """Log through the real pipeline and give the parsed lines."""
    root = logging.getLogger()
    before = root.handlers[:], root.level

    def written(write):
        # Configured here: the captured stderr of a fixture is not that of its test.
        logs.configure(service="test", worker_id="test-1", style="json")
        write()
        return [json.loads(line) for line in capsys.readouterr().err.splitlines()]

    yield written
    root.handlers[:], root.level = before
    structlog.reset_defaults()


@pytest.mark.parametrize(
    "secret",
    [
        "asha@example.com",
        "9876543210",
        "+91 98765 43210",
        "0123456789abcdef0123456789abcdef",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhIn0.c2lnbmF0dXJl",
    ],
)
def test_secret_inside_a_text_is_removed(secret):
    text = logs.redact(f"before {secret} after")
    assert secret not in text
    assert text.startswith("before ")
    assert text.endswith(" after")


@pytest.mark.parametrize(
    "text",
    [
        "ws://h/?api_key=abc&access_token=xyz",
        "postgresql://user:pa55@db:5432/x",
        "POST form password=pa55 checksum=99",
    ],
)
def test_secret_of_a_url_is_removed(text):
    cleaned = logs.redact(text)
    for secret in ("abc", "xyz", "pa55", "99"):
        assert secret not in cleaned


@pytest.mark.parametrize(
    "text",
    [
        "NIFTY26DEC26000CE",
        "seq 1795410000123456789",
        "md.tick.v1.NIFTY",
        "/opt/x/lib/python3.11/site-packages/uvicorn/protocols/http/httptools_impl.py",
    ],
)
def test_market_words_stay(text):
    assert logs.redact(text) == text


def test_values_of_secret_keys_are_removed_whatever_they_hold(lines):
    def write():
        logs.get_logger("t").info(
            "login", password="plain", access_token="t", nested={"api_key": "k"}, instrument_token=9
        )

    (line,) = lines(write)
    assert line["password"] == line["access_token"] == line["nested"]["api_key"] == logs.REDACTED
    assert line["instrument_token"] == 9


def test_every_line_names_service_and_worker_also_for_libraries(lines):
    (line,) = lines(
        lambda: logging.getLogger("some.library").warning("disk of %s full", "a@b.example")
    )
    assert (line["service"], line["worker"], line["level"]) == ("test", "test-1", "warning")
    assert "a@b.example" not in line["event"]


def test_kind_of_an_error_tells_where_and_not_what():
    with pytest.raises(ValueError, match="hunter2") as raised:
        int("hunter2")
    text = logs.kind_of(raised.value)
    assert text.startswith("ValueError at test_logs.py:")
    assert "hunter2" not in text
    assert logs.kind_of(ValueError("hunter2")) == "ValueError"
