"""The plan against reality: per account and connection, what is planned, subscribed and silent."""

import pytest

from libs.common.contracts.messages import (
    AccountCondition,
    AccountPlan,
    AccountSource,
    AccountState,
    ControlStatus,
    FeedCoverage,
    FeedState,
    FeedStatus,
    PlannedConnection,
    PlannedGroup,
    StreamMode,
)
from services.fleet.domain.plan_report import plan_report


def entry(account, *connections, revision=5):
    return AccountPlan(
        account=account,
        revision=revision,
        connections=tuple(PlannedConnection(groups=tuple(groups)) for groups in connections),
        planned_at_ns=1,
    )


def group(underlying, *tokens, mode=StreamMode.FULL, home=None):
    return PlannedGroup(underlying=underlying, mode=mode, tokens=tokens, home=home)


def feed(account, tokens, *, state=FeedState.STREAMING):
    return FeedStatus(
        account=account,
        worker="ingest-1",
        state=state,
        connections=1,
        tokens=tokens,
        frames_total=0,
        ticks_total=0,
        dropped_total=0,
        plan_revision=5,
        at_ns=1,
    )


def control(**changes):
    values = {
        "worker": "control-1",
        "plan_revision": 5,
        "planned": 3,
        "unplaced": 0,
        "instruments": 10,
        "instruments_revision": 1,
        "at_ns": 1,
        **changes,
    }
    return ControlStatus(**values)


def report(**changes):
    values = {
        "plans": [entry("a", [group("NIFTY", 1, 2)], [group("M&M", 3, mode=StreamMode.LTP)])],
        "feeds": [feed("a", 3)],
        "coverages": [
            FeedCoverage(account="a", plan_revision=5, pending=(), no_data=(), stale=(), at_ns=1)
        ],
        "accounts": [],
        "control": control(),
        **changes,
    }
    return plan_report(**values)


def test_connections_are_told_apart_by_mode_and_underlying():
    found = report()
    [account] = found.accounts
    assert (account.planned, account.subscribed, found.revision) == (3, 3, 5)
    assert [(c.planned, c.modes, c.underlyings) for c in account.connections] == [
        (2, {"full": 2}, {"NIFTY": 2}),
        (1, {"ltp": 1}, {"M&M": 1}),
    ]
    assert found.is_well


def test_silent_instruments_are_counted_on_the_connection_that_has_them():
    coverage = FeedCoverage(
        account="a", plan_revision=5, pending=(1,), no_data=(3,), stale=(2, 99), at_ns=1
    )
    found = report(coverages=[coverage])
    first, second = found.accounts[0].connections
    assert (first.pending, first.no_data, first.stale) == (1, 0, 1)
    assert (second.pending, second.no_data, second.stale) == (0, 1, 0)
    assert not found.is_well


def test_account_that_subscribed_less_than_planned_is_not_well():
    assert not report(feeds=[feed("a", 2)]).is_well
    found = report(feeds=[])
    assert (found.accounts[0].feed, found.accounts[0].subscribed) == (None, 0)
    assert not found.is_well


def test_visitors_are_counted_by_their_home():
    plans = [entry("a", [group("NIFTY", 1), group("NIFTY", 2, 3, home="b")]), entry("b")]
    found = report(plans=plans, feeds=[feed("a", 3), feed("b", 0)])
    assert found.accounts[0].visitors == {"b": 2}
    assert found.away == 2
    assert not found.is_well


@pytest.mark.parametrize("said_by", ["control", "accounts"])
def test_lost_account_is_named_whoever_says_so(said_by):
    state = AccountState(
        account="b",
        source=AccountSource.ENVIRONMENT,
        condition=AccountCondition.READY,
        connections=3,
        tokens_per_connection=3000,
        lost_since_ns=7 if said_by == "accounts" else None,
        at_ns=1,
    )
    words = {"b": "lost: nobody holds its lease"} if said_by == "control" else {}
    found = report(accounts=[state], control=control(accounts=words))
    [account] = [a for a in found.accounts if a.account == "b"]
    assert account.lost
    assert not found.is_well


def test_unplaced_instruments_are_named():
    found = report(control=control(unplaced=2, unplaced_names={"NFO:X": "no account has room"}))
    assert found.unplaced_names == {"NFO:X": "no account has room"}
    assert not found.is_well


def test_silence_of_control_is_not_well():
    found = report(control=None)
    assert found.leader is None
    assert not found.is_well
