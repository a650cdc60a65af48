"""Random numbers as a function of (key, counter): the same question always has the same answer.

A generator with a state would make a price depend on how many numbers were drawn before it. Here
every draw is a hash, so a tick, a quote and a candle that look at one instant agree, in whatever
order and in whichever process they are asked for.
"""

import hashlib
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

Keys = NDArray[np.uint64]
Floats = NDArray[np.float64]

# The finaliser of splitmix64 (Steele, Lea, Flood 2014): full avalanche in five operations.
_GAMMA: Final = np.uint64(0x9E3779B97F4A7C15)
_MULTIPLY_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MULTIPLY_2: Final = np.uint64(0x94D049BB133111EB)
_SHIFT_30, _SHIFT_27, _SHIFT_31 = np.uint64(30), np.uint64(27), np.uint64(31)
_SHIFT_11, _SHIFT_16, _MASK_16 = np.uint64(11), np.uint64(16), np.uint64(0xFFFF)
# Var(lerp between two unit normals) averages 2/3 over the cell.
_LERP_VARIANCE: Final = 2.0 / 3.0


def key_of(*parts: int | str) -> int:
    """Give a 64-bit key for a name such as ("NIFTY", "smile"); stable across processes."""
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def keys_of(names: list[tuple[int | str, ...]]) -> Keys:
    """Give one key per name; shape (len(names),)."""
    return np.array([key_of(*name) for name in names], dtype=np.uint64)


def mix(keys: ArrayLike, counter: ArrayLike) -> Keys:
    """Hash keys with counters to 64 random bits each; shapes broadcast.

    Args:
        keys: uint64.
        counter: Any integer, negative ones too.
    """
    with np.errstate(over="ignore"):  # wrapping around is the point
        count = np.asarray(counter).astype(np.int64).astype(np.uint64)
        z = np.asarray(keys, dtype=np.uint64) + (count + np.uint64(1)) * _GAMMA
        z = (z ^ (z >> _SHIFT_30)) * _MULTIPLY_1
        z = (z ^ (z >> _SHIFT_27)) * _MULTIPLY_2
        return np.asarray(z ^ (z >> _SHIFT_31), dtype=np.uint64)


def uniform(keys: ArrayLike, counter: ArrayLike) -> Floats:
    """Draw from [0, 1); shapes broadcast."""
    return np.asarray((mix(keys, counter) >> _SHIFT_11) * 2.0**-53, dtype=np.float64)


def gaussian(keys: ArrayLike, counter: ArrayLike) -> Floats:
    """Draw nearly standard normal numbers (four 16-bit uniforms added: bounded by 3.47)."""
    bits = mix(keys, counter)
    total = np.zeros(bits.shape)
    for _ in range(4):
        total += bits & _MASK_16
        bits = bits >> _SHIFT_16
    return np.asarray((total * 2.0**-16 - 2.0) * np.sqrt(3.0), dtype=np.float64)


def _lattice(keys: Keys, position: Floats) -> Floats:
    """Interpolate linearly between normal numbers that sit on the integers."""
    cell = np.floor(position)
    left = gaussian(keys, cell)
    return np.asarray(left + (gaussian(keys, cell + 1) - left) * (position - cell))


def brownian(keys: ArrayLike, seconds: ArrayLike) -> Floats:
    """Give a path that moves like Brownian motion at every scale from 1 s to about 600 days.

    A sum of value noise over octaves of period 4^k seconds with amplitude proportional to
    sqrt(period): increments over a span d have a variance of about d, beyond the longest period
    the path is stationary, so a price cannot wander off for ever.

    Args:
        keys: One key per path; broadcasts with `seconds`.
        seconds: Position on the time axis.

    Returns:
        Values whose increments over d seconds have a standard deviation of about sqrt(d).
    """
    keys_array, position = np.broadcast_arrays(
        np.asarray(keys, dtype=np.uint64), np.asarray(seconds, dtype=np.float64)
    )
    total = np.zeros(position.shape)
    for octave in range(13):
        period = 4.0**octave
        # 2.2: what the octaves shorter and longer than d add up to, as a multiple of d.
        total += np.sqrt(period / 2.2) * _lattice(mix(keys_array, -1 - octave), position / period)
    return np.asarray(total, dtype=np.float64)


def wander(keys: ArrayLike, seconds: ArrayLike, periods: tuple[float, ...]) -> Floats:
    """Give a stationary, continuous path with a standard deviation of about 1.

    Args:
        keys: One key per path; broadcasts with `seconds`.
        seconds: Position on the time axis.
        periods: Time scales in seconds that share the variance evenly.
    """
    keys_array, position = np.broadcast_arrays(
        np.asarray(keys, dtype=np.uint64), np.asarray(seconds, dtype=np.float64)
    )
    total = np.zeros(position.shape)
    for number, period in enumerate(periods):
        total += _lattice(mix(keys_array, -101 - number), position / period)
    return np.asarray(total / np.sqrt(_LERP_VARIANCE * len(periods)), dtype=np.float64)
