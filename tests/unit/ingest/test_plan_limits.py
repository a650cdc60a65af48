"""Kite's limits hold whatever the plan says."""

from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.messages import (
    AccountPlan,
    PlannedConnection,
    PlannedGroup,
    StreamMode,
)
from services.ingest.domain import plan_limits


def connection(*counts, first=1):
    groups = []
    for count in counts:
        tokens = tuple(range(first, first + count))
        groups.append(PlannedGroup(underlying="NIFTY", mode=StreamMode.LTP, tokens=tokens))
        first += count
    return PlannedConnection(groups=tuple(groups))


def plan(*connections):
    return AccountPlan(account="a", revision=1, planned_at_ns=0, connections=connections)


@given(st.lists(st.sampled_from([0, 1, 2999, 3000, 3001, 4000]), max_size=6))
def test_never_more_than_three_connections_of_three_thousand(sizes):
    books, refusals = plan_limits.admitted(plan(*map(connection, sizes)), [])
    assert len(books) <= 3
    assert all(len(book) <= 3000 for book in books)
    named = {refusal.connection: refusal.tokens for refusal in refusals}
    for number, size in enumerate(sizes):
        if number < 3 and size <= 3000:
            assert len(books[number]) == size
            assert number not in named
        elif size:
            assert named[number] == size


def test_connection_that_asks_for_too_much_keeps_what_it_has():
    before = {7: StreamMode.FULL}
    books, refusals = plan_limits.admitted(
        plan(connection(2000, 1001), connection(5, first=9000)), [before, {}]
    )
    assert books[0] == before
    assert len(books[1]) == 5
    assert [(r.connection, r.reason, r.tokens) for r in refusals] == [(0, "too_many_tokens", 3001)]


def test_token_named_twice_on_a_connection_counts_once():
    books, refusals = plan_limits.admitted(
        plan(PlannedConnection(groups=connection(3000).groups + connection(10).groups)), []
    )
    assert len(books[0]) == 3000
    assert refusals == []


def test_empty_connection_beyond_the_third_is_nothing_to_refuse():
    empty = [connection(0)] * 5
    assert plan_limits.admitted(plan(*empty), []) == ([{}, {}, {}], [])
