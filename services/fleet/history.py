"""Candles for a person: asks a running fleet over its bus and prints lines of CSV."""

import csv
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from typing import Final

import msgspec

from libs.common.bus.connection import Bus
from libs.common.bus.errors import NoResponderError, RequestTimeoutError
from libs.common.bus.market_requests import candles, history
from libs.common.contracts.messages import (
    Candle,
    CandlesRequest,
    HistoryRequest,
    PricedCandle,
)
from libs.common.domain.clock import IST
from libs.common.settings import NatsSettings
from services.fleet.errors import FleetCannotAnswerError

_CONNECT_SECONDS = 3.0
_COLUMNS: Final = ("time", "open", "high", "low", "close", "volume")
_GREEKS: Final = (
    *("iv", "delta", "gamma", "theta", "vega", "rho"),
    *("iv_status", "forward", "forward_source", "tte"),
)


async def print_history(
    nats_url: str, request: HistoryRequest, *, account: str | None, write: Callable[[str], object]
) -> int:
    """Ask for candles and write each as a line, as soon as its part has come.

    Args:
        nats_url: Of the running fleet.
        request: Which candles.
        account: Through this account alone; None for any.
        write: Takes text that ends with a line break.

    Returns:
        How many candles came.

    Raises:
        FleetCannotAnswerError: Nobody can serve it.
        ServiceRefusedError: The request is wrong.
        ServiceBusyError: It cannot be served now.
        ConnectDeadlineError: The bus does not answer.
    """
    settings = NatsSettings(nats_url=nats_url, nats_connect_deadline_seconds=_CONNECT_SECONDS)
    lines = csv.writer(_Lines(write), lineterminator="\n")
    lines.writerow([*_COLUMNS, "oi"] if request.oi else _COLUMNS)
    count = 0
    async with Bus.open(settings, name="tickfleet-history") as bus:
        try:
            async with history(bus, request, account=account) as parts:
                async for part in parts:
                    lines.writerows(_row(candle, with_oi=request.oi) for candle in part.candles)
                    count += len(part.candles)
        except NoResponderError as error:
            who = f"account {account}" if account else "an account"
            raise FleetCannotAnswerError(
                f"no ingest process holds {who} with a session that Kite accepts"
            ) from error
        except RequestTimeoutError as error:
            raise FleetCannotAnswerError(str(error)) from error
    return count


async def print_priced_history(
    nats_url: str, request: CandlesRequest, *, write: Callable[[str], object]
) -> int:
    """Ask for candles with Greeks; see `print_history` for the arguments and what it raises.

    Returns:
        How many candles came.
    """
    settings = NatsSettings(nats_url=nats_url, nats_connect_deadline_seconds=_CONNECT_SECONDS)
    lines = csv.writer(_Lines(write), lineterminator="\n")
    names = [*_COLUMNS, "oi"] if request.oi else _COLUMNS
    lines.writerow([*names, *_GREEKS])
    count = 0
    async with Bus.open(settings, name="tickfleet-history") as bus:
        try:
            async with candles(bus, request) as parts:
                async for part in parts:
                    priced = msgspec.json.decode(part.candles, type=list[PricedCandle])
                    lines.writerows(_priced_row(candle, with_oi=request.oi) for candle in priced)
                    count += len(priced)
        except NoResponderError as error:
            raise FleetCannotAnswerError("no greeks process runs") from error
        except RequestTimeoutError as error:
            raise FleetCannotAnswerError(str(error)) from error
    return count


def moment(text: str, *, is_end: bool) -> int:
    """Read a date or a time as epoch seconds, Indian time unless it names a zone.

    Args:
        text: ISO 8601, such as `2026-11-18` or `2026-11-18T09:15`.
        is_end: Whether a bare date means its last second instead of its first.

    Raises:
        ValueError: It is neither.
    """
    try:
        if len(text) == 10:
            day = datetime.combine(date.fromisoformat(text), time.min, tzinfo=IST)
            return (
                int((day + timedelta(days=1)).timestamp()) - 1 if is_end else int(day.timestamp())
            )
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"{text!r} is no date or time, such as 2026-11-18 or 2026-11-18T09:15"
        ) from None
    return int((at if at.tzinfo else at.replace(tzinfo=IST)).timestamp())


def _row(candle: Candle, *, with_oi: bool) -> list[object]:
    stamp = datetime.fromtimestamp(candle.start, IST).isoformat()
    row = [stamp, candle.open, candle.high, candle.low, candle.close, candle.volume]
    return [*row, candle.oi] if with_oi else row


def _priced_row(candle: PricedCandle, *, with_oi: bool) -> list[object]:
    row = [candle.date, candle.open, candle.high, candle.low, candle.close, candle.volume]
    greeks = [None if candle.greeks is None else getattr(candle.greeks, name) for name in _GREEKS]
    return [*row, candle.oi, *greeks] if with_oi else [*row, *greeks]


class _Lines:
    """What the csv module wants: something to write to."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self.write = write
