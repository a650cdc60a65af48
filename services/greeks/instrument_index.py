"""Finds the instrument of a token, and those of its underlying, in any set of the fleet."""

import asyncio
from collections.abc import Callable

import msgspec

from libs.common import logs
from libs.common.contracts import codec
from libs.common.contracts.messages import InstrumentSet, Message
from libs.common.domain.instruments import Instrument

log = logs.get_logger(__name__)


class _Row(Message, frozen=True, kw_only=True):
    instrument_token: int


class _TokenSet(Message, frozen=True, kw_only=True):
    """An `InstrumentSet` read for its tokens only: a third of the time."""

    instruments: tuple[_Row, ...]


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """An instrument with all others of its underlying.

    Attributes:
        instrument: The one asked for.
        of_underlying: The set it is in.
    """

    instrument: Instrument
    of_underlying: InstrumentSet


class InstrumentIndex:
    """Which instrument set holds a token, over all underlyings and not only the leased shards.

    Sets that changed are noted and read when somebody asks, for their tokens alone and one by
    one, so that neither a new dump nor a request holds the loop for long. The one set that is
    asked about is decoded whole.

    Args:
        read: Gives the newest bytes of a set by its key, None if it is gone.
    """

    def __init__(self, read: Callable[[str], bytes | None]) -> None:
        self._read = read
        self._unread: set[str] = set()
        # The newest bytes that could be read, which the reader of the bucket holds as well.
        self._sets: dict[str, bytes] = {}
        # By token, whose set it is in: a token may move from one underlying to another, and the
        # sets arrive one by one, in either order.
        self._key_of: dict[int, str] = {}
        self._tokens_of: dict[str, frozenset[int]] = {}

    @property
    def is_empty(self) -> bool:
        """Whether no set is known at all."""
        return not self._tokens_of and not self._unread

    def note(self, key: str) -> None:
        """A set has changed, or is gone."""
        self._unread.add(key)

    async def find(self, token: int) -> Found | None:
        """Find an instrument; None if no set holds its token."""
        while self._unread:
            self._learn(self._unread.pop())
            await asyncio.sleep(0)
        key = self._key_of.get(token)
        if key is None:
            return None
        value = self._sets[key]
        try:
            found = codec.from_msgpack(InstrumentSet, value)
        except codec.DecodeError as error:
            log.warning("instruments.unreadable", underlying=key, reason=error.reason)
            return None
        for item in found.instruments:
            if item.instrument_token == token:
                return Found(instrument=item, of_underlying=found)
        return None

    def _learn(self, key: str) -> None:
        value = self._read(key)
        fresh: frozenset[int] = frozenset()
        if value is not None:
            try:
                decoded = codec.from_msgpack(_TokenSet, value)
            except codec.DecodeError as error:
                # Counted by the worker that prices it.
                log.error("instruments.unreadable", underlying=key, reason=error.reason)
                return  # The one before stays in force.
            self._sets[key] = value
            fresh = frozenset(row.instrument_token for row in decoded.instruments)
        else:
            self._sets.pop(key, None)
        for token in self._tokens_of.pop(key, frozenset()) - fresh:
            if self._key_of.get(token) == key:
                del self._key_of[token]
        if fresh:
            self._tokens_of[key] = fresh
            self._key_of.update(dict.fromkeys(fresh, key))
