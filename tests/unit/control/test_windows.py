"""Strike windows: what is wanted around the money, and when the centre moves."""

from datetime import date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.clock import IST
from libs.common.domain.instruments import Instrument, Kind, OptionType
from services.control.domain import windows
from services.control.domain.windows import DWELL, Centre, Universe

NEAR, FAR = date(2026, 12, 1), date(2026, 12, 29)
NOW = datetime(2026, 11, 23, 10, 0, tzinfo=IST)
EVEN = tuple(float(s) for s in range(25_000, 27_050, 50))


def instrument(token, kind, *, strike=None, expiry=None, option_type=None, exchange="NFO"):
    return Instrument(
        instrument_token=token,
        exchange_token=token >> 8,
        tradingsymbol=f"T{token}",
        name="NIFTY",
        exchange=exchange,
        segment="NFO-OPT",
        underlying="NIFTY",
        kind=kind,
        strike=strike,
        expiry=expiry,
        option_type=option_type,
        lot_size=65,
        tick_size=0.05,
    )


@pytest.fixture(scope="module")
def chain():
    items = [instrument(256265, Kind.INDEX, exchange="NSE")]
    items += [instrument(10, Kind.FUTURE, expiry=FAR)]
    token = 1000
    for expiry in (NEAR, FAR):
        for strike in EVEN:
            for option_type in OptionType:
                token += 1
                items.append(
                    instrument(
                        token, Kind.OPTION, strike=strike, expiry=expiry, option_type=option_type
                    )
                )
    return Universe(items).chain("NIFTY")


def choose(chain, spot, *, forwards=None, previous=None, now=NOW, expiries=1, otm_levels=2):
    return windows.window(
        chain,
        spot=spot,
        forwards=forwards or {},
        now=now,
        expiries=expiries,
        otm_levels=otm_levels,
        previous=previous or {},
    )


def strikes_of(centres):
    return {expiry: centre.strike for expiry, centre in centres.items()}


def test_window_holds_both_legs_around_the_money_and_what_prices_them(chain):
    window = choose(chain, 26_012.0)
    by_reason: dict[str, list[int]] = {}
    for item in window.wanted:
        by_reason.setdefault(item.reason, []).append(item.instrument_token)
    assert by_reason["priced_with"] == [256265, 10]
    assert len(by_reason["window"]) == 5 * 2
    assert strikes_of(window.centres) == {NEAR: 26_000.0}


def test_an_option_needs_the_spot_and_the_future_of_its_own_expiry(chain):
    window = choose(chain, 26_012.0, expiries=2)
    needs = {w.needs for w in window.wanted if w.reason == "window"}
    assert needs == {(256265,), (256265, 10)}


def test_distance_counts_strikes_from_the_money(chain):
    window = choose(chain, 26_012.0)
    distances = sorted(w.distance for w in window.wanted if w.reason == "window")
    assert distances == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2]


def test_every_expiry_follows_its_own_forward_and_the_others_the_spot(chain):
    window = choose(chain, 26_012.0, forwards={FAR: 26_170.0}, expiries=2)
    assert strikes_of(window.centres) == {NEAR: 26_000.0, FAR: 26_150.0}


def test_without_a_price_only_spot_and_futures_are_wanted(chain):
    assert [w.instrument_token for w in choose(chain, None).wanted] == [256265, 10]


def test_without_a_price_a_window_stays_where_it_was(chain):
    before = choose(chain, 26_012.0)
    after = choose(chain, None, previous=before.centres)
    assert after == before


def test_expired_contracts_are_left_out(chain):
    after_close = datetime(2026, 12, 1, 15, 40, tzinfo=IST)
    assert windows.living_expiries(chain, after_close) == [FAR]
    before_close = datetime(2026, 12, 1, 15, 39, 59, tzinfo=IST)
    assert windows.living_expiries(chain, before_close) == [NEAR, FAR]


def test_contract_of_an_exchange_without_known_hours_lives_out_its_day():
    item = instrument(1, Kind.FUTURE, expiry=NEAR, exchange="NSEIX")
    assert not windows.has_expired(item, datetime(2026, 12, 1, 23, 0, tzinfo=IST))
    assert windows.has_expired(item, datetime(2026, 12, 2, 0, 0, tzinfo=IST))


def test_window_at_the_edge_of_the_chain_takes_what_there_is(chain):
    window = choose(chain, 24_000.0)
    assert strikes_of(window.centres) == {NEAR: 25_000.0}
    assert sum(w.reason == "window" for w in window.wanted) == 3 * 2


def test_one_sided_and_missing_strikes_are_ordinary():
    items = [
        instrument(1, Kind.OPTION, strike=100.0, expiry=NEAR, option_type=OptionType.CALL),
        instrument(2, Kind.OPTION, strike=110.0, expiry=NEAR, option_type=OptionType.PUT),
        instrument(3, Kind.OPTION, strike=150.0, expiry=NEAR, option_type=OptionType.CALL),
        instrument(4, Kind.OPTION, strike=150.0, expiry=NEAR, option_type=OptionType.PUT),
        instrument(5, Kind.OPTION, strike=300.0, expiry=NEAR, option_type=OptionType.PUT),
    ]
    chain = Universe(items).chain("NIFTY")
    assert chain is not None
    window = choose(chain, 112.0, otm_levels=1)
    assert {w.instrument_token for w in window.wanted} == {1, 2, 3, 4}


