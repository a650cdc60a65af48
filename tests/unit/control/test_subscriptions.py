"""Explicit subscriptions: what they want, why they cannot be had, and how each fares."""

from datetime import date, datetime

from libs.common.contracts.messages import FeedCoverage, StreamMode
from libs.common.domain.clock import IST
from libs.common.domain.instruments import Instrument, Kind, OptionType
from services.control.domain import planner, subscriptions
from services.control.domain.planner import Capacity
from services.control.domain.subscriptions import (
    Condition,
    Coverage,
    Fleet,
    State,
    Subscription,
)
from services.control.domain.windows import Universe

NOW = datetime(2026, 11, 23, 10, 0, tzinfo=IST)
WEEK, MONTH = date(2026, 11, 24), date(2026, 12, 29)


def instrument(token, kind, *, symbol=None, expiry=None, strike=None, exchange="NFO", segment=None):
    return Instrument(
        instrument_token=token,
        exchange_token=token,
        tradingsymbol=symbol or f"S{token}",
        name="RELIANCE",
        exchange=exchange,
        segment=segment or exchange,
        underlying="RELIANCE",
        kind=kind,
        strike=strike,
        expiry=expiry,
        option_type=OptionType.CALL if kind is Kind.OPTION else None,
        lot_size=1,
        tick_size=0.05,
    )


SPOT = instrument(1, Kind.EQUITY, exchange="NSE")
FUTURE = instrument(2, Kind.FUTURE, expiry=MONTH)
NEXT_FUTURE = instrument(3, Kind.FUTURE, expiry=date(2027, 1, 26))
MONTHLY = instrument(10, Kind.OPTION, expiry=MONTH, strike=1400.0)
WEEKLY = instrument(11, Kind.OPTION, expiry=WEEK, strike=1400.0)
UNIVERSE = Universe([SPOT, FUTURE, NEXT_FUTURE, MONTHLY, WEEKLY])


def row(item, *, mode=StreamMode.FULL, account=None, **changes):
    values = {
        "instrument_token": item.instrument_token,
        "tradingsymbol": item.tradingsymbol,
        "segment": item.segment,
        "mode": mode,
        "account": account,
        "condition": Condition(State.PENDING),
        **changes,
    }
    return Subscription(**values)


def tokens(asked, reason):
    return {w.instrument_token for w in asked.wanted if w.reason == reason}


def test_option_brings_its_equity_and_its_expirys_future():
    asked = subscriptions.explicit([row(MONTHLY)], UNIVERSE, NOW)
    assert tokens(asked, "explicit") == {10}
    assert tokens(asked, "priced_with") == {1, 2}
    [wanted] = [w for w in asked.wanted if w.reason == "explicit"]
    assert wanted.needs == (1, 2)


def test_option_without_a_future_of_its_expiry_brings_the_equity():
    asked = subscriptions.explicit([row(WEEKLY)], UNIVERSE, NOW)
    assert tokens(asked, "priced_with") == {1}


def test_future_brings_its_equity_and_does_not_need_itself():
    asked = subscriptions.explicit([row(FUTURE, mode=StreamMode.LTP)], UNIVERSE, NOW)
    [wanted] = [w for w in asked.wanted if w.reason == "explicit"]
    assert (wanted.needs, wanted.mode) == ((1,), StreamMode.LTP)


def test_equity_brings_nothing():
    asked = subscriptions.explicit([row(SPOT, account="acc1")], UNIVERSE, NOW)
    [wanted] = asked.wanted
    assert (wanted.instrument_token, wanted.needs, wanted.account) == (1, (), "acc1")


def test_instrument_that_left_the_dump_is_refused_with_the_reason():
    asked = subscriptions.explicit([row(instrument(99, Kind.EQUITY))], UNIVERSE, NOW)
    assert asked.wanted == ()
    assert "not in today's instruments" in asked.refused[99]


def test_contract_that_has_expired_is_refused_from_its_last_moment_on():
    after_close = datetime(2026, 11, 24, 15, 40, tzinfo=IST)
    asked = subscriptions.explicit([row(WEEKLY), row(MONTHLY)], UNIVERSE, after_close)
    assert asked.refused == {11: "expired on 2026-11-24"}
    assert tokens(asked, "explicit") == {10}


