"""Which market is streamed: the simulator stands in only while every exchange is closed."""

from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.contracts.messages import Source
from libs.common.domain.clock import IST
from services.control.domain.feed_choice import choose_feed, is_any_open

EXCHANGES = ("NSE", "NFO", "BSE", "BFO")


@pytest.mark.parametrize(
    ("moment", "is_open"),
    [
        ("2026-11-23T08:59:59", False),
        ("2026-11-23T09:00:00", True),  # The pre-open begins.
        ("2026-11-23T09:15:00", True),
        ("2026-11-23T15:39:59", True),  # Derivatives trade until 15:40.
        ("2026-11-23T15:40:00", False),
        ("2026-11-24T11:00:00", False),  # A holiday.
        ("2026-11-22T11:00:00", False),  # A Sunday.
        ("2026-02-01T11:00:00", True),  # The Sunday of the budget.
    ],
)
def test_market_is_open_from_the_pre_open_to_the_last_close(moment, is_open):
    now = datetime.fromisoformat(moment).replace(tzinfo=IST)
    assert is_any_open(EXCHANGES, now) is is_open


@given(st.booleans(), st.booleans())
def test_simulated_deployment_stays_simulated(market_open, mock_ready):
    for allowed in (False, True):
        chosen = choose_feed(
            configured=Source.SIM,
            mock_allowed=allowed,
            market_open=market_open,
            mock_ready=mock_ready,
        )
        assert chosen is Source.SIM


@given(st.booleans(), st.booleans(), st.booleans())
def test_live_deployment_turns_to_the_simulator_only_when_all_of_it_holds(
    allowed, market_open, mock_ready
):
    chosen = choose_feed(
        configured=Source.LIVE,
        mock_allowed=allowed,
        market_open=market_open,
        mock_ready=mock_ready,
    )
    assert (chosen is Source.SIM) == (allowed and mock_ready and not market_open)
