"""Generates the golden tables of this folder with mpmath at 60 digits: run it to refresh them.

Each row holds the inputs as float64 (written with `repr`, so they read back exactly), and what
exact arithmetic makes of them: the implied volatility of that very price, rounded to float64 once,
and the Greeks at that volatility. The formulas are written from the textbook (Haug, "The Complete
Guide to Option Pricing Formulas"), not from the code under test.

    python tests/golden/greeks/generate.py
"""

from __future__ import annotations

import csv
import math
import random
from pathlib import Path

from mpmath import mp, mpf

mp.dps = 60
HERE = Path(__file__).parent
HEADER = (
    "flag", "price", "forward", "strike", "tte", "df", "spot",
    "iv", "delta", "gamma", "theta", "vega", "rho", "point",
)  # fmt: skip
MINUTE = 1 / (365 * 24 * 60)
EXPIRIES = (
    1.5 * MINUTE, 10 * MINUTE, 1 / 365 / 24, 0.25 / 365, 1 / 365, 5.6 / 365, 30 / 365, 0.25, 1, 3
)  # fmt: skip
VOLATILITIES = (0.01, 0.05, 0.15, 0.4, 1, 3)
STANDARD_DEVIATIONS = (-4.5, -2.5, -1, -0.1, 0, 0.1, 1, 2.5, 4.5)
FORWARDS = (23659.85, 51432.4, 812.35, 117.05)
RATES = (0, 0.065, -0.01)


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


def row(flag, forward, strike, tte, df, vol, spot):
    """Build one row, or None where a float64 price holds no volatility worth a row."""
    price = float(black_price(flag, mpf(forward), mpf(strike), mpf(tte), mpf(df), mpf(vol)))
    intrinsic = max(flag * (mpf(forward) - mpf(strike)), mpf(0))
    time_value = mpf(price) / mpf(df) - intrinsic
    if price <= 0 or time_value <= mpf(2e-9) * forward:
        return None
    if time_value >= min(forward, strike) * mpf(1 - 1e-12):
        return None
    exact = implied_volatility(flag, mpf(price), mpf(forward), mpf(strike), mpf(tte), mpf(df), vol)
    held = None if spot is None else mpf(spot)
    values = greeks(flag, mpf(forward), mpf(strike), mpf(tte), mpf(df), exact, held)
    # What one vol point moves the price: tradable options are those where it is at least 0.005.
    point = values[3]
    return (flag, price, forward, strike, tte, df, spot, exact, *values, point)


def table(name, *, with_spot, seed):
    """Write one table: the grid, then random rows between its lines."""
    chance = random.Random(seed)
    cases = [
        (flag, chance.choice(FORWARDS), tte, vol, deviation, chance.choice(RATES))
        for tte in EXPIRIES
        for vol in VOLATILITIES
        for deviation in STANDARD_DEVIATIONS
        for flag in (1, -1)
    ]
    with (HERE / name).open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for flag, forward, tte, vol, deviation, rate in cases:
            if abs(deviation * vol * math.sqrt(tte)) > 7:
                continue  # A strike a thousand times the forward is not listed.
            strike = forward * math.exp(deviation * vol * math.sqrt(tte))
            # Listed strikes lie on a grid; next to the money near expiry only exact ones exist.
            strike = float(round(strike)) if tte > 0.01 else round(strike, 2)
            if strike <= 0:
                continue
            df = math.exp(-rate * tte)
            spot = round(forward * df * math.exp(0.012 * tte), 2) if with_spot else None
            made = row(flag, forward, strike, tte, df, vol, spot)
            if made is not None:
                writer.writerow(
                    "" if value is None else repr(value if isinstance(value, int) else float(value))
                    for value in made
                )


if __name__ == "__main__":
    table("black76.csv", with_spot=False, seed=76)
    table("bsm.csv", with_spot=True, seed=73)
