"""One run: a fleet, a load, faults and kills, then quiet, then the judgement."""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr

from libs.common.bus.connection import Bus
from libs.common.bus.cursor import OrderedCursor, StartPosition, StreamMessage
from libs.common.bus.kv import snapshot
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.messages import KiteSession
from libs.common.contracts.orders import OrderEvent, OrdersStatus
from libs.common.kite.sessions import SessionSeal
from libs.common.lifecycle import sleep_unless
from libs.common.settings import NatsSettings
from tests.chaos.lab import Lab, LabShape, running_lab
from tests.chaos.load import Contract, Load
from tests.chaos.sabotage import sabotage
from tests.chaos.tally import Placed, Request, Tally, Task, tally

_LOOK_SECONDS = 0.5
_REPORT_SECONDS = 15.0
_READY_SECONDS = 120.0
_CONTRACTS = 24
# All of the order side but the death of a session, after which somebody has to log in.
FAULT_KINDS = (
    "accept_then_silence",
    "accept_then_error",
    "timed_out_400",
    "late_order",
    "order_limit",
    "slow_order",
    "reset_before",
    "reset_after",
    "error_before",
    "duplicate_update",
    "late_update",
    "reordered_update",
    "lost_update",
)
_CALL_SECONDS = 4.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaosPlan:
    """What happens in a run.

    Attributes:
        orders: Commands.
        shape: The fleet.
        seed: Of load, faults and kills.
        per_second: Commands per second and account.
        fault_probability: Of a fault, per request to the broker and per update from it.
        late_seconds: How late a fault answers, or an order appears; the ledger's window for
            unknown outcomes must be longer.
        window_seconds: That window.
        shortest_kill_seconds: Between two kills. A killed worker's accounts are another's after
            some six seconds: kill more often, and hardly anything is sent.
        longest_kill_seconds: Between two kills.
        settle_seconds: How long after the end of all faults tasks may take to settle.
        is_unsafe: Send again what may have been sent: the run must then find doubled orders.
    """

    orders: int = 10_000
    shape: LabShape = field(default_factory=LabShape)
    seed: int = 1
    per_second: float = 5.0
    fault_probability: float = 0.3
    late_seconds: float = 3.0
    window_seconds: float = 12.0
    shortest_kill_seconds: float = 6.0
    longest_kill_seconds: float = 20.0
    settle_seconds: float = 240.0
    is_unsafe: bool = False

    def __post_init__(self) -> None:
        if self.window_seconds <= 2 * self.late_seconds:
            raise ValueError("window_seconds: must exceed twice late_seconds, or ABSENT is a guess")


@dataclass(slots=True)
class Outcome:
    """What a run gave.

    Attributes:
        tally: The judgement.
        wrong: Answers to clients that must not be.
        answers: Answers to clients by word.
        faults: How often each fault struck.
        kills: How often each process was struck.
        seconds: From the first command to the last settled task.
    """

    tally: Tally
    wrong: list[str]
    answers: Counter[str]
    faults: Counter[str]
    kills: Counter[str]
    seconds: float

    @property
    def is_clean(self) -> bool:
        """Whether nothing was lost, doubled, unexplained or told wrong."""
        return self.tally.is_clean and not self.wrong

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            **self.tally.as_json(),
            "wrong_answers": self.wrong[:10],
            "answers": dict(sorted(self.answers.items())),
            "faults": dict(sorted(self.faults.items())),
            "kills": dict(sorted(self.kills.items())),
            "seconds": round(self.seconds, 1),
        }


async def run_chaos(folder: Path, chaos: ChaosPlan) -> Outcome:
    """Do a run in a folder of its own; call it from the main thread."""
    async with (
        running_lab(folder, chaos.shape, _settings(chaos)) as lab,
        Bus.open(NatsSettings(nats_url=lab.nats.url), name="chaos") as bus,
    ):
        return await _run(lab, bus, chaos)


