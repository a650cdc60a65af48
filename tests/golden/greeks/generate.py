"""Generates the golden tables of this folder with mpmath at 60 digits, and reads them.

Each row holds the inputs as float64 (written with `repr`, so they read back exactly), and what
exact arithmetic makes of them: the implied volatility of that very price, rounded to float64 once,
and the Greeks at that volatility. The formulas are written from the textbook (Haug, "The Complete
Guide to Option Pricing Formulas"), not from the code under test.

A table is a grid of volatilities from one minute to five years and five and a half standard
deviations to each side, and prices next to what an option is worth at no and at endless volatility.

    python -m tests.golden.greeks.generate
"""

from __future__ import annotations

import csv
import math
import random
from itertools import product
from pathlib import Path
from typing import NamedTuple

import mpmath
from mpmath import mp, mpf

mp.dps = 60
HERE = Path(__file__).parent
SEEDS = {"black76": 76, "bsm": 73}
"""The tables and what their random choices begin with."""
HEADER = (
    "flag", "price", "forward", "strike", "tte", "df", "spot",
    "iv", "delta", "gamma", "theta", "vega", "rho",
)  # fmt: skip
MINUTE = 60 / (365 * 86_400)
EXPIRIES = (
    MINUTE, 1.5 * MINUTE, 10 * MINUTE, 1 / 365 / 24, 0.25 / 365, 1 / 365, 5.6 / 365, 30 / 365,
    0.25, 1, 3, 5,
)  # fmt: skip
VOLATILITIES = (0.01, 0.05, 0.15, 0.4, 1, 3)
STANDARD_DEVIATIONS = (-5.5, -4.5, -3.5, -2.5, -1, -0.1, 0, 0.1, 1, 2.5, 3.5, 4.5, 5.5)
FORWARDS = (23659.85, 51432.4, 812.35, 117.05)
RATES = (0, 0.065, -0.01)
BOUNDARY_EXPIRIES = (MINUTE, 1 / 365 / 24, 1 / 365, 30 / 365, 1, 5)
BOUNDARY_STRIKES = (0.5, 0.9, 0.97, 0.999, 1.0, 1.001, 1.03, 1.1, 2.0)
"""Times the forward."""
TIME_VALUES = (2.5e-9, 1e-7, 1e-5, 0.6, 0.999)
"""Times the forward where small: next to intrinsic; times the greatest one where large."""


def normal_cdf(z):
    """Return Φ(z) with relative accuracy in both tails."""
    return mp.erfc(-z / mp.sqrt(2)) / 2


def normal_density(z):
    """Return φ(z)."""
    return mp.exp(-z * z / 2) / mp.sqrt(2 * mp.pi)


def d1_d2(forward, strike, tte, vol):
    """Return d1 and d2 of the Black formula."""
    s = vol * mp.sqrt(tte)
    return mp.log(forward / strike) / s + s / 2, mp.log(forward / strike) / s - s / 2


def black_price(flag, forward, strike, tte, df, vol):
    """Return the discounted Black-76 price."""
    d1, d2 = d1_d2(forward, strike, tte, vol)
    return df * flag * (forward * normal_cdf(flag * d1) - strike * normal_cdf(flag * d2))


def implied_volatility(flag, price, forward, strike, tte, df, guess):
    """Solve the price for the volatility by Newton's method to 50 digits, out of the money."""
    value = price / df - max(flag * (forward - strike), mpf(0))
    side = 1 if forward < strike else -1
    vol = mpf(guess)
    for _ in range(60):
        d1, _ = d1_d2(forward, strike, tte, vol)
        slope = forward * normal_density(d1) * mp.sqrt(tte)
        error = black_price(side, forward, strike, tte, mpf(1), vol) - value
        # Newton on the logarithm of the price converges from both sides in the far wings.
        model = error + value
        change = mp.log(value / model) * model / slope
        vol += change
        if abs(change) < vol * mpf(10) ** -50:
            return vol
    raise ArithmeticError((flag, price, forward, strike, tte, df))


def greeks(flag, forward, strike, tte, df, vol, spot):
    """Return delta, gamma, theta, vega, rho in vollib's units; Black-76 if spot is None."""
    d1, d2 = d1_d2(forward, strike, tte, vol)
    rate = -mp.log(df) / tte
    hedge, bond = df * forward * normal_cdf(flag * d1), df * strike * normal_cdf(flag * d2)
    density = df * forward * normal_density(d1)
    decay = -density * vol / (2 * mp.sqrt(tte))
    vega = density * mp.sqrt(tte) / 100
    unit = forward if spot is None else spot
    growth = rate if spot is None else rate - mp.log(forward / spot) / tte
    delta = flag * hedge / unit
    gamma = density / (unit * unit * vol * mp.sqrt(tte))
    theta = (decay + flag * (growth * hedge - rate * bond)) / 365
    rho = -tte * flag * (hedge - bond) / 100 if spot is None else tte * flag * bond / 100
    return delta, gamma, theta, vega, rho


