"""Pieces of JSON that many ticks share: written once, copied into every tick as they are.

A piece stands where the value of its first field goes and brings the other fields along: the
value of `forward` is `24503.85,"forward_source":"future","tte":0.0031`. That saves a Python object
and a formatted number per field and tick.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from libs.common.contracts.messages import Ohlc, Tick
from libs.common.domain.instruments import Instrument

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Objects = npt.NDArray[np.object_]

_FIELDS: Final = Tick.__struct_fields__
HEAD: Final = _FIELDS[: _FIELDS.index("last_price")]
"""What an instrument is: constant."""
VERDICT: Final = ("iv_status", "greeks_from")
"""Whether an option has a volatility, and which its Greeks come from: a few combinations."""
VALUATION: Final = _FIELDS[_FIELDS.index("forward") : _FIELDS.index("seq")]
"""What the options of one expiry are priced with at one moment."""
STAMP: Final = _FIELDS[_FIELDS.index("epoch") :]
"""Where and when a tick was made: one per frame and exchange second."""

_ENCODER: Final = msgspec.json.Encoder()


def _piece(fields: tuple[str, ...]) -> tuple[Any, int]:
    """A struct with these fields, and where its JSON begins after the first field's name."""
    kind = msgspec.defstruct("_Piece", [(name, Any) for name in fields], gc=False)
    return kind, len(f'{{"{fields[0]}":')


_HEAD, _HEAD_START = _piece(HEAD)
_VERDICT, _VERDICT_START = _piece(VERDICT)
_VALUATION, _VALUATION_START = _piece(VALUATION)
_STAMP, _STAMP_START = _piece(STAMP)
_OHLC, _ = _piece(Ohlc.__struct_fields__)


def head_of(item: Instrument) -> msgspec.Raw:
    """The first seven fields of an instrument's ticks."""
    piece = _HEAD(
        item.instrument_token,
        item.tradingsymbol,
        item.underlying,
        item.kind.value,
        item.expiry,
        item.strike,
        None if item.option_type is None else item.option_type.value,
    )
    return msgspec.Raw(_ENCODER.encode(piece)[_HEAD_START:-1])


def verdicts(
    statuses: Sequence[str | None], origins: Sequence[str | None]
) -> npt.NDArray[np.object_]:
    """The piece of every pair of a status and an origin of Greeks [statuses, origins].

    Args:
        statuses: Names by code, None for null.
        origins: Likewise.
    """
    pieces = np.empty((len(statuses), len(origins)), np.object_)
    for row, status in enumerate(statuses):
        for column, origin in enumerate(origins):
            text = _ENCODER.encode(_VERDICT(status, origin))
            pieces[row, column] = msgspec.Raw(text[_VERDICT_START:-1])
    return pieces


NO_VALUATION: Final[Mapping[bool, msgspec.Raw]] = {
    repriced: msgspec.Raw(
        _ENCODER.encode(_VALUATION(None, None, None, False, None, repriced))[_VALUATION_START:-1]
    )
    for repriced in (False, True)
}
"""Of instruments that are no options, by whether they are re-priced."""


class Valued(NamedTuple):
    """What n options are priced with.

    Attributes:
        expiry_ids: [n].
        rounds: Small numbers [n]; rows that agree in expiry, round and second agree in the rest.
        at_s: Whole epoch seconds for which they are priced [n].
        forward: Rupees [n], NaN for none.
        source: Codes of the forwards' sources [n].
        tte: Years [n].
        settlement: Whether the settlement price is being made [n].
    """

    expiry_ids: Ints
    rounds: Ints
    at_s: Floats
    forward: Floats
    source: npt.NDArray[np.uint8]
    tte: Floats
    settlement: npt.NDArray[np.bool_]


