"""Small markets for the simulator's unit tests."""

from datetime import date, datetime
from functools import cache

import numpy as np

from libs.common.domain.clock import IST, ns_of
from libs.common.domain.market_calendar import CALENDAR
from services.simulator.domain.market import Market
from services.simulator.domain.paths import Paths, path_seconds
from services.simulator.domain.universe import UniverseSize, build_universe, members

DAY = date(2026, 11, 18)


def at(hour: int, minute: int = 0, second: int = 0, day: date = DAY) -> int:
    """Epoch nanoseconds of an Indian time of day."""
    return ns_of(datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=IST))


def make_market(seed: int = 7, day: date = DAY, *, tick_probability: float = 0.8) -> Market:
    """A demo market with few strikes."""
    listed = members(UniverseSize.DEMO)
    paths = Paths(seed, listed)
    levels = paths.spot(np.arange(len(listed)), path_seconds(at(9, 15, day=day)))
    universe = build_universe(day, [float(level) for level in levels], strikes_per_side=6)
    return Market(universe, paths, seed=seed, calendar=CALENDAR, tick_probability=tick_probability)


@cache
def shared_market() -> Market:
    """The market of seed 7; it is immutable, so all tests may share it."""
    return make_market()