async def _run(lab: Lab, bus: Bus, chaos: ChaosPlan) -> Outcome:
    await until_orders_are_taken(lab, bus)
    load = Load(
        gateway_url=lab.gateway_url,
        bus=bus,
        accounts=[account.name for account in lab.accounts],
        contracts=await contracts(lab, bus),
        count=chaos.orders,
        per_second=chaos.per_second,
        seed=chaos.seed,
    )
    await lab.fault(
        kind="order_chaos",
        probability=chaos.fault_probability,
        seed=chaos.seed,
        kinds=list(FAULT_KINDS),
        delay_seconds=chaos.late_seconds,
        # Longer than the worker waits.
        answer_seconds=2 * _CALL_SECONDS,
    )
    began = time.monotonic()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(
            sabotage(
                lab,
                stop,
                seed=chaos.seed,
                shortest_seconds=chaos.shortest_kill_seconds,
                longest_seconds=chaos.longest_kill_seconds,
            )
        )
        group.create_task(_report(load, stop))
        try:
            await load.run()
        finally:
            stop.set()
    faults = await lab.lift_faults()
    judged = await _settled(lab, bus, load, chaos.settle_seconds)
    return Outcome(
        tally=judged,
        wrong=load.wrong,
        answers=load.answers,
        faults=faults,
        kills=Counter(lab.kills),
        seconds=time.monotonic() - began,
    )


async def _report(load: Load, stop: asyncio.Event) -> None:
    """Say now and then how far it is: the long form takes its time."""
    while not await sleep_unless(stop, _REPORT_SECONDS):
        print(f"{len(load.asked)} of {load.count} commands sent", file=sys.stderr)


def _settings(chaos: ChaosPlan) -> dict[str, str]:
    return {
        "SIM_START": "2026-11-18T11:00:00",
        "SIM_ORDERS_PER_DAY": "100000",
        "ORDERS_CALL_SECONDS": str(_CALL_SECONDS),
        "ORDERS_UNKNOWN_WINDOW_SECONDS": str(chaos.window_seconds),
        "ORDERS_POLL_SECONDS": "0.5",
        "ORDERS_QUIET_POLL_SECONDS": "1",
        # It opens now and then; what it holds back meanwhile is only late.
        "ORDERS_BREAKER_SECONDS": "2",
        "ORDERS_PER_DAY": "100000",
        **({"ORDERS_UNSAFE_RESEND": "1"} if chaos.is_unsafe else {}),
    }


async def until_orders_are_taken(lab: Lab, bus: Bus) -> None:
    """Wait until every account has a worker that takes commands."""
    wanted = {account.name for account in lab.accounts}
    async with asyncio.timeout(_READY_SECONDS):
        while not wanted <= await _taking(bus):  # noqa: ASYNC110  # Of other processes.
            await asyncio.sleep(_LOOK_SECONDS)


async def _taking(bus: Bus) -> set[str]:
    """The accounts whose worker says that it takes commands."""
    entries = await snapshot(bus, streams.STATUS.name, patience_seconds=5) or {}
    said = [
        codec.from_json(OrdersStatus, value)
        for key, value in entries.items()
        if key.startswith("orders-")
    ]
    return {status.account for status in said if status.ready}


