"""Strike windows: what is wanted around the money, and when the centre moves."""

from datetime import date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.clock import IST
from libs.common.domain.instruments import Instrument, Kind, OptionType
from services.control.domain import windows

NEAR, FAR = date(2026, 12, 1), date(2026, 12, 29)
NOW = datetime(2026, 11, 23, 10, 0, tzinfo=IST)


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
        for strike in range(25_000, 27_050, 50):
            for option_type in OptionType:
                token += 1
                items.append(
                    instrument(
                        token,
                        Kind.OPTION,
                        strike=float(strike),
                        expiry=expiry,
                        option_type=option_type,
                    )
                )
    return windows.chains(items, ["NIFTY", "ABSENT"])["NIFTY"]


def choose(chain, price, *, previous=None, now=NOW, expiries=1, otm_levels=2):
    return windows.window(
        chain,
        price=price,
        now=now,
        expiries=expiries,
        otm_levels=otm_levels,
        previous=previous or {},
    )


def test_window_holds_both_legs_around_the_money_and_what_prices_them(chain):
    window = choose(chain, 26_012.0)
    by_reason: dict[str, list[int]] = {}
    for item in window.wanted:
        by_reason.setdefault(item.reason, []).append(item.instrument_token)
    assert by_reason["priced_with"] == [256265, 10]
    assert len(by_reason["window"]) == 5 * 2
    assert window.centres == {NEAR: 26_000.0}


def test_without_a_price_only_spot_and_futures_are_wanted(chain):
    assert [w.instrument_token for w in choose(chain, None).wanted] == [256265, 10]


def test_expired_contracts_are_left_out(chain):
    after_close = datetime(2026, 12, 1, 15, 40, tzinfo=IST)
    assert windows.living_expiries(chain, after_close) == [FAR]
    before_close = datetime(2026, 12, 1, 15, 39, 59, tzinfo=IST)
    assert windows.living_expiries(chain, before_close) == [NEAR, FAR]


def test_window_at_the_edge_of_the_chain_takes_what_there_is(chain):
    window = choose(chain, 24_000.0)
    assert window.centres == {NEAR: 25_000.0}
    assert sum(w.reason == "window" for w in window.wanted) == 3 * 2


def test_price_swinging_around_the_midpoint_moves_nothing(chain):
    strikes = sorted(chain.options[NEAR])
    centre = windows.centre_strike(strikes, 26_020.0, None)
    seen = {centre}
    for price in (26_026.0, 26_024.0, 26_030.0, 26_020.0, 26_035.0):
        centre = windows.centre_strike(strikes, price, centre)
        seen.add(centre)
    assert seen == {26_000.0}
    assert windows.centre_strike(strikes, 26_040.0, centre) == 26_050.0


@given(st.floats(20_000, 30_000), st.floats(20_000, 30_000))
def test_centre_is_within_one_step_of_the_nearest_strike(first, second):
    strikes = [float(s) for s in range(25_000, 27_050, 50)]
    previous = windows.centre_strike(strikes, first, None)
    centre = windows.centre_strike(strikes, second, previous)
    nearest = windows.centre_strike(strikes, second, None)
    assert abs(centre - nearest) <= 50


def test_unknown_underlying_is_absent_from_the_chains():
    assert windows.chains([], ["NIFTY"]) == {}
