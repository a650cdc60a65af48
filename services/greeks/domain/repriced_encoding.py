"""Writes the ticks of options that are priced anew: what their packet said is copied as it was.

An order book, quantities and times of a tick that is priced anew are those of the tick before, to
the byte. They are cut out of its line instead of being held a second time: an ordinary tick then
costs nothing more, and nothing can differ.
"""

from collections.abc import Iterator, Sequence
from itertools import starmap
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt

from libs.common.contracts.messages import Tick
from services.greeks.domain.fragments import HEAD, STAMP, VALUATION, VERDICT

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Objects = npt.NDArray[np.object_]

_FIELDS: Final = Tick.__struct_fields__
_PACKET: Final = _FIELDS[_FIELDS.index("last_price") : _FIELDS.index("iv")]
"""What a packet says of an instrument, times apart."""
_TIMES: Final = _FIELDS[_FIELDS.index("exchange_ts") : _FIELDS.index("greeks_ts")]
"""When it said so."""

# No text inside a line can hold these: within a JSON string a quote has a backslash before it.
_PACKET_START: Final = f',"{_PACKET[0]}":'.encode()
_PACKET_END: Final = f',"{_FIELDS[_FIELDS.index(_PACKET[-1]) + 1]}":'.encode()
_TIMES_START: Final = f',"{_TIMES[0]}":'.encode()
_TIMES_END: Final = f',"{_FIELDS[_FIELDS.index(_TIMES[-1]) + 1]}":'.encode()

_INSIDE_PIECES: Final = frozenset(
    (*HEAD[1:], *_PACKET, *VERDICT[1:], *VALUATION[1:], *STAMP[1:]),
)
_Row: Final[Any] = msgspec.defstruct(
    "_Row", [(name, Any) for name in _FIELDS if name not in _INSIDE_PIECES], gc=False
)


class RepricedColumns(msgspec.Struct, kw_only=True, gc=False):
    """n ticks priced anew, column by column; NaN stands for null.

    Attributes:
        head: JSON up to the option type [n].
        held: The line of the tick before, of each [n].
        iv: Per year [n], as the next three.
        bid_iv: [n].
        ask_iv: [n].
        smile_iv: [n].
        greeks: delta, gamma, theta, vega, rho [5, n].
        verdict: JSON of status and origin of the Greeks [n].
        valuation: JSON from the forward to what comes before `seq` [n].
        seq: [n].
        epoch: Of the lease.
        greeks_ts: Epoch nanoseconds.
        source: `live` or `sim`.
    """

    head: Objects
    held: Sequence[bytes]
    iv: Floats
    bid_iv: Floats
    ask_iv: Floats
    smile_iv: Floats
    greeks: Floats
    verdict: Objects
    valuation: Sequence[msgspec.Raw]
    seq: Ints
    epoch: int
    greeks_ts: int
    source: str


def repriced_rows(ticks: RepricedColumns) -> Iterator[Any]:
    """Make one encodable row per tick, for `tick_encoding.encode`."""
    end = b'%s%d,"source":"%s"' % (_TIMES_END, ticks.greeks_ts, ticks.source.encode())
    epoch = b"%d" % ticks.epoch
    return starmap(
        _Row,
        zip(
            map(_opening, ticks.head.tolist(), ticks.held),
            ticks.iv.tolist(),
            ticks.bid_iv.tolist(),
            ticks.ask_iv.tolist(),
            ticks.smile_iv.tolist(),
            *(greek.tolist() for greek in ticks.greeks),
            ticks.verdict.tolist(),
            ticks.valuation,
            ticks.seq.tolist(),
            [msgspec.Raw(b"%s%s%s" % (epoch, _times(line), end)) for line in ticks.held],
            strict=True,
        ),
    )


def _opening(head: msgspec.Raw, line: bytes) -> msgspec.Raw:
    """What the instrument is, and what its packet said."""
    start = line.index(_PACKET_START)
    return msgspec.Raw(b"%s%s" % (head, line[start : line.index(_PACKET_END, start)]))


def _times(line: bytes) -> bytes:
    start = line.rindex(_TIMES_START)
    return line[start : line.index(_TIMES_END, start)]
