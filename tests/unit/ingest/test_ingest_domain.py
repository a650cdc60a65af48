"""Ingest's decisions: commands by difference, routing by shard, causes of endings."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.messages import (
    AccountPlan,
    PlannedConnection,
    PlannedGroup,
    StreamMode,
)
from libs.common.contracts.subjects import shard_of
from services.ingest.domain import causes, subscriptions
from services.ingest.domain.causes import Cause
from services.ingest.domain.routing import ShardTable

books = st.dictionaries(st.integers(1, 5_000), st.sampled_from(StreamMode), max_size=60)


def carry_out(state, commands):
    """What Kite does with the commands: a bare subscribe means quote."""
    state = dict(state)
    largest = len(state)
    for command in map(json.loads, commands):
        if command["a"] == "subscribe":
            state.update(dict.fromkeys(command["v"], StreamMode.QUOTE))
        elif command["a"] == "unsubscribe":
            for token in command["v"]:
                del state[token]
        else:
            mode, tokens = command["v"]
            assert all(token in state for token in tokens)
            state.update(dict.fromkeys(tokens, StreamMode(mode)))
        largest = max(largest, len(state))
    return state, largest


@given(books, books)
def test_commands_lead_from_any_book_to_any_other(current, wanted):
    reached, largest = carry_out(current, subscriptions.commands(current, wanted))
    assert reached == wanted
    assert largest <= max(len(current), len(wanted))


@given(books)
def test_nothing_is_said_when_nothing_differs(book):
    assert list(subscriptions.commands(book, book)) == []


def test_large_books_are_sent_in_parts():
    wanted = dict.fromkeys(range(1, 2_501), StreamMode.FULL)
    sizes = [
        len(c["v"])
        for c in map(json.loads, subscriptions.commands({}, wanted))
        if c["a"] == "subscribe"
    ]
    assert sizes == [1000, 1000, 500]


def plan_of(groups):
    return AccountPlan(
        account="a",
        revision=1,
        planned_at_ns=0,
        connections=(
            PlannedConnection(
                groups=tuple(
                    PlannedGroup(underlying=name, mode=StreamMode.FULL, tokens=tuple(tokens))
                    for name, tokens in groups.items()
                )
            ),
        ),
    )


@given(
    st.dictionaries(
        st.sampled_from(["NIFTY", "SENSEX", "M&M", "INDIA VIX"]),
        st.sets(st.integers(1, 10_000), max_size=20),
    ),
    st.integers(1, 32),
)
def test_every_planned_token_is_routed_to_the_shard_of_its_underlying(groups, shards):
    table = ShardTable.of(plan_of(groups), shards)
    assert np.all(np.diff(table.tokens) > 0)
    owner = {token: name for name, tokens in groups.items() for token in tokens}
    for token, shard in zip(table.tokens.tolist(), table.shards.tolist(), strict=True):
        assert shard == shard_of(owner[token], shards)
    assert set(table.tokens.tolist()) == set(owner)


@pytest.mark.parametrize(
    ("status", "cause"),
    [(403, Cause.SESSION_REFUSED), (429, Cause.RATE_LIMITED), (502, Cause.HANDSHAKE)],
)
def test_status_of_a_refused_handshake_decides_the_cause(status, cause):
    assert causes.of_handshake(status) is cause


@pytest.mark.parametrize(
    ("code", "cause"),
    [
        (1000, Cause.CLOSED_CLEAN),
        (1001, Cause.CLOSED_CLEAN),
        (1011, Cause.DROPPED),
        (None, Cause.DROPPED),
    ],
)
def test_close_code_decides_the_cause(code, cause):
    assert causes.of_close(code) is cause
