"""Spells candles as the JSON that the gateway hands on, in parts of bounded size."""

from collections.abc import Iterator
from itertools import repeat
from typing import Final

import msgspec
import numpy as np

from libs.common.contracts.messages import CandleGreeks, PricedCandle
from services.greeks.domain.candle_columns import Columns, Ints
from services.greeks.domain.candle_pricing import SOURCES, STATUSES, PricedCandles

CANDLES_PER_PART: Final = 1_000
"""In one message: about 0.4 MB with Greeks, less than half of what NATS takes by default."""

_INDIA_SECONDS: Final = 19_800
_ZONE: Final = "+05:30"
_ENCODER: Final = msgspec.json.Encoder()


def parts_of(
    candles: Columns, priced: PricedCandles | None, *, with_oi: bool
) -> Iterator[msgspec.Raw]:
    """JSON arrays of `PricedCandle`, in order; one empty array if there are no candles.

    Args:
        candles: What is spelled [n].
        priced: Their Greeks [n]; None for candles without.
        with_oi: Whether open interest is shown; null where there is none.
    """
    for first in range(0, max(candles.size, 1), CANDLES_PER_PART):
        rows = slice(first, first + CANDLES_PER_PART)
        greeks = repeat(None) if priced is None else _greeks(priced, rows)
        yield msgspec.Raw(_ENCODER.encode(_rows(candles.rows(rows), greeks, with_oi=with_oi)))


def dates_of(start: Ints) -> list[str]:
    """Moments as ISO 8601 in Indian time with its zone."""
    local = (start + _INDIA_SECONDS).astype("datetime64[s]")
    return [f"{text}{_ZONE}" for text in np.datetime_as_string(local).tolist()]


def _rows(
    candles: Columns, greeks: "Iterator[CandleGreeks] | repeat[None]", *, with_oi: bool
) -> list[PricedCandle]:
    columns = zip(
        dates_of(candles.start),
        candles.open.tolist(),
        candles.high.tolist(),
        candles.low.tolist(),
        candles.close.tolist(),
        candles.volume.tolist(),
        candles.oi.tolist(),
        greeks,
        strict=False,
    )
    return [
        PricedCandle(
            date=date,
            open=opening,
            high=high,
            low=low,
            close=close,
            volume=volume,
            oi=oi if with_oi and oi >= 0 else None,
            greeks=values,
        )
        for date, opening, high, low, close, volume, oi, values in columns
    ]


def _greeks(priced: PricedCandles, rows: slice) -> Iterator[CandleGreeks]:
    """One after the other; NaN becomes null on the wire."""
    columns = zip(
        *(values[rows].tolist() for values in priced.values),
        priced.status[rows].tolist(),
        priced.forward[rows].tolist(),
        priced.source[rows].tolist(),
        priced.tte[rows].tolist(),
        strict=True,
    )
    for iv, delta, gamma, theta, vega, rho, status, forward, source, tte in columns:
        yield CandleGreeks(
            iv=iv,
            delta=delta,
            gamma=gamma,
            theta=theta,
            vega=vega,
            rho=rho,
            iv_status=STATUSES[status],
            forward=forward,
            forward_source=SOURCES[source],
            tte=tte,
        )
