"""Which instruments do not tick although they should."""

from datetime import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.common.domain.clock import IST
from libs.common.domain.market_calendar import CALENDAR
from services.ingest.domain import trading
from services.ingest.domain.coverage import Coverage, Silent

SECOND = 1_000_000_000
NFO = 2
MCX = 7
EVERYTHING = trading.ALL_SEGMENTS


def tokens(*numbers, segment=NFO):
    return np.array([number << 8 | segment for number in numbers], np.int64)


class Feed:
    """A coverage with a clock."""

    def __init__(self, planned) -> None:
        self.coverage = Coverage(no_data_seconds=30, stale_seconds=60)
        self.planned = planned
        self.coverage.use_tokens(planned)
        self.now = 1000

    def tick(self, *chosen):
        """Let these tokens tick now."""
        places = np.searchsorted(self.planned, np.array(chosen, np.int64))
        self.coverage.saw(places, self.now * SECOND)

    def look(self, after=0, *, subscribed=None, is_open=EVERYTHING):
        """Move the clock and look."""
        self.now += after
        asked = self.planned if subscribed is None else subscribed
        return self.coverage.look(asked, is_open, self.now * SECOND)


def test_instrument_is_pending_then_without_data_then_live_then_stale():
    feed = Feed(tokens(1, 2))
    one, two = feed.planned.tolist()
    assert feed.look() == Silent(pending=(one, two))
    assert feed.look(30) == Silent(pending=(one, two))
    assert feed.look(1) == Silent(no_data=(one, two))
    feed.tick(one)
    assert feed.look() == Silent(no_data=(two,))
    feed.tick(two)
    assert feed.look(60) == Silent()
    feed.tick(one)
    assert feed.look(1) == Silent(stale=(two,))
    feed.tick(two)
    assert feed.look() == Silent()


def test_what_is_not_subscribed_at_the_broker_is_pending_for_ever():
    feed = Feed(tokens(1, 2))
    one, two = feed.planned.tolist()
    feed.look(subscribed=tokens(1))
    assert feed.look(100, subscribed=tokens(1)) == Silent(pending=(two,), no_data=(one,))


def test_reconnect_starts_the_wait_for_a_first_tick_anew():
    feed = Feed(tokens(1))
    (one,) = feed.planned.tolist()
    feed.look()
    assert feed.look(40).no_data == (one,)
    assert feed.look(1, subscribed=tokens()).pending == (one,)
    assert feed.look(1).pending == (one,)
    assert feed.look(31).no_data == (one,)


def test_outside_the_session_nothing_is_overdue_and_at_the_bell_neither():
    feed = Feed(tokens(1, 2))
    one, two = feed.planned.tolist()
    feed.tick(one)
    assert feed.look(10_000, is_open=frozenset()) == Silent(pending=(two,))
    assert feed.look(1) == Silent(pending=(two,))
    assert feed.look(31) == Silent(no_data=(two,))
    assert feed.look(30) == Silent(no_data=(two,), stale=(one,))


def test_each_segment_has_its_own_session():
    planned = np.sort(np.concatenate((tokens(1), tokens(2, segment=MCX))))
    feed = Feed(planned)
    evening = frozenset({MCX})
    feed.look(is_open=evening)
    found = feed.look(31, is_open=evening)
    assert found == Silent(pending=tuple(tokens(1)), no_data=tuple(tokens(2, segment=MCX)))


def test_new_plan_keeps_what_is_known_of_instruments_that_stay():
    feed = Feed(tokens(1, 2, 3))
    feed.look()
    feed.tick(*tokens(1, 3))
    feed.now += 31
    feed.planned = tokens(2, 3, 4)
    feed.coverage.use_tokens(feed.planned)
    two, _, four = feed.planned.tolist()
    assert feed.look() == Silent(pending=(four,), no_data=(two,))


@given(
    st.lists(
        st.tuples(
            st.integers(0, 50),
            st.sets(st.integers(1, 8)),
            st.sets(st.integers(1, 8)),
            st.booleans(),
        ),
        max_size=25,
    )
)
def test_lists_equal_the_plain_rules(steps):
    planned = tokens(*range(1, 9))
    feed = Feed(planned)
    names = planned.tolist()
    ticked: dict[int, int] = {}
    since: dict[int, int] = {}
    opened: int | None = None
    for pause, ticking, subscribed, is_open in steps:
        feed.now += pause
        chosen = [names[number - 1] for number in sorted(ticking)]
        if chosen:
            feed.tick(*chosen)
        ticked |= dict.fromkeys(chosen, feed.now)
        asked = [names[number - 1] for number in sorted(subscribed)]
        since = {token: since.get(token, feed.now) for token in asked}
        opened = (feed.now if opened is None else opened) if is_open else None
        silent: dict[str, list[int]] = {"no_data": [], "pending": [], "stale": []}
        for token in names:
            if token not in ticked:
                waits = opened is not None and token in since
                late = waits and feed.now - max(since[token], opened or 0) > 30
                silent["no_data" if late else "pending"].append(token)
            elif opened is not None and feed.now - max(ticked[token], opened) > 60:
                silent["stale"].append(token)
        found = feed.look(
            subscribed=np.array(asked, np.int64), is_open=EVERYTHING if is_open else frozenset()
        )
        assert found == Silent(**{name: tuple(values) for name, values in silent.items()})


def test_empty_plan_has_nobody_silent():
    assert Feed(tokens()).look(100, subscribed=tokens(1)) == Silent()


@pytest.mark.parametrize(
    ("moment", "segments"),
    [
        ("2026-11-18T11:00", {1, 2, 3, 4, 5, 6, 7, 9, 12}),
        ("2026-11-18T20:00", {7, 12}),
        ("2026-11-18T03:00", set()),
        ("2026-11-22T11:00", set()),  # A Sunday.
        ("2026-11-18T09:05", {3, 6, 7, 12}),  # The pre-open auction of shares.
    ],
)
def test_segments_are_open_as_the_calendar_says(moment, segments):
    now = datetime.fromisoformat(moment).replace(tzinfo=IST)
    assert trading.open_segments(CALENDAR, now) == segments
