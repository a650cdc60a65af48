"""Turns between frames: evenly over their span, and always with room for a frame in between."""

import asyncio
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.greeks.turns import PASSES, Turns, let_frames_pass, pieces, spaced


async def hops(count: int, done: list[int]) -> None:
    """Something that needs so many rounds of the loop, a task for each."""
    if count:
        await asyncio.create_task(hops(count - 1, done))
    done.append(count)


async def test_what_needs_several_rounds_of_the_loop_is_over_before_the_next_turn():
    done: list[int] = []
    task = asyncio.create_task(hops(PASSES // 2 - 1, done))
    await let_frames_pass()
    assert len(done) == PASSES // 2
    await task


async def test_turns_of_several_tasks_never_follow_one_another_without_frames_between():
    turns = Turns()
    seen: list[str] = []

    async def other_work(name: str) -> None:
        async with turns.one():
            seen.append(name)

    async def frame(rounds: int) -> None:
        if rounds:
            await asyncio.create_task(frame(rounds - 1))
        else:
            seen.append("frame")

    others = [asyncio.create_task(other_work(name)) for name in ("a", "b", "c")]
    await asyncio.sleep(0)
    await frame(PASSES // 2 - 1)
    await asyncio.gather(*others)
    assert seen == ["a", "frame", "b", "c"]


async def test_whoever_fails_in_a_turn_leaves_it_to_the_next():
    turns = Turns()
    with pytest.raises(ValueError, match="broken"):
        async with turns.one():
            raise ValueError("broken")
    async with asyncio.timeout(20), turns.one():
        pass


async def test_a_turn_that_is_late_is_due_at_once():
    assert not await spaced(3, 4, time.monotonic() - 60, 0.1, asyncio.Event())


async def test_a_turn_waits_for_its_share_of_the_span():
    began = time.monotonic()
    assert not await spaced(1, 2, began, 0.04, asyncio.Event())
    assert time.monotonic() >= began + 0.02


async def test_whoever_waits_for_a_turn_hears_of_the_end():
    stop = asyncio.Event()
    waiting = asyncio.create_task(spaced(1, 2, time.monotonic(), 1000.0, stop))
    await asyncio.sleep(0)
    stop.set()
    async with asyncio.timeout(20):
        assert await waiting
    assert await spaced(0, 2, time.monotonic(), 1000.0, stop)
    assert await spaced(1, 2, time.monotonic() - 5000, 1000.0, stop)


@given(st.integers(0, 30), st.integers(1, 7))
def test_pieces_are_everything_in_order_and_none_is_too_large(count, size):
    found = [*pieces(np.arange(count), size)]
    assert [number for piece in found for number in piece.tolist()] == list(range(count))
    assert all(0 < piece.size <= size for piece in found)
