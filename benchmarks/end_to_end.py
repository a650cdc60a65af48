"""How old a tick is when a WebSocket client has it: the whole embedded fleet, at a given rate.

There is no baseline to run beside it: the figure is the age itself, and its share per hop.
"""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

import msgspec

from tests.fleet.fleet_process import FleetProcess, running_fleet

SECONDS = 20.0


async def measure(fleet: FleetProcess) -> None:
    """Listen to everything that is streamed, and print ages in milliseconds."""
    tokens: list[int] = []
    while True:
        page = await fleet.subscriptions(offset=len(tokens))
        tokens += [item["instrument_token"] for item in page]
        if not page:
            break
    ages: dict[str, list[float]] = {"ingest to greeks": [], "greeks to client": [], "whole way": []}
    async with fleet.client() as client:
        await client.send({"action": "subscribe", "tokens": tokens, "snapshot": False})
        await client.next("subscribed")
        end = time.monotonic() + SECONDS
        while time.monotonic() < end:
            raw = await client.socket.recv()
            now_ns = time.time_ns()
            message = msgspec.json.decode(raw)
            if message["type"] != "tick":
                continue
            data = message["data"]
            if data["repriced"]:
                continue  # Its packet came long ago.
            ages["ingest to greeks"].append((data["greeks_ts"] - data["ingest_ts"]) / 1e6)
            ages["greeks to client"].append((now_ns - data["greeks_ts"]) / 1e6)
            ages["whole way"].append((now_ns - data["ingest_ts"]) / 1e6)
    count = len(ages["whole way"])
    print(f"{len(tokens)} instruments, {count / SECONDS:.0f} ticks/s to one client; age in ms")
    for name, values in ages.items():
        cuts = statistics.quantiles(values, n=100)
        print(f"{name:>17}: p50 {cuts[49]:7.2f}  p90 {cuts[89]:7.2f}  p99 {cuts[98]:7.2f}")


def main() -> None:
    """Run a quiet fleet and one at about 5 000 ticks a second."""
    for interval, levels in (("0.5", "10"), ("0.1", "20")):
        with (
            tempfile.TemporaryDirectory() as folder,
            running_fleet(
                Path(folder) / "data",
                SIM_TICK_INTERVAL_SECONDS=interval,
                SIM_TICK_PROBABILITY="1.0",
                UNDERLYINGS="NIFTY,BANKNIFTY,SENSEX",
                OPTION_EXPIRY_WINDOW="4",
                OTM_LEVELS=levels,
            ) as fleet,
        ):
            asyncio.run(measure(fleet))


if __name__ == "__main__":
    main()
