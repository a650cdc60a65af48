"""Answers who asks the worker of an account: people's decisions, limits, postbacks."""

import hashlib
import hmac
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from libs.common import logs
from libs.common.bus.connection import BusMessage
from libs.common.bus.service import Refusal, ServiceRequest
from libs.common.contracts import codec, request_checks
from libs.common.contracts.messages import OrderUpdate, RpcError, UpdateKind
from libs.common.contracts.orders import OrderAction, OrderReply, OrderRequest, Postback
from libs.common.database import DatabaseUnavailableError
from libs.common.domain.order_answers import OrderRowError, read_order_row
from services.orders import metrics
from services.orders.broker_calls import BrokerCalls
from services.orders.check_desk import CheckDesk
from services.orders.domain.lifecycle_events import Resolved
from services.orders.errors import OrderNumberTakenError, OrderRefusedError
from services.orders.journal import Journal
from services.orders.ledger import Ledger
from services.orders.reconciler import Reconciler
from services.orders.task import Task
from services.orders.task_book import TaskBook

BODY_BYTES: Final = 64 * 1024

log = logs.get_logger(__name__)


def refusal(why: Refusal) -> bytes:
    """The answer to a request that is not handled."""
    return codec.to_json(OrderReply(error=why.error))


class DeskRequests:
    """Answers for one account.

    Args:
        account: Whose.
        journal: Where decisions are written.
        book: The tasks in memory.
        ledger: Those that are not.
        calls: Knows limits, breaker and session.
        checks: Knows the account's own limits and switches.
        reconciler: Takes what the broker pushed, and reads the book.
        resume: Has a task carried out after a decision.
        sync: Reads everything of the account from the broker; what it gives is the answer.
    """

    def __init__(
        self,
        account: str,
        *,
        journal: Journal,
        book: TaskBook,
        ledger: Ledger,
        calls: BrokerCalls,
        checks: CheckDesk,
        reconciler: Reconciler,
        resume: Callable[[Task], None],
        sync: Callable[[], Awaitable[dict[str, Any]]],
    ) -> None:
        self._account = account
        self._journal = journal
        self._book = book
        self._ledger = ledger
        self._calls = calls
        self._checks = checks
        self._reconciler = reconciler
        self._resume = resume
        self._sync = sync

    # -- what people ask -----------------------------------------------------------------------

    async def answer(self, request: ServiceRequest) -> None:
        """Answer an OrderRequest."""
        try:
            asked = codec.from_json(OrderRequest, request.payload)
        except codec.DecodeError as error:
            await _reply(request, error=request_checks.unreadable(error))
            return
        try:
            match asked.action:
                case OrderAction.RESOLVE:
                    result = await self._resolve(asked)
                case OrderAction.LIMITS:
                    result = self.limits()
                case OrderAction.SYNC:
                    result = await self._sync()
        except OrderRefusedError as error:
            code = error.code if error.code in {"bad_request", "not_found"} else "conflict"
            problem = RpcError(code=code, message=error.message, field=error.field)
            await _reply(request, error=problem)
            return
        except OrderNumberTakenError as error:
            problem = RpcError(code="conflict", message=error.reason, field="order_id")
            await _reply(request, error=problem)
            return
        except DatabaseUnavailableError as error:
            problem = RpcError(code="unavailable", message=str(error), retry_after_seconds=1.0)
            await _reply(request, error=problem)
            return
        await _reply(request, result=result)

    async def _resolve(self, asked: OrderRequest) -> dict[str, Any]:
        for field in ("task_id", "resolution"):
            if getattr(asked, field) is None:
                raise OrderRefusedError("bad_request", f"{field} is needed to resolve", field)
        assert asked.task_id is not None  # noqa: S101  # Checked above.
        assert asked.resolution is not None  # noqa: S101
        task = self._book.get(asked.task_id)
        if task is None:
            found = await self._ledger.tasks(self._account, [asked.task_id])
            if not found:
                raise OrderRefusedError(
                    "not_found",
                    f"account {self._account} has no task {asked.task_id}",
                    "task_id",
                )
            task = self._book.add(found[0])
        intent = task.intent(asked.leg)
        if intent is None:
            raise OrderRefusedError(
                "not_found", f"task {task.task_id} has no leg {asked.leg}", "leg"
            )
        event = Resolved(
            at_ns=time.time_ns(),
            resolution=asked.resolution,
            by=asked.by,
            reason=asked.reason,
            order_id=asked.order_id,
        )
        await self._journal.move(task, intent.tag, event)
        log.warning(
            "order.resolved",
            account=self._account,
            task_id=task.task_id,
            leg=asked.leg,
            resolution=asked.resolution.value,
            by=asked.by,
        )
        self._resume(task)
        self._journal.unknown.set()
        after = task.intent(asked.leg) or intent
        return {
            "account": self._account,
            "task_id": task.task_id,
            "leg": asked.leg,
            "state": task.state.value,
            "leg_state": after.state.value,
            "order_id": after.order_id,
            "code": after.code,
            "message": after.message,
        }

    def limits(self) -> dict[str, Any]:
        """The limits in force, and what of them is used."""
        budget = self._calls.budget
        controls = self._checks.controls
        return {
            "account": self._account,
            "broker": msgspec.to_builtins(budget.limits),
            "used": msgspec.to_builtins(budget.used(time.time_ns())),
            "own": msgspec.to_builtins(self._checks.limits),
            "breaker": self._calls.breaker.state.value,
            "kill_switch": controls.kill_switch,
            "kill_switch_reason": controls.reason,
            "checks": msgspec.to_builtins(self._checks.rules),
        }

    # -- what the broker pushes ----------------------------------------------------------------

    def update(self, message: BusMessage) -> None:
        """Take a text that the broker pushed over a market-data connection."""
        try:
            update = codec.from_json(OrderUpdate, message.payload)
            if update.kind is not UpdateKind.ORDER:
                return
            order = read_order_row(msgspec.json.decode(update.data))
        except (codec.DecodeError, msgspec.DecodeError, OrderRowError) as error:
            self._count("update", "unreadable")
            log.warning("order_update.unreadable", account=self._account, reason=str(error))
            return
        self._reconciler.push("update", order)

    async def postback(self, request: ServiceRequest) -> None:
        """Take what the broker posted, if it is genuine."""
        problem = self._take_postback(request.payload)
        await _reply(request, error=problem)

    def _take_postback(self, payload: bytes) -> RpcError | None:
        try:
            body = msgspec.json.decode(codec.from_json(Postback, payload).body)
        except (codec.DecodeError, msgspec.DecodeError) as error:
            self._count("postback", "unreadable")
            return RpcError(code="bad_request", message=f"not a postback: {error}")
        session = self._calls.session.session
        secret = None if session is None else session.api_secret
        if secret is None:
            self._count("postback", "refused")
            return RpcError(
                code="unavailable",
                message="the account's api_secret is not known here, so no postback can be "
                "checked; its orders are followed by other ways",
            )
        if not is_genuine(body, secret):
            self._count("postback", "refused")
            log.warning("postback.refused", account=self._account)
            return RpcError(
                code="forbidden",
                message="the checksum is not that of this account's app",
                field="checksum",
            )
        try:
            order = read_order_row(body)
        except OrderRowError as error:
            self._count("postback", "unreadable")
            return RpcError(code="bad_request", message=str(error), field=error.field)
        if self._reconciler.push("postback", order):
            return None
        return RpcError(
            code="unavailable", message="too many wait already", retry_after_seconds=1.0
        )

    def _count(self, way: str, outcome: str) -> None:
        metrics.PUSHES_TOTAL.labels(account=self._account, way=way, outcome=outcome).inc()


def is_genuine(body: object, api_secret: str) -> bool:
    """Whether a postback was made by who knows the app's secret.

    Kite sends sha256hex(order_id + order_timestamp + api_secret), with order_timestamp exactly as
    in the body (Kite Connect, postbacks).
    """
    if not isinstance(body, dict):
        return False
    parts = [body.get(field) for field in ("order_id", "order_timestamp", "checksum")]
    if not all(isinstance(part, str) for part in parts):
        return False
    order_id, stamp, checksum = (str(part) for part in parts)
    wanted = hashlib.sha256(f"{order_id}{stamp}{api_secret}".encode()).hexdigest()
    # Bytes, since compare_digest refuses text beyond ASCII; its time tells nothing of the match.
    return hmac.compare_digest(wanted.encode(), checksum.lower().encode())


async def _reply(
    request: ServiceRequest, *, error: RpcError | None = None, result: dict[str, Any] | None = None
) -> None:
    await request.respond(codec.to_json(OrderReply(error=error, result=result or {})))
