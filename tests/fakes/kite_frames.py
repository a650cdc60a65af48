"""A small option market that speaks in Kite frames: instruments, model prices, packets."""

from dataclasses import dataclass, field
from datetime import date, datetime
from itertools import count

import numpy as np
import numpy.typing as npt

from libs.common.contracts.messages import InstrumentSet
from libs.common.domain.clock import IST, ns_of
from libs.common.domain.instruments import Instrument, Kind, OptionType
from libs.common.domain.market_calendar import CALENDAR
from libs.common.kite.frames import (
    encode_frame,
    frame_of,
    full_records,
    index_full_records,
    ltp_records,
    quote_records,
)
from services.greeks.domain.pricing import price

NOON = ns_of(datetime(2026, 11, 23, 12, 0, tzinfo=IST)) // 1_000_000_000
"""Epoch seconds of a Monday noon at the exchange."""

_NFO, _INDICES, _NSE = 2, 9, 1


@dataclass
class FakeMarket:
    """One underlying with an index, a future and options of some expiries.

    Prices are on the paisa grid, from Black-76 at a smile around 15 %.
    """

    underlying: str = "NIFTY"
    spot: float = 24_500.0
    step: float = 50.0
    strikes_each_side: int = 20
    expiries: tuple[date, ...] = (date(2026, 11, 24), date(2026, 12, 1))
    futures: tuple[date, ...] = (date(2026, 11, 24),)
    first_token: int = 40_000
    carry: float = 0.05
    now_s: int = NOON
    instruments: list[Instrument] = field(init=False)
    _opened: dict[int, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        numbers = count(self.first_token)
        self.instruments = [
            self._instrument(next(numbers) * 256 + _INDICES, self.underlying, Kind.INDEX)
        ]
        for day in self.futures:
            name = f"{self.underlying}{day:%y%b}FUT".upper()
            self.instruments.append(
                self._instrument(next(numbers) * 256 + _NFO, name, Kind.FUTURE, day)
            )
        base = round(self.spot / self.step) * self.step
        for day in self.expiries:
            for offset in range(-self.strikes_each_side, self.strikes_each_side + 1):
                strike = base + offset * self.step
                for kind in OptionType:
                    name = f"{self.underlying}{day:%y%m%d}{strike:g}{kind.value}"
                    self.instruments.append(
                        self._instrument(
                            next(numbers) * 256 + _NFO, name, Kind.OPTION, day, strike, kind
                        )
                    )

    def _instrument(
        self,
        token: int,
        name: str,
        kind: Kind,
        expiry: date | None = None,
        strike: float | None = None,
        option_type: OptionType | None = None,
    ) -> Instrument:
        return Instrument(
            instrument_token=token,
            exchange_token=token >> 8,
            tradingsymbol=name,
            name=self.underlying,
            exchange="NFO" if expiry else "NSE",
            segment={Kind.OPTION: "NFO-OPT", Kind.FUTURE: "NFO-FUT"}.get(kind, "INDICES"),
            underlying=self.underlying,
            kind=kind,
            strike=strike,
            expiry=expiry,
            option_type=option_type,
            lot_size=75,
            tick_size=0.05,
        )

    @property
    def index(self) -> Instrument:
        """The index itself."""
        return self.instruments[0]

    @property
    def options(self) -> list[Instrument]:
        """All options, expiry by expiry, strike by strike."""
        return [item for item in self.instruments if item.kind is Kind.OPTION]

    def instrument_set(self, revision: int = 1) -> InstrumentSet:
        """What control would write into the bucket."""
        return InstrumentSet(
            underlying=self.underlying,
            revision=revision,
            market_date=date(2026, 11, 23),
            instruments=tuple(self.instruments),
        )

    def tte(self, expiry: date) -> float:
        """ACT/365 years from now to an expiry."""
        instant = ns_of(CALENDAR.expiry_instant("NFO", expiry)) / 1e9
        return max(instant - self.now_s, 0.0) / (365 * 86_400)

    def forward(self, expiry: date) -> float:
        """The forward that the options are priced on."""
        return float(self.spot * np.exp(self.carry * self.tte(expiry)))

    def fair(self, item: Instrument) -> float:
        """Model price in rupees."""
        if item.expiry is None:
            return self.spot
        forward = self.forward(item.expiry)
        if item.strike is None or item.option_type is None:
            return forward
        flag = 1 if item.option_type is OptionType.CALL else -1
        vol = 0.15 + 0.4 * (item.strike / forward - 1.0) ** 2
        return float(price(flag, forward, item.strike, self.tte(item.expiry), vol)[0])

    def paise(self, items: list[Instrument]) -> npt.NDArray[np.int64]:
        """Model prices on the five-paise grid, at least one tick."""
        fair = np.array([self.fair(item) for item in items])
        ticks: npt.NDArray[np.int64] = np.maximum(np.round(fair * 20) * 5, 5).astype(np.int64)
        return ticks

    def full(self, items: list[Instrument], last: npt.NDArray[np.int64] | None = None, **changes):
        """Full packets of tradable instruments, with a book of one tick around the price."""
        tokens = np.array([item.instrument_token for item in items])
        paise = self.paise(items) if last is None else np.asarray(last, np.int64)
        mid = np.clip(paise, 30, 0xFFFF_FF00)
        # The day's prices stay where they were when the instrument was first seen.
        first = np.array(
            [
                self._opened.setdefault(token, int(price))
                for token, price in zip(tokens.tolist(), mid.tolist(), strict=True)
            ]
        )
        steps = np.arange(1, 6) * 5
        fields = {
            "token": tokens,
            "last_price": paise,
            "last_quantity": 75,
            "average_price": paise,
            "volume": 1000 + tokens % 977,
            "buy_quantity": 10_000,
            "sell_quantity": 12_000,
            "open": first + 20,
            "high": first + 40,
            "low": np.maximum(first - 20, 5),
            "close": first + 10,
            "last_trade_ts_s": self.now_s - 1,
            "oi": 5000 + tokens % 613,
            "oi_high": 9000,
            "oi_low": 100,
            "exchange_ts_s": self.now_s,
            "depth_quantity": np.full((tokens.size, 10), 75),
            "depth_price": np.hstack((mid[:, None] - steps, mid[:, None] + steps)),
            "depth_orders": np.full((tokens.size, 10), 3),
        }
        return full_records(**{**fields, **changes})

    def index_packet(self, **changes):
        """A full packet of the index."""
        paise = round(self.spot * 100)
        fields = {
            "token": self.index.instrument_token,
            "last_price": paise,
            "open": paise - 1000,
            "high": paise + 2000,
            "low": paise - 2000,
            "close": paise - 500,
            "exchange_ts_s": self.now_s,
        }
        return index_full_records(**{**fields, **changes})

    def quote(self, items: list[Instrument]):
        """Quote packets: no book, no timestamp."""
        paise = self.paise(items)
        return quote_records(
            token=np.array([item.instrument_token for item in items]),
            last_price=paise,
            last_quantity=75,
            average_price=paise,
            volume=1000,
            buy_quantity=1,
            sell_quantity=1,
            open=paise,
            high=paise,
            low=paise,
            close=paise,
        )

    def ltp(self, items: list[Instrument]):
        """LTP packets: nothing but the last price."""
        return ltp_records(
            token=np.array([item.instrument_token for item in items]), last_price=self.paise(items)
        )

    def frame(self, items: list[Instrument] | None = None) -> bytes:
        """A full-mode frame of these instruments, or of all of them."""
        chosen = self.instruments if items is None else items
        tradable = [item for item in chosen if item.kind is not Kind.INDEX]
        records = [self.full(tradable)] if tradable else []
        if self.index in chosen:
            records.insert(0, self.index_packet())
        return frame_of(*records) if records else encode_frame([])