async def contracts(lab: Lab, bus: Bus) -> list[Contract]:
    """Options near the money of the nearest expiry, with their prices."""
    rows = await lab.query(
        """
        SELECT exchange, tradingsymbol, lot_size FROM instruments
        WHERE underlying = 'NIFTY' AND kind = 'option' AND expiry = (
            SELECT min(expiry) FROM instruments WHERE underlying = 'NIFTY' AND kind = 'option')
        ORDER BY strike, option_type
        """
    )
    middle = len(rows) // 2
    chosen = rows[max(0, middle - _CONTRACTS // 2) : middle + _CONTRACTS // 2]
    session = await session_of(lab, bus)
    keys = [f"{row['exchange']}:{row['tradingsymbol']}" for row in chosen]
    headers = {
        "Authorization": f"token {session.api_key}:{session.access_token}",
        "X-Kite-Version": "3",
    }
    async with httpx.AsyncClient(trust_env=False, timeout=30, headers=headers) as client:
        while True:
            answer = await client.get(f"{lab.simulator_url}/quote", params={"i": keys})
            if answer.status_code != httpx.codes.TOO_MANY_REQUESTS:
                break
            # Control asks for quotes with the same key, of which there is one a second.
            await asyncio.sleep(_LOOK_SECONDS)
    quotes = answer.raise_for_status().json()["data"]
    return [
        Contract(
            row["exchange"],
            row["tradingsymbol"],
            row["lot_size"],
            quotes[key]["last_price"],
            _low(quotes[key]),
        )
        for row, key in zip(chosen, keys, strict=True)
        if key in quotes
    ]


def _low(quote: Mapping[str, float]) -> float:
    """A price far below the market, on the tick, that the exchange takes for the whole run."""
    low = max(1.2 * quote["lower_circuit_limit"], 0.4 * quote["last_price"])
    return round(round(low / 0.05) * 0.05, 2)


async def session_of(lab: Lab, bus: Bus) -> KiteSession:
    """Somebody's session at the simulator."""
    entries = await snapshot(bus, streams.KITE_SESSIONS.name, patience_seconds=10) or {}
    seal = SessionSeal(SecretStr(lab.encryption_key))
    return seal.open(next(iter(entries.values())))


async def _settled(lab: Lab, bus: Bus, load: Load, seconds: float) -> Tally:
    """Judge until nothing is left to complain of, or the patience is over; gives the last one."""
    deadline = time.monotonic() + seconds
    while True:
        judged = await _judge(lab, load, None)
        if judged.is_clean or time.monotonic() > deadline or judged.doubled:
            break
        await asyncio.sleep(_LOOK_SECONDS)
    # What happened has to be there for subscribers, too; it is published after it is committed.
    while judged.is_clean:
        judged = await _judge(lab, load, await _events(bus))
        if judged.is_clean or time.monotonic() > deadline:
            break
        judged.gaps.clear()
        await asyncio.sleep(_LOOK_SECONDS)
    return judged


async def _judge(
    lab: Lab, load: Load, events: Mapping[tuple[str, str], Sequence[int]] | None
) -> Tally:
    tasks = [
        Task(row["account"], row["task_id"], row["state"])
        for row in await lab.query("SELECT account, task_id, state FROM order_tasks")
    ]
    requests = [
        Request(
            account=row["account"],
            task_id=row["task_id"],
            leg=row["leg"],
            tag=row["tag"],
            verb=row["verb"],
            state=row["state"],
            order_id=row["order_id"],
            filled_quantity=row["filled_quantity"],
            has_evidence=row["has_evidence"],
        )
        for row in await lab.query(
            """
            SELECT i.account, i.task_id, i.leg, i.tag, i.verb, i.state, i.order_id,
                   i.filled_quantity, EXISTS (
                       SELECT FROM order_events e
                       WHERE e.account = i.account AND e.task_id = i.task_id
                         AND e.body -> 'evidence' <> '{}'::jsonb) AS has_evidence
            FROM order_intents i
            """
        )
    ]
    placed: list[Placed] = []
    taken: dict[tuple[str, str], int] = {}
    for account, book in (await lab.books()).items():
        placed += [
            Placed(
                account,
                str(row["order_id"]),
                row["tag"],
                row["status"],
                int(row["filled_quantity"]),
            )
            for row in book["orders"]
        ]
        taken |= {(account, tag): int(use["accepted"]) for tag, use in book["tags"].items()}
    return tally(load.asked, tasks, requests, placed, taken, events)


async def _events(bus: Bus) -> dict[tuple[str, str], list[int]]:
    """Numbers of all events of each task in the stream, as a new subscriber reads them."""
    seen: dict[tuple[str, str], dict[int, None]] = {}

    def take(messages: list[StreamMessage]) -> None:
        for message in messages:
            event = codec.from_json(OrderEvent, message.payload)
            seen.setdefault((event.account, event.task_id), {})[event.seq] = None

    stop = asyncio.Event()
    cursor = OrderedCursor(
        bus,
        streams.ORDER_EVENTS.name,
        [subjects.ALL_ORDER_EVENTS],
        StartPosition.all(),
        take,
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(cursor.run(stop))
        async with asyncio.timeout(_READY_SECONDS):
            await cursor.caught_up.wait()
        stop.set()
    return {key: list(numbers) for key, numbers in seen.items()}
