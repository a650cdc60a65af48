"""Leases under members that join, leave, freeze and die, and a server that goes away."""

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from libs.common.bus.connection import Bus
from libs.common.bus.errors import BusClosedError
from libs.common.bus.kv import Bucket
from libs.common.bus.lease import LeaseEnd, LeaseHolder
from libs.common.bus.provision import ensure
from libs.common.contracts.streams import BucketSpec
from tests.integration.conftest import running, settings_for, until

pytestmark = pytest.mark.integration

TTL_SECONDS = 2
RESOURCES = [f"r{number}" for number in range(6)]
ROOT = Path(__file__).parents[2]


async def lease_bucket(bus, name):
    await ensure(
        bus,
        [],
        [
            BucketSpec(
                name=name, purpose="test", ttl_seconds=TTL_SECONDS, limit_marker_ttl_seconds=1
            )
        ],
    )


class Log:
    """What several members of this process acquired and lost, in order; refuses two owners."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, str, int]] = []
        self.owners: dict[str, str] = {}
        self.epochs: dict[str, list[int]] = {}
        self.ends: Counter[LeaseEnd | None] = Counter()

    def member(self, bus, bucket, name, resources=lambda: RESOURCES, **changes):
        """Make a holder that reports here."""
        options: dict[str, Any] = {
            "member": name,
            "resources": resources,
            "ttl_seconds": TTL_SECONDS,
            "on_acquired": self.acquired,
            "on_lost": self.lost,
            **changes,
        }
        return LeaseHolder(bus, bucket, **options)

    async def acquired(self, lease):
        """Note a new owner; there must be none, and the epoch must have grown."""
        assert lease.is_valid()
        assert lease.resource not in self.owners, "two owners"
        self.owners[lease.resource] = lease.member
        epochs = self.epochs.setdefault(lease.resource, [])
        assert not epochs or lease.epoch > epochs[-1], "epoch did not grow"
        epochs.append(lease.epoch)
        self.events.append(("acquired", lease.member, lease.resource, lease.epoch))

    async def lost(self, lease):
        """Note that an owner's term has ended."""
        assert not lease.is_valid()
        assert self.owners.pop(lease.resource) == lease.member
        self.ends[lease.end] += 1
        self.events.append(("lost", lease.member, lease.resource, lease.epoch))

    def loads(self):
        """How many resources each member owns."""
        return Counter(self.owners.values())


async def test_single_member_holds_everything_and_its_entries_say_so(shared_bus):
    await lease_bucket(shared_bus, "lease_single")
    log = Log()
    holder = log.member(shared_bus, "lease_single", "a")
    async with running(holder.run):
        await until(lambda: len(holder.held) == len(RESOURCES))
        assert holder.members == ["a"]
        entry = await Bucket(shared_bus, "lease_single").get("p.r0")
        assert entry is not None
        assert json.loads(entry.value)["member"] == "a"
        assert json.loads(entry.value)["resource"] == "r0"
        await until(lambda: holder.owner_of("r0") == "a")
        assert holder.owner_of("none") is None

    assert holder.held == {}
    assert log.owners == {}
    assert log.ends == {LeaseEnd.RELEASED: len(RESOURCES)}
    assert await Bucket(shared_bus, "lease_single").get("p.r0") is None
    assert await Bucket(shared_bus, "lease_single").get("m.a") is None


async def test_members_share_fairly_as_they_come_and_go(shared_bus):
    await lease_bucket(shared_bus, "lease_share")
    log = Log()
    a, b, c = (log.member(shared_bus, "lease_share", name) for name in "abc")
    async with running(a.run):
        await until(lambda: log.loads() == {"a": 6})
        async with running(b.run):
            await until(lambda: log.loads() == {"a": 3, "b": 3})
            async with running(c.run):
                await until(lambda: log.loads() == {"a": 2, "b": 2, "c": 2})
                assert a.members == ["a", "b", "c"]
            await until(lambda: log.loads() == {"a": 3, "b": 3})
        await until(lambda: log.loads() == {"a": 6})

    assert set(log.ends) == {LeaseEnd.RELEASED}


