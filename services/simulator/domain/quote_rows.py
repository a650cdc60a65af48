"""Quotes as the REST API shows them: rupees, names and Indian wall-clock times."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from libs.common.domain.clock import NS_PER_SECOND, ist_datetime
from services.simulator.domain.market import Market, Quotes
from services.simulator.domain.universe import Universe


def last_price(universe: Universe, quotes: Quotes, row: int) -> dict[str, Any]:
    """Give token and last price of an instrument."""
    return {
        "instrument_token": int(universe.tokens[row]),
        "last_price": float(quotes.last[row]) / 100,
    }


def ohlc(quotes: Quotes, row: int) -> dict[str, float]:
    """Give the day's open, high and low, and the previous session's close."""
    return {
        "open": float(quotes.open[row]) / 100,
        "high": float(quotes.high[row]) / 100,
        "low": float(quotes.low[row]) / 100,
        "close": float(quotes.close[row]) / 100,
    }


def quotes(
    market: Market, state: Quotes, rows: Mapping[str, int], *, now_ns: int
) -> dict[str, dict[str, Any]]:
    """Give full quotes under the keys by which they were asked for.

    Args:
        market: The instruments.
        state: Their state.
        rows: Key of the request -> row.
        now_ns: The `timestamp` of all, virtual epoch nanoseconds: it goes on while prices rest.
    """
    depth = market.depth(state, np.array(list(rows.values()), np.int64))
    result = {}
    for place, (key, row) in enumerate(rows.items()):
        levels = [
            {
                "price": float(depth.price[place, level]) / 100,
                "quantity": int(depth.quantity[place, level]),
                "orders": int(depth.orders[place, level]),
            }
            for level in range(10)
        ]
        traded_s = int(state.last_trade_s[row])
        lower, upper = circuit_paise(market, state, row)
        result[key] = {
            **last_price(market.universe, state, row),
            "timestamp": _wall_clock(now_ns),
            "last_trade_time": _wall_clock(traded_s * NS_PER_SECOND) if traded_s else None,
            "last_quantity": int(state.last_quantity[row]),
            "buy_quantity": int(depth.buy_quantity[place]),
            "sell_quantity": int(depth.sell_quantity[place]),
            "volume": int(state.volume[row]),
            "average_price": float(state.average[row]) / 100,
            "oi": int(state.oi[row]),
            "oi_day_high": int(state.oi[row]),
            "oi_day_low": int(state.oi_low[row]),
            "net_change": float(state.last[row] - state.close[row]) / 100,
            "lower_circuit_limit": lower / 100,
            "upper_circuit_limit": upper / 100,
            "ohlc": ohlc(state, row),
            "depth": {"buy": levels[:5], "sell": levels[5:]},
        }
    return result


def circuit_paise(market: Market, state: Quotes, row: int) -> tuple[int, int]:
    """Give lowest and highest price: 10 % around the close, for options 20 % of the underlying.

    Args:
        market: The instruments.
        state: Their state.
        row: Which one; an index has no limits: zeros.
    """
    if market.universe.is_index[row]:
        return 0, 0
    tick = int(market.universe.tick_paise[row])
    close = int(state.close[row])
    width = close // 10
    if market.universe.flag[row]:
        # The underlyings are the first rows of the universe, in their own order.
        width = int(state.close[market.universe.underlying[row]]) // 5
    lower = max(tick, (close - width) // tick * tick)
    return lower, (close + width) // tick * tick


def _wall_clock(at_ns: int) -> str:
    return ist_datetime(at_ns).strftime("%Y-%m-%d %H:%M:%S")