def test_token_that_was_given_to_another_contract_is_refused():
    old = row(MONTHLY, tradingsymbol="RELIANCE26NOV1300CE")
    asked = subscriptions.explicit([old], UNIVERSE, NOW)
    assert "now belongs to NFO:S10" in asked.refused[10]


def test_company_that_changed_its_symbol_keeps_its_subscription():
    asked = subscriptions.explicit([row(SPOT, tradingsymbol="OLDNAME")], UNIVERSE, NOW)
    assert asked.refused == {}


def fleet_of(rows, capacities, *, coverage=None, lost=(), previous=None, now=NOW, since=0):
    asked = subscriptions.explicit(rows, UNIVERSE, now)
    outcome = planner.plan(asked.wanted, capacities, previous or {}, lost=lost)
    return Fleet(
        plan=outcome,
        refused=asked.refused,
        since=dict.fromkeys(outcome.slots, since),
        coverage=coverage or {},
    )


def covered(revision=1, *, pending=(), no_data=(), stale=()):
    return Coverage.of(
        FeedCoverage(
            account="a",
            plan_revision=revision,
            pending=tuple(pending),
            no_data=tuple(no_data),
            stale=tuple(stale),
            at_ns=1,
        )
    )


A = Capacity(account="a", connections=1, tokens_per_connection=10)


def test_states_follow_what_the_feed_covers():
    rows = [row(MONTHLY), row(WEEKLY), row(FUTURE), row(SPOT)]
    fleet = fleet_of(rows, [A], coverage={"a": covered(pending=[10], no_data=[11], stale=[2])})
    found = subscriptions.conditions({10: None, 11: None, 2: None, 1: None}, fleet)
    assert {token: c.state for token, c in found.items()} == {
        10: State.PENDING,
        11: State.NO_DATA,
        2: State.LIVE,
        1: State.LIVE,
    }
    assert found[1].reason == ""
    assert found[2].reason == "no tick for a while"


def test_feed_that_has_not_taken_the_plan_leaves_newcomers_pending():
    fleet = fleet_of([row(SPOT)], [A], coverage={"a": covered(4)}, since=5)
    assert subscriptions.conditions({1: None}, fleet)[1].state is State.PENDING
    fleet = fleet_of([row(SPOT)], [A], coverage={"a": covered(5)}, since=5)
    assert subscriptions.conditions({1: None}, fleet)[1].state is State.LIVE


def test_account_that_does_not_report_leaves_its_instruments_pending():
    found = subscriptions.conditions({1: None}, fleet_of([row(SPOT)], [A]))
    assert found[1] == Condition(State.PENDING, "the feed of account a does not report")


def test_instrument_without_room_is_rejected_by_name_of_the_reason():
    full = Capacity(account="a", connections=1, tokens_per_connection=2)
    fleet = fleet_of([row(MONTHLY), row(SPOT)], [full])
    found = subscriptions.conditions({10: None, 1: None}, fleet)
    assert found[10].state is State.REJECTED
    assert "no account has room" in found[10].reason


def test_unknown_pin_is_rejected_and_an_absent_account_is_waited_for():
    rows = [row(SPOT, account="x")]
    found = subscriptions.conditions({1: "x"}, fleet_of(rows, [A]))
    assert found[1] == Condition(
        State.REJECTED, "account x, to which it is pinned, is unknown or disabled"
    )
    found = subscriptions.conditions({1: "x"}, fleet_of(rows, [A], lost={"x"}))
    assert found[1] == Condition(State.PENDING, "account x, to which it is pinned, is away")


def test_pin_that_others_overrule_is_told():
    rows = [row(SPOT, account="x"), row(MONTHLY)]
    found = subscriptions.conditions(
        {1: "x", 10: None}, fleet_of(rows, [A], coverage={"a": covered()})
    )
    assert found[1].state is State.REJECTED
    assert "account a streams it because others need it" in found[1].reason
    assert found[10].state is State.LIVE


def test_refusal_is_told_before_anything_else():
    rows = [row(instrument(99, Kind.EQUITY))]
    found = subscriptions.conditions({99: None, 98: None}, fleet_of(rows, [A]))
    assert found[99].state is State.REJECTED
    assert found[98] == Condition(State.PENDING, "not planned yet")
