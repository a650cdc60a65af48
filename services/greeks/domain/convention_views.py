"""Prices one option as others do, beside our own way, and says which input makes the difference."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from libs.common.contracts.messages import (
    ExplainedInput,
    ExplainedStep,
    ExplainedView,
    IvStatus,
    PricingModel,
)
from services.greeks.domain.chain_pricer import STATUS_NAMES, Contracts, Engine, marked, solve
from services.greeks.domain.year_clock import SECONDS_PER_YEAR, TRADING_DAYS_PER_YEAR

Floats = npt.NDArray[np.float64]

NSE_RATE: Final = 0.10
"""The rate that NSE prints below its option chain."""
CALENDAR_DAYS_PER_YEAR: Final = 365
PER_TRADING_DAY: Final = CALENDAR_DAYS_PER_YEAR / TRADING_DAYS_PER_YEAR
"""From theta per calendar day to theta per trading day."""

_GREEKS: Final = ("delta", "gamma", "theta", "vega", "rho")
_CHANGES: Final[tuple[tuple[ExplainedInput, tuple[str, ...]], ...]] = (
    (ExplainedInput.OPTION_PRICE, ("flag", "price")),
    (ExplainedInput.UNDERLYING, ("is_bsm", "underlying")),
    (ExplainedInput.RATE, ("rate", "dividend_yield")),
    (ExplainedInput.CLOCK, ("tte",)),
)
"""In which order our inputs become another convention's: the price first, as the volatility of
another leg is the same by any convention that obeys parity."""


class Inputs(NamedTuple):
    """What a volatility is solved from.

    Attributes:
        flag: 1 call, -1 put: the leg whose price it is.
        price: Rupees; NaN for none.
        is_bsm: BSM on the spot, or Black-76 on the forward.
        underlying: That spot or forward, rupees; NaN for none.
        rate: Continuously compounded, per year.
        dividend_yield: Likewise; BSM only, a forward has it in it.
        tte: Years.
    """

    flag: int
    price: float
    is_bsm: bool
    underlying: float
    rate: float
    dividend_yield: float
    tte: float


class View(NamedTuple):
    """A convention applied to one option, before anything is solved.

    Attributes:
        name: Which one.
        says: It in words.
        inputs: What the volatility is solved from.
        told: Each input as a person reads it.
        underlying_source: What the underlying's price is; None if there is none.
        is_stale: Whether that price is too old.
        is_crossed: Whether the bid of the leg exceeds its ask.
        price_of: Symbol of the leg whose price is used; None if there is none.
        days: Left by its clock.
        theta_scale: From theta per calendar day to theta per day of its clock.
        is_alive: Whether the contract has not died, whatever `inputs.tte` says.
    """

    name: str
    says: str
    inputs: Inputs
    told: Mapping[ExplainedInput, str]
    underlying_source: str | None
    is_stale: bool
    is_crossed: bool
    price_of: str | None
    days: float
    theta_scale: float
    is_alive: bool


def solved_views(
    views: Sequence[View],
    ours: View,
    our_iv: float,
    *,
    flag: int,
    strike: float,
    engine: Engine,
) -> list[ExplainedView]:
    """Solve other conventions' views, all in one call of the engine.

    Args:
        views: The others.
        ours: Where the steps to each of them begin.
        our_iv: Our volatility, per year; NaN for none.
        flag: 1 call, -1 put: the option whose Greeks are wanted.
        strike: Rupees.
        engine: What solves.
    """
    paths = [list(_changed(ours.inputs, view.inputs)) for view in views]
    rows = [view.inputs for view in views]
    rows += [inputs for path in paths for _, inputs in path]
    nothing = np.full(len(rows), np.nan)
    contracts = _contracts(rows, strike)
    solved = solve(contracts, np.array([r.price for r in rows]), nothing, nothing, engine=engine)
    ends = _contracts([row._replace(flag=flag) for row in rows[: len(views)]], strike)
    greeks = ends.greeks_at(solved.iv[: len(views)])
    statuses = marked(
        solved.status[: len(views)],
        np.array([1.0 if view.is_crossed else np.nan for view in views]),
        np.zeros(len(views)),
        is_stale=np.array([view.is_stale for view in views]),
        source=np.array([view.underlying_source is not None for view in views]).astype(np.uint8),
    )
    found = []
    at = len(views)
    for number, (view, path) in enumerate(zip(views, paths, strict=True)):
        iv = float(solved.iv[number])
        ivs = solved.iv[at : at + len(path)].tolist()
        at += len(path)
        status = IvStatus(STATUS_NAMES[int(statuses[number])])
        if status is IvStatus.EXPIRED and view.is_alive:
            status = IvStatus.EXPIRING
        values = greeks[:, number].copy()
        values[_GREEKS.index("theta")] *= view.theta_scale
        steps = _steps(ours, view, our_iv, path, ivs) if np.isfinite(iv) else ()
        found.append(shown(view, iv, values, status, steps=steps))
    return found


def shown(
    view: View,
    iv: float,
    greeks: Floats,
    status: IvStatus,
    *,
    steps: tuple[ExplainedStep, ...] = (),
) -> ExplainedView:
    """A view with its results; NaN becomes null.

    Args:
        view: The convention applied.
        iv: Per year.
        greeks: delta, gamma, theta, vega, rho [5].
        status: Why there is, or is not, a volatility.
        steps: From our volatility to this one.
    """
    inputs = view.inputs
    return ExplainedView(
        name=view.name,
        says=view.says,
        model=PricingModel.BSM if inputs.is_bsm else PricingModel.BLACK76,
        underlying_price=or_none(inputs.underlying),
        underlying_source=view.underlying_source,
        rate=inputs.rate,
        dividend_yield=inputs.dividend_yield,
        tte=or_none(inputs.tte),
        days=or_none(view.days),
        option_price=or_none(inputs.price),
        option_price_of=view.price_of,
        iv=or_none(iv),
        **{name: or_none(value) for name, value in zip(_GREEKS, greeks.tolist(), strict=True)},
        iv_status=status,
        steps=steps,
    )


def told_of(
    inputs: Inputs, *, price_of: str | None, underlying_source: str | None, clock: str
) -> dict[ExplainedInput, str]:
    """Each input as a person reads it.

    Args:
        inputs: The numbers.
        price_of: Symbol of the leg.
        underlying_source: What the underlying's price is.
        clock: The time left, in words.
    """
    rates = f"rate {percent(inputs.rate)}"
    if inputs.dividend_yield:
        rates += f", dividend yield {percent(inputs.dividend_yield)}"
    return {
        ExplainedInput.OPTION_PRICE: f"{rupees(inputs.price)} of {price_of or 'nothing'}",
        ExplainedInput.UNDERLYING: f"{underlying_source or 'nothing'} {rupees(inputs.underlying)}",
        ExplainedInput.RATE: rates,
        ExplainedInput.CLOCK: clock,
    }


def years_of_seconds(seconds: float) -> float:
    """ACT/365."""
    return seconds / SECONDS_PER_YEAR


def or_none(value: float) -> float | None:
    """A number, or None for what is not finite."""
    return float(value) if np.isfinite(value) else None


def percent(value: float) -> str:
    """A fraction as per cent."""
    return f"{100 * value:g} %"


def rupees(value: float) -> str:
    """A price with paise."""
    return f"{value:.2f}" if np.isfinite(value) else "(no price)"


def _contracts(rows: Sequence[Inputs], strike: float) -> Contracts:
    tte = np.array([row.tte for row in rows])
    rate = np.array([row.rate for row in rows])
    is_bsm = np.array([row.is_bsm for row in rows])
    underlying = np.array([row.underlying for row in rows])
    carry = np.array([row.rate - row.dividend_yield for row in rows])
    n = tte.size
    return Contracts(
        flag=np.array([row.flag for row in rows], np.int8),
        strike=np.full(n, strike),
        forward=np.where(is_bsm, underlying * np.exp(carry * tte), underlying),
        tte=tte,
        df=np.exp(-rate * tte),
        spot=underlying,
        is_bsm=is_bsm,
        theta_scale=np.ones(n),
        smile_age_s=np.full(n, np.nan),
    )


def _changed(start: Inputs, end: Inputs) -> Iterator[tuple[ExplainedInput, Inputs]]:
    """The inputs after each change that makes a difference, from one convention to another."""
    at = start
    for which, fields in _CHANGES:
        after = at._replace(**{name: getattr(end, name) for name in fields})
        if any(not _same(getattr(at, name), getattr(after, name)) for name in fields):
            yield which, after
        at = after


def _same(one: float, other: float) -> bool:
    return one == other or (np.isnan(one) and np.isnan(other))


def _steps(
    ours: View,
    theirs: View,
    our_iv: float,
    path: Sequence[tuple[ExplainedInput, Inputs]],
    ivs: Sequence[float],
) -> tuple[ExplainedStep, ...]:
    before = [our_iv, *ivs]
    return tuple(
        ExplainedStep(
            input=which,
            says=f"{theirs.told[which]} instead of {ours.told[which]}",
            iv=or_none(iv),
            iv_change=or_none(iv - before[number]),
        )
        for number, ((which, _), iv) in enumerate(zip(path, ivs, strict=True))
    )
