"""Pieces of JSON that many ticks share: written once, copied into every tick as they are.

A piece stands where the value of its first field goes and brings the other fields along: the
value of `forward` is `24503.85,"forward_source":"future","tte":0.0031`. That saves a Python object
and a formatted number per field and tick.
"""

from collections.abc import Sequence
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
VALUATION: Final = ("forward", "forward_source", "tte")
"""What the options of one expiry are priced with at one moment."""
STAMP: Final = _FIELDS[_FIELDS.index("epoch") :]
"""Where and when a tick was made: one per frame and exchange second."""

_ENCODER: Final = msgspec.json.Encoder()


def _piece(fields: tuple[str, ...]) -> tuple[Any, int]:
    """A struct with these fields, and where its JSON begins after the first field's name."""
    kind = msgspec.defstruct("_Piece", [(name, Any) for name in fields], gc=False)
    return kind, len(f'{{"{fields[0]}":')


_HEAD, _HEAD_START = _piece(HEAD)
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


NO_VALUATION: Final = msgspec.Raw(
    _ENCODER.encode(_VALUATION(None, None, None))[_VALUATION_START:-1]
)


def valuations(
    expiry_ids: Ints,
    rounds: Ints,
    at_s: Floats,
    *,
    tte: Floats,
    forward: Floats,
    source: npt.NDArray[np.uint8],
    names: Sequence[str | None],
) -> list[msgspec.Raw]:
    """Forward, its source, and the time to expiry of n options.

    Args:
        expiry_ids: [n].
        rounds: Small numbers [n]; rows that agree in expiry, round and second agree in the rest.
        at_s: Whole epoch seconds for which they are priced [n].
        tte: Years [n].
        forward: Rupees [n], NaN for none.
        source: Codes into `names` [n].
        names: Of the sources.
    """
    if not tte.size:
        return []
    ids = expiry_ids + rounds * (int(expiry_ids.max()) + 1)
    which = _alike(ids, at_s.astype(np.int64))
    first = which.first
    texts = [
        msgspec.Raw(_ENCODER.encode(_VALUATION(f, names[s], t))[_VALUATION_START:-1])
        for f, s, t in zip(
            forward[first].tolist(), source[first].tolist(), tte[first].tolist(), strict=True
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
