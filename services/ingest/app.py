"""The flow of an ingest process: leases decide which accounts it feeds."""

import asyncio
import math
import time
from collections.abc import Callable, Mapping

import msgspec

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusUnavailableError
from libs.common.bus.kv import Bucket, Mirror
from libs.common.bus.lease import Lease, LeaseHolder
from libs.common.bus.provision import ensure
from libs.common.bus.publisher import StreamHeartbeat
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import AccountPlan, FeedCoverage
from libs.common.health import Health
from libs.common.kite.sessions import SessionSeal, SessionSealError
from libs.common.lifecycle import Lifecycle, sleep_unless
from services.ingest.account_feed import AccountFeed
from services.ingest.requests import Requests
from services.ingest.settings import IngestSettings

STATUS_INTERVAL_SECONDS = 2.0
# What has not changed is written this often, well within the bucket's TTL.
COVERAGE_INTERVAL_SECONDS = 10.0

log = logs.get_logger(__name__)


async def serve(settings: IngestSettings, life: Lifecycle) -> None:
    """Feed the leased accounts until the process stops."""
    health = Health(life)
    async with health.served(settings), Bus.open(settings, name=settings.worker_id) as bus:
        await ensure(bus, streams.STREAMS, streams.BUCKETS)
        feeds = FeedSet(bus, settings, life)
        requests = Requests(bus, settings, feeds.held, feeds.accounts)
        feeds.on_change = requests.poke
        beat = StreamHeartbeat(bus, subjects.frame_beat(settings.worker_id))
        leases = LeaseHolder(
            bus,
            streams.LEASES_ACCOUNTS.name,
            member=settings.worker_id,
            resources=feeds.accounts,
            ttl_seconds=streams.LEASES_ACCOUNTS.ttl_seconds or 5,
            on_acquired=feeds.start,
            on_lost=feeds.end,
        )
        health.add("nats", lambda: None if bus.is_connected else "not connected")
        health.add("stream", lambda: None if beat.is_healthy else "MD_FRAMES does not store")
        health.add("plan", feeds.unready)

        life.spawn(feeds.plans.run(life.stop), name="plans")
        life.spawn(feeds.sessions.run(life.stop), name="sessions")
        await feeds.plans.ready()
        await feeds.sessions.ready()
        life.spawn(beat.run(life.stop), name="stream-heartbeat")
        life.spawn(leases.run(life.stop), name="leases")
        life.spawn(feeds.report(life.stop), name="status")
        life.spawn(requests.run(life.stop), name="requests")
        await life.until_stopped()


