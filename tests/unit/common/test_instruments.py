"""Kite's instrument dump: every usable row, and a reason for every other."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.instruments import (
    DUMP_COLUMNS,
    INDEX_UNDERLYINGS,
    DumpError,
    DuplicateToken,
    Instrument,
    Kind,
    OptionType,
    parse_dump,
    to_dump_csv,
    underlying_of_symbol,
)

HEADER = ",".join(DUMP_COLUMNS)
OPTION_ROW = "10240002,40000,NIFTY26NOV26000CE,NIFTY,102.5,2026-11-23,26000,0.05,65,CE,NFO-OPT,NFO"
OPTION = Instrument(
    instrument_token=10240002,
    exchange_token=40000,
    tradingsymbol="NIFTY26NOV26000CE",
    name="NIFTY",
    exchange="NFO",
    segment="NFO-OPT",
    underlying="NIFTY",
    kind=Kind.OPTION,
    strike=26000.0,
    expiry=date(2026, 11, 23),
    option_type=OptionType.CALL,
    lot_size=65,
    tick_size=0.05,
)


def dump_of(*rows: str, header: str = HEADER, end: str = "\n") -> bytes:
    return end.join((header, *rows, "")).encode()


def only(row: str) -> Instrument:
    dump = parse_dump(dump_of(row))
    assert dump.skipped == []
    (instrument,) = dump.instruments
    return instrument


def skipped_field(row: str) -> str:
    dump = parse_dump(dump_of(row, OPTION_ROW))
    assert dump.instruments == [OPTION]
    (skipped,) = dump.skipped
    assert skipped.line == 2
    assert skipped.reason
    return skipped.field


def with_cell(column: str, text: str) -> str:
    cells = OPTION_ROW.split(",")
    cells[DUMP_COLUMNS.index(column)] = text
    # Another token, so that the good row behind it stays usable.
    if column != "instrument_token":
        cells[0] = "99"
    return ",".join(cells)


def instruments() -> st.SearchStrategy[Instrument]:
    """Anything that a dump can hold."""
    text = st.text("ABCXYZ0123456789 &-.\"',", min_size=1).filter(lambda s: s.strip() == s)
    amounts = st.floats(0, 1e7)

    @st.composite
    def instrument(draw):
        kind = draw(st.sampled_from(Kind))
        derivative = kind in {Kind.OPTION, Kind.FUTURE}
        exchange = draw(st.sampled_from(("NFO", "BFO", "MCX") if derivative else ("NSE", "BSE")))
        symbol = draw(text)
        name = draw(text)
        underlying = name if derivative else INDEX_UNDERLYINGS.get((exchange, symbol), symbol)
        return Instrument(
            instrument_token=draw(st.integers(1, 2**32 - 1)),
            exchange_token=draw(st.integers(0, 2**32)),
            tradingsymbol=symbol,
            name=name,
            exchange=exchange,
            segment="INDICES" if kind is Kind.INDEX else draw(st.sampled_from(("", "NSE", "NFO"))),
            underlying=underlying,
            kind=kind,
            strike=draw(amounts.filter(bool)) if kind is Kind.OPTION else None,
            expiry=draw(st.dates(date(2000, 1, 1))) if derivative else None,
            option_type=draw(st.sampled_from(OptionType)) if kind is Kind.OPTION else None,
            lot_size=draw(st.integers(0, 10**6)),
            tick_size=draw(amounts),
        )

    return instrument()


def test_option_row_is_read():
    assert only(OPTION_ROW) == OPTION


def test_future_has_an_expiry_but_no_strike():
    future = only("1,1,SENSEX26OCTFUT,SENSEX,0,2026-10-29,0,0.1,20,FUT,BFO-FUT,BFO")
    assert (future.kind, future.strike, future.option_type) == (Kind.FUTURE, None, None)
    assert (future.expiry, future.tick_size) == (date(2026, 10, 29), 0.1)


def test_index_row_carries_the_name_of_its_derivatives():
    index = only("256265,1001,NIFTY 50,NIFTY 50,0,,0,0,0,EQ,INDICES,NSE")
    assert (index.kind, index.underlying, index.lot_size) == (Kind.INDEX, "NIFTY", 0)
    assert (index.expiry, index.strike) == (None, None)


def test_index_without_derivatives_is_its_own_underlying():
    index = only("264969,1035,INDIA VIX,INDIA VIX,0,,0,0,0,EQ,INDICES,NSE")
    assert index.underlying == "INDIA VIX"


@pytest.mark.parametrize("symbol", ["M&M", "BAJAJ-AUTO", "360ONE", "J&KBANK"])
def test_share_with_an_unusual_symbol_is_its_own_underlying(symbol):
    share = only(f"519937,2031,{symbol},SOME NAME,0,,0,0.05,1,EQ,NSE,NSE")
    assert (share.kind, share.underlying) == (Kind.EQUITY, symbol)


@pytest.mark.parametrize(
    ("symbol", "expiry", "strike", "underlying"),
    [
        ("NIFTY23JUL20600CE", "2023-07-27", "20600", "NIFTY"),
        ("NIFTY2580724400CE", "2025-08-07", "24400", "NIFTY"),
        ("SENSEX26O0882000PE", "2026-10-08", "82000", "SENSEX"),
        ("BANKEX26APR63000PE", "2026-04-30", "63000", "BANKEX"),
        ("M&M26NOV3012.5CE", "2026-11-23", "3012.5", "M&M"),
        ("BAJAJ-AUTO26NOV9000PE", "2026-11-23", "9000", "BAJAJ-AUTO"),
        ("360ONE26NOV1000CE", "2026-11-23", "1000", "360ONE"),
        ("NIFTYNXT5026NOV68000CE", "2026-11-23", "68000", "NIFTYNXT50"),
    ],
)
def test_blank_name_is_read_from_the_symbol(symbol, expiry, strike, underlying):
    kind = symbol[-2:]
    option = only(f"1,1,{symbol},,0,{expiry},{strike},0.05,1,{kind},NFO-OPT,NFO")
    assert (option.underlying, option.name) == (underlying, "")
    assert underlying_of_symbol(symbol) == underlying


def test_blank_name_of_a_future_is_read_from_the_symbol():
    future = only("1,1,360ONE26NOVFUT,,0,2026-11-23,0,0.05,1,FUT,NFO-FUT,NFO")
    assert future.underlying == "360ONE"


def test_symbol_without_a_date_tells_no_underlying():
    assert underlying_of_symbol("NIFTY 50") is None
    assert skipped_field("1,1,XYZ,,0,2026-11-23,100,0.05,1,CE,NFO-OPT,NFO") == "name"


def test_quoted_text_is_unquoted():
    row = OPTION_ROW.replace(",NIFTY,", ',"NIFTY",')
    assert only(row) == OPTION
    assert only('7,1,"A""B, C","X, Y",0,,0,0.05,1,EQ,NSE,NSE').tradingsymbol == 'A"B, C'


def test_windows_line_ends_a_byte_order_mark_and_blank_lines_do_no_harm():
    raw = b"\xef\xbb\xbf" + dump_of(OPTION_ROW, "", end="\r\n")
    assert parse_dump(raw) == parse_dump(dump_of(OPTION_ROW))


def test_columns_may_come_in_any_order_and_more_of_them():
    header = ",".join(("extra", *reversed(DUMP_COLUMNS)))
    row = ",".join(("?", *reversed(OPTION_ROW.split(","))))
    assert parse_dump(dump_of(row, header=header)).instruments == [OPTION]


@pytest.mark.parametrize(
    ("column", "text"),
    [
        ("instrument_token", "abc"),
        ("instrument_token", "0"),
        ("instrument_token", "4294967296"),
        ("instrument_token", "-5"),
        ("exchange_token", ""),
        ("tradingsymbol", " "),
        ("exchange", ""),
        ("expiry", ""),
        ("expiry", "2026-02-30"),
        ("expiry", "23NOV2026"),
        ("strike", "0"),
        ("strike", "-1"),
        ("strike", "nan"),
        ("strike", "inf"),
        ("strike", "x"),
        ("tick_size", "x"),
        ("lot_size", "1.5"),
        ("instrument_type", "XX"),
    ],
)
def test_row_with_a_bad_cell_is_skipped_and_named(column, text):
    assert skipped_field(with_cell(column, text)) == column


@pytest.mark.parametrize("row", ["1,2,3", OPTION_ROW + ",more", "<html>", "no commas at all"])
def test_row_of_another_width_is_skipped(row):
    assert skipped_field(row) == "row"


def test_stray_quote_costs_its_own_row_only():
    assert skipped_field('1,1,"ABC,X,0,,0,0.05,1,EQ,NSE,NSE') == "row"


def test_cell_of_absurd_length_costs_its_own_row_only():
    assert skipped_field('1,1,"' + "A" * 200_000 + '",X,0,,0,0.05,1,EQ,NSE,NSE') == "row"


def test_second_row_of_a_token_is_dropped_and_both_lines_are_told():
    other = OPTION_ROW.replace("26000CE", "26100CE")
    dump = parse_dump(dump_of("", OPTION_ROW, other))
    assert (dump.instruments, dump.skipped) == ([OPTION], [])
    assert dump.duplicates == [
        DuplicateToken(
            instrument_token=OPTION.instrument_token,
            kept_line=3,
            kept="NFO:NIFTY26NOV26000CE",
            dropped_line=4,
            dropped="NFO:NIFTY26NOV26100CE",
        )
    ]


@pytest.mark.parametrize("living_first", [True, False])
def test_of_two_rows_of_a_token_the_contract_that_lives_longer_counts(living_first):
    living = OPTION_ROW.replace("2026-11-23", "2026-12-29").replace("26NOV", "26DEC")
    behind = "7,1,ABC,ABC,0,,0,0.05,1,EQ,NSE,NSE"
    rows = (living, OPTION_ROW) if living_first else (OPTION_ROW, living)
    dump = parse_dump(dump_of(*rows, behind))
    assert [item.tradingsymbol for item in dump.instruments] == ["NIFTY26DEC26000CE", "ABC"]
    (pair,) = dump.duplicates
    assert (pair.kept_line, pair.dropped_line) == ((2, 3) if living_first else (3, 2))
    assert (pair.kept, pair.dropped) == ("NFO:NIFTY26DEC26000CE", "NFO:NIFTY26NOV26000CE")


@given(cut=st.data())
def test_file_that_is_cut_inside_a_row_is_truncated(cut):
    second = OPTION_ROW.replace("10240002", "10240258").replace("26000CE", "26100CE")
    whole = dump_of(OPTION_ROW, second)
    first_end = whole.index(b"\n", len(HEADER) + 1) + 1
    at = cut.draw(st.integers(first_end + 1, len(whole) - 2))
    dump = parse_dump(whole[:at])
    assert dump.is_truncated
    assert dump.instruments == [OPTION]
    assert [row.line for row in dump.skipped] == [3]


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_last_newline_may_be_missing(end):
    dump = parse_dump((HEADER + "\n" + OPTION_ROW + end).encode())
    assert (dump.instruments, dump.is_truncated) == ([OPTION], False)


def test_bad_row_at_the_end_is_no_cut():
    dump = parse_dump(dump_of(OPTION_ROW, "1,2,3"))
    assert (len(dump.skipped), dump.is_truncated) == (1, False)


@given(
    items=st.lists(instruments(), unique_by=lambda item: item.instrument_token, max_size=6),
    at=st.floats(0, 1),
)
def test_any_beginning_of_a_dump_gives_a_beginning_of_its_rows(items, at):
    whole = to_dump_csv(items)
    try:
        dump = parse_dump(whole[: int(len(whole) * at)])
    except DumpError:
        return
    rows = dump.instruments
    # A cut inside the last cell may leave a row of its own that names another exchange.
    assert rows[:-1] == items[: max(0, len(rows) - 1)]


def test_unusable_row_does_not_claim_its_token():
    broken = OPTION_ROW.replace(",65,", ",many,")
    dump = parse_dump(dump_of(broken, OPTION_ROW))
    assert dump.instruments == [OPTION]
    assert [row.field for row in dump.skipped] == ["lot_size"]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "empty"),
        (b" \n ", "empty"),
        (b"\x1f\x8b\x08rest", "gzip"),
        (b"<html><body>502</body></html>", "header lacks"),
        (b"instrument_token,tradingsymbol\n1,A\n", "exchange_token"),
    ],
)
def test_dump_that_is_none_is_refused_with_a_reason(raw, reason):
    with pytest.raises(DumpError, match=reason):
        parse_dump(raw)


def test_dump_without_rows_is_empty_not_wrong():
    assert parse_dump(dump_of()).instruments == []


def test_broken_character_does_not_cost_the_dump():
    raw = dump_of("7,1,ABC,caf\xe9,0,,0,0.05,1,EQ,NSE,NSE").replace("é".encode(), b"\xe9")
    assert [item.tradingsymbol for item in parse_dump(raw).instruments] == ["ABC"]


@given(items=st.lists(instruments(), unique_by=lambda item: item.instrument_token, max_size=8))
def test_what_is_written_is_read_back(items):
    dump = parse_dump(to_dump_csv(items))
    assert dump.skipped == []
    assert dump.instruments == items


def test_written_dump_has_kites_columns_and_last_prices():
    header, row = to_dump_csv([OPTION], {OPTION.instrument_token: 102.5}).decode().splitlines()
    assert header == HEADER
    assert row == OPTION_ROW


@given(raw=st.binary(max_size=300), rows=st.text(max_size=200))
def test_any_bytes_give_a_dump_or_a_dump_error(raw, rows):
    parsed = parse_dump(dump_of(rows))
    assert isinstance(parsed.instruments, list)
    try:
        parse_dump(raw)
    except DumpError as error:
        assert error.reason  # noqa: PT017 -- both outcomes are right, by the bytes.
