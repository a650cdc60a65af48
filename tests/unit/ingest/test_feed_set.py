"""What becomes of an account's feed when its lease ends."""

import asyncio
from typing import Any, cast

from libs.common.bus.lease import LeaseEnd
from libs.common.lifecycle import Lifecycle
from libs.common.settings import load
from services.ingest.app import FeedSet
from services.ingest.settings import IngestSettings
from tests.fakes.ingest import KEY
from tests.fakes.outgoing_bus import FakeLease, FakeOutgoingBus


class SlowFeed:
    """A feed whose sockets take their time to close."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.closed = asyncio.Event()

    def request_stop(self) -> None:
        """Begin to close."""
        self.asked.set()

    async def stopped(self) -> None:
        """Wait until all is closed."""
        await self.closed.wait()


async def test_account_is_not_given_away_before_its_sockets_are_closed():
    settings = load(IngestSettings, account_encryption_key=KEY)
    feeds = FeedSet(cast("Any", FakeOutgoingBus()), settings, Lifecycle())
    feed = SlowFeed()
    feeds._feeds["a"] = cast("Any", feed)
    lease = FakeLease("a")
    lease.finish(LeaseEnd.RELEASED)
    ending = asyncio.create_task(feeds.end(cast("Any", lease)))
    await feed.asked.wait()
    for _ in range(20):
        await asyncio.sleep(0)
    # The holder gives the lease away when this returns.
    assert not ending.done()
    feed.closed.set()
    await ending
    assert feeds._feeds == {}


async def test_end_of_an_account_without_a_feed_is_no_error():
    settings = load(IngestSettings, account_encryption_key=KEY)
    feeds = FeedSet(cast("Any", FakeOutgoingBus()), settings, Lifecycle())
    await feeds.end(cast("Any", FakeLease("unknown")))
