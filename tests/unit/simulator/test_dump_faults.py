"""Damaged dumps: each is wrong in exactly the way it says, for the exchange it says."""

import pytest

from libs.common.domain.instruments import parse_dump, to_dump_csv
from services.simulator.domain.dump_faults import cut_inside_a_row, damaged_rows
from services.simulator.domain.faults import Fault, FaultKind
from tests.unit.simulator.markets import shared_market

ROWS = shared_market().universe.instruments
NFO = [row for row in ROWS if row.exchange == "NFO"]
OTHERS = [row for row in ROWS if row.exchange != "NFO"]


def damaged(kind: FaultKind, exchange: str | None = "NFO"):
    return damaged_rows(ROWS, [Fault(kind=kind, exchange=exchange)])


@pytest.mark.parametrize("kind", FaultKind)
def test_no_fault_touches_the_rows_of_another_exchange(kind):
    assert [row for row in damaged(kind) if row.exchange != "NFO"] == OTHERS


def test_empty_and_shrunken_dumps_lack_rows():
    assert damaged(FaultKind.EMPTY_DUMP) == OTHERS
    assert damaged(FaultKind.EMPTY_DUMP, None) == []
    left = [row for row in damaged(FaultKind.SHRUNKEN_DUMP) if row.exchange == "NFO"]
    assert left == NFO[: len(NFO) // 3]


def test_duplicate_token_is_read_as_one():
    dump = parse_dump(to_dump_csv(damaged(FaultKind.DUPLICATE_TOKEN)))
    assert dump.instruments == list(ROWS)
    (pair,) = dump.duplicates
    assert pair.instrument_token == NFO[-1].instrument_token


def test_reused_token_means_another_contract_of_the_same_kind():
    changed = damaged(FaultKind.REUSED_TOKEN)
    (after,) = set(changed) - set(ROWS)
    (before,) = set(ROWS) - set(changed)
    assert before == NFO[-1]
    assert after.instrument_token == before.instrument_token
    assert (after.key != before.key, after.expiry, after.kind) == (True, before.expiry, before.kind)


def test_cut_dump_is_truncated():
    whole = to_dump_csv(ROWS)
    dump = parse_dump(cut_inside_a_row(whole))
    assert dump.is_truncated
    assert len(ROWS) / 2 < len(dump.instruments) < len(ROWS)
    assert cut_inside_a_row(to_dump_csv([])) == to_dump_csv([])
