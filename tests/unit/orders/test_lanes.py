"""Lanes: in order within a key, side by side across keys."""

import asyncio

import pytest

from libs.common.bus.tasks import OwnedTasks
from services.orders.lanes import Lanes


async def test_items_of_a_key_go_one_after_the_other_and_others_do_not_wait():
    tasks, done = OwnedTasks(), []
    gate = asyncio.Event()

    async def work(item):
        if item == "a1":
            await gate.wait()
        done.append(item)

    lanes: Lanes[str] = Lanes(work, tasks)
    for item in ("a1", "a2", "b1", "b2"):
        lanes.put(item[0], item)
    assert len(lanes) == 4
    while len(done) < 2:  # noqa: ASYNC110  # The other lane has no event to wait for.
        await asyncio.sleep(0)
    assert done == ["b1", "b2"]
    gate.set()
    await tasks.finish(patience_seconds=10)
    assert done == ["b1", "b2", "a1", "a2"]
    assert len(lanes) == 0


async def test_what_a_lane_raises_is_its_owners_failure():
    tasks = OwnedTasks()

    async def work(item):
        raise KeyError(item)

    Lanes(work, tasks).put("a", "a1")
    await tasks.finish(patience_seconds=10)
    assert tasks.failed.is_set()
    with pytest.raises(KeyError):
        tasks.raise_failure()