class FeedSet:
    """The feeds of the accounts that this process holds.

    Args:
        bus: The connection.
        settings: Settings of the process.
        life: Owns the feeds' tasks.

    Attributes:
        on_change: Called when an account, or its session, came or went.
    """

    def __init__(self, bus: Bus, settings: IngestSettings, life: Lifecycle) -> None:
        self._bus = bus
        self._settings = settings
        self._life = life
        self._seal = SessionSeal(settings.account_encryption_key)
        self._status = Bucket(bus, streams.STATUS.name)
        self._coverage = Bucket(bus, streams.COVERAGE.name)
        self._coverage_written: dict[str, tuple[float, FeedCoverage]] = {}
        self._news: set[str] = set()
        self._news_came = asyncio.Event()
        self._feeds: dict[str, AccountFeed] = {}
        self.on_change: Callable[[], None] = lambda: None
        self._plans: dict[str, AccountPlan] = {}
        self.plans = Mirror(bus, streams.PLAN.name, self._plan_changed)
        self.sessions = Mirror(bus, streams.KITE_SESSIONS.name, self._session_changed)

    def accounts(self) -> list[str]:
        """The accounts that exist, as the plan knows them; what the leases are about."""
        return sorted(self._plans)

    def held(self) -> Mapping[str, AccountFeed]:
        """The feeds of the accounts that this process holds now."""
        return self._feeds

    def unready(self) -> str | None:
        """Why this process cannot feed, or None; a standby without accounts is ready."""
        return None if self.plans.is_ready else "the plan has not been read yet"

    def _plan_changed(self, key: str, value: bytes | None) -> None:
        account = subjects.unescape(key)
        plan: AccountPlan | None = None
        if value is not None:
            try:
                plan = codec.from_json(AccountPlan, value)
            except codec.DecodeError as error:
                # The last good plan stays in force.
                log.error("plan.unreadable", account=account, reason=error.reason)
                return
            self._plans[account] = plan
        else:
            self._plans.pop(account, None)
        feed = self._feeds.get(account)
        if feed is not None:
            feed.use_plan(plan)

    def _session_changed(self, key: str, value: bytes | None) -> None:
        del value
        feed = self._feeds.get(subjects.unescape(key))
        if feed is not None:
            self._give_session(feed)
            self.on_change()

    def _give_session(self, feed: AccountFeed) -> None:
        sealed = self.sessions.get(subjects.escape(feed.account))
        if sealed is None:
            feed.use_session(None)
            return
        try:
            feed.use_session(self._seal.open(sealed))
        except SessionSealError as error:
            log.error("session.unreadable", account=feed.account, reason=error.reason)

    async def start(self, lease: Lease) -> None:
        """An account was leased: begin to feed it."""
        account = lease.resource
        feed = AccountFeed(
            self._bus, lease, self._settings, on_news=lambda: self._note_news(account)
        )
        feed.use_plan(self._plans.get(account))
        self._give_session(feed)
        self._feeds[account] = feed
        self.on_change()
        self._life.spawn(feed.run(), name="feed", may_end=True)
        log.info("account.leased", account=account, epoch=lease.epoch)

    async def end(self, lease: Lease) -> None:
        """An account's lease ended: close its connections before anybody else opens theirs."""
        feed = self._feeds.pop(lease.resource, None)
        self._coverage_written.pop(lease.resource, None)
        if feed is None:
            return
        self.on_change()
        feed.request_stop()
        await feed.stopped()
        log.info("account.released", account=lease.resource, epoch=lease.epoch)

    def _note_news(self, account: str) -> None:
        self._news.add(account)
        self._news_came.set()

    async def report(self, stop: asyncio.Event) -> None:
        """Say every two seconds how each feed fares and what does not tick; news at once."""
        stopping = asyncio.create_task(stop.wait(), name="status-stop")
        stopping.add_done_callback(lambda _: self._news_came.set())
        due = 0.0
        try:
            while not stop.is_set():
                await sleep_unless(self._news_came, due - time.monotonic())
                self._news_came.clear()
                news, self._news = self._news, set()
                everything = time.monotonic() >= due
                if everything:
                    due = time.monotonic() + STATUS_INTERVAL_SECONDS
                for account, feed in list(self._feeds.items()):
                    if not feed.is_ending and (everything or account in news):
                        await self._report_one(account, feed, with_coverage=everything)
        finally:
            stopping.cancel()
            await asyncio.gather(stopping, return_exceptions=True)

    async def _report_one(self, account: str, feed: AccountFeed, *, with_coverage: bool) -> None:
        try:
            if with_coverage:
                await self._report_coverage(account, feed)
            await self._report_status(account, feed)
        except BusUnavailableError as error:
            log.warning("status.unsent", account=account, reason=str(error))

    async def _report_status(self, account: str, feed: AccountFeed) -> None:
        status = feed.status(self._settings.worker_id)
        await self._status.put(f"feed-{subjects.escape(account)}", codec.to_json(status))

    async def _report_coverage(self, account: str, feed: AccountFeed) -> None:
        """Write what does not tick if that has changed, else every ten seconds."""
        found = feed.coverage()
        if found is None:
            return
        written_at, written = self._coverage_written.get(account, (-math.inf, None))
        is_fresh = time.monotonic() - written_at < COVERAGE_INTERVAL_SECONDS
        if is_fresh and written and written == msgspec.structs.replace(found, at_ns=written.at_ns):
            return
        await self._coverage.put(subjects.escape(account), codec.to_msgpack(found))
        self._coverage_written[account] = (time.monotonic(), found)
