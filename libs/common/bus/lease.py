"""Exactly one active owner per resource: leases in a key-value bucket, shared fairly.

Keys: `m.<member>` says that a member lives, `p.<resource>` who owns a resource. The bucket's TTL
removes what is not refreshed. Every member sees all keys in a mirror and works out the same
assignment; it creates `p.<resource>` only when the resource is assigned to it and deletes it when
it no longer is, so that the next owner starts within milliseconds.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from enum import StrEnum
from secrets import token_hex

import msgspec

from libs.common import logs
from libs.common.bus import metrics
from libs.common.bus.connection import Bus
from libs.common.bus.errors import (
    BusClosedError,
    BusUnavailableError,
    KeyExistsError,
    WrongRevisionError,
)
from libs.common.bus.kv import Bucket, Mirror
from libs.common.bus.tasks import OwnedTasks
from libs.common.contracts.subjects import escape
from libs.common.domain.assignment import assign

MEMBER_PREFIX = "m."
RESOURCE_PREFIX = "p."
# How often `resources` is asked for changes that nothing else announces.
_STEER_INTERVAL_SECONDS = 0.25
# The server removes expired entries up to a second late under load.
_EXPIRY_SLACK_SECONDS = 1.5
# Part of the TTL that an owner does not use: time for what it published to reach the server.
_MARGIN_SHARE = 0.1
# On joining, let members that start at the same moment be seen before taking everything.
_SETTLE_SECONDS = 0.2

# Counts the time a suspended machine slept, as the server's clock does.
_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

log = logs.get_logger(__name__)


def _now() -> float:
    return time.clock_gettime(_CLOCK)


class LeaseEnd(StrEnum):
    """Why a lease ended."""

    RELEASED = "released"
    EXPIRED = "expired"
    TAKEN = "taken"


class LeaseRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The JSON value of both kinds of keys.

    Attributes:
        member: Who lives or owns.
        incarnation: Tells apart two processes, or two lives, under one member name.
        resource: What is owned; empty in a member's key.
        epoch: The lease's epoch; 0 in the first write, which is what decides it.
    """

    member: str
    incarnation: str
    resource: str = ""
    epoch: int = 0


class Lease:
    """One term of ownership of one resource.

    Attributes:
        resource: What is owned.
        member: The owner.
        epoch: The bucket's revision at acquisition: grows with every term of the resource.
        revision: The revision of the last refresh.
        deadline: Valid until then, on this module's clock.
        end: Why it ended; None while it stands.
    """

    def __init__(self, *, resource: str, member: str, epoch: int, deadline: float) -> None:
        self.resource = resource
        self.member = member
        self.epoch = epoch
        self.revision = epoch
        self.deadline = deadline
        self.end: LeaseEnd | None = None
        self._ended = asyncio.Event()

    def __repr__(self) -> str:
        """Show what is owned and since which epoch."""
        return f"Lease(resource={self.resource!r}, epoch={self.epoch}, valid={self.is_valid()})"

    def is_valid(self) -> bool:
        """Whether the resource is still owned: ask before every publish.

        True until a deadline that lies before the server's: a process that was frozen finds
        itself without the lease before anybody else can have it, without asking anyone.
        """
        return self.end is None and _now() < self.deadline

    def remaining_seconds(self) -> float:
        """How long it stays valid unless it is refreshed; 0 when it is over."""
        return max(0.0, self.deadline - _now()) if self.end is None else 0.0

    async def ended(self) -> None:
        """Wait for the end."""
        await self._ended.wait()

    def finish(self, end: LeaseEnd) -> None:
        """End it, for the holder; the first cause stands."""
        if self.end is None:
            self.end = end
            self._ended.set()

    def extend(self, revision: int, deadline: float) -> None:
        """Note a refresh, for the holder."""
        self.revision = revision
        self.deadline = deadline


