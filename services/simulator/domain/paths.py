"""Where spot, forward and smile of every underlying are at any moment: functions of time alone."""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from libs.common.domain.clock import IST, NS_PER_SECOND, ns_of
from services.simulator.domain.noise import brownian, keys_of, wander
from services.simulator.domain.underlyings import Underlying

Floats = NDArray[np.float64]

SESSION_SECONDS: Final = 23_100
"""09:15 to 15:40."""
_OPEN_SECOND: Final = 33_300
_IST_OFFSET_SECONDS: Final = 19_800
# A night moves the market as much as 65 minutes of trading.
_PATH_DAY_SECONDS: Final = SESSION_SECONDS + 3_900
_PATH_YEAR_SECONDS: Final = 365 * _PATH_DAY_SECONDS
_MARKET_VOLATILITY: Final = 0.115
_CARRY: Final = 0.055
_SKEW: Final = -0.06
_CURVATURE: Final = 0.02
_YEAR_NS: Final = 365 * 86_400 * NS_PER_SECOND
# Here every underlying stands at its reference level.
_ANCHOR_NS: Final = ns_of(datetime(2026, 11, 20, 15, 40, tzinfo=IST))


def path_seconds(at_ns: ArrayLike) -> Floats:
    """Map time to the axis on which prices move: nights and weekends are short.

    Args:
        at_ns: Epoch nanoseconds.
    """
    ist_seconds = np.asarray(at_ns, np.int64) / NS_PER_SECOND + _IST_OFFSET_SECONDS
    day = np.floor(ist_seconds / 86_400)
    inside = np.clip(ist_seconds - day * 86_400 - _OPEN_SECOND, 0, SESSION_SECONDS)
    return np.asarray(day * _PATH_DAY_SECONDS + inside)


_ANCHOR: Final = float(path_seconds(_ANCHOR_NS))


class Smile:
    """Forward and implied volatilities of expiries at one moment (or of one over many).

    Attributes:
        forward: Rupees.
        years: Time to expiry, ACT/365, not below 0.
        level: At-the-money volatility, a fraction.
        skew: Slope per standardised log-moneyness.
        curvature: Half the second derivative.
    """

    __slots__ = ("curvature", "forward", "level", "skew", "years")

    def __init__(
        self, *, forward: Floats, years: Floats, level: Floats, skew: Floats, curvature: Floats
    ) -> None:
        self.forward = forward
        self.years = years
        self.level = level
        self.skew = skew
        self.curvature = curvature

    def take(self, rows: NDArray[np.int64]) -> "Smile":
        """Select expiries, one per contract."""
        return Smile(
            forward=self.forward[rows],
            years=self.years[rows],
            level=self.level[rows],
            skew=self.skew[rows],
            curvature=self.curvature[rows],
        )

    def moneyness(self, strike: ArrayLike) -> Floats:
        """Give ln(K/F) in at-the-money standard deviations, held within +-6.

        On the last day a full day's deviation is used: the wings would explode otherwise.
        """
        deviation = self.level * np.sqrt(np.maximum(self.years, 1 / 365))
        return np.asarray(np.clip(np.log(np.asarray(strike) / self.forward) / deviation, -6, 6))

    def volatility(self, moneyness: Floats) -> Floats:
        """Give the implied volatility at a standardised moneyness: a parabola, held positive."""
        shape = 1 + self.skew * moneyness + self.curvature * moneyness**2
        return np.asarray(np.clip(self.level * shape, 0.02, 3.0))


