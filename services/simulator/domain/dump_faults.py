"""What a damaged instrument dump looks like."""

from collections.abc import Iterable, Sequence

import msgspec

from libs.common.domain.instruments import Instrument
from services.simulator.domain.faults import Fault, FaultKind


def damaged_rows(rows: Sequence[Instrument], faults: Iterable[Fault]) -> list[Instrument]:
    """Give the rows as a damaged dump lists them.

    Args:
        rows: What the dump should list.
        faults: What is wrong; those that damage the file itself change nothing here.
    """
    damaged = list(rows)
    for fault in faults:
        ours = [row for row in damaged if fault.exchange in {None, row.exchange}]
        if not ours:
            continue
        last = ours[-1]
        match fault.kind:
            case FaultKind.EMPTY_DUMP:
                gone = {row.instrument_token for row in ours}
            case FaultKind.SHRUNKEN_DUMP:
                gone = {row.instrument_token for row in ours[len(ours) // 3 :]}
            case FaultKind.DUPLICATE_TOKEN:
                damaged.append(another_contract(last))
                continue
            case FaultKind.REUSED_TOKEN:
                damaged[damaged.index(last)] = another_contract(last)
                continue
            case _:
                continue
        damaged = [row for row in damaged if row.instrument_token not in gone]
    return damaged


def another_contract(item: Instrument) -> Instrument:
    """Give a contract with the token of this one: ten times its strike, or a new symbol."""
    if item.strike is None or item.option_type is None:
        return msgspec.structs.replace(item, tradingsymbol=f"{item.tradingsymbol}2")
    strike, right = item.strike * 10, item.option_type.value
    stem = item.tradingsymbol.removesuffix(f"{item.strike:g}{right}")
    return msgspec.structs.replace(item, tradingsymbol=f"{stem}{strike:g}{right}", strike=strike)


def cut_inside_a_row(dump: bytes) -> bytes:
    """Give two thirds of a dump, up to the middle of a row; a dump without rows stays."""
    end = dump.find(b"\n", len(dump) * 2 // 3)
    start = dump.rfind(b"\n", 0, end) + 1
    return dump if start <= 0 or end < 0 else dump[: (start + end) // 2]
