"""The feed of an account, between a fake bus and a fake lease."""

import asyncio
from typing import Any, cast

import pytest

from libs.common.bus.lease import LeaseEnd
from libs.common.contracts.messages import (
    AccountPlan,
    FeedState,
    KiteSession,
    PlannedConnection,
    PlannedGroup,
    Source,
    StreamMode,
)
from libs.common.settings import load
from services.ingest.account_feed import AccountFeed
from services.ingest.settings import IngestSettings
from tests.fakes.ingest import KEY
from tests.fakes.outgoing_bus import FakeLease, FakeOutgoingBus

PLAN = AccountPlan(
    account="a",
    revision=1,
    connections=(
        PlannedConnection(
            groups=(PlannedGroup(underlying="NIFTY", mode=StreamMode.LTP, tokens=(258,)),)
        ),
    ),
    planned_at_ns=0,
)


def session(minted_at_ns: int = 5) -> KiteSession:
    return KiteSession(
        account="a",
        api_key="key",
        access_token="secret",
        user_id="AB1234",
        ws_url="ws://127.0.0.1:1",  # Nothing answers there.
        source=Source.SIM,
        minted_at_ns=minted_at_ns,
    )


class Rig:
    """A feed and what it told."""

    def __init__(self) -> None:
        self.lease = FakeLease()
        self.news: list[FeedState] = []
        self.feed = AccountFeed(
            cast("Any", FakeOutgoingBus()),
            cast("Any", self.lease),
            load(IngestSettings, account_encryption_key=KEY, health_port=9),
            on_news=lambda: self.news.append(self.feed.status("w").state),
        )

    async def until(self, condition) -> None:
        """Wait for a condition."""
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110  # The feed has no event for tests.
                await asyncio.sleep(0.001)


async def test_feed_notices_the_end_of_its_lease_by_itself_and_ends_it_for_good():
    rig = Rig()
    run = asyncio.create_task(rig.feed.run())
    await rig.until(lambda: not rig.feed.is_ending)
    # The deadline has passed and the holder, waiting for an answer, has not said so.
    rig.lease.valid = False
    await rig.feed.stopped()
    await run
    # A late answer must not bring it back: the holder acquires the account anew.
    assert rig.lease.end is LeaseEnd.EXPIRED


async def test_lease_that_was_given_away_keeps_its_cause():
    rig = Rig()
    run = asyncio.create_task(rig.feed.run())
    rig.lease.finish(LeaseEnd.RELEASED)
    await run
    assert rig.lease.end is LeaseEnd.RELEASED


async def test_refused_session_parks_a_connection_that_is_not_open_and_a_later_one_frees_it():
    rig = Rig()
    rig.feed.use_plan(PLAN)
    rig.feed.use_session(session(5))
    rig.feed.refuse_session(5, "HTTP 403 by REST")
    run = asyncio.create_task(rig.feed.run())
    await rig.until(lambda: FeedState.PARKED in rig.news)
    status = rig.feed.status("w")
    assert (status.state, status.reason) == (FeedState.PARKED, "HTTP 403 by REST")
    assert status.session_refused is True
    rig.feed.use_session(session(6))
    assert rig.feed.status("w").session_refused is False
    await rig.until(lambda: FeedState.CONNECTING in rig.news)
    # An old refusal does not concern the session in force.
    rig.feed.refuse_session(4, "late news")
    assert rig.feed.status("w").session_refused is False
    rig.feed.request_stop()
    await run


async def test_defect_in_the_outbox_ends_the_feed_with_its_error(monkeypatch):
    rig = Rig()

    async def broken(stop: asyncio.Event) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(rig.feed._outbox, "run", broken)
    with pytest.raises(ZeroDivisionError):
        await rig.feed.run()
    await rig.feed.stopped()


def test_coverage_without_a_plan_is_nothing_to_report():
    assert Rig().feed.coverage() is None


async def test_status_before_anything_is_known_waits_for_a_session():
    status = Rig().feed.status("w")
    assert (status.state, status.source) == (FeedState.WAITING_SESSION, None)
    assert (status.published_ratio, status.publish_p95_ms, status.pending_bytes) == (1.0, None, 0)
