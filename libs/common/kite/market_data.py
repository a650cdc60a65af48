"""Candles and quotes of Kite's REST interface, fetched raw: no date is parsed row by row.

Unlike `rest`, this module needs no `kiteconnect`: see docs/adr/0013.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import pairwise
from typing import Any, Final, Self, TypeVar

import httpx
import msgspec

from libs.common.contracts.messages import Candle, CandleInterval, Source
from libs.common.domain.candle_spans import Span
from libs.common.domain.clock import IST
from libs.common.kite.errors import (
    KiteInputError,
    KitePermissionError,
    KiteRateLimitedError,
    KiteTokenError,
    KiteUnavailableError,
)

LIVE_ROOT: Final = "https://api.kite.trade"
INSTRUMENTS_AT_ONCE: Final = 250
"""Of one quote call: Kite takes 500, but long symbols make an address that proxies refuse."""

_REASON_CHARACTERS: Final = 200
_KITE_OFFSET: Final = "+0530"
_TIME_FIELDS: Final = ("timestamp", "last_trade_time")

D = TypeVar("D")


class KiteAccess(msgspec.Struct, frozen=True, kw_only=True):
    """With whose session to call; never printed.

    Attributes:
        api_key: The app's key: Kite counts calls by it.
        access_token: The session's token.
        root: Root of the REST interface, such as `https://api.kite.trade`.
        source: Whether that is Kite or the simulator.
    """

    api_key: str
    access_token: str
    root: str
    source: Source = Source.LIVE

    def __repr__(self) -> str:
        return f"KiteAccess(root={self.root!r}, …)"


class _Error(msgspec.Struct):
    """Kite's envelope of an error."""

    message: str | None = None
    error_type: str | None = None


class _Row(msgspec.Struct, array_like=True, gc=False):
    """One candle as Kite sends it; counts are read as floats since nobody promises integers."""

    stamp: str
    open: float
    high: float
    low: float
    close: float
    volume: float
    oi: float | None = None


class _Candles(msgspec.Struct):
    candles: list[_Row]


class _CandleAnswer(msgspec.Struct):
    data: _Candles


class _QuoteAnswer(msgspec.Struct):
    # Values stay as they came, so that every number keeps its spelling.
    data: dict[str, dict[str, msgspec.Raw]]


_ERRORS = msgspec.json.Decoder(_Error)
_CANDLES = msgspec.json.Decoder(_CandleAnswer)
_QUOTES = msgspec.json.Decoder(_QuoteAnswer)


