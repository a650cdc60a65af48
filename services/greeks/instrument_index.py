"""Finds any instrument of the fleet by its token, whichever shard it is priced in."""

from array import array

import msgspec

from libs.common import logs
from libs.common.contracts import subjects
from libs.common.domain.instruments import Instrument
from services.greeks import metrics

log = logs.get_logger(__name__)


class _Numbered(msgspec.Struct, gc=False):
    instrument_token: int


class _Tokens(msgspec.Struct):
    instruments: list[_Numbered]


class _Rows(msgspec.Struct):
    instruments: list[msgspec.Raw]


_TOKENS = msgspec.msgpack.Decoder(_Tokens)
_ROWS = msgspec.msgpack.Decoder(_Rows)
_INSTRUMENT = msgspec.msgpack.Decoder(Instrument)


class InstrumentIndex:
    """Every instrument set of the fleet, as the bytes it came in and the tokens it holds.

    A process prices only its own shards, but may be asked about any instrument. Decoded they would
    weigh 70 MB per hundred thousand, ten times their tokens, so only what is asked for is decoded.
    """

    def __init__(self) -> None:
        self._sets: dict[str, bytes] = {}
        self._tokens: dict[str, array[int]] = {}
        self._key_of: dict[int, str] = {}

    def __len__(self) -> int:
        """How many instruments are known."""
        return len(self._key_of)

    def changed(self, key: str, value: bytes | None) -> None:
        """Take one key of the bucket of instrument sets.

        An unreadable set is counted, and the one before stays in force.

        Args:
            key: Escaped name of the underlying.
            value: An `InstrumentSet` in MessagePack; None when there is none any more.
        """
        tokens: array[int] = array("Q")
        if value is not None:
            try:
                found = _TOKENS.decode(value)
                tokens.extend(item.instrument_token for item in found.instruments)
            except (msgspec.DecodeError, ValueError, OverflowError) as error:
                metrics.BAD_SETS_TOTAL.inc()
                log.error(
                    "instruments.unreadable", underlying=subjects.unescape(key), reason=str(error)
                )
                return
        for token in self._tokens.pop(key, ()):
            # One that moved to another underlying is that one's now.
            if self._key_of.get(token) == key:
                del self._key_of[token]
        self._sets.pop(key, None)
        if value is None:
            return
        self._sets[key] = value
        self._tokens[key] = tokens
        for token in tokens:
            self._key_of[token] = key

    def find(self, token: int) -> Instrument | None:
        """The instrument of a token; None if no set holds it, or its row cannot be read."""
        key = self._key_of.get(token)
        if key is None:
            return None
        row = _ROWS.decode(self._sets[key]).instruments[self._tokens[key].index(token)]
        try:
            return _INSTRUMENT.decode(row)
        except (msgspec.DecodeError, ValueError) as error:
            log.error("instruments.unreadable", token=token, reason=str(error))
            return None
