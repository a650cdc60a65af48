"""Takes commands about orders: stores each once, tells a repetition from a conflict, and waits."""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from libs.common import logs
from libs.common.bus.connection import Bus
from libs.common.bus.durable import SubjectTakenError, publish_once
from libs.common.bus.errors import (
    BusUnavailableError,
    KeyExistsError,
    NoResponderError,
    RefusedError,
    RequestTimeoutError,
    WrongRevisionError,
)
from libs.common.bus.kv import Bucket
from libs.common.bus.newest import newest
from libs.common.contracts import codec, streams, subjects
from libs.common.contracts.orders import (
    CancelOrder,
    OrderCommand,
    OrderControls,
    OrderEvent,
    OrderReply,
    OrderRequest,
)
from libs.common.domain.order_fingerprint import fingerprint
from libs.common.domain.order_states import SETTLED, predecessor_state
from services.gateway import metrics
from services.gateway.domain.order_requests import KillSwitchBody
from services.gateway.errors import (
    CatalogUnavailableError,
    MarketUnavailableError,
    OrderConflictError,
    OrderNotAcceptedError,
    OrdersRefusedError,
    OrdersUnavailableError,
    OrderUncertainError,
)
from services.gateway.order_book import OrderBook, Row, totals
from services.gateway.order_events import OrderEvents, Outcome

STORE_SECONDS: Final = 5.0
"""How long the stream may take to acknowledge; its disk is synced for every command."""
ANSWER_SECONDS: Final = 10.0
LEDGER_SECONDS: Final = 1.0
"""How long a ledger that hangs may hold up a command, which can do without it."""
_CONTROLS_ROUNDS: Final = 5
_NANOSECONDS: Final = 1_000_000_000
_UNAVAILABLE: Final = frozenset({"unavailable", "no_worker", "not_ready", "not_holder"})

log = logs.get_logger(__name__)


