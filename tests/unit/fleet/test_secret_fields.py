"""Secrets for the command line: two ways to write them, and errors that repeat no value."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.fleet.domain import secret_fields


def test_json_and_lines_say_the_same():
    lines = "# mine\napi_key = k\n\npassword=a=b\n"
    assert secret_fields.parse(lines) == {"api_key": "k", "password": "a=b"}
    assert secret_fields.parse('{"api_key": "k", "password": "a=b"}') == {
        "api_key": "k",
        "password": "a=b",
    }
    assert secret_fields.parse("") == {}


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("hunter2", "line 1"),
        ("api_key=k\napi_key=hunter2", "line 2"),
        ("totp_secert=hunter2", "did you mean totp_secret"),
        ('{"password": 5}', "password"),
        ('{"password": ""}', "password"),
        ('{"password": "hunter2"', "JSON"),
        ('{"zzz": "hunter2"}', "known are"),
    ],
)
def test_mistake_is_named_and_no_value_repeated(text, hint):
    with pytest.raises(ValueError, match=hint) as wrong:
        secret_fields.parse(text)
    assert "hunter2" not in str(wrong.value)
    assert wrong.value.__cause__ is None


@given(st.text(max_size=60))
def test_any_text_is_fields_or_an_error(text):
    try:
        fields = secret_fields.parse(text)
    except ValueError:
        return
    assert set(fields) <= set(secret_fields.FIELDS)
