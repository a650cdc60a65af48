"""Computes every number of docs/greeks.md; run it to write them into the page.

A block of the page between `<!-- computed: NAME -->` and `<!-- end -->` is what `BLOCKS[NAME]()`
returns; a test compares them.

    python -m tests.golden.greeks_page
"""

from __future__ import annotations

import re
from datetime import date, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Final

import msgspec
import numpy as np

from libs.common.contracts.messages import Convention, YearClock
from libs.common.domain.clock import IST
from libs.common.domain.market_calendar import CALENDAR
from services.greeks.domain import pricing
from services.greeks.domain.year_clock import YearClocks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PAGE: Final = Path(__file__).parents[2] / "docs" / "greeks.md"
BLOCK: Final = re.compile(r"<!-- computed: (\w+) -->\n(.*?)\n<!-- end -->", re.DOTALL)

EXPIRY: Final = date(2026, 12, 8)
NOW: Final = datetime(2026, 12, 2, 12, 0, tzinfo=IST)
SPOT, FORWARD, VOL = 23_659.0, 23_685.0, 0.17
STRIKE, DEEP_STRIKE = 23_700.0, 24_000.0
CALL, PUT = 1, -1
SECONDS_PER_YEAR: Final = 365 * 86_400

_CLOCKS = YearClocks(CALENDAR)
_INSTANT = CALENDAR.expiry_instant("NFO", EXPIRY)


def years(clock: YearClock, start: datetime, end: datetime) -> float:
    """Years between two moments at NSE by one of our clocks."""
    return float(_CLOCKS.years(clock, "NFO", start.timestamp(), end.timestamp()))


TTE: Final = years(YearClock.ACT365, NOW, _INSTANT)
TTE_252: Final = years(YearClock.TRADING252, NOW, _INSTANT)


def market_price(flag: int, strike: float) -> float:
    """What the chain of the page costs: 17 % on the forward, rounded to the tick."""
    fair = float(pricing.price(flag, FORWARD, strike, TTE, VOL)[0])
    return round(fair * 20) / 20


def solved(
    flag: int,
    price: float,
    forward: float,
    strike: float,
    tte: float,
    rate: float = 0.0,
    *,
    spot: float | None = None,
) -> dict[str, float]:
    """Volatility and Greeks of one option; NaN where there is none."""
    model: pricing.Model = "black76" if spot is None else "bsm"
    values, _ = pricing.compute(
        np.array([flag]), np.array([price]), forward, strike, tte, float(np.exp(-rate * tte)),
        model=model, spot=spot,
    )  # fmt: skip
    return dict(zip(pricing.VALUES, values[:, 0].tolist(), strict=True))


def on_spot(flag: int, strike: float, tte: float, rate: float) -> dict[str, float]:
    """One option of the chain by Black-Scholes on the spot, without dividends."""
    forward = SPOT * float(np.exp(rate * tte))
    return solved(flag, market_price(flag, strike), forward, strike, tte, rate, spot=SPOT)


