"""Candles of one piece of a span, as one account fetched them."""

from typing import NamedTuple

from libs.common.contracts.messages import Candle, Source


class CandlePiece(NamedTuple):
    """What one call to Kite gave.

    Attributes:
        candles: Ascending, each once.
        source: Whose market the session was of that fetched them; None if the process that did
            is older than this field.
    """

    candles: list[Candle]
    source: Source | None
