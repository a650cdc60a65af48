"""A noisy expiry day through the greeks service on a real NATS server."""

from collections import Counter, defaultdict
from functools import partial

import pytest

from libs.common.bus.connection import Bus, BusMessage
from libs.common.bus.provision import ensure
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import Tick
from tests.fakes.expiry_day import ExpiryDay
from tests.fakes.nats_server import NatsServer
from tests.fakes.wire_rules import problems_of
from tests.integration.test_greeks_service import Feeder, eventually, running, settings_of

pytestmark = pytest.mark.integration

MOMENTS, TURNS = (5_000, 300, 45), 2


async def test_nothing_that_the_service_says_of_a_noisy_expiry_day_is_a_lie(
    nats_server: NatsServer, bus: Bus
):
    day = ExpiryDay(seed=2)
    feeders = [Feeder(bus, market) for market in day.markets]
    lines: dict[str, list[bytes]] = defaultdict(list)

    def take(message: BusMessage) -> None:
        prefix = ".".join(message.subject.split(".")[:3])
        lines[prefix] += message.payload.splitlines()

    await ensure(bus, streams.STREAMS, streams.BUCKETS)
    for feeder in feeders:
        await feeder.provide()
    watched = [
        await bus.subscribe(subject, take)
        for subject in (
            subjects.ALL_TICKS, subjects.ALL_LAST, subjects.ALL_FORWARDS, subjects.ALL_BARS,
            subjects.ALL_CHAINS, subjects.ALL_VOL_CURVES,
        )
    ]  # fmt: skip
    options = TURNS * sum(len(market.options) for market in day.markets)

    def priced() -> list[bytes]:
        marks = (b'"kind":"option"', b'"repriced":false')
        return [line for line in lines[subjects.TICK_PREFIX] if all(mark in line for mark in marks)]

    def has_priced(rows: int) -> bool:
        return len(priced()) >= rows

    async with running(settings_of(nats_server, conflate_after_seconds=120.0)):
        # One moment after the other: a packet far behind the newest is a snapshot, and priced then.
        for moments, moment in enumerate(MOMENTS, start=1):
            frames = day.frames(moment, turns=TURNS)
            # A market's frames come in pairs, and go to the shard of its underlying.
            for number, frame in enumerate(frames):
                await feeders[number // 2 % len(feeders)].send(frame)
            await eventually(partial(has_priced, moments * options))
        await eventually(lambda: lines[subjects.LAST_PREFIX])
        await eventually(lambda: lines[subjects.FORWARD_PREFIX])
    for subscription in watched:
        await subscription.unsubscribe()
    ticks = [codec.from_json(Tick, line) for line in priced()]
    statuses = Counter(tick.iv_status for tick in ticks)
    print({str(name): count for name, count in statuses.items()})
    assert len(ticks) == len(MOMENTS) * options
    assert {"ok", "low_vega", "below_intrinsic", "no_price", "crossed", "expiring"} <= {*statuses}
    for found in lines.values():
        for line in found:
            assert problems_of(line) == [], line
