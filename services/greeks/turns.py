"""Cuts what can wait into turns, between which frames that have come are worked to their end."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

import numpy as np
import numpy.typing as npt

from libs.common.lifecycle import sleep_unless

Ints = npt.NDArray[np.int64]

PASSES: Final = 8
"""From the socket to the shard a frame takes so many rounds of the event loop: its two or three
reads, the client's parser, the subscription and the cursor have a task each. A single round between
two turns would have a frame wait for as many turns as it has rounds to go."""


async def let_frames_pass() -> None:
    """Work frames that have reached the socket, if there are any; returns at once otherwise."""
    for _ in range(PASSES):
        await asyncio.sleep(0)


class Turns:
    """Gives whoever in the process has other work than frames a turn: one at a time.

    Behind every turn frames have theirs. Were that left to each task, the turns of several tasks
    would follow one another without a gap.
    """

    def __init__(self) -> None:
        self._order = asyncio.Lock()

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """Wait for a turn; it should be about a millisecond long."""
        async with self._order:
            yield
            await let_frames_pass()


async def spaced(number: int, of: int, began: float, seconds: float, stop: asyncio.Event) -> bool:
    """Wait until a turn of several is due that share a span of time evenly.

    A burst of turns would keep whatever comes meanwhile waiting, here and at every receiver.

    Args:
        number: Of the turn, from 0; the first is due at once.
        of: How many there are.
        began: When the span began, `time.monotonic`.
        seconds: How long it is.
        stop: Ends the waiting.

    Returns:
        Whether it was told to stop.
    """
    left = began + seconds * number / of - time.monotonic()
    if number and left > 0.0:
        return await sleep_unless(stop, left)
    return stop.is_set()


def pieces(numbers: Ints, size: int) -> Iterator[Ints]:
    """Cut into pieces of at most `size`, in order."""
    for first in range(0, numbers.size, size):
        yield numbers[first : first + size]