class KiteMarketData:
    """Read calls for candles and quotes, for all accounts of a process.

    Every call ends by its deadline, whatever the network does. None is repeated, and none waits
    for Kite's limits: both are up to the caller.

    Args:
        client: The HTTP client; `opened` makes one.
        deadline_seconds: Of one call, from the connect to the last byte.
    """

    def __init__(self, client: httpx.AsyncClient, *, deadline_seconds: float) -> None:
        self._client = client
        self._deadline_seconds = deadline_seconds

    @classmethod
    @asynccontextmanager
    async def opened(cls, *, deadline_seconds: float, connections: int) -> AsyncIterator[Self]:
        """Keep connections to Kite until the block ends.

        Args:
            deadline_seconds: Of one call.
            connections: At most; further calls wait for one within their deadline.
        """
        async with httpx.AsyncClient(
            headers={"X-Kite-Version": "3", "User-Agent": "tickfleet"},
            limits=httpx.Limits(max_connections=connections),
            timeout=deadline_seconds,
        ) as client:
            yield cls(client, deadline_seconds=deadline_seconds)

    async def candles(
        self,
        access: KiteAccess,
        instrument_token: int,
        interval: CandleInterval,
        span: Span,
        *,
        oi: bool = False,
        continuous: bool = False,
    ) -> list[Candle]:
        """Candles whose first instant lies in the span, ascending, each once.

        Args:
            access: With whose session.
            instrument_token: Of what.
            interval: Length of a candle.
            span: Epoch seconds, both ends inclusive; within what Kite gives at once.
            oi: Whether to ask for open interest.
            continuous: Day candles of expired futures through a living contract.

        Raises:
            KiteUnavailableError: No answer in time, a server fault, or no candles in the answer.
            KiteRateLimitedError: Above three calls a second and key.
            KiteTokenError: The session is dead.
            KitePermissionError: The app has no access to historical data.
            KiteInputError: Refused parameters.
        """
        body = await self._get(
            "historical",
            access,
            f"/instruments/historical/{instrument_token}/{interval.value}",
            [
                ("from", wall_clock(span.start)),
                ("to", wall_clock(span.end)),
                ("interval", interval.value),
                ("continuous", "1" if continuous else "0"),
                ("oi", "1" if oi else "0"),
            ],
        )
        # 20 ms for the largest answers: too long for the loop that feeds frames to the bus.
        return await asyncio.to_thread(parse_candles, body, span)

    async def quotes(
        self, access: KiteAccess, instruments: Sequence[str]
    ) -> dict[str, msgspec.Raw]:
        """Kite's own quote objects by the name asked for, times as ISO 8601 with zone.

        Args:
            access: With whose session.
            instruments: `EXCHANGE:SYMBOL` or tokens as text, `INSTRUMENTS_AT_ONCE` at most;
                unknown ones are absent from the answer.

        Raises:
            KiteUnavailableError: No answer in time, a server fault, or no quotes in the answer.
            KiteRateLimitedError: Above one call a second and key.
            KiteTokenError: The session is dead.
            KitePermissionError: The app has no access to quotes.
            KiteInputError: Refused parameters.
        """
        body = await self._get("quote", access, "/quote", [("i", name) for name in instruments])
        return parse_quotes(body)

    async def _get(
        self, call: str, access: KiteAccess, path: str, query: Sequence[tuple[str, str]]
    ) -> bytes:
        headers = {"Authorization": f"token {access.api_key}:{access.access_token}"}
        try:
            # The client's own timeouts start anew with every packet; this one does not.
            async with asyncio.timeout(self._deadline_seconds):
                response = await self._client.get(
                    f"{access.root.rstrip('/')}{path}", params=tuple(query), headers=headers
                )
        except TimeoutError as error:
            raise KiteUnavailableError(
                call=call, reason=f"no answer within {self._deadline_seconds:g} s"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise KiteUnavailableError(
                call=call, reason=f"{type(error).__name__}: {error}"
            ) from error
        if response.status_code == 200:
            return response.content
        raise classify(call, response.status_code, response.content)


def classify(
    call: str, status: int, body: bytes
) -> (
    KiteInputError
    | KitePermissionError
    | KiteRateLimitedError
    | KiteTokenError
    | KiteUnavailableError
):
    """Sort an answer that is no success by what its caller should do.

    The status decides and not the error type, which is `NetworkException` for a refused limit
    and for an outage alike. A proxy's page, which is no JSON, is sorted the same way.
    """
    try:
        error = _ERRORS.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        error = _Error(message=f"HTTP {status}")
    reason = (error.message or f"HTTP {status}")[:_REASON_CHARACTERS]
    if status == 429:
        return KiteRateLimitedError(call=call)
    if status == 403:
        if error.error_type == "PermissionException":
            return KitePermissionError(call=call, reason=reason)
        return KiteTokenError(call=call, reason=reason)
    if 400 <= status < 500:
        return KiteInputError(call=call, reason=reason)
    return KiteUnavailableError(call=call, reason=f"{status}: {reason}")


def parse_candles(body: bytes, span: Span) -> list[Candle]:
    """Read an answer with candles, keep those that begin in the span, oldest first, each once.

    Raises:
        KiteUnavailableError: It is not one.
    """
    try:
        rows = _CANDLES.decode(body).data.candles
        midnights: dict[str, int] = {}
        candles = [_candle(row, midnights) for row in rows]
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise KiteUnavailableError(
            call="historical", reason=f"its answer cannot be read: {error}"
        ) from error
    candles = [candle for candle in candles if span.start <= candle.start <= span.end]
    if any(before.start >= after.start for before, after in pairwise(candles)):
        by_start = {candle.start: candle for candle in candles}
        candles = [by_start[start] for start in sorted(by_start)]
    return candles


def parse_quotes(body: bytes) -> dict[str, msgspec.Raw]:
    """Read an answer with quotes and give its Indian wall-clock times their zone.

    Raises:
        KiteUnavailableError: It is not one.
    """
    try:
        quotes = _QUOTES.decode(body).data
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise KiteUnavailableError(
            call="quote", reason=f"its answer cannot be read: {error}"
        ) from error
    return {name: msgspec.Raw(msgspec.json.encode(_zoned(quote))) for name, quote in quotes.items()}


def wall_clock(epoch_seconds: int) -> str:
    """A moment as Kite's REST wants it: Indian time without a zone."""
    return datetime.fromtimestamp(epoch_seconds, IST).strftime("%Y-%m-%d %H:%M:%S")


def _candle(row: _Row, midnights: dict[str, int]) -> Candle:
    return Candle(
        _epoch_seconds(row.stamp, midnights),
        row.open,
        row.high,
        row.low,
        row.close,
        int(row.volume),
        None if row.oi is None else int(row.oi),
    )


def _epoch_seconds(stamp: str, midnights: dict[str, int]) -> int:
    """Read `2026-11-18T09:15:00+0530`; a day's midnight is worked out once."""
    if len(stamp) != 24 or stamp[19:] != _KITE_OFFSET:
        moment = datetime.fromisoformat(stamp)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=IST)).timestamp())
    day = stamp[:10]
    midnight = midnights.get(day)
    if midnight is None:
        midnight = int(datetime.fromisoformat(day).replace(tzinfo=IST).timestamp())
        midnights[day] = midnight
    return midnight + int(stamp[11:13]) * 3_600 + int(stamp[14:16]) * 60 + int(stamp[17:19])


def _zoned(quote: Mapping[str, msgspec.Raw]) -> dict[str, Any]:
    zoned: dict[str, Any] = dict(quote)
    for name in _TIME_FIELDS:
        raw = quote.get(name)
        if raw is None:
            continue
        text = msgspec.json.decode(raw)
        if isinstance(text, str) and text:
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                continue
            zoned[name] = moment.replace(tzinfo=moment.tzinfo or IST).isoformat()
    return zoned
