"""Ticks are sliced, never parsed: whatever comes, good lines go on and bad ones are counted."""

from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts import codec
from libs.common.contracts.messages import Source, Tick
from libs.common.domain.instruments import Kind
from services.gateway.domain.tick_lines import greeks_ts_of, source_of, split_ticks


def published(token: int, source: Source = Source.SIM, greeks_ts: int = 1_700_000_000_000_000_001):
    return codec.to_json(
        Tick(
            instrument_token=token,
            tradingsymbol='ODD "symbol",\nwith {everything}',
            underlying="NIFTY",
            kind=Kind.INDEX,
            seq=1,
            epoch=2,
            ingest_ts=5,
            greeks_ts=greeks_ts,
            source=source,
        )
    )


@given(st.lists(st.integers(0, 2**32 - 1), max_size=20))
def test_every_published_tick_is_found_with_its_token(tokens):
    lines = [published(token) for token in tokens]
    assert split_ticks(b"\n".join(lines) + b"\n") == (list(zip(tokens, lines, strict=True)), 0)


def test_payload_without_final_newline_is_complete():
    assert split_ticks(published(5)) == ([(5, published(5))], 0)


def test_bad_lines_are_counted_and_spoil_no_neighbour():
    bad = [
        b"garbage",
        b"{}",
        b'{"instrument_token":}',
        b'{"instrument_token":"5","a":1}',
        b'{"instrument_token":-5,"a":1}',
        b'{"instrument_token":5.5,"a":1}',
        b'{"instrument_token":4294967296,"a":1}',
        b'{"instrument_token":123456789012345,"a":1}',
        b'{"instrument_token":5,"a":',
        b'{"seq":1,"instrument_token":5}',
        published(5)[1:],
    ]
    payload = b"\n".join([published(1), *bad, b"", published(2)])
    ticks, count = split_ticks(payload)
    assert [token for token, _ in ticks] == [1, 2]
    assert count == len(bad)


@given(st.binary(max_size=300))
def test_any_bytes_are_taken_without_an_exception(payload):
    ticks, _ = split_ticks(payload)
    for _, line in ticks:
        greeks_ts_of(line)
        source_of(line)


def test_source_stands_last_in_every_published_tick():
    for source in Source:
        assert source_of(published(5, source)) is source
    assert source_of(b'{"instrument_token":5,"a":1}') is None


@given(st.integers(0, 2**63 - 1))
def test_time_of_a_tick_is_read_to_the_nanosecond(greeks_ts):
    assert greeks_ts_of(published(5, greeks_ts=greeks_ts)) == greeks_ts


def test_tick_that_does_not_say_its_time_counts_as_old():
    assert greeks_ts_of(b'{"instrument_token":5,"a":1}') == 0
    assert greeks_ts_of(b'{"instrument_token":5,"greeks_ts":null}') == 0
    assert greeks_ts_of(b'{"instrument_token":5,"greeks_ts":17}') == 17