async def test_hand_over_on_drain_needs_no_expiry(shared_bus):
    await lease_bucket(shared_bus, "lease_drain")
    log = Log()
    a = log.member(shared_bus, "lease_drain", "a")
    b = log.member(shared_bus, "lease_drain", "b")
    async with running(a.run, b.run):
        await until(lambda: log.loads() == {"a": 3, "b": 3})
        await a.drain()
        assert a.held == {}
        # Well below the TTL: by deletion, not by expiry.
        await until(lambda: log.loads() == {"b": 6}, TTL_SECONDS / 2)
        await a.drain()
        assert a.held == {}


async def test_next_owner_starts_only_after_the_last_one_has_finished(shared_bus):
    await lease_bucket(shared_bus, "lease_order")
    log = Log()
    finished = []

    async def slow(lease):
        await asyncio.sleep(0.1)
        finished.append(lease.resource)
        await log.lost(lease)

    a = log.member(shared_bus, "lease_order", "a", on_lost=slow)
    b = log.member(shared_bus, "lease_order", "b")
    async with running(a.run):
        await until(lambda: log.loads() == {"a": 6})
        async with running(b.run):
            await until(lambda: log.loads() == {"a": 3, "b": 3})
            assert len(finished) == 3


async def test_resources_may_change_and_may_have_any_name(shared_bus):
    await lease_bucket(shared_bus, "lease_change")
    log = Log()
    names = ["M&M", "BAJAJ-AUTO"]
    holder = log.member(shared_bus, "lease_change", "worker 1", lambda: names)
    async with running(holder.run):
        await until(lambda: set(holder.held) == {"M&M", "BAJAJ-AUTO"})
        names[:] = ["M&M", "360ONE"]
        holder.poke()
        await until(lambda: set(holder.held) == {"M&M", "360ONE"})
        assert await Bucket(shared_bus, "lease_change").get("p.M_26M") is not None
        await until(lambda: log.ends == {LeaseEnd.RELEASED: 1})


async def test_lease_that_another_wrote_over_is_lost(shared_bus):
    await lease_bucket(shared_bus, "lease_taken")
    log = Log()
    holder = log.member(shared_bus, "lease_taken", "a", lambda: ["r"])
    async with running(holder.run):
        await until(lambda: holder.held)
        await Bucket(shared_bus, "lease_taken").put("p.r", b'{"member":"x","incarnation":"x"}')

        await until(lambda: log.ends[LeaseEnd.TAKEN] == 1)
        # The other one does not refresh, so the resource comes back with a later epoch.
        await until(lambda: holder.held)
    assert len(log.epochs["r"]) == 2


async def test_refresh_whose_answer_was_lost_does_not_lose_the_lease(shared_bus):
    await lease_bucket(shared_bus, "lease_answer")
    log = Log()
    holder = log.member(shared_bus, "lease_answer", "a", lambda: ["r"])
    async with running(holder.run):
        await until(lambda: holder.held)
        lease = holder.held["r"]
        # The server has a refresh of ours of which we do not know.
        await Bucket(shared_bus, "lease_answer").put("p.r", holder._encode("r", lease.epoch))
        before = lease.deadline
        await until(lambda: lease.deadline > before)
        assert holder.held["r"] is lease

    assert log.ends == {LeaseEnd.RELEASED: 1}


async def test_own_entry_left_from_an_expired_term_is_adopted_with_a_new_epoch(shared_bus):
    await lease_bucket(shared_bus, "lease_adopt")
    log = Log()
    holder = log.member(shared_bus, "lease_adopt", "a", lambda: ["r"])
    first = await Bucket(shared_bus, "lease_adopt").put("p.r", holder._encode("r"))
    async with running(holder.run):
        await until(lambda: holder.held, TTL_SECONDS / 2)
        assert holder.held["r"].epoch > first


async def test_error_in_a_callback_hands_over_and_reaches_the_owner(shared_bus):
    await lease_bucket(shared_bus, "lease_error")
    log = Log()

    async def broken(lease):
        await log.acquired(lease)
        if lease.resource == "r3":
            raise LookupError(lease.resource)

    holder = log.member(shared_bus, "lease_error", "a", on_acquired=broken)
    with pytest.raises(LookupError, match="r3"):
        await holder.run(asyncio.Event())

    assert log.owners == {}
    assert await Bucket(shared_bus, "lease_error").get("p.r0") is None