class Paths:
    """The seeded paths of all underlyings and their smiles.

    Args:
        seed: Another seed, another market.
        members: The underlyings; indices below refer to their order. The path of one does not
            depend on which others are there.
    """

    def __init__(self, seed: int, members: Sequence[Underlying]) -> None:
        self.members = tuple(members)
        self._seed = seed
        names = [item.name for item in members]
        self._own = keys_of([(seed, name, "own path") for name in names])
        self._market, self._fear = keys_of([(seed, "market"), (seed, "fear")])
        self._own_at_anchor = brownian(self._own, _ANCHOR)
        self._market_at_anchor = brownian(self._market, _ANCHOR)
        self._reference = np.array([item.reference_rupees for item in members])
        self._beta = np.array([item.beta for item in members])
        self._own_volatility = np.array([item.own_volatility for item in members])
        self._implied = np.array([item.implied_volatility for item in members])
        # An index without derivatives and without a path of its own is the volatility index.
        self._is_fear_index = np.array(
            [item.derivatives is None and item.is_index for item in members]
        )

    def smile_keys(self, underlying: str, expiry: str) -> NDArray[np.uint64]:
        """Give the four keys of an expiry's basis, level, skew and curvature; uint64[4]."""
        return keys_of(
            [
                (self._seed, underlying, expiry, part)
                for part in ("basis", "level", "skew", "curvature")
            ]
        )

    def spot(self, member: ArrayLike, seconds: ArrayLike) -> Floats:
        """Give prices of underlyings in rupees; arguments broadcast.

        Args:
            member: Row of the underlying.
            seconds: Position from `path_seconds`.
        """
        rows = np.asarray(member)
        market = self._market_return(seconds)
        own = brownian(self._own[rows], seconds) - self._own_at_anchor[rows]
        moved = self._beta[rows] * market + self._own_volatility[rows] * own / np.sqrt(
            _PATH_YEAR_SECONDS
        )
        fear = np.log(self._fear_factor(seconds, market))
        logarithm = np.where(self._is_fear_index[rows], fear, moved)
        return np.asarray(self._reference[rows] * np.exp(logarithm))

    def smile(
        self,
        member: ArrayLike,
        keys: NDArray[np.uint64],
        expiry_ns: ArrayLike,
        at_ns: ArrayLike,
    ) -> Smile:
        """Give forward and smile of expiries; arguments broadcast.

        Args:
            member: Row of the underlying.
            keys: uint64[4, ...] from `smile_keys`.
            expiry_ns: When the expiry dies, epoch nanoseconds.
            at_ns: When, epoch nanoseconds.
        """
        rows = np.asarray(member)
        seconds = path_seconds(at_ns)
        left_ns = np.asarray(expiry_ns, np.int64) - np.asarray(at_ns, np.int64)
        years = np.maximum(left_ns / _YEAR_NS, 0.0)
        carry = _CARRY + 0.004 * wander(keys[0], seconds, (1_800.0, 135_000.0))
        level = self._implied[rows] * self._fear_factor(seconds, self._market_return(seconds))
        # Short expiries react more: their level is noisier and a little higher.
        term = 1 + 0.06 * np.exp(-12 * years)
        noise = 1 + 0.025 * wander(keys[1], seconds, (300.0, 3_600.0, 54_000.0))
        shape = np.broadcast_shapes(rows.shape, years.shape, seconds.shape)
        return Smile(
            forward=np.broadcast_to(self.spot(rows, seconds) * np.exp(carry * years), shape),
            years=np.broadcast_to(years, shape),
            level=np.broadcast_to(level * term * noise, shape),
            skew=_SKEW * (1 + 0.25 * wander(keys[2], seconds, (1_800.0, 81_000.0))),
            curvature=_CURVATURE * (1 + 0.25 * wander(keys[3], seconds, (3_600.0, 81_000.0))),
        )

    def _market_return(self, seconds: ArrayLike) -> Floats:
        moved = brownian(self._market, seconds) - self._market_at_anchor
        return np.asarray(_MARKET_VOLATILITY * moved / np.sqrt(_PATH_YEAR_SECONDS))

    def _fear_factor(self, seconds: ArrayLike, market: Floats) -> Floats:
        """How nervous the market is: 1 on average, more when it has fallen."""
        mood = wander(self._fear, seconds, (13_500.0, 81_000.0, 540_000.0, 2_700_000.0))
        return np.asarray(np.exp(0.1 * mood - 1.5 * np.clip(market, -0.3, 0.3)))
