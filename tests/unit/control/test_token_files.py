"""Token files: read when they are good, a sentence without the token when they are not."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.control.token_files import FILE_BYTES_MAX, TokenFolder

TOKEN = "abcdefghijklmnopqrstuvwxyz012345"


def read(folder, content):
    file = folder / "kite_token_main.json"
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return TokenFolder(folder).read(["main"])


def test_token_is_read_with_what_stands_beside_it(tmp_path):
    found = read(tmp_path, json.dumps({"access_token": f" {TOKEN}\n", "api_key": "k", "x": 1}))
    assert found.problems == {}
    offer = found.tokens["main"]
    assert (offer.access_token, offer.api_key) == (TOKEN, "k")
    assert offer.made_at_ns is not None
    assert TOKEN not in repr(offer)
    assert TOKEN not in offer.digest


def test_folder_or_file_that_is_not_there_is_nothing(tmp_path):
    for folder in (None, tmp_path / "nowhere", tmp_path):
        found = TokenFolder(folder).read(["main"])
        assert (found.tokens, found.problems) == ({}, {})


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"access_token": 5}',
        b'{"access_token": ""}',
        b'{"access_token": "two words"}',
        b"\xff\xfe",
        b"[" * 5000,
        b'{"access_token": "' + b"x" * FILE_BYTES_MAX + b'"}',
    ],
)
def test_file_that_cannot_be_used_is_named(tmp_path, content):
    found = read(tmp_path, content)
    assert found.tokens == {}
    assert "kite_token_main.json" in found.problems["main"]


def test_directory_in_the_place_of_a_file_is_named(tmp_path):
    (tmp_path / "kite_token_main.json").mkdir()
    assert "main" in TokenFolder(tmp_path).read(["main"]).problems


@given(content=st.binary(max_size=60))
def test_any_content_is_a_token_or_a_sentence(tmp_path_factory, content):
    found = read(tmp_path_factory.mktemp("tokens"), content)
    assert len(found.tokens) + len(found.problems) == 1