def on_forward(flag: int, strike: float, tte: float = TTE) -> dict[str, float]:
    """One option of the chain by Black-76 on the forward at no rate."""
    return solved(flag, market_price(flag, strike), FORWARD, strike, tte)


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table."""
    head = list(head)
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def percent(value: float, digits: int = 2) -> str:
    """A volatility or a rate in percent, or `none`."""
    return "none" if np.isnan(value) else f"{100 * value:.{digits}f} %"


def conventions() -> str:
    """The keys of a convention with their defaults and settings."""
    told = {
        "model": ("`GREEKS_MODEL`", "`black76` on the forward, or `bsm` on the spot"),
        "rate": ("`GREEKS_RATE`", "continuously compounded, 0.065 = 6.5 %"),
        "dividend_yield": ("`GREEKS_DIVIDEND_YIELD`", "continuous; between spot and forward"),
        "clock": ("`GREEKS_CLOCK`", "`act365` or `trading252`"),
        "future_max_age_seconds": ("`FUTURE_MAX_AGE_SECONDS`", "an older future makes no forward"),
        "quote_max_age_seconds": ("`QUOTE_MAX_AGE_SECONDS`", "an older book makes no parity"),
        "spot_max_age_seconds": ("`SPOT_MAX_AGE_SECONDS`", "an older spot makes no forward"),
        "smile_max_age_seconds": ("`SMILE_MAX_AGE_SECONDS`", "an older iv is not the strike's"),
    }
    rows = []
    for name, default in msgspec.structs.asdict(Convention()).items():
        setting, meaning = told[name]
        value = default.value if isinstance(default, StrEnum) else f"{default:g}"
        rows.append((f"`{name}`", setting, f"`{value}`", meaning))
    return table(("key", "setting for all", "default", "meaning"), rows)


def inputs() -> str:
    """What the worked chain is made of."""
    seconds = (_INSTANT - NOW).total_seconds()
    return table(
        ("input", "value"),
        [
            ("moment", f"{NOW:%A %-d %B %Y %H:%M} IST"),
            ("the contract dies", f"{_INSTANT:%A %-d %B %Y %H:%M} IST"),
            ("seconds left", f"{seconds:,.0f}".replace(",", " ")),
            ("`tte`, `act365`", f"{TTE:.6f} years ({365 * TTE:.2f} days)"),
            ("`tte`, `trading252`", f"{TTE_252:.6f} years ({252 * TTE_252:.2f} trading days)"),
            ("spot", f"{SPOT:.2f}"),
            ("forward, from parity", f"{FORWARD:.2f}"),
            ("24 000 PE, last price", f"{market_price(PUT, DEEP_STRIKE):.2f}"),
            ("24 000 CE, last price", f"{market_price(CALL, DEEP_STRIKE):.2f}"),
            ("23 700 CE, last price", f"{market_price(CALL, STRIKE):.2f}"),
            ("23 700 PE, last price", f"{market_price(PUT, STRIKE):.2f}"),
        ],
    )


def worked() -> str:
    """The 24 000 put in the units of a tick, and what each number foretells."""
    price = market_price(PUT, DEEP_STRIKE)
    option = on_forward(PUT, DEEP_STRIKE)
    vol = option["iv"]

    def value(
        *, forward: float = FORWARD, tte: float = TTE, at: float = vol, rate: float = 0.0
    ) -> str:
        found = pricing.price(PUT, forward, DEEP_STRIKE, tte, at, float(np.exp(-rate * tte)))
        return f"{price:.2f} → {float(found[0]):.2f}"

    moved = solved(PUT, float(pricing.price(PUT, FORWARD + 10, DEEP_STRIKE, TTE, vol)[0]),
                   FORWARD + 10, DEEP_STRIKE, TTE)  # fmt: skip
    return table(
        ("field", "value", "unit", "what happens", "to"),
        [
            ("`iv`", f"{vol:.4f}", "per year, 0.17 = 17 %", "", ""),
            ("`delta`", f"{option['delta']:.4f}", "rupees per rupee of forward",
             "forward + 10", f"price {value(forward=FORWARD + 10)}"),
            ("`gamma`", f"{option['gamma']:.6f}", "delta per rupee of forward",
             "forward + 10", f"delta {option['delta']:.4f} → {moved['delta']:.4f}"),
            ("`theta`", f"{option['theta']:.2f}", "rupees per calendar day",
             "one hour later", f"price {value(tte=TTE - 1 / 24 / 365)}"),
            ("`vega`", f"{option['vega']:.2f}", "rupees per vol point (0.01)",
             "iv + 0.01", f"price {value(at=vol + 0.01)}"),
            ("`rho`", f"{option['rho']:.4f}", "rupees per 1 % of rate, forward kept",
             "rate + 1 %", f"price {value(rate=0.01)}"),
        ],
    )  # fmt: skip


def views() -> str:
    """The same options under four conventions."""
    whole_days = (EXPIRY - NOW.date()).days / 365

    def row(name: str, says: str, days: str, option: Callable[[int, float], dict[str, float]],
            *, smile: bool = False, theta_scale: float = 1.0) -> tuple[str, ...]:  # fmt: skip
        call, put = option(CALL, STRIKE), option(PUT, STRIKE)
        deep = option(PUT, DEEP_STRIKE)
        if smile:
            # One volatility per strike, from the leg that is out of the money.
            vol = option(CALL, DEEP_STRIKE)["iv"]
            greeks = pricing.greeks_at(PUT, FORWARD, DEEP_STRIKE, TTE_252, 1.0, vol)[:, 0].tolist()
            deep = {"iv": vol, **dict(zip(pricing.GREEKS, greeks, strict=True))}
            call = {"iv": call["iv"]}
            put = {"iv": call["iv"]}
        return (
            name, says, days, percent(call["iv"]), percent(put["iv"]), percent(deep["iv"]),
            f"{deep['delta']:.3f}", f"{deep['theta'] * theta_scale:.2f}", f"{deep['vega']:.2f}",
        )  # fmt: skip

    return table(
        ("view", "how", "days", "23 700 CE iv", "23 700 PE iv", "24 000 PE iv", "delta", "theta",
         "vega"),
        [
            row("ours", "Black-76 on the forward, rate 0, seconds", f"{365 * TTE:.2f} of 365",
                on_forward),
            row("NSE's site", "Black-Scholes on the spot, 10 %, whole days",
                f"{365 * whole_days:.0f} of 365",
                lambda flag, strike: on_spot(flag, strike, whole_days, 0.10)),
            row("Sensibull, Kite", "Black-76 on the forward, rate 0, trading days, one iv a strike",
                f"{252 * TTE_252:.2f} of 252",
                lambda flag, strike: on_forward(flag, strike, TTE_252), smile=True,
                theta_scale=365 / 252),
            row("BSM on the spot", "rate 0, no dividends, seconds", f"{365 * TTE:.2f} of 365",
                lambda flag, strike: on_spot(flag, strike, TTE, 0.0)),
        ],
    )  # fmt: skip


def spot_as_forward() -> str:
    """What pricing on the spot makes of a call and a put of one strike."""
    strikes = [STRIKE + 50.0 * number for number in range(20)]
    lost = sum(np.isnan(on_spot(PUT, strike, TTE, 0.0)["iv"]) for strike in strikes)
    kept = sum(np.isnan(on_forward(PUT, strike)["iv"]) for strike in strikes)
    rows = []
    for name, option, missing in (
        ("the forward", on_forward, kept),
        ("the spot, rate 0", lambda flag, strike: on_spot(flag, strike, TTE, 0.0), lost),
    ):
        call, put = option(CALL, STRIKE), option(PUT, STRIKE)
        rows.append((
            name, percent(call["iv"]), percent(put["iv"]),
            f"{100 * (call['iv'] - put['iv']):.2f}",
            f"{option(PUT, DEEP_STRIKE)['delta']:.3f}", f"{missing} of {len(strikes)}",
        ))  # fmt: skip
    return table(
        ("priced on", "23 700 CE iv", "23 700 PE iv", "apart, vol points", "24 000 PE delta",
         "puts from 23 700 up without iv"),
        rows,
    )  # fmt: skip


def rates() -> str:
    """What a rate does to Black-Scholes on the spot."""
    implied = float(np.log(FORWARD / SPOT) / TTE)
    rows = []
    for name, rate in (("0 %", 0.0), ("10 %", 0.10), (f"{percent(implied, 1)}: parity's", implied)):
        call, put = (on_spot(flag, STRIKE, TTE, rate)["iv"] for flag in (CALL, PUT))
        forward = SPOT * np.exp(rate * TTE)
        apart = round(100 * (call - put), 2) + 0.0  # Never a negative zero.
        rows.append((name, f"{forward:.2f}", percent(call), percent(put), f"{apart:+.2f}"))
    return table(
        ("rate", "forward that it implies", "23 700 CE iv", "23 700 PE iv", "call less put"), rows
    )


def published() -> str:
    """A published chain, found again."""
    spot, forward, strike, tte = 23_659.0, 23_700.0, 23_650.0, 5.6 / 365
    by_spot = []
    for flag in (CALL, PUT):
        price = float(pricing.price(flag, forward, strike, tte, 0.1708)[0])
        by_spot.append(percent(solved(flag, price, spot, strike, tte)["iv"]))
    return (
        f"A published NIFTY chain (spot 23 659, 5.6 days left) shows the same: with 17.08 % on a "
        f"forward of 23 700, the 23 650 call has {by_spot[0]} by the spot and the put {by_spot[1]}."
    )


def clocks() -> str:
    """How long the same stretch is by each clock, and what that does to a volatility."""
    friday, monday, tuesday = date(2026, 12, 4), date(2026, 12, 7), date(2026, 12, 8)

    def at(day: date, hour: int, minute: int) -> datetime:
        return datetime(day.year, day.month, day.day, hour, minute, tzinfo=IST)

    rows = []
    for name, start, end in (
        ("Friday's close to Monday's", at(friday, 15, 40), at(monday, 15, 40)),
        ("Monday's close to Tuesday's", at(monday, 15, 40), at(tuesday, 15, 40)),
        ("Tuesday's open to its close", at(tuesday, 9, 15), at(tuesday, 15, 40)),
    ):
        seconds = years(YearClock.ACT365, start, end)
        days = years(YearClock.TRADING252, start, end)
        price = float(pricing.price(CALL, 24_000.0, 24_000.0, seconds, 0.15)[0])
        by_days = solved(CALL, price, 24_000.0, 24_000.0, days)["iv"]
        rows.append((name, f"{365 * seconds:.3f}/365", f"{252 * days:.3f}/252", "15.00 %",
                     percent(by_days), f"{by_days / 0.15:.2f}"))  # fmt: skip
    return table(
        ("stretch", "`act365`", "`trading252`", "iv by `act365`", "the same price by `trading252`",
         "factor"),
        rows,
    )  # fmt: skip


def time_floor() -> str:
    """What a floor of 52 minutes under the time to expiry makes of a true 15 %."""
    rows = []
    for minutes in (60, 52, 30, 10, 2):
        tte = minutes / (365 * 24 * 60)
        price = float(pricing.price(CALL, 24_000.0, 24_000.0, tte, 0.15)[0])
        floored = solved(CALL, price, 24_000.0, 24_000.0, max(tte, 52 / (365 * 24 * 60)))
        rows.append((f"{minutes} min", f"{price:.2f}", "15.0 %", percent(floored["iv"], 1)))
    return table(("left", "price", "iv", "iv with the floor"), rows)


def intraday() -> str:
    """At the money at 15 %, as the last day goes by."""
    forward, vol, flag = 24_000.0, 0.15, CALL
    rows = []
    for name, seconds in (("1 day", 86_400), ("1 hour", 3600), ("12 min", 720), ("1 min", 60)):
        tte = seconds / SECONDS_PER_YEAR
        price = float(pricing.price(flag, forward, forward, tte, vol)[0])
        at = solved(flag, price, forward, forward, tte)
        by_tick = solved(flag, price + 0.05, forward, forward, tte)["iv"] - at["iv"]
        by_spot = at["iv"] - solved(flag, price, forward + 1, forward, tte)["iv"]
        late = solved(flag, price, forward, forward, (seconds - 60) / SECONDS_PER_YEAR)["iv"]
        rows.append((
            name, f"{price:.1f}", f"{at['theta']:.0f}", f"{100 * by_tick:.2f}",
            f"{100 * by_spot:.2f}", "none" if np.isnan(late) else f"{100 * (late - at['iv']):.2f}",
        ))  # fmt: skip
    return table(
        ("left", "price", "theta per day", "iv per 0.05 tick", "iv per point of stale forward",
         "iv per 60 s of clock error"),
        rows,
    )  # fmt: skip


BLOCKS: Final[dict[str, Callable[[], str]]] = {
    "conventions": conventions,
    "inputs": inputs,
    "worked": worked,
    "views": views,
    "spot_as_forward": spot_as_forward,
    "published": published,
    "rates": rates,
    "clocks": clocks,
    "time_floor": time_floor,
    "intraday": intraday,
}
"""What computes each block of the page."""


def filled(page: str) -> str:
    """The page with every block computed anew.

    Raises:
        KeyError: A block has a name that nothing computes.
    """
    return BLOCK.sub(
        lambda found: f"<!-- computed: {found[1]} -->\n{BLOCKS[found[1]]()}\n<!-- end -->", page
    )


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
