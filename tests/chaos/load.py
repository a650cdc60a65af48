"""Sends orders as impatient clients do: over REST and the bus, again and again, until stored."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import msgspec

from libs.common.bus.connection import Bus
from libs.common.bus.durable import SubjectTakenError, publish_once
from libs.common.bus.errors import BusUnavailableError, RequestTimeoutError
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.orders import OrderCommand
from tests.chaos.tally import Asked

_PATIENCE_SECONDS = 120.0
_VALID_SECONDS = 900.0
_SENDERS_PER_ACCOUNT = 6


@dataclass(frozen=True, slots=True)
class Contract:
    """What is traded.

    Attributes:
        exchange: Where.
        tradingsymbol: Of what.
        lot_size: Units.
        price: Rupees, near the market's when the run began.
        low_price: Rupees, at which a purchase rests, and which the exchange still takes.
    """

    exchange: str
    tradingsymbol: str
    lot_size: int
    price: float
    low_price: float


@dataclass(slots=True)
class Load:
    """The clients of a run.

    Attributes:
        gateway_url: Where REST is.
        bus: For those who publish themselves.
        accounts: Whose orders.
        contracts: What they trade.
        count: Commands in all.
        per_second: Commands per second and account.
        seed: Of everything random.
        answers: What the gateway and the stream answered, by word.
        wrong: Answers that must not be, a sentence each.
    """

    gateway_url: str
    bus: Bus
    accounts: list[str]
    contracts: list[Contract]
    count: int
    per_second: float
    seed: int
    answers: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    _accepted: dict[tuple[str, str], bool] = field(default_factory=dict)

    @property
    def asked(self) -> list[Asked]:
        """Everything that was sent, and whether anybody was told that it is stored."""
        return [Asked(*key, was_accepted=value) for key, value in self._accepted.items()]

    async def run(self) -> None:
        """Send all of it; ends when every command is stored or its client has given up."""
        limits = httpx.Limits(max_connections=64)
        async with (
            httpx.AsyncClient(timeout=15, limits=limits, trust_env=False) as client,
            asyncio.TaskGroup() as group,
        ):
            share, rest = divmod(self.count, len(self.accounts))
            for number, account in enumerate(self.accounts):
                commands = self.commands(account, share + (number < rest))
                pace = _Pace(self.per_second)
                for _ in range(_SENDERS_PER_ACCOUNT):
                    group.create_task(self._send_all(client, commands, pace))

    async def _send_all(
        self, client: httpx.AsyncClient, commands: Iterator[dict[str, Any]], pace: "_Pace"
    ) -> None:
        for command in commands:
            await pace.turn()
            choices = random.Random(f"{self.seed}:{command['task_id']}")
            await self._deliver(client, command, choices)

    async def _deliver(
        self, client: httpx.AsyncClient, command: dict[str, Any], choices: random.Random
    ) -> None:
        """Send a command until it is stored, by one way; then perhaps again, by any."""
        key = command["account"], command["task_id"]
        self._accepted[key] = False
        over_rest = choices.random() < 0.7
        send = self._post if over_rest else self._publish
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while True:
            answer = await send(client, command)
            self.answers[answer] += 1
            if answer in {"stored", "known"}:
                self._accepted[key] = True
                break
            if answer in {"conflict", "refused"}:
                self.wrong.append(f"{'/'.join(key)}: {answer} ({'REST' if over_rest else 'bus'})")
                return
            if time.monotonic() > deadline:
                return
            await asyncio.sleep(choices.uniform(0.1, 0.8))
        if choices.random() < 0.1:
            # A client that did not see the answer.
            again = await choices.choice((self._post, self._publish))(client, command)
            self.answers[f"again {again}"] += 1
            if again in {"conflict", "refused"}:
                self.wrong.append(f"{'/'.join(key)}: a repetition was {again}")
        if choices.random() < 0.03:
            # One that uses a key for something else.
            other = {**command, "user": "somebody-else"}
            answer = await choices.choice((self._post, self._publish))(client, other)
            self.answers[f"other {answer}"] += 1
            if answer in {"stored", "known"}:
                self.wrong.append(f"{'/'.join(key)}: another command with its key was {answer}")

    async def _post(self, client: httpx.AsyncClient, command: dict[str, Any]) -> str:
        body = {
            name: value
            for name, value in command.items()
            if name not in {"verb", "task_id", "created_at_ns"}
        }
        try:
            answer = await client.post(
                f"{self.gateway_url}/orders/{command['verb']}",
                json=body,
                headers={"Idempotency-Key": command["task_id"]},
            )
        except httpx.HTTPError:
            return "gateway away"
        if answer.status_code in {200, 202}:
            return "stored" if answer.status_code == 202 else "known"
        if answer.status_code == 409:
            return "conflict"
        return "refused" if answer.status_code in {400, 404, 413, 422} else "unavailable"

    async def _publish(self, client: httpx.AsyncClient, command: dict[str, Any]) -> str:
        del client
        # Another moment of making is no other command.
        value = {**command, "created_at_ns": time.time_ns()}
        message = msgspec.convert(value, OrderCommand)
        subject = subjects.order_command(command["account"], command["task_id"])
        try:
            await publish_once(
                self.bus,
                streams.ORDER_COMMANDS.name,
                subject,
                codec.to_json(message),
                timeout_seconds=5.0,
            )
        except SubjectTakenError as error:
            stored = msgspec.to_builtins(msgspec.json.decode(error.stored, type=OrderCommand))
            ours = msgspec.to_builtins(message)
            stored.pop("created_at_ns")
            ours.pop("created_at_ns")
            return "known" if stored == ours else "conflict"
        except (BusUnavailableError, RequestTimeoutError):
            return "bus away"
        return "stored"

    def commands(self, account: str, count: int) -> Iterator[dict[str, Any]]:
        """The commands of an account: mostly places, some of them changed or cancelled later.

        The same ones for the same seed, but for their times.
        """
        choices = random.Random(f"{self.seed}:{account}")
        resting: list[tuple[str, float]] = []
        for number in range(count):
            task_id = f"c{self.seed}-{number:05}"
            base = {
                "account": account,
                "task_id": task_id,
                "user": f"user-{number % 5}",
                "created_at_ns": time.time_ns(),
                "valid_until_ns": time.time_ns() + round(_VALID_SECONDS * 1e9),
            }
            dice = choices.random()
            if resting and dice < 0.06:
                target, _ = resting.pop(choices.randrange(len(resting)))
                yield {**base, "verb": "cancel", "target_task_id": target}
            elif resting and dice < 0.10:
                target, low_price = choices.choice(resting)
                price = round(low_price + 0.05 * choices.randint(1, 20), 2)
                yield {**base, "verb": "modify", "target_task_id": target, "price": price}
            else:
                contract = choices.choice(self.contracts)
                place = self._place(contract, choices)
                if place.get("price") == contract.low_price:
                    resting.append((task_id, contract.low_price))
                yield {**base, **place}

    @staticmethod
    def _place(contract: Contract, choices: random.Random) -> dict[str, Any]:
        order: dict[str, Any] = {
            "verb": "place",
            "exchange": contract.exchange,
            "tradingsymbol": contract.tradingsymbol,
            "transaction_type": choices.choice(("BUY", "SELL")),
            "quantity": contract.lot_size * choices.randint(1, 3),
            "product": "NRML",
            "allow_duplicate": True,
        }
        kind = choices.random()
        if kind < 0.55:
            return {**order, "order_type": "MARKET"}
        if kind < 0.60:
            # More than the exchange takes at once: it goes out in slices.
            return {**order, "order_type": "MARKET", "quantity": contract.lot_size * 30}
        if kind < 0.8:
            return {**order, "order_type": "LIMIT", "price": contract.price}
        # Far below the market: it rests, and is changed or cancelled later.
        low = {"transaction_type": "BUY", "order_type": "LIMIT", "price": contract.low_price}
        return {**order, **low}


class _Pace:
    """Turns at a steady rate, handed to several senders."""

    def __init__(self, per_second: float) -> None:
        self._step_seconds = 1.0 / per_second
        self._next = time.monotonic()

    async def turn(self) -> None:
        """Wait for the next turn."""
        now = time.monotonic()
        at = max(self._next, now)
        self._next = at + self._step_seconds
        if at > now:
            await asyncio.sleep(at - now)
