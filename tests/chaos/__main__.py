"""`python -m tests.chaos`: orders against faults and kills; fails unless the tally is clean."""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from libs.common import logs
from tests.chaos.lab import LabShape
from tests.chaos.run import ChaosPlan, Outcome, run_chaos

EXIT_UNCLEAN = 1


def main() -> int:
    """Do a run as the command line says, and give the exit status."""
    arguments = _arguments()
    chaos = ChaosPlan(
        orders=arguments.orders,
        shape=LabShape(accounts=arguments.accounts, workers=arguments.workers, seed=arguments.seed),
        seed=arguments.seed,
        per_second=arguments.per_second,
        fault_probability=arguments.faults,
        shortest_kill_seconds=arguments.kills[0],
        longest_kill_seconds=arguments.kills[1],
        is_unsafe=arguments.unsafe,
    )
    logs.configure(service="chaos", worker_id="chaos", level="warning", style="console")
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="tickfleet-chaos-"))
    outcome = asyncio.run(run_chaos(folder, chaos))
    _show(outcome)
    print(json.dumps(outcome.as_json(), indent=2))
    # The proof of the proof: without the rule, orders must come out doubled.
    is_proven = bool(outcome.tally.doubled) if chaos.is_unsafe else outcome.is_clean
    if is_proven and arguments.folder is None:
        shutil.rmtree(folder)
    else:
        print(f"data and log: {folder}", file=sys.stderr)
    return 0 if is_proven else EXIT_UNCLEAN


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--orders", type=int, default=10_000, help="commands in all")
    parser.add_argument("--accounts", type=int, default=4, help="simulated accounts")
    parser.add_argument("--workers", type=int, default=2, help="orders workers")
    parser.add_argument("--seed", type=int, default=1, help="of everything random")
    parser.add_argument(
        "--per-second", type=float, default=5.0, help="commands per second and account"
    )
    parser.add_argument("--faults", type=float, default=0.3, help="chance of a fault")
    parser.add_argument(
        "--kills",
        type=float,
        nargs=2,
        metavar=("SHORTEST", "LONGEST"),
        default=(6.0, 20.0),
        help="seconds between two kills",
    )
    parser.add_argument(
        "--unsafe",
        action="store_true",
        help="send again what may have been sent: must find doubled orders",
    )
    parser.add_argument("--folder", type=Path, help="keep data and log here")
    return parser.parse_args()


def _show(outcome: Outcome) -> None:
    tally = outcome.tally
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column()
    table.add_column(justify="right")
    for name, value in (
        ("commands sent", tally.asked),
        ("accepted", tally.accepted),
        ("orders at the broker", tally.at_broker),
        *((f"  {state}", count) for state, count in sorted(tally.states.items())),
        ("faults struck", sum(outcome.faults.values())),
        ("processes struck", sum(outcome.kills.values())),
        ("seconds", round(outcome.seconds)),
        *((name, len(cases)) for name, cases in tally.faults.items()),
        ("wrong answers", len(outcome.wrong)),
    ):
        table.add_row(name, f"{value:,}")
    Console(stderr=True).print(table)


if __name__ == "__main__":
    sys.exit(main())
