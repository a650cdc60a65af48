"""The terms of a column of options: inputs checked for shape and type, once, at the door."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

FloatArray: TypeAlias = NDArray[np.float64]
Column: TypeAlias = FloatArray | float
"""One value per row, or one value for all rows."""
Model: TypeAlias = Literal["black76", "bsm"]

MODELS: Final[tuple[str, ...]] = get_args(Model)


def constant(value: float) -> FloatArray:
    """Return a float as numpy wants it, shape [].

    numpy turns a Python float into an array at every use, which takes as long as the operation on
    a hundred rows; what the solver uses again and again is turned once.
    """
    return np.array(value)


class Terms(NamedTuple):
    """What an option is written on; every column has shape [n] or is a float for all rows."""

    flag: Column
    """1 for a call, -1 for a put; other numbers make the row bad input."""
    forward: Column
    """Forward to the expiry, in rupees."""
    strike: Column
    """Strike, in rupees."""
    tte: Column
    """Time to expiry, in ACT/365 years."""
    df: Column
    """Discount factor to the expiry."""
    spot: Column | None
    """Spot in rupees for Black-Scholes-Merton, None for Black-76."""


def terms_of(
    n: int,
    *,
    flag: ArrayLike,
    forward: ArrayLike,
    strike: ArrayLike,
    tte: ArrayLike,
    df: ArrayLike,
    model: Model = "black76",
    spot: ArrayLike | None = None,
) -> Terms:
    """Check the terms of n rows; values are judged later, row by row.

    Raises:
        ValueError: a shape, a type or the model does not fit; the message names the argument.
    """
    if model not in MODELS:
        raise ValueError(f"model: {model!r} is unknown; use one of {', '.join(MODELS)}")
    kind = np.asarray(flag).dtype
    if kind.kind != "i":
        raise ValueError(f"flag: expected signed integers (1 call, -1 put), got {kind}")
    forward_column = column("forward", forward, n)
    df_column = column("df", df, n)
    spot_column: Column | None = None
    if model == "black76":
        if spot is not None:
            raise ValueError("spot: black76 has no spot; pass model='bsm' or leave it out")
    elif spot is None:
        with np.errstate(all="ignore"):
            spot_column = forward_column * df_column  # No dividends.
    else:
        spot_column = column("spot", spot, n)
    return Terms(
        column("flag", flag, n),
        forward_column,
        column("strike", strike, n),
        column("tte", tte, n),
        df_column,
        spot_column,
    )


def column(name: str, values: ArrayLike, n: int) -> Column:
    """Return contiguous float64[n], without a copy where it is that already; scalars as float64.

    Raises:
        ValueError: not real numbers, or neither a scalar nor of shape [n].
    """
    array = np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name}: expected real numbers, got {array.dtype}")
    if array.ndim == 0:
        return np.float64(array)  # Divides by zero like a column, without an exception.
    if array.shape != (n,):
        raise ValueError(f"{name}: expected shape ({n},) or a scalar, got {array.shape}")
    return np.ascontiguousarray(array, dtype=np.float64)


def row_count(**arguments: ArrayLike | None) -> int:
    """Return n of the first argument that is an array; 1 if all are scalars.

    Raises:
        ValueError: an argument has more than one dimension.
    """
    for name, values in arguments.items():
        shape = () if values is None else np.shape(values)
        if len(shape) > 1:
            raise ValueError(f"{name}: expected one dimension, got shape {shape}")
        if shape:
            return int(shape[0])
    return 1


def output(out: FloatArray | None, values: int, n: int) -> FloatArray:
    """Return `out` if it is a writable float64[values, n], or a new array for None.

    Raises:
        ValueError: `out` has another shape or type, or is read-only.
    """
    if out is None:
        return np.empty((values, n))
    if out.shape != (values, n) or out.dtype.char != "d":
        raise ValueError(f"out: expected float64 ({values}, {n}), got {out.dtype} {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out: the array is read-only; pass a writable one or None")
    return out
