"""From the market's columns to Kite frames: every packet is encoded once, whoever wants it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

from libs.common.kite.frames import (
    Mode,
    Records,
    frame_of,
    full_records,
    index_full_records,
    index_quote_records,
    ltp_records,
    quote_records,
)
from services.simulator.domain.market import Market, Quotes
from services.simulator.domain.universe import Universe

Rows = NDArray[np.int64]
PACKETS_PER_FRAME: Final = 300


class Lane(IntEnum):
    """The five kinds of packets."""

    FULL = 0
    QUOTE = 1
    LTP = 2
    INDEX_FULL = 3
    INDEX_QUOTE = 4


Plan = tuple[Rows, ...]
"""One ascending array of rows per lane: what a connection wants, or what was encoded."""

NOTHING: Final[Plan] = tuple(np.zeros(0, np.int64) for _ in Lane)


def plan_of(universe: Universe, modes: Mapping[int, Mode]) -> Plan:
    """Sort wanted tokens into lanes; tokens that do not exist are left out, as Kite does.

    Args:
        universe: The instruments.
        modes: Token -> mode.
    """
    lanes: list[list[int]] = [[] for _ in Lane]
    for token, mode in modes.items():
        row = universe.row_of_token.get(token)
        if row is None:
            continue
        if mode is Mode.LTP:
            lane = Lane.LTP
        elif universe.is_index[row]:
            lane = Lane.INDEX_FULL if mode is Mode.FULL else Lane.INDEX_QUOTE
        else:
            lane = Lane.FULL if mode is Mode.FULL else Lane.QUOTE
        lanes[lane].append(row)
    return tuple(np.sort(np.array(rows, np.int64)) for rows in lanes)


def union(plans: Iterable[Plan]) -> Plan:
    """Give the rows that at least one plan wants, per lane."""
    lanes = list(zip(*plans, strict=True))
    return tuple(np.unique(np.concatenate(rows)) for rows in lanes) if lanes else NOTHING


@dataclass(frozen=True, slots=True)
class Batch:
    """Encoded packets.

    Attributes:
        rows: Which rows, per lane, ascending.
        records: Their packets, per lane, in the same order.
    """

    rows: Plan
    records: tuple[Records, ...]

    def frames(self, plan: Plan) -> list[bytes]:
        """Give the frames with the packets that a plan wants and this batch has."""
        chosen: list[Records] = []
        for lane in Lane:
            rows, wanted = self.rows[lane], plan[lane]
            if rows.size and wanted.size:
                place = np.searchsorted(rows, wanted)
                place[place == rows.size] = 0
                place = place[rows[place] == wanted]
                if place.size:
                    chosen.append(self.records[lane][place])
        return _cut(chosen)


def encode(market: Market, quotes: Quotes, plan: Plan, *, ticked_only: bool) -> Batch:
    """Encode packets of the present state.

    Args:
        market: The instruments.
        quotes: Their state.
        plan: Which rows in which lane.
        ticked_only: Leave out what did not change in the last step.
    """
    rows = tuple(lane[quotes.ticked[lane]] for lane in plan) if ticked_only else plan
    return Batch(rows, tuple(_records(market, quotes, lane, rows[lane]) for lane in Lane))


def _records(market: Market, quotes: Quotes, lane: Lane, rows: Rows) -> Records:
    tokens = market.universe.tokens[rows]
    last = quotes.last[rows]
    if lane is Lane.LTP:
        return ltp_records(token=tokens, last_price=last)
    day = {
        "open": quotes.open[rows],
        "high": quotes.high[rows],
        "low": quotes.low[rows],
        "close": quotes.close[rows],
    }
    if lane is Lane.INDEX_QUOTE:
        return index_quote_records(token=tokens, last_price=last, **day)
    if lane is Lane.INDEX_FULL:
        return index_full_records(
            token=tokens, last_price=last, **day, exchange_ts_s=quotes.at_seconds
        )
    depth = market.depth(quotes, rows)
    head = {
        "token": tokens,
        "last_price": last,
        "last_quantity": quotes.last_quantity[rows],
        "average_price": quotes.average[rows],
        "volume": quotes.volume[rows],
        "buy_quantity": depth.buy_quantity,
        "sell_quantity": depth.sell_quantity,
        **day,
    }
    if lane is Lane.QUOTE:
        return quote_records(**head)
    return full_records(
        **head,
        last_trade_ts_s=quotes.last_trade_s[rows],
        oi=quotes.oi[rows],
        oi_high=quotes.oi[rows],
        oi_low=quotes.oi_low[rows],
        exchange_ts_s=quotes.at_seconds,
        depth_quantity=depth.quantity,
        depth_price=depth.price,
        depth_orders=depth.orders,
    )


def _cut(batches: Sequence[Records]) -> list[bytes]:
    """Put packets into frames of bounded size, lanes mixed."""
    frames: list[bytes] = []
    waiting: list[Records] = []
    room = PACKETS_PER_FRAME
    for batch in batches:
        start = 0
        while start < batch.size:
            piece = batch[start : start + room]
            waiting.append(piece)
            start += piece.size
            room -= piece.size
            if room == 0:
                frames.append(frame_of(*waiting))
                waiting, room = [], PACKETS_PER_FRAME
    if waiting:
        frames.append(frame_of(*waiting))
    return frames
