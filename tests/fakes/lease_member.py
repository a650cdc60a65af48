"""A process that leases resources and publishes, while a lease is valid, that it owns them.

Usage: `python -m tests.fakes.lease_member URL BUCKET MEMBER RESOURCES TTL_SECONDS`, RESOURCES
separated by commas. On `owned.<resource>` it publishes `<member> <epoch>` every 10 ms.
"""

import asyncio
import signal
import sys

from libs.common.bus.connection import Bus
from libs.common.bus.lease import Lease, LeaseHolder
from libs.common.settings import NatsSettings

_INTERVAL_SECONDS = 0.01


async def main(url: str, bucket: str, member: str, resources: str, ttl_seconds: str) -> None:
    """Hold leases until SIGTERM."""
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    claims: dict[str, asyncio.Task[None]] = {}

    async with Bus.open(NatsSettings(nats_url=url), name=member) as bus:

        async def claim(lease: Lease) -> None:
            # Goes on after the lease has ended, as a worker that was frozen would: only
            # `is_valid` keeps it from publishing.
            while True:
                if lease.is_valid():
                    await bus.publish(f"owned.{lease.resource}", f"{member} {lease.epoch}".encode())
                await asyncio.sleep(_INTERVAL_SECONDS)

        async def acquired(lease: Lease) -> None:
            claims[lease.resource] = asyncio.create_task(claim(lease))

        async def lost(lease: Lease) -> None:
            claims.pop(lease.resource).cancel()

        names = resources.split(",")
        await LeaseHolder(
            bus,
            bucket,
            member=member,
            resources=lambda: names,
            ttl_seconds=float(ttl_seconds),
            on_acquired=acquired,
            on_lost=lost,
        ).run(stop)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:6]))