class LeaseHolder:
    """Holds this member's fair share of a set of resources.

    Promises: at most one member has a valid lease of a resource at any time; a member that dies is
    replaced within the TTL (plus the server's lateness), one that drains within milliseconds; a
    member alone holds everything; loads differ by at most one resource.

    Args:
        bus: The connection.
        bucket: A provisioned bucket with this TTL and a limit marker.
        member: Unique name of this process.
        resources: The resources that exist now; asked four times a second, may change.
        ttl_seconds: The bucket's TTL.
        on_acquired: Awaited when a resource becomes ours; start the work there and return.
        on_lost: Awaited once per acquired lease, after `is_valid` has become False. On a hand-over
            the next owner starts when it returns, so stop the work and save there.
    """

    def __init__(
        self,
        bus: Bus,
        bucket: str,
        *,
        member: str,
        resources: Callable[[], Iterable[str]],
        ttl_seconds: float,
        on_acquired: Callable[[Lease], Awaitable[None]],
        on_lost: Callable[[Lease], Awaitable[None]],
    ) -> None:
        self._bus = bus
        self._name = bucket
        self._member = member
        self._incarnation = token_hex(6)
        self._resources = resources
        self._ttl_seconds = ttl_seconds
        self._on_acquired = on_acquired
        self._on_lost = on_lost
        self._bucket = Bucket(bus, bucket, timeout_seconds=min(1.0, ttl_seconds / 3))
        self._mirror = Mirror(bus, bucket, self._changed)
        self._member_key = MEMBER_PREFIX + escape(member)
        # When each key was last written, on our clock: the fallback if an expiry goes unseen.
        self._seen_at: dict[str, float] = {}
        self._held: dict[str, Lease] = {}
        self._terms: dict[str, asyncio.Task[None]] = {}
        self._member_until = 0.0
        self._settled_at = float("inf")
        self._draining = asyncio.Event()
        self._steer_wanted = asyncio.Event()
        self._refresh_wanted = asyncio.Event()
        self._tasks = OwnedTasks()

    @property
    def held(self) -> Mapping[str, Lease]:
        """The leases that stand, by resource: a snapshot."""
        return {name: lease for name, lease in self._held.items() if lease.is_valid()}

    @property
    def members(self) -> list[str]:
        """The members that live, as far as this one sees, in order of their names."""
        return sorted(self._live_members())

    def owner_of(self, resource: str) -> str | None:
        """Who owns a resource, as far as this member sees."""
        record = self._record(RESOURCE_PREFIX + escape(resource))
        return None if record is None else record.member

    def poke(self) -> None:
        """Look at `resources` now rather than within a quarter of a second."""
        self._steer_wanted.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Hold the fair share until `stop` is set, then hand everything over.

        Raises:
            BusClosedError: If the bus is closed for good before that.
            Exception: Whatever `on_acquired`, `on_lost` or `resources` raises. Everything is handed
                over first.
        """
        quiet = asyncio.Event()  # The mirror and the refreshing go on until the hand-over is done.
        remove = self._bus.on_reconnect(self._reconnected)
        self._tasks.spawn(self._mirror.run(quiet), name="lease-mirror")
        self._tasks.spawn(self._refresh_all(quiet), name="lease-refresh")
        steering = self._tasks.spawn(self._steer(quiet), name="lease-steer")
        watches = [
            asyncio.create_task(event.wait())
            for event in (stop, self._tasks.failed, self._bus.closed)
        ]
        try:
            await asyncio.wait(watches, return_when=asyncio.FIRST_COMPLETED)
            closed = self._bus.closed.is_set() and not stop.is_set()
            await self.drain()
        finally:
            remove()
            for watch in watches:
                watch.cancel()
            await asyncio.wait(watches)
            quiet.set()
            self._steer_wanted.set()
            self._refresh_wanted.set()
            steering.cancel()
            await self._tasks.finish(patience_seconds=self._ttl_seconds)
            metrics.LEASES_HELD.labels(bucket=self._name).set(0)
        self._tasks.raise_failure()
        if closed:
            raise BusClosedError

    async def drain(self) -> None:
        """Hand everything over and take nothing any more; returns when it is done.

        Safe to call again and before `run` ends by itself. Others take over within milliseconds.
        """
        self._draining.set()
        # The member first: the others assign our resources among themselves and wait for them.
        await self._leave()
        terms = list(self._terms.values())
        for lease in list(self._held.values()):
            lease.finish(LeaseEnd.RELEASED)
        if terms:
            await asyncio.wait(terms)

    # -- who lives, who owns -------------------------------------------------------------------

    def _changed(self, key: str, value: bytes | None) -> None:
        known = key in self._seen_at
        if value is None:
            self._seen_at.pop(key, None)
        else:
            self._seen_at[key] = _now()
        if (value is None) == known:  # Came or went; a refresh changes nothing.
            self._steer_wanted.set()

    def _record(self, key: str) -> LeaseRecord | None:
        value = self._mirror.get(key)
        if value is None:
            return None
        # The marker of an expiry may come late or, in a bucket without markers, never.
        age_seconds = _now() - self._seen_at.get(key, 0.0)
        if age_seconds > self._ttl_seconds + _EXPIRY_SLACK_SECONDS:
            return None
        return _decode(value)

    def _live_members(self) -> set[str]:
        members = set()
        for key in self._mirror:
            if key.startswith(MEMBER_PREFIX):
                record = self._record(key)
                if record is not None:
                    members.add(record.member)
        members.discard(self._member)
        if not self._draining.is_set() and _now() < self._member_until:
            members.add(self._member)
        return members

    # -- steering ------------------------------------------------------------------------------

    async def _steer(self, quiet: asyncio.Event) -> None:
        await self._mirror.ready()
        while not quiet.is_set():
            if not self._draining.is_set():
                self._take_and_give()
            settling_seconds = self._settled_at - _now()
            pause_seconds = _STEER_INTERVAL_SECONDS
            if 0 < settling_seconds < pause_seconds:
                pause_seconds = settling_seconds
            await _wait_for(self._steer_wanted, pause_seconds)
            self._steer_wanted.clear()

    def _take_and_give(self) -> None:
        members = self._live_members()
        metrics.LEASE_MEMBERS.labels(bucket=self._name).set(len(members))
        if self._member not in members:
            return  # Not registered: what is held ends by its own deadline, nothing is taken.
        owners = assign(self._resources(), members)
        mine = {resource for resource, owner in owners.items() if owner == self._member}
        for resource, lease in list(self._held.items()):
            if resource not in mine:
                lease.finish(LeaseEnd.RELEASED)
        if _now() < self._settled_at or not self._bus.is_connected:
            return
        for resource in sorted(mine - self._terms.keys()):
            record = self._record(RESOURCE_PREFIX + escape(resource))
            if record is not None and record.incarnation != self._incarnation:
                continue  # Its owner hands it over, or its entry expires; both wake us.
            self._terms[resource] = self._tasks.spawn(self._term(resource), name="lease-term")

    async def _term(self, resource: str) -> None:
        """One term of ownership, from the attempt to acquire to the key's removal."""
        try:
            lease = await self._acquire(resource)
            if lease is None:
                return
            if self._draining.is_set():
                await self._release(lease)
                return
            self._held[resource] = lease
            self._count_held()
            metrics.LEASES_ACQUIRED_TOTAL.labels(bucket=self._name).inc()
            log.info("lease.acquired", bucket=self._name, resource=resource, epoch=lease.epoch)
            await self._serve(lease)
        finally:
            self._terms.pop(resource, None)
            self._steer_wanted.set()

    async def _serve(self, lease: Lease) -> None:
        try:
            try:
                await self._on_acquired(lease)
                await lease.ended()
            finally:
                # Also when `on_acquired` raised: nothing may be published after this.
                lease.finish(LeaseEnd.RELEASED)
                await self._on_lost(lease)
        finally:
            self._held.pop(lease.resource, None)
            self._count_held()
            cause = lease.end or LeaseEnd.RELEASED
            metrics.LEASES_ENDED_TOTAL.labels(bucket=self._name, cause=cause).inc()
            log.info(
                "lease.ended",
                bucket=self._name,
                resource=lease.resource,
                epoch=lease.epoch,
                cause=cause,
            )
            if cause is LeaseEnd.RELEASED:
                await self._release(lease)

    async def _acquire(self, resource: str) -> Lease | None:
        key = RESOURCE_PREFIX + escape(resource)
        value = self._encode(resource)
        asked_at = _now()
        try:
            try:
                epoch = await self._bucket.create(key, value)
            except KeyExistsError as error:
                entry = await self._bucket.get(key)
                if entry is None or _decode(entry.value).incarnation != self._incarnation:
                    log.debug("lease.busy", bucket=self._name, resource=resource)
                    await asyncio.sleep(_STEER_INTERVAL_SECONDS / 5)  # Let the mirror catch up.
                    return None
                # Ours from before: a lease that ran out here but not on the server, or a create
                # whose answer was lost. A write of our own begins a new term.
                asked_at = _now()
                epoch = await self._bucket.update(key, value, last=entry.revision)
                log.info("lease.adopted", bucket=self._name, resource=resource, was=error.revision)
        except (BusUnavailableError, WrongRevisionError, KeyExistsError) as error:
            log.debug("lease.not_acquired", resource=resource, error=str(error))
            await asyncio.sleep(_STEER_INTERVAL_SECONDS / 5)
            return None
        return Lease(
            resource=resource, member=self._member, epoch=epoch, deadline=self._deadline(asked_at)
        )

    async def _release(self, lease: Lease) -> None:
        """Delete the key of a lease that we give away, so that the next owner need not wait."""
        key = RESOURCE_PREFIX + escape(lease.resource)
        try:
            try:
                await self._bucket.delete(key, last=lease.revision)
            except WrongRevisionError:
                # A refresh was under way when the lease ended.
                entry = await self._bucket.get(key)
                if entry is not None and self._is_own(entry.value, lease.epoch):
                    await self._bucket.delete(key, last=entry.revision)
        except (BusUnavailableError, BusClosedError, WrongRevisionError) as error:
            log.info("lease.left_to_expire", bucket=self._name, key=key, error=str(error))

    async def _leave(self) -> None:
        """Delete the member's key; if that fails the TTL does it."""
        try:
            await self._bucket.delete(self._member_key)
        except (BusUnavailableError, BusClosedError) as error:
            log.info(
                "lease.left_to_expire", bucket=self._name, key=self._member_key, error=str(error)
            )

    # -- refreshing ----------------------------------------------------------------------------

    async def _refresh_all(self, quiet: asyncio.Event) -> None:
        interval_seconds = self._ttl_seconds / 3
        while not quiet.is_set():
            leases = list(self._held.values())
            await asyncio.gather(
                self._refresh_member(), *(self._refresh(lease) for lease in leases)
            )
            # Wake in time to notice that a lease ran out while NATS is away.
            deadlines = [lease.deadline for lease in self._held.values() if lease.end is None]
            pause_seconds = interval_seconds if self._bus.is_connected else interval_seconds / 3
            if deadlines:
                pause_seconds = min(pause_seconds, max(0.0, min(deadlines) - _now()) + 0.005)
            await _wait_for(self._refresh_wanted, pause_seconds)
            self._refresh_wanted.clear()

    async def _refresh_member(self) -> None:
        if self._draining.is_set():
            return
        if not self._mirror.is_ready:
            self._refresh_wanted.set()
            await asyncio.sleep(0.01)
            return
        asked_at = _now()
        was_member = asked_at < self._member_until
        try:
            await self._bucket.put(
                self._member_key,
                msgspec.json.encode(
                    LeaseRecord(member=self._member, incarnation=self._incarnation)
                ),
            )
        except BusUnavailableError as error:
            self._refresh_failed(error)
            return
        if self._draining.is_set():
            await self._leave()  # It overtook the drain's own removal.
            return
        self._member_until = asked_at + self._ttl_seconds
        if not was_member:
            self._settled_at = _now() + _SETTLE_SECONDS
            log.info("lease.joined", bucket=self._name, member=self._member)
        self._warn_of_a_namesake()
        self._steer_wanted.set()

    def _warn_of_a_namesake(self) -> None:
        record = self._record(self._member_key)
        if record is not None and record.incarnation != self._incarnation:
            # Harmless for the leases, which go by incarnation, but the shares are not fair.
            log.warning("lease.member_name_in_use", bucket=self._name, member=self._member)

    async def _refresh(self, lease: Lease) -> None:
        if lease.end is not None:
            return
        if not lease.is_valid():
            # Ran out before we came to it: whoever asked is_valid() knows already, so it must not
            # come back to life even if the server still has it.
            self._end_lease(lease, LeaseEnd.EXPIRED)
            return
        key = RESOURCE_PREFIX + escape(lease.resource)
        value = self._encode(lease.resource, lease.epoch)
        revision = lease.revision
        try:
            asked_at = _now()
            try:
                revision = await self._bucket.update(key, value, last=revision)
            except WrongRevisionError:
                # Lost, or an earlier refresh arrived although its answer did not.
                entry = await self._bucket.get(key)
                if entry is None or not self._is_own(entry.value, lease.epoch):
                    self._end_lease(lease, LeaseEnd.EXPIRED if entry is None else LeaseEnd.TAKEN)
                    return
                asked_at = _now()
                revision = await self._bucket.update(key, value, last=entry.revision)
        except WrongRevisionError:
            self._end_lease(lease, LeaseEnd.TAKEN)
            return
        except BusUnavailableError as error:
            self._refresh_failed(error)
            return
        lease.extend(revision, self._deadline(asked_at))

    def _is_own(self, value: bytes, epoch: int) -> bool:
        record = _decode(value)
        # Epoch 0 is the write that acquired it.
        return record.incarnation == self._incarnation and record.epoch in {0, epoch}

    def _end_lease(self, lease: Lease, end: LeaseEnd) -> None:
        if lease.end is None:
            log.warning(
                "lease.lost",
                bucket=self._name,
                resource=lease.resource,
                epoch=lease.epoch,
                cause=end,
            )
            lease.finish(end)

    def _refresh_failed(self, error: Exception) -> None:
        metrics.LEASE_REFRESH_FAILURES_TOTAL.labels(bucket=self._name).inc()
        log.debug("lease.refresh_failed", bucket=self._name, error=str(error))

    async def _reconnected(self) -> None:
        self._refresh_wanted.set()

    def _deadline(self, asked_at: float) -> float:
        """Before the server's own: it counts from when the write arrived, we from the asking."""
        return asked_at + self._ttl_seconds * (1 - _MARGIN_SHARE)

    def _encode(self, resource: str, epoch: int = 0) -> bytes:
        return msgspec.json.encode(
            LeaseRecord(
                member=self._member, incarnation=self._incarnation, resource=resource, epoch=epoch
            )
        )

    def _count_held(self) -> None:
        metrics.LEASES_HELD.labels(bucket=self._name).set(len(self._held))


_NOBODY = LeaseRecord(member="", incarnation="")


def _decode(value: bytes) -> LeaseRecord:
    try:
        return msgspec.json.decode(value, type=LeaseRecord)
    except msgspec.DecodeError:
        # Written by something else: occupied, and not by us.
        return _NOBODY


async def _wait_for(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