class Taken(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a command.

    Attributes:
        task: As lists show it.
        is_new: Whether this request brought it; a repetition did not.
        is_settled: Whether its outcome is known.
    """

    task: Row
    is_new: bool
    is_settled: bool


class OrderDesk:
    """Commands go into the stream, which keeps the first of each key; nothing is decided here.

    Args:
        bus: The connection.
        book: The ledger, for keys that are known already.
        events: Where outcomes come from.
        waits_max: Callers that may wait at once; one more is answered as if it did not want to.
        store_seconds: How long the stream may take to store a command.
        answer_seconds: How long a worker may take to answer.
    """

    def __init__(
        self,
        bus: Bus,
        book: OrderBook,
        events: OrderEvents,
        *,
        waits_max: int,
        store_seconds: float = STORE_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
    ) -> None:
        self._bus = bus
        self._book = book
        self._events = events
        self._waits_max = waits_max
        self._waits = 0
        self._store_seconds = store_seconds
        self._answer_seconds = answer_seconds
        self._controls = Bucket(bus, streams.ORDER_CONTROLS.name)

    async def submit(
        self, command: OrderCommand, *, is_callers_key: bool, wait_ms: int = 0
    ) -> Taken:
        """Store a command, and wait for its outcome if that is wanted.

        Args:
            command: With its key.
            is_callers_key: Whether the key may have been used before.
            wait_ms: How long to wait for an outcome; 0 for not at all.

        Raises:
            OrderConflictError: The key belongs to another command.
            OrderNotAcceptedError: The command was certainly not stored by this request.
            OrderUncertainError: Whether it was is unknown; a repetition with the key is safe.
        """
        with self._events.awaiting(command.account, command.task_id) as outcome:
            taken = await self._take(command, is_callers_key=is_callers_key)
            metrics.ORDER_COMMANDS_TOTAL.labels(
                outcome="accepted" if taken.is_new else "known"
            ).inc()
            if not wait_ms or taken.is_settled or self._waits >= self._waits_max:
                return taken
            with self._waiting():
                await outcome.settled(wait_ms / 1000)
            return await self._after(taken, outcome)

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        self._waits += 1
        metrics.ORDERS_AWAITED.set(self._waits)
        try:
            yield
        finally:
            self._waits -= 1
            metrics.ORDERS_AWAITED.set(self._waits)

    async def _take(self, command: OrderCommand, *, is_callers_key: bool) -> Taken:
        own = fingerprint(msgspec.to_builtins(command))
        if is_callers_key:
            # The ledger remembers longer than the stream keeps.
            known = await self._known(command)
            if known is not None:
                return self._same(command, own, known.pop("fingerprint"), known)
        started = time.perf_counter()
        try:
            await publish_once(
                self._bus,
                streams.ORDER_COMMANDS.name,
                subjects.order_command(command.account, command.task_id),
                codec.to_json(command),
                timeout_seconds=self._store_seconds,
            )
        except SubjectTakenError as error:
            return await self._repeated(command, own, error.stored)
        except RequestTimeoutError as error:
            metrics.ORDER_COMMANDS_TOTAL.labels(outcome="uncertain").inc()
            log.warning("order.uncertain", account=command.account, task_id=command.task_id)
            raise OrderUncertainError(command.task_id) from error
        except BusUnavailableError as error:
            metrics.ORDER_COMMANDS_TOTAL.labels(outcome="unavailable").inc()
            raise OrderNotAcceptedError(
                "unavailable",
                f"{error}; nothing was accepted by this request, repeat it with the same "
                f"Idempotency-Key ({command.task_id})",
            ) from error
        except RefusedError as error:
            metrics.ORDER_COMMANDS_TOTAL.labels(outcome="unavailable").inc()
            raise OrderNotAcceptedError(
                "unavailable", f"{error}; nothing was accepted by this request"
            ) from error
        metrics.ORDER_ACCEPT_SECONDS.observe(time.perf_counter() - started)
        return Taken(task=accepted(command), is_new=True, is_settled=False)

    async def _repeated(self, command: OrderCommand, own: str, stored: bytes) -> Taken:
        """The stream holds a command of this key: ours, or another."""
        known = await self._known(command)
        if known is not None:
            return self._same(command, own, known.pop("fingerprint"), known)
        first = stored_command(stored)
        if first is None:
            # No command at all: whoever sent it, this key is not free.
            return self._same(command, own, "", {})
        return self._same(command, own, fingerprint(msgspec.to_builtins(first)), accepted(first))

    async def _known(self, command: OrderCommand) -> Row | None:
        # Without the ledger the stream still refuses a second command of a key.
        with contextlib.suppress(CatalogUnavailableError, TimeoutError):
            async with asyncio.timeout(LEDGER_SECONDS):
                return await self._book.find(command.account, command.task_id)
        return None

    @staticmethod
    def _same(command: OrderCommand, own: str, found: str, task: Row) -> Taken:
        if found != own:
            metrics.ORDER_COMMANDS_TOTAL.labels(outcome="conflict").inc()
            raise OrderConflictError(command.account, command.task_id)
        return Taken(task=task, is_new=False, is_settled=task["state"] in SETTLED)

    async def _after(self, taken: Taken, outcome: Outcome) -> Taken:
        """The task as it is after the wait: of the ledger, else by what was heard."""
        task = taken.task
        with contextlib.suppress(CatalogUnavailableError, TimeoutError):
            async with asyncio.timeout(LEDGER_SECONDS):
                found = await self._book.find(task["account"], task["task_id"])
            if found is not None:
                del found["fingerprint"]
                task = found
        if task is taken.task and outcome.event is not None:
            task = heard(task, outcome.event)
        return Taken(task=task, is_new=taken.is_new, is_settled=task["state"] in SETTLED)

    async def waiting(self, account: str, task_id: str) -> Row | None:
        """A task that the stream has and the ledger does not yet; None if the stream has none.

        Raises:
            MarketUnavailableError: NATS does not answer.
        """
        try:
            payload = await newest(
                self._bus, streams.ORDER_COMMANDS.name, subjects.order_command(account, task_id)
            )
        except BusUnavailableError as error:
            raise MarketUnavailableError(str(error)) from error
        command = None if payload is None else stored_command(payload)
        return None if command is None else {**accepted(command), "events": []}

    async def ask(self, account: str, request: OrderRequest) -> dict[str, Any]:
        """Have the worker that holds an account do something; gives its result.

        Raises:
            OrdersRefusedError: It refused; holds its own words.
            OrdersUnavailableError: Nobody holds the account, or there was no answer in time.
        """
        try:
            answer = await self._bus.request(
                subjects.rpc_orders_of(account),
                codec.to_json(request),
                timeout_seconds=self._answer_seconds,
            )
            reply = codec.from_json(OrderReply, answer.payload)
        except NoResponderError as error:
            raise OrdersUnavailableError(
                "no_worker", f"no worker holds the orders of {account} now; nothing was changed"
            ) from error
        except RequestTimeoutError as error:
            raise OrdersUnavailableError(
                "timeout", "the worker did not answer in time; look before repeating"
            ) from error
        except BusUnavailableError as error:
            raise OrdersUnavailableError("unavailable", str(error)) from error
        except codec.DecodeError as error:
            raise OrdersUnavailableError(
                "unavailable", "the worker answered something this gateway cannot read"
            ) from error
        if reply.error is None:
            return reply.result
        if reply.error.code in _UNAVAILABLE:
            raise OrdersUnavailableError(reply.error.code, reply.error.message)
        raise OrdersRefusedError(reply.error)

    async def controls(self, account: str) -> OrderControls | None:
        """What people have switched; None when nobody ever has.

        Raises:
            OrderNotAcceptedError: NATS does not answer.
        """
        try:
            entry = await self._controls.get(subjects.escape(account))
        except BusUnavailableError as error:
            raise OrderNotAcceptedError("unavailable", str(error)) from error
        return None if entry is None else _decoded(entry.value)

    async def switch(self, account: str, body: KillSwitchBody) -> OrderControls:
        """Turn the kill switch on or off; needs no worker, the next one finds it.

        Raises:
            OrderNotAcceptedError: NATS does not answer, or others keep changing it; the switch may
                stand as before.
        """
        key = subjects.escape(account)
        for _ in range(_CONTROLS_ROUNDS):
            controls = OrderControls(
                kill_switch=body.on, reason=body.reason, by=body.by, at_ns=time.time_ns()
            )
            value = codec.to_json(controls)
            try:
                entry = await self._controls.get(key)
                if entry is None:
                    await self._controls.create(key, value)
                else:
                    await self._controls.update(key, value, last=entry.revision)
            except (WrongRevisionError, KeyExistsError):
                continue
            except BusUnavailableError as error:
                raise OrderNotAcceptedError(
                    "unavailable",
                    f"{error}; whether the kill switch was changed is unknown: look, or repeat",
                ) from error
            log.warning("order.kill_switch", account=account, on=body.on, by=body.by)
            return controls
        raise OrderNotAcceptedError(
            "unavailable", "others are changing the kill switch at this moment; look, and repeat"
        )

    async def cancels(self, account: str, *, user: str, key: str) -> list[CancelOrder]:
        """Commands that cancel every order of an account that is, or may yet be, open.

        Raises:
            CatalogUnavailableError: The ledger cannot be read.
        """
        found = await self._book.may_be_open(account)
        return [
            CancelOrder(
                account=account,
                task_id=f"{key}-{index}",
                user=user,
                created_at_ns=time.time_ns(),
                target_task_id=task_id,
            )
            for index, task_id in enumerate(found)
        ]


def accepted(command: OrderCommand) -> Row:
    """A command as a task that nobody has taken yet."""
    fields = msgspec.to_builtins(command)
    return {
        "account": command.account,
        "task_id": command.task_id,
        "verb": fields["verb"],
        "user": command.user,
        "state": "pending",
        "predecessor_state": predecessor_state("pending"),
        "code": "",
        "message": "",
        **totals(()),
        "command": fields,
        "valid_until": _moment(command.valid_until_ns),
        "created_at": _moment(command.created_at_ns),
        "accepted_at": None,
        "updated_at": None,
        "requests": [],
    }


def heard(task: Mapping[str, Any], event: OrderEvent) -> Row:
    """A task as its newest event tells it, while the ledger cannot be read."""
    return {
        **task,
        "state": event.state.value,
        "predecessor_state": predecessor_state(event.state),
        "code": event.code,
        "message": event.message,
        "order_ids": [] if event.order_id is None else [event.order_id],
        "filled_quantity": event.filled_quantity,
        "average_price": event.average_price,
        "updated_at": _moment(event.at_ns),
    }


def stored_command(payload: bytes) -> OrderCommand | None:
    """Decode what the stream holds; None when it is no command."""
    try:
        command: OrderCommand = msgspec.json.decode(payload, type=OrderCommand)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return command


def _decoded(value: bytes) -> OrderControls | None:
    try:
        return codec.from_json(OrderControls, value)
    except codec.DecodeError as error:
        log.warning("order.controls_undecodable", reason=str(error))
        return None


def _moment(at_ns: int | None) -> datetime | None:
    return None if at_ns is None else datetime.fromtimestamp(at_ns / _NANOSECONDS, UTC)
