"""Leases: at most one active owner per resource, shared fairly among the members alive.

A bucket with a TTL holds `m.<member>` for everybody alive and `p.<resource>` for everything owned.
Owners refresh by compare-and-set; what nobody refreshes vanishes, and another member creates it.
Each owner also keeps a deadline of its own, earlier than the server's: a process that was paused
finds its lease invalid before anybody else can have taken it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum

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
from libs.common.contracts.subjects import escape, unescape
from libs.common.domain.assignment import assign

# Refreshes per TTL: two may fail before the lease does.
_REFRESHES_PER_TTL = 3
# The owner gives up this share of the TTL before the server does, for clocks that drift and for
# work that is between the check and the publish.
_SAFETY_SHARE = 0.15

log = logs.get_logger(__name__)


class LeaseEnd(StrEnum):
    """Why a lease ended."""

    RELEASED = "released"
    TAKEN = "taken"
    EXPIRED = "expired"


class _Holding(msgspec.Struct, frozen=True):
    """What lies at a key: who wrote it."""

    member: str


class Lease:
    """The right to be the only active owner of a resource, for one term.

    Attributes:
        resource: What is owned.
        member: By whom.
        epoch: Number of the term; larger than that of every earlier owner of the resource.
    """

    def __init__(self, resource: str, member: str, *, revision: int, deadline: float) -> None:
        self.resource = resource
        self.member = member
        self.epoch = revision
        self._revision = revision
        self._deadline = deadline

    def is_valid(self) -> bool:
        """Whether the owner may still act; cheap, ask before every publish."""
        return time.monotonic() < self._deadline

    def _end(self) -> None:
        self._deadline = float("-inf")


Callback = Callable[[Lease], Awaitable[None]]


class LeaseHolder:
    """Takes part in sharing the resources of one bucket.

    Args:
        bus: The connection.
        bucket: A bucket with a TTL and markers, provisioned.
        member: Unique name of this process.
        resources: What there is to own now; asked again in every round.
        ttl_seconds: The bucket's TTL.
        on_acquired: Called when a resource has become this member's.
        on_lost: Called when it no longer is, for whatever reason; `is_valid` is already False.
            On a release the resource is offered to others only after it returns.
    """

    def __init__(
        self,
        bus: Bus,
        bucket: str,
        member: str,
        resources: Callable[[], Iterable[str]],
        *,
        ttl_seconds: float,
        on_acquired: Callback,
        on_lost: Callback,
    ) -> None:
        self._bus = bus
        self._name = bucket
        self._member = member
        self._resources = resources
        self._ttl = ttl_seconds
        self._on_acquired = on_acquired
        self._on_lost = on_lost
        # A call that hangs must not eat the whole term.
        self._bucket = Bucket(bus, bucket, timeout_seconds=ttl_seconds / _REFRESHES_PER_TTL)
        self._mirror = Mirror(bus, bucket, self._changed)
        self._wake = asyncio.Event()
        self._leases: dict[str, Lease] = {}
        self._member_key = f"m.{escape(member)}"
        self._value = msgspec.json.encode(_Holding(member))
        self._seen: dict[str, bytes] = {}
        metrics.LEASES_HELD.labels(bucket=bucket).set(0)

    @property
    def leases(self) -> list[Lease]:
        """The leases held now."""
        return list(self._leases.values())

    async def run(self, stop: asyncio.Event) -> None:
        """Share until `stop` is set, then hand everything over.

        Raises:
            BusClosedError: If the bus is closed for good.
            Exception: Whatever a callback raises.
        """
        own_stop = asyncio.Event()
        tasks = OwnedTasks()
        tasks.spawn(self._mirror.run(own_stop), name=f"lease-mirror-{self._name}")
        tasks.spawn(self._watch(stop, tasks.failed), name=f"lease-stop-{self._name}")
        try:
            while not (stop.is_set() or tasks.failed.is_set()):
                self._wake.clear()
                if self._mirror.is_ready:
                    await self._round()
                elif self._bus.is_connected:
                    await self._refresh_member()
                await self._pause()
        finally:
            await self.drain()
            own_stop.set()
            tasks.failed.set()
            await tasks.finish(patience_seconds=1.0)
        tasks.raise_failure()

    async def drain(self) -> None:
        """Release everything and leave; the others take over within milliseconds."""
        await asyncio.gather(*(self._release(lease) for lease in self.leases))
        try:
            await self._bucket.delete(self._member_key)
        except (BusUnavailableError, BusClosedError) as error:
            # The entry expires by itself.
            log.info("lease.left_without_notice", bucket=self._name, reason=str(error))

    async def _watch(self, stop: asyncio.Event, failed: asyncio.Event) -> None:
        """Wake the loop when it should end."""
        waits = [asyncio.create_task(event.wait()) for event in (stop, failed)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
            self._wake.set()

    async def _pause(self) -> None:
        seconds = self._ttl / _REFRESHES_PER_TTL
        if self._leases:
            # Wake in time to notice the end of a term that could not be renewed.
            nearest = min(lease._deadline for lease in self.leases) - time.monotonic()  # noqa: SLF001  # Same module.
            seconds = max(0.02, min(seconds, nearest))
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return
        # Changes come in bursts: one round for all of them.
        await asyncio.sleep(0.005)

    def _changed(self, key: str, value: bytes | None) -> None:
        # Refreshes change nothing that matters here; ends, beginnings and owners do.
        if value is None or key not in self._seen or self._seen[key] != value:
            self._wake.set()
        if value is None:
            self._seen.pop(key, None)
        else:
            self._seen[key] = value

    async def _round(self) -> None:
        await self._expire()
        await self._refresh_member()
        mine = self._assigned()
        await asyncio.gather(
            *(
                self._refresh(lease) if lease.resource in mine else self._release(lease)
                for lease in self.leases
            )
        )
        free = [r for r in sorted(mine) if r not in self._leases and not self._is_held(r)]
        await asyncio.gather(*(self._acquire(resource) for resource in free))

    def _assigned(self) -> set[str]:
        members = {unescape(key[2:]) for key in self._mirror if key.startswith("m.")}
        members.add(self._member)
        metrics.LEASE_MEMBERS.labels(bucket=self._name).set(len(members))
        owners = assign(self._resources(), members)
        return {resource for resource, member in owners.items() if member == self._member}

    def _is_held(self, resource: str) -> bool:
        return f"p.{escape(resource)}" in self._mirror

    def _deadline(self, sent: float) -> float:
        # Counted from before the request left: the server's own clock starts later.
        return sent + self._ttl * (1 - _SAFETY_SHARE)

    async def _refresh_member(self) -> None:
        try:
            await self._bucket.put(self._member_key, self._value)
        except BusUnavailableError as error:
            metrics.LEASE_REFRESH_FAILURES_TOTAL.labels(bucket=self._name).inc()
            log.warning("lease.member_unrefreshed", bucket=self._name, reason=error.reason)

    async def _acquire(self, resource: str) -> None:
        sent = time.monotonic()
        try:
            revision = await self._bucket.create(f"p.{escape(resource)}", self._value)
        except KeyExistsError:
            return  # Somebody else was faster; the mirror will say so.
        except BusUnavailableError as error:
            # If it took effect after all, it expires, or the next create finds it.
            log.warning("lease.unacquired", resource=resource, reason=error.reason)
            return
        lease = Lease(resource, self._member, revision=revision, deadline=self._deadline(sent))
        self._leases[resource] = lease
        metrics.LEASES_HELD.labels(bucket=self._name).set(len(self._leases))
        metrics.LEASES_ACQUIRED_TOTAL.labels(bucket=self._name).inc()
        await self._on_acquired(lease)

    async def _refresh(self, lease: Lease) -> None:
        sent = time.monotonic()
        key = f"p.{escape(lease.resource)}"
        try:
            lease._revision = await self._bucket.update(key, self._value, last=lease._revision)  # noqa: SLF001  # Same module.
        except WrongRevisionError:
            if not await self._adopt(lease, key, sent):
                await self._finish(lease, LeaseEnd.TAKEN)
            return
        except BusUnavailableError as error:
            metrics.LEASE_REFRESH_FAILURES_TOTAL.labels(bucket=self._name).inc()
            log.warning("lease.unrefreshed", resource=lease.resource, reason=error.reason)
            return
        if lease.is_valid():
            lease._deadline = self._deadline(sent)  # noqa: SLF001  # Same module.
        else:
            # It lapsed while the refresh was under way; somebody may have been told so.
            await self._expire()

    async def _adopt(self, lease: Lease, key: str, sent: float) -> bool:
        """A refresh whose answer was lost took effect: its value is ours, at a newer revision."""
        try:
            entry = await self._bucket.get(key)
        except BusUnavailableError:
            return True  # Unknown; the local deadline decides.
        if entry is None or entry.value != self._value or not lease.is_valid():
            return False
        lease._revision = entry.revision  # noqa: SLF001  # Same module.
        del sent
        return True

    async def _release(self, lease: Lease) -> None:
        if self._leases.get(lease.resource) is not lease:
            return
        revision = lease._revision  # noqa: SLF001  # Same module.
        await self._finish(lease, LeaseEnd.RELEASED)
        try:
            await self._bucket.delete(f"p.{escape(lease.resource)}", last=revision)
        except WrongRevisionError:
            return  # It is already somebody else's.
        except (BusUnavailableError, BusClosedError) as error:
            log.info("lease.unreleased", resource=lease.resource, reason=str(error))

    async def _expire(self) -> None:
        for lease in self.leases:
            if not lease.is_valid():
                await self._finish(lease, LeaseEnd.EXPIRED)

    async def _finish(self, lease: Lease, end: LeaseEnd) -> None:
        lease._end()  # noqa: SLF001  # Same module.
        if self._leases.get(lease.resource) is not lease:
            return
        del self._leases[lease.resource]
        metrics.LEASES_HELD.labels(bucket=self._name).set(len(self._leases))
        metrics.LEASES_ENDED_TOTAL.labels(bucket=self._name, cause=end.value).inc()
        log.info("lease.ended", bucket=self._name, resource=lease.resource, reason=end.value)
        await self._on_lost(lease)