async def test_closed_bus_ends_the_run_after_the_leases(shared_nats_server):
    log = Log()
    async with Bus.open(settings_for(shared_nats_server), name="test") as bus:
        await lease_bucket(bus, "lease_closed")
        run = asyncio.create_task(log.member(bus, "lease_closed", "a").run(asyncio.Event()))
        await until(lambda: len(log.owners) == 6)
        await bus.client.close()

        with pytest.raises(BusClosedError):
            await run
    assert log.owners == {}


async def test_short_restart_of_the_server_keeps_the_owner(nats_server, bus):
    await lease_bucket(bus, "lease_restart")
    log = Log()
    holder = log.member(bus, "lease_restart", "a")
    async with running(holder.run):
        await until(lambda: len(holder.held) == 6)
        leases = dict(holder.held)
        deadline = max(lease.deadline for lease in leases.values())
        nats_server.kill()
        nats_server.start()
        await until(lambda: min(lease.deadline for lease in leases.values()) > deadline)
        assert holder.held == leases


async def test_long_outage_ends_every_lease_locally_and_they_return(nats_server, bus):
    await lease_bucket(bus, "lease_outage")
    log = Log()
    a = log.member(bus, "lease_outage", "a")
    b = log.member(bus, "lease_outage", "b")
    async with running(a.run, b.run):
        await until(lambda: log.loads() == {"a": 3, "b": 3})
        nats_server.kill()
        await until(lambda: log.owners == {})
        assert a.held == {}
        assert b.held == {}
        assert log.ends[LeaseEnd.EXPIRED] == 6
        nats_server.start()
        await until(lambda: log.loads() == {"a": 3, "b": 3})


class Members:
    """Member processes, and who claims what at which epoch as their messages tell."""

    def __init__(self, url, bucket) -> None:
        self.url = url
        self.bucket = bucket
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.claims: dict[str, list[tuple[int, str]]] = {name: [] for name in RESOURCES}

    def start(self, name):
        """Start a member process."""
        self.processes[name] = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "tests.fakes.lease_member",
                self.url,
                self.bucket,
                name,
                ",".join(RESOURCES),
                str(TTL_SECONDS),
            ],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )

    def signal(self, name, number):
        """Send a signal to a member process."""
        self.processes[name].send_signal(number)

    def heard(self, message):
        """Note a claim."""
        member, epoch = message.payload.decode().split()
        self.claims[message.subject.removeprefix("owned.")].append((int(epoch), member))

    def loads(self):
        """The latest owner of each resource, counted."""
        return Counter(claims[-1][1] for claims in self.claims.values() if claims)

    def assert_exclusive(self):
        """A term has one owner, and nobody publishes under a term that another followed."""
        for claims in self.claims.values():
            assert claims == sorted(claims, key=lambda claim: claim[0])
            assert len({epoch for epoch, _ in claims}) == len(set(claims))


@contextmanager
def member_processes(url, bucket):
    members = Members(url, bucket)
    try:
        yield members
    finally:
        for process in members.processes.values():
            process.kill()
            process.wait()


async def test_processes_killed_frozen_and_ended_hand_over_to_one_owner_each(shared_bus):
    await lease_bucket(shared_bus, "lease_processes")
    url = f"nats://127.0.0.1:{shared_bus.client.connected_url.port}"
    with member_processes(url, "lease_processes") as members:
        await shared_bus.subscribe("owned.*", members.heard)
        for name in "abc":
            members.start(name)
        await until(lambda: members.loads() == {"a": 2, "b": 2, "c": 2}, 15)

        members.signal("a", signal.SIGKILL)
        await until(lambda: members.loads() == {"b": 3, "c": 3})

        members.signal("b", signal.SIGSTOP)
        await until(lambda: members.loads() == {"c": 6})
        heard = [len(claims) for claims in members.claims.values()]
        members.signal("b", signal.SIGCONT)
        # The thawed process publishes nothing under its old terms, then gets a share again.
        await until(lambda: members.loads() == {"b": 3, "c": 3})
        assert all(
            len(claims) > before
            for claims, before in zip(members.claims.values(), heard, strict=True)
        )

        members.signal("c", signal.SIGTERM)
        await until(lambda: members.loads() == {"b": 6})
        assert members.processes["c"].wait(10) == 0
        members.assert_exclusive()
