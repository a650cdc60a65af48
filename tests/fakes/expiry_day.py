"""A noisy expiry day: several underlyings whose packets hold everything that feeds ever sent."""

from collections.abc import Iterator
from datetime import date, datetime

import numpy as np
import numpy.typing as npt

from libs.common.domain.clock import IST
from libs.common.domain.instruments import Instrument
from libs.common.domain.market_calendar import CALENDAR
from libs.common.kite.frames import frame_of
from tests.fakes.kite_frames import FakeMarket

EXPIRY, NEXT = date(2026, 12, 1), date(2026, 12, 8)
CLOSE_S = int(CALENDAR.expiry_instant("NFO", EXPIRY).timestamp())
OPEN_S = int(datetime(2026, 12, 1, 9, 15, tzinfo=IST).timestamp())
SECONDS_LEFT = (20_000, 10_000, 5_000, 2_500, 1_200, 600, 240, 90, 30, -30)
"""Moments of the day; the last but one is `expiring`, the last after the end."""

_NOTHING = np.zeros(10, np.int64)


class ExpiryDay:
    """NIFTY, BANKNIFTY and FINNIFTY on the last day of one of their two expiries.

    Args:
        seed: Of everything that is random.
        faults: Whether packets go wrong: nothing traded, one-sided, crossed or absurd books.
        noise: How far a last price lies from fair, in shares of the price and in rupees of an
            index that moved since; 0 for prices that are only rounded to the tick.

    Attributes:
        markets: The three.
    """

    def __init__(self, seed: int, *, faults: bool = True, noise: float = 1.0) -> None:
        self._rng = np.random.default_rng(seed)
        self._faults = faults
        self._noise = noise
        rows = (
            ("NIFTY", 24_500.0, 50.0),
            ("BANKNIFTY", 52_000.0, 100.0),
            ("FINNIFTY", 23_100.0, 50.0),
        )
        self.markets = [
            FakeMarket(
                name,
                spot,
                step,
                strikes_each_side=18,
                expiries=(EXPIRY, NEXT),
                # Only one of them has a future that ends today: the others' forwards are parities.
                futures=(EXPIRY,) if name == "BANKNIFTY" else (),
                first_token=40_000 + 10_000 * number,
                now_s=OPEN_S,
            )
            for number, (name, spot, step) in enumerate(rows)
        ]

    def frames(self, seconds_left: int, *, turns: int) -> Iterator[bytes]:
        """Frames of full packets: every option once a turn, turns a second apart."""
        for turn in range(turns):
            for market in self.markets:
                market.now_s = CLOSE_S - seconds_left + turn
                market.spot = round(market.spot * (1 + self._rng.normal(0, 2e-4)), 2)
                options = market.options
                self._rng.shuffle(options)
                half = len(options) // 2
                future = [market.full(market.instruments[1:2])] if market.futures else []
                yield frame_of(
                    market.index_packet(), *future, self._packets(market, options[:half])
                )
                yield frame_of(self._packets(market, options[half:]))

    def _packets(self, market: FakeMarket, items: list[Instrument]) -> npt.NDArray[np.void]:
        """Full packets whose last prices are older than their books."""
        rng, n = self._rng, len(items)
        fair = np.array([market.fair(item) for item in items])
        # In the money a contract trades rarely: its last price knows an index of before.
        moved = rng.normal(0, 4.0, n) * (fair > market.spot * 0.002)
        last = fair * (1 + self._noise * rng.normal(0, 0.02, n)) + self._noise * moved
        half_spread = 0.05 + self._noise * fair * rng.uniform(0.001, 0.01, n)
        steps = np.arange(5) * 0.05
        book = np.hstack(
            ((fair - half_spread)[:, None] - steps, (fair + half_spread)[:, None] + steps)
        )
        paise = np.maximum(np.round(last * 20) * 5, 5).astype(np.int64)
        depth = np.maximum(np.round(book * 20) * 5, 0).astype(np.int64)
        quantity = np.where(depth > 0, 75, 0)
        if self._faults:
            self._spoil(paise, depth, quantity)
        packets: npt.NDArray[np.void] = market.full(
            items, last=paise, depth_price=depth, depth_quantity=quantity
        )
        return packets

    def _spoil(
        self,
        paise: npt.NDArray[np.int64],
        depth: npt.NDArray[np.int64],
        quantity: npt.NDArray[np.int64],
    ) -> None:
        """One packet in six goes wrong."""
        fault = self._rng.choice(8, paise.size, p=[0.84, *[0.16 / 7] * 7])
        paise[fault == 1] = 0
        for side, code in ((slice(0, 5), 2), (slice(5, 10), 3)):
            quantity[fault == code, side] = 0
            depth[fault == code, side] = 0
        depth[fault == 4] = depth[fault == 4][:, ::-1]
        depth[fault == 5] = quantity[fault == 5] = _NOTHING
        paise[fault == 6] = np.maximum(paise[fault == 6] - 2_500, 5)
        absurd = np.flatnonzero(fault == 7)
        paise[absurd] = self._rng.choice([1, 5_000_000, 0x7FFF_FFFF, 0xFFFF_FFFF], absurd.size)
        depth[absurd] = self._rng.integers(0, 0xFFFF_FFFF, (absurd.size, 10))
