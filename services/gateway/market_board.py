"""Reads the newest chain, volatility curve and forwards of an expiry, as the bytes they are."""

from datetime import date
from typing import Final, NamedTuple

from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusUnavailableError, RefusedError
from libs.common.bus.newest import kept_subjects, newest, newest_of
from libs.common.contracts import streams, subjects
from libs.common.domain.nearest import missing
from services.gateway.errors import MarketUnavailableError, NotFoundError


class Kind(NamedTuple):
    """Something that is kept of every expiry.

    Attributes:
        words: What people call it.
        pattern: Its subjects.
    """

    words: str
    pattern: str


CHAIN: Final = Kind("chain", subjects.ALL_CHAINS)
CURVE: Final = Kind("volatility curve", subjects.ALL_VOL_CURVES)


class MarketBoard:
    """Direct reads from the streams that keep the newest of each expiry.

    Nothing is kept here and nothing is parsed: what greeks published is what the client gets.

    Args:
        bus: The connection.
    """

    def __init__(self, bus: Bus) -> None:
        self._bus = bus

    async def chain(self, underlying: str, expiry: date) -> bytes:
        """The newest Chain.

        Raises:
            NotFoundError: There is none; names what there is.
            MarketUnavailableError: NATS does not answer.
        """
        return await self._one(CHAIN, subjects.chain(underlying, expiry), underlying, expiry)

    async def curve(self, underlying: str, expiry: date) -> bytes:
        """The newest VolCurve; raises as `chain` does."""
        return await self._one(CURVE, subjects.vol_curve(underlying, expiry), underlying, expiry)

    async def forwards(self, underlying: str) -> list[bytes]:
        """The newest Forward of every expiry, nearest first; raises as `chain` does."""
        stream = streams.MD_FORWARDS.name
        try:
            held = await kept_subjects(self._bus, stream, subjects.forwards_of(underlying))
            found = await newest_of(self._bus, stream, held)
            if found:
                return list(found.values())
            others = await kept_subjects(self._bus, stream, subjects.ALL_FORWARDS)
        except (BusUnavailableError, RefusedError) as error:
            raise MarketUnavailableError(str(error)) from error
        raise NotFoundError("underlying", _missing("forward", underlying, None, others))

    async def _one(self, kind: Kind, subject: str, underlying: str, expiry: date) -> bytes:
        stream = streams.MD_CHAINS.name
        try:
            found = await newest(self._bus, stream, subject)
            if found is not None:
                return found
            held = await kept_subjects(self._bus, stream, kind.pattern)
        except (BusUnavailableError, RefusedError) as error:
            raise MarketUnavailableError(str(error)) from error
        is_known = any(name == underlying for name, _ in map(subjects.expiry_of, held))
        raise NotFoundError(
            "expiry" if is_known else "underlying",
            _missing(kind.words, underlying, expiry, held),
        )


def _missing(words: str, underlying: str, expiry: date | None, held: list[str]) -> str:
    return missing(words, underlying, expiry, map(subjects.expiry_of, held))
