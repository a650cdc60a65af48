"""Kills, freezes and restarts the processes of a lab at random, by a seed."""

import asyncio
import random
import signal
from collections.abc import Sequence

from libs.common.lifecycle import sleep_unless
from services.fleet.domain.plan import NATS, POSTGRES
from tests.chaos.lab import Lab

# Longer than the lease of an account: who wakes up finds that somebody else has it.
_FREEZE_SECONDS = 7.0

_Blow = tuple[float, str, signal.Signals]
BLOWS: Sequence[_Blow] = (
    (0.40, "orders", signal.SIGKILL),
    (0.10, "orders", signal.SIGTERM),
    (0.10, "orders", signal.SIGSTOP),
    (0.15, "gateway", signal.SIGKILL),
    (0.12, NATS, signal.SIGKILL),
    # Stopped in order, and taken away at once; the supervisor starts it again.
    (0.08, POSTGRES, signal.SIGINT),
    (0.05, POSTGRES, signal.SIGQUIT),
)


async def sabotage(
    lab: Lab, stop: asyncio.Event, *, seed: int, shortest_seconds: float, longest_seconds: float
) -> None:
    """Strike again and again until `stop` is set; nothing is frozen afterwards.

    Args:
        lab: Whose processes.
        stop: Ends it.
        seed: Of what is struck and when.
        shortest_seconds: Between two blows.
        longest_seconds: Between two blows.
    """
    choices = random.Random(f"{seed}:sabotage")
    present = {NATS, POSTGRES, *(spec.service for spec in lab.specs)}
    blows = [blow for blow in BLOWS if blow[1] in present]
    weights = [weight for weight, _, _ in blows]
    thawing: set[asyncio.Task[None]] = set()
    while not await sleep_unless(stop, choices.uniform(shortest_seconds, longest_seconds)):
        _, service, number = choices.choices(blows, weights)[0]
        name = choices.choice(lab.names(service) or [service])
        if lab.signal(name, number) and number == signal.SIGSTOP:
            task = asyncio.create_task(_thaw(lab, name, stop))
            thawing.add(task)
    await asyncio.gather(*thawing)


async def _thaw(lab: Lab, name: str, stop: asyncio.Event) -> None:
    await sleep_unless(stop, _FREEZE_SECONDS)
    lab.signal(name, signal.SIGCONT)
