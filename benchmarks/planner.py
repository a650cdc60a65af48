"""The planner: nanoseconds per instrument, and how many move, against planning from scratch.

The baseline is what a planner without memory does: give the wanted instruments to the accounts in
turn, every time. It is as fast as a plan can be made; it knows no pins, no prices, no priority, and
moves nearly everything when an account goes.

    python -m benchmarks.planner
"""

from __future__ import annotations

import random
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from libs.common.contracts.messages import StreamMode
from services.control.domain import planner
from services.control.domain.planner import Capacity, Slot
from services.control.domain.windows import EXPLICIT, PRICED_WITH, WINDOW, Wanted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZES: Final = (1_000, 9_000, 50_000)
ACCOUNTS: Final = 10
MEMBERS: Final = 250
"""Instruments of an underlying: its spot and options."""
ROUNDS: Final = 7


class Case(NamedTuple):
    """One situation: what is wanted, on which accounts, coming from where."""

    name: str
    capacities: list[Capacity]
    previous: dict[int, Slot]
    lost: frozenset[str]


def wishes(count: int) -> list[Wanted]:
    """Build options of many underlyings, each needing its spot; a tenth was asked for by people."""
    chance = random.Random(1)
    wanted = []
    for token in range(1, count + 1):
        number, place = divmod(token - 1, MEMBERS)
        spot = number * MEMBERS + 1
        reason = EXPLICIT if chance.random() < 0.1 else WINDOW
        wanted.append(
            Wanted(
                instrument_token=token,
                underlying=f"U{number}",
                mode=StreamMode.FULL,
                reason=reason if place else PRICED_WITH,
                needs=(spot,) if place else (),
                distance=place // 8,
            )
        )
    return wanted


def in_turn(wanted: Sequence[Wanted], capacities: Sequence[Capacity]) -> dict[int, Slot]:
    """Plan without memory."""
    slots = {}
    room = {c.account: c.tokens_per_connection for c in capacities}
    names = [c.account for c in capacities]
    for position, item in enumerate(wanted):
        place = position // len(names)
        account = names[position % len(names)]
        slots[item.instrument_token] = Slot(account, place // room[account])
    return slots


def seconds(run: Callable[[], object]) -> float:
    """Processor time of one call: what else the machine does is left out."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def main() -> None:
    """Measure every size and situation and print the table."""
    print(
        "| instruments | situation | ns/instrument | ms | moved | in turn: ns/instrument | moved |"
    )
    print("|---|---|---|---|---|---|---|")
    for count in SIZES:
        wanted = wishes(count)
        capacities = [
            Capacity(account=f"a{number}", connections=3, tokens_per_connection=3000)
            for number in range(ACCOUNTS)
        ]
        held = planner.plan(wanted, capacities, {}).slots
        naive = in_turn(wanted, capacities)
        cases = (
            Case("first plan", capacities, {}, frozenset()),
            Case("nothing new", capacities, held, frozenset()),
            Case("an account lost", capacities[1:], held, frozenset({"a0"})),
        )
        for case in cases:
            ours, theirs = [], []
            plan = partial(planner.plan, wanted, case.capacities, case.previous, lost=case.lost)
            for _ in range(ROUNDS):
                ours.append(seconds(plan))
                theirs.append(seconds(partial(in_turn, wanted, case.capacities)))
            outcome = plan()
            if len(outcome.slots) != count:
                raise SystemExit(f"{case.name}: {count - len(outcome.slots)} were not placed")
            moved = sum(
                case.previous[token].account != slot.account
                for token, slot in outcome.slots.items()
                if token in case.previous
            )
            others = in_turn(wanted, case.capacities)
            swept = sum(naive[token].account != slot.account for token, slot in others.items())
            mine, other = statistics.median(ours), statistics.median(theirs)
            print(
                f"| {count} | {case.name} | {mine / count * 1e9:.0f} | {mine * 1e3:.1f} "
                f"| {moved} | {other / count * 1e9:.0f} | {swept} |"
            )


if __name__ == "__main__":
    main()
