"""Pricing engine against vollib: nanoseconds per option for the volatility and five Greeks.

Prints one row per batch size with the medians of interleaved rounds, so that a slow moment of the
machine hits both engines, and their ratio. vollib is called as its users call it: one option at a
time, six functions, from Python floats.

    python -m benchmarks.pricing
"""

from __future__ import annotations

import random
import statistics
import time
from typing import TYPE_CHECKING, Final

import numpy as np
import vollib.black.greeks.analytical as vollib_greeks
from vollib.black.implied_volatility import implied_volatility

from services.greeks.domain import pricing

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES: Final = (1, 10, 50, 300, 3000)
TARGETS: Final = {300: 45, 3000: 120}
ROUNDS: Final = 15
ROUND_SECONDS: Final = 0.02
VOLLIB_ROWS_MAX: Final = 300
"""vollib's time per option does not depend on their number: enough of them are timed."""


def chain(n: int) -> tuple[np.ndarray, ...]:
    """Build n options of a NIFTY-like chain: strikes ±6 %, three expiries, a smile, 5 p ticks."""
    chance = random.Random(1)
    forward = 23659.85
    strikes = [50.0 * round(forward * (1 + chance.uniform(-0.06, 0.06)) / 50) for _ in range(n)]
    tte = np.array([chance.choice((5.6, 12.6, 33.6)) / 365 for _ in range(n)])
    flag = np.array([1 if strike >= forward else -1 for strike in strikes], dtype=np.int8)
    strike = np.array(strikes)
    vol = 0.13 + 0.8 * np.log(strike / forward) ** 2 / np.sqrt(tte)
    df = np.exp(-0.065 * tte)
    forwards = np.full(n, forward)
    price = (
        np.maximum(np.round(pricing.price(flag, forwards, strike, tte, vol, df) / 0.05), 1) * 0.05
    )
    return flag, price, forwards, strike, tte, df


def vollib_loop(columns: tuple[np.ndarray, ...]) -> Callable[[], None]:
    """Return a function that prices the columns with vollib, option by option."""
    flag, price, forward, strike, tte, df = (values[:VOLLIB_ROWS_MAX] for values in columns)
    letters = ["c" if value > 0 else "p" for value in flag]
    rate = (-np.log(df) / tte).tolist()
    rows = list(
        zip(
            letters,
            price.tolist(),
            forward.tolist(),
            strike.tolist(),
            tte.tolist(),
            rate,
            strict=True,
        )
    )

    def run() -> None:
        for letter, quote, future, level, years, yearly in rows:
            vol = implied_volatility(quote, future, level, yearly, years, letter)
            vollib_greeks.delta(letter, future, level, years, yearly, vol)
            vollib_greeks.gamma(letter, future, level, years, yearly, vol)
            vollib_greeks.theta(letter, future, level, years, yearly, vol)
            vollib_greeks.vega(letter, future, level, years, yearly, vol)
            vollib_greeks.rho(letter, future, level, years, yearly, vol)

    return run


def seconds_per_call(run: Callable[[], object]) -> float:
    """Time one round: as many calls as fill it, at least one."""
    calls = 0
    begin = time.perf_counter()
    while (spent := time.perf_counter() - begin) < ROUND_SECONDS:
        run()
        calls += 1
    return spent / calls


def main() -> None:
    """Measure every batch size and print the table."""
    print("| n | tickfleet ns/option | vollib ns/option | ratio | target |")
    print("|---|---|---|---|---|")
    for n in SIZES:
        columns = chain(n)
        out = np.empty((6, n))
        status = pricing.compute(*columns, out=out)[1]
        if (status > pricing.Status.LOW_VEGA).any():
            raise SystemExit(f"n={n}: the chain holds options without a volatility")
        reference = vollib_loop(columns)
        ours, theirs = [], []
        for _ in range(ROUNDS):
            ours.append(seconds_per_call(lambda: pricing.compute(*columns, out=out)) / n)  # noqa: B023 - called at once
            theirs.append(seconds_per_call(reference) / min(n, VOLLIB_ROWS_MAX))
        mine, other = statistics.median(ours), statistics.median(theirs)
        target = f"≥ {TARGETS[n]}" if n in TARGETS else ""
        print(f"| {n} | {mine * 1e9:.0f} | {other * 1e9:.0f} | {other / mine:.1f} | {target} |")


if __name__ == "__main__":
    main()