def valuations(
    valued: Valued,
    *,
    sources: Sequence[str | None],
    conventions: Sequence[str],
    repriced: bool = False,
) -> list[msgspec.Raw]:
    """Forward, its source, time to expiry and convention of n options.

    Args:
        valued: What they are priced with.
        sources: Names of the forwards' sources.
        conventions: Names by expiry id.
        repriced: Whether no packet came and only the forward moved.
    """
    if not valued.tte.size:
        return []
    ids = valued.expiry_ids + valued.rounds * (int(valued.expiry_ids.max()) + 1)
    which = _alike(ids, valued.at_s.astype(np.int64))
    first = which.first
    texts = [
        msgspec.Raw(
            _ENCODER.encode(
                _VALUATION(forward, sources[source], tte, settles, conventions[expiry], repriced)
            )[_VALUATION_START:-1]
        )
        for forward, source, tte, settles, expiry in zip(
            valued.forward[first].tolist(),
            valued.source[first].tolist(),
            valued.tte[first].tolist(),
            valued.settlement[first].tolist(),
            valued.expiry_ids[first].tolist(),
            strict=True,
        )
    ]
    return [texts[index] for index in which.group]


def stamps(
    frames: Ints,
    exchange_ts_s: Ints,
    received_ns: Sequence[int],
    *,
    epoch: int,
    greeks_ts: int,
    source: str,
) -> list[msgspec.Raw]:
    """Epoch, the three times and the source of n ticks.

    Args:
        frames: Index into `received_ns` of each [n].
        exchange_ts_s: Epoch seconds [n], 0 for none.
        received_ns: When each frame was received, epoch nanoseconds.
        epoch: Of the lease.
        greeks_ts: Now, epoch nanoseconds.
        source: `live` or `sim`.
    """
    which = _alike(frames, exchange_ts_s)
    first = which.first
    texts = [
        msgspec.Raw(
            _ENCODER.encode(
                _STAMP(
                    epoch,
                    second * 1_000_000_000 or None,
                    received_ns[frame],
                    greeks_ts,
                    source,
                )
            )[_STAMP_START:-1]
        )
        for frame, second in zip(frames[first].tolist(), exchange_ts_s[first].tolist(), strict=True)
    ]
    return [texts[index] for index in which.group]


class _Alike(NamedTuple):
    """Groups of rows: the first row of each group, and the group of each row."""

    first: Ints
    group: list[int]


def _alike(ids: Ints, seconds: Ints) -> _Alike:
    """Group rows by a small number and epoch seconds, which have 32 bits on the wire."""
    keys = (ids << 32) + seconds
    if (keys == keys[0]).all():
        return _Alike(np.zeros(1, np.int64), [0] * keys.size)
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    return _Alike(first, group.tolist())


class OhlcTexts:
    """The day's prices of every slot as JSON, written anew only when one of the four moves."""

    __slots__ = ("_texts", "_values")

    def __init__(self, capacity: int) -> None:
        self._values: Floats = np.zeros((4, capacity))
        self._texts: npt.NDArray[np.object_] = np.full(capacity, None, dtype=np.object_)

    def grow(self, capacity: int) -> None:
        """Make room for more slots."""
        extra = capacity - self._texts.size
        if extra > 0:
            self._values = np.concatenate((self._values, np.zeros((4, extra))), axis=1)
            self._texts = np.concatenate((self._texts, np.full(extra, None, dtype=np.object_)))

    def of(self, slots: Ints, ohlc: Floats) -> Objects:
        """The texts of n slots (msgspec.Raw), None where one of the four does not exist.

        Args:
            slots: [n], each once.
            ohlc: Open, high, low, previous close in rupees [4, n]; 0 or NaN for none.
        """
        known = np.where(ohlc > 0.0, ohlc, 0.0)
        rows = np.flatnonzero((self._values[:, slots] != known).any(axis=0))
        if rows.size:
            changed = known[:, rows]
            self._values[:, slots[rows]] = changed
            for slot, values in zip(slots[rows].tolist(), changed.T.tolist(), strict=True):
                self._texts[slot] = (
                    msgspec.Raw(_ENCODER.encode(_OHLC(*values))) if all(values) else None
                )
        texts: Objects = self._texts[slots]
        return texts