def test_price_swinging_around_the_midpoint_moves_nothing():
    centre = windows.centre_strike(EVEN, 26_020.0, None)
    seen = {centre}
    for price in (26_026.0, 26_024.0, 26_030.0, 26_020.0, 26_035.0):
        centre = windows.centre_strike(EVEN, price, centre)
        seen.add(centre)
    assert seen == {26_000.0}
    assert windows.centre_strike(EVEN, 26_040.0, centre) == 26_050.0


def test_on_an_uneven_grid_the_line_lies_between_the_two_strikes_around_the_price():
    # 131 is nearest to 150, but not far enough beyond 130: the centre goes on to 110, not nowhere.
    assert windows.centre_strike((100.0, 110.0, 150.0), 131.0, 100.0) == 110.0
    assert windows.centre_strike((100.0, 110.0, 150.0), 141.0, 100.0) == 150.0


def test_centre_dwells_a_minute_and_then_follows():
    held = windows.move_centre(EVEN, 26_000.0, None, NOW)
    held = windows.move_centre(EVEN, 26_050.0, held, NOW + DWELL)
    assert held == Centre(26_050.0, NOW + DWELL)
    soon = NOW + DWELL * 2 - timedelta(seconds=1)
    assert windows.move_centre(EVEN, 26_000.0, held, soon) == held
    assert windows.move_centre(EVEN, 26_000.0, held, NOW + DWELL * 2).strike == 26_000.0


def test_jump_beyond_the_second_strike_does_not_wait():
    held = windows.move_centre(EVEN, 26_000.0, None, NOW)
    later = NOW + timedelta(seconds=1)
    assert windows.move_centre(EVEN, 26_100.0, held, later) == held
    assert windows.move_centre(EVEN, 26_101.0, held, later).strike == 26_100.0
    assert windows.move_centre(EVEN, 25_899.0, held, later).strike == 25_900.0


def test_clock_that_ran_backwards_holds_nothing_up():
    held = Centre(26_000.0, NOW)
    yesterday = NOW - timedelta(days=1)
    assert windows.move_centre(EVEN, 26_050.0, held, yesterday) == Centre(26_050.0, yesterday)


def test_centre_that_left_the_grid_is_chosen_anew():
    held = Centre(26_010.0, NOW)
    assert windows.move_centre(EVEN, 26_100.0, held, NOW).strike == 26_100.0


grids = st.lists(st.integers(1, 400), min_size=1, max_size=40, unique=True).map(
    lambda values: tuple(sorted(value * 5.0 for value in values))
)
# Seconds since the look before, and the price then.
paths = st.lists(st.tuples(st.floats(0.2, 45.0), st.floats(1.0, 2_100.0)), min_size=1, max_size=60)


def walk(strikes, path):
    """Every look: (seconds since the start, price, centre)."""
    held, seconds = None, 0.0
    for step, price in path:
        seconds += step
        held = windows.move_centre(strikes, price, held, NOW + timedelta(seconds=seconds))
        yield seconds, price, held


@given(grids, paths)
def test_no_path_moves_the_centre_twice_within_a_minute_unless_it_jumps(strikes, path):
    last_move = None
    for (_, _, before), (seconds, price, centre) in pairwise(walk(strikes, path)):
        if centre.strike == before.strike:
            continue
        at = strikes.index(before.strike)
        jumped = any(
            (price - strikes[i]) * (i - at) > 0 for i in (at - 2, at + 2) if 0 <= i < len(strikes)
        )
        if last_move is not None and seconds - last_move < DWELL.total_seconds() - 1e-6:
            assert jumped, (strikes, before, price)
        last_move = seconds


@given(grids, paths)
def test_money_is_covered_once_the_dwell_is_over(strikes, path):
    *_, (seconds, price, centre) = walk(strikes, path)
    rested = windows.move_centre(strikes, price, centre, NOW + timedelta(seconds=seconds + 61))
    at = strikes.index(rested.strike)
    nearest = min(range(len(strikes)), key=lambda i: abs(strikes[i] - price))
    # Within the hysteresis: the price is at most three quarters of the way to the next strike.
    assert abs(at - nearest) <= 1
    if at != nearest:
        gap = abs(strikes[nearest] - rested.strike)
        assert abs(price - rested.strike) <= 0.75 * gap + 1e-9


@given(grids, paths)
def test_money_is_never_more_than_two_strikes_from_the_centre(strikes, path):
    for _, price, centre in walk(strikes, path):
        at = strikes.index(centre.strike)
        low, high = max(0, at - 2), min(len(strikes) - 1, at + 2)
        assert price >= strikes[low] or low == 0
        assert price <= strikes[high] or high == len(strikes) - 1


@given(grids, st.floats(1.0, 2_100.0), st.floats(58.0, 62.0))
def test_price_that_swings_around_a_line_moves_at_most_once_a_minute(strikes, price, swing):
    path = [(3.0, price + (swing if i % 2 else -swing) / 100) for i in range(100)]
    moves = sum(a.strike != b.strike for (_, _, a), (_, _, b) in pairwise(walk(strikes, path)))
    assert moves <= 300 / DWELL.total_seconds() + 1


@given(st.floats(20_000, 30_000), st.floats(20_000, 30_000))
def test_centre_is_within_one_step_of_the_nearest_strike(first, second):
    previous = windows.centre_strike(EVEN, first, None)
    centre = windows.centre_strike(EVEN, second, previous)
    nearest = windows.centre_strike(EVEN, second, None)
    assert abs(centre - nearest) <= 50


def test_unknown_underlying_is_absent_from_the_chains():
    assert Universe([]).chains(["NIFTY"]) == {}
