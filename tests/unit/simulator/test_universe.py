"""The instruments of a day: symbols, tokens, lots and size."""

from collections import Counter
from datetime import date

import numpy as np
import pytest

from libs.common.domain.instruments import Kind, parse_dump, to_dump_csv
from services.simulator.domain.universe import UniverseSize, build_universe, members
from tests.unit.simulator.markets import shared_market

UNIVERSE = shared_market().universe


def reference_levels(size: UniverseSize) -> list[float]:
    return [item.reference_rupees for item in members(size)]


def test_the_dump_reads_back_as_the_same_instruments():
    dump = parse_dump(to_dump_csv(UNIVERSE.instruments))
    assert dump.skipped == []
    assert tuple(dump.instruments) == UNIVERSE.instruments


def test_indices_carry_kites_own_tokens():
    rows = {item.underlying: item for item in UNIVERSE.instruments if item.kind is Kind.INDEX}
    assert {name: item.instrument_token for name, item in rows.items()} == {
        "NIFTY": 256265,
        "BANKNIFTY": 260105,
        "FINNIFTY": 257801,
        "MIDCPNIFTY": 288009,
        "NIFTYNXT50": 270857,
        "SENSEX": 265,
        "BANKEX": 274441,
        "INDIA VIX": 264969,
    }


def test_at_least_twenty_stocks_with_awkward_names_have_futures_and_options():
    kinds = Counter((item.underlying, item.kind) for item in UNIVERSE.instruments)
    stocks = [item.underlying for item in UNIVERSE.instruments if item.kind is Kind.EQUITY]
    assert len(stocks) >= 20
    assert {"M&M", "BAJAJ-AUTO", "360ONE"} <= set(stocks)
    for stock in stocks:
        assert kinds[stock, Kind.FUTURE] == 3
        assert kinds[stock, Kind.OPTION] > 0


def test_symbols_follow_the_weekly_and_monthly_grammar():
    symbols = {item.tradingsymbol for item in UNIVERSE.instruments}
    assert "NIFTY26NOVFUT" in symbols  # monthly, Monday because Tuesday is a holiday
    assert any(symbol.startswith("NIFTY26D01") for symbol in symbols)  # weekly, 1 December
    assert any(symbol.startswith("SENSEX26N19") for symbol in symbols)
    assert any(symbol.startswith("M&M26NOV") and symbol.endswith("CE") for symbol in symbols)
    november = next(i for i in UNIVERSE.instruments if i.tradingsymbol == "NIFTY26NOVFUT")
    assert november.expiry == date(2026, 11, 23)
    assert november.lot_size == 65


@pytest.mark.parametrize("size", list(UniverseSize))
def test_tokens_are_unique_and_tell_their_segment(size):
    universe = build_universe(date(2026, 11, 18), reference_levels(size), size=size)
    assert len(set(universe.tokens.tolist())) == len(universe)
    assert len(universe.row_of_symbol) == len(universe)
    segments = {"NFO": 2, "BFO": 5}
    for item in universe.instruments:
        if item.exchange in segments:
            assert item.instrument_token & 0xFF == segments[item.exchange]
        assert item.instrument_token >> 8 == item.exchange_token


def test_a_contract_keeps_its_token_from_day_to_day_and_in_any_universe():
    levels = reference_levels(UniverseSize.DEMO)
    monday = build_universe(date(2026, 11, 16), levels)
    later = build_universe(date(2026, 11, 20), [level * 1.01 for level in levels])
    full = build_universe(
        date(2026, 11, 18), reference_levels(UniverseSize.FULL), size=UniverseSize.FULL
    )
    first = {i.tradingsymbol: i.instrument_token for i in monday.instruments}
    for other in (later, full):
        second = {i.tradingsymbol: i.instrument_token for i in other.instruments}
        common = first.keys() & second.keys()
        assert len(common) > 3_000
        assert all(first[symbol] == second[symbol] for symbol in common)


def test_the_full_universe_comes_close_to_its_bound():
    universe = build_universe(
        date(2026, 11, 18),
        reference_levels(UniverseSize.FULL),
        size=UniverseSize.FULL,
        max_contracts=100_000,
    )
    contracts = int(universe.is_derivative.sum())
    assert 95_000 <= contracts <= 100_000


def test_expired_contracts_are_gone_the_day_after():
    universe = build_universe(date(2026, 11, 25), reference_levels(UniverseSize.DEMO))
    assert min(item.day for item in universe.expiries) >= date(2026, 11, 25)


def test_strikes_surround_the_level_and_are_positive():
    for row in np.flatnonzero(UNIVERSE.flag):
        assert UNIVERSE.strike[row] > 0
