"""A chain and its volatility curve as the lines and cells that a person reads."""

from collections.abc import Sequence
from typing import Final

import msgspec

from libs.common.contracts.messages import Chain, ChainSide, VolCurve

CALL_COLUMNS: Final = ("OI", "bid", "ask", "IV %", "delta")
"""Of the calls, from the outside in; those of the puts mirror them."""
NOTHING: Final = "-"


class ChainRow(msgspec.Struct, frozen=True, kw_only=True):
    """One strike.

    Attributes:
        offset: Its place, counted from the strike nearest the forward.
        strike: Rupees.
        call: Cells in the order of `CALL_COLUMNS`.
        put: Cells in the opposite order.
    """

    offset: int
    strike: str
    call: tuple[str, ...]
    put: tuple[str, ...]


class ChainReport(msgspec.Struct, frozen=True, kw_only=True):
    """What is shown of one expiry.

    Attributes:
        headline: What it is and what it was priced with.
        rows: Strike by strike, ascending.
        curve: What the strikes say together; None without a curve.
    """

    headline: str
    rows: tuple[ChainRow, ...]
    curve: str | None


def chain_report(
    chain: Chain, curve: VolCurve | None, *, each_side: int, age_seconds: float
) -> ChainReport:
    """Lay out a chain.

    Args:
        chain: The strikes.
        curve: Of the same expiry.
        each_side: Strikes on each side of the money, at most.
        age_seconds: How old the chain is.
    """
    spot = "" if chain.spot is None else f", spot {chain.spot:,.2f}"
    settling = ", settlement price being made" if chain.settlement else ""
    return ChainReport(
        headline=f"{chain.underlying} {chain.expiry}: forward {chain.forward:,.2f} "
        f"({chain.forward_source.value}){spot}, {365 * chain.tte:.2f} days{settling}, "
        f"{chain.convention.name}, {chain.source.value}, {_age(age_seconds)} old",
        rows=tuple(
            ChainRow(
                offset=offset,
                strike=f"{strike:g}",
                call=_cells(chain.calls, place),
                put=_cells(chain.puts, place)[::-1],
            )
            for place, (offset, strike) in enumerate(zip(chain.offsets, chain.strikes, strict=True))
            if abs(offset) <= each_side
        ),
        curve=None if curve is None else _curve(curve),
    )


def _cells(side: ChainSide, place: int) -> tuple[str, ...]:
    return (
        _text(side.oi, place, "{:,}"),
        _text(side.bid, place, "{:,.2f}"),
        _text(side.ask, place, "{:,.2f}"),
        _percent(side.iv[place]),
        _text(side.delta, place, "{:.3f}"),
    )


def _text(column: Sequence[float | None], place: int, pattern: str) -> str:
    value = column[place]
    return NOTHING if value is None else pattern.format(value)


def _percent(vol: float | None) -> str:
    return NOTHING if vol is None else f"{100 * vol:.2f}"


def _curve(curve: VolCurve) -> str:
    ratio = curve.put_call_oi_ratio
    parts = {
        "ATM IV": _percent(curve.atm_iv),
        "straddle": _text((curve.straddle,), 0, "{:,.2f}"),
        "25-delta risk reversal": _percent(curve.risk_reversal_25d),
        "butterfly": _percent(curve.butterfly_25d),
        "put/call OI": NOTHING if ratio is None else f"{ratio:.2f}",
        "max pain": _text((curve.max_pain,), 0, "{:g}"),
    }
    return ", ".join(f"{name} {text}" for name, text in parts.items())


def _age(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.0f} h"