class Case(NamedTuple):
    """An option, and either what volatility or what price it has."""

    flag: int
    forward: float
    strike: float
    tte: float
    df: float
    vol: float | None = None
    price: float | None = None


def row(case, spot):
    """Build one row, or None where a float64 price holds no volatility worth a row."""
    flag = case.flag
    forward, strike, tte, df = (mpf(value) for value in case[1:5])
    price, guess = case.price, case.vol
    if price is None:
        price = float(black_price(flag, forward, strike, tte, df, mpf(case.vol)))
    time_value = mpf(price) / df - max(flag * (forward - strike), mpf(0))
    if price <= 0 or time_value <= mpf(2e-9) * forward:
        return None
    if time_value >= min(forward, strike) * mpf(1 - 1e-12):
        return None
    if guess is None:
        guess = near_volatility(time_value, forward, strike, tte)
    exact = implied_volatility(flag, mpf(price), forward, strike, tte, df, guess)
    held = None if spot is None else mpf(spot)
    values = greeks(flag, forward, strike, tte, df, exact, held)
    return (flag, price, *case[1:5], spot, exact, *values)


def near_volatility(time_value, forward, strike, tte):
    """Bisect for a volatility near enough for Newton's method."""
    side = 1 if forward < strike else -1
    low, high = mpf(0), 40 / mp.sqrt(tte)
    for _ in range(40):
        middle = (low + high) / 2
        if black_price(side, forward, strike, tte, mpf(1), middle) < time_value:
            low = middle
        else:
            high = middle
    return high


def grid(chance):
    """Yield options of whole volatilities at listed strikes, whole deviations from the money."""
    for tte, vol, deviation, flag in product(EXPIRIES, VOLATILITIES, STANDARD_DEVIATIONS, (1, -1)):
        forward, rate = chance.choice(FORWARDS), chance.choice(RATES)
        if abs(deviation * vol * math.sqrt(tte)) > 7:
            continue  # A strike a thousand times the forward is not listed.
        strike = forward * math.exp(deviation * vol * math.sqrt(tte))
        # Listed strikes lie on a grid; next to the money near expiry only exact ones exist.
        strike = float(round(strike)) if tte > 0.01 else round(strike, 2)
        if strike > 0:
            yield Case(flag, forward, strike, tte, math.exp(-rate * tte), vol=vol)


def boundaries(chance):
    """Yield options whose price is next to intrinsic, or to the most that they may cost."""
    for tte, ratio, share in product(BOUNDARY_EXPIRIES, BOUNDARY_STRIKES, TIME_VALUES):
        flag, forward, rate = chance.choice((1, -1)), chance.choice(FORWARDS), chance.choice(RATES)
        strike, df = round(forward * ratio, 2), math.exp(-rate * tte)
        time_value = share * (forward if share < 0.1 else min(forward, strike))
        price = df * (max(flag * (forward - strike), 0.0) + time_value)
        yield Case(flag, forward, strike, tte, df, price=price)


def cases(model):
    """Yield the options of a table, each with the spot it is held against (None for Black-76)."""
    chance = random.Random(SEEDS[model])
    for case in (*grid(chance), *boundaries(chance)):
        spot = round(case.forward * case.df * math.exp(0.012 * case.tte), 2)
        yield case, spot if model == "bsm" else None


def told(model):
    """Say in one line how a table came about."""
    return (
        f"# {model}: python -m tests.golden.greeks.generate, mpmath {mpmath.__version__} at "
        f"{mp.dps} digits, seed {SEEDS[model]}\n"
    )


def spelled(values):
    """Write the values of a row as they read back exactly."""
    return [
        "" if value is None else repr(value if isinstance(value, int) else float(value))
        for value in values
    ]


def write(model):
    """Write one table."""
    with (HERE / f"{model}.csv").open("w", newline="") as file:
        file.write(told(model))
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        rows = (row(case, spot) for case, spot in cases(model))
        writer.writerows(spelled(values) for values in rows if values is not None)


def read(model):
    """Read one table: how it came about, and its rows as text by column."""
    with (HERE / f"{model}.csv").open(newline="") as file:
        return file.readline(), list(csv.DictReader(file))


if __name__ == "__main__":
    for name in SEEDS:
        write(name)
