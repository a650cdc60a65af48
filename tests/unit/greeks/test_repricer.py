"""The turns of the repricer: frames first, and nothing that was kept back is forgotten."""

import asyncio
from collections import Counter

import numpy as np
import pytest

from libs.common.contracts import codec
from libs.common.contracts.messages import Tick
from libs.common.domain.market_calendar import CALENDAR
from libs.common.kite.frames import frame_of
from services.greeks import repricer as repricer_module
from services.greeks.domain import pricing
from services.greeks.domain.budget import SharedBudget
from services.greeks.domain.policy import Policy
from services.greeks.domain.shard import Frame, Shard, Tally
from services.greeks.repricer import Repricer
from services.greeks.turns import Turns
from tests.fakes.kite_frames import FakeMarket


class Rig:
    """A shard whose options are all due, and a repricer whose publishing a test steers."""

    def __init__(self, ticks_per_second: float = 1e6) -> None:
        self.market = FakeMarket(strikes_each_side=10)
        self.now_ns = 1_795_500_000_000_000_000
        self.state = Shard(
            epoch=7,
            calendar=CALENDAR,
            policy=Policy(),
            engine=pricing.compute_quotes,
            now_ns=lambda: self.now_ns,
        )
        self.state.use_instruments(self.market.instrument_set())
        self.work(self.market.frame())
        self.state.owe()
        self.now_ns += 1_000_000_000
        self.order = asyncio.Lock()
        self.may_publish = True
        self.has_room = True
        self.ticks: list[Tick] = []
        self.repricer = Repricer(
            3,
            self.state,
            SharedBudget(ticks_per_second),
            publish=self.publish,
            may_publish=lambda: self.may_publish,
            order=self.order,
            turns=Turns(),
        )
        self.repricer.is_paused = False

    def work(self, payload: bytes) -> None:
        """A frame comes."""
        list(self.state.work([Frame(payload, 1, "sim")], conflate=False, tally=Tally()))

    async def publish(self, _subject: str, payload: bytes) -> bool:
        """Remember what is sent, if there is room."""
        assert self.order.locked()
        if self.has_room:
            self.ticks += [codec.from_json(Tick, line) for line in payload.splitlines()]
        return self.has_room

    async def step(self, seconds: float = 0.05) -> int:
        """One look; gives how many ticks came of it."""
        before = len(self.ticks)
        await self.repricer._step(seconds, asyncio.Event())
        return len(self.ticks) - before


async def test_everything_that_is_due_is_priced_once():
    rig = Rig()
    assert await rig.step() == len(rig.market.options)
    assert set(Counter(t.instrument_token for t in rig.ticks).values()) == {1}
    assert await rig.step() == 0


@pytest.mark.parametrize("reason", ["paused", "batch", "bus", "stop"])
async def test_whoever_has_no_turn_prices_nothing_and_keeps_it_due(reason):
    rig = Rig()
    stop = asyncio.Event()
    if reason == "paused":
        rig.repricer.is_paused = True
    elif reason == "batch":
        await rig.order.acquire()
    elif reason == "bus":
        rig.may_publish = False
    else:
        stop.set()
    await rig.repricer._step(0.05, stop)
    assert rig.ticks == []
    assert rig.state.due().size == len(rig.market.options)


async def test_a_tick_without_room_is_due_again_with_a_later_number():
    rig = Rig()
    rig.has_room = False
    assert await rig.step() == 0
    rig.has_room = True
    # The interval counts as for any other pricing.
    assert await rig.step() == 0
    rig.now_ns += 500_000_000
    assert await rig.step() == len(rig.market.options)
    assert {t.seq for t in rig.ticks} == {3}


async def test_frames_may_come_between_the_turns_and_keep_the_order(monkeypatch):
    monkeypatch.setattr(repricer_module, "TURN_ROWS", 16)
    rig = Rig()
    call = rig.market.options[-1]

    async def frame_comes() -> None:
        while not rig.ticks:  # noqa: ASYNC110  # It looks between any two turns.
            await asyncio.sleep(0)
        async with rig.order:
            rig.work(frame_of(rig.market.full([call])))

    task = asyncio.create_task(frame_comes())
    await rig.step()
    await task
    # It had a packet in between: it needs no second tick.
    assert call.instrument_token not in {t.instrument_token for t in rig.ticks}
    assert len(rig.ticks) == len(rig.market.options) - 1


async def test_the_budget_bounds_a_step_and_the_rest_waits_its_turn():
    rig = Rig(ticks_per_second=400)
    counts = [await rig.step() for _ in range(6)]
    assert counts == [20, 20, 20, 20, 4, 0]
    slots = np.array([rig.state.table.slot_of(t.instrument_token) for t in rig.ticks])
    assert np.unique(slots).size == len(rig.market.options)
