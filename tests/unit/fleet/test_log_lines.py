"""Lines of children: bounded, whole, prefixed."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from services.fleet.domain.log_lines import LineSplitter, prefixes


def split(chunks: list[bytes], limit: int = 50) -> list[str]:
    splitter = LineSplitter(limit_bytes=limit)
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    return lines + splitter.end()


def test_line_in_pieces_arrives_whole():
    assert split([b"on", b"e\ntw", b"o\n"]) == ["one", "two"]


def test_last_line_without_newline_arrives_at_the_end():
    assert split([b"one\ntwo"]) == ["one", "two"]


def test_empty_lines_are_kept():
    assert split([b"a\n\nb\n"]) == ["a", "", "b"]


def test_long_line_is_cut_and_says_so():
    splitter = LineSplitter(limit_bytes=4)
    assert splitter.feed(b"123456\n78\n") == ["1234 … (2 bytes more)", "78"]
    assert splitter.dropped_bytes == 2


def test_bytes_that_are_no_text_do_not_stop_the_flow():
    assert split([b"\xff\xfe\n", b"ok\r\n"]) == ["\ufffd\ufffd", "ok"]


@given(
    st.text(alphabet=st.characters(blacklist_characters="\r", max_codepoint=0x7F), max_size=200),
    st.lists(st.integers(0, 200), max_size=6),
)
def test_lines_do_not_depend_on_how_the_output_was_cut(text, cuts):
    data = text.encode()
    marks = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    chunks = [data[a:b] for a, b in itertools.pairwise(marks)]

    expected = text.split("\n")
    assert split(chunks, limit=1_000) == (expected if expected[-1] else expected[:-1])


def test_prefixes_align_and_stay_plain_without_a_terminal():
    plain = prefixes(["nats", "simulator"], coloured=False)

    assert plain["nats"].render("x") == "nats      | x\n"
    assert plain["simulator"].render("x") == "simulator | x\n"


def test_neighbours_have_different_colours_on_a_terminal():
    coloured = prefixes(["a", "b"], coloured=True)

    assert coloured["a"].render("x").startswith("\x1b[")
    assert coloured["a"].colour != coloured["b"].colour
